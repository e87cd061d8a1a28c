//! `vm resolve`: decide about a guest that was handed over and never heard of.

use clap::ArgGroup;
use serde_json::json;

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::monitor::place::VmAddress;

/// Decide about a guest that was handed over and never heard of.
///
/// When the connection breaks at the last moment, only its user can tell whether the receiver runs the guest. The guest must not run on both sides: find out first what became of the receiver.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm resolve web --resume     # the receiver is dead: the guest runs on here
  vm resolve web --discard    # the receiver runs the guest: nothing is needed here any more")]
#[command(group(ArgGroup::new("decision").required(true).args(["resume", "discard"])))]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
    /// Run the guest here. The receiver must not be running it.
    #[arg(long)]
    resume: bool,
    /// Drop the guest here. The receiver must be running it.
    #[arg(long)]
    discard: bool,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let (decision, done) = if args.resume {
        ("resume", "runs here again")
    } else {
        ("discard", "was dropped here")
    };
    Talk::to(&args.vm)?.ask("x-tern-resolve", json!({ "decision": decision }))?;
    messages.result(
        format_args!("{} {done}", args.vm),
        &json!({ "name": args.vm.to_string(), "decision": decision }),
    )?;
    Ok(0)
}
