//! The table of changes.

use vmstate::state::{Description, FieldSchema, SubsectionSchema, Value, WireType};

use super::description::{
    Edit as _, array, deadline, enumeration, extra, extra_or_zero, line, map, nested, option, schema, sequence,
    subsection,
};

/// A kind of change to a description.
pub struct Change {
    /// What it is.
    pub kind: &'static str,
    /// Makes it.
    pub make: fn(&mut Description),
    /// What becomes of what an older Tern saved.
    pub forward: Expected,
    /// What becomes, in an older Tern, of what is saved after the change.
    pub back: Expected,
}

/// What a comparison has to say; a text is a part of it.
pub enum Expected {
    Loads,
    /// It loads, and has another default: the field and what is said.
    OtherDefault(&'static str),
    /// The field and the condition.
    OnlyIf(&'static str),
    /// The field and the obstacle.
    DoesNot(&'static str),
}

use Expected::{DoesNot, Loads, OnlyIf, OtherDefault};

/// A row that says what one kind of change does.
const fn change(kind: &'static str, make: fn(&mut Description), forward: Expected, back: Expected) -> Change {
    Change {
        kind,
        make,
        forward,
        back,
    }
}

const NEWER: Expected = DoesNot(". does not load: it is of version 2, and the reader loads versions 1 to 1");

pub const CHANGES: &[Change] = &[
    // Names and places.
    change(
        "field renamed",
        |uart| uart.field("lcr").name = "line-control".into(),
        DoesNot("lcr does not load: the reader does not know it, and it would be lost"),
        DoesNot("line-control does not load: the reader does not know it"),
    ),
    change("fields reordered", |uart| uart.fields.reverse(), Loads, Loads),
    change(
        "nested struct renamed",
        |uart| {
            let renamed = Description {
                name: "input-line".into(),
                ..line()
            };
            uart.retype("line", nested(renamed));
        },
        Loads,
        Loads,
    ),
    change(
        "field moved to an optional subsection",
        |uart| {
            let moved = uart.remove("lcr");
            uart.subsections.push(subsection("control", true, vec![moved]));
        },
        DoesNot("lcr does not load: the reader does not know it"),
        DoesNot("lcr does not load: the writer does not know it"),
    ),
    change(
        "field moved to a mandatory subsection",
        |uart| {
            let moved = uart.remove("lcr");
            uart.subsections.push(subsection("control", false, vec![moved]));
        },
        DoesNot("control does not load: the writer does not know it"),
        DoesNot("control does not load: the reader does not know it"),
    ),
    change("priority changed", |uart| uart.priority = 7, Loads, Loads),
    // Types.
    change(
        "integer widened",
        |uart| uart.retype("divisor", WireType::U32),
        Loads,
        OnlyIf("divisor loads only if it is between 0 and 65535"),
    ),
    change(
        "integer narrowed",
        |uart| uart.retype("divisor", WireType::U8),
        OnlyIf("divisor loads only if it is between 0 and 255"),
        Loads,
    ),
    change(
        "signed integer to unsigned",
        |uart| uart.retype("drift", WireType::U32),
        DoesNot("drift does not load: the writer's i32 is no u32"),
        DoesNot("drift does not load: the writer's u32 is no i32"),
    ),
    change(
        "integer to floating-point number",
        |uart| uart.retype("drift", WireType::F64),
        DoesNot("drift does not load: the writer's i32 is no f64"),
        DoesNot("drift does not load: the writer's f64 is no i32"),
    ),
    change(
        "truth value to integer",
        |uart| uart.retype("irq", WireType::U8),
        DoesNot("irq does not load: the writer's bool is no u8"),
        DoesNot("irq does not load: the writer's u8 is no bool"),
    ),
    change(
        "integer to choice",
        |uart| uart.retype("lcr", enumeration(&["five", "eight"])),
        DoesNot("lcr does not load: the writer's u8 is no five|eight"),
        DoesNot("lcr does not load: the writer's five|eight is no u8"),
    ),
    change(
        "text to bytes",
        |uart| uart.retype("label", WireType::Bytes { max: 8 }),
        DoesNot("label does not load: the writer's text up to 8 is no bytes up to 8"),
        DoesNot("label does not load: the writer's bytes up to 8 is no text up to 8"),
    ),
    change(
        "deadline on another clock",
        |uart| uart.retype("timeout", deadline("host")),
        DoesNot("timeout does not load: the writer's deadline on the virtual clock is no deadline on the host"),
        DoesNot("timeout does not load: the writer's deadline on the host clock is no deadline on the virtual"),
    ),
    change(
        "something to something or nothing",
        |uart| uart.retype("lcr", option(WireType::U8)),
        Loads,
        OnlyIf("lcr loads only if it is sent"),
    ),
    change(
        "something or nothing to something",
        |uart| uart.retype("latched", WireType::U8),
        OnlyIf("latched loads only if it is sent"),
        Loads,
    ),
    // Fields that come and go.
    change(
        "field removed",
        |uart| _ = uart.remove("lcr"),
        DoesNot("lcr does not load: the reader does not know it, and it would be lost"),
        DoesNot("lcr does not load: the writer does not know it, and the reader has no default for it"),
    ),
    change(
        "field retired with until and default, version raised",
        |uart| {
            uart.version = 2;
            let retired = uart.field("lcr");
            (retired.until, retired.default) = (Some(2), Some(Value::Uint(3)));
        },
        Loads,
        NEWER,
    ),
    change(
        "field added at the end, without version or default",
        |uart| uart.add(extra()),
        DoesNot("extra does not load: the writer does not know it, and the reader has no default for it"),
        DoesNot("extra does not load: the reader does not know it, and it would be lost"),
    ),
    change(
        "field added with a default, without version",
        |uart| uart.add(extra_or_zero()),
        Loads,
        OnlyIf("extra loads only if it is 0x0, its default, because the reader does not know it"),
    ),
    change(
        "field added with a default at which it is left out, without version",
        |uart| {
            uart.add(FieldSchema {
                skip_when_default: true,
                ..extra_or_zero()
            });
        },
        Loads,
        OnlyIf("extra loads only if it is 0x0, its default"),
    ),
    change(
        "field added with since and default, version raised",
        |uart| {
            uart.version = 2;
            uart.add(FieldSchema {
                since: 2,
                ..extra_or_zero()
            });
        },
        Loads,
        NEWER,
    ),
    change(
        "field added that may be absent",
        |uart| {
            uart.add(FieldSchema {
                may_be_absent: true,
                ..extra()
            });
        },
        Loads,
        OnlyIf("extra loads only if nothing is sent in it"),
    ),
    change(
        "field of another meaning under its old name, since the new version",
        |uart| {
            uart.version = 2;
            let other = uart.field("lcr");
            (other.since, other.default) = (2, Some(Value::Uint(0)));
        },
        DoesNot("lcr does not load: the reader does not know it"),
        NEWER,
    ),
    change(
        "predicate: a field is no longer always there",
        |uart| uart.field("lcr").may_be_absent = true,
        Loads,
        OnlyIf("lcr loads only if it is sent, because the reader cannot do without it"),
    ),
    change(
        "default at which a field is left out",
        |uart| {
            let left_out = uart.field("lcr");
            (left_out.default, left_out.skip_when_default) = (Some(Value::Uint(0)), true);
        },
        Loads,
        Loads,
    ),
    change(
        "another default",
        |uart| uart.field("level").default = Some(Value::Uint(7)),
        OtherDefault("level has another default (0x9 at the writer, 0x7 at the reader)"),
        OtherDefault("level has another default (0x7 at the writer, 0x9 at the reader)"),
    ),
    change(
        "default to absence",
        |uart| {
            let level = uart.field("level");
            (level.default, level.may_be_absent) = (None, true);
        },
        OtherDefault("level has another default (0x9 at the writer, absent at the reader)"),
        OtherDefault("level has another default (absent at the writer, 0x9 at the reader)"),
    ),
    change(
        "default taken away",
        |uart| uart.field("level").default = None,
        Loads,
        Loads,
    ),
    // Versions.
    change("version raised alone", |uart| uart.version = 2, Loads, NEWER),
    change(
        "minimum version raised",
        |uart| (uart.version, uart.minimum_version) = (2, 2),
        DoesNot(". does not load: it is of version 1, and the reader loads versions 2 to 2"),
        NEWER,
    ),
    change(
        "nested struct: version raised, field added with since and default",
        |uart| {
            let mut newer = line();
            newer.version = 2;
            newer.add(FieldSchema {
                since: 2,
                ..extra_or_zero()
            });
            uart.retype("line", nested(newer));
        },
        Loads,
        DoesNot("line does not load: it is of version 2, and the reader loads versions 1 to 1"),
    ),
    change(
        "nested struct: version raised, field added without default",
        |uart| {
            let mut newer = line();
            (newer.version, newer.minimum_version) = (2, 2);
            newer.add(extra());
            uart.retype("line", nested(newer));
        },
        DoesNot("line does not load: it is of version 1, and the reader loads versions 2 to 2"),
        DoesNot("line does not load: it is of version 2, and the reader loads versions 1 to 1"),
    ),
    change(
        "nested struct: field removed",
        |uart| {
            let mut shorter = line();
            shorter.remove("level");
            uart.retype("line", nested(shorter));
        },
        DoesNot("line.level does not load: the reader does not know it"),
        DoesNot("line.level does not load: the writer does not know it"),
    ),
    // Choices, ranges and conditions.
    change(
        "variant added to a choice",
        |uart| uart.retype("trigger", enumeration(&["edge", "level", "both"])),
        Loads,
        OnlyIf("trigger loads only if it is none of `both`, which the reader does not know"),
    ),
    change(
        "variant removed from a choice",
        |uart| uart.retype("trigger", enumeration(&["edge"])),
        OnlyIf("trigger loads only if it is none of `level`, which the reader does not know"),
        Loads,
    ),
    change(
        "variants reordered",
        |uart| uart.retype("trigger", enumeration(&["level", "edge"])),
        Loads,
        Loads,
    ),
    change(
        "all variants renamed",
        |uart| uart.retype("trigger", enumeration(&["rising", "high"])),
        DoesNot("trigger does not load: the writer's edge|level is no rising|high"),
        DoesNot("trigger does not load: the writer's rising|high is no edge|level"),
    ),
    change(
        "range narrowed",
        |uart| uart.field("limit").range = Some((0, 100)),
        OnlyIf("limit loads only if it is between 0 and 100"),
        Loads,
    ),
    change(
        "range widened",
        |uart| uart.field("limit").range = None,
        Loads,
        OnlyIf("limit loads only if it is between 0 and 200"),
    ),
    change(
        "range moved away",
        |uart| uart.field("limit").range = Some((201, 255)),
        DoesNot("limit does not load: the writer has 0 to 200 there, and the reader takes 201 to 255"),
        DoesNot("limit does not load: the writer has 201 to 255 there, and the reader takes 0 to 200"),
    ),
    change(
        "must equal the configuration",
        |uart| uart.field("divisor").must_equal = Some("give both machines the same divisor".to_owned()),
        OnlyIf("divisor loads only if it is as the reader's machine is configured"),
        Loads,
    ),
    // Lengths.
    change(
        "array longer",
        |uart| uart.retype("lines", array(WireType::U16, 5)),
        DoesNot("lines does not load: the writer's [u16; 4] is no [u16; 5]"),
        DoesNot("lines does not load: the writer's [u16; 5] is no [u16; 4]"),
    ),
    change(
        "array shorter",
        |uart| uart.retype("lines", array(WireType::U16, 3)),
        DoesNot("lines does not load: the writer's [u16; 4] is no [u16; 3]"),
        DoesNot("lines does not load: the writer's [u16; 3] is no [u16; 4]"),
    ),
    change(
        "array to a sequence of up to as many",
        |uart| uart.retype("lines", sequence(WireType::U16, 4)),
        Loads,
        OnlyIf("lines loads only if its length is 4"),
    ),
    change(
        "array to a shorter sequence",
        |uart| uart.retype("lines", sequence(WireType::U16, 3)),
        DoesNot("lines does not load: the writer's [u16; 4] is no up to 3 of u16"),
        DoesNot("lines does not load: the writer's up to 3 of u16 is no [u16; 4]"),
    ),
    change(
        "elements widened",
        |uart| uart.retype("lines", array(WireType::U32, 4)),
        Loads,
        OnlyIf("lines[] loads only if it is between 0 and 65535"),
    ),
    change(
        "elements of a sequence retyped",
        |uart| uart.retype("queue", sequence(WireType::Bool, 6)),
        OnlyIf("queue loads only if nothing is sent in it, because: the writer's u16 is no bool"),
        OnlyIf("queue loads only if nothing is sent in it, because: the writer's bool is no u16"),
    ),
    change(
        "higher maximum",
        |uart| uart.retype("fifo", WireType::Bytes { max: 64 }),
        Loads,
        OnlyIf("fifo loads only if its length is at most 16"),
    ),
    change(
        "lower maximum",
        |uart| uart.retype("fifo", WireType::Bytes { max: 8 }),
        OnlyIf("fifo loads only if its length is at most 8"),
        Loads,
    ),
    change(
        "lower maximum of a text",
        |uart| uart.retype("label", WireType::Str { max: 4 }),
        OnlyIf("label loads only if its length is at most 4"),
        Loads,
    ),
    change(
        "length told by another field",
        |uart| {
            uart.field("queue").length = Some("lcr".into());
        },
        OnlyIf("queue loads only if it has as many elements as `lcr` says"),
        Loads,
    ),
    // Bitmaps and maps.
    change(
        "bitmap smaller",
        |uart| uart.retype("mask", WireType::Bitmap { max: 24 }),
        OnlyIf("mask loads only if its length is at most 24"),
        Loads,
    ),
    change(
        "bitmap to integer",
        |uart| uart.retype("mask", WireType::U32),
        DoesNot("mask does not load: the writer's up to 32 bits is no u32"),
        DoesNot("mask does not load: the writer's u32 is no up to 32 bits"),
    ),
    change(
        "keys of a map narrowed",
        |uart| uart.retype("routes", map(WireType::U8, WireType::U8, 6)),
        OnlyIf("routes loads only if every key of it is between 0 and 255"),
        Loads,
    ),
    change(
        "keys of a map with a sign",
        |uart| uart.retype("routes", map(WireType::I16, WireType::U8, 6)),
        OnlyIf("routes loads only if nothing is sent in it"),
        OnlyIf("routes loads only if nothing is sent in it"),
    ),
    change(
        "lower maximum of a map",
        |uart| uart.retype("routes", map(WireType::U16, WireType::U8, 3)),
        OnlyIf("routes loads only if its length is at most 3"),
        Loads,
    ),
    change(
        "map to a sequence",
        |uart| uart.retype("routes", sequence(WireType::U8, 6)),
        DoesNot("routes does not load: the writer's up to 6 of u8 by u16 is no up to 6 of u8"),
        DoesNot("routes does not load: the writer's up to 6 of u8 is no up to 6 of u8 by u16"),
    ),
    // Subsections.
    change(
        "optional subsection added",
        |uart| uart.subsections.push(subsection("extra", true, vec![extra()])),
        Loads,
        OnlyIf("extra loads only if nothing is sent in it, because: the reader does not know it"),
    ),
    change(
        "mandatory subsection added",
        |uart| uart.subsections.push(subsection("extra", false, vec![extra()])),
        DoesNot("extra does not load: the writer does not know it"),
        DoesNot("extra does not load: the reader does not know it"),
    ),
    change(
        "optional subsection removed",
        |uart| uart.subsections.retain(|subsection| subsection.name != *"flow"),
        OnlyIf("flow loads only if nothing is sent in it, because: the reader does not know it"),
        Loads,
    ),
    change(
        "mandatory subsection removed",
        |uart| uart.subsections.retain(|subsection| subsection.name != *"modem"),
        DoesNot("modem does not load: the reader does not know it"),
        DoesNot("modem does not load: the writer does not know it"),
    ),
    change(
        "optional subsection made mandatory",
        |uart| uart.subsection("flow").optional = false,
        OnlyIf("flow loads only if it is sent"),
        Loads,
    ),
    change(
        "mandatory subsection made optional",
        |uart| uart.subsection("modem").optional = true,
        Loads,
        OnlyIf("modem loads only if it is sent"),
    ),
    change(
        "subsection: version raised",
        |uart| {
            let flow = uart.subsection("flow");
            let raised = Description {
                version: 2,
                ..flow.schema.clone().into_description()
            };
            *flow = SubsectionSchema {
                schema: schema(raised),
                ..flow.clone()
            };
        },
        Loads,
        OnlyIf("flow loads only if nothing is sent in it, because: it is of version 2"),
    ),
];
