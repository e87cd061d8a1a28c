//! State goes through a file and through an accelerator, and nothing of it changes.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use hw::i386::cpu::X86Cpu;
use migration::snapshot::{RestoreOptions, SaveOptions, Snapshot, save};
use migration::vm::{DestinationVm, SourceVm};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::machine::{
    EncodedSection, Machine, Site, assert_same_state, encoded_state, ram_differences, ram_digests,
};
use tern_tests::needs_kvm;
use tern_tests::process::Scratch;
use vmm::run_state::RunState;
use vmm::vm::{Vm, VmSpec};
use vmstate::qom::Obj;
use vmstate::qom::sections::{IncomingSection, load_tree};
use vmstate::state::{StructValue, Value, encode};

/// A guest with everything busy: timers and interrupts between processors by themselves, memory and floating point by
/// its work.
const BUSY: &str = "mib=16 beat=20 rate=max dirty=8";
/// How often a guest is caught in the middle of its work.
const TIMES: u32 = 6;

fn saved(vm: &Vm, file: &Path) -> Vec<EncodedSection> {
    save(vm, file, &SaveOptions::default(), &()).expect("saved");
    let snapshot = Snapshot::open(file).expect("whole");
    let sections = snapshot.into_sections().into_iter();
    sections
        .map(|section| (section.path, section.description, section.bytes))
        .collect()
}

#[track_caller]
fn assert_reads_back(vm: &Vm) {
    let differences = vm.accelerator().readback_compare().expect("can be read back");
    let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Expects the same RAM, but for what the host keeps in it by the guest's own wish: kvmclock's time of each processor,
/// which every load tells anew.
#[track_caller]
fn assert_same_ram(one: &Vm, other: &Vm) {
    /// Bytes of a `pvclock_vcpu_time_info`.
    const TIME_INFO: u64 = 32;
    let is_enabled = |msr: u64| msr & 1 != 0;
    let cpus = one.board().cpus().iter().map(Arc::clone);
    let clocks = cpus.map(|cpu| {
        let cpu: Obj<X86Cpu> = Obj::new(cpu).expect("a vCPU");
        cpu.state().lock().msrs.kvm_system_time
    });
    let clocks: Vec<_> = clocks.filter(|&msr| is_enabled(msr)).map(|msr| msr & !1).collect();
    let mut differences = ram_differences(one, other);
    differences.retain(|(block, bytes)| {
        let told = |&clock: &u64| clock <= bytes.start && bytes.end <= clock + TIME_INFO;
        block != "ram" || !clocks.iter().any(told)
    });
    assert_eq!(differences, []);
}

fn spec(cpus: u32, cmdline: &str) -> VmSpec<'_> {
    VmSpec {
        cpus,
        memory: 64 << 20,
        ..VmSpec::new("round-trip", cmdline)
    }
}

/// Saves a stopped guest twice and restores it, and looks everywhere for a difference; returns the restored guest,
/// stopped.
#[track_caller]
fn round_trip(guest: &Machine, accelerator: &str) -> Machine {
    let files = Scratch::new();
    let vm = &guest.vm;
    let (state, ram) = (encoded_state(vm), ram_digests(vm));
    let first = saved(vm, &files.file("first"));
    assert_same_state("a file holds the state of the objects", &state, &first);
    assert_same_state("saved twice in one pause", &first, &saved(vm, &files.file("second")));
    assert_same_state("saving does not change the source", &state, &encoded_state(vm));
    assert_eq!(ram_digests(vm), ram);
    assert_eq!(vm.status().run_state.get(), RunState::Paused);
    assert_reads_back(vm);

    let site = Site::new(accelerator);
    let restored = site.restore(&files.file("first"), &RestoreOptions::default());
    let mut restored = restored.expect("restored");
    let copy = Arc::clone(restored.vm.vm());
    assert_reads_back(&copy);
    assert_same_state("loaded", &first, &encoded_state(&copy));
    assert_same_ram(vm, &copy);
    restored.vm.run().expect("stands as its user left it");
    assert_eq!(copy.status().run_state.get(), RunState::Paused);
    assert_same_state(
        "saved again without running",
        &first,
        &saved(&copy, &files.file("again")),
    );
    assert_reads_back(&copy);
    site.machine(&copy)
}

fn a_busy_guest_makes_round_trips(cpus: u32) {
    let mut guest = Site::new("kvm").boot(&spec(cpus, BUSY));
    guest.wait_ready();
    for _ in 0..TIMES {
        guest.wait_beat();
        guest.vm.stop().expect("stops");
        let copy = round_trip(&guest, "kvm");
        // The source has not noticed anything either.
        guest.vm.cont().expect("goes on");
        guest.wait_beat();
        copy.vm.cont().expect("goes on");
        guest = copy;
    }
    guest.verify();
}

