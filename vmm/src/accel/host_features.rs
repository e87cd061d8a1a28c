//! What guests can be given on a host, kept for those who ask while there is no accelerator at hand.

use std::sync::Arc;

use hw::i386::cpu_feature::CpuFeature;
use hw::i386::cpu_model::{CpuSpec, HostCpu, ModelTable};
use hw::i386::cpuid::CpuidTable;
use vmstate::qom::TypeTable;

use super::{AccelError, Accelerator, VcpuEvent, VcpuEvents, create};

/// What guests can be given on a host.
#[derive(Clone, Debug, Default)]
pub struct HostFeatures {
    /// The features that they can have, and where the processor keeps their state.
    pub supported: CpuidTable,
    /// How fast their TSCs count, in kHz.
    pub tsc_khz: u32,
}

/// Nothing runs that could have something to report.
struct Silence;

impl VcpuEvents for Silence {
    fn vcpu_event(&self, _: u32, _: VcpuEvent) {}
}

impl HostFeatures {
    /// Asks the accelerator of a VM. The features that are `hidden` nobody is to have.
    ///
    /// # Errors
    ///
    /// As [`Accelerator::host_cpu`].
    pub fn of(accelerator: &dyn Accelerator, hidden: &[&CpuFeature]) -> Result<Self, AccelError> {
        let HostCpu { supported, tsc_khz } = accelerator.host_cpu()?;
        let mut supported = supported.clone();
        hidden.iter().for_each(|feature| supported.take(feature));
        Ok(Self { supported, tsc_khz })
    }

    /// Asks the accelerator called `name`, without a VM.
    ///
    /// # Errors
    ///
    /// As [`create`] and [`Accelerator::host_cpu`].
    pub fn ask(name: &str, types: &Arc<TypeTable>, hidden: &[&CpuFeature]) -> Result<Self, AccelError> {
        let created = create(name, types, Arc::new(Silence))?;
        Self::of(created.accelerator.as_ref(), hidden)
    }

    /// What a processor comes to here.
    #[must_use]
    pub fn table(&self, spec: &CpuSpec, cpus: u32) -> ModelTable {
        let host = HostCpu {
            supported: &self.supported,
            tsc_khz: self.tsc_khz,
        };
        spec.table(&host, cpus)
    }
}
