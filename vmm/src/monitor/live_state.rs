//! The state of objects while their guest runs, for `qom-get` of the property `state`.
//!
//! No guest is stopped for it. What a device holds itself is taken whole under the device's own lock, and what an accelerator
//! holds (processors, interrupt controllers, timers, the clock) is read from it: a processor is out of the guest for as long as that
//! takes, as with QEMU's `info registers`.

use serde_json::{Value, json};
use vmstate::qom::Object;

use crate::control::{Control, ControlError};

/// The property's name.
pub(super) const NAME: &str = "state";

/// The property, as lists show it, if the object has any state.
pub(super) fn listed(object: &Object) -> Option<Value> {
    let has_state = !object.states().is_empty();
    has_state.then(|| json!({ "name": NAME, "type": "state", "description": "what of it is saved, as it is now" }))
}

/// The state of an object as it is now: of each class of its type that describes some, every field by its name. `None` if it has none.
///
/// # Errors
///
/// The accelerator does not tell what it holds of it.
pub(super) fn read(vm: &dyn Control, object: &Object) -> Result<Option<Value>, ControlError> {
    if object.states().is_empty() {
        return Ok(None);
    }
    vm.refresh_state(object)?;
    let states = object.states().into_iter().map(|(info, binding)| {
        let state = binding.take(object);
        json!({
            "description": info.name,
            "version": state.version(),
            "fields": state.to_json(),
        })
    });
    Ok(Some(states.collect()))
}
