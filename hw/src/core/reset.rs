//! Three-phase reset over the composition tree.
//!
//! All devices *enter*, then all *hold*, then all *exit*, each time in path order, children before their parents: so that
//! no device drives a line into one that has not yet forgotten its old state.

use std::sync::Arc;

use vmstate::qom::Object;

use super::device::{ResetPhase, device_class};

/// Why the machine is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetKind {
    /// Power on, or a reset that the guest or the user asked for: everything goes back to its power-on state.
    Cold,
}

/// Resets every device at and below `root`. All vCPUs are stopped.
pub fn reset_tree(root: &Arc<Object>, kind: ResetKind) {
    let mut objects = Vec::new();
    root.walk(|object: &Arc<Object>| objects.push(Arc::clone(object)));
    // The walk is parents first.
    objects.reverse();
    for phase in [ResetPhase::Enter, ResetPhase::Hold, ResetPhase::Exit] {
        for object in &objects {
            if let Some(class) = device_class(object) {
                class.reset(object, phase, kind);
            }
        }
    }
}
