//! The state-compatibility suite finds what it is there to find: devices that are wrong on purpose, each in one way.

use std::collections::BTreeMap;
use std::sync::Arc;

use hw::core::{
    Bus, Clock, Device, DeviceClass, DeviceImpl, DeviceRegion, IrqLine, Mapping, RealizeCtx, RealizeError, Realized,
    ResetKind,
};
use hw::memory::{AccessRules, IoContext, MemoryRegion, RegionOps};
use parking_lot::Mutex;
use tern_tests::compat::behaviour::Transcript;
use tern_tests::compat::forgotten::{Found, read_list};
use tern_tests::compat::{conformance, split_run};
use vmstate::VmState;
use vmstate::qom::{Class, Obj, Object, ObjectPart, TypeTable};
use vmstate::state::{HookError, StateHooks};

const CASES: u32 = 60;
const SEED: u64 = 1;

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// A register is kept where no description sees it.
    Forgets,
    /// Its line is not driven after a load.
    Silent,
    /// A reset leaves a register as it is.
    Sticky,
    /// It takes no state but that of a new device.
    Picky,
    /// It takes a state, and keeps another one.
    Bends,
    /// It takes one field for another.
    Exchanges,
    /// Some value is too much for it.
    Panics,
}

/// All that a guest can change.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "wrong")]
struct WrongState {
    level: u8,
    scratch: u8,
    /// Nobody ever reads it.
    unseen: u8,
    #[vmstate(range = 0..=3)]
    mode: u8,
}

/// Four registers and a line, which is high while the first register is odd.
#[derive(Object)]
#[object(
    name = "wrong-common", parent = Device, abstract, hooks, unregistered, class_init = class_init,
    instance_init = instance_init
)]
struct Wrong {
    #[runtime(reason = "chosen by the test")]
    fault: Mutex<Fault>,
    #[runtime(reason = "a lie: the guest can change it")]
    hidden: Mutex<u8>,
    #[runtime(reason = "the host's side, made by realize")]
    wires: Realized<(IrqLine, Mapping)>,
    #[state]
    state: Mutex<WrongState>,
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock() == fault
    }

    fn drive(&self, state: &WrongState) {
        self.wires.with(|(line, _)| line.set_level(state.level & 1 != 0));
    }
}

impl StateHooks for Wrong {
    fn post_load(&self, _: u32) -> Result<(), HookError> {
        if self.is(Fault::Bends) {
            self.state.lock().scratch |= 1;
        }
        if self.is(Fault::Exchanges) {
            let state = &mut *self.state.lock();
            std::mem::swap(&mut state.level, &mut state.scratch);
        }
        if self.is(Fault::Picky) && *self.state.lock() != WrongState::default() {
            return Err("it is not to my taste".into());
        }
        Ok(())
    }
}

impl RegionOps for Wrong {
    fn read(&self, _: &mut IoContext, offset: u64, _: u8) -> u64 {
        let state = self.state.lock();
        let value = match offset {
            0 => state.level,
            1 => state.scratch,
            2 => state.mode,
            _ => *self.hidden.lock(),
        };
        assert!(!(self.is(Fault::Panics) && state.scratch == 0xff), "it cannot be so");
        value.into()
    }

    fn write(&self, _: &mut IoContext, offset: u64, _: u8, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        match offset {
            0 => state.level = value,
            1 => state.scratch = value,
            2 => state.mode = value & 3,
            _ if self.is(Fault::Forgets) => *self.hidden.lock() = value,
            _ => state.unseen = value,
        }
        self.drive(&state);
    }
}

impl DeviceImpl for Wrong {
    type Runtime = (IrqLine, Mapping);

    fn runtime(&self) -> &Realized<Self::Runtime> {
        &self.wires
    }

    fn realize(this: &Obj<Self>, cx: &mut RealizeCtx<'_>) -> Result<Self::Runtime, RealizeError> {
        let region = MemoryRegion::io("wrong", 4, DeviceRegion::ops(this.downgrade()), AccessRules::BYTES);
        Ok((cx.irq(this.object(), 3), cx.map_ports(this.object(), 0x80, region)?))
    }

    fn reset_hold(&self, _: ResetKind) {
        let mut state = self.state.lock();
        let scratch = if self.is(Fault::Sticky) { state.scratch } else { 0 };
        *state = WrongState {
            scratch,
            ..WrongState::default()
        };
        *self.hidden.lock() = 0;
        self.drive(&state);
    }

    fn drive_lines(&self) {
        if !self.is(Fault::Silent) {
            self.drive(&self.state.lock());
        }
    }
}

fn class_init(class: &mut Class) {
    DeviceClass::implement::<Wrong>(class);
}

/// What is wrong with a device is in its name.
fn instance_init(object: &Arc<Object>) {
    let fault = match object.type_name() {
        "forgets" => Fault::Forgets,
        "silent" => Fault::Silent,
        "sticky" => Fault::Sticky,
        "picky" => Fault::Picky,
        "bends" => Fault::Bends,
        "exchanges" => Fault::Exchanges,
        "panics" => Fault::Panics,
        _ => Fault::None,
    };
    *object.part::<Wrong>().expect("its own class").fault.lock() = fault;
}

