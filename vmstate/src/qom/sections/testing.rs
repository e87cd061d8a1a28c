//! A small machine for the tests of saving and loading.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{IncomingSection, save_tree, tree_schemas};
use crate::qom::{Config, Obj, Object, ObjectPart, TypeTable};
use crate::state::{self, HookError, StateHooks, VmState};

thread_local! {
    /// Which hooks of this test's objects have run.
    static HOOKS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn hooks_run() -> Vec<String> {
    HOOKS.take()
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "pic", version = 3, minimum_version = 2)]
pub(super) struct PicState {
    #[vmstate(since = 3, default = 0xff)]
    pub(super) mask: u8,
    pub(super) pins: [bool; 2],
}

/// What any accelerator's controller has.
#[derive(Object)]
#[object(name = "pic-common", abstract, unregistered)]
pub(super) struct PicCommon {
    #[state]
    pub(super) state: Mutex<PicState>,
}

#[derive(Object)]
#[object(name = "fast-pic", parent = PicCommon, stateless, unregistered)]
pub(super) struct FastPic {}

#[derive(Object)]
#[object(name = "slow-pic", parent = PicCommon, stateless, unregistered)]
pub(super) struct SlowPic {}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "clock", version = 2, priority = 10)]
pub(super) struct ClockState {
    pub(super) nanoseconds: u64,
}

#[derive(Object)]
#[object(name = "clock", hooks, unregistered)]
pub(super) struct Clock {
    #[state]
    pub(super) state: Mutex<ClockState>,
    #[runtime(reason = "chosen by the test")]
    pub(super) refuses: Mutex<Option<&'static str>>,
}

impl Clock {
    fn hook(&self, which: &'static str) -> Result<(), HookError> {
        HOOKS.with_borrow_mut(|hooks| hooks.push(format!("{which} at {}", self.state.lock().nanoseconds)));
        match *self.refuses.lock() {
            Some(refused) if refused == which => Err(HookError::new("the clock stands still")),
            _ => Ok(()),
        }
    }
}

impl StateHooks for Clock {
    fn pre_save(&self) -> Result<(), HookError> {
        self.hook("pre_save")
    }

    fn post_save(&self) -> Result<(), HookError> {
        self.hook("post_save")
    }

    fn pre_load(&self) -> Result<(), HookError> {
        self.hook("pre_load")
    }

    fn post_load(&self, version: u32) -> Result<(), HookError> {
        assert_eq!(version, 2);
        self.hook("post_load")
    }
}

/// What newer machines have of the UART.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
pub(super) struct Fifo {
    pub(super) level: u8,
}

#[derive(Clone, Debug, PartialEq, VmState)]
#[vmstate(name = "uart")]
pub(super) struct UartState {
    #[vmstate(must_equal(hint = "give it the same crystal"))]
    pub(super) clock: u32,
    pub(super) divisor: u16,
    #[vmstate(subsection(needed = UartState::uses_fifo))]
    pub(super) fifo: Fifo,
}

impl UartState {
    fn uses_fifo(&self) -> bool {
        self.fifo != Fifo::default()
    }
}

impl Default for UartState {
    fn default() -> Self {
        Self {
            clock: 1_843_200,
            divisor: 1,
            fifo: Fifo::default(),
        }
    }
}

/// A device of which older machines have no FIFO.
#[derive(Object)]
#[object(name = "uart", hooks, unregistered)]
pub(super) struct Uart {
    #[config(property, default = true, description = "whether it has a FIFO")]
    fifo: Config<bool>,
    #[state]
    pub(super) state: Mutex<UartState>,
}

impl StateHooks for Uart {
    fn has_subsection(&self, name: &str) -> bool {
        name != "fifo" || self.fifo.get()
    }
}

/// Extends a type that has state by state of its own.
#[derive(Object)]
#[object(name = "timer", parent = Clock, unregistered)]
pub(super) struct Timer {
    #[state]
    pub(super) state: Mutex<PicState>,
}

#[derive(Object)]
#[object(name = "host-disk", unmigratable = "it is a file of this host", unregistered)]
pub(super) struct HostDisk {}

/// A tree of these objects, added in this order.
pub(super) fn tree(objects: &[(&str, &str)]) -> Arc<Object> {
    let types = TypeTable::build([
        PicCommon::type_info(),
        FastPic::type_info(),
        SlowPic::type_info(),
        Clock::type_info(),
        Timer::type_info(),
        HostDisk::type_info(),
        Uart::type_info(),
    ])
    .expect("they fit");
    let root = types.new_object("container").expect("concrete");
    for (name, type_name) in objects {
        root.add_child(name, types.new_object(type_name).expect("concrete"))
            .expect("free");
    }
    root
}

pub(super) const MACHINE: [(&str, &str); 3] = [("pic", "fast-pic"), ("clock", "clock"), ("box", "container")];

/// [`MACHINE`] with some state.
pub(super) fn used_machine() -> Arc<Object> {
    let root = tree(&MACHINE);
    *pic(&root).state.lock() = PicState {
        mask: 0xfb,
        pins: [true, false],
    };
    clock(&root).state.lock().nanoseconds = 1_000;
    root
}

pub(super) fn pic(root: &Object) -> Obj<PicCommon> {
    root.child("pic").and_then(Obj::new).expect("there")
}

pub(super) fn clock(root: &Object) -> Obj<Clock> {
    root.child("clock").and_then(Obj::new).expect("there")
}

/// What a stream holds of a tree.
pub(super) fn sent(root: &Object) -> Vec<IncomingSection> {
    let sections = save_tree(root).expect("it can be saved");
    sections
        .into_iter()
        .zip(tree_schemas(root))
        .map(|(section, schema)| {
            assert_eq!(
                (&section.path, &section.description),
                (&schema.path, &schema.description)
            );
            IncomingSection {
                path: section.path,
                description: section.description,
                bytes: state::encode(&schema.schema, &section.value).expect("the value fits"),
                writer_schema: Arc::new(schema.schema),
            }
        })
        .collect()
}
