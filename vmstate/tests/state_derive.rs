//! What `derive(VmState)` and `derive(VmEnum)` make of a type, seen from a crate that uses them.

use std::collections::VecDeque;

use vmstate::state::{self, FieldPath, Mismatch, StructValue, Value, VmEnum, VmField, VmState, WireType};

/// How a line raises its interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, VmEnum)]
enum Trigger {
    #[default]
    Edge,
    #[vmstate(name = "level-low")]
    Level,
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
struct Line {
    vector: u8,
    trigger: Trigger,
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "timer")]
struct Timer {
    deadline: u64,
}

const FIFO_LEN: u32 = 16;

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "serial16550", version = 3, minimum_version = 1, priority = 10)]
struct Uart {
    divisor: u16,
    #[vmstate(name = "msr")]
    modem_status: u8,
    #[vmstate(max = FIFO_LEN)]
    fifo: VecDeque<u8>,
    lines: [Line; 2],
    #[vmstate(since = 2, default = 0x60)]
    lcr: u8,
    #[vmstate(until = 3, default)]
    old_mode: u32,
    #[vmstate(since = 3, may_be_absent)]
    pending: Option<u8>,
    offset: Option<i64>,
    #[vmstate(subsection(needed = Uart::timer_runs))]
    timer: Timer,
    #[vmstate(skip(reason = "derived from the divisor by post_load"))]
    baud: u32,
}

impl Uart {
    fn timer_runs(&self) -> bool {
        self.timer.deadline != 0
    }
}

fn uart() -> Uart {
    Uart {
        divisor: 12,
        modem_status: 0xb0,
        fifo: VecDeque::from([1, 2, 3]),
        lines: [
            Line {
                vector: 0x24,
                trigger: Trigger::Level,
            },
            Line::default(),
        ],
        lcr: 3,
        old_mode: 0,
        pending: Some(7),
        offset: Some(-5),
        timer: Timer { deadline: 99 },
        baud: 0,
    }
}

#[test]
fn state_survives_the_way_through_bytes() {
    for original in [uart(), Uart::default()] {
        let schema = Uart::schema();
        let bytes = state::encode(schema, &VmState::to_value(&original)).expect("it fits its schema");
        let value = state::decode(schema, &bytes).expect("what was encoded decodes");
        assert_eq!(<Uart as VmState>::from_value(&value), Ok(original));
    }
}

#[test]
fn the_schema_says_what_the_attributes_say() {
    assert_eq!(
        Uart::schema().to_string(),
        "serial16550 version 3 (loads from version 1)\
         \n  divisor: u16\
         \n  msr: u8\
         \n  fifo: bytes up to 16\
         \n  lines: [line; 2] (version 1)\
         \n    vector: u8\
         \n    trigger: edge|level-low\
         \n  lcr: u8, since 2, default 0x60\
         \n  old_mode: u32, until 3, default 0x0\
         \n  pending: u8, since 3, may be absent\
         \n  offset: optional i64\
         \n  timer: subsection, when needed (version 1)\
         \n    deadline: u64"
    );
    assert_eq!(Uart::schema().priority, 10);
    assert_eq!(Line::NAME, "line");
}

#[test]
fn retired_skipped_absent_and_unneeded_parts_are_not_taken_out() {
    let mut original = Uart {
        old_mode: 5,
        baud: 9600,
        ..uart()
    };
    original.pending = None;
    original.timer.deadline = 0;
    let value = VmState::to_value(&original);
    for name in ["old_mode", "baud", "pending"] {
        assert_eq!(value.get(name), None, "{name}");
    }
    assert_eq!(value.subsection("timer"), None);
    let loaded = <Uart as VmState>::from_value(&value).expect("nothing needed is missing");
    assert_eq!((loaded.old_mode, loaded.baud, loaded.pending), (0, 0, None));
}

#[test]
fn a_missing_or_misfit_field_is_named() {
    let mut value = VmState::to_value(&uart());
    value.set("divisor", Value::Uint(0x1_0000));
    let error = <Uart as VmState>::from_value(&value).expect_err("the divisor has 16 bits");
    assert_eq!(error.to_string(), "field divisor: 65536 is no u16");

    let error = <Timer as VmState>::from_value(&StructValue::new(1)).expect_err("it has no deadline");
    assert_eq!(
        (error.path, error.mismatch),
        ("deadline".parse::<FieldPath>().expect("a path"), Mismatch::Missing)
    );
}

#[test]
fn a_value_of_a_version_that_was_not_adapted_is_refused() {
    let error = <Timer as VmState>::from_value(&StructValue::new(2)).expect_err("the timer is of version 1");
    assert_eq!(
        error.mismatch,
        Mismatch::Version {
            found: 2,
            oldest: 1,
            newest: 1
        }
    );
}

#[test]
fn an_enum_is_matched_by_name() {
    assert_eq!(Trigger::VARIANTS, ["edge", "level-low"]);
    assert_eq!(Trigger::Level.to_value(), Value::Enum("level-low".into()));
    assert_eq!(Trigger::from_value(&Value::Enum("edge".into())), Ok(Trigger::Edge));
    assert!(Trigger::from_value(&Value::Enum("high".into())).is_err());
    assert!(matches!(Trigger::wire_type(), WireType::Enum { .. }));
}

#[test]
fn a_struct_without_fields_has_a_description_too() {
    #[derive(Debug, Default, PartialEq, VmState)]
    struct Nothing {}

    let bytes = state::encode(Nothing::schema(), &VmState::to_value(&Nothing {})).expect("nothing fits");
    assert_eq!(bytes, [1, 0], "its version and its count of subsections");
    let value = state::decode(Nothing::schema(), &bytes).expect("it decodes");
    assert_eq!(<Nothing as VmState>::from_value(&value), Ok(Nothing {}));
}
