//! What a vCPU left the guest for: served here, or turned into an event for the VM.

use std::fmt;
use std::io;

use hw::memory::AddressSpace;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::super::VcpuEvent;
use super::exits::{INTERNAL_ERRORS, SYSTEM_EVENTS, detail, exit_row, run_error_row};
use super::ioctl::{IoExit, MmioExit, RunExit, VcpuHandle};

/// Why a vCPU cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashCause {
    /// KVM could not go on.
    InternalError {
        /// In what.
        suberror: u32,
        /// What KVM tells besides.
        data: Vec<u64>,
    },
    /// The hardware refused to enter the guest.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host's CPU on which that was.
        cpu: u32,
    },
    /// The guest's memory could not be reached, for instance because a file behind it has become shorter.
    MemoryFault {
        /// The guest-physical address.
        address: u64,
        /// The length.
        size: u64,
    },
    /// The guest says itself that it has crashed.
    GuestCrashed,
    /// A system event that ends no guest of this architecture.
    SystemEvent(u32),
    /// The processor left the guest for a reason that KVM does not know.
    UnknownHardwareExit(u64),
    /// The processor calls the guest's state invalid after it kept events out for too long.
    ContextInvalid,
    /// An exit that Tern does not ask for, or does not know.
    UnknownExit(u32),
    /// KVM_RUN failed with this error.
    RunFailed(i32),
    /// A device of Tern's failed while it served the vCPU.
    Panicked(String),
}

impl CrashCause {
    /// Whether the host cannot provide the guest's memory, so that it is better not looked at.
    fn is_of_memory(&self) -> bool {
        matches!(
            self,
            Self::MemoryFault { .. } | Self::RunFailed(libc::EFAULT | libc::EHWPOISON)
        )
    }
}

impl fmt::Display for CrashCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InternalError { suberror, data } => {
                let what = detail(INTERNAL_ERRORS, *suberror).map_or("an unknown one", |row| row.what);
                write!(f, "KVM reports an internal error, suberror {suberror}: {what}")?;
                if *suberror != KVM_INTERNAL_ERROR_EMULATION && !data.is_empty() {
                    write!(f, " (data {data:#x?})")?;
                }
                Ok(())
            }
            Self::FailEntry { reason, cpu } => {
                write!(
                    f,
                    "the processor refuses to enter the guest (hardware reason {reason:#x}, on the host's CPU {cpu})"
                )
            }
            Self::MemoryFault { address, size } => {
                write!(
                    f,
                    "the host cannot provide the {size} bytes of guest memory at {address:#x}"
                )
            }
            Self::GuestCrashed => f.write_str("the guest reports that it has crashed"),
            Self::SystemEvent(kind) => match detail(SYSTEM_EVENTS, *kind) {
                Some(row) => write!(f, "the guest raised {} ({kind}), which no guest of Tern's should", row.name),
                None => write!(f, "the guest raised system event {kind}, which Tern does not know"),
            },
            Self::UnknownHardwareExit(reason) => {
                write!(f, "the processor left the guest for reason {reason:#x}, which KVM does not know")
            }
            Self::ContextInvalid => f.write_str(
                "the guest kept its processor from events for so long that the processor calls the guest's state invalid",
            ),
            Self::UnknownExit(reason) => match exit_row(*reason) {
                Some(row) => write!(
                    f,
                    "KVM left the guest by {} ({reason}), which Tern does not ask for: {}",
                    row.name, row.what
                ),
                None => write!(f, "KVM left the guest for reason {reason}, which Tern does not know"),
            },
            Self::RunFailed(errno) => {
                write!(f, "KVM cannot run the guest: {}", io::Error::from_raw_os_error(*errno))?;
                match run_error_row(*errno) {
                    Some(row) => write!(f, ": {}", row.what),
                    None => Ok(()),
                }
            }
            Self::Panicked(what) => write!(f, "a device failed, which is a defect of Tern: {what}"),
        }
    }
}

/// Why a vCPU cannot go on, and where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashReport {
    /// The vCPU's APIC id.
    pub vcpu: u32,
    /// Why.
    pub cause: CrashCause,
    /// The address of the instruction, where it could be read.
    pub rip: Option<u64>,
    /// CR0, CR3, CR4 and EFER, which tell the mode.
    pub mode: Option<[u64; 4]>,
    /// The bytes of the instruction and what follows it, as far as they could be read.
    pub instruction: Vec<u8>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {} cannot go on: {}", self.vcpu, self.cause)?;
        if let Some(rip) = self.rip {
            write!(f, "; rip {rip:#x}")?;
        }
        if !self.instruction.is_empty() {
            f.write_str(", instruction bytes")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        if let Some([cr0, cr3, cr4, efer]) = self.mode {
            write!(f, "; cr0 {cr0:#x} cr3 {cr3:#x} cr4 {cr4:#x} efer {efer:#x}")?;
        }
        Ok(())
    }
}

