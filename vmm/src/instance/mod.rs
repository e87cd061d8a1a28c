//! A named place for one VM, as its faces see it: the [`Control`] of `vm run`, `vm restore` and `vm receive`.
//!
//! An instance exists before its VM does (a receiver waits for one) and outlives what happens to it. It starts what takes
//! long (sending, saving, receiving) on a thread of its own, one at a time, and keeps the account of it.

mod jobs;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use migration::fault::{Faults, NoFaults};
use migration::listener::Reach;
use migration::precopy::Deadlines;
use migration::progress::Progress;
use migration::snapshot::{RestoreError, RestoreOptions};
use migration::switchover::Limits;
use thiserror::Error;
use vmstate::qom::{Object, PropertyValue, TypeTable};

use crate::accel::HostFeatures;
use crate::control::{
    AfterSnapshot, ChardevInfo, Control, ControlError, DEFAULT_DOWNTIME_LIMIT, Ending, Event, EventSink, JobId,
    MigrationInfo, MigrationParameters, Resolution, ShutdownReason, VcpuInfo, VmInfo,
};
use crate::run_state::{IllegalTransition, RunState};
use crate::vm::{Arrivals, ChangeError, CreateError, Factory, Host, LifecycleError, Properties, Status, Vm, VmSpec};
use jobs::{Jobs, Quit};

/// What a user of an instance can choose beside the VM itself.
#[derive(Clone)]
pub struct InstanceOptions {
    /// Whether a receiver may be reached from other hosts.
    pub reach: Reach,
    /// Where transfers fail on purpose, for tests of the tests.
    pub faults: Arc<dyn Faults>,
    /// How long the other side of a migration may take.
    pub deadlines: Deadlines,
    /// Where the console is, for people and programs that look for it; `None` where there is none.
    pub console: Option<String>,
}

impl Default for InstanceOptions {
    fn default() -> Self {
        Self {
            reach: Reach::Loopback,
            faults: Arc::new(NoFaults),
            deadlines: Deadlines::default(),
            console: None,
        }
    }
}

/// Why a VM could not be started in an instance.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// It could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It could not be let run.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// It could not be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It was restored, and cannot run.
    #[error(transparent)]
    Vm(#[from] migration::vm::VmError),
    /// The instance has a VM already.
    #[error(transparent)]
    Taken(#[from] IllegalTransition),
}

/// Told of the instance's VM when there is one: connects the console.
pub type OnVm = Box<dyn Fn(&Arc<Vm>) + Send + Sync>;

/// A named place for one VM.
pub struct Instance {
    name: String,
    host: Host,
    options: InstanceOptions,
    status: Arc<Status>,
    vm: OnceLock<Arc<Vm>>,
    on_vm: OnVm,
    /// What the user has set for migrations. The one under way looks at it before each decision.
    limits: Limits,
    jobs: Jobs,
}

/// The longest pause that can be asked for: what QEMU allows.
const MAX_DOWNTIME_LIMIT: std::time::Duration = std::time::Duration::from_secs(2000);

impl Instance {
    /// An instance without a VM.
    #[must_use]
    pub fn new(name: impl Into<String>, host: Host, options: InstanceOptions, on_vm: OnVm) -> Arc<Self> {
        let instance = Arc::new(Self {
            name: name.into(),
            host,
            options,
            status: Arc::default(),
            vm: OnceLock::new(),
            on_vm,
            limits: DEFAULT_DOWNTIME_LIMIT.into(),
            jobs: Jobs::default(),
        });
        instance.jobs.set_owner(&instance);
        instance
    }

    /// Makes a VM and lets it run.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn boot(self: &Arc<Self>, spec: &VmSpec<'_>) -> Result<(), StartError> {
        let vm = Vm::create(&self.host, spec, Arc::clone(&self.status))?;
        self.arrived(&vm);
        Ok(vm.start()?)
    }

    /// Restores a snapshot and lets it run.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn restore(
        self: &Arc<Self>,
        path: &Path,
        name: Option<String>,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<(), StartError> {
        use migration::vm::DestinationVm;
        self.status.run_state.set(RunState::InMigrate)?;
        let mut restored = migration::snapshot::restore(path, options, &self.factory(name), progress)?;
        Ok(restored.vm.run()?)
    }

    fn factory(self: &Arc<Self>, name: Option<String>) -> Factory {
        let arrivals: Arc<dyn Arrivals> = self.clone();
        Factory::new(self.host.clone(), name, Arc::clone(&self.status), arrivals)
    }

    /// The VM, once there is one.
    #[must_use]
    pub fn vm(&self) -> Option<&Arc<Vm>> {
        self.vm.get()
    }

    fn vm_to(&self, operation: &'static str) -> Result<&Arc<Vm>, ControlError> {
        self.vm.get().ok_or_else(|| self.wrong_state(operation))
    }

    /// The VM for a transfer, or early on what holding it would say after all the work.
    fn vm_to_transfer(&self, operation: &'static str) -> Result<&Arc<Vm>, ControlError> {
        match self.status.run_state.get() {
            RunState::Running | RunState::Paused => self.vm_to(operation),
            _ => Err(self.wrong_state(operation)),
        }
    }

    fn wrong_state(&self, operation: &'static str) -> ControlError {
        let state = self.status.run_state.get();
        let remedy = match state {
            RunState::PostMigrate => "; decide what becomes of it with \"vm resolve\"",
            RunState::InMigrate => "; wait until its guest has arrived",
            RunState::InternalError => {
                "; \"system_reset\" and then \"cont\" at its monitor have its guest begin anew, and \"vm quit\" ends it"
            }
            _ => "",
        };
        ControlError::WrongState {
            operation,
            state,
            remedy,
        }
    }

    /// Changes what the VM has, while nothing takes it elsewhere.
    fn change(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Vm) -> Result<(), ChangeError>,
    ) -> Result<(), ControlError> {
        let vm = self.vm_to(operation)?;
        self.jobs.between(|| change(vm))?.map_err(|error| match error {
            ChangeError::Lifecycle(error) => self.control_error(operation, error),
            ChangeError::Property(error) => error.into(),
            error => ControlError::Change {
                not_found: matches!(error, ChangeError::NoDevice(_)),
                reason: error.to_string(),
            },
        })
    }

    fn control_error(&self, operation: &'static str, error: LifecycleError) -> ControlError {
        match error {
            LifecycleError::WrongState(_) => self.wrong_state(operation),
            LifecycleError::Illegal(error) => ControlError::IllegalTransition(error),
            other => ControlError::Failed(format!("cannot {operation} the VM: {other}")),
        }
    }
}

