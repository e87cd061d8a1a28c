//! `vm state verify`: every checksum of a file.

use std::{path::PathBuf, thread};

use migration::snapshot::{Verified, verify};
use serde_json::json;

use super::{failed, plain};
use crate::cli::{error::CliError, messages::Messages, values::Size};

/// Check every checksum in a snapshot: records, state, memory, and what the guest boots from.
///
/// Damage is told by the part of the file that it is in, and the exit status is 1.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm state verify web.tern\n  vm state verify web.tern --json")]
pub(super) struct Args {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let Verified {
        records,
        chunks,
        ram,
        payloads,
    } = verify(&args.file, threads, &()).map_err(failed)?;
    let file = args.file.display().to_string();
    let text = format!(
        "{} is whole: {records} records, {} of memory in {chunks} chunks, {payloads} pieces of the boot payload",
        plain(&file),
        Size(ram)
    );
    let value =
        json!({ "file": file, "records": records, "ram-chunks": chunks, "ram-bytes": ram, "boot-payloads": payloads });
    messages.result(text, &value)?;
    Ok(0)
}
