//! A terminal that the guest's console shares with a monitor prompt: Ctrl-A C switches between them.
//!
//! The prompt is a program of its own on a pseudo-terminal. The console goes on reading the user's keys and hands them to the one that
//! has them, so that keys typed ahead of a switch go where they are meant, and the console's own keys work whatever the program does.
//! While the prompt has the terminal the guest's output waits, as if there were no reader: the guest goes on, and the latest output is
//! shown on the way back. So does the prompt's output while the guest has the terminal.

use std::{
    fs::File,
    io::{self, stdin},
    process::{Child, Command},
    sync::OnceLock,
};

use parking_lot::Mutex;
use rustix::{
    io::Errno,
    termios::{tcgetwinsize, tcsetwinsize},
};

use super::{
    input::Input,
    keys::{HELP, Key},
    output::Output,
    port::Port,
    pty::Pty,
    shared::Shared,
};
use crate::event_loop::{EventLoop, Interest, SourceId};

/// So much of an unfinished line is shown again at most.
const LONGEST_LINE: usize = 4096;

/// With what a line editor begins to write its line anew.
const LINE_ANEW: &[u8] = b"\r\x1b[K";

/// Makes the command that is the prompt; its streams are set here.
type Program = Box<dyn Fn() -> Command + Send + Sync>;

/// The prompt's part of the terminal. Used by the loop alone.
pub(super) struct Mux {
    pub(super) program: OnceLock<Program>,
    pub(super) prompt: Mutex<Option<Prompt>>,
    pub(super) screen: Mutex<Screen>,
}

impl Default for Mux {
    fn default() -> Self {
        let mut screen = Screen::default();
        screen.output.lose_what_does_not_fit();
        Self {
            program: OnceLock::new(),
            prompt: Mutex::default(),
            screen: Mutex::new(screen),
        }
    }
}

/// What the prompt shows.
#[derive(Default)]
pub(super) struct Screen {
    output: Output,
    /// What it wrote since it began its last line.
    line: Vec<u8>,
}

impl Screen {
    fn write(&mut self, bytes: &[u8]) {
        self.output.try_write(bytes);
        self.line.extend_from_slice(bytes);
        let anew = self.line.windows(LINE_ANEW.len()).rposition(|bytes| bytes == LINE_ANEW);
        let next = self.line.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        let begin = anew.max(next).unwrap_or_default();
        self.line
            .drain(..begin.max(self.line.len().saturating_sub(LONGEST_LINE)));
    }
}

/// The program at the other end of a pseudo-terminal. It ends with this.
pub(super) struct Prompt {
    child: Child,
    port: Port,
    watched: SourceId,
}

