//! KVM at work: programs of a few instructions, run, paused, saved and restored.

use std::time::Instant;

use hw::i386::cpu::X86Cpu;
use hw::i386::cpu_model::CpuSpec;
use hw::i386::cpu_state::{CpuState, MpState};
use hw::i386::cpuid::{CpuidEntry, CpuidTable};
use hw::i386::msr_account::{MsrVerdict, verdict};
use hw::intc::apic::{Apic, ApicState};
use hw::intc::i8259::I8259;
use hw::memory::DirtyClient;
use hw::timer::clock::{ClockState, GuestClock, TimePolicy, TscPolicy};
use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap};
use vmstate::qom::{Obj, ObjectPart};

use super::compare::Comparison;
use super::testing::{COUNTER, DEVICE, Guest, Heard, turn};
use super::{CrashCause, TOLERATED};
use crate::accel::{AccelError, VcpuEvent};

/// mov al, 'A'; out 0x80, al; jmp $
const HELLO: &[u8] = &[0xb0, 0x41, 0xe6, 0x80, 0xeb, 0xfe];
/// 1: inc dword [0x8000]; jmp 1b
const COUNT: &[u8] = &[0xff, 0x05, 0x00, 0x80, 0x00, 0x00, 0xeb, 0xf8];
/// mov esi, 0x2000; mov ecx, 4; mov dx, 0x80; cld; rep outsb; jmp $
const STRING: &[u8] = &[
    0xbe, 0x00, 0x20, 0x00, 0x00, 0xb9, 0x04, 0x00, 0x00, 0x00, 0x66, 0xba, 0x80, 0x00, 0xfc, 0xf3, 0x6e, 0xeb, 0xfe,
];
/// in al, 0x80; out 0x80, al; jmp $
const ECHO: &[u8] = &[0xe4, 0x80, 0xe6, 0x80, 0xeb, 0xfe];
/// 1: mov dword [0xd0000ffe], 0x44332211; jmp 1b: a store across two pages of a device.
const STRADDLE: &[u8] = &[0xc7, 0x05, 0xfe, 0x0f, 0x00, 0xd0, 0x11, 0x22, 0x33, 0x44, 0xeb, 0xf4];
/// lidt [0x3000] (a table of no length); ud2
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x01, 0x1d, 0x00, 0x30, 0x00, 0x00, 0x0f, 0x0b];
/// lidt [0x3000] (a table of no length); mov ecx, 0xdead; rdmsr: a register that no processor has.
const UNKNOWN_MSR: &[u8] = &[
    0x0f, 0x01, 0x1d, 0x00, 0x30, 0x00, 0x00, 0xb9, 0xad, 0xde, 0x00, 0x00, 0x0f, 0x32, 0xe6, 0x80, 0xeb, 0xfe,
];
/// Writes a byte to every other page of 16 from 1 MiB on, says something and loops.
const DIRTY: &[u8] = &[
    0xbf, 0x00, 0x00, 0x10, 0x00, // mov edi, 0x100000
    0xb9, 0x10, 0x00, 0x00, 0x00, // mov ecx, 16
    0xc6, 0x07, 0x01, // 1: mov byte [edi], 1
    0x81, 0xc7, 0x00, 0x20, 0x00, 0x00, // add edi, 0x2000
    0x49, 0x75, 0xf4, // dec ecx; jnz 1b
    0xe6, 0x80, 0xeb, 0xfe, // out 0x80, al; jmp $
];
/// Asks CPUID the questions (EAX, ECX) from 0x8000 on, as many as the word at 0x7000 says, writes the answers from 0xa000 on
/// and says something.
const ASK: &[u8] = &[
    0xbe, 0x00, 0x80, 0x00, 0x00, // mov esi, 0x8000
    0xbf, 0x00, 0xa0, 0x00, 0x00, // mov edi, 0xa000
    0x8b, 0x2d, 0x00, 0x70, 0x00, 0x00, // mov ebp, [0x7000]
    0x8b, 0x06, 0x8b, 0x4e, 0x04, 0x0f, 0xa2, // 1: mov eax, [esi]; mov ecx, [esi+4]; cpuid
    0x89, 0x07, 0x89, 0x5f, 0x04, 0x89, 0x4f, 0x08, 0x89, 0x57, 0x0c, // mov [edi], eax; and ebx, ecx, edx
    0x83, 0xc6, 0x08, 0x83, 0xc7, 0x10, // add esi, 8; add edi, 16
    0x4d, 0x75, 0xe5, // dec ebp; jnz 1b
    0xe6, 0x80, 0xeb, 0xfe, // out 0x80, al; jmp $
];
/// Leaves state in every corner, says 0x42 and counts.
const RICH: &[u8] = &[
    0x0f, 0x20, 0xe0, 0x0d, 0x00, 0x02, 0x00, 0x00, 0x0f, 0x22, 0xe0, // cr4 |= OSFXSR
    0x0f, 0x10, 0x1d, 0x00, 0x20, 0x00, 0x00, // movups xmm3, [0x2000]
    0xb9, 0x77, 0x02, 0x00, 0x00, 0xb8, 0x06, 0x04, 0x01, 0x00, 0xba, 0x06, 0x04, 0x07, 0x00, 0x0f, 0x30, // PAT
    0xb9, 0x02, 0x01, 0x00, 0xc0, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xba, 0xbc, 0x1a, 0x00, 0x00, 0x0f,
    0x30, // GS base
    0xb9, 0x74, 0x01, 0x00, 0x00, 0xb8, 0x08, 0x00, 0x00, 0x00, 0x31, 0xd2, 0x0f, 0x30, // SYSENTER_CS = 8
    0xb9, 0x01, 0x4d, 0x56, 0x4b, 0xb8, 0x01, 0x50, 0x00, 0x00, 0x0f, 0x30, // kvmclock at 0x5000
    0xb9, 0x00, 0x4d, 0x56, 0x4b, 0xb8, 0x00, 0x51, 0x00, 0x00, 0x0f, 0x30, // wall clock at 0x5100
    0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x23, 0xc8, // dr1 = 0x1000
    0xbb, 0x00, 0x00, 0xe0, 0xfe, // ebx = the local APIC
    0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // enabled, spurious vector 0xff
    0xc7, 0x83, 0x80, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00, 0x00, // task priority 0x20
    0xc7, 0x83, 0xe0, 0x03, 0x00, 0x00, 0x0b, 0x00, 0x00, 0x00, // timer divided by 1
    0xc7, 0x83, 0x20, 0x03, 0x00, 0x00, 0x40, 0x00, 0x02, 0x00, // periodic, vector 0x40
    0xc7, 0x83, 0x80, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, // counts from 0x1000000
    0xbb, 0x00, 0x00, 0xc0, 0xfe, // ebx = the I/O APIC
    0xc7, 0x03, 0x18, 0x00, 0x00, 0x00, 0xc7, 0x43, 0x10, 0x34, 0x00, 0x01, 0x00, // pin 4: masked, vector 0x34
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x30, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6,
    0x21, // 8259 at 0x30
    0xb0, 0xfa, 0xe6, 0x21, // all masked but 0 and 2
    0xb0, 0xb6, 0xe6, 0x43, 0xb0, 0xa9, 0xe6, 0x42, 0xb0, 0x04, 0xe6, 0x42, // 8254 channel 2: mode 3, 1193
    0xbd, 0x11, 0x11, 0x11, 0x11, // ebp = 0x11111111
    0xb0, 0x42, 0xe6, 0x80, // out 0x80, 0x42
    0xff, 0x05, 0x00, 0x80, 0x00, 0x00, 0xeb, 0xf8, // 1: inc dword [0x8000]; jmp 1b
];
/// Starts the second processor at 0x7000 by INIT and SIPI, and counts.
const START_SECOND: &[u8] = &[
    0xbb, 0x00, 0x00, 0xe0, 0xfe, // ebx = the local APIC
    0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // enabled
    0xc7, 0x83, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x00,
    0x00, // INIT to APIC 1
    0xc7, 0x83, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x07, 0x46, 0x00,
    0x00, // SIPI to APIC 1, page 7
    0xff, 0x05, 0x00, 0x80, 0x00, 0x00, 0xeb, 0xf8, // 1: inc dword [0x8000]; jmp 1b
];
/// In real mode: mov al, 0x50; out 0x80, al; 1: inc word [0x8100]; jmp 1b
const SECOND: &[u8] = &[0xb0, 0x50, 0xe6, 0x80, 0xff, 0x06, 0x00, 0x81, 0xeb, 0xfa];
/// Where the second processor counts.
const SECOND_COUNTER: u64 = 0x8100;

