//! `vm quit`: end a VM.

use std::time::Duration;

use serde_json::json;

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::monitor::place::VmAddress;

/// End a VM without asking its guest.
///
/// Returns when it is gone. A VM whose guest was handed over and never heard of may hold the only copy of it, and is not ended by
/// this: decide with "vm resolve" first.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm quit web")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
}

/// A process that has said that it ends may take so long.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let mut vm = Talk::to(&args.vm)?;
    vm.ask("quit", json!({}))?;
    if !vm.wait_for_the_end(PATIENCE) {
        let why = "it said that it ends, and is there still";
        return Err(CliError::Start(format!("{}: {why}", args.vm)));
    }
    messages.result(
        format_args!("{} has ended", args.vm),
        &json!({ "name": args.vm.to_string() }),
    )?;
    Ok(0)
}