macro_rules! devices {
    ($($part:ident = $name:literal;)*) => {
        $(
            #[derive(Object)]
            #[object(name = $name, parent = Wrong, stateless, unregistered)]
            struct $part {}
        )*

        fn types() -> Arc<TypeTable> {
            let around = [Device::type_info(), Bus::type_info(), Clock::type_info()];
            let infos = around.into_iter().chain([Wrong::type_info(), $($part::type_info(),)*]);
            TypeTable::build(infos).expect("they fit together")
        }
    };
}

devices! {
    Sound = "sound";
    Forgets = "forgets";
    Silent = "silent";
    Sticky = "sticky";
    Picky = "picky";
    Bends = "bends";
    Exchanges = "exchanges";
    Panics = "panics";
}

#[track_caller]
fn assert_found(outcome: Result<impl Sized, String>, wanted: &str) {
    let error = outcome.err().expect("something is wrong, and nobody sees it");
    assert!(error.contains(wanted) && error.contains("TERN_SEED=0x1"), "{error}");
}

#[test]
fn a_sound_device_passes() {
    let outcome = conformance::check(&types(), "sound", CASES, SEED).expect("nothing is wrong");
    assert_eq!((outcome.accepted, outcome.refused), (CASES, 0));
    assert!(outcome.damage_refused > 0 && outcome.damage_harmless > 0, "{outcome:?}");
    split_run::check(&types(), "sound", CASES, SEED).expect("nothing is wrong");
}

#[test]
fn a_register_that_nobody_saves_is_found_by_what_the_device_does_and_not_by_what_it_saves() {
    conformance::check(&types(), "forgets", CASES, SEED).expect("what it saves is in order");
    assert_found(split_run::check(&types(), "forgets", CASES, SEED), "in one piece");
}

#[test]
fn a_line_that_is_not_driven_after_a_load_is_found() {
    assert_found(split_run::check(&types(), "silent", CASES, SEED), "the lines were");
}

#[test]
fn a_reset_that_leaves_something_behind_is_found_and_named() {
    let found = conformance::check(&types(), "sticky", CASES, SEED);
    assert_found(found, "after a reset, scratch of /subject is ");
}

#[test]
fn a_device_that_refuses_nearly_everything_is_found() {
    let error = conformance::check(&types(), "picky", CASES, SEED).expect_err("refused");
    assert!(error.contains("picky: of 60 legal states"), "{error}");
}

#[test]
fn a_device_that_saves_something_else_than_was_loaded_is_found() {
    assert_found(
        conformance::check(&types(), "bends", CASES, SEED),
        "what was loaded is not what is saved",
    );
}

#[test]
fn a_device_that_panics_is_found_and_named() {
    assert_found(
        split_run::check(&types(), "panics", CASES, SEED),
        "panics: it panics: it cannot be so",
    );
}

/// A release had a sound device, and a later Tern has this one in its place.
#[test]
fn a_device_that_does_not_do_what_it_did_in_a_release_is_found_whatever_it_does() {
    let mut released = Transcript::default();
    released.add(&types(), "sound", &[], SEED).expect("it can be recorded");
    assert_eq!(released.differences(&types()), [""; 0]);
    for (today, told) in [
        ("exchanges", ": expected "),
        (
            "picky",
            "the state is refused: /subject (wrong-common) cannot take this state: it is not to my taste",
        ),
        ("bends", "read ports 0x81 1: expected "),
        ("silent", "at the load: expected line 3 high at "),
        ("panics", "it panics: it cannot be so"),
    ] {
        let mut here = released.clone();
        today.clone_into(&mut here.subjects[0].type_name);
        let found = here.differences(&types()).join("\n");
        assert!(found.contains(told), "{today}: {found}");
    }
}

#[test]
fn a_field_that_nobody_misses_is_named_unless_the_list_says_why() {
    let mut found = Found::default();
    found
        .look(&types(), "sound", CASES, SEED)
        .expect("it can be put on the bench");
    let missed: Vec<_> = found.missed.iter().map(|field| field.path.to_string()).collect();
    assert_eq!(missed, ["level", "mode", "scratch"]);
    let error = found.expect(&BTreeMap::new()).expect_err("one is not missed");
    assert!(error.starts_with("wrong-common unseen: lost on the way"), "{error}");
    let list = |entries: &str| read_list(&format!("= why\n{entries}")).expect("well-formed");
    found.expect(&list("wrong-common unseen")).expect("it is in the list");
    let stale = found
        .expect(&list("wrong-common unseen\nwrong-common mode\nwrong-common gone"))
        .expect_err("stale");
    assert_eq!(
        stale.lines().collect::<Vec<_>>(),
        [
            "wrong-common mode: is in the list, and somebody misses it",
            "wrong-common gone: is in the list, and there is no such field"
        ]
    );
}

#[test]
fn a_field_is_not_taken_for_missed_where_everything_goes_wrong() {
    assert_found(
        Found::default().look(&types(), "silent", CASES, SEED),
        "silent: the lines were",
    );
}

#[test]
fn an_entry_of_the_list_has_a_reason_and_is_there_once() {
    assert!(read_list("# nothing\nx a").is_err());
    assert!(read_list("= why\nx a\nx a").is_err());
}