fn part<T: ObjectPart>(guest: &Guest, path: &str) -> Obj<T> {
    let object = guest
        .board
        .root()
        .resolve(path)
        .unwrap_or_else(|| panic!("no object at {path}"));
    Obj::new(object).unwrap_or_else(|| panic!("{path} is of another type"))
}

fn cpu(guest: &Guest, id: u32) -> CpuState {
    part::<X86Cpu>(guest, &format!("/machine/cpu-{id}"))
        .state()
        .lock()
        .clone()
}

fn apic(guest: &Guest, id: u32) -> ApicState {
    part::<Apic>(guest, &format!("/machine/cpu-{id}/apic"))
        .state()
        .lock()
        .clone()
}

fn clock(guest: &Guest) -> ClockState {
    part::<GuestClock>(guest, "/machine/clock").state().lock().clone()
}

/// The state of both processors of a guest.
fn held(guest: &Guest) -> Vec<(CpuState, ApicState)> {
    (0..2).map(|id| (cpu(guest, id), apic(guest, id))).collect()
}

fn differences(one: &[(CpuState, ApicState)], other: &[(CpuState, ApicState)]) -> Vec<String> {
    let mut comparison = Comparison::new(true, TscPolicy::Keep);
    for (one, other) in one.iter().zip(other) {
        comparison.object("cpu", &one.0, &other.0);
        comparison.object("apic", &one.1, &other.1);
    }
    comparison
        .found()
        .into_iter()
        .map(|difference| difference.to_string())
        .collect()
}