impl Prompt {
    /// Hands over keys. Typed ahead of a program that takes nothing: as a terminal does, the rest is dropped.
    fn type_keys(&self, keys: &[u8]) {
        resize(&self.port);
        let _ = self.port.write(keys);
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives the pseudo-terminal the size of the user's.
fn resize(port: &Port) {
    if let Ok(size) = tcgetwinsize(stdin()) {
        let _ = tcsetwinsize(port.fd(), size);
    }
}

impl Shared {
    /// Does what a key of the console's own asks for.
    pub(super) fn obey(&self, event_loop: &mut EventLoop, input: &mut Input, key: Key) {
        match key {
            Key::Help => self.show(event_loop, input, HELP),
            Key::Switch if input.prompt_has_keys => self.switch_to_guest(Some(event_loop), input),
            Key::Switch => self.switch_to_prompt(event_loop, input),
            // The caller sees to it.
            Key::Leave => {}
        }
    }

    /// Hands the prompt what was typed for it.
    pub(super) fn feed_prompt(&self, input: &mut Input) {
        let keys = std::mem::take(&mut input.for_prompt);
        if let Some(prompt) = &*self.mux.prompt.lock()
            && !keys.is_empty()
        {
            prompt.type_keys(&keys);
        }
    }

    /// Shows something of the console's own to whoever has the terminal.
    fn show(&self, event_loop: &mut EventLoop, input: &Input, text: &str) {
        if input.prompt_has_keys {
            self.mux.screen.lock().output.try_write(text.as_bytes());
            self.drain_screen(event_loop);
        } else {
            self.output.lock().try_write(text.as_bytes());
            self.drain_output(event_loop);
        }
    }

    fn switch_to_prompt(&self, event_loop: &mut EventLoop, input: &mut Input) {
        let mut prompt = self.mux.prompt.lock();
        if prompt.is_none() {
            match self.start_prompt(event_loop) {
                Ok(started) => *prompt = Some(started),
                Err(error) => {
                    let text = format!("\r\nthere is no monitor prompt: {error}\r\n");
                    return self.show(event_loop, input, &text);
                }
            }
        }
        drop(prompt);
        input.prompt_has_keys = true;
        hand_over(
            Some(&mut *event_loop),
            &mut self.output.lock(),
            &mut self.mux.screen.lock().output,
        );
        self.drain_screen(event_loop);
        // A guest that waited for room goes on.
        self.drain_output(event_loop);
    }

    /// Gives the guest's console the terminal back, if the prompt has it. At the very end there is no loop any more.
    pub(super) fn switch_to_guest(&self, event_loop: Option<&mut EventLoop>, input: &mut Input) {
        if !std::mem::take(&mut input.prompt_has_keys) {
            return;
        }
        let mut screen = self.mux.screen.lock();
        let Screen { output, line } = &mut *screen;
        match event_loop {
            Some(event_loop) => {
                let is_shown = !output.must_drain();
                hand_over(Some(&mut *event_loop), output, &mut self.output.lock());
                if is_shown {
                    // And is shown again first thing when the prompt comes back.
                    output.try_write(line);
                }
                drop(screen);
                self.drain_output(event_loop);
            }
            None => hand_over(None, output, &mut self.output.lock()),
        }
    }

    fn start_prompt(&self, event_loop: &mut EventLoop) -> io::Result<Prompt> {
        let program = self.mux.program.get();
        let program = program.ok_or_else(|| io::Error::other("this VM has none"))?;
        let pty = Pty::open()?;
        let port = pty.port()?;
        resize(&port);
        let terminal = File::from(pty.open_other_end()?);
        let mut command = program();
        command.stdin(terminal.try_clone()?);
        command.stdout(terminal.try_clone()?);
        command.stderr(terminal);
        let callback = self.callback(|this, event_loop, _| this.read_prompt(event_loop));
        let watched = event_loop.watch(port.fd(), Interest::Read, callback)?;
        match command.spawn() {
            Ok(child) => Ok(Prompt { child, port, watched }),
            Err(error) => {
                event_loop.unwatch(watched);
                Err(error)
            }
        }
    }

    fn read_prompt(&self, event_loop: &mut EventLoop) {
        let mut buffer = [0; 4096];
        let got = match &*self.mux.prompt.lock() {
            Some(prompt) => prompt.port.read(&mut buffer),
            None => return,
        };
        match got {
            Ok(length) if length > 0 => {
                self.mux.screen.lock().write(&buffer[..length]);
                self.drain_screen(event_loop);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The program has ended.
            _ => self.end_prompt(event_loop),
        }
    }

    fn end_prompt(&self, event_loop: &mut EventLoop) {
        let prompt = self.mux.prompt.lock().take();
        if let Some(prompt) = prompt {
            event_loop.unwatch(prompt.watched);
        }
        self.switch_to_guest(Some(&mut *event_loop), &mut self.input.lock());
        let mut screen = self.mux.screen.lock();
        screen.line.clear();
        screen.output.forget();
    }

    /// As [`Self::drain_output`], for the prompt's.
    fn drain_screen(&self, event_loop: &mut EventLoop) {
        let callback = self.callback(|this, event_loop, _| this.drain_screen(event_loop));
        self.mux.screen.lock().output.drain_on(event_loop, callback);
    }
}

/// Moves the terminal from one output to another, which begins on a line of its own.
fn hand_over(event_loop: Option<&mut EventLoop>, from: &mut Output, to: &mut Output) {
    let (port, watched) = from.release();
    if let (Some(event_loop), Some(watched)) = (event_loop, watched) {
        event_loop.unwatch(watched);
    }
    if let Some(port) = port {
        let _ = port.write(b"\r\n");
        to.connect(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown again of what was written in these pieces.
    fn again(pieces: &[&str]) -> String {
        let mut screen = Screen::default();
        for piece in pieces {
            screen.write(piece.as_bytes());
        }
        String::from_utf8(screen.line).expect("ASCII")
    }

    #[test]
    fn the_unfinished_line_is_shown_again_and_no_more() {
        assert_eq!(again(&["hello\r\n(a) ", "st", "op"]), "(a) stop");
        assert_eq!(again(&["(a) x\r\x1b[K(a) xy"]), "\r\x1b[K(a) xy");
        assert_eq!(again(&["(a) x\r", "\x1b[K(a) xy\r\n"]), "");
        assert!(again(&["x".repeat(100_000).as_str()]).len() <= LONGEST_LINE);
    }
}
