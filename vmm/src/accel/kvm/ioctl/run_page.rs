//! The page that KVM shares with each vCPU.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MEMORY_FAULT,
    KVM_EXIT_MMIO, KVM_EXIT_NOTIFY, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_UNKNOWN, KVM_EXIT_X86_BUS_LOCK,
    KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_NOTIFY_CONTEXT_INVALID, kvm_run, kvm_run__bindgen_ty_1,
};
use kvm_ioctls::VcpuFd;

/// What a vCPU left the guest for, copied out of the page that KVM shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RunExit {
    /// Accesses to one I/O port; several of them for string instructions.
    Io(IoExit),
    /// An access to memory that is no RAM.
    Mmio(MmioExit),
    /// An access to a model-specific register that KVM does not know.
    Msr,
    /// A signal came.
    Interrupted,
    /// The guest has locked the host's bus.
    BusLock,
    /// The guest has kept events out for long.
    Notify {
        /// Its state is no longer what it should be.
        invalid: bool,
    },
    /// The processor has shut down: a triple fault.
    Shutdown,
    /// The guest asks for what PSCI-like interfaces have.
    SystemEvent {
        /// What it asks for.
        kind: u32,
    },
    /// The hardware refused to enter the guest.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host's CPU on which that was.
        cpu: u32,
    },
    /// KVM could not go on.
    InternalError {
        /// In what.
        suberror: u32,
        /// How many words of `data` count.
        count: usize,
        /// What KVM tells besides.
        data: [u64; 16],
    },
    /// An access to memory that cannot be served.
    MemoryFault {
        /// Its guest-physical address.
        address: u64,
        /// Its length.
        size: u64,
    },
    /// The processor came out for a reason that KVM does not know.
    Unknown {
        /// The hardware's number for it.
        hardware: u64,
    },
    /// Anything else.
    Other(u32),
}

/// Accesses to an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// The guest writes.
    pub write: bool,
    /// The port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: usize,
    /// How many accesses.
    pub count: usize,
    /// Where their data lies in the shared page.
    offset: usize,
}

/// An access to memory that is no RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioExit {
    /// The guest writes.
    pub write: bool,
    /// The guest-physical address.
    pub address: u64,
    /// What the guest writes.
    pub data: [u8; 8],
    /// How many bytes: up to eight.
    pub len: usize,
}

