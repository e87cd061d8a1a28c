//! `vm receive`: wait for a guest.

use migration::uri::Uri;
use serde_json::json;

use super::{
    error::CliError,
    host::{Foreground, HostArgs},
    machine,
    messages::Messages,
    values::{TscArgs, absolute, peer},
};

/// Wait for a guest that "vm migrate" sends, and run it in the foreground.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm receive tcp:127.0.0.1:0 --name web
  vm receive unix:/run/user/1000/web.migrate

The first line on stderr is the address that \"vm migrate\" takes; with port 0 a free port is chosen.")]
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
    let foreground = Foreground::prepare(&args.host, messages)?;
    let vm = machine::receiver(args, &foreground)?;
    let uri = absolute(&args.uri).to_string();
    vm.migrate_incoming(&uri)
        .map_err(|error| CliError::Start(error.to_string()))?;
    let uri = vm.query_migrate().listening.unwrap_or(uri);
    foreground.messages().line("listening", &uri, json!({ "uri": uri }));
    foreground.serve(&vm)
}
