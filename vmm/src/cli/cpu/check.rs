//! `vm cpu check`: whether a processor can be had here.

use hw::i386::cpu_model::CpuSpec;
use serde_json::json;

use super::{here, places};
use crate::cli::{error::CliError, exit::Exit, messages::Messages};

/// Say whether VMs of a model run on this host, and what it lacks if not.
///
/// The exit status is 0 if they do and 1 if not.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm cpu check x86-64-v3\n  vm cpu check EPYC,+pcid --json || echo not here")]
pub(super) struct Args {
    /// The model, with features switched on and off.
    #[arg(value_name = "MODEL[,+FEATURE|-FEATURE]...")]
    cpu: CpuSpec,
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    accel: String,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let here = here(&args.accel, messages)?;
    let missing = here.table(&args.cpu, 1).missing;
    let text = match missing.as_slice() {
        [] => format!("{} runs on this host", args.cpu),
        some => {
            let lines: Vec<_> = some.iter().map(|feature| format!("\n  {feature}")).collect();
            format!("{} does not run on this host, which lacks{}", args.cpu, lines.concat())
        }
    };
    let runs = missing.is_empty();
    let value = json!({ "name": args.cpu.to_string(), "runs-here": runs, "missing": places(missing) });
    messages.result(text, &value)?;
    Ok(if runs { Exit::Done } else { Exit::Failed }.code())
}
