//! The processor of a VM on this host: made of what a user asks for, or brought along and found here.

use hw::i386::cpu_model::{CpuSpec, Lack, lacks};
use hw::i386::cpuid::CpuidTable;
use hw::i386::msr;
use migration::vm::{Finding, PreflightReport, Recipe};

use super::{CreateError, Host, describe};
use crate::accel::{Accelerator, HostFeatures};

/// The table of CPUID that a new VM gets.
pub(super) fn table(
    host: &Host,
    accelerator: &dyn Accelerator,
    spec: &CpuSpec,
    cpus: u32,
) -> Result<CpuidTable, CreateError> {
    whole_table(&HostFeatures::of(accelerator, &host.hidden_features)?, spec, cpus)
}

/// The table of a processor, where the host has all of it.
pub(super) fn whole_table(host: &HostFeatures, spec: &CpuSpec, cpus: u32) -> Result<CpuidTable, CreateError> {
    let made = host.table(spec, cpus);
    if made.missing.is_empty() {
        return Ok(made.table);
    }
    Err(CreateError::HostLacks {
        model: spec.to_string(),
        missing: made.missing.iter().map(|feature| feature.name).collect(),
    })
}

/// Compares the processor that a guest has with what there is here.
pub(super) fn check(host: &Host, accelerator: &dyn Accelerator, recipe: &Recipe, report: &mut PreflightReport) {
    let finding = |because| Finding {
        subject: "cpu".to_owned(),
        because,
    };
    let HostFeatures { supported, .. } = match HostFeatures::of(accelerator, &host.hidden_features) {
        Ok(features) => features,
        Err(error) => return report.refusals.push(finding(error.to_string())),
    };
    let table = describe::cpuid_of(recipe);
    let lacks = lacks(&table, &supported);
    if !lacks.is_empty() {
        report.refusals.push(finding(refusal(&table, &lacks, &recipe.cpu.name)));
    }
    if table.vendor() != supported.vendor() && supported.get(0, 0).is_some() {
        report.notes.push(finding(format!(
            "the guest was given a processor of {}, and this host's is of {}",
            table.vendor().escape_ascii(),
            supported.vendor().escape_ascii()
        )));
    }
}

fn refusal(table: &CpuidTable, lacks: &[Lack], model: &str) -> String {
    let list: Vec<_> = lacks.iter().map(ToString::to_string).collect();
    let registers: Vec<_> = msr::rows_lost(table, lacks)
        .map(|row| format!("{} (MSR {:#x})", row.name, row.index))
        .collect();
    let registers = match registers.as_slice() {
        [] => String::new(),
        some => format!("; with that go the registers {}", some.join(", ")),
    };
    format!(
        "this host lacks {} of the guest's processor ({model}){registers}; a guest that is to move between unlike hosts is \
         started with a model that all of them have, which \"vm cpu baseline\" finds",
        list.join(", ")
    )
}