#[test]
fn what_a_guest_writes_to_a_port_reaches_the_device() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, HELLO);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(b'A'));
}

#[test]
fn what_a_device_answers_reaches_the_guest() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, ECHO);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x5a));
}

#[test]
fn a_string_instruction_is_as_many_accesses_as_it_counts() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, STRING);
    guest.write(0x2000, b"tern");
    guest.run();
    for byte in b"tern" {
        assert_eq!(guest.hear(), Heard::Byte(*byte));
    }
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_where_it_was() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, COUNT);
    guest.run();
    for _ in 0..20 {
        guest.wait_for_change(COUNTER, guest.word(COUNTER));
        guest.accel.pause().expect("pauses");
        let (count, state) = (guest.word(COUNTER), guest.sections());
        guest.accel.pause().expect("is paused");
        assert_eq!(guest.word(COUNTER), count);
        assert_eq!(guest.sections(), state, "state is read once per pause");
        guest.run();
    }
}

#[test]
fn state_is_read_from_a_guest_that_runs_and_runs_on() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(2, START_SECOND);
    guest.write(0x7000, SECOND);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x50), "the second one runs");
    let refresh = |path: &str| {
        let object = guest.board.root().resolve(path).expect("it is there");
        guest.accel.refresh(&object).expect("it is read");
    };
    refresh("/machine/clock");
    let earlier = clock(&guest);
    for _ in 0..10 {
        let counted = (guest.word(COUNTER), guest.word(SECOND_COUNTER));
        for path in [
            "/machine/cpu-0",
            "/machine/cpu-1",
            "/machine/cpu-1/apic",
            "/machine/ioapic",
            "/machine/pic",
            "/machine/pit",
        ] {
            refresh(path);
        }
        assert!(
            (0x1000..0x1100).contains(&cpu(&guest, 0).general.rip),
            "{:#x}",
            cpu(&guest, 0).general.rip
        );
        assert!(
            (4..10).contains(&cpu(&guest, 1).general.rip),
            "{:#x}",
            cpu(&guest, 1).general.rip
        );
        assert_eq!(apic(&guest, 1).id, 1);
        guest.wait_for_change(COUNTER, counted.0);
        guest.wait_for_change(SECOND_COUNTER, counted.1);
    }
    refresh("/machine/clock");
    let later = clock(&guest);
    assert!(later.kvmclock_ns > earlier.kvmclock_ns);
    assert_eq!(later.tsc_differences.len(), 2);
    // What was read is no pause: that one reads anew.
    let counted = guest.word(COUNTER);
    guest.wait_for_change(COUNTER, counted);
    guest.accel.pause().expect("pauses");
    assert!(clock(&guest).kvmclock_ns > later.kvmclock_ns);
    refresh("/machine/cpu-0");
}

