//! `vm restore`: let a guest go on from a snapshot.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{
    error::CliError,
    host::{self, HostArgs},
    machine,
    messages::Messages,
    values::TscArgs,
};

/// Let a guest go on from a snapshot, in the foreground with its console, or with --detach in the background.
///
/// The file is never changed.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm restore web.tern --name web
  vm restore web.tern --name copy --verify=none
  vm restore web.tern --name web --detach")]
pub(super) struct Args {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// What is checked before the guest runs.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "full")]
    pub(super) verify: Verify,
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    pub(super) accel: String,
    #[command(flatten)]
    pub(super) tsc: TscArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// What is checked before a restored guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Verify {
    /// Every byte.
    Full,
    /// Not its memory: the file is mapped, and damage reaches the guest unseen. Quick.
    None,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    host::hold(&args.host, messages, |foreground| machine::restore(args, foreground))
}
