//! What the outside may ask of a running VM.
//!
//! [`Control`] is the seam between the faces (monitor, command line, console keys, signals) and the VM itself: they know
//! this trait and nothing else. Every method may be called from any thread, answers soon and never waits for a peer: what takes
//! long (a migration, a snapshot) is started, goes on in the VM's own threads and is followed through
//! [`Control::query_migrate`] and [`Event`]s.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use vmstate::qom::{Object, PropertyError, PropertyValue, TypeTable};

use crate::accel::HostFeatures;
use crate::run_state::{IllegalTransition, RunState};
use crate::vm::Properties;

pub use crate::migration_info::{JobId, MigrationInfo, MigrationParameters, MigrationStatus, PauseReport, RamInfo};

/// A VM as its monitor, its command line and its signals see it.
pub trait Control: Send + Sync {
    /// The name that the user gave the VM.
    fn name(&self) -> String;

    /// What the VM is doing.
    fn status(&self) -> RunState;

    /// What the VM is made of, as far as it is known: a receiver learns most of it from the stream.
    fn info(&self) -> VmInfo;

    /// Pauses the guest. On success no vCPU executes guest code when this returns; a paused guest stays paused.
    ///
    /// # Errors
    ///
    /// The VM holds no guest that could be paused, or the vCPUs did not come out.
    fn stop(&self) -> Result<(), ControlError>;

    /// Lets a paused guest go on; a running one stays running.
    ///
    /// # Errors
    ///
    /// The guest is not merely paused: it was handed over ([`Control::resolve`] decides about those), has not arrived, or has ended.
    fn cont(&self) -> Result<(), ControlError>;

    /// Resets the machine as its reset button would: the guest boots anew from the boot payload. One that stood still, or could not go
    /// on, stands still at its start then, until [`Control::cont`].
    ///
    /// # Errors
    ///
    /// There is no guest to reset, or it belongs to somebody else now.
    fn system_reset(&self) -> Result<(), ControlError>;

    /// Presses the machine's power button. A guest that listens to it shuts itself down; one that does not runs on.
    ///
    /// # Errors
    ///
    /// There is no guest that runs.
    fn system_powerdown(&self) -> Result<(), ControlError>;

    /// Ends the VM without asking the guest. [`Control::ending`] is set and [`Event::Ended`] published before long; asking again changes nothing.
    ///
    /// # Errors
    ///
    /// The guest was handed over, and it is not known whether the receiver runs it: this may be the only copy, and
    /// [`Control::resolve`] decides about it. [`Control::quit_anyway`] does not ask.
    fn quit(&self, reason: ShutdownReason) -> Result<(), ControlError>;

    /// As [`Control::quit`], also where the only copy of a guest may be lost.
    fn quit_anyway(&self, reason: ShutdownReason);

    /// How the VM ended, once it has. It never changes back.
    fn ending(&self) -> Option<Ending>;

    /// Starts to send the guest to `uri` (`tcp:HOST:PORT`, `unix:PATH`), or to a file (`file:PATH`), after which the guest stays paused.
    /// Returns which job that is, by which its account and its events are told from those of others.
    ///
    /// # Errors
    ///
    /// The URI is no URI or has a relative path, another migration is under way, or there is no guest to send. Failures of the migration
    /// itself are found by [`Control::query_migrate`].
    fn migrate(&self, uri: &str) -> Result<JobId, ControlError>;

    /// Starts to write a snapshot to `path`, which is absolute; what the guest does afterwards is `then`.
    ///
    /// # Errors
    ///
    /// As [`Control::migrate`].
    fn snapshot(&self, path: &Path, then: AfterSnapshot) -> Result<JobId, ControlError>;

    /// Listens at `uri` for a guest. When this returns, [`MigrationInfo::listening`] holds the address that a sender can take.
    ///
    /// # Errors
    ///
    /// The VM has a guest already, the URI is no URI or has a relative path, or the address cannot be had.
    fn migrate_incoming(&self, uri: &str) -> Result<JobId, ControlError>;

