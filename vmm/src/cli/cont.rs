//! `vm cont`: let a paused guest go on.

use serde_json::json;

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::monitor::place::VmAddress;

/// Let a paused guest go on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm cont web")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let mut vm = Talk::to(&args.vm)?;
    vm.ask("cont", json!({}))?;
    let status = vm.ask("query-status", json!({}))?;
    messages.result(
        format_args!("{} goes on", args.vm),
        &json!({ "name": args.vm.to_string(), "status": status["status"] }),
    )?;
    Ok(0)
}
