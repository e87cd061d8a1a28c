//! `vm state`: what is state of a machine, by the name of each field, in this program and in files.

mod check;
mod descriptions;
mod diff;
mod inspect;
mod schema;
mod verify;

use std::{fmt, path::Path};

use migration::snapshot::{SnapshotError, SnapshotInfo, inspect as read_snapshot};

use super::{error::CliError, messages::Messages};

/// Show, compare and check the state of machines: in this program and in files.
///
/// Nothing here needs the types of whoever wrote a file: names and types come from the file itself.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm state schema --machine microvm-1.0        # every field that is state
  vm state inspect web.tern                    # what a snapshot holds
  vm state diff before.tern after.tern         # each field that differs
  vm state schema --json > released.json       # kept with a release, and later:
  vm state check released.json                 # does all of that still load here?
  vm state verify web.tern                     # every checksum")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Schema(schema::Args),
    Inspect(inspect::Args),
    Diff(diff::Args),
    Check(check::Args),
    Verify(verify::Args),
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    match &args.command {
        Command::Schema(args) => schema::run(args, messages),
        Command::Inspect(args) => inspect::run(args, messages),
        Command::Diff(args) => diff::run(args, messages),
        Command::Check(args) => check::run(args, messages),
        Command::Verify(args) => verify::run(args, messages),
    }
}

fn failed(error: impl fmt::Display) -> CliError {
    CliError::Start(plain(&error.to_string()))
}

fn snapshot(path: &Path) -> Result<SnapshotInfo, CliError> {
    read_snapshot(path).map_err(|error: SnapshotError| failed(error))
}

/// A text from a file, as it can be shown on a terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// `path (description)`.
fn section_name(path: Option<&str>, description: &str) -> String {
    plain(&match path {
        Some(path) => format!("{path} ({description})"),
        None => description.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_out_of_a_file_moves_no_cursor() {
        let name = section_name(Some("/machine/\x1b[2J\n"), "uart");
        assert_eq!(name, "/machine/\u{fffd}[2J\u{fffd} (uart)");
    }
}
