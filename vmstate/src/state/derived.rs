//! What the code that the derives write calls. No interface: use the traits.

use super::description::{VmEnum, VmField, VmSequence, VmState};
use super::error::{Mismatch, StateError};
use super::fields::{bounded, check_len, wrong_kind};
use super::name::Name;
use super::path::Step;
use super::schema::{Description, FieldSchema, Schema, SubsectionSchema};
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// The schema of a derived description.
///
/// # Panics
///
/// If the description is ill-formed: its author's mistake, in static data, seen by the first test that touches it.
#[must_use]
pub fn schema(description: Description) -> Schema {
    match description.check() {
        Ok(schema) => schema,
        Err(error) => panic!("{error}"),
    }
}

/// A subsection of type `T`.
#[must_use]
pub fn subsection<T: VmState + Default>(name: &'static str, optional: bool) -> SubsectionSchema {
    SubsectionSchema {
        name: name.into(),
        optional,
        schema: T::schema().clone(),
        absent: optional.then(|| T::default().to_value()),
    }
}

/// Refuses a value of a version that was not adapted to.
pub fn check_version<T: VmState>(value: &StructValue) -> Result<(), StateError> {
    let (found, schema) = (value.version(), T::schema());
    let (oldest, newest) = (schema.minimum_version, schema.version);
    if (oldest..=newest).contains(&found) {
        Ok(())
    } else {
        Err(Mismatch::Version { found, oldest, newest }.into())
    }
}

/// Adds a field to a value.
pub fn put(value: &mut StructValue, name: &'static str, field: Value) {
    value.push(name.into(), field);
}

/// Adds a subsection to a value.
pub fn put_subsection<T: VmState>(value: &mut StructValue, name: &'static str, subsection: &T) {
    value.push_subsection(name.into(), subsection.to_value());
}

/// Takes a field that must be there out of a value.
pub fn take<T>(
    value: &StructValue,
    name: &'static str,
    read: impl FnOnce(&Value) -> Result<T, StateError>,
) -> Result<T, StateError> {
    match take_if_there(value, name, read)? {
        Some(field) => Ok(field),
        None => Err(StateError::from(Mismatch::Missing).within(Step::Field(name.into()))),
    }
}

/// Takes a field that may be missing out of a value.
pub fn take_if_there<T>(
    value: &StructValue,
    name: &'static str,
    read: impl FnOnce(&Value) -> Result<T, StateError>,
) -> Result<Option<T>, StateError> {
    let field = value.get(name).map(read).transpose();
    field.map_err(|error| error.within(Step::Field(name.into())))
}

/// Takes a subsection out of a value; one that was not sent is in its initial state.
pub fn take_subsection<T: VmState + Default>(value: &StructValue, name: &'static str) -> Result<T, StateError> {
    match value.subsection(name) {
        Some(subsection) => T::from_value(subsection).map_err(|error| error.within(Step::Field(name.into()))),
        None => Ok(T::default()),
    }
}

/// `VmField::from_value` of a struct.
pub fn struct_from_value<T: VmState>(value: &Value) -> Result<T, StateError> {
    match value {
        Value::Struct(value) => T::from_value(value),
        other => Err(wrong_kind(T::NAME, other)),
    }
}

/// `VmField::wire_type` of a struct.
#[must_use]
pub fn struct_wire_type<T: VmState>() -> WireType {
    WireType::Struct(Box::new(T::schema().clone()))
}

/// `VmField::wire_type` of an enum.
#[must_use]
pub fn enum_wire_type<E: VmEnum>() -> WireType {
    WireType::Enum {
        variants: E::VARIANTS.iter().map(|variant| Name::from(*variant)).collect(),
    }
}

/// `VmField::to_value` of an enum.
#[must_use]
pub fn enum_to_value<E: VmEnum>(value: &E) -> Value {
    Value::Enum(value.variant().into())
}

/// `VmField::from_value` of an enum.
pub fn enum_from_value<E: VmEnum>(value: &Value) -> Result<E, StateError> {
    match value {
        Value::Enum(name) => E::from_variant(name).ok_or_else(|| Mismatch::Variant(name.clone()).into()),
        other => Err(wrong_kind("a variant", other)),
    }
}

/// How a field is read and written: by itself, or together with the bound that its attribute gives.
///
/// The derive names a form as `Plain` or `Max<N>`, so that one form of generated code serves both.
pub trait FieldForm<T> {
    /// How the field is written.
    fn wire_type() -> WireType;
    /// Takes the field out.
    fn to_value(field: &T) -> Value;
    /// Makes the field of a value.
    fn from_value(value: &Value) -> Result<T, StateError>;
}

/// A field that is read and written by itself.
pub struct Plain;

/// A field of variable length with at most `MAX` elements.
pub struct Max<const MAX: u32>;

impl<T: VmField> FieldForm<T> for Plain {
    fn wire_type() -> WireType {
        T::wire_type()
    }

    fn to_value(field: &T) -> Value {
        field.to_value()
    }

    fn from_value(value: &Value) -> Result<T, StateError> {
        T::from_value(value)
    }
}

impl<T: VmSequence, const MAX: u32> FieldForm<T> for Max<MAX> {
    fn wire_type() -> WireType {
        T::wire_type(MAX)
    }

    fn to_value(field: &T) -> Value {
        field.to_value()
    }

    fn from_value(value: &Value) -> Result<T, StateError> {
        T::from_value(value, MAX)
    }
}

/// An array of which another field says how many elements are state.
pub struct Counted;

impl<T: VmField + Default, const N: usize> FieldForm<[T; N]> for Counted {
    fn wire_type() -> WireType {
        <Vec<T> as VmSequence>::wire_type(bounded(N))
    }

    /// All elements: what a default is made of.
    fn to_value(field: &[T; N]) -> Value {
        T::run_to_value(field)
    }

    fn from_value(value: &Value) -> Result<[T; N], StateError> {
        let elements = T::run_from_value(value)?;
        check_len(elements.len(), bounded(N))?;
        let mut elements = elements.into_iter();
        Ok(std::array::from_fn(|_| elements.next().unwrap_or_default()))
    }
}

/// The first `count` elements of an array; all of them if there are fewer, which the encoder then refuses.
pub fn counted_to_value<T: VmField>(elements: &[T], count: impl Into<u64>) -> Value {
    let count = usize::try_from(count.into()).unwrap_or(usize::MAX);
    T::run_to_value(&elements[..count.min(elements.len())])
}

/// A field of type `T` that every version has; the derive changes what its attributes say otherwise.
#[must_use]
pub fn field<F: FieldForm<T>, T>(name: &'static str) -> FieldSchema {
    FieldSchema::new(name, F::wire_type())
}

/// A field of type `Option<T>` that is left out when it is `None`.
#[must_use]
pub fn absentable_field<F: FieldForm<T>, T>(name: &'static str) -> FieldSchema {
    FieldSchema {
        may_be_absent: true,
        ..FieldSchema::new(name, F::wire_type())
    }
}