impl Arrivals for Instance {
    fn arrived(&self, vm: &Arc<Vm>) {
        if self.vm.set(Arc::clone(vm)).is_ok() {
            (self.on_vm)(vm);
        }
    }
}

impl Control for Instance {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn status(&self) -> RunState {
        self.status.run_state.get()
    }

    fn info(&self) -> VmInfo {
        let Some(vm) = self.vm.get() else {
            return VmInfo {
                accelerator: Some(self.host.accelerator.clone()),
                ..VmInfo::default()
            };
        };
        let recipe = vm.recipe();
        VmInfo {
            machine: Some(recipe.machine.clone()),
            accelerator: Some(self.host.accelerator.clone()),
            cpu_model: Some(recipe.cpu.name.clone()),
            cpus: u32::try_from(recipe.cpus.len()).ok(),
            memory_bytes: Some(recipe.memory),
            vm_id: Some(vm.identity().vm.to_string()),
            instance_id: Some(vm.identity().instance.to_string()),
            trouble: self.status.trouble(),
        }
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.vm_to("stop")?
            .stop()
            .map_err(|error| self.control_error("stop", error))
    }

    fn cont(&self) -> Result<(), ControlError> {
        self.vm_to("resume")?
            .cont()
            .map_err(|error| self.control_error("resume", error))
    }

    fn system_reset(&self) -> Result<(), ControlError> {
        let vm = self.vm_to("reset")?;
        vm.reset(ShutdownReason::HostQmpSystemReset)
            .map_err(|error| self.control_error("reset", error))
    }

    fn system_powerdown(&self) -> Result<(), ControlError> {
        const OPERATION: &str = "press the power button of";
        let vm = self.vm_to(OPERATION)?;
        vm.press_power_button().map_err(|error| match (error, self.status()) {
            (LifecycleError::WrongState(_), RunState::Paused) => ControlError::WrongState {
                operation: OPERATION,
                state: RunState::Paused,
                remedy: "; let it go on first",
            },
            (error, _) => self.control_error(OPERATION, error),
        })
    }

