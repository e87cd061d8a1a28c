//! Every reason for which KVM leaves a guest, and what Tern does about it.
//!
//! Exits that the rows call *not asked for* come from capabilities that Tern does not switch on, or from other
//! architectures. They are reported by name all the same: a kernel may have a defect, or grow a habit.

use kvm_bindings::*;

/// What Tern does when a vCPU comes out for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitAnswer {
    /// It is served, and the vCPU goes back into the guest.
    Served,
    /// It is something that the guest asks of its machine.
    Request,
    /// The vCPU cannot go on: the VM stops with a report.
    Crash,
    /// Nothing that Tern does brings it about. Should it come nonetheless, the VM stops with a report that says this.
    NotAskedFor,
}

impl ExitAnswer {
    /// The answer in a word or two, for the list in the documentation.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Request => "request",
            Self::Crash => "report",
            Self::NotAskedFor => "report (not asked for)",
        }
    }
}

/// A reason for which KVM leaves a guest.
#[derive(Clone, Copy, Debug)]
pub struct ExitRow {
    /// KVM's name.
    pub name: &'static str,
    /// KVM's number.
    pub reason: u32,
    /// What Tern does.
    pub answer: ExitAnswer,
    /// How, or why it does not come.
    pub what: &'static str,
}

macro_rules! exits {
    ($($name:ident: $answer:ident, $what:literal;)*) => {
        /// All reasons that KVM's interface names, in order of their numbers.
        pub const EXITS: &[ExitRow] = &[$(ExitRow {
            name: stringify!($name),
            reason: $name,
            answer: ExitAnswer::$answer,
            what: $what,
        },)*];
    };
}

exits! {
    KVM_EXIT_UNKNOWN: Crash, "the processor left the guest for a reason that KVM does not know; the report has its number";
    KVM_EXIT_EXCEPTION: NotAskedFor, "no KVM of today passes exceptions on";
    KVM_EXIT_IO: Served, "by the I/O port space; a port that nobody answers reads as ones and swallows writes";
    KVM_EXIT_HYPERCALL: NotAskedFor, "KVM_CAP_EXIT_HYPERCALL stays off, so that KVM answers hypercalls by itself";
    KVM_EXIT_DEBUG: NotAskedFor, "KVM_SET_GUEST_DEBUG is not used; a guest's own breakpoints are its own exceptions";
    KVM_EXIT_HLT: NotAskedFor, "local APICs are in the kernel, where halted vCPUs wait";
    KVM_EXIT_MMIO: Served, "by the memory space; an address that nobody answers reads as ones and swallows writes";
    KVM_EXIT_IRQ_WINDOW_OPEN: NotAskedFor, "interrupt controllers are in the kernel";
    KVM_EXIT_SHUTDOWN: Request, "a triple fault: the machine is reset";
    KVM_EXIT_FAIL_ENTRY: Crash, "the processor refuses the vCPU's state; the report has its reason and the host's CPU";
    KVM_EXIT_INTR: Served, "a signal, such as the kick of a pause: the vCPU looks whether it is to stay out";
    KVM_EXIT_SET_TPR: NotAskedFor, "local APICs are in the kernel";
    KVM_EXIT_TPR_ACCESS: NotAskedFor, "KVM_TPR_ACCESS_REPORTING stays off";
    KVM_EXIT_S390_SIEIC: NotAskedFor, "another architecture's";
    KVM_EXIT_S390_RESET: NotAskedFor, "another architecture's";
    KVM_EXIT_DCR: NotAskedFor, "another architecture's";
    KVM_EXIT_NMI: NotAskedFor, "no KVM of today passes the host's NMIs on";
    KVM_EXIT_INTERNAL_ERROR: Crash, "KVM cannot go on; the report has the suberror and, where KVM failed to emulate an \
        instruction, its bytes";
    KVM_EXIT_OSI: NotAskedFor, "another architecture's";
    KVM_EXIT_PAPR_HCALL: NotAskedFor, "another architecture's";
    KVM_EXIT_S390_UCONTROL: NotAskedFor, "another architecture's";
    KVM_EXIT_WATCHDOG: NotAskedFor, "another architecture's";
    KVM_EXIT_S390_TSCH: NotAskedFor, "another architecture's";
    KVM_EXIT_EPR: NotAskedFor, "another architecture's";
    KVM_EXIT_SYSTEM_EVENT: Request, "as its type says, see below";
    KVM_EXIT_S390_STSI: NotAskedFor, "another architecture's";
    KVM_EXIT_IOAPIC_EOI: NotAskedFor, "the I/O APIC is in the kernel";
    KVM_EXIT_HYPERV: NotAskedFor, "no model offers Hyper-V's interface";
    KVM_EXIT_ARM_NISV: NotAskedFor, "another architecture's";
    KVM_EXIT_X86_RDMSR: Served, "as a processor without the register answers: #GP. KVM_CAP_X86_USER_SPACE_MSR stays off, so \
        that KVM does so by itself";
    KVM_EXIT_X86_WRMSR: Served, "as KVM_EXIT_X86_RDMSR";
    KVM_EXIT_DIRTY_RING_FULL: NotAskedFor, "dirty pages are logged in bitmaps";
    KVM_EXIT_AP_RESET_HOLD: NotAskedFor, "guests are not encrypted";
    KVM_EXIT_X86_BUS_LOCK: Served, "a split lock is no error: the vCPU goes on. KVM_CAP_X86_BUS_LOCK_EXIT stays off";
    KVM_EXIT_XEN: NotAskedFor, "no model offers Xen's interface";
    KVM_EXIT_RISCV_SBI: NotAskedFor, "another architecture's";
    KVM_EXIT_RISCV_CSR: NotAskedFor, "another architecture's";
    KVM_EXIT_NOTIFY: Served, "a guest that kept its processor from events for long goes on; one whose state the processor calls \
        invalid cannot, and is reported. KVM_CAP_X86_NOTIFY_VMEXIT stays off";
    KVM_EXIT_LOONGARCH_IOCSR: NotAskedFor, "another architecture's";
    KVM_EXIT_MEMORY_FAULT: Crash, "the host cannot provide the guest's memory, for instance because a file behind it became \
        shorter; the report has the address";
}

