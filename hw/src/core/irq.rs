//! Interrupt lines: what a device drives, and what stands at the other end.

use std::fmt;
use std::sync::Arc;

/// The receiving end of interrupt lines: an interrupt controller, or whatever routes to one.
///
/// Called with the driving device's lock held, so it is a leaf: it must not call back into any device, take a device's
/// lock, or block. An end of interrupt comes back by eventfd, never as a call.
pub trait IrqSink: Send + Sync {
    /// Input `input` now has this level. Setting the level that it already has changes nothing.
    fn set_level(&self, input: u32, level: bool);
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

    /// Raises the line and lowers it again: one edge.
    pub fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
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
    fn a_disconnected_line_swallows_what_is_driven() {
        IrqLine::disconnected().pulse();
    }
}
