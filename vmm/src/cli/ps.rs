//! `vm ps`: the VMs that there are.

use std::time::Duration;

use serde_json::{Value, json};

use super::{error::CliError, messages::Messages, values::Size};
use crate::monitor::{
    client::{Client, ClientError},
    place::list,
};

/// List this user's VMs.
///
/// Those with a --control of their own are not among them.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm ps\n  vm ps --json")]
pub(super) struct Args {}

/// A VM that does not answer within this is listed as such; the others should not wait for it long.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(_: &Args, messages: Messages) -> Result<u8, CliError> {
    let mut vms = Vec::new();
    for (name, socket) in list()? {
        let asked =
            Client::connect_within(&socket, PATIENCE).and_then(|mut client| client.execute("x-tern-info", json!({})));
        match asked {
            Ok(info) => vms.push(info),
            // A process that was killed left its socket behind; whoever takes the name next removes it.
            Err(ClientError::NobodyThere { .. } | ClientError::Closed) => {}
            Err(error) => vms.push(json!({ "name": name.as_str(), "state": "silent", "error": error.to_string() })),
        }
    }
    messages.result(Table(&vms), &json!(vms))?;
    Ok(0)
}

struct Table<'a>(&'a [Value]);

impl std::fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |vm: &Value, name: &str| match &vm[name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let width = self
            .0
            .iter()
            .map(|vm| text(vm, "name").len())
            .max()
            .unwrap_or_default()
            .max("NAME".len());
        write!(
            f,
            "{:width$}  {:14}  {:>8}  {:>4}  {:>9}",
            "NAME", "STATE", "PID", "CPUS", "MEMORY"
        )?;
        for vm in self.0 {
            let memory = vm["memory"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), |bytes| Size(bytes).to_string());
            write!(
                f,
                "\n{:width$}  {:14}  {:>8}  {:>4}  {memory:>9}",
                text(vm, "name"),
                text(vm, "state"),
                text(vm, "pid"),
                text(vm, "cpus"),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_shows_what_is_unknown_as_such() {
        let vms = [
            json!({ "name": "a-longer-name", "state": "running", "pid": 4711, "cpus": 2, "memory": 256 << 20 }),
            json!({ "name": "b", "state": "in-migrate", "pid": 12 }),
        ];
        assert_eq!(
            Table(&vms).to_string(),
            "\
NAME           STATE                PID  CPUS     MEMORY
a-longer-name  running             4711     2    256 MiB
b              in-migrate            12     -          -"
        );
    }
}
