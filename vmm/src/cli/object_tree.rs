//! The VM's objects, as `vm monitor` and `vm qom` show them.

use serde_json::{Value, json};

use super::error::CliError;

/// Asks the VM.
pub(super) type Ask<'a> = dyn FnMut(&str, Value) -> Result<Value, CliError> + 'a;

/// No tree is deeper; a VM that says so is not believed for ever.
const DEEPEST: usize = 64;

/// The entries of `qom-list` that are objects below `path`: names.
pub(super) fn children(list: &Value) -> impl Iterator<Item = &str> {
    entries(list).filter_map(|(name, kind)| kind.starts_with("child<").then_some(name))
}

/// The entries of `qom-list` that are values: names.
pub(super) fn properties(list: &Value) -> impl Iterator<Item = &str> {
    entries(list).filter_map(|(name, kind)| (!kind.starts_with("child<")).then_some(name))
}

/// Name and type of each entry of `qom-list`.
pub(super) fn entries(list: &Value) -> impl Iterator<Item = (&str, &str)> {
    let entries = list.as_array().map_or(&[][..], Vec::as_slice);
    entries
        .iter()
        .filter_map(|entry| Some((entry["name"].as_str()?, entry["type"].as_str()?)))
}

/// The path of an object by its parent's and its name.
pub(super) fn joined(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// The object at `path` and those below: `path`, `type`, `children` and, where wanted, `properties`.
pub(super) fn tree(ask: &mut Ask<'_>, path: &str, with_properties: bool) -> Result<Value, CliError> {
    below(ask, path, with_properties, 0)
}

fn below(ask: &mut Ask<'_>, path: &str, with_properties: bool, depth: usize) -> Result<Value, CliError> {
    let list = ask("qom-list", json!({ "path": path }))?;
    let mut get = |property: &str| ask("qom-get", json!({ "path": path, "property": property }));
    let mut object = json!({ "path": path, "type": get("type")?, "children": [] });
    if with_properties {
        for property in properties(&list).filter(|name| *name != "type") {
            // What cannot be read now is not shown.
            if let Ok(value) = get(property) {
                object["properties"][property] = value;
            }
        }
    }
    if depth < DEEPEST {
        let children = children(&list)
            .map(|name| below(ask, &joined(path, name), with_properties, depth + 1))
            .collect::<Result<_, _>>()?;
        object["children"] = Value::Array(children);
    }
    Ok(object)
}

/// One line for each object, as QEMU's `info qom-tree` has them.
pub(super) fn as_qom_tree(object: &Value) -> String {
    let mut lines = Vec::new();
    walk(object, 0, &mut |object, depth| {
        let path = object["path"].as_str().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let kind = object["type"].as_str().unwrap_or_default();
        lines.push(format!("{}/{name} ({kind})", "  ".repeat(depth)));
    });
    lines.join("\n")
}

/// Each object with its properties below it, as QEMU's `info qtree` has devices.
pub(super) fn as_qtree(object: &Value) -> String {
    let mut lines = Vec::new();
    walk(object, 0, &mut |object, depth| {
        let indent = "  ".repeat(depth);
        let kind = object["type"].as_str().unwrap_or_default();
        lines.push(format!("{indent}dev: {kind}, id {}", object["path"]));
        for (name, value) in object["properties"].as_object().into_iter().flatten() {
            lines.push(format!("{indent}  {name} = {value}"));
        }
    });
    lines.join("\n")
}

fn walk(object: &Value, depth: usize, visit: &mut dyn FnMut(&Value, usize)) {
    visit(object, depth);
    for child in object["children"].as_array().into_iter().flatten() {
        walk(child, depth + 1, visit);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A VM with a machine that has a serial port.
    pub(in super::super) fn vm(command: &str, arguments: &Value) -> Result<Value, CliError> {
        let no_such = || CliError::Start("no such object".into());
        let listed = |entries: &[(&str, &str)]| {
            let entry = |&(name, kind): &(&str, &str)| json!({ "name": name, "type": kind });
            entries.iter().map(entry).collect::<Value>()
        };
        let path = arguments["path"].as_str().unwrap_or_default();
        match (command, path, arguments["property"].as_str()) {
            ("qom-list", "/", _) => Ok(listed(&[("type", "string"), ("machine", "child<microvm>")])),
            ("qom-list", "/machine", _) => Ok(listed(&[
                ("type", "string"),
                ("serial", "child<isa-serial>"),
                ("secret", "string"),
                ("cpus", "uint32"),
            ])),
            ("qom-list", "/machine/serial", _) => Ok(listed(&[("type", "string")])),
            ("qom-get", "/", Some("type")) => Ok("container".into()),
            ("qom-get", "/machine", Some("type")) => Ok("microvm".into()),
            ("qom-get", "/machine", Some("cpus")) => Ok(2.into()),
            ("qom-get", "/machine/serial", Some("type")) => Ok("isa-serial".into()),
            _ => Err(no_such()),
        }
    }

    #[test]
    fn the_tree_is_shown_as_qemu_shows_it() {
        let mut ask = |command: &str, arguments: Value| vm(command, &arguments);
        let all = tree(&mut ask, "/", false).expect("it answers");
        assert_eq!(
            as_qom_tree(&all),
            "/ (container)\n  /machine (microvm)\n    /serial (isa-serial)"
        );
        let machine = tree(&mut ask, "/machine", true).expect("it answers");
        assert_eq!(
            as_qtree(&machine),
            "dev: microvm, id \"/machine\"\n  cpus = 2\n  dev: isa-serial, id \"/machine/serial\"",
            "what cannot be read is left out"
        );
    }

    #[test]
    fn a_tree_without_end_is_left_somewhere() {
        let mut asked = 0;
        let mut endless = |command: &str, _: Value| {
            asked += 1;
            Ok(match command {
                "qom-list" => json!([{ "name": "again", "type": "child<container>" }]),
                _ => "container".into(),
            })
        };
        tree(&mut endless, "/", false).expect("an end");
        assert!(asked < 1000);
    }
}
