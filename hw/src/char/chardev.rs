//! Back ends of character devices, as objects: what a serial port's bytes go to.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::qom::{
    Class, Config, Obj, Object, Property, PropertyKind, PropertyValue, UserCreatable, UserCreatableClass, WeakObj,
};

use super::CharSink;

/// The base class of back ends. One device at a time uses one.
#[derive(Object)]
#[object(name = "chardev", parent = "object", abstract, stateless, properties = properties)]
pub struct Chardev {
    #[runtime(reason = "made by complete")]
    sink: Mutex<Option<Arc<dyn CharSink>>>,
    /// Whoever uses it.
    #[runtime(reason = "whoever uses it enters itself when it is realized")]
    user: Mutex<std::sync::Weak<Object>>,
}

fn properties() -> Vec<Property> {
    vec![Property::read_only_link(
        "user",
        "the device that uses it",
        "device",
        |object| object.part::<Chardev>().and_then(Chardev::user),
    )]
}

impl Chardev {
    /// Has what is written go to `sink`, from the next realize of a device on.
    pub fn set_sink(&self, sink: Arc<dyn CharSink>) {
        *self.sink.lock() = Some(sink);
    }

    /// The device that uses it.
    #[must_use]
    pub fn user(&self) -> Option<Arc<Object>> {
        self.user.lock().upgrade()
    }
}

/// A device's hold on its back end; dropping it lets the next device have it.
pub struct ChardevClaim {
    chardev: WeakObj<Chardev>,
    sink: Option<Arc<dyn CharSink>>,
}

impl ChardevClaim {
    /// Takes `chardev` for `device`.
    ///
    /// # Errors
    ///
    /// Another device has it; the text names that.
    pub fn new(chardev: &Obj<Chardev>, device: &Arc<Object>) -> Result<Self, String> {
        let mut user = chardev.user.lock();
        if let Some(other) = user.upgrade() {
            return Err(format!("{} is in use by {}", chardev.object().path(), other.path()));
        }
        *user = Arc::downgrade(device);
        Ok(Self {
            chardev: chardev.downgrade(),
            sink: chardev.sink.lock().clone(),
        })
    }

    /// Where bytes go; nowhere if it has no sink.
    #[must_use]
    pub fn sink(&self) -> Option<&Arc<dyn CharSink>> {
        self.sink.as_ref()
    }
}

impl Drop for ChardevClaim {
    fn drop(&mut self) {
        if let Some(chardev) = self.chardev.upgrade() {
            *chardev.user.lock() = std::sync::Weak::new();
        }
    }
}

/// A terminal, pipe, file or socket of the process, which hands it over as a [`CharSink`]: a host resource, so that
/// nobody but the program makes it.
#[derive(Object)]
#[object(name = "chardev-host", parent = Chardev, stateless)]
pub struct HostChardev {}

/// Memory that keeps the last bytes written, for whoever asks.
#[derive(Object)]
#[object(
    name = "chardev-ringbuf", parent = Chardev, stateless, interfaces = [UserCreatable],
    class_init = class_init, properties = ring_properties
)]
pub struct RingChardev {
    #[config(property, size, default = 64 << 10, min = 1, max = 16 << 20, description = "how many bytes it keeps")]
    size: Config<u64>,
    /// Made when the object is completed.
    #[runtime(reason = "what the host has read is no part of the guest")]
    ring: Mutex<Option<Arc<Ring>>>,
}

struct Ring {
    size: usize,
    bytes: Mutex<VecDeque<u8>>,
}

impl CharSink for Ring {
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut kept = self.bytes.lock();
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(self.size);
        kept.drain(..surplus);
        bytes.len()
    }
}

fn class_init(class: &mut Class) {
    let data = class.data_mut::<UserCreatableClass>().expect("of the interface");
    data.complete = Some(|object| {
        let ring: &RingChardev = object.part().expect("its own class");
        let chardev: &Chardev = object.part().expect("its parent class");
        let size = usize::try_from(ring.size.get()).map_err(|_| "it is too large for this host".to_owned())?;
        let made = Arc::new(Ring {
            size,
            bytes: Mutex::default(),
        });
        *ring.ring.lock() = Some(made.clone());
        chardev.set_sink(made);
        Ok(())
    });
    data.can_be_deleted = Some(|object| match object.part::<Chardev>().and_then(Chardev::user) {
        Some(user) => Err(format!("{} uses it", user.path())),
        None => Ok(()),
    });
}

fn ring_properties() -> Vec<Property> {
    vec![Property::read_only(
        "contents",
        "the bytes that it keeps, as text",
        PropertyKind::Str,
        |object| {
            let ring = object.part::<RingChardev>().and_then(|ring| ring.ring.lock().clone());
            let bytes: Vec<u8> = ring
                .map(|ring| ring.bytes.lock().iter().copied().collect())
                .unwrap_or_default();
            PropertyValue::Str(String::from_utf8_lossy(&bytes).into_owned())
        },
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmstate::qom::{PropertyDefaults, TypeTable, add_user_object, delete_user_object};

    fn ring(root: &Object, size: u64) -> Arc<Object> {
        let size = vec![("size".to_owned(), PropertyValue::Uint(size))];
        add_user_object(root, &PropertyDefaults::default(), "chardev-ringbuf", "log", size).expect("it fits")
    }

    fn root() -> Arc<Object> {
        let types = TypeTable::gathered().expect("sound types");
        let root = types.new_object("container").expect("concrete");
        root.add_child("objects", types.new_object("container").expect("concrete"))
            .expect("free");
        root
    }

    #[test]
    fn a_ring_keeps_the_last_bytes_and_takes_all() {
        let root = root();
        let log = ring(&root, 4);
        let chardev: Obj<Chardev> = Obj::new(Arc::clone(&log)).expect("it is one");
        let claim = ChardevClaim::new(&chardev, &root).expect("free");
        assert_eq!(claim.sink().expect("completed").try_write(b"abcdef"), 6);
        assert_eq!(claim.sink().expect("completed").try_write(b"g"), 1);
        assert_eq!(log.property("contents"), Ok(PropertyValue::from("defg")));
    }

    #[test]
    fn a_back_end_has_one_user_and_is_not_deleted_under_it() {
        let root = root();
        let log = ring(&root, 4);
        let chardev: Obj<Chardev> = Obj::new(log).expect("it is one");
        let claim = ChardevClaim::new(&chardev, &root).expect("free");
        let error = ChardevClaim::new(&chardev, chardev.object()).err();
        assert_eq!(error.as_deref(), Some("/objects/log is in use by /"));
        let refused = delete_user_object(&root, "log").expect_err("in use").to_string();
        assert_eq!(refused, "/objects/log cannot be deleted: / uses it");
        drop(claim);
        delete_user_object(&root, "log").expect("free");
    }
}