    /// Gives up the migration under way; the guest runs on. Without one nothing happens.
    ///
    /// # Errors
    ///
    /// The guest has been handed over already.
    fn migrate_cancel(&self) -> Result<(), ControlError>;

    /// Changes those parameters that are given, for later migrations and, from its next decision on, for the one under way.
    ///
    /// # Errors
    ///
    /// A value is out of its range; nothing has changed then.
    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError>;

    /// The parameters as they are now, all of them given.
    fn parameters(&self) -> MigrationParameters;

    /// How the last or the current migration or snapshot stands.
    fn query_migrate(&self) -> MigrationInfo;

    /// Decides about a guest that was handed over and never heard of: it runs here again, or it is dropped and the VM ends.
    ///
    /// # Errors
    ///
    /// There is nothing to decide.
    fn resolve(&self, decision: Resolution) -> Result<(), ControlError>;

    /// The guest's vCPUs by APIC id; none before a receiver knows what machine it holds.
    fn vcpus(&self) -> Vec<VcpuInfo>;

    /// What the character devices of the guest lead to.
    fn chardevs(&self) -> Vec<ChardevInfo>;

    /// Makes an object of a user.
    ///
    /// # Errors
    ///
    /// Such an object cannot be had, or a migration or snapshot is under way.
    fn object_add(&self, type_name: &str, id: &str, properties: Properties) -> Result<(), ControlError>;

    /// Deletes an object of a user.
    ///
    /// # Errors
    ///
    /// There is none, it is in use, or a migration or snapshot is under way.
    fn object_del(&self, id: &str) -> Result<(), ControlError>;

    /// Adds a device to the machine.
    ///
    /// # Errors
    ///
    /// Such a device cannot be had, or a migration or snapshot is under way.
    fn device_add(&self, driver: &str, id: Option<&str>, properties: Properties) -> Result<(), ControlError>;

    /// Takes a device off the machine, by its id or path. [`Event::DeviceDeleted`] says when it is gone.
    ///
    /// # Errors
    ///
    /// There is none, it stays, or a migration or snapshot is under way.
    fn device_del(&self, id: &str) -> Result<(), ControlError>;

    /// Sets a property of an object of the tree by the rules of the object model: one that is in use has its configuration fixed but
    /// for what is declared otherwise. That goes with the VM wherever it moves.
    ///
    /// # Errors
    ///
    /// [`ControlError::Property`], or a migration or snapshot is under way.
    fn qom_set(&self, object: &Object, property: &str, value: PropertyValue) -> Result<(), ControlError>;

    /// The root of the composition tree, or `None` before a receiver knows what machine it holds.
    fn root(&self) -> Option<Arc<Object>>;

    /// Has an object know its state as it is at this moment, also what the accelerator holds of it. The guest is not stopped.
    ///
    /// # Errors
    ///
    /// The accelerator does not tell.
    fn refresh_state(&self, object: &Object) -> Result<(), ControlError>;

    /// The types that the VM's objects are made from.
    fn types(&self) -> Arc<TypeTable>;

    /// What guests can be given on this host.
    ///
    /// # Errors
    ///
    /// The accelerator is not there, or does not tell.
    fn host_features(&self) -> Result<HostFeatures, ControlError>;

    /// Tells `sink` of every later event, in order.
    fn subscribe(&self, sink: Arc<dyn EventSink>);
}

/// What a VM is made of, for people and lists. Parts that are not known yet are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmInfo {
    /// The machine version, such as `microvm-1.0`.
    pub machine: Option<String>,
    /// The accelerator, such as `kvm`.
    pub accelerator: Option<String>,
    /// The CPU model.
    pub cpu_model: Option<String>,
    /// How many vCPUs there are.
    pub cpus: Option<u32>,
    /// Guest RAM in bytes.
    pub memory_bytes: Option<u64>,
    /// The identity that the VM keeps for life, wherever it goes.
    pub vm_id: Option<String>,
    /// The identity of this running instance.
    pub instance_id: Option<String>,
    /// Why the guest cannot go on, in the state [`RunState::InternalError`].
    pub trouble: Option<String>,
}