#[test]
fn to_look_at_a_processor_that_stands_for_an_event_does_not_let_it_go_on() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, TRIPLE_FAULT);
    guest.write(0x3000, &[0; 8]);
    guest.run();
    assert!(matches!(
        guest.hear(),
        Heard::Event(0, VcpuEvent::ResetRequested { .. })
    ));
    let object = guest.board.root().resolve("/machine/cpu-0").expect("it is there");
    for _ in 0..3 {
        guest.accel.refresh(&object).expect("it is read");
    }
    assert!(guest.heard.try_recv().is_err(), "it has not run into the fault again");
    guest.accel.pause().expect("pauses");
}

#[test]
fn a_pause_completes_the_accesses_that_are_under_way() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, STRADDLE);
    for _ in 0..20 {
        guest.run();
        assert_eq!(guest.hear(), Heard::Mmio(0xffe, 0x11));
        guest.accel.pause().expect("pauses");
        let rest: Vec<_> = guest.heard.try_iter().collect();
        let whole = [
            Heard::Mmio(0xffe, 0x11),
            Heard::Mmio(0xfff, 0x22),
            Heard::Mmio(0x1000, 0x33),
            Heard::Mmio(0x1001, 0x44),
        ];
        assert_eq!(rest.len() % 4, 3, "stores to {DEVICE:#x} are made whole");
        assert!(
            rest.iter()
                .zip(whole.iter().cycle().skip(1))
                .all(|(heard, wanted)| heard == wanted)
        );
    }
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_reported_with_its_bytes() {
    let Some(_turn) = turn() else { return };
    // nop; int3; nop, with a table of one gate for INT3 that leads on to the port, where KVM can deliver it.
    let guest = Guest::new(1, &[0x90, 0xcc, 0x90, 0xb0, 0x01, 0xe6, 0x80, 0xeb, 0xfe]);
    guest.run();
    match guest.hear() {
        Heard::Event(0, VcpuEvent::Crashed(report)) => {
            assert!(
                matches!(report.cause, CrashCause::InternalError { suberror: 1, .. }),
                "{report}"
            );
            assert_eq!(
                (report.rip, report.instruction.first()),
                (Some(0x1001), Some(&0xcc)),
                "{report}"
            );
            assert!(report.to_string().contains("instruction bytes cc"), "{report}");
        }
        // A KVM that runs this natively has no interrupt table to deliver it through.
        Heard::Event(0, VcpuEvent::ResetRequested { .. }) => {}
        other => panic!("{other:?}"),
    }
    guest.accel.pause().expect("a crashed guest can be looked at");
    assert!(cpu(&guest, 0).general.rip >= 0x1001);
}

#[test]
fn a_triple_fault_asks_for_a_reset_after_which_the_guest_begins_anew() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, TRIPLE_FAULT);
    guest.run();
    assert_eq!(
        guest.hear(),
        Heard::Event(0, VcpuEvent::ResetRequested { by: "a triple fault" })
    );
    guest.accel.pause().expect("pauses");
    guest.write(super::testing::ENTRY, HELLO);
    guest.accel.reset(&Guest::boot()).expect("resets");
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(b'A'));
}

