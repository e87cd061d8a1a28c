//! `vm info`: what a VM or a snapshot is.

use std::{
    fmt,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{error::CliError, follow::Talk, messages::Messages, snapshot_info, values::Size};
use crate::monitor::place::VmAddress;

/// Show what a VM or a snapshot file holds.
///
/// For a VM also how its last migration or snapshot stands.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm info web\n  vm info ./web.tern --json")]
pub(super) struct Args {
    /// A running VM, or a snapshot file. A name without a slash is that of a VM if there is such a VM.
    #[arg(value_name = "NAME|FILE")]
    what: PathBuf,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let value = match find(&args.what)? {
        Found::Vm(mut talk) => {
            let mut info = talk.ask("x-tern-info", json!({}))?;
            let migration = talk.ask("query-migrate", json!({}))?;
            if migration.as_object().is_some_and(|members| !members.is_empty()) {
                info["migration"] = migration;
            }
            info
        }
        Found::File => snapshot_info::describe(&args.what, messages.is_json())
            .map_err(|error| CliError::Start(error.to_string()))?,
    };
    messages.result(Outline(&value), &value)?;
    Ok(0)
}

enum Found {
    Vm(Talk),
    File,
}

fn find(what: &Path) -> Result<Found, CliError> {
    let is_file = what.metadata().is_ok_and(|found| !found.file_type().is_socket());
    let address = what.to_str().and_then(|text| text.parse::<VmAddress>().ok());
    match address {
        Some(VmAddress::Socket(_)) if is_file => Ok(Found::File),
        Some(address) => match Talk::to(&address) {
            Err(CliError::NoSuchVm(_) | CliError::Place(_)) if is_file => Ok(Found::File),
            Err(CliError::NoSuchVm(_)) => Err(CliError::NoSuchVmOrFile(what.to_owned())),
            talk => Ok(Found::Vm(talk?)),
        },
        None => Ok(Found::File),
    }
}

/// JSON as an outline for people: one member a line, what is inside it indented.
pub(super) struct Outline<'a>(pub(super) &'a Value);

impl fmt::Display for Outline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        outline(&mut lines, self.0, 0);
        f.write_str(&lines.join("\n"))
    }
}

/// Members that are numbers of bytes.
const BYTES: [&str; 5] = ["memory", "remaining", "size", "total", "transferred"];

fn outline(lines: &mut Vec<String>, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let scalar = |value: &Value| match value {
        Value::Object(_) | Value::Array(_) => None,
        // A guest's text is no terminal's command.
        Value::String(text) => Some(text.replace(char::is_control, "\u{fffd}")),
        other => Some(other.to_string()),
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let bytes = member.as_u64().filter(|_| BYTES.contains(&name.as_str()));
                match bytes.map(|bytes| Size(bytes).to_string()).or_else(|| scalar(member)) {
                    Some(text) => lines.push(format!("{indent}{name}: {text}")),
                    None => {
                        lines.push(format!("{indent}{name}:"));
                        outline(lines, member, depth + 1);
                    }
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                match scalar(element) {
                    Some(text) => lines.push(format!("{indent}- {text}")),
                    None => {
                        lines.push(format!("{indent}-"));
                        outline(lines, element, depth + 1);
                    }
                }
            }
        }
        other => lines.push(format!("{indent}{}", scalar(other).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;

    #[test]
    fn json_becomes_an_outline() {
        let value = json!({ "name": "a", "ram": [{ "size": 0x0180_0000 }, 2], "migration": { "status": "none" } });
        assert_eq!(
            Outline(&value).to_string(),
            "migration:\n  status: none\nname: a\nram:\n  -\n    size: 24 MiB\n  - 2"
        );
        let of_guest = json!("\u{1b}[2Jhi\r\nname: b");
        assert_eq!(Outline(&of_guest).to_string(), "\u{fffd}[2Jhi\u{fffd}\u{fffd}name: b");
    }

    #[test]
    fn a_path_to_a_file_is_a_snapshot_and_a_path_to_nothing_is_no_vm() {
        let dir = TempDir::new();
        let file = dir.path().join("a.tern");
        assert!(matches!(find(&file), Err(CliError::NoSuchVmOrFile(_))));
        std::fs::write(&file, "").expect("a writable directory");
        assert!(matches!(find(&file), Ok(Found::File)));
    }
}
