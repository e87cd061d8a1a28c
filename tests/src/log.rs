//! What is written somewhere, and waiting for it.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long anything may take before a test gives up. Machines are shared and slow; nothing that works comes near it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What was written somewhere so far.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<LogState>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    text: String,
    closed: bool,
}

impl Log {
    /// A log of what comes out of `stream`.
    #[must_use]
    pub fn follow(mut stream: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = stream.read(&mut bytes).unwrap_or(0);
                if read == 0 {
                    writer.state.lock().closed = true;
                    writer.grown.notify_all();
                    return;
                }
                writer.append(&bytes[..read]);
            }
        });
        log
    }

    /// Adds what was written.
    pub fn append(&self, bytes: &[u8]) {
        self.state.lock().text.push_str(&String::from_utf8_lossy(bytes));
        self.grown.notify_all();
    }

    /// Waits until `find` finds something in what was written from byte `from` on.
    ///
    /// # Errors
    ///
    /// Why it will not: the end, or that nothing comes.
    pub fn wait<T>(&self, from: usize, mut find: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        loop {
            if let Some(found) = find(state.text.get(from..).unwrap_or_default()) {
                return Ok(found);
            }
            if state.closed {
                return Err("the stream has ended".to_owned());
            }
            if self.grown.wait_until(&mut state, deadline).timed_out() {
                return Err(format!("nothing for {PATIENCE:?}"));
            }
        }
    }

    /// Waits for a complete line from byte `from` on that `wanted` accepts; returns it, and moves `from` behind it.
    ///
    /// # Errors
    ///
    /// As [`Self::wait`].
    pub fn wait_line(&self, from: &mut usize, mut wanted: impl FnMut(&str) -> bool) -> Result<String, String> {
        let (line, end) = self.wait(*from, |text| {
            let mut end = 0;
            text.split_inclusive('\n').find_map(|line| {
                end += line.len();
                let complete = line.strip_suffix('\n')?.trim_end_matches('\r');
                wanted(complete).then(|| (complete.to_owned(), end))
            })
        })?;
        *from += end;
        Ok(line)
    }

    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.state.lock().text.clone()
    }
}
