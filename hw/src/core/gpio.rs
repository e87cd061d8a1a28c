//! Lines of devices by name and number: what a device drives, what it listens to, and how the two are wired.
//!
//! A device declares its ends; whoever builds the machine connects them. Levels are not kept here: they follow from the
//! state of the device that drives a line.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;
use vmstate::qom::PropertyValue;

use super::irq::{IrqLine, IrqSink};

/// The name of the lines that end at interrupt inputs of the machine, as in QEMU.
pub const SYSBUS_IRQ: &str = "sysbus-irq";

/// Why a line cannot be had or connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpioError {
    /// There is no such line.
    #[error("there is no line {name}[{number}]; there are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The number asked for.
        number: u32,
        /// The lines that there are.
        known: String,
    },
    /// Something is connected to it.
    #[error("the line {name}[{number}] is connected already")]
    Connected {
        /// The line's name.
        name: String,
        /// The line's number.
        number: u32,
    },
}

/// The lines of one device.
#[derive(Default)]
pub struct Gpios {
    inputs: Mutex<BTreeMap<&'static str, Inputs>>,
    outputs: Mutex<BTreeMap<&'static str, Vec<Arc<OutputEnd>>>>,
}

struct Inputs {
    sink: Arc<dyn IrqSink>,
    count: u32,
}

/// The device's end of a line that it drives: leads on to whatever was connected, and nowhere before.
#[derive(Default)]
struct OutputEnd {
    to: ArcSwapOption<IrqLine>,
}

impl OutputEnd {
    fn unsupported<T>() -> io::Result<T> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl IrqSink for OutputEnd {
    fn set_level(&self, _input: u32, level: bool) {
        if let Some(line) = self.to.load().as_deref() {
            line.set_level(level);
        }
    }

    fn assign_irqfd(&self, _input: u32, eventfd: &Arc<EventFd>) -> io::Result<()> {
        let to = self.to.load();
        to.as_deref()
            .map_or_else(Self::unsupported, |line| line.assign_irqfd(eventfd))
    }

    fn deassign_irqfd(&self, _input: u32, eventfd: &Arc<EventFd>) {
        if let Some(line) = self.to.load().as_deref() {
            line.deassign_irqfd(eventfd);
        }
    }
}

impl Gpios {
    /// Declares `count` inputs `name[0]` and so on; `sink` hears of their levels by number.
    pub fn init_inputs(&self, name: &'static str, count: u32, sink: Arc<dyn IrqSink>) {
        self.inputs.lock().insert(name, Inputs { sink, count });
    }

    /// The input `name[number]`, for whoever drives it.
    ///
    /// # Errors
    ///
    /// [`GpioError::Unknown`].
    pub fn input(&self, name: &str, number: u32) -> Result<IrqLine, GpioError> {
        let inputs = self.inputs.lock();
        match inputs.get(name) {
            Some(found) if number < found.count => Ok(IrqLine::new(Arc::clone(&found.sink), number)),
            _ => {
                let known = inputs.iter().map(|(name, inputs)| (*name, inputs.count));
                Err(unknown(name, number, known))
            }
        }
    }

    /// Declares `count` outputs `name[0]` and so on, and returns them for the device to drive. Declared again, they are
    /// new ones, connected to nothing.
    #[must_use]
    pub fn init_outputs(&self, name: &'static str, count: u32) -> Vec<IrqLine> {
        let ends: Vec<_> = (0..count).map(|_| Arc::new(OutputEnd::default())).collect();
        let lines = (0..count)
            .zip(&ends)
            .map(|(number, end)| IrqLine::new(end.clone(), number));
        let lines = lines.collect();
        self.outputs.lock().insert(name, ends);
        lines
    }

    /// Connects the output `name[number]` to `to`. It hears of the level when the device drives the line the next time.
    ///
    /// # Errors
    ///
    /// [`GpioError`].
    pub fn connect(&self, name: &str, number: u32, to: IrqLine) -> Result<(), GpioError> {
        let outputs = self.outputs.lock();
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(end) = outputs.get(name).and_then(|ends| ends.get(index)) else {
            let known = outputs.iter();
            let known = known.map(|(name, ends)| (*name, u32::try_from(ends.len()).unwrap_or(u32::MAX)));
            return Err(unknown(name, number, known));
        };
        if end.to.load().is_some() {
            return Err(GpioError::Connected {
                name: name.to_owned(),
                number,
            });
        }
        end.to.store(Some(Arc::new(to)));
        Ok(())
    }