/// Where a vCPU's accesses go.
#[derive(Clone)]
pub struct Bus {
    /// Guest-physical memory.
    pub memory: AddressSpace,
    /// I/O ports.
    pub io: AddressSpace,
}

/// Serves what `vcpu` left the guest for. An event means that the vCPU must not run on by itself.
pub fn serve(apic_id: u32, vcpu: &VcpuHandle, bus: &Bus) -> Option<VcpuEvent> {
    let cause = match vcpu.page().exit() {
        RunExit::Io(io) => {
            serve_io(vcpu, &io, bus);
            return None;
        }
        RunExit::Mmio(mmio) => {
            serve_mmio(vcpu, &mmio, bus);
            return None;
        }
        RunExit::Msr => {
            vcpu.page().refuse_msr();
            return None;
        }
        RunExit::Interrupted | RunExit::BusLock | RunExit::Notify { invalid: false } => return None,
        RunExit::Notify { invalid: true } => CrashCause::ContextInvalid,
        RunExit::Shutdown => return Some(VcpuEvent::ResetRequested { by: "a triple fault" }),
        RunExit::SystemEvent {
            kind: KVM_SYSTEM_EVENT_SHUTDOWN,
        } => return Some(VcpuEvent::ShutdownRequested),
        RunExit::SystemEvent {
            kind: KVM_SYSTEM_EVENT_RESET,
        } => {
            return Some(VcpuEvent::ResetRequested { by: "a system event" });
        }
        RunExit::SystemEvent {
            kind: KVM_SYSTEM_EVENT_CRASH,
        } => CrashCause::GuestCrashed,
        RunExit::SystemEvent { kind } => CrashCause::SystemEvent(kind),
        RunExit::FailEntry { reason, cpu } => CrashCause::FailEntry { reason, cpu },
        RunExit::InternalError { suberror, count, data } => CrashCause::InternalError {
            suberror,
            data: data[..count].to_vec(),
        },
        RunExit::MemoryFault { address, size } => CrashCause::MemoryFault { address, size },
        RunExit::Unknown { hardware } => CrashCause::UnknownHardwareExit(hardware),
        RunExit::Other(reason) => CrashCause::UnknownExit(reason),
    };
    Some(crash(apic_id, vcpu, bus, cause))
}

/// What became of a KVM_RUN that failed, or `None` where it just has to be repeated.
pub fn run_failed(apic_id: u32, vcpu: &VcpuHandle, bus: &Bus, error: &io::Error) -> Option<VcpuEvent> {
    let errno = error.raw_os_error().unwrap_or(0);
    if run_error_row(errno).is_some_and(|row| row.goes_on) {
        return None;
    }
    let cause = match vcpu.page().exit() {
        RunExit::MemoryFault { address, size } if [libc::EFAULT, libc::EHWPOISON].contains(&errno) => {
            CrashCause::MemoryFault { address, size }
        }
        _ => CrashCause::RunFailed(errno),
    };
    Some(crash(apic_id, vcpu, bus, cause))
}

/// The event of a vCPU that cannot go on.
pub fn crash(apic_id: u32, vcpu: &VcpuHandle, bus: &Bus, cause: CrashCause) -> VcpuEvent {
    let rip = vcpu.fd().get_regs().ok().map(|regs| regs.rip);
    let sregs = vcpu.fd().get_sregs().ok();
    let mut instruction = match &cause {
        CrashCause::InternalError {
            suberror: KVM_INTERNAL_ERROR_EMULATION,
            data,
        } => bytes_from_kvm(data),
        _ => Vec::new(),
    };
    if instruction.is_empty()
        && !cause.is_of_memory()
        && let (Some(rip), Some(sregs)) = (rip, &sregs)
    {
        instruction = bytes_from_memory(vcpu.fd(), bus, sregs.cs.base.wrapping_add(rip));
    }
    VcpuEvent::Crashed(Box::new(CrashReport {
        vcpu: apic_id,
        cause,
        rip,
        mode: sregs.map(|sregs| [sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer]),
        instruction,
    }))
}

