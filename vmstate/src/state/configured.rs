//! What a load must find as the machine is configured: state that has to equal what is there already.

use super::error::{Misconfigured, Mismatch, StateError};
use super::path::Step;
use super::schema::Schema;
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// Refuses `incoming` if a field that has to be as the machine is configured (`must_equal`) is another one than in
/// `here`, the state of the object that it is meant for, before anything was loaded. Both are values of `schema`.
///
/// # Errors
///
/// The first such field, with what a user can do.
pub fn check_configured(schema: &Schema, incoming: &StructValue, here: &StructValue) -> Result<(), StateError> {
    if !schema.is_configured() {
        return Ok(());
    }
    for field in &schema.fields {
        let default = field.default.as_ref().filter(|_| field.skip_when_default);
        let (Some(incoming), Some(here)) = (incoming.get(&field.name).or(default), here.get(&field.name).or(default))
        else {
            continue;
        };
        let checked = match &field.must_equal {
            Some(hint) if incoming != here => Err(Mismatch::Configured(Box::new(Misconfigured {
                found: incoming.to_string(),
                here: here.to_string(),
                hint: hint.clone(),
            }))
            .into()),
            Some(_) => Ok(()),
            None => values(&field.wire, incoming, here),
        };
        checked.map_err(|error| error.within(Step::Field(field.name.clone())))?;
    }
    for subsection in &schema.subsections {
        let name = &subsection.name;
        if let (Some(incoming), Some(here)) = (incoming.subsection(name), here.subsection(name)) {
            let checked = check_configured(&subsection.schema, incoming, here);
            checked.map_err(|error| error.within(Step::Field(name.clone())))?;
        }
    }
    Ok(())
}

/// Structs inside of other types are compared one by one, as far as both sides have them.
fn values(wire: &WireType, incoming: &Value, here: &Value) -> Result<(), StateError> {
    match (wire, incoming, here) {
        (WireType::Struct(schema), Value::Struct(incoming), Value::Struct(here)) => {
            check_configured(schema, incoming, here)
        }
        (WireType::Option(of), Value::Option(Some(incoming)), Value::Option(Some(here))) => values(of, incoming, here),
        (WireType::Array { of, .. } | WireType::Seq { of, .. }, Value::Array(incoming), Value::Array(here))
            if of.nested().is_some() =>
        {
            let mut pairs = incoming.iter().zip(here).enumerate();
            pairs.try_for_each(|(i, (incoming, here))| {
                values(of, incoming, here).map_err(|error| error.within(Step::Index(i)))
            })
        }
        (WireType::Map { of, .. }, Value::Map(incoming), Value::Map(here)) if of.nested().is_some() => {
            for (key, incoming) in incoming {
                if let Ok(at) = here.binary_search_by_key(key, |(key, _)| *key) {
                    values(of, incoming, &here[at].1).map_err(|error| error.within(Step::Key(*key)))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
