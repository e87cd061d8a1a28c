//! The class `machine`: the root of everything that a guest sees.

use std::sync::Arc;

use parking_lot::Mutex;
use vmstate::VmState;
use vmstate::qom::{Config, GlobalProperty, Object, StateCell, TypeTable};
use vmstate::state::{StateHooks, StructValue};

use super::Release;
use super::timers::Timers;

/// The class data of `machine`.
#[derive(Clone, Debug, Default)]
pub struct MachineClass {
    /// What the machine is, in a line for people.
    pub description: &'static str,
    /// How many vCPUs it takes at most.
    pub max_cpus: u32,
    /// A shorter name by which users may ask for it. It stands for the newest version, and is never recorded.
    pub alias: Option<&'static str>,
    /// It is what a user gets who names no machine. One machine is.
    pub is_default: bool,
    /// The release that brought it: older ones do not know it.
    pub since: Release,
    /// How its devices differ from those of the newest version: what makes it that version for a guest.
    pub compat: Vec<GlobalProperty>,
}

/// A machine that can be made.
#[derive(Clone, Debug)]
pub struct MachineType {
    /// The type's name, such as `microvm-1.0`: what a recipe records.
    pub name: &'static str,
    /// What else is known of it.
    pub class: MachineClass,
}

impl MachineType {
    /// Every machine of a type table, sorted by name.
    #[must_use]
    pub fn all(types: &TypeTable) -> Vec<Self> {
        types.infos().filter_map(|info| Self::of(types, info.name)).collect()
    }

    /// The machine that `name` or an alias stands for.
    #[must_use]
    pub fn find(types: &TypeTable, name: &str) -> Option<Self> {
        Self::all(types)
            .into_iter()
            .find(|machine| machine.name == name || machine.class.alias == Some(name))
    }

    /// The machine that a user gets who names none.
    #[must_use]
    pub fn default_of(types: &TypeTable) -> Option<Self> {
        Self::all(types).into_iter().find(|machine| machine.class.is_default)
    }

    /// The machine that a user of `release` got who named none: of the versions of today's default machine the newest one that
    /// `release` knew.
    #[must_use]
    pub fn default_of_release(types: &TypeTable, release: Release) -> Option<Self> {
        let (family, _) = Self::default_of(types)?.family_and_version()?;
        let all = Self::all(types).into_iter();
        let known = all.filter(|machine| machine.class.since <= release);
        known
            .filter_map(|machine| {
                let (of, version) = machine.family_and_version()?;
                (of == family).then_some((version, machine))
            })
            .max_by_key(|(version, _)| *version)
            .map(|(_, machine)| machine)
    }

    /// `microvm` and 1.1 of `microvm-1.1`.
    fn family_and_version(&self) -> Option<(&'static str, Release)> {
        let (family, version) = self.name.rsplit_once('-')?;
        Some((family, version.parse().ok()?))
    }

    fn of(types: &TypeTable, name: &'static str) -> Option<Self> {
        let class = types.class(name).ok()?;
        let data = class.data::<MachineClass>()?;
        class.is_concrete().then(|| Self {
            name,
            class: data.clone(),
        })
    }
}

/// What of a machine as a whole travels with it.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "machine", version = 1)]
pub struct MachineState {
    /// Its user has stopped it, so that it stands still wherever it arrives until its user lets it go on.
    pub stopped: bool,
    /// What its virtual clock shows. It goes with the machine where a device has a timer: nobody else knows what it shows,
    /// and releases that had no timers load all that has none. (QEMU always sends it, among `cpu_ticks`, as its guests' own
    /// clocks follow from it; those of Tern's are the record of guest time.)
    #[vmstate(subsection(needed = MachineState::has_run))]
    pub virtual_clock: VirtualClockState,
}

impl MachineState {
    fn has_run(&self) -> bool {
        self.virtual_clock != VirtualClockState::default()
    }
}

/// The virtual clock of a machine: the time in which its guest could run.
#[derive(VmState, Clone, Debug, Default, PartialEq)]
#[vmstate(name = "virtual-clock", version = 1)]
pub struct VirtualClockState {
    /// What it shows, in nanoseconds.
    pub ns: u64,
}

