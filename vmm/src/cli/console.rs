//! `vm console`: the guest's console of a VM in the background, in the user's terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::{Errno, ioctl_fionbio, read};
use serde_json::json;

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::{
    console::{EscapeKeys, Key},
    monitor::place::VmAddress,
    terminal::RawTerminal,
};

/// Connect to a guest's console.
///
/// For a VM in the background, or one with "--console unix:PATH" or "pty". It begins with the latest output. Ctrl-A X leaves the
/// console and the VM runs on; Ctrl-A H shows the keys. It ends with the VM, also when the guest moves away: where it has gone, its
/// console is that of the VM there. One user at a time has a console: on a socket the next one waits until the first has left, on a
/// pseudo-terminal it is refused.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm run -d --name web\n  vm console web")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
}

/// What Ctrl-A H shows.
const HELP: &str = "\r\n\
    Ctrl-A H       this help\r\n\
    Ctrl-A X       leave the console; the VM runs on\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A (also Ctrl-A A)\r\n";

/// What is typed ahead of a guest that takes nothing; more is read when it has taken some.
const MOST_AHEAD: usize = 1 << 20;

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let chardevs = Talk::to(&args.vm)?.ask("query-chardev", json!({}))?;
    let place = chardevs[0]["filename"].as_str().unwrap_or("null");
    let console = connect(&args.vm, place)?;
    let raw = RawTerminal::enter().map_err(CliError::Process)?;
    if raw.is_some() {
        let text = format_args!(
            "the console of {}; Ctrl-A X leaves it, and Ctrl-A H shows its keys",
            args.vm
        );
        messages.news("console", text, json!({ "name": args.vm.to_string() }));
    }
    let left = talk(&console).map_err(CliError::Process)?;
    drop(raw);
    if !left {
        messages.news(
            "closed",
            format_args!("the console of {} has ended", args.vm),
            json!({ "name": args.vm.to_string() }),
        );
    }
    Ok(0)
}

fn connect(vm: &VmAddress, place: &str) -> Result<File, CliError> {
    let failed = |error| CliError::File {
        action: "connect to",
        path: place.into(),
        error,
    };
    let console: OwnedFd = match place.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path).map_err(failed)?.into(),
        Some(("pty", path)) => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let console = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
            // Each byte goes to one reader of a pseudo-terminal, so that two users would have half of it each. A lock goes with its
            // process, however that ends.
            match flock(&console, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(CliError::ConsoleInUse(vm.clone())),
                locked => locked.map_err(|error| failed(error.into()))?,
            }
            console
        }
        Some(("file", path)) => {
            let text = format!("the console of {vm} is a file, which takes no input; \"tail -f {path}\" shows it");
            return Err(CliError::Usage(text));
        }
        _ => {
            let text = format!(
                "the console of {vm} is {place}, which nobody else can connect to; give the VM \"--console unix:PATH\" or \"--detach\""
            );
            return Err(CliError::Usage(text));
        }
    };
    // A guest that takes nothing is not to keep its user from leaving.
    ioctl_fionbio(&console, true).map_err(|error| failed(error.into()))?;
    Ok(console.into())
}

/// Carries keys to the guest and its output to the user. Whether the user has left; otherwise the console has ended.
fn talk(console: &File) -> io::Result<bool> {
    let (mut keys, mut ahead, mut typing) = (EscapeKeys::default(), VecDeque::new(), true);
    loop {
        let reads = typing && ahead.len() < MOST_AHEAD;
        let (keyboard, typed_now) = (stdin(), if reads { PollFlags::IN } else { PollFlags::empty() });
        let wanted = if ahead.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        };
        let mut fds = [
            PollFd::from_borrowed_fd(console.as_fd(), wanted),
            PollFd::from_borrowed_fd(keyboard.as_fd(), typed_now),
        ];
        // A keyboard that has hung up would wake up this loop for ever.
        let watched = if typing { 2 } else { 1 };
        match poll(&mut fds[..watched], None) {
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        let [of_console, of_keyboard] = [fds[0].revents(), fds[1].revents()];
        if of_console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !show(console)? {
            return Ok(false);
        }
        if reads && !of_keyboard.is_empty() {
            // Not through what the library keeps back of standard input, of which a poll knows nothing.
            let mut bytes = [0; 4096];
            let length = read(&keyboard, &mut bytes)?;
            typing = length > 0;
            if typed(&mut keys, bytes[..length].iter().copied().collect(), &mut ahead)? {
                return Ok(true);
            }
        }
        send(console, &mut ahead)?;
    }
}

/// Shows what the guest has written; whether more can come.
fn show(mut console: &File) -> io::Result<bool> {
    let mut bytes = [0; 65536];
    match console.read(&mut bytes) {
        Ok(0) => Ok(false),
        // A pseudo-terminal whose other side is gone.
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
        Ok(read) => {
            let mut out = stdout().lock();
            out.write_all(&bytes[..read])?;
            out.flush()?;
            Ok(true)
        }
    }
}

/// Sorts out what was typed; whether the user leaves.
fn typed(keys: &mut EscapeKeys, mut typed: VecDeque<u8>, ahead: &mut VecDeque<u8>) -> io::Result<bool> {
    loop {
        let mut plain = Vec::new();
        let key = keys.next(&mut typed, &mut plain);
        ahead.extend(plain);
        match key {
            None => return Ok(false),
            Some(Key::Leave) => return Ok(true),
            Some(Key::Help) => {
                let mut out = stdout().lock();
                out.write_all(HELP.as_bytes())?;
                out.flush()?;
            }
            // There is no prompt behind it: "vm monitor" is one.
            Some(Key::Switch) => {}
        }
    }
}

fn send(mut console: &File, ahead: &mut VecDeque<u8>) -> io::Result<()> {
    while !ahead.is_empty() {
        match console.write(ahead.as_slices().0) {
            Ok(written) => drop(ahead.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A console that has ended says so when it is read from.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    #[test]
    fn a_pseudo_terminal_has_one_user_and_the_next_one_when_that_has_left() {
        let guest = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&guest).expect("granted");
        unlockpt(&guest).expect("unlocked");
        let name = ptsname(&guest, Vec::new())
            .expect("a name")
            .into_string()
            .expect("text");
        let (vm, place) = ("web".parse().expect("a name"), format!("pty:{name}"));
        let first = connect(&vm, &place).expect("nobody has it");
        let told = connect(&vm, &place).expect_err("somebody has it").to_string();
        assert!(
            told.contains("the console of web") && told.contains("Ctrl-A X"),
            "{told}"
        );
        drop(first);
        connect(&vm, &place).expect("nobody has it any more");
    }
}
