//! A VM for tests of the faces: it remembers what it was asked, and does nothing else.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use vmstate::qom::{Object, PropertyValue, TypeTable};

use crate::{
    accel::HostFeatures,
    control::{
        AfterSnapshot, ChardevInfo, Control, ControlError, DEFAULT_DOWNTIME_LIMIT, Ending, Event, EventHub, EventSink,
        JobId, MigrationInfo, MigrationParameters, MigrationStatus, Resolution, ShutdownReason, VcpuInfo, VmInfo,
    },
    run_state::RunState,
    vm::Properties,
};

/// What a VM can be asked to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Stop,
    Cont,
    Reset,
    Powerdown,
    Quit(ShutdownReason),
    Migrate(String),
    Snapshot(PathBuf, AfterSnapshot),
    Incoming(String),
    Cancel,
    Parameters(MigrationParameters),
    Resolve(Resolution),
    ObjectAdd(String, String, Properties),
    ObjectDel(String),
    DeviceAdd(String, Option<String>, Properties),
    DeviceDel(String),
}

/// See the module's description.
pub(crate) struct FakeVm {
    asked: Mutex<Vec<Asked>>,
    refuses: bool,
    pub(crate) hub: EventHub,
    pub(crate) status: Mutex<RunState>,
    pub(crate) migration: Mutex<MigrationInfo>,
    pub(crate) ending: Mutex<Option<Ending>>,
    queries: AtomicUsize,
    types: Arc<TypeTable>,
    root: Arc<Object>,
}

impl Default for FakeVm {
    fn default() -> Self {
        let types = TypeTable::gathered().expect("the gathered types are sound");
        let container = || types.new_object("container").expect("containers can be made");
        let root = container();
        root.add_child("machine", container()).expect("a fresh name");
        Self {
            asked: Mutex::default(),
            refuses: false,
            hub: EventHub::default(),
            status: Mutex::new(RunState::Running),
            migration: Mutex::default(),
            ending: Mutex::default(),
            queries: AtomicUsize::new(0),
            types,
            root,
        }
    }
}

impl FakeVm {
    /// One that refuses whatever it is asked to do.
    pub(crate) fn refusing() -> Self {
        Self {
            refuses: true,
            ..Self::default()
        }
    }

    /// What it was asked to do, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// How often it was asked how its migration stands.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// Ends as a VM does.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
        self.hub.publish(&Event::Ended);
    }

    /// Begins the job that comes next.
    fn begin(&self, what: Asked) -> Result<JobId, ControlError> {
        self.ask(what)?;
        let mut migration = self.migration.lock();
        let job = JobId(migration.job.map_or(1, |job| job.0 + 1));
        *migration = MigrationInfo {
            job: Some(job),
            status: MigrationStatus::Setup,
            ..MigrationInfo::default()
        };
        Ok(job)
    }

    /// Brings the job that runs, or ran last, to a status and tells it.
    pub(crate) fn reach(&self, status: MigrationStatus) {
        let account = {
            let mut migration = self.migration.lock();
            migration.status = status;
            migration.clone()
        };
        self.hub.publish(&Event::Migration(Arc::new(account)));
    }

    fn ask(&self, what: Asked) -> Result<(), ControlError> {
        if self.refuses {
            return Err(ControlError::Failed("the fake refuses".into()));
        }
        self.asked.lock().push(what);
        Ok(())
    }
}

impl Control for FakeVm {
    fn name(&self) -> String {
        "fake".into()
    }

    fn status(&self) -> RunState {
        *self.status.lock()
    }

    fn info(&self) -> VmInfo {
        VmInfo {
            cpus: Some(2),
            memory_bytes: Some(256 << 20),
            ..VmInfo::default()
        }
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.ask(Asked::Stop)?;
        *self.status.lock() = RunState::Paused;
        self.hub.publish(&Event::Stop);
        Ok(())
    }