/// One vCPU, for who looks after its host thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Its APIC id, by which vCPUs are numbered from 0.
    pub apic_id: u32,
    /// Its object.
    pub path: String,
    /// The host's thread that runs it; `None` under an accelerator that has none.
    pub thread_id: Option<u32>,
}

/// What stands behind a character device of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevInfo {
    /// The device's name, such as `serial0`.
    pub label: String,
    /// Where it leads, such as `pty:/dev/pts/3`, `unix:/run/web.console` or `stdio`.
    pub address: String,
    /// There is a guest with the device.
    pub has_guest: bool,
}

/// What the guest does when its snapshot is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterSnapshot {
    /// What it did before: a running guest runs on.
    Continue,
    /// It stays paused, so that the snapshot is its last word.
    Stop,
}

/// What becomes of a guest that was handed over without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It runs here: the user is sure that the receiver does not run it.
    Resume,
    /// It is dropped here: the user is sure that the receiver runs it.
    Discard,
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The user asked for it: the monitor, a signal, a key.
    Quit(ShutdownReason),
    /// The guest wrote this value to the test-exit port.
    GuestExit(u8),
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest reported that it crashed.
    GuestPanicked,
    /// The guest runs elsewhere, at this address.
    HandedOver {
        /// The URI that it was sent to.
        to: String,
    },
    /// The guest was handed over without an answer, and the user said that it is not needed here.
    Discarded,
    /// The guest or the accelerator could not go on; a sentence that says why.
    Failed(String),
}

/// Why a VM shut down or was reset, in QMP's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// The monitor's `quit`.
    HostQmpQuit,
    /// The monitor's `system_reset`.
    HostQmpSystemReset,
    /// SIGINT, SIGTERM or SIGHUP; the number.
    HostSignal(u8),
    /// The console's leave key.
    HostUi,
    /// The VMM failed.
    HostError,
    /// The guest asked to be switched off.
    GuestShutdown,
    /// The guest asked to be reset.
    GuestReset,
    /// The guest crashed.
    GuestPanic,
}

impl ShutdownReason {
    /// The name that QMP clients know from QEMU.
    #[must_use]
    pub fn qmp_name(self) -> &'static str {
        match self {
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostSignal(_) => "host-signal",
            Self::HostUi => "host-ui",
            Self::HostError => "host-error",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }

    /// Whether the guest itself caused it.
    #[must_use]
    pub fn by_guest(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReset | Self::GuestPanic)
    }
}

/// Something that happened to a VM and that its clients are told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The guest stands still now.
    Stop,
    /// The guest runs now.
    Resume,
    /// The guest has ended, or is made to.
    Shutdown(ShutdownReason),
    /// The machine was reset.
    Reset {
        /// On whose behalf.
        reason: ShutdownReason,
        /// What asked for it, for people: "a triple fault".
        by: String,
    },
    /// The machine's power button is pressed.
    Powerdown,
    /// The guest reports that it crashed and does not go on; the VM ends.
    GuestPanicked,
    /// The guest reports that it crashed and goes on with a kernel that saves a dump.
    GuestCrashLoaded,
    /// The guest cannot be executed any further. It stands still until it is reset.
    CannotGoOn {
        /// A sentence that says why.
        why: String,
    },
    /// A device that a user had added is gone.
    DeviceDeleted {
        /// Its id, where it had one.
        device: Option<String>,
        /// Where it was.
        path: String,
    },
    /// A device that the guest had let go of is there as before, because its handler refuses to take it off.
    DeviceStays {
        /// Its id, if it has one.
        device: Option<String>,
        /// Where it is.
        path: String,
    },
    /// A migration, snapshot or arrival has reached another status: its account at that moment.
    Migration(Arc<MigrationInfo>),
    /// A migration begins to send memory anew.
    MigrationPass {
        /// Which migration.
        job: JobId,
        /// Which round, from 1.
        pass: u32,
    },
    /// [`Control::ending`] says how the VM ended; nothing but the end of its migration follows. Clients of the monitor see the
    /// connection end.
    Ended,
}

