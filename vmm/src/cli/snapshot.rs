//! `vm snapshot`: write a running guest to a file.

use std::{fs, path::PathBuf, time::Instant};

use serde_json::json;

use super::{
    error::CliError,
    follow::Talk,
    messages::Messages,
    progress::Bar,
    values::{Size, Time},
};
use crate::monitor::place::VmAddress;

/// Write the state and memory of a guest to a file.
///
/// The guest pauses as long as that takes, and then goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm snapshot web web.tern
  vm snapshot web web.tern --stop && vm quit web

The snapshot goes on if this command is interrupted; \"vm info NAME\" shows how it stands.")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
    /// The file to write. It appears under this name only when it is whole, and takes the place of an ordinary file there.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Leave the guest paused, so that the snapshot is its last word.
    #[arg(long)]
    stop: bool,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let began = Instant::now();
    let failed = |action, error| CliError::File {
        action,
        path: args.file.clone(),
        error,
    };
    // The VM's process has a working directory of its own.
    let path = std::path::absolute(&args.file).map_err(|error| failed("find", error))?;
    let arguments = json!({ "path": path, "stop": args.stop });
    let state = Talk::to(&args.vm)?.follow(
        "the snapshot",
        "x-tern-snapshot",
        arguments,
        &mut Bar::new("the snapshot", messages),
    )?;
    let took = began.elapsed();
    let file = fs::metadata(&path).map_err(|error| failed("look at", error))?;
    let allocated = std::os::unix::fs::MetadataExt::blocks(&file).saturating_mul(512);
    let pause = state["x-tern-downtime-us"].as_u64();
    messages.result(
        format_args!(
            "{} is in {:?}: {} in {}{}",
            args.vm,
            args.file,
            Size(allocated),
            Time(took),
            pause
                .map(|pause| format!(", paused for {}", Time::of_micros(pause)))
                .unwrap_or_default(),
        ),
        &json!({
            "name": args.vm.to_string(),
            "file": path,
            "bytes": file.len(),
            "allocated": allocated,
            "seconds": took.as_secs_f64(),
            "migration": state,
        }),
    )?;
    Ok(0)
}