/// A type of KVM_EXIT_SYSTEM_EVENT, or a suberror of KVM_EXIT_INTERNAL_ERROR.
#[derive(Clone, Copy, Debug)]
pub struct DetailRow {
    /// KVM's name.
    pub name: &'static str,
    /// KVM's number.
    pub number: u32,
    /// What Tern does, or what it says.
    pub what: &'static str,
}

macro_rules! details {
    ($($name:ident: $what:literal;)*) => {
        &[$(DetailRow { name: stringify!($name), number: $name, what: $what },)*]
    };
}

/// The types of KVM_EXIT_SYSTEM_EVENT.
pub const SYSTEM_EVENTS: &[DetailRow] = details! {
    KVM_SYSTEM_EVENT_SHUTDOWN: "the guest has switched itself off";
    KVM_SYSTEM_EVENT_RESET: "the guest asks for a reset";
    KVM_SYSTEM_EVENT_CRASH: "the guest says that it has crashed";
    KVM_SYSTEM_EVENT_WAKEUP: "another architecture's: reported";
    KVM_SYSTEM_EVENT_SUSPEND: "another architecture's: reported";
    KVM_SYSTEM_EVENT_SEV_TERM: "guests are not encrypted: reported";
};

/// The suberrors of KVM_EXIT_INTERNAL_ERROR, with the words of the report.
pub const INTERNAL_ERRORS: &[DetailRow] = details! {
    KVM_INTERNAL_ERROR_EMULATION: "it cannot emulate an instruction";
    KVM_INTERNAL_ERROR_SIMUL_EX: "exceptions piled up while one was delivered";
    KVM_INTERNAL_ERROR_DELIVERY_EV: "an event could not be delivered";
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "the processor left the guest for an unexpected reason";
};

/// A way in which KVM_RUN itself fails.
#[derive(Clone, Copy, Debug)]
pub struct RunErrorRow {
    /// The error's name.
    pub name: &'static str,
    /// Its number.
    pub errno: i32,
    /// Whether the vCPU goes back into the guest.
    pub goes_on: bool,
    /// What it means.
    pub what: &'static str,
}

macro_rules! run_errors {
    ($($name:ident: $goes_on:literal, $what:literal;)*) => {
        /// The errors of KVM_RUN that mean something in particular. All others are reported with the system's words.
        pub const RUN_ERRORS: &[RunErrorRow] = &[$(RunErrorRow {
            name: stringify!($name),
            errno: libc::$name,
            goes_on: $goes_on,
            what: $what,
        },)*];
    };
}

run_errors! {
    EINTR: true, "a kick, or no access left to complete";
    EAGAIN: true, "the vCPU waited for its start-up and was started";
    EFAULT: false, "the host cannot provide the guest's memory";
    EHWPOISON: false, "the host's memory behind the guest's is broken";
    EIO: false, "KVM has given the VM up after a defect of its own, of which the host's kernel log tells";
    ENOMEM: false, "the host has run out of memory";
}

/// The row of an exit reason.
#[must_use]
pub fn exit_row(reason: u32) -> Option<&'static ExitRow> {
    EXITS.iter().find(|row| row.reason == reason)
}

/// The row of an error of KVM_RUN.
#[must_use]
pub fn run_error_row(errno: i32) -> Option<&'static RunErrorRow> {
    RUN_ERRORS.iter().find(|row| row.errno == errno)
}

/// The row of a number in [`SYSTEM_EVENTS`] or [`INTERNAL_ERRORS`].
pub(super) fn detail(rows: &'static [DetailRow], number: u32) -> Option<&'static DetailRow> {
    rows.iter().find(|row| row.number == number)
}