/// The instruction bytes in the data of an emulation error: flags, then a length and fifteen bytes.
fn bytes_from_kvm(data: &[u64]) -> Vec<u8> {
    match data {
        [flags, first, second, ..] if flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0 => {
            let [length, bytes @ ..] = first.to_le_bytes();
            let bytes: Vec<u8> = bytes.into_iter().chain(second.to_le_bytes()).collect();
            bytes[..usize::from(length).min(bytes.len())].to_vec()
        }
        _ => Vec::new(),
    }
}

/// The bytes of guest RAM from the linear address `address`, up to the length of the longest instruction.
fn bytes_from_memory(vcpu: &VcpuFd, bus: &Bus, address: u64) -> Vec<u8> {
    let memory = bus.memory.guest_memory();
    (0..15)
        .map_while(|index| {
            let translation = vcpu.translate_gva(address.wrapping_add(index)).ok()?;
            let mut byte = [0];
            let found = translation.valid != 0
                && memory
                    .read_slice(&mut byte, GuestAddress(translation.physical_address))
                    .is_ok();
            found.then_some(byte[0])
        })
        .collect()
}

fn serve_io(vcpu: &VcpuHandle, io: &IoExit, bus: &Bus) {
    for index in 0..io.count {
        let Some(mut data) = vcpu.page().io_data(io, index) else {
            return;
        };
        let bytes = &mut data[..io.size];
        // An access that nobody answers is no error on a bus: reads give ones, writes are lost.
        if io.write {
            let _ = bus.io.write(io.port.into(), bytes);
        } else {
            let _ = bus.io.read(io.port.into(), bytes);
            vcpu.page().set_io_data(io, index, data);
        }
    }
}

fn serve_mmio(vcpu: &VcpuHandle, mmio: &MmioExit, bus: &Bus) {
    let mut data = mmio.data;
    let bytes = &mut data[..mmio.len];
    if mmio.write {
        let _ = bus.memory.write(mmio.address, bytes);
    } else {
        let _ = bus.memory.read(mmio.address, bytes);
        vcpu.page().set_mmio_data(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_where_and_which_instruction() {
        let report = CrashReport {
            vcpu: 1,
            cause: CrashCause::InternalError {
                suberror: 1,
                data: vec![],
            },
            rip: Some(0x1000),
            mode: None,
            instruction: vec![0xcc, 0x90],
        };
        assert_eq!(
            report.to_string(),
            "vCPU 1 cannot go on: KVM reports an internal error, suberror 1: it cannot emulate an instruction; rip 0x1000, \
             instruction bytes cc 90"
        );
    }

    #[test]
    fn every_cause_is_told_by_its_name() {
        let told = |cause: CrashCause| cause.to_string();
        assert_eq!(
            told(CrashCause::UnknownExit(kvm_bindings::KVM_EXIT_HLT)),
            "KVM left the guest by KVM_EXIT_HLT (5), which Tern does not ask for: local APICs are in the kernel, where \
             halted vCPUs wait"
        );
        assert!(told(CrashCause::UnknownExit(999)).contains("reason 999, which Tern does not know"));
        assert!(told(CrashCause::SystemEvent(6)).contains("KVM_SYSTEM_EVENT_SEV_TERM (6)"));
        assert!(told(CrashCause::SystemEvent(99)).contains("system event 99"));
        assert!(told(CrashCause::UnknownHardwareExit(0x77)).contains("0x77"));
        assert!(told(CrashCause::RunFailed(libc::EIO)).contains("the host's kernel log"));
        assert!(told(CrashCause::RunFailed(libc::EBADF)).starts_with("KVM cannot run the guest: "));
        let suberror = |suberror| {
            told(CrashCause::InternalError {
                suberror,
                data: vec![1],
            })
        };
        assert!(suberror(3).contains("suberror 3: an event could not be delivered (data "));
        assert!(suberror(9).contains("suberror 9: an unknown one"));
    }

    #[test]
    fn instruction_bytes_are_taken_only_where_kvm_says_that_they_are_there() {
        let first = u64::from_le_bytes([2, 0xcc, 0x90, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_from_kvm(&[1, first, 0]), [0xcc, 0x90]);
        assert!(bytes_from_kvm(&[0, first, 0]).is_empty());
        assert!(bytes_from_kvm(&[1]).is_empty());
        assert_eq!(bytes_from_kvm(&[1, u64::MAX, u64::MAX]).len(), 15);
    }
}
