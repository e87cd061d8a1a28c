//! What Tab offers at the prompt.

use serde_json::json;

use super::super::object_tree::{Ask, children, joined, properties};
use super::{
    commands::{COMMANDS, SUBJECTS, Takes, find},
    words::words,
};

/// Where the word that is being typed begins, and what it could become. Whatever cannot be found out offers nothing.
pub(super) fn complete(line: &str, ask: &mut Ask<'_>) -> (usize, Vec<String>) {
    let mut all = words(line);
    let is_new = line.ends_with(char::is_whitespace) && !line.contains('"');
    let (at, typed) = match all.pop() {
        Some(word) if !is_new => (word.at, word.text),
        last => {
            all.extend(last);
            (line.len(), String::new())
        }
    };
    let before: Vec<&str> = all
        .iter()
        .map(|word| word.text.as_str())
        .filter(|word| *word != "-d")
        .collect();
    let offered = match before.split_first() {
        None => starting(&typed, COMMANDS.iter().map(|command| command.name)),
        Some((command, before)) => match find(command).ok().and_then(|command| command.takes.get(before.len())) {
            Some(takes) => offers(*takes, before, &typed, ask),
            None => Vec::new(),
        },
    };
    (at, offered)
}

fn offers(takes: Takes, before: &[&str], typed: &str, ask: &mut Ask<'_>) -> Vec<String> {
    match takes {
        Takes::Command => starting(typed, COMMANDS.iter().map(|command| command.name)),
        Takes::Subject => starting(typed, SUBJECTS.iter().map(|subject| subject.name)),
        Takes::Address => starting(typed, ["tcp:", "unix:", "file:"].into_iter()),
        Takes::Text => Vec::new(),
        Takes::Path => paths(typed, ask),
        Takes::Property => {
            let path = before.last().copied().unwrap_or_default();
            let list = ask("qom-list", json!({ "path": path })).unwrap_or_default();
            starting(typed, properties(&list))
        }
        Takes::Parameter => {
            let parameters = ask("query-migrate-parameters", json!({})).unwrap_or_default();
            let names = parameters.as_object().into_iter().flatten();
            starting(typed, names.map(|(name, _)| name.as_str()))
        }
    }
}

fn starting<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names
        .filter(|name| name.starts_with(typed))
        .map(str::to_owned)
        .collect()
}

/// The paths that begin as typed. Where it is the only one, and there is more below it, it ends in a slash.
fn paths(typed: &str, ask: &mut Ask<'_>) -> Vec<String> {
    let Some((parent, name)) = typed.rsplit_once('/') else {
        return if typed.is_empty() {
            vec!["/".to_owned()]
        } else {
            Vec::new()
        };
    };
    let parent = if parent.is_empty() { "/" } else { parent };
    let list = ask("qom-list", json!({ "path": parent })).unwrap_or_default();
    let mut found: Vec<String> = starting(name, children(&list))
        .iter()
        .map(|name| joined(parent, name))
        .collect();
    if let [only] = &mut found[..] {
        let below = ask("qom-list", json!({ "path": only })).unwrap_or_default();
        if children(&below).next().is_some() {
            only.push('/');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::object_tree::tests::vm;

    fn offered(line: &str) -> (usize, Vec<String>) {
        complete(line, &mut |command, arguments| vm(command, &arguments))
    }

    #[test]
    fn commands_and_subjects_are_completed() {
        assert_eq!(offered("system_r"), (0, vec!["system_reset".to_owned()]));
        assert_eq!(offered("info st"), (5, vec!["status".to_owned()]));
        assert_eq!(offered("help system_r"), (5, vec!["system_reset".to_owned()]));
        assert_eq!(offered("migrate -d u"), (11, vec!["unix:".to_owned()]));
        assert_eq!(offered("").1.len(), COMMANDS.len());
        assert_eq!(offered("fly "), (4, vec![]), "nobody knows what it takes");
        assert_eq!(offered("stop now "), (9, vec![]));
    }

    #[test]
    fn paths_and_properties_are_the_vms_own() {
        assert_eq!(offered("qom-list "), (9, vec!["/".to_owned()]));
        assert_eq!(offered("qom-list /m"), (9, vec!["/machine/".to_owned()]));
        assert_eq!(offered("qom-get /machine/se"), (8, vec!["/machine/serial".to_owned()]));
        assert_eq!(offered("qom-get /machine c"), (17, vec!["cpus".to_owned()]));
        assert_eq!(
            offered("qom-get /machine "),
            (17, ["type", "secret", "cpus"].map(str::to_owned).to_vec())
        );
        assert_eq!(
            offered("qom-get /nowhere/x"),
            (8, vec![]),
            "an object that is not there has no children"
        );
        assert_eq!(offered("qom-get machine"), (8, vec![]));
    }
}
