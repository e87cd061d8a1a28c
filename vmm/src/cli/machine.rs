//! Making the VMs of `vm run`, `vm restore` and `vm receive`: the one place where the command line meets the VM itself.

use std::{fmt, path::Path, sync::Arc};

use hw::{
    core::{MachineType, Release},
    i386::{
        cpu_model::{CpuSpec, DEFAULT_CPU_MODEL},
        microvm::BoardError,
    },
    timer::clock::TscPolicy,
};
use migration::{
    listener::Reach,
    progress::Progress,
    snapshot::{RestoreOptions, Verify},
};
use vmstate::qom::TypeTable;

use super::{
    error::CliError,
    host::{Foreground, Interruption},
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
    signals::explain_lost_memory,
    vm::{CreateError, Host, Runner, Vm, VmSpec},
};

/// Has the main loop do what vCPUs ask for.
struct OnLoop(LoopHandle);

impl Runner for OnLoop {
    fn defer(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.defer(move |_| work());
    }
}

pub(super) fn start_error<E: fmt::Display>(error: E) -> CliError {
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
    // Before there is a guest, whose first instruction may be its last.
    instance.subscribe(Arc::new(foreground.attention()));
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

/// The machine that a user calls `name`.
pub(super) fn machine_named(types: &TypeTable, name: &str) -> Result<MachineType, CliError> {
    MachineType::find(types, name).ok_or_else(|| start_error(BoardError::NoMachine(name.to_owned())))
}

/// The machine that a user gets who may have named one, and a release to which the VM is to be able to go back.
fn choose_machine(asked: Option<&str>, compat: Option<Release>) -> Result<MachineType, CliError> {
    let types = TypeTable::gathered().map_err(start_error)?;
    let Some(release) = compat else {
        return match asked {
            Some(name) => machine_named(&types, name),
            None => MachineType::default_of(&types)
                .ok_or_else(|| start_error(BoardError::NoMachine("by default".to_owned()))),
        };
    };
    if release > Release::this() {
        let text = format!(
            "--compat {release}: this is Tern {}, which knows no later one",
            Release::this()
        );
        return Err(CliError::Usage(text));
    }
    match asked {
        Some(name) => {
            let machine = machine_named(&types, name)?;
            known_since("machine", machine.name, machine.class.since, release)?;
            Ok(machine)
        }
        None => MachineType::default_of_release(&types, release).ok_or_else(|| {
            let first = Release::FIRST;
            CliError::Usage(format!("--compat {release}: the first release is {first}"))
        }),
    }
}

/// Refuses what a release did not know.
fn known_since(what: &str, name: &str, since: Release, release: Release) -> Result<(), CliError> {
    if since <= release {
        return Ok(());
    }
    let text =
        format!("--compat {release}: the {what} {name} came with {since}; choose an older one, or a later release");
    Err(CliError::Usage(text))
}

/// The CPU model as the user wrote it, if what `compat` names knew it.
fn choose_cpu(asked: Option<&str>, compat: Option<Release>) -> Result<Option<String>, CliError> {
    if let (Some(release), Ok(spec)) = (compat, asked.unwrap_or(DEFAULT_CPU_MODEL).parse::<CpuSpec>()) {
        known_since("CPU model", spec.model().name, spec.model().since, release)?;
    }
    Ok(asked.map(str::to_owned))
}

/// A VM that has booted and runs.
pub(super) fn boot(args: &run::Args, foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    let kernel = args.kernel.as_deref().map(read).transpose()?;
    let initrd = args.initrd.as_deref().map(read).transpose()?;
    let spec = VmSpec {
        machine: choose_machine(args.machine.as_deref(), args.compat)?.name.to_owned(),
        cpu: choose_cpu(args.cpu.as_deref(), args.compat)?,
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
    if options.verify == Verify::None {
        // Of the snapshot's file, as nothing else is mapped that somebody could shorten.
        let lost = CliError::MemoryLost {
            name: foreground.name().clone(),
            file: std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone()),
        };
        let line = format!("{}\n", foreground.messages().error_line(&lost));
        explain_lost_memory(line, lost.exit_code().code()).map_err(CliError::Process)?;
    }
    let reading = Reading {
        bar: SharedBar::from(Bar::new("reading the snapshot", foreground.messages())),
        interruption: foreground.interruption(),
    };
    instance
        .restore(&args.file, name, &options, &reading)
        .map_err(start_error)?;
    Ok(instance)
}

/// Shows how a snapshot is read, and stops that at the user's wish.
struct Reading {
    bar: SharedBar,
    interruption: Arc<Interruption>,
}

impl Progress for Reading {
    fn advanced(&self, done: u64, total: u64) {
        self.bar.advanced(done, total);
    }

    fn cancelled(&self) -> bool {
        self.interruption.came().is_some()
    }
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

    fn machine(asked: Option<&str>, compat: Option<&str>) -> Result<&'static str, String> {
        let compat = compat.map(|release| release.parse().expect("a release"));
        let chosen = choose_machine(asked, compat);
        chosen.map(|machine| machine.name).map_err(|error| error.to_string())
    }

    #[test]
    fn a_machine_is_recorded_by_its_versioned_name_and_an_unknown_one_refused_with_the_remedy() {
        assert_eq!(machine(Some("microvm"), None), machine(None, None));
        assert_eq!(machine(Some("microvm-1.0"), None), Ok("microvm-1.0"));
        let error = machine(Some("q35"), None).expect_err("unknown");
        assert!(error.contains("q35") && error.contains("vm machines"), "{error}");
    }

    #[test]
    fn a_vm_that_may_have_to_go_back_gets_what_the_older_release_knew() {
        assert_eq!(machine(None, Some("0.1")), Ok("microvm-1.1"));
        assert_eq!(machine(Some("microvm-1.0"), Some("0.1.3")), Ok("microvm-1.0"));
        for (compat, says) in [("99.0", "knows no later one"), ("0.0", "the first release is 0.1")] {
            let error = machine(None, Some(compat)).expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
        let since = Release { major: 0, minor: 2 };
        let error = known_since("machine", "microvm-1.2", since, Release::FIRST).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "--compat 0.1: the machine microvm-1.2 came with 0.2; choose an older one, or a later release"
        );
        assert_eq!(
            choose_cpu(Some("host"), Some(Release::FIRST)).expect("known"),
            Some("host".to_owned())
        );
        assert_eq!(choose_cpu(None, Some(Release::FIRST)).expect("known"), None);
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
