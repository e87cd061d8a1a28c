//! The composition tree: who owns whom, under which name.
//!
//! Each object has one lock over its place and one over its children. No two of them are ever held at once, and none
//! while foreign code runs, so that walkers, finalisers and changes of the tree do not wait for each other in circles.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::own_property::NUMBERED;
use super::{AddChildError, Object, check_child_name};

/// An object that only holds others: the root of a tree and its folders. Every
/// [`TypeTable`](super::TypeTable) holds the type without being told.
#[derive(Object)]
#[object(name = "container", stateless, unregistered)]
pub struct Container {}

/// An object's part in the tree.
#[derive(Default)]
pub(super) struct Node {
    place: Mutex<Option<Place>>,
    children: Mutex<Children>,
}

struct Place {
    parent: Weak<Object>,
    name: Arc<str>,
    /// The name ends in a number that nobody chose: what has state is not to be named after it.
    numbered: bool,
}

#[derive(Default)]
struct Children {
    by_name: BTreeMap<Arc<str>, Child>,
    added: u64,
}

struct Child {
    /// Counts up, so that the youngest can be dropped first.
    sequence: u64,
    object: Arc<Object>,
}

impl Node {
    /// Takes the places of all children away and drops them, the youngest first.
    pub(super) fn orphan_children(&mut self) {
        let mut children: Vec<_> = mem::take(&mut self.children.get_mut().by_name).into_values().collect();
        children.sort_by_key(|child| child.sequence);
        while let Some(child) = children.pop() {
            child.object.node.forget_dead_parent();
        }
    }

    /// Nobody but a dead parent can have held the place, so a child that somebody has put elsewhere meanwhile stays.
    fn forget_dead_parent(&self) {
        let mut place = self.place.lock();
        if place.as_ref().is_some_and(|place| place.parent.strong_count() == 0) {
            *place = None;
        }
    }

    /// The parent and the name under it, or `None` for the root of a tree.
    fn place(&self) -> Option<(Arc<Object>, Arc<str>)> {
        let place = self.place.lock();
        let place = place.as_ref()?;
        Some((place.parent.upgrade()?, Arc::clone(&place.name)))
    }
}

/// The composition tree.
impl Object {
    /// The name of the object under its parent; empty for the root of a tree.
    #[must_use]
    pub fn name(&self) -> String {
        self.node
            .place()
            .map(|(_, name)| name.as_ref().to_owned())
            .unwrap_or_default()
    }

