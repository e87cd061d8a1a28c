//! Capabilities of migrations, in QMP's words.
//!
//! A capability of QEMU's is a switch. What Tern has of them is how every migration goes, so that each has one state only:
//! asking for that is granted, asking for another is refused.

use serde_json::{Value, json};

use super::qmp::QmpError;

/// What every migration does. What is not here is done by none.
const ON: &[(&str, &str)] = &[
    ("events", "events are how clients follow a migration"),
    (
        "return-path",
        "a source hears from its receiver before it gives a guest away",
    ),
];

/// What `query-migrate-capabilities` returns.
pub(super) fn list() -> Value {
    ON.iter()
        .map(|(name, _)| json!({ "capability": name, "state": true }))
        .collect()
}

/// Grants what `migrate-set-capabilities` asks for if it is as things are.
pub(super) fn check(wanted: &[Value]) -> Result<(), QmpError> {
    wanted.iter().enumerate().try_for_each(|(index, item)| {
        let at = |member: &str| format!("capabilities[{index}]{member}");
        let wrong_type = |member, expected| {
            let name = at(member);
            QmpError::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
        };
        let missing = |member| QmpError::generic(format!("Parameter '{}' is missing", at(member)));
        let item = item.as_object().ok_or_else(|| wrong_type("", "object"))?;
        if let Some(member) = item.keys().find(|key| !matches!(key.as_str(), "capability" | "state")) {
            let name = at(&format!(".{member}"));
            return Err(QmpError::generic(format!("Parameter '{name}' is unexpected")));
        }
        let name = item.get("capability").ok_or_else(|| missing(".capability"))?;
        let name = name.as_str().ok_or_else(|| wrong_type(".capability", "string"))?;
        let state = item.get("state").ok_or_else(|| missing(".state"))?;
        let state = state.as_bool().ok_or_else(|| wrong_type(".state", "boolean"))?;
        let known = ON.iter().find(|(on, _)| *on == name);
        let (name, reason) = known.ok_or_else(|| {
            let parameter = at(".capability");
            QmpError::generic(format!("Parameter '{parameter}' does not accept value '{name}'"))
        })?;
        if !state {
            return Err(QmpError::generic(format!(
                "Capability '{name}' cannot be switched off: {reason}"
            )));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_asked_for_and_nothing_else() {
        assert_eq!(check(list().as_array().expect("a list")), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        let refused = |item: Value| check(&[item]).expect_err("refused").description;
        assert_eq!(
            refused(json!({ "capability": "xbzrle", "state": true })),
            "Parameter 'capabilities[0].capability' does not accept value 'xbzrle'"
        );
        assert_eq!(
            refused(json!({ "capability": "events", "state": false })),
            "Capability 'events' cannot be switched off: events are how clients follow a migration"
        );
        for (item, part) in [
            (json!(1), "'capabilities[0]', expected: object"),
            (json!({ "state": true }), "'capabilities[0].capability' is missing"),
            (json!({ "capability": 1, "state": true }), "expected: string"),
            (json!({ "capability": "events" }), "'capabilities[0].state' is missing"),
            (json!({ "capability": "events", "state": "on" }), "expected: boolean"),
            (
                json!({ "capability": "events", "state": true, "x": 1 }),
                "'capabilities[0].x' is unexpected",
            ),
        ] {
            let message = refused(item);
            assert!(message.contains(part), "{message}");
        }
    }
}
