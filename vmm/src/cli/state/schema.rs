//! `vm state schema`: every field that is state.

use std::fmt;

use super::descriptions::Descriptions;
use crate::cli::{error::CliError, messages::Messages};

/// Print what this program saves and loads: every description, field by field.
///
/// With --json it is what "vm state check" reads.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm state schema
  vm state schema --machine microvm-1.0
  vm state schema --json > released.json")]
pub(super) struct Args {
    /// Only what this machine saves, for each of its objects. It never changes for a machine with a version in its name.
    #[arg(long, value_name = "TYPE")]
    machine: Option<String>,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let descriptions = match &args.machine {
        None => Descriptions::of_this_program()?,
        Some(machine) => Descriptions::of_machine(machine)?,
    };
    messages.result(Text(&descriptions), &descriptions.to_json())?;
    Ok(0)
}

struct Text<'a>(&'a Descriptions);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, section) in self.0.sections.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n\n" };
            write!(f, "{separator}{}\n{}", section.name(), section.schema)?;
        }
        Ok(())
    }
}
