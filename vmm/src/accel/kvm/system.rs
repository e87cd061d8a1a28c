//! The host's KVM as such: what is asked of `/dev/kvm` before there is a VM.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use hw::i386::cpu_feature::CpuFeature;
use hw::i386::cpuid::{CpuidEntry, CpuidTable};
use hw::i386::xsave::XsaveLayout;
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_ADJUST_CLOCK, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_EXCEPTION_PAYLOAD,
    KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IRQCHIP, KVM_CAP_PIT2, KVM_CAP_PMU_CAPABILITY, KVM_CAP_SREGS2,
    KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE,
    kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VmFd};

use super::super::AccelError;
use super::ioctl::VcpuHandle;
use super::refused;

/// An open `/dev/kvm`.
pub struct KvmSystem {
    kvm: Arc<Kvm>,
}

/// What KVM supports on this host, or the error with which it refused to tell: a fact of the host, the same for all VMs
/// of the process. Where Tern runs in a virtual machine itself, to ask takes as long as to make a VM.
static SUPPORTED: OnceLock<Result<CpuidTable, i32>> = OnceLock::new();

/// What Tern cannot do without: the number of the capability, and what it is for people.
const REQUIRED: &[(u32, &str)] = &[
    (KVM_CAP_IRQCHIP, "interrupt controllers in the kernel"),
    (KVM_CAP_PIT2, "an interval timer in the kernel"),
    (KVM_CAP_ADJUST_CLOCK, "adjustable guest clocks"),
    (KVM_CAP_IMMEDIATE_EXIT, "immediate exits (Linux 4.13)"),
    (KVM_CAP_EXCEPTION_PAYLOAD, "the whole state of exceptions (Linux 4.20)"),
    (
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        "paravirtual features that can be withheld (Linux 5.10)",
    ),
    (KVM_CAP_SREGS2, "the whole state of paging (Linux 5.14)"),
    (KVM_CAP_X86_TRIPLE_FAULT_EVENT, "the state of triple faults (Linux 6.0)"),
];

impl KvmSystem {
    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self, AccelError> {
        let kvm = Kvm::new().map_err(|error| AccelError::Unavailable(unavailable(&error.into())))?;
        let version = kvm.get_api_version();
        if version < 0 {
            return Err(AccelError::Unavailable(
                "/dev/kvm is something other than KVM: it does not answer as KVM does".to_owned(),
            ));
        }
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(AccelError::Unavailable(format!(
                "/dev/kvm speaks version {version} of its interface, and Tern version {KVM_API_VERSION}"
            )));
        }
        let kvm = Arc::new(kvm);
        if SUPPORTED.get().is_none() {
            // Asked ahead, while this thread makes the VM; who needs the answer waits for it, or asks if this fails.
            let kvm = Arc::clone(&kvm);
            let _ = thread::Builder::new()
                .name("kvm-cpuid".to_owned())
                .spawn(move || supported(&kvm));
        }
        Ok(Self { kvm })
    }

    /// Makes a VM without anything in it.
    pub fn create_vm(&self) -> Result<VmFd, AccelError> {
        let vm = loop {
            match self.kvm.create_vm() {
                Ok(vm) => break vm,
                // The kernel sets up hardware on first use, and a signal may come in between.
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(refused("a new VM", error)),
            }
        };
        for &(capability, what) in REQUIRED {
            if vm.check_extension_raw(capability.into()) <= 0 {
                return Err(AccelError::Unavailable(format!(
                    "this host's KVM lacks {what}, which Tern needs: update its kernel"
                )));
            }
        }
        for capability in [KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT] {
            vm.enable_cap(&switch(capability, 1))
                .map_err(|error| refused("to tell the whole state of events", error))?;
        }
        // AMD's processors have performance counters that CPUID does not announce, so that a guest uses them, and Tern
        // does not describe their state.
        let counters = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
        if u32::try_from(counters).unwrap_or(0) & KVM_PMU_CAP_DISABLE != 0 {
            vm.enable_cap(&switch(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE))
                .map_err(|error| refused("to do without performance counters", error))?;
        }
        Ok(vm)
    }

    /// What KVM can give to guests on this host.
    pub fn supported(&self) -> Result<&'static CpuidTable, AccelError> {
        supported(&self.kvm).as_ref().map_err(|errno| {
            let error = io::Error::from_raw_os_error(*errno);
            refused("to tell which processor features it supports", error)
        })
    }

    /// Where the host keeps components of an XSAVE area.
    pub fn xsave_layout(&self) -> Result<XsaveLayout, AccelError> {
        Ok(XsaveLayout::of_host(self.supported()?))
    }
}

/// Keeps the guest of a vCPU to the paravirtual features that its CPUID table offers. KVM lets guests use all of them
/// otherwise, and what a guest has switched on of the rest would be lost.
pub fn enforce_paravirtual(vcpu: &VcpuHandle) -> io::Result<()> {
    Ok(vcpu.fd().enable_cap(&switch(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1))?)
}

fn switch(capability: u32, argument: u32) -> kvm_enable_cap {
    let mut switch = kvm_enable_cap {
        cap: capability,
        ..Default::default()
    };
    switch.args[0] = argument.into();
    switch
}

fn supported(kvm: &Kvm) -> &'static Result<CpuidTable, i32> {
    SUPPORTED.get_or_init(|| {
        let entries = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| error.errno())?;
        let mut table = CpuidTable::new(entries.as_slice().iter().map(|entry| CpuidEntry {
            leaf: entry.function,
            subleaf: entry.index,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        }));
        let deadline_timer = kvm.check_extension_raw(KVM_CAP_TSC_DEADLINE_TIMER.into()) > 0;
        add_unlisted(&mut table, deadline_timer);
        Ok(table)
    })
}

/// Adds the features that every KVM can give and that older kernels leave out of the table: that there is a hypervisor
/// goes without saying there, and the deadline timer depends on an interrupt controller in the kernel, so that a
/// capability tells of it.
fn add_unlisted(table: &mut CpuidTable, deadline_timer: bool) {
    let unlisted = [("hypervisor", true), ("tsc-deadline", deadline_timer)];
    let given = unlisted.into_iter().filter(|&(_, given)| given);
    for feature in given.filter_map(|(name, _)| CpuFeature::named(name)) {
        let entry = table.entry_mut(feature.leaf, feature.subleaf);
        *entry.register_mut(feature.register) |= feature.mask();
    }
}

/// Why `/dev/kvm` cannot be opened, with the remedy.
fn unavailable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no /dev/kvm: switch virtualisation on in the firmware (in a virtual machine, nested virtualisation on \
             its host) and load the module kvm_intel or kvm_amd"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "no permission to use /dev/kvm: add the user to the group kvm, if that is the device's \
             (`usermod -aG kvm USER`, then log in again), or allow it to this user (`setfacl -m u:USER:rw /dev/kvm`)"
                .to_owned()
        }
        _ => format!("/dev/kvm cannot be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_kernels_do_not_list_is_offered_all_the_same() {
        let feature = |name| CpuFeature::named(name).expect("a feature");
        for deadline_timer in [false, true] {
            let mut table = CpuidTable::default();
            add_unlisted(&mut table, deadline_timer);
            assert!(table.has(feature("hypervisor")));
            assert_eq!(table.has(feature("tsc-deadline")), deadline_timer);
        }
    }

    #[test]
    fn a_missing_or_forbidden_device_comes_with_the_remedy() {
        assert!(unavailable(&io::ErrorKind::NotFound.into()).contains("load the module"));
        assert!(unavailable(&io::ErrorKind::PermissionDenied.into()).contains("group kvm"));
    }
}
