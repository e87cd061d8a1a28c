//! Link-time gathering of declarations, by phase.

use super::TypeInfo;

/// When a declaration takes effect, in the order of QEMU's module-init lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Drivers of block devices.
    Block,
    /// Groups of options.
    Opts,
    /// Object types; nearly everything.
    Qom,
    /// Trace back ends.
    Trace,
    /// Machine types.
    Machine,
    /// Commands of the monitor.
    Qapi,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 6] = [
        Self::Block,
        Self::Opts,
        Self::Qom,
        Self::Trace,
        Self::Machine,
        Self::Qapi,
    ];

    /// The types that the linked crates declare for this phase, sorted by name: the linker's own order differs between
    /// builds and must not show.
    #[must_use]
    pub fn declared(self) -> Vec<&'static TypeInfo> {
        let mut declared: Vec<_> = DECLARATIONS
            .iter()
            .filter(|declaration| declaration.phase == self)
            .map(|one| one.info)
            .collect();
        declared.sort_by_key(|info| (info.name, info.declared_at));
        declared
    }
}

/// One entry of the link-time list. `#[derive(Object)]` writes it.
#[derive(Debug)]
pub struct Declaration {
    /// The phase in which the declaration takes effect.
    pub phase: Phase,
    /// The type declared; [`TypeInfo::declared_at`] says where.
    pub info: &'static TypeInfo,
}

/// Every declaration of every crate that is linked into the program. A crate that nothing names is not linked: a binary
/// says `use hw as _;`.
#[linkme::distributed_slice]
pub static DECLARATIONS: [Declaration];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{Object, ObjectPart as _, TypeTable, TypeTableError};

    #[derive(Object)]
    #[object(name = "board", stateless, unregistered)]
    struct Board {}

    #[derive(Object)]
    #[object(name = "board-1.0", parent = Board, stateless, unregistered)]
    struct Board10 {}

    #[test]
    fn phases_come_in_order_each_once_and_nothing_builds_on_a_later_one() {
        let mut asked = Vec::new();
        let table = TypeTable::by_phase(|phase| {
            asked.push(format!("{phase:?}").to_lowercase());
            match phase {
                Phase::Qom => vec![Board::type_info()],
                Phase::Machine => vec![Board10::type_info()],
                _ => Vec::new(),
            }
        });
        assert_eq!(asked, ["block", "opts", "qom", "trace", "machine", "qapi"]);
        assert!(table.expect("in order").class("board-1.0").is_ok());
        let error = TypeTable::by_phase(|phase| match phase {
            Phase::Machine => vec![Board::type_info()],
            Phase::Qom => vec![Board10::type_info()],
            _ => Vec::new(),
        });
        let error = error.expect_err("the child comes first");
        assert!(
            matches!(
                error,
                TypeTableError::LaterPhase {
                    name: "board-1.0",
                    later: "board",
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("in phase Qom, before 'board'"), "{error}");
    }
}
