//! The only place where Tern talks to KVM without a safe wrapper: ioctls that `kvm-ioctls` lacks or calls unsafe, the
//! memory that a VM is shown, and the page that KVM shares with each vCPU. What leaves this folder is safe.
#![expect(unsafe_code, reason = "ioctls and memory shared with the kernel have no other form")]

mod guest_vm;
mod run_page;

pub use guest_vm::{GuestVm, SlotPlace, VcpuHandle};
pub use run_page::{IoExit, MmioExit, RunExit};

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use hw::memory::EventFdSection;
use kvm_bindings::{
    KVM_CAP_XSAVE2, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr,
    kvm_ioapic_state, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio, kvm_irqchip, kvm_pic_state, kvm_sregs2, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use libc::c_ulong;
use vmm_sys_util::ioctl::{
    _IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl, ioctl_expr, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr,
    ioctl_with_ref,
};

const KVM_CLEAR_DIRTY_LOG: c_ulong = ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, 0xc0, size::<kvm_clear_dirty_log>());
const KVM_IOEVENTFD: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0x79, size::<kvm_ioeventfd>());
const KVM_GET_TSC_KHZ: c_ulong = ioctl_expr(_IOC_NONE, KVMIO, 0xa3, 0);
const KVM_GET_XSAVE2: c_ulong = ioctl_expr(_IOC_READ, KVMIO, 0xcf, size::<kvm_xsave>());
const KVM_SET_XSAVE: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xa5, size::<kvm_xsave>());
const KVM_GET_SREGS2: c_ulong = ioctl_expr(_IOC_READ, KVMIO, 0xcc, size::<kvm_sregs2>());
const KVM_SET_SREGS2: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xcd, size::<kvm_sregs2>());
const KVM_SET_DEVICE_ATTR: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xe1, size::<kvm_device_attr>());
const KVM_GET_DEVICE_ATTR: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xe2, size::<kvm_device_attr>());

#[expect(
    clippy::cast_possible_truncation,
    reason = "the structures that ioctls take are small; checked at compile time"
)]
const fn size<T>() -> u32 {
    assert!(size_of::<T>() < 1 << 14);
    size_of::<T>() as u32
}

fn result(code: i32) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes KVM record writes to pages anew: those of the `pages` from page `first` of `slot` whose bits are set in `words`.
/// `first` is a multiple of 64; `pages` too, unless they reach to the slot's end.
pub fn clear_dirty_log(vm: &VmFd, slot: u32, first: u64, pages: u32, words: &[u64]) -> io::Result<()> {
    if u64::from(pages).div_ceil(64) > u64::try_from(words.len()).unwrap_or(0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let log = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: the kernel reads a bit per page, and there are so many as just checked. It writes none of them.
    result(unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG, &log) })
}

/// Has KVM signal an eventfd when the guest writes at its place, in I/O ports or in memory, instead of leaving the guest.
pub fn add_ioeventfd(vm: &VmFd, ports: bool, section: &EventFdSection) -> io::Result<()> {
    set_ioeventfd(vm, ports, section, 0)
}

/// Takes an [`add_ioeventfd`] back.
pub fn remove_ioeventfd(vm: &VmFd, ports: bool, section: &EventFdSection) -> io::Result<()> {
    set_ioeventfd(vm, ports, section, 1 << kvm_ioeventfd_flag_nr_deassign)
}

fn set_ioeventfd(vm: &VmFd, ports: bool, section: &EventFdSection, flags: u32) -> io::Result<()> {
    let matching = u32::from(section.match_data.is_some()) << kvm_ioeventfd_flag_nr_datamatch;
    let ports = u32::from(ports) << kvm_ioeventfd_flag_nr_pio;
    let ioeventfd = kvm_ioeventfd {
        datamatch: section.match_data.unwrap_or(0),
        addr: section.guest_address,
        len: section.size.into(),
        fd: section.eventfd.as_raw_fd(),
        flags: flags | matching | ports,
        ..Default::default()
    };
    // SAFETY: the kernel reads one such structure, and keeps the eventfd by a reference of its own.
    result(unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD, &ioeventfd) })
}

/// The system registers with the page-directory pointers.
pub fn get_sregs2(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the kernel writes one such structure.
    result(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2, &mut sregs) })?;
    Ok(sregs)
}

/// Sets the system registers with the page-directory pointers.
pub fn set_sregs2(vcpu: &VcpuFd, sregs: &kvm_sregs2) -> io::Result<()> {
    // SAFETY: the kernel reads one such structure.
    result(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2, sregs) })
}

