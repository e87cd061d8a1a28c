//! Interrupt lines: what a device drives, and what stands at the other end.

use std::fmt;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The receiving end of interrupt lines: an interrupt controller, or whatever routes to one.
///
/// Called with the driving device's lock held, so it is a leaf: it must not call back into any device, take a device's
/// lock, or block. An end of interrupt comes back by eventfd, never as a call.
pub trait IrqSink: Send + Sync {
    /// Input `input` now has this level. Setting the level that it already has changes nothing.
    fn set_level(&self, input: u32, level: bool);

    /// Has each signal of `eventfd` be an edge of input `input`, until [`Self::deassign_irqfd`]. Not called with a
    /// device's lock held. While the guest stands still signals wait in the eventfd.
    ///
    /// # Errors
    ///
    /// Of the kind `Unsupported` where the sink cannot wait for eventfds.
    fn assign_irqfd(&self, input: u32, eventfd: &Arc<EventFd>) -> io::Result<()> {
        let _ = (input, eventfd);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Ends what [`Self::assign_irqfd`] began. An edge that was signalled before has reached the controller afterwards.
    fn deassign_irqfd(&self, input: u32, eventfd: &Arc<EventFd>) {
        let _ = (input, eventfd);
    }
}

/// One wire from a device to an input of an [`IrqSink`].
///
/// A line holds no state: its level is a function of its device's state, and the device drives it anew after a load.
#[derive(Clone)]
pub struct IrqLine {
    sink: Option<Arc<dyn IrqSink>>,
    input: u32,
}

impl IrqLine {
    /// A line to `input` of `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn IrqSink>, input: u32) -> Self {
        Self {
            sink: Some(sink),
            input,
        }
    }

    /// A line that ends nowhere; driving it does nothing.
    #[must_use]
    pub fn disconnected() -> Self {
        Self { sink: None, input: 0 }
    }

    /// The input that the line ends at.
    #[must_use]
    pub fn input(&self) -> u32 {
        self.input
    }

    /// Drives the line to `level`.
    pub fn set_level(&self, level: bool) {
        if let Some(sink) = &self.sink {
            sink.set_level(self.input, level);
        }
    }

    /// As [`IrqSink::assign_irqfd`] of where the line ends.
    pub(super) fn assign_irqfd(&self, eventfd: &Arc<EventFd>) -> io::Result<()> {
        match &self.sink {
            Some(sink) => sink.assign_irqfd(self.input, eventfd),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// As [`IrqSink::deassign_irqfd`] of where the line ends.
    pub(super) fn deassign_irqfd(&self, eventfd: &Arc<EventFd>) {
        if let Some(sink) = &self.sink {
            sink.deassign_irqfd(self.input, eventfd);
        }
    }

    /// Raises the line and lowers it again: one edge.
    pub fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// An eventfd each signal of which is an edge of an interrupt input.
///
/// Anybody who has the eventfd can raise the interrupt without this process. Where the sink cannot wait for eventfds,
/// [`Self::signal`] makes the edge itself, so that a device need not know.
pub struct IrqFd {
    line: IrqLine,
    eventfd: Option<Arc<EventFd>>,
}

impl IrqFd {
    /// An eventfd for the input that `line` ends at.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptors left, or the accelerator refuses.
    pub fn new(line: &IrqLine) -> io::Result<Self> {
        let mut eventfd = None;
        if line.sink.is_some() {
            let new = Arc::new(EventFd::new(EFD_NONBLOCK)?);
            match line.assign_irqfd(&new) {
                Ok(()) => eventfd = Some(new),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            line: line.clone(),
            eventfd,
        })
    }

    /// The eventfd, where the sink waits for one.
    #[must_use]
    pub fn eventfd(&self) -> Option<&Arc<EventFd>> {
        self.eventfd.as_ref()
    }

    /// Makes one edge.
    pub fn signal(&self) {
        match &self.eventfd {
            // A counter that is full has an edge to come in any case.
            Some(eventfd) => drop(eventfd.write(1)),
            None => self.line.pulse(),
        }
    }
}

impl Drop for IrqFd {
    fn drop(&mut self) {
        if let Some(eventfd) = &self.eventfd {
            self.line.deassign_irqfd(eventfd);
        }
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sink {
            Some(_) => write!(f, "IrqLine({})", self.input),
            None => f.write_str("IrqLine(disconnected)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u32, bool)>>);

    impl IrqSink for Recorder {
        fn set_level(&self, input: u32, level: bool) {
            self.0.lock().push((input, level));
        }
    }

    #[test]
    fn a_pulse_is_one_edge_up_and_one_down() {
        let recorder = Arc::new(Recorder::default());
        IrqLine::new(recorder.clone(), 4).pulse();
        assert_eq!(*recorder.0.lock(), [(4, true), (4, false)]);
    }

    #[test]
    fn a_sink_without_eventfds_gets_edges_all_the_same() {
        let recorder = Arc::new(Recorder::default());
        let irqfd = IrqFd::new(&IrqLine::new(recorder.clone(), 4)).expect("no need for one");
        assert!(irqfd.eventfd().is_none());
        irqfd.signal();
        assert_eq!(*recorder.0.lock(), [(4, true), (4, false)]);
    }

    #[test]
    fn a_disconnected_line_swallows_what_is_driven() {
        IrqLine::disconnected().pulse();
    }
}
