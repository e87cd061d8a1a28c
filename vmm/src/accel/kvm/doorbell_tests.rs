//! Doorbells and interrupts by eventfd under KVM: without an exit, and with nothing lost in a move.

use hw::core::{IrqFd, IrqLine, TestDev, unrealize_device};
use hw::intc::i8259::I8259;
use vmstate::qom::{Obj, ObjectPart};

use super::KvmAccel;
use super::testing::{COUNTER, Guest, Heard, turn};

/// The device's interrupt, as a bit of an interrupt controller's register.
const INTERRUPT: u8 = 1 << 5;

/// Rings a hundred times, at each doorbell and past one, and says 0x42.
const RING: &[u8] = &[
    0xbb, 0x00, 0x00, 0x00, 0xd1, // mov ebx, 0xd1000000
    0xb9, 0x64, 0x00, 0x00, 0x00, // mov ecx, 100
    0x89, 0x0b, // 1: mov [ebx], ecx
    0xc7, 0x43, 0x04, 0x57, 0x7e, 0x00, 0x00, // mov dword [ebx + 4], 0x7e57
    0xe6, 0xe0, // out 0xe0, al
    0x66, 0xe7, 0xe0, // out 0xe0, ax
    0x49, 0x75, 0xef, // dec ecx; jnz 1b
    0xb0, 0x42, 0xe6, 0x80, 0xeb, 0xfe, // out 0x80, 0x42; jmp $
];
/// mov dword [0xd1000004], 5, a value that does not ring; out 0x80, al; jmp $
const NOT_RINGING: &[u8] = &[
    0xc7, 0x05, 0x04, 0x00, 0x00, 0xd1, 0x05, 0x00, 0x00, 0x00, 0xe6, 0x80, 0xeb, 0xfe,
];
/// mov ebx, 0xd1000000; 1: mov [ebx], eax; inc dword [0x8000]; jmp 1b
const RING_ON: &[u8] = &[
    0xbb, 0x00, 0x00, 0x00, 0xd1, 0x89, 0x03, 0xff, 0x05, 0x00, 0x80, 0x00, 0x00, 0xeb, 0xf6,
];
/// mov dword [0xd1000010], 1; mov dword [0xd1000000], 1; out 0x80, al; jmp $
const INTERRUPTING: &[u8] = &[
    0xc7, 0x05, 0x10, 0x00, 0x00, 0xd1, 0x01, 0x00, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x00, 0x00, 0xd1, 0x01, 0x00, 0x00,
    0x00, 0xe6, 0x80, 0xeb, 0xfe,
];

fn part<T: ObjectPart>(guest: &Guest, name: &str) -> Obj<T> {
    let object = guest.board.machine().child(name).expect("on the board");
    Obj::new(object).expect("of this type")
}

fn rung(guest: &Guest) -> u32 {
    part::<TestDev>(guest, "testdev").state().lock().rung
}

/// The interrupts that wait at the primary controller, as of the last pause.
fn waiting(guest: &Guest) -> u8 {
    part::<I8259>(guest, "pic").state().lock().primary.requested
}

#[test]
fn a_doorbell_is_rung_without_an_exit() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, RING).with_testdev();
    guest.run();
    assert_eq!(guest.hear(), Heard::Byte(0x42));
    guest.accel.pause().expect("pauses");
    assert_eq!(rung(&guest), 400);
    let accel = part::<KvmAccel>(&guest, "accel");
    assert_eq!(
        accel.vm().expect("made").exits(),
        1,
        "the last word is all that Tern had to serve"
    );
}

#[test]
fn a_value_that_does_not_ring_reaches_the_device() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, NOT_RINGING).with_testdev();
    guest.run();
    assert!(matches!(guest.hear(), Heard::Byte(_)));
    guest.accel.pause().expect("pauses");
    assert_eq!(
        (rung(&guest), part::<TestDev>(&guest, "testdev").state().lock().last),
        (0, 5)
    );
}

#[test]
fn no_ring_is_lost_in_a_pause_or_a_move() {
    let Some(_turn) = turn() else { return };
    let mut guest = Guest::new(1, RING_ON).with_testdev();
    for _ in 0..20 {
        let count = guest.word(COUNTER);
        guest.run();
        guest.wait_for_change(COUNTER, count);
        guest.accel.pause().expect("pauses");
        // It may have stopped between the ring and the count.
        let (rings, count) = (rung(&guest), guest.word(COUNTER));
        assert!(rings == count || rings == count + 1, "{rings} rings served of {count}");
        let copy = Guest::bare(1).with_testdev();
        copy.take_over(&guest);
        copy.accel.push().expect("loads");
        assert_eq!(copy.accel.readback_compare().expect("reads"), []);
        guest = copy;
    }
}

#[test]
fn a_ring_that_is_served_at_a_pause_has_raised_its_interrupt_before_state_is_read() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, INTERRUPTING).with_testdev();
    guest.run();
    assert!(matches!(guest.hear(), Heard::Byte(_)));
    guest.accel.pause().expect("pauses");
    assert_eq!((rung(&guest), waiting(&guest) & INTERRUPT), (1, INTERRUPT));

    let copy = Guest::bare(1).with_testdev();
    copy.take_over(&guest);
    copy.accel.push().expect("loads");
    copy.run();
    copy.accel.pause().expect("pauses");
    assert_eq!((rung(&copy), waiting(&copy) & INTERRUPT), (1, INTERRUPT));
}

#[test]
fn what_is_signalled_during_a_pause_comes_when_the_guest_goes_on_and_once() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, RING_ON).with_testdev();
    let irqfd = IrqFd::new(&IrqLine::new(guest.accel.irq_sink(), 5)).expect("an eventfd");
    guest.accel.pause().expect("pauses");
    irqfd.signal();
    guest.accel.pause().expect("is paused");
    assert_eq!(waiting(&guest) & INTERRUPT, 0, "state was taken at the pause");
    guest.run();
    guest.accel.pause().expect("pauses");
    assert_eq!(waiting(&guest) & INTERRUPT, INTERRUPT);
    assert!(
        irqfd.eventfd().expect("KVM waits for one").read().is_err(),
        "nothing is left to come again"
    );
}

#[test]
fn a_doorbell_that_comes_or_goes_while_the_guest_runs_is_followed() {
    let Some(_turn) = turn() else { return };
    let guest = Guest::new(1, RING_ON).with_testdev();
    guest.run();
    guest.wait_for_change(COUNTER, 0);
    let device = guest.board.machine().child("testdev").expect("on the board");
    unrealize_device(&device);
    guest.accel.pause().expect("pauses");
    let (rings, count) = (rung(&guest), guest.word(COUNTER));
    guest.run();
    guest.wait_for_change(COUNTER, count);
    guest.accel.pause().expect("pauses");
    assert_eq!(rung(&guest), rings);
    assert!(guest.board.memory().take_failure().is_none());
    assert!(guest.board.io().take_failure().is_none());
}
