//! Clock signals: what a device is driven by, and what it drives others with.
//!
//! A clock is configuration and not state: its frequency follows from what feeds it, and the device at its end computes
//! from it when it is asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use vmstate::qom::{AddChildError, Obj, Object, ObjectPart, Property, PropertyKind, PropertyValue, WeakObj};

/// One end of a clock signal, as a child of the device that it belongs to: an input, or a source of its own.
#[derive(Object)]
#[object(name = "clock", parent = "object", stateless, properties = properties)]
pub struct Clock {
    #[runtime(reason = "its device sets it from its own state")]
    hz: AtomicU64,
    /// What the frequency of the source is multiplied by and divided by: zero stands for one.
    #[runtime(reason = "its device sets it from its own state")]
    ratio: Mutex<(u32, u32)>,
    #[runtime(reason = "whoever builds the machine connects it")]
    source: Mutex<WeakObj<Clock>>,
    #[runtime(reason = "each that follows it enters itself")]
    feeds: Mutex<Vec<WeakObj<Clock>>>,
    #[runtime(reason = "its device brings it")]
    changed: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

/// The name of the input by which most devices are clocked.
pub const CLOCK_INPUT: &str = "clk";

fn properties() -> Vec<Property> {
    fn clock(object: &Object) -> &Clock {
        object.part().expect("a property of the type clock")
    }
    let frequency = PropertyKind::Uint {
        bits: 64,
        min: 0,
        max: u64::MAX,
    };
    vec![
        Property::read_only("hz", "its frequency; zero while it stands", frequency, |object| {
            PropertyValue::Uint(clock(object).hz())
        }),
        Property::read_only_link("source", "the clock that feeds it", Clock::TYPE, |object| {
            let source = clock(object).source.lock().upgrade()?;
            Some(Arc::clone(source.object()))
        }),
    ]
}

impl Clock {
    /// Makes a clock of `hz` as the child `name` of `device`.
    ///
    /// # Errors
    ///
    /// [`AddChildError`]: the name is taken.
    ///
    /// # Panics
    ///
    /// If the device's type table has no clocks, which the one of the program has.
    pub fn add_to(device: &Object, name: &str, hz: u64) -> Result<Obj<Self>, AddChildError> {
        let clock = Obj::<Self>::create(device.types()).expect("the type is declared beside");
        clock.hz.store(hz, Ordering::Relaxed);
        device.add_child(name, clock.clone())?;
        Ok(clock)
    }

    /// Its frequency; zero while it stands.
    #[must_use]
    pub fn hz(&self) -> u64 {
        self.hz.load(Ordering::Relaxed)
    }

    /// Calls `changed` with each later frequency. Once a clock has such a listener, it keeps it.
    pub fn on_change(&self, changed: impl Fn(u64) + Send + Sync + 'static) {
        // A second listener would be a mistake of the device's author, and changes nothing.
        let _ = self.changed.set(Box::new(changed));
    }

    /// Lets it run at `hz` from now on, and all that it feeds accordingly.
    pub fn set_hz(&self, hz: u64) {
        if self.hz.swap(hz, Ordering::Relaxed) == hz {
            return;
        }
        if let Some(changed) = self.changed.get() {
            changed(hz);
        }
        let fed: Vec<_> = self.feeds.lock().iter().filter_map(WeakObj::upgrade).collect();
        for clock in fed {
            clock.follow(hz);
        }
    }

    fn follow(&self, hz: u64) {
        let (multiplier, divider) = *self.ratio.lock();
        let (multiplier, divider) = (u128::from(multiplier.max(1)), u128::from(divider.max(1)));
        let scaled = (u128::from(hz) * multiplier + divider / 2) / divider;
        self.set_hz(u64::try_from(scaled).unwrap_or(u64::MAX));
    }

    /// Lets `source` feed this clock, at `multiplier / divider` of its frequency, and no other from now on.
    ///
    /// # Errors
    ///
    /// The two would feed each other in a circle; nothing has changed then. The text names both.
    pub fn feed_from(this: &Obj<Self>, source: &Obj<Self>, (multiplier, divider): (u32, u32)) -> Result<(), String> {
        let mut above = Some(source.clone());
        while let Some(clock) = above {
            if Arc::ptr_eq(clock.object(), this.object()) {
                let (this, source) = (this.object().path(), source.object().path());
                return Err(format!("{source} cannot feed {this}, which feeds it"));
            }
            above = clock.source.lock().upgrade();
        }
        let old = std::mem::replace(&mut *this.source.lock(), source.downgrade());
        if let Some(old) = old.upgrade() {
            let is_this = |fed: &WeakObj<Self>| {
                fed.upgrade()
                    .is_some_and(|fed| Arc::ptr_eq(fed.object(), this.object()))
            };
            old.feeds.lock().retain(|fed| !is_this(fed));
        }
        *this.ratio.lock() = (multiplier, divider);
        source.feeds.lock().push(this.downgrade());
        this.follow(source.hz());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmstate::qom::TypeTable;

    /// Three clocks, and the tree that they are named in.
    fn clocks() -> ([Obj<Clock>; 3], Arc<Object>) {
        let types = TypeTable::gathered().expect("sound types");
        let root = types.new_object("container").expect("concrete");
        let clocks = ["a", "b", "c"].map(|name| Clock::add_to(&root, name, 0).expect("free"));
        (clocks, root)
    }

    #[test]
    fn a_change_of_frequency_reaches_all_that_a_clock_feeds_in_their_ratio() {
        let ([a, b, c], _root) = clocks();
        Clock::feed_from(&b, &a, (1, 12)).expect("no circle");
        Clock::feed_from(&c, &b, (3, 1)).expect("no circle");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        c.on_change(move |hz| log.lock().push(hz));
        a.set_hz(1200);
        assert_eq!((b.hz(), c.hz()), (100, 300));
        a.set_hz(1200);
        assert_eq!(*heard.lock(), [300], "who is told is told of changes");
        assert_eq!(c.object().property("hz"), Ok(PropertyValue::Uint(300)));
        assert_eq!(
            c.object().property("source"),
            Ok(PropertyValue::Link(Some("/b".to_owned())))
        );
    }

    #[test]
    fn a_clock_has_one_source_and_none_feeds_itself() {
        let ([a, b, c], _root) = clocks();
        Clock::feed_from(&b, &a, (1, 1)).expect("no circle");
        Clock::feed_from(&c, &b, (1, 1)).expect("no circle");
        assert_eq!(
            Clock::feed_from(&a, &c, (1, 1)),
            Err("/c cannot feed /a, which feeds it".to_owned())
        );
        Clock::feed_from(&c, &a, (1, 2)).expect("another source");
        b.set_hz(77);
        a.set_hz(10);
        assert_eq!((b.hz(), c.hz()), (10, 5), "the old source no longer counts");
    }
}
