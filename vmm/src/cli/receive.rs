//! `vm receive`: wait for a guest.

use std::sync::Arc;

use migration::uri::Uri;

use super::{
    error::CliError,
    host::{self, HostArgs},
    machine,
    messages::Messages,
    progress::Arrival,
    values::{TscArgs, absolute, peer},
};

/// Wait for a guest that "vm migrate" sends, and run it in the foreground or, with --detach, in the background.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm receive tcp:127.0.0.1:0 --name web
  vm receive unix:/run/user/1000/web.migrate
  vm receive tcp:127.0.0.1:0 --name web --detach

The first line on stderr, or with --detach on stdout, is the address that \"vm migrate\" takes; with port 0 a free
port is chosen.")]
pub(super) struct Args {
    /// Where to listen: tcp:ADDRESS:PORT or unix:PATH.
    #[arg(value_name = "URI", value_parser = peer)]
    uri: Uri,
    /// Listen beyond this host. Senders are not authenticated, and what they send is not encrypted.
    #[arg(long)]
    pub(super) allow_remote: bool,
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    pub(super) accel: String,
    #[command(flatten)]
    pub(super) tsc: TscArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    host::hold(&args.host, messages, |foreground| {
        let vm = machine::receiver(args, foreground)?;
        vm.subscribe(Arc::new(Arrival::new(&vm, foreground.event_loop(), messages)));
        let uri = absolute(&args.uri).to_string();
        vm.migrate_incoming(&uri)
            .map_err(|error| CliError::Start(error.to_string()))?;
        let uri = vm.query_migrate().listening.unwrap_or(uri);
        foreground.listens_at(uri);
        Ok(vm)
    })
}