    fn quit(&self, reason: ShutdownReason) -> Result<(), ControlError> {
        if self.status.run_state.get() == RunState::PostMigrate {
            return Err(ControlError::MayBeTheOnlyCopy);
        }
        if self.jobs.cancel_for_quit() == Quit::LosesTheGuest {
            return Err(ControlError::HandedOver);
        }
        self.quit_anyway(reason);
        Ok(())
    }

    fn quit_anyway(&self, reason: ShutdownReason) {
        self.jobs.cancel_for_quit();
        self.status.events.publish(&Event::Shutdown(reason));
        self.status.end(Ending::Quit(reason));
    }

    fn ending(&self) -> Option<Ending> {
        self.status.ending()
    }

    fn migrate(&self, uri: &str) -> Result<JobId, ControlError> {
        let limits = self.limits.clone();
        self.jobs
            .send(self.vm_to_transfer("migrate")?, uri, limits, &self.options)
    }

    fn snapshot(&self, path: &Path, then: AfterSnapshot) -> Result<JobId, ControlError> {
        self.jobs
            .save(self.vm_to_transfer("snapshot")?, path, then, &self.options)
    }

    fn migrate_incoming(&self, uri: &str) -> Result<JobId, ControlError> {
        if self.vm.get().is_some() {
            return Err(ControlError::WrongState {
                operation: "receive a guest in",
                state: self.status.run_state.get(),
                remedy: "; a guest arrives in a process of its own: start one with \"vm receive URI\"",
            });
        }
        let name = Some(self.name.clone()).filter(|name| !name.is_empty());
        // The factory announces the arrival to this instance, which lives as long as the program's faces do.
        let me = self
            .jobs
            .owner()
            .ok_or_else(|| ControlError::Failed("the instance is about to end".to_owned()))?;
        self.jobs.receive(me.factory(name), &self.status, uri, &self.options)
    }

    fn migrate_cancel(&self) -> Result<(), ControlError> {
        self.jobs.cancel()
    }

    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError> {
        if let Some(limit) = parameters.downtime_limit {
            if limit > MAX_DOWNTIME_LIMIT {
                return Err(ControlError::Parameter {
                    parameter: "downtime-limit",
                    value: format!("{limit:?}"),
                    reason: "it is at most 2000 seconds",
                });
            }
            self.limits.downtime.set(limit);
        }
        if let Some(bytes_per_second) = parameters.max_bandwidth {
            self.limits.bandwidth.set(bytes_per_second);
        }
        if let Some(bytes_per_second) = parameters.switchover_bandwidth {
            self.limits.switchover_bandwidth.set(bytes_per_second);
        }
        Ok(())
    }

    fn parameters(&self) -> MigrationParameters {
        MigrationParameters {
            downtime_limit: Some(self.limits.downtime.get()),
            max_bandwidth: Some(self.limits.bandwidth.get().unwrap_or_default()),
            switchover_bandwidth: Some(self.limits.switchover_bandwidth.get().unwrap_or_default()),
        }
    }

    fn query_migrate(&self) -> MigrationInfo {
        self.jobs.info()
    }

    fn resolve(&self, decision: Resolution) -> Result<(), ControlError> {
        let vm = self.vm.get().ok_or(ControlError::NothingToResolve)?;
        let resolved = match decision {
            Resolution::Resume => vm.resolve_resume(),
            Resolution::Discard => vm.resolve_discard(),
        };
        resolved.map_err(|error| match error {
            LifecycleError::WrongState(_) => ControlError::NothingToResolve,
            error => self.control_error("resolve", error),
        })
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        let Some(vm) = self.vm.get() else { return Vec::new() };
        let threads = vm.accelerator().vcpu_threads();
        let cpus = vm.recipe().cpus.iter().zip(vm.board().cpus());
        let mut vcpus: Vec<_> = cpus
            .map(|(&apic_id, cpu)| VcpuInfo {
                apic_id,
                path: cpu.path(),
                thread_id: threads.iter().find(|(id, _)| *id == apic_id).map(|(_, thread)| *thread),
            })
            .collect();
        vcpus.sort_by_key(|vcpu| vcpu.apic_id);
        vcpus
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        let console = self.options.console.clone();
        let console = console.map(|address| ChardevInfo {
            label: "serial0".to_owned(),
            address,
            has_guest: self.vm.get().is_some(),
        });
        console.into_iter().collect()
    }

    fn object_add(&self, type_name: &str, id: &str, properties: Properties) -> Result<(), ControlError> {
        self.change("add an object to", |vm| vm.add_object(type_name, id, properties))
    }

