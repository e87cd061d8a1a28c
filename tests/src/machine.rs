//! A virtual machine in the test's own process, by the library that `vm` is made of.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use hw::char::CharSink;
use hw::memory::RamBlock;
use hw::timer::clock::TscPolicy;
use migration::ident::ContentHash;
use migration::schemas::SchemaTable;
use migration::snapshot::{RestoreError, RestoreOptions, Restored, restore};
use migration::vm::{SourceVm, hash_of};
use parking_lot::{Condvar, Mutex};
use vmm::accel::qtest::QtestAccel;
use vmm::vm::{Arrival, Arrivals, Factory, Host, ThreadRunner, Vm, VmSpec};
use vmstate::qom::{Obj, TypeTable};
use vmstate::state::encode;

use crate::guest::EmbeddedGuest;
use crate::log::{Log, PATIENCE};

/// The end of a serial console at which the test sits.
#[derive(Debug, Default)]
pub struct Terminal {
    screen: Log,
    room: Mutex<bool>,
    has_room: Condvar,
}

impl CharSink for Terminal {
    fn try_write(&self, bytes: &[u8]) -> usize {
        self.screen.append(bytes);
        bytes.len()
    }

    fn input_room(&self) {
        *self.room.lock() = true;
        self.has_room.notify_all();
    }
}

impl Terminal {
    /// Hands `keys` to the guest, as fast as it takes them.
    fn type_keys(&self, vm: &Vm, keys: &str) -> Result<(), String> {
        let (console, deadline) = (vm.console(), Instant::now() + PATIENCE);
        let mut rest = keys.as_bytes();
        loop {
            *self.room.lock() = false;
            rest = &rest[console.receive(rest)..];
            if rest.is_empty() {
                return Ok(());
            }
            let mut room = self.room.lock();
            while !*room {
                if self.has_room.wait_until(&mut room, deadline).timed_out() {
                    return Err(format!("the guest does not take {:?}", String::from_utf8_lossy(rest)));
                }
            }
        }
    }
}

/// A place for one VM: an accelerator, and a console of its own.
#[derive(Clone)]
pub struct Site {
    host: Host,
    terminal: Arc<Terminal>,
}

struct Unannounced;

impl Arrivals for Unannounced {
    fn arrived(&self, _: &Arc<Vm>) {}
}

impl Site {
    /// A place that shares nothing with any other, not even the table of types.
    ///
    /// # Panics
    ///
    /// If the types of this program do not fit together.
    #[must_use]
    pub fn new(accelerator: &str) -> Self {
        let terminal = Arc::<Terminal>::default();
        let host = Host {
            types: TypeTable::gathered().expect("the types fit together"),
            accelerator: accelerator.to_owned(),
            console: Some(terminal.clone()),
            runner: Arc::new(ThreadRunner),
            hidden_features: Vec::new(),
            tsc: Default::default(),
        };
        Self { host, terminal }
    }

    /// The same place, where a guest is taken whatever speed its TSC has counted at.
    #[must_use]
    pub fn tolerating_tsc(mut self) -> Self {
        self.host.tsc = TscPolicy::Tolerate;
        self
    }

    /// A VM that has booted and runs.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[must_use]
    #[track_caller]
    pub fn boot(&self, spec: &VmSpec<'_>) -> Machine {
        let vm = Vm::create(&self.host, spec, Arc::default()).expect("the VM can be made");
        vm.start().expect("the VM runs");
        self.machine(&vm)
    }

    /// What makes VMs here for a transfer.
    #[must_use]
    pub fn factory(&self) -> Factory {
        Factory::new(self.host.clone(), None, Arc::default(), Arc::new(Unannounced))
    }

    /// Restores a snapshot, up to but without its first instruction.
    ///
    /// # Errors
    ///
    /// As [`restore`].
    pub fn restore(
        &self,
        file: &std::path::Path,
        options: &RestoreOptions,
    ) -> Result<Restored<Arrival>, Box<RestoreError>> {
        Ok(restore(file, options, &self.factory(), &())?)
    }

    /// A VM that was made here.
    #[must_use]
    pub fn machine(&self, vm: &Arc<Vm>) -> Machine {
        Machine {
            vm: Arc::clone(vm),
            terminal: Arc::clone(&self.terminal),
            read_to: 0,
        }
    }
}

