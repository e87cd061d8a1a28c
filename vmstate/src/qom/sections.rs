//! The state of a whole tree, as sections.
//!
//! One section is the state that one class describes, of one object; its key is the object's canonical path and the
//! name of the type *that holds the description*: `kvm-ioapic` saves what `ioapic-common` describes, and any other
//! subclass can load it. The order of saving and loading is that of the descriptions' priorities, the highest first,
//! then path order.
//!
//! Loading has two phases. First every section is decoded, adapted to this Tern's description and made into a plain
//! state, and sections and objects are matched one to one. Only then is anything put into an object, which cannot fail;
//! hooks can, and then the tree, which was fresh, is to be dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Install, Object, StateBinding};
use crate::state::{self, DecodeError, HookError, Schema, Section, StateError};

/// The description of one section that a tree has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionSchema {
    /// The canonical path of the object.
    pub path: String,
    /// The name of the type that holds the description.
    pub description: String,
    /// What the section holds.
    pub schema: Schema,
}

/// A section of a stream or file that is to be loaded.
#[derive(Clone, Debug)]
pub struct IncomingSection {
    /// The canonical path of the object.
    pub path: String,
    /// The name of the type that holds the description.
    pub description: String,
    /// What the section holds according to who wrote it.
    pub writer_schema: Arc<Schema>,
    /// The encoded state.
    pub bytes: Vec<u8>,
}

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

/// Why sections could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadTreeError {
    /// A section has no object here.
    #[error("the stream holds state of {path} ({description}), and this machine has {here}")]
    Unexpected {
        /// The path in the stream.
        path: String,
        /// The description in the stream.
        description: String,
        /// What is at that path here.
        here: String,
    },
    /// Two sections are for one object.
    #[error("the stream holds the state of {path} ({description}) twice")]
    Twice {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
    },
    /// Objects stay without state.
    #[error("the stream holds no state of {0}")]
    Missing(
        /// Each `path (description)`.
        String,
    ),
    /// The bytes are not what the writer's description says.
    #[error("{path} ({description}): {source}")]
    Decode {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// The field, the offset, and what is wrong.
        source: Box<DecodeError>,
    },
    /// A field has a value that is none.
    #[error("{path} ({description}): {source}")]
    State {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// The field, and what is wrong.
        source: Box<StateError>,
    },
    /// A hook refused.
    #[error("{path} ({description}) cannot take this state: {source}")]
    Hook {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// What it says.
        source: HookError,
    },
}

/// The state that one class of one object describes.
struct Described {
    path: String,
    object: Arc<Object>,
    description: &'static str,
    binding: &'static StateBinding,
}

/// What a section is known by: the path, and the type that holds the description.
type Key = (String, String);

impl Described {
    fn key(&self) -> Key {
        (self.path.clone(), self.description.to_owned())
    }
}

/// Everything that the tree below `root` has state in, in the order of saving and loading.
fn described(root: &Object) -> Vec<Described> {
    let mut all = Vec::new();
    root.walk(|object| {
        let path = object.path();
        all.extend(object.states().into_iter().map(|(info, binding)| Described {
            path: path.clone(),
            object: Arc::clone(object),
            description: info.name,
            binding,
        }));
    });
    all.sort_by_key(|one| std::cmp::Reverse(one.binding.schema().priority));
    all
}

/// What keeps the tree below `root` from being saved: each object's path and reason, in path order.
#[must_use]
pub fn blockers(root: &Object) -> Vec<(String, &'static str)> {
    let mut blockers = Vec::new();
    root.walk(|object| blockers.extend(object.unmigratable().map(|reason| (object.path(), reason))));
    blockers
}

