//! `vm cpu baseline`: the processor that hosts share.

use std::path::{Path, PathBuf};

use hw::i386::{
    cpu_feature::CpuFeature,
    cpu_model::{Common, CpuModel, CpuSpec, DEFAULT_CPU_MODEL, HostOffer},
    cpuid::{CpuidEntry, CpuidTable},
};
use serde_json::{Value, json};

use super::{names, wrapped};
use crate::cli::{error::CliError, machine, messages::Messages};

/// Find the processor that hosts share: a model, and the features beyond it that all of them have.
///
/// Guests that are started with it move between the hosts in every direction. Each FILE is what "vm cpu show host --json"
/// has written on one of the hosts.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm cpu show host --json > a.json       # on the one host
  vm cpu show host --json > b.json       # on the other
  vm cpu baseline a.json b.json          # on any
  vm run --cpu \"$(vm cpu baseline a.json b.json --json | jq -r .cpu)\"")]
pub(super) struct Args {
    /// What \"vm cpu show host --json\" has written on each host.
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    hosts: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let offers = args
        .hosts
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<_>, _>>()?;
    let common = Common::of(&offers);
    let not_shared = names(common.not_shared.iter().copied());
    let Some(spec) = &common.spec else {
        return Err(CliError::Start(nothing(&offers)));
    };
    let beyond = names(spec.switches().map(|(feature, _)| feature));
    let value = json!({
        "cpu": spec.to_string(),
        "model": spec.model().name,
        "features": beyond,
        "not-shared": not_shared,
        "notes": common.notes,
    });
    messages.result(text(spec, &beyond, &not_shared, &common.notes), &value)?;
    Ok(0)
}

/// Why there is no processor for these hosts: what which of them lacks of the least one.
fn nothing(offers: &[HostOffer]) -> String {
    let least = CpuModel::named(DEFAULT_CPU_MODEL).expect("the default is a model");
    let lacks = |feature: &&CpuFeature| offers.iter().any(|host| !host.table.has(feature));
    let lacking = names(least.features().features().filter(lacks));
    format!(
        "the hosts share no model: not all of them have {} of {}",
        lacking.join(", "),
        least.name
    )
}

fn text(spec: &CpuSpec, beyond: &[&str], not_shared: &[&str], notes: &[String]) -> String {
    const INDENT: usize = 13;
    let mut lines = vec![format!("model:       {}", spec.model().name)];
    if !beyond.is_empty() {
        lines.push(format!("and beyond:  {}", wrapped(beyond, INDENT)));
    }
    if !not_shared.is_empty() {
        lines.push(format!("not shared:  {}", wrapped(not_shared, INDENT)));
    }
    lines.extend(notes.iter().map(|note| format!("note:        {note}")));
    lines.push(format!("\nvm run --cpu {spec}"));
    lines.join("\n")
}

/// A host's offer out of a file.
fn read(path: &Path) -> Result<HostOffer, CliError> {
    let contents = machine::read(path)?;
    let value = serde_json::from_slice(&contents);
    value
        .map_err(|error| error.to_string())
        .and_then(|value| offer(&value))
        .map_err(|why| {
            CliError::Start(format!(
                "{}: {why}; the file has to be what \"vm cpu show host --json\" writes",
                path.display()
            ))
        })
}

fn offer(value: &Value) -> Result<HostOffer, String> {
    let name = value["name"].as_str().unwrap_or_default();
    let is_host = name.parse::<CpuSpec>().is_ok_and(|spec| spec.model().is_tied_to_host());
    if !is_host {
        return Err(format!("it describes the CPU model {name:?} and no host"));
    }
    let entries = value["cpuid"].as_array().ok_or("it has no member \"cpuid\"")?;
    if entries.len() > CpuidTable::MAX_ENTRIES {
        return Err(format!("a table of CPUID with {} entries is none", entries.len()));
    }
    let entry = |value: &Value| {
        let number = |name: &str| {
            let number = value[name].as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| format!("an entry of \"cpuid\" has no number {name:?}"))
        };
        Ok(CpuidEntry {
            leaf: number("leaf")?,
            subleaf: number("subleaf")?,
            eax: number("eax")?,
            ebx: number("ebx")?,
            ecx: number("ecx")?,
            edx: number("edx")?,
        })
    };
    let entries = entries.iter().map(entry).collect::<Result<Vec<_>, String>>()?;
    Ok(HostOffer {
        table: CpuidTable::new(entries),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: &Value) -> String {
        offer(value).expect_err("refused")
    }

    #[test]
    fn a_file_that_describes_no_host_is_refused_with_what_is_wrong() {
        assert_eq!(refused(&json!([])), "it describes the CPU model \"\" and no host");
        assert!(refused(&json!({ "name": "x86-64-v2-1", "cpuid": [] })).contains("x86-64-v2-1"));
        assert_eq!(refused(&json!({ "name": "host" })), "it has no member \"cpuid\"");
        let entry = json!({ "leaf": 1, "subleaf": 0, "eax": -1 });
        assert_eq!(
            refused(&json!({ "name": "host", "cpuid": [entry] })),
            "an entry of \"cpuid\" has no number \"eax\""
        );
        let many = vec![json!({}); 1000];
        assert!(refused(&json!({ "name": "host", "cpuid": many })).contains("1000"));
    }
}