#[test]
fn an_unknown_register_is_a_general_protection_fault_also_where_it_comes_as_an_exit() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, UNKNOWN_MSR);
    let accel = part::<super::KvmAccel>(&guest, "/machine/accel");
    let mut enable = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    enable.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN.into();
    // A KVM without it injects the fault by itself.
    let _ = accel.vm().expect("made").guest_vm().fd().enable_cap(&enable);
    guest.run();
    assert_eq!(
        guest.hear(),
        Heard::Event(0, VcpuEvent::ResetRequested { by: "a triple fault" })
    );
}

#[test]
fn a_reset_undoes_everything() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(2, RICH);
    guest.accel.pause().expect("pauses");
    let fresh = held(&guest);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x42));
    guest.accel.pause().expect("pauses");
    assert_ne!(differences(&fresh, &held(&guest)), [""; 0]);
    guest.accel.reset(&Guest::boot()).expect("resets");
    assert_eq!(guest.accel.readback_compare().expect("reads"), []);
    assert_eq!(differences(&fresh, &held(&guest)), [""; 0]);
}

#[test]
fn state_loaded_into_another_vm_reads_back_as_it_was() {
    let Some(_turn) = turn() else { return };
    let source = Guest::new(2, RICH);
    source.write(0x2000, &[7; 16]);
    source.run();
    assert_eq!(source.hear(), Heard::Byte(0x42));
    source.wait_for_change(COUNTER, 0);
    source.accel.pause().expect("pauses");
    let saved = source.sections();
    let state = cpu(&source, 0);
    assert_eq!(state.general.rbp, 0x1111_1111);
    assert_eq!(state.xsave.sse.as_ref().map(|sse| sse.xmm[3]), Some([7; 16]));
    assert_eq!(
        (state.msrs.pat, state.msrs.kernel_gs_base),
        (0x0007_0406_0001_0406, 0x1abc_1234_5678)
    );
    assert_eq!(
        (state.msrs.kvm_system_time, state.msrs.kvm_wall_clock),
        (0x5001, 0x5100)
    );
    assert_eq!(state.debug.dr[1], 0x1000);
    assert_eq!(
        (apic(&source, 0).task_priority, apic(&source, 0).timer_initial),
        (0x20, 0x100_0000)
    );

    let copy = Guest::bare(2);
    copy.take_over(&source);
    copy.accel.push().expect("loads");
    assert_eq!(copy.accel.readback_compare().expect("reads"), []);
    assert_eq!(copy.sections(), saved, "what is saved again is the same");
    assert_eq!(
        copy.word(0x5100 + 4),
        source.word(0x5100 + 4),
        "the wall clock is as the guest was told"
    );

    let count = copy.word(COUNTER);
    copy.run();
    copy.wait_for_change(COUNTER, count);
    source.run();
    source.wait_for_change(COUNTER, count);
}

#[test]
fn a_comparison_finds_each_register_that_is_not_as_loaded() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, COUNT);
    guest.accel.pause().expect("pauses");
    let object = part::<X86Cpu>(&guest, "/machine/cpu-0");
    object.state().lock().general.rbx ^= 1;
    object.state().lock().msrs.lstar = 5;
    part::<Apic>(&guest, "/machine/cpu-0/apic").state().lock().lvt_error = 0x1_0055;
    let found = guest.accel.readback_compare().expect("reads");
    let fields: Vec<_> = found.iter().map(|difference| difference.field.as_str()).collect();
    let wanted = [
        "/machine/cpu-0: general.rbx",
        "/machine/cpu-0: msrs.lstar",
        "/machine/cpu-0/apic: lvt_error",
    ];
    assert_eq!(fields, wanted);
    assert!(TOLERATED.iter().all(|row| !row.reason.is_empty()));
}

#[test]
fn a_register_that_kvm_refuses_fails_the_load_by_name() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, COUNT);
    guest.accel.pause().expect("pauses");
    part::<X86Cpu>(&guest, "/machine/cpu-0")
        .state()
        .lock()
        .msrs
        .mtrr_fix_64k_00000 = 2;
    let error = guest.accel.push().expect_err("no such memory type");
    assert!(matches!(error, AccelError::CannotHold { .. }), "{error}");
    assert!(
        error.to_string().contains("/machine/cpu-0: msrs.mtrr_fix_64k_00000"),
        "{error}"
    );
}