    /// The object that owns this one, or `None` for the root of a tree.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Object>> {
        self.node.place().map(|(parent, _)| parent)
    }

    /// The canonical path: `/` for the root of a tree, `/machine/serial0` below it.
    #[must_use]
    pub fn path(&self) -> String {
        let mut names = Vec::new();
        let mut place = self.node.place();
        while let Some((parent, name)) = place {
            names.push(name);
            place = parent.node.place();
        }
        if names.is_empty() {
            return "/".to_owned();
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
    }

    /// The root of the tree that the object is in, which may be the object itself. `None` only while that root is
    /// being finalised.
    #[must_use]
    pub fn root(&self) -> Option<Arc<Object>> {
        let Some(mut top) = self.parent() else {
            return self.this();
        };
        while let Some(parent) = top.parent() {
            top = parent;
        }
        Some(top)
    }

    /// The children, sorted by name.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Object>> {
        self.node
            .children
            .lock()
            .by_name
            .values()
            .map(|child| Arc::clone(&child.object))
            .collect()
    }

    pub(super) fn child_names(&self) -> Vec<(Arc<str>, Arc<Object>)> {
        let children = self.node.children.lock();
        children
            .by_name
            .iter()
            .map(|(name, child)| (Arc::clone(name), Arc::clone(&child.object)))
            .collect()
    }

    /// The child `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Arc<Object>> {
        self.node
            .children
            .lock()
            .by_name
            .get(name)
            .map(|child| Arc::clone(&child.object))
    }

    /// Gives `child` its place: `name` below this object, which owns it from then on. A name that ends in `[*]` ends in
    /// the first free number instead.
    ///
    /// # Errors
    ///
    /// [`AddChildError`]; nothing has changed then. What has state is not numbered, nor put below what is: its path is
    /// written into streams, and must not depend on what else came first.
    pub fn add_child(&self, name: &str, child: impl Into<Arc<Object>>) -> Result<(), AddChildError> {
        let child: Arc<Object> = child.into();
        if (name.ends_with(NUMBERED) || self.is_numbered()) && child.has_state_below() {
            return Err(AddChildError::stateful(name));
        }
        let Some(base) = name.strip_suffix(NUMBERED) else {
            return self.add_named(name, &child, false);
        };
        check_child_name(base)?;
        for number in 0_u64.. {
            match self.add_named(&format!("{base}[{number}]"), &child, true) {
                Err(AddChildError::NameTaken { .. }) => {}
                other => return other,
            }
        }
        unreachable!("there are more numbers than children")
    }

    fn add_named(&self, name: &str, child: &Arc<Object>, numbered: bool) -> Result<(), AddChildError> {
        check_child_name(name)?;
        let taken = |what| AddChildError::NameTaken {
            parent: self.path(),
            what,
            name: name.to_owned(),
        };
        if self.find_property(name).is_some() {
            return Err(taken("property"));
        }
        if self.this().is_none() {
            return Err(AddChildError::ParentGone { name: name.to_owned() });
        }
        let name: Arc<str> = Arc::from(name);
        self.claim(child, &name, numbered)?;
        // The place is claimed before the way up is looked at: of two additions that would close a circle together, at
        // least one sees the other's claim.
        let added = if self.is_at_or_below(child) {
            Err(AddChildError::Cycle {
                name: name.as_ref().to_owned(),
            })
        } else if self.adopt(&name, child) {
            Ok(())
        } else {
            Err(taken("child"))
        };
        if added.is_err() {
            *child.node.place.lock() = None;
        }
        added
    }

    /// Whether the object, or one that it is below, has a number for a name.
    fn is_numbered(&self) -> bool {
        let numbered = |object: &Object| object.node.place.lock().as_ref().is_some_and(|place| place.numbered);
        let mut above = self.parent();
        let mut found = numbered(self);
        while let (false, Some(object)) = (found, above) {
            found = numbered(&object);
            above = object.parent();
        }
        found
    }

    fn has_state_below(&self) -> bool {
        let mut found = false;
        self.walk(|object| found = found || object.has_state());
        found
    }

    fn claim(&self, child: &Object, name: &Arc<str>, numbered: bool) -> Result<(), AddChildError> {
        let mut place = child.node.place.lock();
        if place.as_ref().is_some_and(|place| place.parent.strong_count() > 0) {
            drop(place);
            return Err(AddChildError::HasPlace {
                name: name.as_ref().to_owned(),
                at: child.path(),
            });
        }
        *place = Some(Place {
            parent: self.weak(),
            name: Arc::clone(name),
            numbered,
        });
        Ok(())
    }

    fn adopt(&self, name: &Arc<str>, child: &Arc<Object>) -> bool {
        let mut children = self.node.children.lock();
        if children.by_name.contains_key(name) {
            return false;
        }
        let sequence = children.added;
        children.added += 1;
        children.by_name.insert(
            Arc::clone(name),
            Child {
                sequence,
                object: Arc::clone(child),
            },
        );
        true
    }

    fn is_at_or_below(&self, ancestor: &Arc<Object>) -> bool {
        let mut above = self.this();
        while let Some(object) = above {
            if Arc::ptr_eq(&object, ancestor) {
                return true;
            }
            above = object.parent();
        }
        false
    }

    /// Takes the object out of its place; it becomes the root of its own tree, and dies unless somebody holds it.
    pub fn unparent(&self) {
        let Some((parent, name)) = self.node.place() else {
            return;
        };
        let removed = {
            let mut children = parent.node.children.lock();
            let ours = children
                .by_name
                .get(&name)
                .is_some_and(|child| std::ptr::eq(child.object.as_ref(), self));
            if ours { children.by_name.remove(&name) } else { None }
        };
        if let Some(child) = removed {
            *self.node.place.lock() = None;
            drop(child);
        }
    }

    /// Visits this object and everything below it in path order: parents before children, siblings by name. The tree
    /// may change meanwhile; what the walk has not yet reached is visited as it is then.
    pub fn walk(&self, mut visit: impl FnMut(&Arc<Object>)) {
        let mut pending: Vec<_> = self.this().into_iter().collect();
        while let Some(object) = pending.pop() {
            visit(&object);
            pending.extend(object.children().into_iter().rev());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmState;
    use crate::qom::{ObjectPart, Property, PropertyKind, PropertyValue, StateDecl, TypeInfo, TypeTable};

    #[derive(Default, VmState)]
    struct Count {
        value: u32,
    }

    #[derive(Object)]
    #[object(name = "counter", unregistered)]
    struct Counter {
        #[state]
        count: Mutex<Count>,
    }

    static BOARD: TypeInfo = TypeInfo {
        properties: || {
            vec![Property::read_only("size", "", PropertyKind::Bool, |_| {
                PropertyValue::Bool(true)
            })]
        },
        ..TypeInfo::new("board", StateDecl::Stateless, "here")
    };

    fn object(types: &Arc<TypeTable>) -> Arc<Object> {
        types.new_object("board").expect("concrete")
    }

    fn types() -> Arc<TypeTable> {
        TypeTable::build([&BOARD]).expect("it fits")
    }

    /// A tree that has these paths, and the table that it is made from.
    fn tree(paths: &[&str]) -> (Arc<TypeTable>, Arc<Object>) {
        let types = types();
        let root = types.new_object("container").expect("concrete");
        for path in paths {
            let (parent, name) = path.rsplit_once('/').expect("absolute");
            let parent = root
                .resolve(&format!("/{}", parent.trim_start_matches('/')))
                .expect("named before");
            parent.add_child(name, object(&types)).expect("free");
        }
        (types, root)
    }

    fn paths(root: &Object) -> Vec<String> {
        let mut paths = Vec::new();
        root.walk(|object| paths.push(object.path()));
        paths
    }

    #[test]
    fn canonical_paths_lead_from_the_root_and_back() {
        let (_, root) = tree(&["/machine", "/machine/cpu-0", "/machine/cpu-0/apic"]);
        let apic = root.resolve("/machine/cpu-0/apic").expect("there");
        assert_eq!(
            (apic.path().as_str(), apic.name().as_str()),
            ("/machine/cpu-0/apic", "apic")
        );
        assert_eq!((root.path().as_str(), root.name().as_str()), ("/", ""));
        assert!(apic.root().is_some_and(|top| Arc::ptr_eq(&top, &root)));
        let machine = root.child("machine").expect("there");
        let relative = machine.resolve("cpu-0/apic").expect("below");
        assert!(Arc::ptr_eq(&relative, &apic));
        assert!(relative.resolve("/").is_some_and(|top| Arc::ptr_eq(&top, &root)));
        for nowhere in ["/cpu-0", "apic/", "//machine", "/machine/", "/machine/../machine"] {
            assert!(root.resolve(nowhere).is_none(), "{nowhere}");
        }
    }

    #[test]
    fn a_walk_visits_parents_before_children_and_siblings_by_name() {
        let built = ["/b", "/a", "/a-b", "/a/z", "/a/y", "/b/x"];
        let (_, root) = tree(&built);
        let order = ["/", "/a", "/a/y", "/a/z", "/a-b", "/b", "/b/x"];
        assert_eq!(paths(&root), order);
        let (_, other) = tree(&["/a-b", "/a", "/a/y", "/b", "/b/x", "/a/z"]);
        assert_eq!(paths(&other), order, "the order of building does not show");
    }

    #[test]
    fn a_walk_goes_on_while_the_visitor_changes_the_tree() {
        let (types, root) = tree(&["/a", "/b", "/c"]);
        let mut visited = Vec::new();
        root.walk(|visiting| {
            visited.push(visiting.path());
            if visiting.name() == "a" {
                visiting.add_child("new", object(&types)).expect("free");
                root.child("c").expect("there").unparent();
            }
        });
        assert_eq!(visited[..4], ["/", "/a", "/a/new", "/b"]);
        assert_eq!(paths(&root), ["/", "/a", "/a/new", "/b"]);
    }

    #[test]
    fn names_of_children_can_be_part_of_a_path_and_are_not_made_up() {
        let (types, root) = tree(&[]);
        for (bad, reason) in [
            ("", "it is empty"),
            ("a/b", "it holds '/'"),
            ("..", "it is reserved"),
            ("[*]", "it is empty"),
            ("a\nb", "it holds a control character"),
            (&"x".repeat(129), "it is longer than 128 bytes"),
        ] {
            let error = root.add_child(bad, object(&types)).expect_err("a bad name");
            assert!(error.to_string().ends_with(reason), "{error}");
        }
        assert!(root.children().is_empty());
    }

    #[test]
    fn a_child_without_state_is_numbered_where_its_name_asks_for_it() {
        let (types, root) = tree(&["/disk[1]"]);
        for _ in 0..2 {
            root.add_child("disk[*]", object(&types))
                .expect("there are numbers left");
        }
        assert_eq!(paths(&root), ["/", "/disk[0]", "/disk[1]", "/disk[2]"]);
        root.child("disk[0]").expect("there").unparent();
        root.add_child("disk[*]", object(&types))
            .expect("a number is free again");
        assert!(root.child("disk[0]").is_some());
    }

    #[test]
    fn what_has_state_is_neither_numbered_nor_put_below_what_is() {
        let types = TypeTable::build([&BOARD, Counter::type_info()]).expect("they fit");
        let new = |name| types.new_object(name).expect("concrete");
        let root = new("container");
        let refused = root.add_child("counter[*]", new("counter")).expect_err("it has state");
        assert_eq!(
            refused.to_string(),
            "'counter[*]' cannot be numbered automatically: what has state is named in what is saved, so give it a name \
             of its own"
        );
        let holder = new("board");
        holder.add_child("counter", new("counter")).expect("free");
        root.add_child("board[*]", Arc::clone(&holder))
            .expect_err("something below it has state");
        root.add_child("board", holder).expect("a name of its own");
        root.add_child("board[*]", new("board")).expect("it has no state");
        let numbered = root.child("board[0]").expect("there");
        numbered
            .add_child("counter", new("counter"))
            .expect_err("below a number");
        numbered.add_child("board", new("board")).expect("without state");
        let below = numbered.child("board").expect("there");
        below
            .add_child("counter", new("counter"))
            .expect_err("further below a number");
        root.add_child("counter[0]", new("counter"))
            .expect("a number that somebody chose");
    }

    #[test]
    fn a_place_is_taken_once_and_an_object_has_one_place() {
        let (types, root) = tree(&["/a", "/b"]);
        let error = |result: Result<(), AddChildError>| result.expect_err("refused").to_string();
        assert_eq!(
            error(root.add_child("a", object(&types))),
            "/ already has a child 'a'; choose another name"
        );
        let a = root.child("a").expect("there");
        assert_eq!(
            error(a.add_child("size", object(&types))),
            "/a already has a property 'size'; choose another name"
        );
        assert_eq!(
            error(root.add_child("c", Arc::clone(&a))),
            "the object to be added as 'c' is already in the tree, at /a"
        );
        a.unparent();
        assert!(a.parent().is_none() && root.child("a").is_none());
        root.child("b")
            .expect("there")
            .add_child("moved", Arc::clone(&a))
            .expect("it has no place");
        assert_eq!(a.path(), "/b/moved");
    }

    #[test]
    fn nothing_becomes_its_own_ancestor() {
        let (types, root) = tree(&["/a", "/a/b"]);
        let b = root.resolve("/a/b").expect("there");
        assert!(matches!(
            b.add_child("up", Arc::clone(&root)),
            Err(AddChildError::Cycle { .. })
        ));
        assert!(matches!(
            root.add_child("self", Arc::clone(&root)),
            Err(AddChildError::Cycle { .. })
        ));
        assert_eq!(paths(&root), ["/", "/a", "/a/b"]);
        assert!(root.parent().is_none());
        let above = object(&types);
        above.add_child("root", root).expect("a refused root is free");
    }

    #[test]
    fn two_additions_that_would_close_a_circle_together_do_not() {
        let types = types();
        for _ in 0..200 {
            let (one, other) = (object(&types), object(&types));
            std::thread::scope(|scope| {
                scope.spawn(|| one.add_child("other", Arc::clone(&other)));
                scope.spawn(|| other.add_child("one", Arc::clone(&one)));
            });
            assert!(one.parent().is_none() || other.parent().is_none());
        }
    }

    #[test]
    fn changes_walks_and_deaths_from_several_threads_leave_a_tree() {
        let (types, root) = tree(&["/a", "/b"]);
        std::thread::scope(|scope| {
            for (from, to) in [("a", "b"), ("b", "a")] {
                let (types, root) = (&types, &root);
                scope.spawn(move || {
                    for turn in 0..500 {
                        let name = format!("{from}{turn}");
                        let child = object(types);
                        root.child(from)
                            .expect("stays")
                            .add_child(&name, Arc::clone(&child))
                            .expect("free");
                        child.unparent();
                        root.child(to).expect("stays").add_child(&name, child).expect("free");
                        paths(root);
                        if let Some(old) = root.resolve(&format!("/{to}/{from}{}", turn / 2)) {
                            old.unparent();
                        }
                    }
                });
            }
        });
        root.walk(|object| {
            for child in object.children() {
                assert!(child.parent().is_some_and(|parent| Arc::ptr_eq(&parent, object)));
            }
        });
    }
}
