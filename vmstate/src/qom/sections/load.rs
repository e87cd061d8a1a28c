//! Putting the state of a tree into a fresh one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::moves::whereabouts;
use super::{Described, Key, Move, SectionSchema, described};
use crate::qom::{Install, Object};
use crate::state::{self, AdaptError, DecodeError, HookError, Schema, StateError};

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
    /// A section is no state of its object.
    #[error("{path} ({description}): {fault}")]
    Section {
        /// The object.
        path: String,
        /// The type that holds the description.
        description: String,
        /// The field, and what is wrong.
        #[source]
        fault: Box<SectionFault>,
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

/// Why a section is no state of its object. Each names the field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SectionFault {
    /// The bytes are not what the writer's description says.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The writer's description, or this value of it, cannot be loaded by ours.
    #[error(transparent)]
    Adapt(#[from] AdaptError),
    /// The type has more to object than the description.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Loads `sections` into the fresh tree below `root`. A section of an object that is not there is for the one that
/// `moves` says has been there.
///
/// # Errors
///
/// [`LoadTreeError`] names object and field. Unless it is [`LoadTreeError::Hook`], no object was touched; in any case
/// the tree is to be dropped.
pub fn load_tree(root: &Object, sections: Vec<IncomingSection>, moves: &[Move]) -> Result<(), LoadTreeError> {
    let mut loads = Vec::with_capacity(sections.len());
    for (target, section) in match_up(root, sections, moves)? {
        match prepare(&target, &section) {
            Ok(install) => loads.push(Load {
                target,
                install,
                version: section.writer_schema.version,
            }),
            Err(fault) => {
                let IncomingSection { path, description, .. } = section;
                return Err(LoadTreeError::Section {
                    path,
                    description,
                    fault,
                });
            }
        }
    }
    install(loads)
}

/// Finds out whether a stream with `sections` is one of the tree below `root`: for each object with state one section, and none for
/// any other. It needs no contents, so that it can be asked before there are any.
///
/// # Errors
///
/// [`LoadTreeError::Unexpected`], [`LoadTreeError::Twice`], [`LoadTreeError::Missing`].
pub fn check_sections(root: &Object, sections: &[SectionSchema], moves: &[Move]) -> Result<(), LoadTreeError> {
    match_up(root, sections.iter(), moves).map(drop)
}

/// Something that is said of one object, by who wrote it.
trait Placed {
    /// The canonical path there, and the type that holds the description.
    fn place(&self) -> (&str, &str);
}

impl Placed for IncomingSection {
    fn place(&self) -> (&str, &str) {
        (&self.path, &self.description)
    }
}

impl Placed for &SectionSchema {
    fn place(&self) -> (&str, &str) {
        (&self.path, &self.description)
    }
}

/// Pairs objects and sections one to one, in the order of loading.
fn match_up<S: Placed>(
    root: &Object,
    sections: impl IntoIterator<Item = S>,
    moves: &[Move],
) -> Result<Vec<(Described, S)>, LoadTreeError> {
    let described = described(root);
    let here: BTreeSet<Key> = described.iter().map(Described::key).collect();
    let mut incoming = BTreeMap::new();
    for section in sections {
        let (path, description) = section.place();
        let places = std::iter::once(path.to_owned()).chain(whereabouts(path, moves));
        let mut keys = places.map(|path| (path, description.to_owned()));
        let Some(key) = keys.find(|key| here.contains(key)) else {
            return Err(unexpected(root, path, description));
        };
        if let Some(first) = incoming.insert(key, section) {
            let (path, description) = first.place();
            return Err(LoadTreeError::Twice {
                path: path.to_owned(),
                description: description.to_owned(),
            });
        }
    }
    let mut pairs = Vec::with_capacity(described.len());
    let mut missing = Vec::new();
    for one in described {
        match incoming.remove(&one.key()) {
            Some(section) => pairs.push((one, section)),
            None => missing.push(format!("{} ({})", one.path, one.description)),
        }
    }
    if missing.is_empty() {
        Ok(pairs)
    } else {
        Err(LoadTreeError::Missing(missing.join(", ")))
    }
}

fn unexpected(root: &Object, path: &str, description: &str) -> LoadTreeError {
    let here = match root.resolve(path) {
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
        path: path.to_owned(),
        description: description.to_owned(),
        here,
    }
}

/// The first phase for one section: from bytes to a state.
fn prepare(target: &Described, section: &IncomingSection) -> Result<Install, Box<SectionFault>> {
    fn boxed(fault: impl Into<SectionFault>) -> Box<SectionFault> {
        Box::new(fault.into())
    }
    let value = state::decode(&section.writer_schema, &section.bytes).map_err(boxed)?;
    let schema = target.binding.schema_of(&target.object);
    let value = state::adapt(value, &section.writer_schema, &schema).map_err(boxed)?;
    if schema.is_configured() {
        state::check_configured(&schema, &value, &target.binding.take(&target.object)).map_err(boxed)?;
    }
    target.binding.prepare(&value).map_err(boxed)
}

/// A state on its way into its object.
struct Load {
    target: Described,
    install: Install,
    version: u32,
}

/// The second phase, in the order of loading: all `pre_load` hooks, all states, all `post_load` hooks.
fn install(loads: Vec<Load>) -> Result<(), LoadTreeError> {
    for Load { target, .. } in &loads {
        let prepared = target.binding.pre_load(&target.object);
        prepared.map_err(|source| refused(target, source))?;
    }
    let put = |Load {
                   target,
                   install,
                   version,
               }: Load| {
        install(&target.object);
        (target, version)
    };
    let loaded: Vec<_> = loads.into_iter().map(put).collect();
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
    use super::super::save_tree;
    use super::super::testing::{
        Clock, ClockState, MACHINE, PicCommon, PicState, Uart, clock, hooks_run, pic, sent, tree, used_machine,
    };
    use super::super::tree_schemas;
    use super::*;
    use crate::qom::{Obj, PropertyValue};
    use crate::state::{StructValue, VmState};

    #[test]
    fn what_was_saved_is_loaded_into_a_machine_built_in_another_order_by_another_accelerator() {
        let source = used_machine();
        let fresh = tree(&[("box", "container"), ("clock", "clock"), ("pic", "slow-pic")]);
        load_tree(&fresh, sent(&source), &[]).expect("it fits");
        assert_eq!(*pic(&fresh).state.lock(), *pic(&source).state.lock());
        assert_eq!(save_tree(&fresh), save_tree(&source), "saved again, it is the same");
    }

    #[test]
    fn loading_runs_the_hooks_before_and_after_all_states_are_in() {
        let sections = sent(&used_machine());
        hooks_run();
        load_tree(&tree(&MACHINE), sections, &[]).expect("it fits");
        assert_eq!(hooks_run(), ["pre_load at 0", "post_load at 1000"]);
    }

    #[test]
    fn hooks_run_in_the_order_of_loading_and_meet_no_object_without_its_state() {
        let layout = [("z", "clock"), ("a", "clock"), ("pic", "fast-pic")];
        let source = tree(&layout);
        for (name, nanoseconds) in [("a", 1), ("z", 2)] {
            let clock: Obj<Clock> = source.child(name).and_then(Obj::new).expect("there");
            clock.state.lock().nanoseconds = nanoseconds;
        }
        let sections = sent(&source);
        hooks_run();
        load_tree(&tree(&layout), sections, &[]).expect("it fits");
        assert_eq!(
            hooks_run(),
            ["pre_load at 0", "pre_load at 0", "post_load at 1", "post_load at 2"]
        );
    }

    #[test]
    fn a_failed_load_leaves_no_trace() {
        for refused in ["pre_load", "post_load"] {
            let source = used_machine();
            let (sections, before) = (sent(&source), save_tree(&source));
            let fresh = tree(&MACHINE);
            *clock(&fresh).refuses.lock() = Some(refused);
            load_tree(&fresh, sections.clone(), &[]).expect_err("refused");
            let objects = [Arc::downgrade(&fresh), Arc::downgrade(clock(&fresh).object())];
            drop(fresh);
            assert!(
                objects.iter().all(|object| object.upgrade().is_none()),
                "nothing keeps the tree"
            );
            assert_eq!(save_tree(&source), before, "the source is as it was");
            load_tree(&tree(&MACHINE), sections, &[]).expect("the same sections load into another tree");
        }
    }

    #[test]
    fn state_of_an_object_that_was_moved_loads_where_it_is_now() {
        let source = tree(&[("old", "container")]);
        let pic = source.types().new_object("fast-pic").expect("concrete");
        source.child("old").expect("there").add_child("pic", pic).expect("free");
        let pic: Obj<PicCommon> = source.resolve("/old/pic").and_then(Obj::new).expect("there");
        pic.state.lock().mask = 7;
        let moves = [Move {
            now: "/box",
            formerly: "/old",
        }];
        let here = || {
            let root = tree(&[("box", "container")]);
            let pic = root.types().new_object("slow-pic").expect("concrete");
            root.child("box").expect("there").add_child("pic", pic).expect("free");
            root
        };
        let fresh = here();
        load_tree(&fresh, sent(&source), &moves).expect("it was moved");
        let loaded: Obj<PicCommon> = fresh.resolve("/box/pic").and_then(Obj::new).expect("there");
        assert_eq!(loaded.state.lock().mask, 7);
        let error = load_tree(&here(), sent(&source), &[])
            .expect_err("no such object")
            .to_string();
        assert!(error.contains("holds state of /old/pic (pic-common)"), "{error}");
        let twice = [sent(&source), sent(&fresh)].concat();
        let error = load_tree(&here(), twice, &moves)
            .expect_err("both are for one object")
            .to_string();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn a_machine_version_without_a_subsection_neither_describes_nor_sends_nor_takes_it() {
        let machine = |with_fifo: bool| {
            let root = tree(&[("uart", "uart")]);
            let uart: Obj<Uart> = root.child("uart").and_then(Obj::new).expect("there");
            uart.object()
                .set_property("fifo", PropertyValue::Bool(with_fifo))
                .expect("not frozen");
            (root, uart)
        };
        let (new, old) = (machine(true), machine(false));
        let subsections = |root: &Object| tree_schemas(root)[0].schema.subsections.len();
        assert_eq!((subsections(&new.0), subsections(&old.0)), (1, 0));
        old.1.state.lock().divisor = 12;
        load_tree(&machine(false).0, sent(&old.0), &[]).expect("to the older machine");
        load_tree(&machine(true).0, sent(&old.0), &[]).expect("what it lacks is as after reset");
        new.1.state.lock().fifo.level = 3;
        let error = load_tree(&machine(false).0, sent(&new.0), &[])
            .expect_err("it is in use")
            .to_string();
        assert!(
            error.contains("field fifo loads only if nothing is sent in it"),
            "{error}"
        );
        old.1.state.lock().fifo.level = 3;
        let error = save_tree(&old.0)
            .expect_err("its behaviour should have been switched off")
            .to_string();
        assert!(
            error.contains("/uart (uart) cannot be saved: its subsection `fifo` is in use"),
            "{error}"
        );
    }

    #[test]
    fn configuration_that_differs_is_refused_before_any_object_is_touched() {
        let source = tree(&[("uart", "uart")]);
        let fresh = tree(&[("uart", "uart")]);
        let uart: Obj<Uart> = fresh.child("uart").and_then(Obj::new).expect("there");
        uart.state.lock().clock = 3_686_400;
        let error = load_tree(&fresh, sent(&source), &[])
            .expect_err("another clock")
            .to_string();
        assert!(
            error.contains("field clock: it is 0x1c2000, and this machine is configured for 0x384000"),
            "{error}"
        );
        assert!(error.contains("give it the same crystal"), "{error}");
    }

    #[test]
    fn a_hook_that_refuses_to_load_is_named() {
        for refused in ["pre_load", "post_load"] {
            let fresh = tree(&MACHINE);
            *clock(&fresh).refuses.lock() = Some(refused);
            let error = load_tree(&fresh, sent(&used_machine()), &[])
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
        let error = load_tree(&fresh, sections, &[]).expect_err("refused");
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

    /// What version 2 of the controller, which had only these of its fields, sends.
    fn from_version_2(fields: &[&str]) -> Result<PicState, String> {
        let mut description = PicState::schema().clone().into_description();
        description.version = 2;
        description.fields.retain(|field| fields.contains(&field.name.as_str()));
        description
            .fields
            .iter_mut()
            .for_each(|field| (field.since, field.default) = (1, None));
        let writer = description.check().expect("well formed");
        let known = PicState {
            mask: 0xfb,
            pins: [true, false],
        }
        .to_value();
        let value = fields.iter().fold(StructValue::new(2), |value, &field| {
            value.with(field.to_owned(), known.get(field).expect("its own").clone())
        });
        let mut sections = sent(&used_machine());
        sections[1].bytes = state::encode(&writer, &value).expect("it fits");
        sections[1].writer_schema = Arc::new(writer);
        let fresh = tree(&MACHINE);
        load_tree(&fresh, sections, &[]).map_err(|error| error.to_string())?;
        let state = pic(&fresh).state.lock().clone();
        Ok(state)
    }

    #[test]
    fn what_an_older_writer_sends_is_adapted_and_what_cannot_be_is_named() {
        assert_eq!(
            from_version_2(&["pins"]),
            Ok(PicState {
                mask: 0xff,
                pins: [true, false]
            })
        );
        let error = from_version_2(&["mask"]).expect_err("a field without default is missing");
        assert!(
            error.starts_with("/pic (pic-common): ") && error.contains("field pins"),
            "{error}"
        );
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
                    match load_tree(&fresh, damaged, &[]) {
                        Ok(()) => assert_ne!(save_tree(&fresh), save_tree(&used_machine())),
                        Err(error) => assert!(error.to_string().starts_with(&section.path), "{error}"),
                    }
                }
            }
        }
    }
}
