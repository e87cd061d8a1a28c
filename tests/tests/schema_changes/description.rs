//! A description that has every kind of field, and what it takes to change it.

use vmstate::state::{Description, FieldSchema, Schema, SubsectionSchema, Value, WireType};

/// Version 1 of a serial port that never was.
pub fn uart() -> Description {
    let mut description = Description::new("uart");
    let range = Some((0, 200));
    description.fields = vec![
        FieldSchema::new("lcr", WireType::U8),
        FieldSchema::new("divisor", WireType::U16),
        FieldSchema::new("drift", WireType::I32),
        FieldSchema::new("ratio", WireType::F64),
        FieldSchema::new("irq", WireType::Bool),
        FieldSchema::new("trigger", enumeration(&["edge", "level"])),
        FieldSchema::new("fifo", WireType::Bytes { max: 16 }),
        FieldSchema::new("label", WireType::Str { max: 8 }),
        FieldSchema::new("lines", array(WireType::U16, 4)),
        FieldSchema::new("queue", sequence(WireType::U16, 6)),
        FieldSchema::new("line", nested(line())),
        FieldSchema::new("latched", option(WireType::U8)),
        FieldSchema::new("mask", WireType::Bitmap { max: 32 }),
        FieldSchema::new("routes", map(WireType::U16, WireType::U8, 6)),
        FieldSchema::new("timeout", deadline("virtual")),
        FieldSchema {
            range,
            ..FieldSchema::new("limit", WireType::U8)
        },
        FieldSchema {
            default: Some(Value::Uint(9)),
            ..FieldSchema::new("level", WireType::U8)
        },
    ];
    description.subsections = vec![
        subsection("modem", false, vec![FieldSchema::new("msr", WireType::U8)]),
        subsection("flow", true, vec![FieldSchema::new("window", WireType::U32)]),
    ];
    description
}

/// Version 1 of what is nested in it.
pub fn line() -> Description {
    let mut description = Description::new("line");
    description.fields = vec![
        FieldSchema::new("mode", WireType::U8),
        FieldSchema::new("level", WireType::Bool),
    ];
    description
}

/// What a change does to a description.
pub trait Edit {
    /// The field of that name.
    fn field(&mut self, name: &str) -> &mut FieldSchema;
    /// Puts a field behind all others.
    fn add(&mut self, field: FieldSchema);
    /// Takes a field away.
    fn remove(&mut self, name: &str) -> FieldSchema;
    /// Gives a field another type.
    fn retype(&mut self, name: &str, wire: WireType);
    /// The subsection of that name.
    fn subsection(&mut self, name: &str) -> &mut SubsectionSchema;
}

impl Edit for Description {
    fn field(&mut self, name: &str) -> &mut FieldSchema {
        let found = self.fields.iter_mut().find(|field| field.name == *name);
        found.expect("the description has it")
    }

    fn add(&mut self, field: FieldSchema) {
        self.fields.push(field);
    }

    fn remove(&mut self, name: &str) -> FieldSchema {
        let at = self.fields.iter().position(|field| field.name == *name);
        self.fields.remove(at.expect("the description has it"))
    }

    fn retype(&mut self, name: &str, wire: WireType) {
        self.field(name).wire = wire;
    }

    fn subsection(&mut self, name: &str) -> &mut SubsectionSchema {
        let found = self.subsections.iter_mut().find(|subsection| subsection.name == *name);
        found.expect("the description has it")
    }
}

/// A field `extra` of 8 bits.
pub fn extra() -> FieldSchema {
    FieldSchema::new("extra", WireType::U8)
}

/// It with a default.
pub fn extra_or_zero() -> FieldSchema {
    FieldSchema {
        default: Some(Value::Uint(0)),
        ..extra()
    }
}

pub fn schema(description: Description) -> Schema {
    description.check().expect("a legal description")
}

pub fn nested(description: Description) -> WireType {
    WireType::Struct(Box::new(schema(description)))
}

pub fn subsection(name: &'static str, optional: bool, fields: Vec<FieldSchema>) -> SubsectionSchema {
    let mut description = Description::new(name);
    description.fields = fields;
    SubsectionSchema {
        name: name.into(),
        optional,
        absent: None,
        schema: schema(description),
    }
}

pub fn enumeration(variants: &[&'static str]) -> WireType {
    WireType::Enum {
        variants: variants.iter().copied().map(Into::into).collect(),
    }
}

pub fn array(of: WireType, len: u32) -> WireType {
    WireType::Array { of: Box::new(of), len }
}

pub fn sequence(of: WireType, max: u32) -> WireType {
    WireType::Seq { of: Box::new(of), max }
}

pub fn map(key: WireType, of: WireType, max: u32) -> WireType {
    let (key, of) = (Box::new(key), Box::new(of));
    WireType::Map { key, of, max }
}

pub fn option(of: WireType) -> WireType {
    WireType::Option(Box::new(of))
}

pub fn deadline(clock: &'static str) -> WireType {
    WireType::Deadline { clock: clock.into() }
}