#[test]
fn every_register_that_this_kvm_lists_is_saved_or_accounted_for() {
    let Some(_turn) = turn() else { return };
    let listed = kvm_ioctls::Kvm::new()
        .and_then(|kvm| kvm.get_msr_index_list())
        .expect("a list");
    let unknown: Vec<_> = listed
        .as_slice()
        .iter()
        .filter(|index| matches!(verdict(**index), MsrVerdict::Unknown))
        .collect();
    assert!(unknown.is_empty(), "nobody knows what becomes of {unknown:x?}");
}

#[test]
fn a_guest_that_uses_what_no_model_offers_is_not_saved_without_it() {
    let Some(_turn) = turn() else { return };
    const MCG_STATUS: u32 = 0x17a;
    let guest = Guest::new(1, COUNT);
    let accel = part::<super::KvmAccel>(&guest, "/machine/accel");
    let vm = accel.vm().expect("made");
    // As a guest does that takes machine checks for granted.
    if !vm.set_msr(MCG_STATUS, 4) {
        return;
    }
    let error = guest
        .accel
        .pause()
        .expect_err("has state that is not described")
        .to_string();
    assert!(
        error
            .contains("vCPU 0 cannot be saved: the guest uses machine checks, which Tern does not describe (MSR 0x17a"),
        "{error}"
    );
    assert!(vm.set_msr(MCG_STATUS, 0));
    guest.accel.pause().expect("nothing is in the way");
}

#[test]
fn a_guest_has_no_paravirtual_feature_but_those_of_its_table() {
    let Some(_turn) = turn() else { return };
    const MIGRATION_CONTROL: u32 = 0x4b56_4d08;
    let mut program = UNKNOWN_MSR.to_vec();
    program[8..12].copy_from_slice(&MIGRATION_CONTROL.to_le_bytes());
    let guest = Guest::new(1, &program);
    guest.run();
    assert_eq!(
        guest.hear(),
        Heard::Event(0, VcpuEvent::ResetRequested { by: "a triple fault" })
    );
}

#[test]
fn the_second_processor_waits_until_it_is_started_and_moves_along() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(2, START_SECOND);
    guest.accel.pause().expect("pauses");
    assert_eq!(cpu(&guest, 1).mp_state, MpState::Uninitialized);
    guest.write(0x7000, SECOND);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x50));
    guest.accel.pause().expect("pauses");
    assert_eq!(cpu(&guest, 1).mp_state, MpState::Runnable);
    assert_eq!((apic(&guest, 0).id, apic(&guest, 1).id), (0, 1));

    let copy = Guest::bare(2);
    copy.take_over(&guest);
    copy.accel.push().expect("loads");
    assert_eq!(copy.accel.readback_compare().expect("reads"), []);
    let (first, second) = (copy.word(COUNTER), copy.word(SECOND_COUNTER));
    copy.run();
    copy.wait_for_change(COUNTER, first);
    copy.wait_for_change(SECOND_COUNTER, second);
}

#[test]
fn a_dirty_log_tells_the_pages_that_the_guest_wrote() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, DIRTY);
    let memory = guest.board.memory();
    let ram = guest.board.ram();
    memory.log_global_start(DirtyClient::Migration).expect("logs");
    // As a first round does: all pages are taken and watched from now on.
    memory.log_clear(ram, 0..ram.size()).expect("clears");
    memory.log_sync().expect("harvests");
    let _ = ram.dirty().take(DirtyClient::Migration, 0..ram.size());
    guest.run();
    guest.hear();
    memory.log_sync().expect("harvests");
    let dirty = ram.dirty().take(DirtyClient::Migration, 0x10_0000..0x20_0000);
    let wanted: Vec<_> = (0..16)
        .map(|page| 0x10_0000 + page * 0x2000)
        .map(|start| start..start + 0x1000)
        .collect();
    assert_eq!(dirty, wanted);

    // Not cleared, so still dirty; half of it cleared, so half of it.
    memory.log_clear(ram, 0x10_0000..0x11_0000).expect("clears");
    memory.log_sync().expect("harvests");
    let dirty = ram.dirty().take(DirtyClient::Migration, 0x10_0000..0x20_0000);
    assert_eq!(dirty, wanted[8..]);

    memory.log_global_stop(DirtyClient::Migration);
    assert!(memory.take_failure().is_none());
}