/// The state of a machine, and the clock of which a part of it is read and set.
#[derive(Default)]
pub struct MachineCell {
    state: Mutex<MachineState>,
    /// From the machine's realize on.
    timers: Mutex<Option<Arc<Timers>>>,
}

impl MachineCell {
    /// The timers, if there are any.
    fn timers(&self) -> Option<Arc<Timers>> {
        self.timers.lock().clone().filter(|timers| timers.exist())
    }
}

impl StateCell for MachineCell {
    type State = MachineState;

    fn take(&self) -> StructValue {
        let mut state = self.state.lock().clone();
        if let Some(timers) = self.timers() {
            state.virtual_clock.ns = timers.now();
        }
        state.to_value()
    }

    fn put(&self, state: MachineState) {
        if let Some(timers) = self.timers() {
            timers.set(state.virtual_clock.ns);
        }
        *self.state.lock() = MachineState {
            stopped: state.stopped,
            ..MachineState::default()
        };
    }
}

/// The base class of all machines.
#[derive(Object)]
#[object(name = "machine", parent = "object", abstract, hooks, class_data = MachineClass)]
pub struct Machine {
    #[config(property, default = 1, description = "number of vCPUs")]
    cpus: Config<u32>,
    #[config(property, default = 0x1000_0000, description = "guest memory in bytes")]
    memory: Config<u64>,
    #[state]
    state: MachineCell,
}

impl StateHooks for Machine {
    /// The clock goes along where a device has a timer; with the first of them, and until the last one goes.
    fn has_subsection(&self, _: &str) -> bool {
        self.state.timers().is_some()
    }
}

impl Machine {
    /// Has the state have the clock of these timers, which are those of its devices.
    pub(crate) fn set_timers(&self, timers: &Arc<Timers>) {
        *self.state.timers.lock() = Some(Arc::clone(timers));
    }

    /// How many vCPUs the machine has.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.get()
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.get()
    }

    /// Whether its user has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.state.lock().stopped
    }

    /// Notes that its user has stopped it, or lets it go on.
    pub fn set_stopped(&self, stopped: bool) {
        self.state.state.lock().stopped = stopped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmstate::qom::PropertyDefaults;

    #[test]
    fn what_a_version_of_a_machine_asks_of_its_devices_can_be_followed() {
        let types = TypeTable::gathered().expect("sound types");
        for machine in MachineType::all(&types) {
            let defaults = PropertyDefaults::default().with_machine(machine.class.compat);
            defaults.check(&types).expect(machine.name);
        }
    }

    #[test]
    fn a_release_knew_no_machine_that_came_later() {
        let types = TypeTable::gathered().expect("sound types");
        let default = MachineType::default_of(&types).expect("there is one");
        let today = MachineType::default_of_release(&types, Release::this()).expect("it has one");
        assert_eq!(today.name, default.name, "the default is the newest version");
        for machine in MachineType::all(&types) {
            assert!(
                (Release::FIRST..=Release::this()).contains(&machine.class.since),
                "{}",
                machine.name
            );
            let then = MachineType::default_of_release(&types, machine.class.since).expect("it has one");
            assert!(then.class.since <= machine.class.since);
        }
        assert!(MachineType::default_of_release(&types, Release { major: 0, minor: 0 }).is_none());
    }

    #[test]
    fn machines_are_found_by_name_and_alias_and_one_is_the_default() {
        let types = TypeTable::gathered().expect("sound types");
        let all = MachineType::all(&types);
        assert!(
            all.iter().all(|machine| machine.name != "machine"),
            "an abstract one cannot be made"
        );
        assert_eq!(all.iter().filter(|machine| machine.class.is_default).count(), 1);
        let default = MachineType::default_of(&types).expect("there is one");
        for name in [default.name, default.class.alias.expect("it has one")] {
            assert_eq!(
                MachineType::find(&types, name).map(|found| found.name),
                Some(default.name)
            );
        }
        assert!(MachineType::find(&types, "serial16550").is_none());
        let mut names: Vec<_> = all.iter().map(|machine| machine.name).collect();
        names.extend(all.iter().filter_map(|machine| machine.class.alias));
        names.sort_unstable();
        assert!(
            names.windows(2).all(|pair| pair[0] != pair[1]),
            "no name stands for two: {names:?}"
        );
    }
}