#[test]
fn a_busy_guest_with_one_processor_reads_back_and_saves_again_as_it_was_loaded() {
    needs_kvm!();
    a_busy_guest_makes_round_trips(1);
}

#[test]
fn a_busy_guest_with_two_processors_reads_back_and_saves_again_as_it_was_loaded() {
    needs_kvm!();
    a_busy_guest_makes_round_trips(2);
}

#[test]
fn a_guest_that_is_saved_while_it_runs_goes_on_as_if_nothing_had_been_asked() {
    needs_kvm!();
    let mut guest = Site::new("kvm").boot(&spec(2, BUSY));
    guest.wait_ready();
    let files = Scratch::new();
    for _ in 0..3 {
        let state = saved(&guest.vm, &files.file("running"));
        assert_eq!(guest.vm.status().run_state.get(), RunState::Running);
        guest.wait_beat();
        guest.verify();

        let site = Site::new("kvm");
        let restored = site.restore(&files.file("running"), &RestoreOptions::default());
        let mut restored = restored.expect("restored");
        let mut copy = site.machine(restored.vm.vm());
        assert_same_state("loaded", &state, &encoded_state(&copy.vm));
        assert_reads_back(&copy.vm);
        restored.vm.run().expect("runs");
        assert_eq!(copy.vm.status().run_state.get(), RunState::Running);
        copy.wait_beat();
        copy.verify();
    }
}

#[test]
fn no_key_is_lost_on_its_way_to_a_guest_that_is_saved_all_the_time() {
    needs_kvm!();
    let mut guest = Site::new("kvm").boot(&spec(1, "mib=1 beat=0"));
    guest.wait_ready();
    let (files, vm) = (Scratch::in_memory(), Arc::clone(&guest.vm));
    thread::scope(|scope| {
        let saving = scope.spawn(|| {
            for _ in 0..50 {
                saved(&vm, &files.file("again"));
            }
        });
        while !saving.is_finished() {
            guest.verify();
        }
    });
}

#[test]
fn every_field_that_is_changed_comes_out_of_a_file_as_it_was_put_in() {
    let site = Site::new("qtest");
    let machine = site.boot(&VmSpec {
        memory: 8 << 20,
        ..spec(2, "")
    });
    machine.vm.stop().expect("stops");
    let schemas = machine.vm.schemas();
    let mut sections = machine.vm.sections().expect("the state can be saved");
    for section in &mut sections {
        // Whether the machine runs where it arrives is not to be changed here.
        if section.description != "machine" {
            change(&mut section.value);
        }
    }
    let incoming = sections.iter().zip(&schemas).map(|(section, schema)| IncomingSection {
        path: section.path.clone(),
        description: section.description.clone(),
        writer_schema: Arc::new(schema.schema.clone()),
        bytes: encode(&schema.schema, &section.value).expect("the state fits its description"),
    });
    load_tree(machine.vm.root(), incoming.collect(), &[]).expect("loaded");
    assert_eq!(machine.vm.sections().expect("the state can be saved"), sections);
    let copy = round_trip(&machine, "qtest");
    assert_eq!(copy.vm.sections().expect("the state can be saved"), sections);
}

/// Changes every leaf of a state, within its type.
fn change(state: &mut StructValue) {
    let names: Vec<_> = state.fields().map(|(name, _)| name.to_string()).collect();
    for name in names {
        change_value(state.get_mut(&name).expect("it is there"));
    }
}

fn change_value(value: &mut Value) {
    match value {
        Value::Bool(value) => *value = !*value,
        Value::Uint(value) => *value ^= 1,
        Value::Int(value) => *value ^= 1,
        Value::F64(value) => *value = 1.0 - *value,
        Value::Bytes(bytes) => bytes.iter_mut().for_each(|byte| *byte ^= 0xff),
        Value::Str(text) => text.push('x'),
        Value::Array(elements) => elements.iter_mut().for_each(change_value),
        Value::Struct(value) => change(value),
        Value::Option(Some(value)) => change_value(value),
        // Another variant would take its type to know; the accelerator's tests have them.
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| change_value(value)),
        Value::Bits(bits) => (0..bits.len()).for_each(|bit| _ = bits.set(bit, !bits.get(bit))),
        Value::Deadline(deadline) => *deadline = deadline.map_or(Some(1), |_| None),
        Value::Option(None) | Value::Enum(_) => {}
    }
}