    /// Lowers every output: the device that drives them is no longer there.
    pub(super) fn lower_outputs(&self) {
        let outputs = self.outputs.lock();
        let ends = outputs.values().flatten();
        let connected: Vec<_> = ends.filter_map(|end| end.to.load_full()).collect();
        drop(outputs);
        connected.iter().for_each(|line| line.set_level(false));
    }

    /// Every output with what it leads to, for people: `sysbus-irq[0]=4`.
    #[must_use]
    pub fn describe_outputs(&self) -> PropertyValue {
        let outputs = self.outputs.lock();
        let lines = outputs.iter().flat_map(|(name, ends)| {
            ends.iter()
                .enumerate()
                .map(move |(number, end)| match end.to.load().as_deref() {
                    Some(line) => format!("{name}[{number}]={}", line.input()),
                    None => format!("{name}[{number}]"),
                })
        });
        PropertyValue::List(lines.map(PropertyValue::Str).collect())
    }

    /// Every input, for people: `reset[0]`.
    #[must_use]
    pub fn describe_inputs(&self) -> PropertyValue {
        let inputs = self.inputs.lock();
        let lines = inputs
            .iter()
            .flat_map(|(name, inputs)| (0..inputs.count).map(move |number| format!("{name}[{number}]")));
        PropertyValue::List(lines.map(PropertyValue::Str).collect())
    }
}

fn unknown(name: &str, number: u32, known: impl Iterator<Item = (&'static str, u32)>) -> GpioError {
    let known: Vec<_> = known.map(|(name, count)| format!("{name}[0..{count}]")).collect();
    GpioError::Unknown {
        name: name.to_owned(),
        number,
        known: if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u32, bool)>>);

    impl IrqSink for Recorder {
        fn set_level(&self, input: u32, level: bool) {
            self.0.lock().push((input, level));
        }
    }

    #[test]
    fn lines_are_connected_by_name_and_number_and_lead_from_one_device_to_another() {
        let (source, target) = (Gpios::default(), Gpios::default());
        let heard = Arc::new(Recorder::default());
        target.init_inputs("pin", 3, heard.clone());
        let driven = source.init_outputs("alarm", 2);
        driven[1].set_level(true);
        assert!(heard.0.lock().is_empty(), "it leads nowhere yet");
        source
            .connect("alarm", 1, target.input("pin", 2).expect("there"))
            .expect("free");
        driven[0].set_level(true);
        driven[1].set_level(true);
        driven[1].set_level(false);
        assert_eq!(*heard.0.lock(), [(2, true), (2, false)]);
        let text = |value: &str| PropertyValue::Str(value.to_owned());
        assert_eq!(
            source.describe_outputs(),
            PropertyValue::List(vec![text("alarm[0]"), text("alarm[1]=2")])
        );
        assert_eq!(
            target.describe_inputs(),
            PropertyValue::List(vec![text("pin[0]"), text("pin[1]"), text("pin[2]")])
        );
    }

    #[test]
    fn a_line_that_there_is_not_is_refused_with_those_that_there_are_and_one_is_connected_once() {
        let gpios = Gpios::default();
        gpios.init_inputs("pin", 2, Arc::new(Recorder::default()));
        let _driven = gpios.init_outputs("alarm", 1);
        let message = |error: GpioError| error.to_string();
        assert_eq!(
            gpios.input("pin", 2).map_err(message).expect_err("too high"),
            "there is no line pin[2]; there are: pin[0..2]"
        );
        let nowhere = IrqLine::disconnected;
        assert_eq!(
            gpios
                .connect("pin", 0, nowhere())
                .map_err(message)
                .expect_err("an input"),
            "there is no line pin[0]; there are: alarm[0..1]"
        );
        gpios.connect("alarm", 0, nowhere()).expect("free");
        assert_eq!(
            gpios
                .connect("alarm", 0, nowhere())
                .map_err(message)
                .expect_err("taken"),
            "the line alarm[0] is connected already"
        );
    }

    #[test]
    fn an_unconnected_line_has_no_eventfd_and_a_connected_one_the_one_of_where_it_leads() {
        let gpios = Gpios::default();
        let driven = gpios.init_outputs("alarm", 1);
        let heard = Arc::new(Recorder::default());
        let irqfd = super::super::irq::IrqFd::new(&driven[0]).expect("no need for one");
        gpios.connect("alarm", 0, IrqLine::new(heard.clone(), 7)).expect("free");
        irqfd.signal();
        assert_eq!(*heard.0.lock(), [(7, true), (7, false)]);
    }
}
