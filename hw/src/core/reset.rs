//! Three-phase reset over the composition tree.
//!
//! All devices *enter*, then all *hold*, then all *exit*, each time in path order, children before their parents: so that
//! no device drives a line into one that has not yet forgotten its old state. A device that is held in reset by two
//! enters it once, and leaves it when both have let go.

use std::sync::Arc;

use vmstate::qom::Object;

use super::device::{Device, ResetPhase, device_class};

/// Why the machine is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetKind {
    /// Power on, or a reset that the guest or the user asked for: everything goes back to its power-on state.
    Cold,
    /// A state is about to be loaded over whatever is there; what the load sets need not be reset.
    SnapshotLoad,
    /// The guest wakes up from sleep: what keeps its state through sleep keeps it.
    Wakeup,
}

/// Resets every device at and below `root`. All vCPUs are stopped.
pub fn reset_tree(root: &Arc<Object>, kind: ResetKind) {
    assert_reset(root, kind);
    release_reset(root, kind);
}

/// Puts every device at and below `root` into reset and holds it there: those that are not held yet enter, then hold.
pub fn assert_reset(root: &Arc<Object>, kind: ResetKind) {
    let devices = devices(root);
    let entering: Vec<_> = devices
        .into_iter()
        .filter(|object| part(object).assert_reset())
        .collect();
    run(&entering, ResetPhase::Enter, kind);
    run(&entering, ResetPhase::Hold, kind);
}

/// Lets every device at and below `root` go that [`assert_reset`] holds: those that nobody else holds exit.
pub fn release_reset(root: &Arc<Object>, kind: ResetKind) {
    let devices = devices(root);
    let leaving: Vec<_> = devices
        .into_iter()
        .filter(|object| part(object).release_reset())
        .collect();
    run(&leaving, ResetPhase::Exit, kind);
}

fn part(object: &Arc<Object>) -> &Device {
    object.part().expect("only devices were gathered")
}

/// The devices at and below `root`, children before their parents.
fn devices(root: &Arc<Object>) -> Vec<Arc<Object>> {
    let mut devices = Vec::new();
    root.walk(|object: &Arc<Object>| {
        if object.part::<Device>().is_some() {
            devices.push(Arc::clone(object));
        }
    });
    // The walk is parents first.
    devices.reverse();
    devices
}

fn run(devices: &[Arc<Object>], phase: ResetPhase, kind: ResetKind) {
    for object in devices {
        if let Some(class) = device_class(object) {
            class.reset(object, phase, kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::probe::{ProbeMachine, heard, machine};
    use crate::core::realize_device;

    fn realized(paths: &[&str]) -> ProbeMachine {
        let machine = machine(paths);
        for path in paths {
            realize_device(&machine.at(path), &mut machine.cx()).expect("nothing fails");
        }
        heard(&machine.root);
        machine
    }

    #[test]
    fn all_devices_enter_then_all_hold_then_all_exit_and_hear_why() {
        let machine = realized(&["a", "a/below", "b"]);
        for kind in [ResetKind::Cold, ResetKind::SnapshotLoad, ResetKind::Wakeup] {
            reset_tree(&machine.root, kind);
            let phases = ["Enter", "Hold", "Exit"]
                .map(|phase| ["/b", "/a/below", "/a"].map(|device| format!("{device} {phase} {kind:?}")));
            assert_eq!(heard(&machine.root), phases.concat());
        }
    }

    #[test]
    fn a_device_that_two_hold_in_reset_enters_once_and_leaves_with_the_last() {
        let machine = realized(&["a", "b"]);
        let a = machine.root.child("a").expect("there");
        assert_reset(&a, ResetKind::Cold);
        assert!(a.part::<Device>().expect("a device").is_in_reset());
        heard(&machine.root);
        reset_tree(&machine.root, ResetKind::Cold);
        assert_eq!(heard(&machine.root), ["/b Enter Cold", "/b Hold Cold", "/b Exit Cold"]);
        release_reset(&a, ResetKind::Cold);
        assert_eq!(heard(&machine.root), ["/a Exit Cold"]);
        assert!(!a.part::<Device>().expect("a device").is_in_reset());
        release_reset(&a, ResetKind::Cold);
        assert!(heard(&machine.root).is_empty(), "nobody holds it");
    }
}
