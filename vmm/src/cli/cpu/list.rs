//! `vm cpu list`: the models, and which of them run here.

use std::fmt;

use hw::i386::cpu_model::{CPU_MODELS, CpuModel, CpuSpec, DEFAULT_CPU_MODEL};
use serde_json::{Value, json};

use super::{here, names, vendor, wrapped};
use crate::accel::HostFeatures;
use crate::cli::{error::CliError, messages::Messages};

/// List the CPU models, what this host lacks of each, and the features that it can give to guests.
///
/// A name without a version stands for a version for good: x86-64-v2 for the newest one, a name of QEMU's for the
/// version that QEMU takes it for. VMs and snapshots remember the name with the version.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm cpu list\n  vm cpu list --json")]
pub(super) struct Args {
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    accel: String,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    list(&args.accel, messages)
}

pub(super) fn list(accel: &str, messages: Messages) -> Result<u8, CliError> {
    let here = here(accel, messages)?;
    let models: Vec<_> = CPU_MODELS.iter().map(|model| Row::new(model, &here)).collect();
    let host: CpuSpec = "host".parse().expect("it is always there");
    let host = here.table(&host, 1).table;
    let listing = Listing {
        models,
        vendor: vendor(&host),
        features: names(host.features()),
    };
    messages.result(&listing, &listing.json())?;
    Ok(0)
}

struct Row {
    model: &'static CpuModel,
    missing: Vec<&'static str>,
}

impl Row {
    fn new(model: &'static CpuModel, here: &HostFeatures) -> Self {
        let spec = CpuSpec::new(model, []).expect("a model is a processor");
        Self {
            model,
            missing: names(here.table(&spec, 1).missing),
        }
    }
}

struct Listing {
    models: Vec<Row>,
    vendor: String,
    features: Vec<&'static str>,
}

impl Listing {
    fn json(&self) -> Value {
        let model = |row: &Row| {
            json!({
                "name": row.model.name,
                "aliases": row.model.aliases,
                "description": row.model.description,
                "default": row.model.name == DEFAULT_CPU_MODEL,
                "runs-here": row.missing.is_empty(),
                "missing": row.missing,
            })
        };
        json!({
            "host": { "vendor": self.vendor, "features": self.features },
            "models": self.models.iter().map(model).collect::<Value>(),
        })
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let also = |row: &Row| row.model.aliases.join(", ");
        let width = |text: &dyn Fn(&Row) -> usize| self.models.iter().map(text).max().unwrap_or_default();
        let (first, second) = (width(&|row| row.model.name.len()), width(&|row| also(row).len()));
        writeln!(f, "{:first$}  {:second$}  HERE  LACKS", "MODEL", "ALSO")?;
        for row in &self.models {
            let here = if row.missing.is_empty() { "yes" } else { "no" };
            let lacks = match row.missing.as_slice() {
                [] if row.model.name == DEFAULT_CPU_MODEL => "(the default)".to_owned(),
                [some @ .., _, _] if some.len() > 6 => {
                    format!("{} and {} more", some[..6].join(" "), row.missing.len() - 6)
                }
                all => all.join(" "),
            };
            let line = format!("{:first$}  {:second$}  {here:4}  {lacks}", row.model.name, also(row));
            writeln!(f, "{}", line.trim_end())?;
        }
        let features = wrapped(&self.features, 2);
        write!(f, "\nThis host ({}) can give to guests:\n  {features}", self.vendor)
    }
}