#[test]
fn lines_that_move_during_a_pause_are_told_when_the_guest_goes_on() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, RICH);
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x42));
    let pic = || part::<I8259>(&guest, "/machine/pic").state().lock().primary.clone();
    let lines = guest.accel.irq_sink();
    guest.accel.pause().expect("pauses");
    lines.set_level(4, true);
    assert_eq!(pic().last_levels & 0x10, 0, "state was taken at the pause");
    guest.run();
    guest.accel.pause().expect("pauses");
    assert_eq!(pic().last_levels & 0x10, 0x10);

    // The line falls during the pause, so another VM is told although it never saw it high.
    lines.set_level(4, false);
    let copy = Guest::bare(1);
    copy.take_over(&guest);
    copy.accel.push().expect("loads");
    copy.accel.irq_sink().set_level(4, false);
    copy.run();
    copy.accel.pause().expect("pauses");
    let pic = part::<I8259>(&copy, "/machine/pic").state().lock().primary.clone();
    assert_eq!(pic.last_levels & 0x10, 0);
}

/// Lets time pass, more of it than a pause and a resume take.
fn live_through_another_guest() {
    for _ in 0..4 {
        let other = Guest::new(1, COUNT);
        other.run();
        other.wait_for_change(COUNTER, 0);
        other.accel.pause().expect("pauses");
    }
}

#[test]
fn guest_time_stands_still_during_a_pause() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, COUNT);
    guest.run();
    guest.wait_for_change(COUNTER, 0);
    guest.accel.pause().expect("pauses");
    let before = clock(&guest);
    live_through_another_guest();
    let started = Instant::now();
    guest.run();
    guest.accel.pause().expect("pauses");
    let took = u64::try_from(started.elapsed().as_nanos()).expect("short");
    let passed = clock(&guest).kvmclock_ns - before.kvmclock_ns;
    assert!(passed <= took, "kvmclock has counted {passed} ns in {took} ns");

    // And is made up for where the user wants that.
    let (before, paused) = (clock(&guest), Instant::now());
    live_through_another_guest();
    let stood = u64::try_from(paused.elapsed().as_nanos()).expect("short");
    guest.accel.resume(TimePolicy::JumpToNow).expect("runs");
    guest.accel.pause().expect("pauses");
    assert!(clock(&guest).kvmclock_ns - before.kvmclock_ns >= stood);
}

#[test]
fn a_frequency_that_the_host_cannot_give_fails_the_load_unless_it_is_tolerated() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, COUNT);
    guest.accel.pause().expect("pauses");
    part::<GuestClock>(&guest, "/machine/clock").state().lock().tsc_khz *= 2;
    if guest.accel.tsc_scales() {
        guest.accel.push().expect("loads");
        assert_eq!(guest.accel.readback_compare().expect("reads"), []);
        return;
    }
    let error = guest.accel.push().expect_err("cannot scale").to_string();
    assert!(
        error.contains("the TSC frequency of vCPU 0") && error.contains("kHz"),
        "{error}"
    );
    guest.accel.set_tsc_policy(TscPolicy::Tolerate);
    guest.accel.push().expect("loads");
    assert_eq!(guest.accel.readback_compare().expect("reads"), []);
    let count = guest.word(COUNTER);
    guest.run();
    guest.wait_for_change(COUNTER, count);
    guest.accel.pause().expect("pauses");
    assert_eq!(
        clock(&guest).tsc_khz,
        guest.accel.tsc_khz(),
        "it counts at the host's speed now"
    );
}

