//! `vm monitor`: a prompt at which people talk to a running VM, with the words of QEMU's human monitor.
//!
//! Every command of a user becomes commands of QMP (`commands`); this process knows nothing that other clients of the control socket could
//! not know.

mod commands;
mod complete;
mod prompt;
mod words;

use std::io::{IsTerminal, stdin, stdout};

use super::{error::CliError, follow::Talk, messages::Messages};
use crate::monitor::place::VmAddress;
use commands::{Outcome, execute};

/// Talk to a VM at a prompt, with the commands of QEMU's monitor.
///
/// At a terminal it completes commands, paths and properties of objects, keeps a history, and shows the VM's events. Otherwise it takes
/// a command from each line of its input and ends with the first one that fails. "help" lists the commands; "quit" ends the VM, Ctrl-D
/// leaves the prompt.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm monitor web
  vm monitor web -c \"info status\" -c \"info cpus\"
  echo \"qom-list /machine\" | vm monitor web --json")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
    /// Carry out this command instead of asking for one; may be given several times.
    #[arg(short, long = "command", value_name = "TEXT")]
    commands: Vec<String>,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    if !args.commands.is_empty() {
        for line in &args.commands {
            if !carry_out(&args.vm, line, messages)? {
                break;
            }
        }
    } else if stdin().is_terminal() && stdout().is_terminal() {
        prompt::converse(&args.vm, messages)?;
    } else {
        // Without a single command, too, it is said that there is no such VM.
        Talk::to(&args.vm)?;
        for line in stdin().lines() {
            if !carry_out(&args.vm, &line.map_err(CliError::Process)?, messages)? {
                break;
            }
        }
    }
    Ok(0)
}

/// Carries out a line and prints what comes of it; whether there may be another one.
fn carry_out(vm: &VmAddress, line: &str, messages: Messages) -> Result<bool, CliError> {
    match execute(vm, line, messages)? {
        Outcome::Nothing => {}
        Outcome::Said { text, value } => {
            if messages.is_json() || !text.is_empty() {
                messages.result(text, &value)?;
            }
        }
        Outcome::Leave => return Ok(false),
    }
    Ok(true)
}
