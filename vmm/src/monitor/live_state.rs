//! The state of objects while their guest runs, for `qom-get` of the property `state`.
//!
//! Nothing is stopped for it. What a device holds itself is as it is at that moment, whole under the device's own lock.
//! What an accelerator holds (processors, interrupt controllers, timers, the clock) is as it was when it was last read,
//! at a pause or a reset: to read it anew would take the processors out of the guest. `as-of` says which of the two it is; of
//! a guest that stands still all of it is of now.

use serde_json::{Value, json};
use vmstate::qom::Object;

use crate::{control::Control, run_state::RunState};

/// The property's name.
pub(super) const NAME: &str = "state";

/// The property, as lists show it, if the object has any state.
pub(super) fn listed(object: &Object) -> Option<Value> {
    let has_state = !object.states().is_empty();
    has_state.then(|| json!({ "name": NAME, "type": "state", "description": "what of it is saved, as it is now" }))
}

/// The state of an object: of each class of its type that describes some, every field by its name. `None` if it has none.
pub(super) fn read(vm: &dyn Control, object: &Object) -> Option<Value> {
    let stands_still = !matches!(vm.status(), RunState::Running);
    let as_of = match vm.is_held_by_accelerator(object) && !stands_still {
        true => "last-read",
        false => "now",
    };
    let states: Vec<_> = object
        .states()
        .into_iter()
        .map(|(info, binding)| {
            let state = binding.take(object);
            json!({
                "description": info.name,
                "version": state.version(),
                "as-of": as_of,
                "fields": state.to_json(),
            })
        })
        .collect();
    (!states.is_empty()).then(|| states.into())
}
