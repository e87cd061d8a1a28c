//! Taking the state of a tree out.

use super::{blockers, described};
use crate::qom::Object;
use crate::state::{HookError, Section};

/// Why a tree could not be saved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SaveTreeError {
    /// Some objects can be neither saved nor moved.
    #[error("this machine cannot be saved or moved: {}", list_blockers(.0))]
    Unmigratable(
        /// The path of each such object, and its reason.
        Vec<(String, &'static str)>,
    ),
    /// A hook refused.
    #[error("{path} ({description}) cannot be saved: {source}")]
    Hook {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: &'static str,
        /// What it says.
        source: HookError,
    },
}

fn list_blockers(blockers: &[(String, &'static str)]) -> String {
    let texts: Vec<_> = blockers
        .iter()
        .map(|(path, reason)| format!("{path} ({reason})"))
        .collect();
    texts.join("; ")
}

/// Takes the state of the tree below `root` out. Nothing may change it meanwhile: the machine is paused. It is left as
/// it was, whatever the outcome.
///
/// # Errors
///
/// [`SaveTreeError`]: an object cannot be saved at all, or a hook refused.
pub fn save_tree(root: &Object) -> Result<Vec<Section>, SaveTreeError> {
    let blockers = blockers(root);
    if !blockers.is_empty() {
        return Err(SaveTreeError::Unmigratable(blockers));
    }
    described(root)
        .into_iter()
        .map(|one| match one.binding.save(&one.object) {
            Ok(value) => Ok(Section {
                path: one.path,
                description: one.description.to_owned(),
                value,
            }),
            Err(source) => Err(SaveTreeError::Hook {
                path: one.path,
                description: one.description,
                source,
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{clock, hooks_run, tree, used_machine};
    use super::*;

    fn keys(sections: &[Section]) -> Vec<String> {
        sections
            .iter()
            .map(|section| format!("{} ({})", section.path, section.description))
            .collect()
    }

    #[test]
    fn a_tree_is_saved_by_priority_and_then_by_path_under_the_describing_types() {
        let root = tree(&[("z", "clock"), ("b", "slow-pic"), ("a", "timer"), ("box", "container")]);
        let sections = save_tree(&root).expect("it can be saved");
        assert_eq!(
            keys(&sections),
            ["/a (clock)", "/z (clock)", "/a (timer)", "/b (pic-common)"]
        );
    }

    #[test]
    fn saving_leaves_the_source_as_it_was_and_runs_the_hooks_around_it() {
        let source = used_machine();
        let first = save_tree(&source);
        assert_eq!(hooks_run(), ["pre_save at 1000", "post_save at 1000"]);
        assert_eq!(save_tree(&source), first);
    }

    #[test]
    fn an_object_that_cannot_be_saved_is_named_with_its_reason() {
        let root = tree(&[("a", "host-disk"), ("b", "host-disk"), ("clock", "clock")]);
        assert_eq!(
            save_tree(&root).expect_err("unmigratable").to_string(),
            "this machine cannot be saved or moved: /a (it is a file of this host); /b (it is a file of this host)"
        );
        assert!(hooks_run().is_empty(), "nothing was started");
    }

    #[test]
    fn a_hook_that_refuses_to_save_is_named_and_what_it_began_is_undone() {
        for (refused, run) in [("pre_save", 2), ("post_save", 2)] {
            let source = used_machine();
            *clock(&source).refuses.lock() = Some(refused);
            let error = save_tree(&source).expect_err("refused").to_string();
            assert_eq!(error, "/clock (clock) cannot be saved: the clock stands still");
            assert_eq!(hooks_run().len(), run, "post_save runs in any case");
        }
    }
}
