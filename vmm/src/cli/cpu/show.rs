//! `vm cpu show`: everything that a guest sees of a processor.

use std::fmt;

use hw::i386::{
    cpu_model::{CpuSpec, ModelContents, ModelTable, Signature},
    cpuid::{CpuidTable, LEAF_FEATURES},
};
use serde_json::{Value, json};

use super::{here, names, places, vendor, wrapped};
use crate::cli::{error::CliError, messages::Messages};

/// Show what a guest sees of a processor here: features, family, and the whole table of CPUID.
///
/// The table is that of the first vCPU; of the others only the APIC id differs. What this host lacks of the model is not
/// in it. "vm cpu show host --json" is what "vm cpu baseline" reads.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm cpu show x86-64-v2
  vm cpu show EPYC,-topoext --cpus 4
  vm cpu show host --json > a.json")]
pub(super) struct Args {
    /// The model, with features switched on and off.
    #[arg(value_name = "MODEL[,+FEATURE|-FEATURE]...")]
    cpu: CpuSpec,
    /// How many vCPUs the VM has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    accel: String,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let here = here(&args.accel, messages)?;
    let ModelTable { table, missing } = here.table(&args.cpu, args.cpus);
    let shown = Shown {
        spec: &args.cpu,
        table: table.for_vcpu(0),
        missing: names(missing.iter().copied()),
        tsc_khz: here.tsc_khz,
    };
    let mut value = shown.json();
    value["missing"] = places(missing);
    messages.result(&shown, &value)?;
    Ok(0)
}

struct Shown<'a> {
    spec: &'a CpuSpec,
    table: CpuidTable,
    missing: Vec<&'static str>,
    tsc_khz: u32,
}

impl Shown<'_> {
    fn leaf(&self, leaf: u32) -> hw::i386::cpuid::CpuidEntry {
        self.table.get(leaf, 0).copied().unwrap_or_default()
    }

    fn signature(&self) -> Signature {
        Signature(self.leaf(LEAF_FEATURES).eax)
    }

    fn left_out(&self) -> Vec<&'static str> {
        match &self.spec.model().contents {
            ModelContents::Host => Vec::new(),
            ModelContents::Named(named) => named.left_out.split_ascii_whitespace().collect(),
        }
    }

    fn json(&self) -> Value {
        let entry = |entry: &hw::i386::cpuid::CpuidEntry| {
            json!({
                "leaf": entry.leaf, "subleaf": entry.subleaf,
                "eax": entry.eax, "ebx": entry.ebx, "ecx": entry.ecx, "edx": entry.edx,
            })
        };
        let signature = self.signature();
        json!({
            "name": self.spec.to_string(),
            "description": self.spec.model().description,
            "vendor": vendor(&self.table),
            "family": signature.family(),
            "model": signature.model(),
            "stepping": signature.stepping(),
            "brand": self.table.brand(),
            "tsc-khz": self.tsc_khz,
            "features": names(self.table.features()),
            "left-out": self.left_out(),
            "cpuid": self.table.entries().iter().map(entry).collect::<Value>(),
        })
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const INDENT: usize = 10;
        let signature = self.signature();
        writeln!(f, "model:    {}", self.spec)?;
        writeln!(f, "          {}", self.spec.model().description)?;
        writeln!(
            f,
            "reads as: {} family {} model {} stepping {} {}",
            vendor(&self.table),
            signature.family(),
            signature.model(),
            signature.stepping(),
            self.table.brand(),
        )?;
        writeln!(f, "features: {}", wrapped(&names(self.table.features()), INDENT))?;
        if !self.missing.is_empty() {
            writeln!(f, "lacking:  {}", wrapped(&self.missing, INDENT))?;
            writeln!(
                f,
                "          (this host cannot give them, so that no VM of this model starts here)"
            )?;
        }
        let left_out = self.left_out();
        if !left_out.is_empty() {
            writeln!(f, "left out: {}", wrapped(&left_out, INDENT))?;
            writeln!(f, "          (QEMU's model has them, and Tern gives them to no guest)")?;
        }
        write!(f, "\n    LEAF  SUB       EAX       EBX       ECX       EDX")?;
        for entry in self.table.entries() {
            write!(
                f,
                "\n{:8x}  {:3x}  {:08x}  {:08x}  {:08x}  {:08x}",
                entry.leaf, entry.subleaf, entry.eax, entry.ebx, entry.ecx, entry.edx
            )?;
        }
        Ok(())
    }
}
