//! Signals as a file descriptor, and a last word before a fatal one.
//!
//! [`SignalFd::block`] is called before the first thread is started, so that every thread inherits the mask and the signals
//! are found in one place: the event loop. A signal that the process was told to ignore (`nohup`, a background job of a script) stays ignored.

#![expect(
    unsafe_code,
    reason = "signalfd and sigaction have no safe wrapper among our dependencies"
)]

use std::{
    io, mem,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
    sync::{Arc, OnceLock},
};

use libc::c_int;
use vmm_sys_util::signal::create_sigset;

/// The signals that ask a VMM to end.
const ENDING: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The number of SIGHUP, which says that the terminal has gone.
pub const HANGUP: u8 = 1;

/// The signals by which the kernel comments a write that fails: they would end a VM, with the guest in it. The error is
/// enough.
const COMMENTS: [c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// The signals that end a process at once and that no event loop gets to see.
const FATAL: [c_int; 10] = [
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGSYS,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
];

/// SIGINT, SIGTERM and SIGHUP as a file descriptor. A copy reads from the same one.
#[derive(Clone, Debug)]
pub struct SignalFd(Arc<OwnedFd>);

impl SignalFd {
    /// Blocks the signals in this thread and those that it starts, and opens the descriptor that they are read from. Writing
    /// to a closed pipe, or beyond the limit of a file's size, becomes an error instead of a signal.
    ///
    /// # Errors
    ///
    /// The process is out of file descriptors.
    pub fn block() -> io::Result<Self> {
        let mut wanted = Vec::with_capacity(ENDING.len());
        for signal in ENDING {
            if !is_ignored(signal)? {
                wanted.push(signal);
            }
        }
        for signal in COMMENTS {
            // SAFETY: ignoring a signal installs no code of ours and has no other precondition.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }

        let set = create_sigset(&wanted)?;
        // SAFETY: `set` is an initialised signal set that lives through the call; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: `set` is an initialised signal set that lives through the call; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor, and nothing else knows it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The descriptor to watch for reading.
    #[must_use]
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// The number of the next signal that has come, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<u8> {
        let mut info = [0; mem::size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.0, &mut info).ok()?;
        // The record begins with `ssi_signo: u32`.
        let (number, _) = info.get(..length)?.split_first_chunk()?;
        u8::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

fn is_ignored(signal: c_int) -> io::Result<bool> {
    Ok(action(signal, None)?.sa_sigaction == libc::SIG_IGN)
}

/// Reads what a signal does, and changes it where `new` is given.
fn action(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: sigaction is a plain C structure for which all zeros are a valid value.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a valid action, whose handler (`last_word`, or one that was installed before) is async-signal-safe;
    // `old` is ours to write.
    let result = unsafe { libc::sigaction(signal, new, &raw mut old) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(old)
    }
}

/// What is said where mapped memory is gone, and the exit code.
static LOST_MEMORY: OnceLock<(Vec<u8>, u8)> = OnceLock::new();
static LAST_WORD: OnceLock<fn()> = OnceLock::new();
static PREVIOUS: [OnceLock<libc::sigaction>; FATAL.len()] = [const { OnceLock::new() }; FATAL.len()];

/// Has `cleanup` called before a fatal signal (a crash, an abort, SIGQUIT) ends the process as it would have. One clean-up per process:
/// it is for what the process itself holds, such as its terminal; a second one is ignored.
///
/// `cleanup` runs in a signal handler: it may use atomics and system calls, and neither locks nor the heap.
///
/// # Errors
///
/// The kernel refused to change the action of a signal.
pub fn before_fatal_signals(cleanup: fn()) -> io::Result<()> {
    if LAST_WORD.set(cleanup).is_err() {
        return Ok(());
    }
    FATAL.into_iter().try_for_each(hear)
}

/// Has `last_word` called before a signal ends the process.
fn hear(signal: c_int) -> io::Result<()> {
    // SAFETY: as in `action`: all zeros are a valid sigaction.
    let mut new: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = last_word;
    new.sa_sigaction = handler as libc::sighandler_t;
    // On the alternative stack, or a stack overflow would never be heard of.
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let old = action(signal, None)?;
    let previous = FATAL.iter().position(|known| *known == signal).map(|at| &PREVIOUS[at]);
    if old.sa_sigaction != libc::SIG_IGN && previous.is_some_and(|previous| previous.set(old).is_ok()) {
        action(signal, Some(&new))?;
    }
    Ok(())
}

/// Has the process end with `message` on stderr and the exit code `code` where it uses memory that is mapped from a file and that the
/// file no longer has: SIGBUS would end it without a word. Once per process; a second message is ignored.
///
/// A processor of the guest that uses such memory does not come here: KVM_RUN fails then.
///
/// # Errors
///
/// The kernel refused to change the action of the signal.
pub fn explain_lost_memory(message: String, code: u8) -> io::Result<()> {
    if LOST_MEMORY.set((message.into_bytes(), code)).is_err() {
        return Ok(());
    }
    hear(libc::SIGBUS)
}

extern "C" fn last_word(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    if let Some(cleanup) = LAST_WORD.get() {
        cleanup();
    }
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let reason = unsafe { (*info).si_code };
    if let (libc::SIGBUS, libc::BUS_ADRERR, Some((message, code))) = (signal, reason, LOST_MEMORY.get()) {
        // A reader that is gone is told nothing. `write` is async-signal-safe, which a locked stderr is not.
        // SAFETY: the buffer is as long as is said; what the descriptor leads to does not matter.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
        // SAFETY: _exit is async-signal-safe and has no precondition.
        unsafe { libc::_exit((*code).into()) };
    }
    let at = FATAL.iter().position(|known| *known == signal);
    if let Some(previous) = at.and_then(|at| PREVIOUS[at].get()) {
        let _ = action(signal, Some(previous));
    }
    let sent_by_a_process = reason <= 0;
    if sent_by_a_process {
        // A fault comes again by itself as soon as this returns; a signal that was sent has to be sent again.
        // SAFETY: raise is async-signal-safe and has no precondition.
        unsafe { libc::raise(signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_beyond_the_limit_of_a_files_size_is_an_error_and_ends_nobody() {
        let _signals = SignalFd::block().expect("descriptors are left");
        assert!(is_ignored(libc::SIGXFSZ).expect("a valid signal"));
    }

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        // Signals sent to a thread, and the mask of a thread: other tests do not notice.
        std::thread::spawn(|| {
            let signals = SignalFd::block().expect("signals can be blocked");
            assert_eq!(signals.next(), None);
            // SAFETY: raise sends to the calling thread, which has the signal blocked.
            unsafe { libc::raise(libc::SIGTERM) };
            assert_eq!(signals.next(), Some(15));
            assert_eq!(signals.next(), None);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn what_a_signal_does_can_be_told() {
        assert!(
            is_ignored(libc::SIGPIPE).expect("a valid signal"),
            "Rust's start-up ignores it"
        );
        assert!(!is_ignored(libc::SIGCHLD).expect("a valid signal"));
        assert!(is_ignored(c_int::MAX).is_err());
    }
}