    fn object_del(&self, id: &str) -> Result<(), ControlError> {
        self.change("delete an object of", |vm| vm.delete_object(id))
    }

    fn device_add(&self, driver: &str, id: Option<&str>, properties: Properties) -> Result<(), ControlError> {
        self.change("add a device to", |vm| vm.add_device(driver, id, properties))
    }

    fn device_del(&self, id: &str) -> Result<(), ControlError> {
        self.change("take a device off", |vm| vm.delete_device(id))
    }

    fn qom_set(&self, object: &Object, property: &str, value: PropertyValue) -> Result<(), ControlError> {
        self.change("set a property of", |vm| vm.set_property(object, property, value))
    }

    fn root(&self) -> Option<Arc<Object>> {
        self.vm.get().map(|vm| Arc::clone(vm.root()))
    }

    fn refresh_state(&self, object: &Object) -> Result<(), ControlError> {
        let refreshed = self.vm.get().map_or(Ok(()), |vm| vm.refresh_state(object));
        refreshed.map_err(|error| ControlError::Failed(error.to_string()))
    }

    fn types(&self) -> Arc<TypeTable> {
        Arc::clone(&self.host.types)
    }

    fn host_features(&self) -> Result<HostFeatures, ControlError> {
        let Host {
            accelerator,
            types,
            hidden_features,
            ..
        } = &self.host;
        let asked = match self.vm.get() {
            Some(vm) => HostFeatures::of(vm.accelerator().as_ref(), hidden_features),
            None => HostFeatures::ask(accelerator, types, hidden_features),
        };
        asked.map_err(|error| ControlError::Failed(error.to_string()))
    }

