//! Doorbells of a whole VM: a device that has some is added while the guest runs, rings without exits, and moves.

use hw::core::TestDev;
use migration::snapshot::{RestoreOptions, SaveOptions, restore, save};
use migration::vm::{DestinationVm as _, SourceVm as _};
use vmstate::qom::Obj;

use super::tests::Paper;
use super::*;
use crate::accel::kvm::KvmAccel;
use crate::boot::{BootFiles, testing::elf};
use crate::kvm_turn;
use crate::test_support::TempDir;

const ENTRY: u64 = 0x10_0000;
/// Rings the doorbell and writes a letter to the serial port, again and again.
const RING: &[u8] = &[
    0xbb, 0x00, 0x00, 0x00, 0xd1, // mov ebx, 0xd1000000
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x72, // mov al, 'r'
    0x89, 0x0b, // 1: mov [rbx], ecx
    0xee, // out dx, al
    0xeb, 0xfb, // jmp 1b
];

pub(super) struct Nobody;

impl Arrivals for Nobody {
    fn arrived(&self, _: &Arc<Vm>) {}
}

pub(super) fn host(accelerator: &str, console: &Arc<Paper>) -> Host {
    Host {
        types: TypeTable::gathered().expect("sound types"),
        accelerator: accelerator.to_owned(),
        console: Some(Arc::clone(console) as _),
        runner: Arc::new(ThreadRunner),
        hidden_features: Vec::new(),
        tsc: TscPolicy::default(),
    }
}

/// A VM that rings, with its device added while it runs.
fn ringing(accelerator: &str, console: &Arc<Paper>) -> Arc<Vm> {
    ringing_with(accelerator, console, Vec::new())
}

/// The same, with a device that has these properties.
pub(super) fn ringing_with(accelerator: &str, console: &Arc<Paper>, properties: Properties) -> Arc<Vm> {
    let kernel = elf(ENTRY, &[(ENTRY, RING, 4096)]);
    let spec = VmSpec {
        memory: 32 << 20,
        boot: BootFiles {
            kernel: &kernel,
            initrd: None,
            cmdline: "",
        },
        ..VmSpec::new("test", "")
    };
    let vm = Vm::create(&host(accelerator, console), &spec, Arc::default()).expect("made");
    vm.start().expect("runs");
    vm.add_device("tern-testdev", Some("td"), properties).expect("added");
    vm
}

/// How often the device of a VM that stands still was rung.
fn rung(vm: &Vm) -> usize {
    let device = vm.root().resolve("/machine/peripheral/td").expect("there");
    let device: Obj<TestDev> = Obj::new(device).expect("a test device");
    let rung = device.state().lock().rung;
    usize::try_from(rung).expect("64-bit")
}

/// Lets a guest run for some rounds, and expects that each of them was one ring and one exit: that of the letter.
fn rings_without_exits(vm: &Vm, paper: &Paper) {
    let accel = vm
        .root()
        .resolve("/machine/accel")
        .and_then(Obj::<KvmAccel>::new)
        .expect("KVM");
    let exits = || usize::try_from(accel.vm().expect("made").exits()).expect("64-bit");
    let before = (rung(vm), exits(), paper.length());
    vm.resume().expect("goes on");
    paper.wait_for_more(200);
    vm.pause().expect("pauses");
    let (rings, exits, letters) = (rung(vm) - before.0, exits() - before.1, paper.length() - before.2);
    assert!(rings.abs_diff(letters) <= 2, "{rings} rings in {letters} rounds");
    assert!(exits.abs_diff(letters) <= 20, "{exits} exits in {letters} rounds");
}

/// The VM as a snapshot brings it back, and held.
fn restored(vm: &Vm, accelerator: &str, console: &Arc<Paper>) -> Arc<Vm> {
    let folder = TempDir::new();
    let file = folder.path().join("a.tern");
    save(vm, &file, &SaveOptions::default(), &()).expect("saves");
    let factory = Factory::new(host(accelerator, console), None, Arc::default(), Arc::new(Nobody));
    let mut restored = restore(&file, &RestoreOptions::default(), &factory, &()).expect("restores");
    let vm = Arc::clone(restored.vm.vm());
    assert!(rung(&vm) > 0, "its state has come");
    restored.vm.run().expect("runs");
    vm
}

#[test]
fn a_device_with_doorbells_is_added_to_a_vm_rings_without_exits_and_is_restored() {
    let Some(_turn) = kvm_turn::turn(
        "vmm::vm::doorbell_tests::a_device_with_doorbells_is_added_to_a_vm_rings_without_exits_and_is_restored",
    ) else {
        return;
    };
    let paper = Arc::new(Paper::default());
    let vm = ringing("kvm", &paper);
    paper.wait_for_more(10);
    vm.pause().expect("pauses");
    rings_without_exits(&vm, &paper);
    vm.resume().expect("goes on");
    let copy_paper = Arc::new(Paper::default());
    let copy = restored(&vm, "kvm", &copy_paper);
    copy.pause().expect("pauses");
    rings_without_exits(&copy, &copy_paper);
}

#[test]
fn a_device_with_doorbells_is_added_where_there_are_no_processors_too() {
    let vm = ringing("qtest", &Arc::default());
    let written = vm.board().memory().write(0xd100_0000, &7_u32.to_le_bytes());
    written.expect("a device is there");
    let copy = restored(&vm, "qtest", &Arc::default());
    copy.pause().expect("pauses");
    assert_eq!(rung(&copy), 1);
}