/// The description of every section that [`save_tree`] would write, in the same order.
#[must_use]
pub fn tree_schemas(root: &Object) -> Vec<SectionSchema> {
    described(root)
        .into_iter()
        .map(|one| SectionSchema {
            path: one.path,
            description: one.description.to_owned(),
            schema: one.binding.schema().clone(),
        })
        .collect()
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

/// Loads `sections` into the fresh tree below `root`.
///
/// # Errors
///
/// [`LoadTreeError`] names object and field. Unless it is [`LoadTreeError::Hook`], no object was touched; in any case
/// the tree is to be dropped.
pub fn load_tree(root: &Object, sections: Vec<IncomingSection>) -> Result<(), LoadTreeError> {
    let described = described(root);
    let mut incoming = match_up(root, &described, sections)?;
    let mut loads = Vec::with_capacity(described.len());
    for one in described {
        let Some(section) = incoming.remove(&one.key()) else {
            continue;
        };
        loads.push(Load {
            version: section.writer_schema.version,
            install: prepare(one.binding, section)?,
            target: one,
        });
    }
    install(loads)
}

/// Pairs sections and objects one to one.
fn match_up(
    root: &Object,
    described: &[Described],
    sections: Vec<IncomingSection>,
) -> Result<BTreeMap<Key, IncomingSection>, LoadTreeError> {
    let here: BTreeSet<Key> = described.iter().map(Described::key).collect();
    let mut incoming = BTreeMap::new();
    for section in sections {
        let key = (section.path.clone(), section.description.clone());
        if !here.contains(&key) {
            return Err(unexpected(root, section));
        }
        if let Some(first) = incoming.insert(key, section) {
            return Err(LoadTreeError::Twice {
                path: first.path,
                description: first.description,
            });
        }
    }
    let missing: Vec<_> = described
        .iter()
        .filter(|one| !incoming.contains_key(&one.key()))
        .map(|one| format!("{} ({})", one.path, one.description))
        .collect();
    if missing.is_empty() {
        Ok(incoming)
    } else {
        Err(LoadTreeError::Missing(missing.join(", ")))
    }
}

fn unexpected(root: &Object, section: IncomingSection) -> LoadTreeError {
    let here = match root.resolve(&section.path) {
        None => "nothing there".to_owned(),
        Some(object) => {
            let descriptions: Vec<_> = object.states().into_iter().map(|(info, _)| info.name).collect();
            match descriptions.join(", ") {
                none if none.is_empty() => format!("a {} there, which has no state", object.type_name()),
                some => format!("{some} there"),
            }
        }
    };
    LoadTreeError::Unexpected {
        path: section.path,
        description: section.description,
        here,
    }
}

/// The first phase for one section: from bytes to a state.
fn prepare(binding: &StateBinding, section: IncomingSection) -> Result<Install, LoadTreeError> {
    let IncomingSection {
        path,
        description,
        writer_schema,
        bytes,
    } = section;
    let value = match state::decode(&writer_schema, &bytes) {
        Ok(value) => value,
        Err(source) => {
            return Err(LoadTreeError::Decode {
                path,
                description,
                source: Box::new(source),
            });
        }
    };
    binding.prepare(&value).map_err(|source| LoadTreeError::State {
        path,
        description,
        source: Box::new(source),
    })
}

/// A state on its way into its object.
struct Load {
    target: Described,
    install: Install,
    version: u32,
}

/// The second phase: all states go in, in order, and then all `post_load` hooks run, in the same order.
fn install(loads: Vec<Load>) -> Result<(), LoadTreeError> {
    let mut loaded = Vec::with_capacity(loads.len());
    for Load {
        target,
        install,
        version,
    } in loads
    {
        target
            .binding
            .pre_load(&target.object)
            .map_err(|source| refused(&target, source))?;
        install(&target.object);
        loaded.push((target, version));
    }
    for (target, version) in loaded {
        target
            .binding
            .post_load(&target.object, version)
            .map_err(|source| refused(&target, source))?;
    }
    Ok(())
}

fn refused(target: &Described, source: HookError) -> LoadTreeError {
    LoadTreeError::Hook {
        path: target.path.clone(),
        description: target.description.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use parking_lot::Mutex;

    use super::*;
    use crate::qom::{Obj, Object, ObjectPart, TypeTable};
    use crate::state::{StateHooks, VmState};

    thread_local! {
        /// Which hooks of this test's objects have run.
        static HOOKS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    fn hooks_run() -> Vec<String> {
        HOOKS.take()
    }

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    #[vmstate(name = "pic", version = 3)]
    struct PicState {
        mask: u8,
        pins: [bool; 2],
    }

    /// What any accelerator's controller has.
    #[derive(Object)]
    #[object(name = "pic-common", abstract, unregistered)]
    struct PicCommon {
        #[state]
        state: Mutex<PicState>,
    }

    #[derive(Object)]
    #[object(name = "fast-pic", parent = PicCommon, stateless, unregistered)]
    struct FastPic {}

    #[derive(Object)]
    #[object(name = "slow-pic", parent = PicCommon, stateless, unregistered)]
    struct SlowPic {}

    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    #[vmstate(name = "clock", version = 2, priority = 10)]
    struct ClockState {
        nanoseconds: u64,
    }

    #[derive(Object)]
    #[object(name = "clock", hooks, unregistered)]
    struct Clock {
        #[state]
        state: Mutex<ClockState>,
        #[runtime]
        refuses: Mutex<Option<&'static str>>,
    }

    impl Clock {
        fn hook(&self, which: &'static str) -> Result<(), HookError> {
            HOOKS.with_borrow_mut(|hooks| hooks.push(format!("{which} at {}", self.state.lock().nanoseconds)));
            match *self.refuses.lock() {
                Some(refused) if refused == which => Err(HookError::new("the clock stands still")),
                _ => Ok(()),
            }
        }
    }

    impl StateHooks for Clock {
        fn pre_save(&self) -> Result<(), HookError> {
            self.hook("pre_save")
        }

        fn post_save(&self) -> Result<(), HookError> {
            self.hook("post_save")
        }

        fn pre_load(&self) -> Result<(), HookError> {
            self.hook("pre_load")
        }

        fn post_load(&self, version: u32) -> Result<(), HookError> {
            assert_eq!(version, 2);
            self.hook("post_load")
        }
    }

    /// Extends a type that has state by state of its own.
    #[derive(Object)]
    #[object(name = "timer", parent = Clock, unregistered)]
    struct Timer {
        #[state]
        state: Mutex<PicState>,
    }

    #[derive(Object)]
    #[object(name = "host-disk", unmigratable = "it is a file of this host", unregistered)]
    struct HostDisk {}

    /// A tree of these objects, added in this order.
    fn tree(objects: &[(&str, &str)]) -> Arc<Object> {
        let types = TypeTable::build([
            PicCommon::type_info(),
            FastPic::type_info(),
            SlowPic::type_info(),
            Clock::type_info(),
            Timer::type_info(),
            HostDisk::type_info(),
        ])
        .expect("they fit");
        let root = types.new_object("container").expect("concrete");
        for (name, type_name) in objects {
            root.add_child(name, types.new_object(type_name).expect("concrete"))
                .expect("free");
        }
        root
    }

    const MACHINE: [(&str, &str); 3] = [("pic", "fast-pic"), ("clock", "clock"), ("box", "container")];

    /// [`MACHINE`] with some state.
    fn used_machine() -> Arc<Object> {
        let root = tree(&MACHINE);
        *pic(&root).state.lock() = PicState {
            mask: 0xfb,
            pins: [true, false],
        };
        clock(&root).state.lock().nanoseconds = 1_000;
        root
    }

    fn pic(root: &Object) -> Obj<PicCommon> {
        root.child("pic").and_then(Obj::new).expect("there")
    }

    fn clock(root: &Object) -> Obj<Clock> {
        root.child("clock").and_then(Obj::new).expect("there")
    }

    /// What a stream holds of a tree.
    fn sent(root: &Object) -> Vec<IncomingSection> {
        let sections = save_tree(root).expect("it can be saved");
        sections
            .into_iter()
            .zip(tree_schemas(root))
            .map(|(section, schema)| {
                assert_eq!(
                    (&section.path, &section.description),
                    (&schema.path, &schema.description)
                );
                IncomingSection {
                    path: section.path,
                    description: section.description,
                    bytes: state::encode(&schema.schema, &section.value).expect("the value fits"),
                    writer_schema: Arc::new(schema.schema),
                }
            })
            .collect()
    }

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
    fn what_was_saved_is_loaded_into_a_machine_built_in_another_order_by_another_accelerator() {
        let source = used_machine();
        let fresh = tree(&[("box", "container"), ("clock", "clock"), ("pic", "slow-pic")]);
        load_tree(&fresh, sent(&source)).expect("it fits");
        assert_eq!(*pic(&fresh).state.lock(), *pic(&source).state.lock());
        assert_eq!(save_tree(&fresh), save_tree(&source), "saved again, it is the same");
    }

    #[test]
    fn saving_leaves_the_source_as_it_was_and_runs_the_hooks_around_it() {
        let source = used_machine();
        let first = save_tree(&source);
        assert_eq!(hooks_run(), ["pre_save at 1000", "post_save at 1000"]);
        assert_eq!(save_tree(&source), first);
    }

    #[test]
    fn loading_runs_the_hooks_before_and_after_all_states_are_in() {
        let sections = sent(&used_machine());
        hooks_run();
        load_tree(&tree(&MACHINE), sections).expect("it fits");
        assert_eq!(hooks_run(), ["pre_load at 0", "post_load at 1000"]);
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

    #[test]
    fn a_hook_that_refuses_to_load_is_named() {
        for refused in ["pre_load", "post_load"] {
            let fresh = tree(&MACHINE);
            *clock(&fresh).refuses.lock() = Some(refused);
            let error = load_tree(&fresh, sent(&used_machine()))
                .expect_err("refused")
                .to_string();
            assert_eq!(error, "/clock (clock) cannot take this state: the clock stands still");
        }
    }

    /// The error of loading what `damage` makes of a good stream; no object may have been touched.
    fn refused(damage: impl FnOnce(&mut Vec<IncomingSection>)) -> String {
        let mut sections = sent(&used_machine());
        damage(&mut sections);
        hooks_run();
        let fresh = tree(&MACHINE);
        let error = load_tree(&fresh, sections).expect_err("refused");
        assert!(hooks_run().is_empty(), "{error}");
        assert_eq!(*pic(&fresh).state.lock(), PicState::default(), "{error}");
        assert_eq!(*clock(&fresh).state.lock(), ClockState::default(), "{error}");
        error.to_string()
    }

    #[test]
    fn sections_and_objects_match_one_to_one() {
        assert_eq!(
            refused(|sections| drop(sections.pop())),
            "the stream holds no state of /pic (pic-common)"
        );
        assert_eq!(
            refused(|sections| sections.clear()),
            "the stream holds no state of /clock (clock), /pic (pic-common)"
        );
        assert_eq!(
            refused(|sections| sections.push(sections[0].clone())),
            "the stream holds the state of /clock (clock) twice"
        );
        assert_eq!(
            refused(|sections| sections[0].path = "/gone".to_owned()),
            "the stream holds state of /gone (clock), and this machine has nothing there"
        );
        assert_eq!(
            refused(|sections| sections[0].path = "/box".to_owned()),
            "the stream holds state of /box (clock), and this machine has a container there, which has no state"
        );
        assert_eq!(
            refused(|sections| sections[0].description = "pit".to_owned()),
            "the stream holds state of /clock (pit), and this machine has clock there"
        );
    }

    #[test]
    fn bytes_that_are_no_state_are_refused_with_object_and_field_before_any_object_is_touched() {
        let error = refused(|sections| sections[1].bytes.truncate(3));
        assert!(
            error.starts_with("/pic (pic-common): ") && error.contains("field pins"),
            "{error}"
        );
        let error = refused(|sections| sections[0].bytes.push(0));
        assert!(error.starts_with("/clock (clock): "), "{error}");
    }

    #[test]
    fn every_damaged_byte_loads_as_some_state_or_is_refused() {
        let sections = sent(&used_machine());
        for (index, section) in sections.iter().enumerate() {
            for at in 0..section.bytes.len() {
                for bit in 0..8 {
                    let mut damaged = sections.clone();
                    damaged[index].bytes[at] ^= 1 << bit;
                    let fresh = tree(&MACHINE);
                    match load_tree(&fresh, damaged) {
                        Ok(()) => assert_ne!(save_tree(&fresh), save_tree(&used_machine())),
                        Err(error) => assert!(error.to_string().starts_with(&section.path), "{error}"),
                    }
                }
            }
        }
    }
}