/// Takes events. Called on whichever thread caused the event, so it must neither block nor call back into the VM.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event);
}

/// The subscribers of one VM: what a [`Control`] needs to implement [`Control::subscribe`].
#[derive(Default)]
pub struct EventHub(Mutex<Vec<Arc<dyn EventSink>>>);

impl EventHub {
    /// Adds a subscriber.
    pub fn subscribe(&self, sink: Arc<dyn EventSink>) {
        self.0.lock().push(sink);
    }

    /// Tells all subscribers. Events published by one thread arrive in order.
    pub fn publish(&self, event: &Event) {
        for sink in self.0.lock().iter() {
            sink.event(event);
        }
    }
}

impl std::fmt::Debug for EventHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EventHub({} subscribers)", self.0.lock().len())
    }
}

/// Why a request to a VM was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The VM is in a state in which the request makes no sense.
    #[error("cannot {operation} a VM that is {state}{remedy}")]
    WrongState {
        /// What was asked for, as a verb: `resume`.
        operation: &'static str,
        /// The state at the time.
        state: RunState,
        /// What the user can do instead, beginning with punctuation, or nothing: `; see "vm resolve"`.
        remedy: &'static str,
    },
    /// The state machine refused.
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// An object or a device did not come or go.
    #[error("{reason}")]
    Change {
        /// A sentence that says why.
        reason: String,
        /// There is none of that name.
        not_found: bool,
    },
    /// A property is not set.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// Only one migration or snapshot at a time.
    #[error(
        "another migration or snapshot of this VM is under way; wait for it, or cancel it by the QMP command \"migrate_cancel\""
    )]
    MigrationUnderWay,
    /// The guest is no longer this VM's to keep.
    #[error("the guest has been handed over already; if the receiver never ran it, decide with \"vm resolve\"")]
    HandedOver,
    /// Ending now could lose the only copy of a guest.
    #[error(
        "the guest was handed over, and whether the receiver runs it is not known: this may be the only copy of it; find out, and \
         then \"vm resolve NAME --resume\" runs it here, and \"vm resolve NAME --discard\" drops it and ends this VM"
    )]
    MayBeTheOnlyCopy,
    /// A path that would lie in a folder that the user does not know.
    #[error("the path in {uri:?} must be absolute: the VM has a working directory of its own")]
    RelativePath {
        /// The address as given.
        uri: String,
    },
    /// No hand-over waits for a decision.
    #[error("there is nothing to resolve: the guest of this VM has not been handed over")]
    NothingToResolve,
    /// An address of a migration that is none.
    #[error(transparent)]
    Uri(#[from] migration::uri::ParseUriError),
    /// A parameter out of its range.
    #[error("the parameter {parameter} cannot be {value}: {reason}")]
    Parameter {
        /// The parameter's name.
        parameter: &'static str,
        /// The value as given.
        value: String,
        /// Its range.
        reason: &'static str,
    },
    /// Anything else; a complete sentence about the user's situation.
    #[error("{0}")]
    Failed(String),
}

/// The pause that a migration may cost unless the user says otherwise.
pub const DEFAULT_DOWNTIME_LIMIT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<Event>>);

    impl EventSink for Recorder {
        fn event(&self, event: &Event) {
            self.0.lock().push(event.clone());
        }
    }

    #[test]
    fn every_subscriber_hears_every_event_in_order() {
        let hub = EventHub::default();
        let (early, late) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        hub.subscribe(early.clone());
        hub.publish(&Event::Resume);
        hub.subscribe(late.clone());
        hub.publish(&Event::Stop);
        assert_eq!(*early.0.lock(), [Event::Resume, Event::Stop]);
        assert_eq!(*late.0.lock(), [Event::Stop]);
    }

    #[test]
    fn a_refusal_names_the_state_and_the_remedy() {
        let error = ControlError::WrongState {
            operation: "resume",
            state: RunState::PostMigrate,
            remedy: "; see \"vm resolve\"",
        };
        assert_eq!(
            error.to_string(),
            "cannot resume a VM that is post-migrate; see \"vm resolve\""
        );
    }
}
