//! Devices, buses and handlers that note what happens to them, and fail where they are told to.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use vmstate::qom::{Class, Config, Obj, Object, TypeTable};

use super::device::{Device, DeviceClass, DeviceImpl, Realized};
use super::hotplug::{HotplugAnswer, HotplugHandler, HotplugHandlerClass, set_hotplug_handler};
use super::testing::Surroundings;
use super::{Bus, RealizeCtx, RealizeError, ResetKind};
use crate::memory::{AddressSpace, MemoryRegion, MemorySystem};

/// The root of a tree of probes: what has happened, and where it is to fail.
#[derive(Object)]
#[object(
    name = "probe-root", parent = "object", stateless, interfaces = [HotplugHandler], class_init = root_class
)]
pub struct ProbeRoot {
    #[runtime(reason = "for the test alone")]
    log: Mutex<Vec<String>>,
    /// What fails, as the log would have it.
    #[runtime(reason = "for the test alone")]
    fails: Mutex<String>,
}

fn root_class(class: &mut Class) {
    let data = class.data_mut::<HotplugHandlerClass>().expect("of the interface");
    data.pre_plug = Some(|_, device| happens(device, "pre_plug"));
    data.plug = Some(|_, device| happens(device, "plug"));
    data.unplug = Some(|_, device| happens(device, "unplug"));
}

/// A root whose guest has to be asked before a device goes.
#[derive(Object)]
#[object(name = "probe-asking-root", parent = ProbeRoot, stateless, class_init = asking_class)]
pub struct AskingRoot {}

fn asking_class(class: &mut Class) {
    let data = class.data_mut::<HotplugHandlerClass>().expect("of the interface");
    data.unplug_request = Some(|_, device| happens(device, "unplug_request"));
}

/// A bus for probes alone.
#[derive(Object)]
#[object(name = "probe-bus", parent = Bus, stateless, class_init = bus_class)]
pub struct ProbeBus {}

fn bus_class(class: &mut Class) {
    class.data_mut::<super::BusClass>().expect("of a bus").takes = Some("probe");
}

/// A device.
#[derive(Object)]
#[object(name = "probe", parent = Device, stateless, class_init = probe_class)]
pub struct Probe {
    #[config(property, max = 9)]
    number: Config<u8>,
    #[runtime(reason = "the host's side, made by realize")]
    runtime: Realized<Gone>,
}

fn probe_class(class: &mut Class) {
    DeviceClass::implement::<Probe>(class);
    DeviceClass::set_hotpluggable(class);
}

/// The runtime part, which says so when it goes.
pub struct Gone {
    root: Weak<Object>,
    path: String,
}

impl Gone {
    fn say(&self, what: &str) {
        let Some(root) = self.root.upgrade() else { return };
        let root: &ProbeRoot = root.part().expect("the root of probes");
        root.log.lock().push(format!("{} {what}", self.path));
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.say("unrealize");
    }
}

/// Notes that `what` happens to `object`, unless it is to fail.
fn happens(object: &Object, what: &str) -> HotplugAnswer {
    let top = object.root().expect("a tree");
    let Some(root) = top.part::<ProbeRoot>() else {
        return Ok(());
    };
    let what = format!("{} {what}", object.path());
    if *root.fails.lock() == what {
        return Err(format!("{what} fails"));
    }
    root.log.lock().push(what);
    Ok(())
}

impl DeviceImpl for Probe {
    type Runtime = Gone;

    fn runtime(&self) -> &Realized<Gone> {
        &self.runtime
    }

    fn realize(this: &Obj<Self>, _: &mut RealizeCtx<'_>) -> Result<Gone, RealizeError> {
        let object = this.object();
        happens(object, "realize").map_err(|problem| RealizeError::Host {
            device: object.path(),
            problem,
        })?;
        Ok(Gone {
            root: Arc::downgrade(&object.root().expect("a tree")),
            path: object.path(),
        })
    }

    fn reset_enter(&self, kind: ResetKind) {
        self.runtime.with(|runtime| runtime.say(&format!("Enter {kind:?}")));
    }

    fn reset_hold(&self, kind: ResetKind) {
        self.runtime.with(|runtime| runtime.say(&format!("Hold {kind:?}")));
    }

    fn reset_exit(&self, kind: ResetKind) {
        self.runtime.with(|runtime| runtime.say(&format!("Exit {kind:?}")));
    }
}

/// A tree of probes, and what they are realized with.
pub struct ProbeMachine {
    pub root: Arc<Object>,
    pub memory: AddressSpace,
    pub io: AddressSpace,
    pub seen: Arc<Surroundings>,
}

impl ProbeMachine {
    pub fn cx(&self) -> RealizeCtx<'_> {
        RealizeCtx::new(&self.memory, &self.io, self.seen.clone(), self.seen.clone())
    }

    /// Has that fail which the log would call `what`.
    pub fn fail(&self, what: &str) {
        let root: &ProbeRoot = self.root.part().expect("the root of probes");
        *root.fails.lock() = what.to_owned();
    }

    pub fn at(&self, path: &str) -> Arc<Object> {
        self.root.resolve(path).expect("there")
    }
}

/// A machine under a root of type `root_type` that has these objects: what is called `bus` is a bus that the root watches
/// over, the rest are probes, plugged into the bus that they are below.
pub fn machine_of(root_type: &str, paths: &[&str]) -> ProbeMachine {
    let types = TypeTable::gathered().expect("sound types");
    let root = types.new_object(root_type).expect("concrete");
    for path in paths {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() {
            Arc::clone(&root)
        } else {
            root.resolve(parent).expect("named before")
        };
        let is_bus = name.starts_with("bus");
        let new = types
            .new_object(if is_bus { "probe-bus" } else { "probe" })
            .expect("concrete");
        parent.add_child(name, Arc::clone(&new)).expect("free");
        if is_bus {
            set_hotplug_handler(&new, &root).expect("it has none");
        } else if let Some(bus) = Obj::<Bus>::new(parent) {
            Bus::plug(&bus, &Obj::new(new).expect("a device")).expect("it takes probes");
        }
    }
    let system = MemorySystem::new();
    ProbeMachine {
        root,
        io: system.address_space("io", &MemoryRegion::container("io", 1 << 16)),
        memory: system.address_space("memory", &MemoryRegion::container("memory", 1 << 32)),
        seen: Arc::default(),
    }
}

/// The same under a plain root.
pub fn machine(paths: &[&str]) -> ProbeMachine {
    machine_of("probe-root", paths)
}

/// What has happened since this was asked the last time.
pub fn heard(root: &Object) -> Vec<String> {
    let root: &ProbeRoot = root.part().expect("the root of probes");
    std::mem::take(&mut root.log.lock())
}