    fn subscribe(&self, sink: Arc<dyn EventSink>) {
        self.status.events.subscribe(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::control::MigrationStatus;
    use crate::test_support::TempDir;
    use crate::vm::Runner;
    use migration::vm::SourceVm;
    use parking_lot::Mutex;

    /// Nothing that these guests could ask for is served.
    struct Never;

    impl Runner for Never {
        fn defer(&self, _: Box<dyn FnOnce() + Send>) {}
    }

    fn instance() -> Arc<Instance> {
        instance_with(InstanceOptions::default())
    }

    fn instance_with(options: InstanceOptions) -> Arc<Instance> {
        let host = Host {
            types: TypeTable::gathered().expect("sound types"),
            accelerator: "qtest".to_owned(),
            console: None,
            runner: Arc::new(Never),
            hidden_features: Vec::new(),
            tsc: Default::default(),
        };
        Instance::new("a", host, options, Box::new(|_| ()))
    }

    fn boot(instance: &Arc<Instance>) {
        let spec = VmSpec {
            memory: 8 << 20,
            ..VmSpec::new("a", "")
        };
        instance.boot(&spec).expect("boots");
    }

    #[test]
    fn an_instance_can_be_asked_again_after_an_address_that_was_none() {
        let instance = instance();
        let refused = instance.migrate_incoming("tcp:127.0.0.1:none");
        assert!(matches!(refused, Err(ControlError::Uri { .. })), "{refused:?}");
        assert_eq!(instance.status(), RunState::Created);
        boot(&instance);
        assert_eq!(instance.status(), RunState::Running);
    }

    /// What was told of devices that went.
    #[derive(Default)]
    struct Gone(Mutex<Vec<Event>>);

    impl EventSink for Gone {
        fn event(&self, event: &Event) {
            if matches!(event, Event::DeviceDeleted { .. }) {
                self.0.lock().push(event.clone());
            }
        }
    }

    fn text(name: &str, value: &str) -> (String, PropertyValue) {
        (name.to_owned(), value.into())
    }

    /// An instance whose user has added a second serial port that writes to memory.
    fn with_second_port() -> Arc<Instance> {
        let instance = instance();
        boot(&instance);
        instance
            .object_add("chardev-ringbuf", "log", vec![text("size", "4K")])
            .expect("it fits");
        let properties = vec![text("iobase", "0x2f8"), text("irq", "3"), text("chardev", "log")];
        instance
            .device_add("serial16550", Some("com2"), properties)
            .expect("it fits");
        instance
    }

    fn write(vm: &Vm, port: u64, byte: u8) {
        vm.board().io().write(port, &[byte]).expect("a device is there");
    }

    #[test]
    fn a_user_adds_a_device_to_a_machine_that_runs_and_hears_when_it_is_gone() {
        let instance = with_second_port();
        let gone = Arc::<Gone>::default();
        instance.subscribe(gone.clone());
        let vm = instance.vm().expect("it boots");
        write(vm, 0x2f8, b'!');
        let log = vm.root().resolve("/objects/log").expect("added");
        assert_eq!(log.property("contents"), Ok("!".into()));
        let error = instance.object_del("log").expect_err("in use").to_string();
        assert_eq!(
            error,
            "/objects/log cannot be deleted: /machine/peripheral/com2 uses it"
        );
        instance.device_del("com2").expect("it goes");
        let told = Event::DeviceDeleted {
            device: Some("com2".to_owned()),
            path: "/machine/peripheral/com2".to_owned(),
        };
        assert_eq!(*gone.0.lock(), [told]);
        instance.object_del("log").expect("nothing uses it");
        let error = instance.device_del("com2").expect_err("gone");
        assert!(matches!(error, ControlError::Change { not_found: true, .. }), "{error}");
        assert_eq!(SourceVm::recipe(&**vm).objects, [], "nothing is left of either");
        let error = instance
            .device_del("/machine/serial0/clk")
            .expect_err("no device")
            .to_string();
        assert_eq!(error, "there is no device '/machine/serial0/clk'");
    }

    #[test]
    fn what_a_user_has_added_is_in_the_snapshot_and_is_there_after_the_restore() {
        let instance = with_second_port();
        let vm = instance.vm().expect("it boots");
        write(vm, 0x2ff, 0x5a);
        let folder = TempDir::new();
        let file = folder.path().join("a.tern");
        migration::snapshot::save(&**vm, &file, &migration::snapshot::SaveOptions::default(), &()).expect("saves");
        let restored = self::instance();
        restored
            .restore(&file, None, &RestoreOptions::default(), &())
            .expect("restores");
        let vm = restored.vm().expect("it has arrived");
        let port = vm.root().resolve("/machine/peripheral/com2").expect("it is there");
        assert_eq!(port.property("hotplugged"), Ok(PropertyValue::Bool(false)));
        assert_eq!(
            port.property("chardev"),
            Ok(PropertyValue::Link(Some("/objects/log".to_owned())))
        );
        let mut scratch = [0];
        vm.board().io().read(0x2ff, &mut scratch).expect("a device is there");
        assert_eq!(scratch, [0x5a]);
        restored.device_del("com2").expect("it goes from here, too");
        let left: Vec<_> = SourceVm::recipe(&**vm)
            .objects
            .into_iter()
            .map(|added| added.path)
            .collect();
        assert_eq!(left, ["/objects/log"]);
    }

    #[test]
    fn a_guest_arrives_in_a_process_of_its_own_and_the_refusal_says_so() {
        let instance = instance();
        boot(&instance);
        let error = instance.migrate_incoming("tcp:127.0.0.1:0").expect_err("has a guest");
        assert!(error.to_string().contains("\"vm receive URI\""), "{error}");
        assert_eq!(instance.status(), RunState::Running);
        assert_eq!(instance.query_migrate(), MigrationInfo::default());
    }

    #[test]
    fn paths_that_depend_on_where_the_process_stands_are_refused() {
        let instance = instance();
        for uri in ["unix:here", "unix:./here"] {
            let error = instance.migrate_incoming(uri).expect_err("relative").to_string();
            assert!(error.contains(uri) && error.contains("absolute"), "{error}");
        }
        boot(&instance);
        for uri in ["file:here.tern", "file:../here.tern", "unix:here"] {
            let error = instance.migrate(uri).expect_err("relative").to_string();
            assert!(error.contains(uri) && error.contains("absolute"), "{error}");
        }
        assert_eq!(instance.query_migrate(), MigrationInfo::default(), "nothing has begun");
    }

    #[test]
    fn every_job_has_a_number_of_its_own_in_its_account_and_in_each_of_its_events() {
        struct Heard(Mutex<Vec<MigrationInfo>>);
        impl EventSink for Heard {
            fn event(&self, event: &Event) {
                if let Event::Migration(account) = event {
                    self.0.lock().push(MigrationInfo::clone(account));
                }
            }
        }
        let instance = instance();
        boot(&instance);
        let heard = Arc::new(Heard(Mutex::default()));
        instance.subscribe(heard.clone());
        let nowhere = "file:/nowhere/at/all.tern";
        let mut begun = Vec::new();
        for _ in 0..2 {
            let job = instance.migrate(nowhere).expect("begins");
            while !instance.query_migrate().status.is_final() {
                std::thread::yield_now();
            }
            assert_eq!(instance.query_migrate().job, Some(job));
            begun.push(job);
        }
        assert_ne!(begun[0], begun[1]);
        while heard
            .0
            .lock()
            .iter()
            .filter(|account| account.status.is_final())
            .count()
            < 2
        {
            std::thread::yield_now();
        }
        for account in heard.0.lock().iter() {
            assert!(begun.contains(&account.job.expect("numbered")), "{account:?}");
            assert_eq!(account.to.as_deref(), Some(nowhere));
        }
    }

    fn wait_until_over(instance: &Instance) -> MigrationInfo {
        loop {
            let account = instance.query_migrate();
            if account.status.is_final() {
                return account;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_receiver_that_is_asked_to_quit_has_not_failed_and_leaves_no_socket_behind() {
        let dir = TempDir::new();
        let socket = dir.path().join("s");
        let uri = format!("unix:{}", socket.display());
        // Which of the two threads comes first is chance.
        for _ in 0..50 {
            let receiver = instance();
            receiver.migrate_incoming(&uri).expect("listens");
            receiver.quit(ShutdownReason::HostQmpQuit).expect("nothing is lost");
            // The process may end at once.
            assert!(!socket.exists());
            assert_eq!(wait_until_over(&receiver).status, MigrationStatus::Cancelled);
            assert_eq!(receiver.ending(), Some(Ending::Quit(ShutdownReason::HostQmpQuit)));
        }
    }

    #[test]
    fn a_receiver_that_could_not_tell_its_source_says_so_and_what_to_do_there() {
        let dir = TempDir::new();
        let uri = format!("unix:{}", dir.path().join("s").display());
        let plan: migration::fault::Plan = "destination:running:cut".parse().expect("a plan");
        let receiver = instance_with(InstanceOptions {
            faults: Arc::new(plan),
            ..InstanceOptions::default()
        });
        let source = instance();
        boot(&source);
        receiver.migrate_incoming(&uri).expect("listens");
        source.migrate(&uri).expect("begins");

        assert_eq!(wait_until_over(&source).status, MigrationStatus::Undecided);
        let account = wait_until_over(&receiver);
        assert_eq!(account.status, MigrationStatus::Completed);
        let told = account.error.expect("there is something to be done");
        assert!(told.contains("\"vm resolve NAME --discard\" there"), "{told}");
        assert_eq!(receiver.status(), RunState::Running);
        source.quit(ShutdownReason::HostQmpQuit).expect_err("undecided");
        source.resolve(Resolution::Discard).expect("decided");
        receiver
            .quit(ShutdownReason::HostQmpQuit)
            .expect("it runs the guest, and is asked to end it");
    }

    #[test]
    fn what_may_be_the_only_copy_of_a_guest_is_not_ended_by_the_way() {
        let instance = instance();
        boot(&instance);
        let vm = instance.vm().expect("booted");
        vm.pause().expect("pauses");
        vm.undecided();
        let error = instance
            .quit(ShutdownReason::HostQmpQuit)
            .expect_err("undecided")
            .to_string();
        assert!(error.contains("vm resolve NAME --resume"), "{error}");
        assert!(error.contains("vm resolve NAME --discard"), "{error}");
        assert_eq!(instance.ending(), None);
        instance.quit_anyway(ShutdownReason::HostSignal(15));
        assert_eq!(instance.ending(), Some(Ending::Quit(ShutdownReason::HostSignal(15))));
    }

    #[test]
    fn a_guest_that_may_run_elsewhere_is_neither_saved_nor_moved_before_somebody_decides() {
        let instance = instance();
        boot(&instance);
        let vm = instance.vm().expect("booted");
        vm.pause().expect("pauses");
        vm.undecided();
        let nowhere = std::env::temp_dir().join("tern-never-written.tern");
        for refused in [
            instance.snapshot(&nowhere, AfterSnapshot::Continue),
            instance.migrate("tcp:127.0.0.1:1"),
            instance.migrate(&format!("file:{}", nowhere.display())),
        ] {
            let error = refused.expect_err("undecided").to_string();
            assert!(error.contains("vm resolve"), "{error}");
        }
        assert_eq!(instance.status(), RunState::PostMigrate);
        assert!(!nowhere.exists());
    }
}