/// A VM and its console.
pub struct Machine {
    /// The VM.
    pub vm: Arc<Vm>,
    terminal: Arc<Terminal>,
    read_to: usize,
}

impl Machine {
    /// What stands in for a processor of a machine under `qtest`.
    ///
    /// # Panics
    ///
    /// If it is under another accelerator.
    #[must_use]
    pub fn processor(&self) -> Obj<QtestAccel> {
        let accel = self.vm.root().resolve("/machine/accel").and_then(Obj::new);
        accel.expect("a machine under qtest")
    }
}

impl EmbeddedGuest for Machine {
    #[track_caller]
    fn type_keys(&mut self, keys: &str) {
        if let Err(why) = self.terminal.type_keys(&self.vm, keys) {
            panic!("{why}\n{}", self.console());
        }
    }

    #[track_caller]
    fn wait_line(&mut self, what: &str, wanted: impl FnMut(&str) -> bool) -> String {
        match self.terminal.screen.wait_line(&mut self.read_to, wanted) {
            Ok(line) => line,
            Err(why) => panic!("waiting for {what}: {why}\n{}", self.console()),
        }
    }

    fn console(&self) -> String {
        self.terminal.screen.text()
    }

    fn about(&self) -> String {
        let status = self.vm.status();
        format!("the VM is {}, {:?}", status.run_state.get(), status.ending())
    }
}

/// An object's state as it travels: whose, described by what, in which bytes.
pub type EncodedSection = (String, String, Vec<u8>);

/// The state of every object of a VM that stands still, as the sections of a file have it.
///
/// # Panics
///
/// If it cannot be saved.
#[must_use]
#[track_caller]
pub fn encoded_state(vm: &Vm) -> Vec<EncodedSection> {
    let table = SchemaTable::new(&vm.schemas());
    let sections = vm.sections().expect("the state can be saved");
    let encoded = sections.into_iter().map(|section| {
        let (_, schema) = table.get(&section.path, &section.description).expect("announced");
        let bytes = encode(schema, &section.value).expect("the state fits its description");
        (section.path, section.description, bytes)
    });
    encoded.collect()
}

/// Expects that states are the same, byte for byte.
///
/// # Panics
///
/// If they are not; the sections that differ are named.
#[track_caller]
pub fn assert_same_state(what: &str, one: &[EncodedSection], other: &[EncodedSection]) {
    let differing: Vec<_> = one.iter().zip(other).filter(|(one, other)| one != other).collect();
    assert!(
        differing.is_empty() && one.len() == other.len(),
        "{what}: {differing:?}"
    );
}

/// A digest of every RAM block of a VM, by name.
///
/// # Panics
///
/// If a block cannot be read.
#[must_use]
pub fn ram_digests(vm: &Vm) -> Vec<(String, ContentHash)> {
    let digest = |block: &Arc<RamBlock>| {
        let hash = hash_of(block, block.size()).expect("all of a block can be read");
        (block.name().to_owned(), hash)
    };
    vm.ram().iter().map(digest).collect()
}

/// Where the RAM of two VMs differs: block by block, the ranges of bytes, joined where less than 16 lie between them.
///
/// # Panics
///
/// If a block cannot be read.
#[must_use]
pub fn ram_differences(one: &Vm, other: &Vm) -> Vec<(String, Range<u64>)> {
    const STEP: u64 = 1 << 20;
    let mut found: Vec<(String, Range<u64>)> = Vec::new();
    for (one, other) in one.ram().iter().zip(&other.ram()) {
        assert_eq!((one.name(), one.size()), (other.name(), other.size()));
        for start in (0..one.size()).step_by(1 << 20) {
            let length = usize::try_from(STEP.min(one.size() - start)).expect("a MiB at most");
            let [left, right] = [one, other].map(|block| {
                let mut bytes = vec![0; length];
                block.read(start, &mut bytes).expect("all of a block can be read");
                bytes
            });
            if left == right {
                continue;
            }
            let differs = (start..)
                .zip(left.iter().zip(&right))
                .filter(|(_, (left, right))| left != right);
            for (at, _) in differs {
                match found.last_mut() {
                    Some((name, last)) if name == one.name() && at < last.end + 16 => last.end = at + 1,
                    _ => found.push((one.name().to_owned(), at..at + 1)),
                }
            }
        }
    }
    found
}
