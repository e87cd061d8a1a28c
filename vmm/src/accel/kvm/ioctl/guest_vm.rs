//! A VM and its vCPUs as file descriptors, tied to the memory that the kernel may write to on the guest's behalf.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use hw::memory::{PAGE_SIZE, RamBlock};
use kvm_bindings::{KVMIO, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use libc::c_ulong;
use parking_lot::Mutex;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_WRITE, ioctl, ioctl_expr, ioctl_with_ref};

use super::run_page::RunPage;
use super::{result, size};

const KVM_RUN: c_ulong = ioctl_expr(_IOC_NONE, KVMIO, 0x80, 0);
const KVM_GET_DIRTY_LOG: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0x42, size::<kvm_dirty_log>());

/// A VM, and the blocks that its guest sees. A block lives at least as long as a slot shows it.
pub struct GuestVm {
    // Dropped in this order: the VM is closed while the memory behind its slots is still there. vCPUs, which keep a VM
    // alive in the kernel, hold this value.
    fd: VmFd,
    shown: Mutex<BTreeMap<u32, Shown>>,
}

/// What a slot shows.
struct Shown {
    block: Arc<RamBlock>,
    size: u64,
}

/// Where a slot lies in the guest and in a block, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct SlotPlace {
    /// The first guest-physical address.
    pub guest: u64,
    /// The length.
    pub size: u64,
    /// The offset in the block.
    pub offset: u64,
}

impl GuestVm {
    /// Takes a VM that has no memory yet.
    pub fn new(fd: VmFd) -> Self {
        Self {
            fd,
            shown: Mutex::default(),
        }
    }

    /// The VM's file descriptor.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Shows a part of `block` to the guest as `slot`, or changes a slot's flags. A slot keeps its block until it is
    /// hidden.
    pub fn show(&self, slot: u32, flags: u32, place: SlotPlace, block: &Arc<RamBlock>) -> io::Result<()> {
        let inside = place
            .offset
            .checked_add(place.size)
            .is_some_and(|end| end <= block.size());
        let mut shown = self.shown.lock();
        if !inside || place.size == 0 || shown.get(&slot).is_some_and(|own| !Arc::ptr_eq(&own.block, block)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let host = u64::try_from(block.host_address()).map_err(|_| io::ErrorKind::InvalidInput)? + place.offset;
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: place.guest,
            memory_size: place.size,
            userspace_addr: host,
        };
        // SAFETY: the part lies within the block, whose memory stays mapped while `shown` holds it; that is until the
        // slot is hidden or the VM is closed.
        unsafe { self.fd.set_user_memory_region(region) }?;
        shown.insert(
            slot,
            Shown {
                block: Arc::clone(block),
                size: place.size,
            },
        );
        Ok(())
    }

    /// Takes `slot` away from the guest, and lets go of its block.
    pub fn hide(&self, slot: u32) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            ..Default::default()
        };
        let mut shown = self.shown.lock();
        // SAFETY: a slot of no length shows nothing.
        unsafe { self.fd.set_user_memory_region(region) }?;
        shown.remove(&slot);
        Ok(())
    }

    /// Reads the dirty log of `slot` into `words`, a bit per page, of which it makes as many as are needed.
    pub fn dirty_log(&self, slot: u32, words: &mut Vec<u64>) -> io::Result<()> {
        let shown = self.shown.lock();
        let pages = shown
            .get(&slot)
            .ok_or(io::ErrorKind::NotFound)?
            .size
            .div_ceil(PAGE_SIZE);
        words.clear();
        words.resize(
            usize::try_from(pages.div_ceil(64)).map_err(|_| io::ErrorKind::InvalidInput)?,
            0,
        );
        let log = kvm_dirty_log {
            slot,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: words.as_mut_ptr().cast(),
            },
        };
        // SAFETY: the kernel writes a bit per page of the slot, rounded up to words, which is what was made room for; the
        // slot cannot change meanwhile, as `shown` is locked.
        result(unsafe { ioctl_with_ref(&self.fd, KVM_GET_DIRTY_LOG, &log) })
    }
}

/// A vCPU with its shared page.
pub struct VcpuHandle {
    fd: VcpuFd,
    page: RunPage,
    /// A vCPU writes to the VM's memory, so that must not go before.
    _vm: Arc<GuestVm>,
}

impl VcpuHandle {
    /// Makes the vCPU `id` of `vm`.
    pub fn create(vm: &Arc<GuestVm>, id: u32) -> io::Result<Self> {
        let fd = vm.fd().create_vcpu(id.into())?;
        let page = RunPage::map(&fd, vm.fd().run_size())?;
        Ok(Self {
            fd,
            page,
            _vm: Arc::clone(vm),
        })
    }

    /// The vCPU's file descriptor, for everything but running.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The shared page.
    pub fn page(&self) -> &RunPage {
        &self.page
    }

    /// Runs the guest until it exits. To be called by one thread only, the vCPU's own.
    pub fn run(&self) -> io::Result<()> {
        // SAFETY: KVM_RUN takes no argument. What it writes is memory of blocks that `vm` holds, which this process only
        // ever reads as volatile, and the shared page.
        result(unsafe { ioctl(&self.fd, KVM_RUN) })
    }
}