    fn cont(&self) -> Result<(), ControlError> {
        self.ask(Asked::Cont)?;
        *self.status.lock() = RunState::Running;
        self.hub.publish(&Event::Resume);
        Ok(())
    }

    fn system_reset(&self) -> Result<(), ControlError> {
        self.ask(Asked::Reset)
    }

    fn system_powerdown(&self) -> Result<(), ControlError> {
        self.ask(Asked::Powerdown)
    }

    fn quit(&self, reason: ShutdownReason) -> Result<(), ControlError> {
        if *self.status.lock() == RunState::PostMigrate {
            return Err(ControlError::MayBeTheOnlyCopy);
        }
        self.quit_anyway(reason);
        Ok(())
    }

    fn quit_anyway(&self, reason: ShutdownReason) {
        self.asked.lock().push(Asked::Quit(reason));
        self.end(Ending::Quit(reason));
    }

    fn ending(&self) -> Option<Ending> {
        self.ending.lock().clone()
    }

    fn migrate(&self, uri: &str) -> Result<JobId, ControlError> {
        self.begin(Asked::Migrate(uri.into()))
    }

    fn snapshot(&self, path: &Path, then: AfterSnapshot) -> Result<JobId, ControlError> {
        self.begin(Asked::Snapshot(path.into(), then))
    }

    fn migrate_incoming(&self, uri: &str) -> Result<JobId, ControlError> {
        self.begin(Asked::Incoming(uri.into()))
    }

    fn migrate_cancel(&self) -> Result<(), ControlError> {
        self.ask(Asked::Cancel)
    }

    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError> {
        self.ask(Asked::Parameters(parameters))
    }

    fn parameters(&self) -> MigrationParameters {
        MigrationParameters {
            downtime_limit: Some(DEFAULT_DOWNTIME_LIMIT),
            max_bandwidth: Some(0),
            switchover_bandwidth: Some(0),
        }
    }

    fn object_add(&self, type_name: &str, id: &str, properties: Properties) -> Result<(), ControlError> {
        self.ask(Asked::ObjectAdd(type_name.into(), id.into(), properties))
    }

    fn object_del(&self, id: &str) -> Result<(), ControlError> {
        self.ask(Asked::ObjectDel(id.into()))
    }

    fn device_add(&self, driver: &str, id: Option<&str>, properties: Properties) -> Result<(), ControlError> {
        self.ask(Asked::DeviceAdd(driver.into(), id.map(str::to_owned), properties))
    }

    fn device_del(&self, id: &str) -> Result<(), ControlError> {
        self.ask(Asked::DeviceDel(id.into()))
    }

    fn qom_set(&self, object: &Object, property: &str, value: PropertyValue) -> Result<(), ControlError> {
        Ok(object.set_property(property, value)?)
    }

    fn query_migrate(&self) -> MigrationInfo {
        self.queries.fetch_add(1, Ordering::SeqCst);
        self.migration.lock().clone()
    }

    fn resolve(&self, decision: Resolution) -> Result<(), ControlError> {
        self.ask(Asked::Resolve(decision))
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        let vcpu = |apic_id, thread_id| VcpuInfo {
            apic_id,
            path: format!("/machine/cpu-{apic_id}"),
            thread_id,
        };
        vec![vcpu(0, Some(4711)), vcpu(1, None)]
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        vec![ChardevInfo {
            label: "serial0".to_owned(),
            address: "pty:/dev/pts/3".to_owned(),
            has_guest: true,
        }]
    }

    fn root(&self) -> Option<Arc<Object>> {
        Some(Arc::clone(&self.root))
    }

    fn refresh_state(&self, _: &Object) -> Result<(), ControlError> {
        Ok(())
    }

    fn types(&self) -> Arc<TypeTable> {
        Arc::clone(&self.types)
    }

    fn host_features(&self) -> Result<HostFeatures, ControlError> {
        Ok(HostFeatures::default())
    }

    fn subscribe(&self, sink: Arc<dyn EventSink>) {
        self.hub.subscribe(sink);
    }
}