#[test]
fn the_first_tsc_is_what_the_others_differ_from() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(2, COUNT);
    guest.run();
    guest.wait_for_change(COUNTER, 0);
    guest.accel.pause().expect("pauses");
    assert_eq!(clock(&guest).tsc_differences[0], 0);

    let copy = Guest::bare(2);
    copy.take_over(&guest);
    copy.accel.push().expect("loads");
    copy.run();
    copy.wait_for_change(COUNTER, copy.word(COUNTER));
    copy.accel.pause().expect("pauses");
    assert!(clock(&copy).tsc >= clock(&guest).tsc, "a TSC never goes back");
}

#[test]
fn an_unknown_accelerator_is_refused_with_the_list() {
    struct Deaf;
    impl crate::accel::VcpuEvents for Deaf {
        fn vcpu_event(&self, _: u32, _: VcpuEvent) {}
    }
    let types = vmstate::qom::TypeTable::gathered().expect("the types fit together");
    let error = crate::accel::create("xen", &types, std::sync::Arc::new(Deaf))
        .err()
        .expect("unknown");
    assert_eq!(error.to_string(), "there is no accelerator 'xen'; there are kvm, qtest");
}

/// What changes with the guest's control registers, and KVM keeps up: the sizes of XSAVE areas.
fn follows_the_guest(entry: &CpuidEntry) -> CpuidEntry {
    let mut fixed = *entry;
    if matches!((entry.leaf, entry.subleaf), (0xd, 0 | 1)) {
        fixed.ebx = 0;
    }
    fixed
}

/// What a processor with this table answers. Those that are not AMD's answer to a leaf beyond the highest as to the highest
/// basic one (Intel SDM, volume 2, CPUID), and so does KVM for them.
fn answer(table: &CpuidTable, leaf: u32, subleaf: u32) -> CpuidEntry {
    let highest = |range: u32| table.get(range, 0).map_or(0, |entry| entry.eax);
    let amd = [b"AuthenticAMD", b"HygonGenuine"].contains(&&table.vendor());
    let stands_for = if !amd && leaf > highest(leaf & 0xc000_0000) {
        highest(0)
    } else {
        leaf
    };
    let entry = table.get(stands_for, subleaf).copied();
    CpuidEntry {
        leaf,
        ..entry.unwrap_or(CpuidEntry::new(leaf, subleaf))
    }
}

#[test]
fn a_guest_sees_the_table_that_it_was_given_and_nothing_else() {
    let Some(_turn) = turn() else {
        return;
    };
    let guest = Guest::new(2, ASK);
    let host: CpuSpec = "host".parse().expect("always there");
    let table = host
        .table(&guest.accel.host_cpu().expect("it tells"), 2)
        .table
        .for_vcpu(0);
    let asked = table.entries().iter().map(|entry| (entry.leaf, entry.subleaf));
    // There are KVMs whose guests see these two leaves of the processor itself whatever KVM is told, which no VMM can mend.
    let mut questions: Vec<_> = asked.filter(|(leaf, _)| !matches!(leaf, 1 | 7)).collect();
    // Leaves that no model has: performance counters, processor trace, AMX, nested virtualisation, memory encryption.
    questions.extend([(0xa, 0), (0x14, 0), (0x1d, 0), (0x8000_000a, 0), (0x8000_001f, 0)]);
    let words: Vec<u8> = questions
        .iter()
        .flat_map(|(leaf, subleaf)| [leaf.to_le_bytes(), subleaf.to_le_bytes()].concat())
        .collect();
    guest.write(0x8000, &words);
    guest.write(0x7000, &u32::try_from(questions.len()).expect("few").to_le_bytes());
    guest.run();
    assert!(matches!(guest.hear(), Heard::Byte(_)));
    for (at, (leaf, subleaf)) in (0xa000u64..).step_by(16).zip(questions) {
        let seen = CpuidEntry {
            eax: guest.word(at),
            ebx: guest.word(at + 4),
            ecx: guest.word(at + 8),
            edx: guest.word(at + 12),
            ..CpuidEntry::new(leaf, subleaf)
        };
        let given = follows_the_guest(&answer(&table, leaf, subleaf));
        assert_eq!(follows_the_guest(&seen), given, "leaf {leaf:#x}.{subleaf}");
    }
}
