//! `vm migrate`: move a running guest to a process that waits for it.

use std::time::{Duration, Instant};

use migration::uri::Uri;
use serde_json::{Map, Value, json};

use super::{
    error::CliError,
    follow::{Talk, Watcher},
    messages::Messages,
    progress::Bar,
    values::{Time, absolute, bandwidth, downtime_limit, peer},
    watch::Watch,
};
use crate::monitor::place::VmAddress;

/// Move a running guest to a waiting "vm receive".
///
/// Ends when the guest runs there, or is known to have stayed.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm migrate web tcp:127.0.0.1:40123
  vm migrate web unix:/run/user/1000/web.migrate --downtime-limit 30ms
  vm migrate web tcp:10.0.0.2:4444 --bandwidth-limit 100M --watch
  vm migrate web --watch

The migration goes on if this command is interrupted; \"vm info NAME\" shows how it stands.")]
pub(super) struct Args {
    /// The VM.
    #[arg(value_name = "NAME")]
    vm: VmAddress,
    /// Where the receiver listens: the first line that "vm receive" says. Without it, --watch shows what is under way already.
    #[arg(value_name = "URI", value_parser = peer)]
    uri: Option<Uri>,
    /// Show how it goes: on a terminal in place, elsewhere a line for each change, with --json an object.
    #[arg(long)]
    watch: bool,
    /// The longest pause that the guest may suffer, with its unit, from 1ms; else what was set last, or 300ms. No pause begins
    /// that is predicted to be longer: where the guest writes too much for it, the migration ends and the guest stays. A pause
    /// that turns out longer all the same, because a host or the connection hangs, is taken back: after the limit and a second,
    /// or twice the limit if that is longer, but after 10 seconds at most. Only once the receiver has been told to run the guest
    /// can it not be taken back any more.
    #[arg(long, value_name = "TIME", value_parser = downtime_limit)]
    downtime_limit: Option<Duration>,
    /// Bytes per second that the migration may take while the guest runs, with the unit, or "none"; else what was set last, or none.
    /// The pause takes what there is, so that it is as short as it can be.
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    bandwidth_limit: Option<u64>,
    /// Bytes per second that the connection takes in the pause. Without it the pause is predicted by what the guest's memory took
    /// before, which under a --bandwidth-limit is less; "none" goes back to that. A pause that this makes too long is taken back as
    /// any is.
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    switchover_bandwidth: Option<u64>,
}

impl Args {
    /// What is to be set before, in QMP's words.
    fn parameters(&self) -> Map<String, Value> {
        // QMP counts in milliseconds; a limit is a bound, so it is not rounded up.
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let given = [
            ("downtime-limit", self.downtime_limit.map(millis)),
            ("max-bandwidth", self.bandwidth_limit),
            ("avail-switchover-bandwidth", self.switchover_bandwidth),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        given.collect()
    }
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let began = Instant::now();
    if args.uri.is_none() && !args.watch {
        let text = format!(
            "where to? Start \"vm receive tcp:HOST:PORT\" there, then \"vm migrate {} URI\" with the address that it says",
            args.vm
        );
        return Err(CliError::Usage(text));
    }
    let mut vm = Talk::to(&args.vm)?;
    let parameters = args.parameters();
    if !parameters.is_empty() {
        vm.ask("migrate-set-parameters", parameters.into())?;
    }
    let what = "the migration";
    let mut watch: Box<dyn Watcher> = if args.watch {
        Box::new(Watch::new(args.vm.to_string(), messages))
    } else {
        Box::new(Bar::new(what, messages))
    };
    let state = match &args.uri {
        Some(uri) => {
            let uri = absolute(uri).to_string();
            vm.follow(what, "migrate", json!({ "uri": uri }), &mut *watch)?
        }
        None => vm.follow_under_way("what was under way", &mut *watch)?,
    };
    // What somebody else has started took longer than it was watched for.
    let took = state["total-time"]
        .as_u64()
        .map_or_else(|| began.elapsed(), Duration::from_millis);
    let to = &state["x-tern-to"];
    messages.result(
        format_args!(
            "{} in {}{}",
            outcome(&args.vm.to_string(), to.as_str()),
            Time(took),
            pauses(&state)
        ),
        &json!({ "name": args.vm.to_string(), "to": to, "seconds": took.as_secs_f64(), "migration": state }),
    )?;
    Ok(0)
}

/// Where the guest is, which may be something else than a migration has brought about if it was only watched.
fn outcome(name: &str, to: Option<&str>) -> String {
    match to {
        None => format!("{name} runs here: received"),
        Some(to) => match to.strip_prefix("file:") {
            Some(path) => format!("{name} is in {path:?}: saved"),
            None => format!("{name} runs at {to}: moved"),
        },
    }
}

/// How long the guest stood still, and how often it was let go on because that would have become too long.
fn pauses(state: &Value) -> String {
    let pause = state["x-tern-downtime-us"].as_u64();
    let pause = pause.map(|pause| format!(", paused for {}", Time::of_micros(pause)));
    let taken_back = state["x-tern-pauses-taken-back"].as_u64();
    let taken_back = taken_back.map(|times| format!(", after {times} pauses that were taken back to keep the limit"));
    [pause, taken_back].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_watched_is_named_as_what_it_was() {
        assert_eq!(outcome("a", Some("tcp:h:1")), "a runs at tcp:h:1: moved");
        assert_eq!(outcome("a", Some("file:/x")), "a is in \"/x\": saved");
        assert_eq!(outcome("a", None), "a runs here: received");
    }

    #[test]
    fn pauses_that_were_taken_back_are_shown() {
        let state = |taken_back| json!({ "x-tern-downtime-us": 5100, "x-tern-pauses-taken-back": taken_back });
        assert_eq!(pauses(&state(Value::Null)), ", paused for 5.1 ms");
        assert!(pauses(&state(json!(2))).ends_with("after 2 pauses that were taken back to keep the limit"));
    }
}