/// How fast the TSCs of a VM's vCPUs count unless they are told otherwise, in kHz.
pub fn get_vm_tsc_khz(vm: &VmFd) -> Option<u32> {
    // SAFETY: the ioctl takes no argument and returns a number.
    u32::try_from(unsafe { ioctl(vm, KVM_GET_TSC_KHZ) }).ok()
}

/// What KVM adds to the host's TSC, after scaling, to make the guest's.
pub fn get_tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0u64;
    let attribute = tsc_offset_attribute(&raw mut offset);
    // SAFETY: the kernel writes eight bytes through the address in the attribute.
    result(unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR, &attribute) })?;
    Ok(offset)
}

/// Sets what KVM adds to the host's TSC. Some KVMs take it and ignore it.
pub fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    let attribute = tsc_offset_attribute(&raw mut offset);
    // SAFETY: the kernel reads eight bytes through the address in the attribute.
    result(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR, &attribute) })
}

fn tsc_offset_attribute(offset: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: u64::try_from(offset.expose_provenance()).unwrap_or(0),
    }
}

/// The least bytes of an XSAVE area as KVM hands it over. Components that a process enables by itself need more.
const XSAVE_AREA: usize = size_of::<[u32; 1024]>();

/// How long the XSAVE areas of a VM's vCPUs are.
pub fn xsave_size(vm: &VmFd) -> usize {
    let told = vm.check_extension_raw(KVM_CAP_XSAVE2.into());
    usize::try_from(told).unwrap_or(0).max(XSAVE_AREA)
}

/// Reads the XSAVE area in standard format into `area`, which is as long as [`xsave_size`] says.
pub fn get_xsave(vcpu: &VcpuFd, area: &mut [u8]) -> io::Result<()> {
    check_xsave_area(area)?;
    // SAFETY: the kernel writes as many bytes as it told, which `area` has.
    result(unsafe { ioctl_with_mut_ptr(vcpu, KVM_GET_XSAVE2, area.as_mut_ptr()) })
}

/// Sets the XSAVE area in standard format from `area`, which is as long as [`xsave_size`] says.
pub fn set_xsave(vcpu: &VcpuFd, area: &[u8]) -> io::Result<()> {
    check_xsave_area(area)?;
    // SAFETY: the kernel reads as many bytes as it told, which `area` has.
    result(unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE, area.as_ptr()) })
}

fn check_xsave_area(area: &[u8]) -> io::Result<()> {
    if area.len() < XSAVE_AREA {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

/// The registers of the primary 8259 and of the secondary one.
pub fn get_pics(vm: &VmFd) -> io::Result<[kvm_pic_state; 2]> {
    let mut pics = [kvm_pic_state::default(); 2];
    for (pic, chip_id) in pics.iter_mut().zip([KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE]) {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.get_irqchip(&mut chip)?;
        // SAFETY: the chip that was asked for is a PIC, and its state is plain integers.
        *pic = unsafe { chip.chip.pic };
    }
    Ok(pics)
}

/// Sets the registers of the primary 8259 and of the secondary one.
pub fn set_pics(vm: &VmFd, pics: [kvm_pic_state; 2]) -> io::Result<()> {
    for (pic, chip_id) in pics.into_iter().zip([KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE]) {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        chip.chip.pic = pic;
        vm.set_irqchip(&chip)?;
    }
    Ok(())
}

/// The registers of the I/O APIC, and its redirection table as words.
pub fn get_ioapic(vm: &VmFd) -> io::Result<(kvm_ioapic_state, [u64; 24])> {
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    vm.get_irqchip(&mut chip)?;
    // SAFETY: the chip that was asked for is the I/O APIC, and its state is plain integers.
    let ioapic = unsafe { chip.chip.ioapic };
    // SAFETY: both members are 64 bits of plain data.
    Ok((ioapic, ioapic.redirtbl.map(|entry| unsafe { entry.bits })))
}

/// Sets the registers of the I/O APIC, with the redirection table from `redirection`.
pub fn set_ioapic(vm: &VmFd, mut ioapic: kvm_ioapic_state, redirection: &[u64; 24]) -> io::Result<()> {
    for (entry, bits) in ioapic.redirtbl.iter_mut().zip(redirection) {
        entry.bits = *bits;
    }
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    chip.chip.ioapic = ioapic;
    Ok(vm.set_irqchip(&chip)?)
}
