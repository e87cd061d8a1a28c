//! `vm qom`: the objects that a running VM is made of.

use serde_json::{Value, json};

use super::{
    error::CliError,
    follow::Talk,
    info::Outline,
    messages::Messages,
    object_tree::{as_qom_tree, as_qtree, properties, tree},
    values::json_or_text,
};
use crate::monitor::place::VmAddress;

/// Look at the objects of a running VM, and change what can be changed.
///
/// The guest runs on meanwhile. An object is named by its path (/machine/serial) or by the end of it, where that is enough (serial).
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm qom tree web                              # all objects and their types
  vm qom tree web /machine --properties        # the machine, with what it is made with
  vm qom get web serial                        # every property of an object
  vm qom get web serial state                  # what of it a snapshot would hold
  vm qom set web pvpanic events 1              # refused: what an object is made with is fixed once it is made")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show objects, each below its parent.
    Tree {
        /// The VM.
        #[arg(value_name = "NAME")]
        vm: VmAddress,
        /// Where to begin.
        #[arg(default_value = "/")]
        path: String,
        /// Show the properties of each object too.
        #[arg(long)]
        properties: bool,
    },
    /// Show a property of an object, or all of them.
    Get {
        /// The VM.
        #[arg(value_name = "NAME")]
        vm: VmAddress,
        /// The object.
        path: String,
        /// The property; "state" is what of the object is saved, field by field. Without it all are shown.
        property: Option<String>,
    },
    /// Change a property of an object.
    Set {
        /// The VM.
        #[arg(value_name = "NAME")]
        vm: VmAddress,
        /// The object.
        path: String,
        /// The property.
        property: String,
        /// The value, as on the command line or in JSON.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let (vm, Answer { text, value }) = match &args.command {
        Command::Tree { vm, path, properties } => (vm, show_tree(&mut asking(vm)?, path, *properties)?),
        Command::Get { vm, path, property } => (vm, get(&mut asking(vm)?, path, property.as_deref())?),
        Command::Set {
            vm,
            path,
            property,
            value,
        } => {
            let arguments = json!({ "path": path, "property": property, "value": json_or_text(value) });
            let mut ask = asking(vm)?;
            ask("qom-set", arguments)?;
            let got = ask("qom-get", json!({ "path": path, "property": property }))?;
            let text = format!("{property}: {}", plain(&got));
            (vm, Answer { text, value: got })
        }
    };
    messages.result(text, &json!({ "name": vm.to_string(), "result": value }))?;
    Ok(0)
}

/// What was found, for people and for machines.
struct Answer {
    text: String,
    value: Value,
}

fn asking(vm: &VmAddress) -> Result<impl FnMut(&str, Value) -> Result<Value, CliError> + use<>, CliError> {
    let mut talk = Talk::to(vm)?;
    Ok(move |command: &str, arguments| talk.ask(command, arguments))
}

type Ask<'a> = super::object_tree::Ask<'a>;

fn show_tree(ask: &mut Ask<'_>, path: &str, with_properties: bool) -> Result<Answer, CliError> {
    let value = tree(ask, path, with_properties)?;
    let text = match with_properties {
        true => as_qtree(&value),
        false => as_qom_tree(&value),
    };
    Ok(Answer { text, value })
}

fn get(ask: &mut Ask<'_>, path: &str, property: Option<&str>) -> Result<Answer, CliError> {
    let read = |ask: &mut Ask<'_>, property: &str| ask("qom-get", json!({ "path": path, "property": property }));
    if let Some(property) = property {
        let value = read(ask, property)?;
        return Ok(Answer {
            text: plain(&value),
            value,
        });
    }
    let list = ask("qom-list", json!({ "path": path }))?;
    let mut value = json!({});
    for name in properties(&list) {
        // What cannot be read at the moment has no value to be shown.
        if let Ok(got) = read(ask, name) {
            value[name] = got;
        }
    }
    Ok(Answer {
        text: plain(&value),
        value,
    })
}

/// A value as people read it: text without quotes, and anything larger as an outline.
fn plain(value: &Value) -> String {
    Outline(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::object_tree::tests::vm;

    fn ask() -> impl FnMut(&str, Value) -> Result<Value, CliError> {
        |command: &str, arguments: Value| vm(command, &arguments)
    }

    #[test]
    fn a_property_is_shown_bare_and_all_of_them_by_name() {
        let one = get(&mut ask(), "/machine", Some("cpus")).expect("it answers");
        assert_eq!((one.text.as_str(), one.value), ("2", json!(2)));
        let all = get(&mut ask(), "/machine", None).expect("it answers");
        assert_eq!(all.text, "cpus: 2\ntype: microvm", "what cannot be read is left out");
        assert_eq!(all.value, json!({ "type": "microvm", "cpus": 2 }));
        assert!(get(&mut ask(), "/nowhere", None).is_err());
        assert!(
            get(&mut ask(), "/machine", Some("secret")).is_err(),
            "asked for by name, it is missed"
        );
    }

    #[test]
    fn a_tree_begins_where_it_is_told_to() {
        let tree = show_tree(&mut ask(), "/machine", true).expect("it answers");
        assert!(
            tree.text.starts_with("dev: microvm, id \"/machine\"\n  cpus = 2"),
            "{}",
            tree.text
        );
        let tree = show_tree(&mut ask(), "/machine", false).expect("it answers");
        assert!(tree.text.starts_with("/machine (microvm)"), "{}", tree.text);
    }
}
