//! What a load must find as the machine is configured: state that has to equal what is there already.

use super::error::{Misconfigured, Mismatch, StateError};
use super::path::Step;
use super::schema::Schema;
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// Refuses `incoming` if a field that has to be as the machine is configured (`must_equal`) is another one than in
/// `here`, the state of the object that it is meant for, before anything was loaded. Both are values of `schema`. What `incoming` has
/// and `here` does not (a subsection, an element, a field that may be absent) is another one, too; what `incoming` leaves out says
/// nothing of how its machine is configured.
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
        let Some(incoming) = incoming.get(&field.name).or(default) else {
            continue;
        };
        let here = here.get(&field.name).or(default);
        let checked = match &field.must_equal {
            Some(hint) if Some(incoming) != here => Err(Mismatch::Configured(Box::new(Misconfigured {
                found: incoming.to_string(),
                here: here.map_or_else(|| "nothing".to_owned(), ToString::to_string),
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
        if let Some(incoming) = incoming.subsection(name) {
            let nothing = StructValue::new(subsection.schema.version);
            let here = here.subsection(name).unwrap_or(&nothing);
            let checked = check_configured(&subsection.schema, incoming, here);
            checked.map_err(|error| error.within(Step::Field(name.clone())))?;
        }
    }
    Ok(())
}

/// Structs inside of other types are compared one by one, with nothing where `here` has none.
fn values(wire: &WireType, incoming: &Value, here: Option<&Value>) -> Result<(), StateError> {
    match (wire, incoming) {
        (WireType::Struct(schema), Value::Struct(incoming)) => {
            let nothing = StructValue::new(schema.version);
            let here = match here {
                Some(Value::Struct(here)) => here,
                _ => &nothing,
            };
            check_configured(schema, incoming, here)
        }
        (WireType::Option(of), Value::Option(Some(incoming))) => {
            let here = match here {
                Some(Value::Option(here)) => here.as_deref(),
                _ => None,
            };
            values(of, incoming, here)
        }
        (WireType::Array { of, .. } | WireType::Seq { of, .. }, Value::Array(incoming)) if of.nested().is_some() => {
            let here: &[Value] = match here {
                Some(Value::Array(here)) => here,
                _ => &[],
            };
            incoming.iter().enumerate().try_for_each(|(i, incoming)| {
                values(of, incoming, here.get(i)).map_err(|error| error.within(Step::Index(i)))
            })
        }
        (WireType::Map { of, .. }, Value::Map(incoming)) if of.nested().is_some() => {
            let here: &[_] = match here {
                Some(Value::Map(here)) => here,
                _ => &[],
            };
            incoming.iter().try_for_each(|(key, incoming)| {
                let at = here.binary_search_by_key(key, |(key, _)| *key);
                let here = at.ok().map(|at| &here[at].1);
                values(of, incoming, here).map_err(|error| error.within(Step::Key(*key)))
            })
        }
        _ => Ok(()),
    }
}
