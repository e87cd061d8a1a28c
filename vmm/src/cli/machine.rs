//! Making the VMs of `vm run`, `vm restore` and `vm receive`: the one place where the command line meets the VM itself.

use std::{fmt, path::Path, sync::Arc};

use hw::{core::MachineType, i386::microvm::BoardError, timer::clock::TscPolicy};
use migration::{
    listener::Reach,
    snapshot::{RestoreOptions, Verify},
};
use vmstate::qom::TypeTable;

use super::{
    error::CliError,
    host::Foreground,
    progress::{Bar, SharedBar},
    receive, restore, run,
    trial::Trial,
};
use crate::{
    boot::{BootError, BootFiles},
    control::Control,
    event_loop::LoopHandle,
    guest::EMBEDDED_GUEST,
    instance::{Instance, InstanceOptions, StartError},
    vm::{CreateError, Host, Runner, Vm, VmSpec},
};

/// Has the main loop do what vCPUs ask for.
struct OnLoop(LoopHandle);

impl Runner for OnLoop {
    fn defer(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.defer(move |_| work());
    }
}

fn start_error<E: fmt::Display>(error: E) -> CliError {
    CliError::Start(format!("{error}"))
}

fn instance(accel: &str, reach: Reach, tsc: TscPolicy, foreground: &Foreground) -> Result<Arc<Instance>, CliError> {
    let trial = Trial::from_environment(foreground.messages())?;
    let console = foreground.console();
    let host = Host {
        types: TypeTable::gathered().map_err(start_error)?,
        accelerator: accel.to_owned(),
        console: Some(console.sink()),
        runner: Arc::new(OnLoop(foreground.event_loop())),
        hidden_features: trial.hidden_features.clone(),
        tsc,
    };
    let on_vm = Box::new(move |vm: &Arc<Vm>| console.attach(vm.console()));
    let name = foreground.name().to_string();
    let options = InstanceOptions {
        reach,
        faults: trial.faults(),
        deadlines: trial.deadlines,
        console: Some(foreground.console_address()),
    };
    let instance = Instance::new(name, host, options, on_vm);
    if let Some(subscriber) = trial.subscriber() {
        instance.subscribe(subscriber);
    }
    Ok(instance)
}

/// Reads a file of the boot payload. A device has no end, and a pipe may never come to one, with signals blocked already.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let contents = std::fs::metadata(path).and_then(|found| {
        if found.is_file() {
            std::fs::read(path)
        } else {
            Err(std::io::Error::other("it is no regular file"))
        }
    });
    contents.map_err(|error| CliError::File {
        action: "read",
        path: path.to_owned(),
        error,
    })
}

/// Why a VM did not boot, with the file that is to blame named.
fn boot_error(args: &run::Args, error: &StartError) -> CliError {
    let file = match error {
        StartError::Create(CreateError::Boot(error)) => match error {
            BootError::Kernel(_) | BootError::KernelTooLarge { .. } => args.kernel.as_deref(),
            BootError::InitrdTooLarge { .. } => args.initrd.as_deref(),
            _ => None,
        },
        _ => None,
    };
    match file {
        Some(file) => CliError::Start(format!("{}: {error}", file.display())),
        None => start_error(error),
    }
}

/// The name under which a machine is recorded, by what the user calls it.
fn machine_named(asked: Option<&str>) -> Result<String, CliError> {
    let types = TypeTable::gathered().map_err(start_error)?;
    let found = match asked {
        Some(name) => MachineType::find(&types, name).ok_or_else(|| BoardError::NoMachine(name.to_owned())),
        None => MachineType::default_of(&types).ok_or_else(|| BoardError::NoMachine("by default".to_owned())),
    };
    Ok(found.map_err(start_error)?.name.to_owned())
}

/// A VM that has booted and runs.
pub(super) fn boot(args: &run::Args, foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    let kernel = args.kernel.as_deref().map(read).transpose()?;
    let initrd = args.initrd.as_deref().map(read).transpose()?;
    let spec = VmSpec {
        machine: machine_named(args.machine.as_deref())?,
        cpu: args.cpu.clone(),
        cpus: args.cpus,
        memory: args.memory.0,
        globals: args.global.clone(),
        boot: BootFiles {
            kernel: kernel.as_deref().unwrap_or(EMBEDDED_GUEST),
            initrd: initrd.as_deref(),
            cmdline: &args.cmdline,
        },
        ..VmSpec::new(foreground.name().to_string(), "")
    };
    let instance = instance(&args.accel, Reach::Loopback, TscPolicy::Keep, foreground)?;
    instance.boot(&spec).map_err(|error| boot_error(args, &error))?;
    Ok(instance)
}

/// A VM that runs on from a snapshot.
pub(super) fn restore(args: &restore::Args, foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    let instance = instance(&args.accel, Reach::Loopback, args.tsc.policy(), foreground)?;
    let options = RestoreOptions {
        verify: match args.verify {
            restore::Verify::Full => Verify::All,
            restore::Verify::None => Verify::None,
        },
        ..RestoreOptions::default()
    };
    let name = Some(foreground.name().to_string());
    let bar = SharedBar::from(Bar::new("reading the snapshot", foreground.messages()));
    instance
        .restore(&args.file, name, &options, &bar)
        .map_err(start_error)?;
    Ok(instance)
}

/// A VM that waits for its guest; it does not listen yet.
pub(super) fn receiver(args: &receive::Args, foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    let reach = if args.allow_remote {
        Reach::Anywhere
    } else {
        Reach::Loopback
    };
    Ok(instance(&args.accel, reach, args.tsc.policy(), foreground)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_recorded_by_its_versioned_name_and_an_unknown_one_refused_with_the_remedy() {
        assert_eq!(
            machine_named(Some("microvm")).expect("an alias"),
            machine_named(None).expect("a default")
        );
        assert_eq!(machine_named(Some("microvm-1.0")).expect("a name"), "microvm-1.0");
        let error = machine_named(Some("q35")).expect_err("unknown").to_string();
        assert!(error.contains("q35") && error.contains("vm machines"), "{error}");
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let error = read(Path::new("/dev/zero")).expect_err("a device").to_string();
        assert!(
            error.contains("/dev/zero") && error.contains("no regular file"),
            "{error}"
        );
    }
}
