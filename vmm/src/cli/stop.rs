//! `vm stop`: pause a guest.

use serde_json::json;

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::monitor::place::VmAddress;

/// Pause a guest.
///
/// "vm cont" lets it go on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm stop web")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let mut vm = Talk::to(&args.vm)?;
    vm.ask("stop", json!({}))?;
    let status = vm.ask("query-status", json!({}))?;
    messages.result(
        format_args!("{} is paused", args.vm),
        &json!({ "name": args.vm.to_string(), "status": status["status"] }),
    )?;
    Ok(0)
}
