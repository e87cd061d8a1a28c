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

    #[test]
    fn phases_are_ordered_as_listed_and_each_once() {
        assert!(Phase::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