/// The page that KVM shares with a vCPU. The thread in KVM_RUN and the kernel take turns with it, but for the flag of
/// [`Self::set_immediate_exit`], which any thread may set at any time.
pub struct RunPage {
    page: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is valid until drop, wherever the value is.
unsafe impl Send for RunPage {}
// SAFETY: every access goes through raw pointers: the flag atomically, and the rest by the one thread that runs the vCPU
// (see `Vcpu`); a second reader would see torn values of plain integers and nothing worse.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the page of `vcpu`, whose size is that of [`VmFd::run_size`].
    pub fn map(vcpu: &VcpuFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::Error::other("the vCPU's shared page is smaller than its header"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(page) if address != libc::MAP_FAILED => Ok(Self { page, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// With the flag set, KVM_RUN completes a pending access and returns EINTR without entering the guest.
    pub fn set_immediate_exit(&self, exit: bool) {
        // SAFETY: the byte lies in the mapping, and is only ever accessed atomically by this process; the kernel reads it.
        let flag = unsafe { AtomicU8::from_ptr(self.page.as_ptr().add(offset_of!(kvm_run, immediate_exit))) };
        flag.store(u8::from(exit), Ordering::SeqCst);
    }

    /// What the vCPU came out for.
    pub fn exit(&self) -> RunExit {
        match self.field::<u32>(offset_of!(kvm_run, exit_reason)) {
            KVM_EXIT_IO => {
                // SAFETY: the reason says that this is the member in use; it is plain integers anyway.
                let io = unsafe { self.details().io };
                RunExit::Io(IoExit {
                    write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
                    port: io.port,
                    size: usize::from(io.size).clamp(1, 8),
                    count: usize::try_from(io.count).unwrap_or(0),
                    offset: usize::try_from(io.data_offset).unwrap_or(usize::MAX),
                })
            }
            KVM_EXIT_MMIO => {
                // SAFETY: as above.
                let mmio = unsafe { self.details().mmio };
                RunExit::Mmio(MmioExit {
                    write: mmio.is_write != 0,
                    address: mmio.phys_addr,
                    data: mmio.data,
                    len: usize::try_from(mmio.len).unwrap_or(0).min(8),
                })
            }
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => RunExit::Msr,
            KVM_EXIT_INTR => RunExit::Interrupted,
            KVM_EXIT_X86_BUS_LOCK => RunExit::BusLock,
            KVM_EXIT_NOTIFY => {
                // SAFETY: as above.
                let notify = unsafe { self.details().notify };
                RunExit::Notify {
                    invalid: notify.flags & KVM_NOTIFY_CONTEXT_INVALID != 0,
                }
            }
            KVM_EXIT_UNKNOWN => RunExit::Unknown {
                // SAFETY: as above.
                hardware: unsafe { self.details().hw }.hardware_exit_reason,
            },
            KVM_EXIT_SHUTDOWN => RunExit::Shutdown,
            KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: as above.
                let event = unsafe { self.details().system_event };
                RunExit::SystemEvent { kind: event.type_ }
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above.
                let failure = unsafe { self.details().fail_entry };
                RunExit::FailEntry {
                    reason: failure.hardware_entry_failure_reason,
                    cpu: failure.cpu,
                }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above.
                let error = unsafe { self.details().internal };
                RunExit::InternalError {
                    suberror: error.suberror,
                    count: usize::try_from(error.ndata).unwrap_or(0).min(error.data.len()),
                    data: error.data,
                }
            }
            KVM_EXIT_MEMORY_FAULT => {
                // SAFETY: as above.
                let fault = unsafe { self.details().memory_fault };
                RunExit::MemoryFault {
                    address: fault.gpa,
                    size: fault.size,
                }
            }
            reason => RunExit::Other(reason),
        }
    }

    /// The data of access number `index` of `io`, or `None` beyond the end.
    pub fn io_data(&self, io: &IoExit, index: usize) -> Option<[u8; 8]> {
        let mut data = [0; 8];
        let at = self.io_place(io, index)?;
        // SAFETY: `io_place` keeps the bytes within the mapping, and they are the kernel's only during KVM_RUN.
        unsafe { ptr::copy_nonoverlapping(self.page.as_ptr().add(at), data.as_mut_ptr(), io.size) };
        Some(data)
    }

    /// Answers access number `index` of `io`; does nothing beyond the end.
    pub fn set_io_data(&self, io: &IoExit, index: usize, data: [u8; 8]) {
        if let Some(at) = self.io_place(io, index) {
            // SAFETY: as in `io_data`.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.page.as_ptr().add(at), io.size) };
        }
    }

    /// Answers an access to memory that is no RAM.
    pub fn set_mmio_data(&self, data: [u8; 8]) {
        let at =
            offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_6, data);
        // SAFETY: the field lies in the mapping, and is the kernel's only during KVM_RUN.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.page.as_ptr().add(at), data.len()) };
    }

    /// Answers an access to a model-specific register as a processor does that has none of that number: with #GP.
    pub fn refuse_msr(&self) {
        let at = offset_of!(kvm_run, __bindgen_anon_1)
            + offset_of!(kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_23, error);
        // SAFETY: as in `set_mmio_data`.
        unsafe { self.page.as_ptr().add(at).write(1) };
    }

    fn io_place(&self, io: &IoExit, index: usize) -> Option<usize> {
        let at = index.checked_mul(io.size)?.checked_add(io.offset)?;
        (index < io.count && at.checked_add(io.size)? <= self.len).then_some(at)
    }

    fn details(&self) -> kvm_run__bindgen_ty_1 {
        self.field(offset_of!(kvm_run, __bindgen_anon_1))
    }

    fn field<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: within the mapping as just asserted; only ever used for integers and unions of them, for which every
        // value is valid, at their own aligned offset in `kvm_run`.
        unsafe { self.page.as_ptr().add(offset).cast::<T>().read_volatile() }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nobody uses it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.len) };
    }
}
