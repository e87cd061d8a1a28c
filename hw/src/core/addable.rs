//! What users can add to a machine, and by what command: the one rule for who adds, lists, describes and receives it.

use vmstate::qom::{Class, TypeTable, UserCreatable};

use super::DeviceClass;

/// The command by which users add an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddedBy {
    /// `device_add`: a device that comes and goes while the machine runs.
    DeviceAdd,
    /// `object-add`: what stands behind devices.
    ObjectAdd,
}

impl AddedBy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::DeviceAdd, Self::ObjectAdd];

    /// What users call it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::DeviceAdd => "device_add",
            Self::ObjectAdd => "object-add",
        }
    }

    /// Whether objects of the class are added by it.
    #[must_use]
    pub fn adds(self, class: &Class) -> bool {
        match self {
            Self::DeviceAdd => {
                class.is_concrete() && class.data::<DeviceClass>().is_some_and(DeviceClass::is_hotpluggable)
            }
            Self::ObjectAdd => UserCreatable::can_be_made(class),
        }
    }

    /// The types that are added by it, in words.
    #[must_use]
    pub fn list(self, types: &TypeTable) -> String {
        types.list(|class| self.adds(class))
    }
}

/// All types that users can add, by name, each with how.
pub fn addable_types(types: &TypeTable) -> impl Iterator<Item = (&'static str, AddedBy)> + '_ {
    types.names().filter_map(|name| {
        let class = types.class(name).ok()?;
        let by = AddedBy::ALL.into_iter().find(|by| by.adds(&class))?;
        Some((name, by))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Device;
    use vmstate::qom::{Object, ObjectPart};

    #[derive(Object)]
    #[object(
        name = "bare-card", parent = "device", abstract, stateless, unregistered,
        class_init = DeviceClass::set_hotpluggable
    )]
    struct BareCard {}

    #[derive(Object)]
    #[object(name = "card", parent = "bare-card", stateless, unregistered)]
    struct Card {}

    #[derive(Object)]
    #[object(name = "pool", abstract, stateless, unregistered, interfaces = [UserCreatable])]
    struct Pool {}

    #[derive(Object)]
    #[object(name = "pool-in-memory", parent = "pool", stateless, unregistered)]
    struct PoolInMemory {}

    #[test]
    fn what_can_be_added_is_what_its_command_adds_and_nothing_abstract() {
        let infos = [
            Device::type_info(),
            BareCard::type_info(),
            Card::type_info(),
            Pool::type_info(),
            PoolInMemory::type_info(),
        ];
        let types = TypeTable::build(infos).expect("they fit");
        let all: Vec<_> = addable_types(&types).collect();
        assert_eq!(
            all,
            [("card", AddedBy::DeviceAdd), ("pool-in-memory", AddedBy::ObjectAdd)]
        );
        assert_eq!(AddedBy::ALL.map(|by| by.list(&types)), ["card", "pool-in-memory"]);
        for (name, by) in [("bare-card", AddedBy::DeviceAdd), ("pool", AddedBy::ObjectAdd)] {
            assert!(!by.adds(&types.class(name).expect("known")), "{name} is abstract");
        }
    }
}
