//! An object: a header, and one part per class of its chain.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::tree::Node;
use super::{Class, ObjectPart, Property, StateBinding, StateDecl, TypeInfo, TypeKind, TypeTable};

/// An instance of a type. It lives in an [`Arc`]: one is held by its place in the composition tree, others by whoever
/// uses it.
///
/// An object is finalised when the last of them goes: first its children lose their place, youngest first; then, from
/// its own class up, `instance_finalize` of each class runs and that class's part is dropped. No lock is held
/// meanwhile, so a finaliser may look at the tree, where the object itself is no longer to be found.
pub struct Object {
    class: Arc<Class>,
    types: Arc<TypeTable>,
    this: Weak<Object>,
    parts: Vec<Box<dyn Any + Send + Sync>>,
    pub(super) node: Node,
    /// Setting a property holds this for reading, so that nothing changes after [`Object::freeze`] has returned.
    pub(super) frozen: RwLock<bool>,
    /// Properties of this object alone: most have none.
    pub(super) own_properties: RwLock<BTreeMap<Arc<str>, Arc<Property>>>,
}

/// Why no object could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The table has no such type.
    #[error("there is no type '{name}'")]
    UnknownType {
        /// What was asked for.
        name: String,
    },
    /// Abstract types and interfaces have no objects of their own.
    #[error("type '{name}' is {} and has no objects of its own; name one of the types that {}",
        if *.interface { "an interface" } else { "abstract" }, if *.interface { "implement it" } else { "extend it" })]
    NotConcrete {
        /// What was asked for.
        name: &'static str,
        /// Whether it is an interface.
        interface: bool,
    },
}

impl Object {
    pub(super) fn instantiate(types: &Arc<TypeTable>, class: Arc<Class>) -> Result<Arc<Self>, ObjectError> {
        if !class.is_concrete() {
            let interface = class.info().kind == TypeKind::Interface;
            return Err(ObjectError::NotConcrete {
                name: class.name(),
                interface,
            });
        }
        let parts = class
            .lineage()
            .iter()
            .filter_map(|info| info.part)
            .map(|make| make())
            .collect();
        let object = Arc::new_cyclic(|this| Self {
            class,
            types: Arc::clone(types),
            this: Weak::clone(this),
            parts,
            node: Node::default(),
            frozen: RwLock::new(false),
            own_properties: RwLock::default(),
        });
        let lineage = object.class.lineage();
        for init in lineage.iter().filter_map(|info| info.instance_init) {
            init(&object);
        }
        for post_init in lineage.iter().rev().filter_map(|info| info.instance_post_init) {
            post_init(&object);
        }
        Ok(object)
    }

    /// The class of the object.
    #[must_use]
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// The name of the object's type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.class.name()
    }

    /// The table that the object's type comes from: what an object that makes others asks.
    #[must_use]
    pub fn types(&self) -> &Arc<TypeTable> {
        &self.types
    }

    /// Whether the object's class is the type `name`, extends it or implements it.
    #[must_use]
    pub fn is_a(&self, name: &str) -> bool {
        self.class.is_a(name)
    }

    /// The handle of this object, or `None` once it is being finalised.
    #[must_use]
    pub fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.this)
    }

    /// The part that the type of `T` adds, or `None` where the object is no such type.
    #[must_use]
    pub fn part<T: ObjectPart>(&self) -> Option<&T> {
        self.parts.iter().rev().find_map(|part| part.downcast_ref())
    }

    pub(super) fn part_index<T: ObjectPart>(&self) -> Option<usize> {
        self.parts.iter().rposition(|part| part.is::<T>())
    }

    pub(super) fn part_at<T: ObjectPart>(&self, index: usize) -> Option<&T> {
        self.parts.get(index)?.downcast_ref()
    }

    /// The part of `T` for an accessor that the type of `T` itself declared.
    ///
    /// # Panics
    ///
    /// If the object is no `T`, which the framework rules out: it hands an accessor only to instances of its type.
    pub(super) fn own_part<T: ObjectPart>(&self) -> &T {
        self.part()
            .expect("an accessor is called for instances of its own type")
    }

    /// Refuses changes to the configuration from now on. Devices freeze when they are realized.
    pub fn freeze(&self) {
        *self.frozen.write() = true;
    }

    /// Undoes [`Object::freeze`], for an object that is taken out of use or never came into it.
    pub fn thaw(&self) {
        *self.frozen.write() = false;
    }

    /// Whether the configuration can no longer change.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        *self.frozen.read()
    }

    /// The state descriptions of the object, from the root of its chain down.
    #[must_use]
    pub fn states(&self) -> Vec<(&'static TypeInfo, &'static StateBinding)> {
        self.class
            .lineage()
            .iter()
            .filter_map(|&info| match &info.state {
                StateDecl::Described(binding) => Some((info, binding)),
                StateDecl::Stateless | StateDecl::Unmigratable(_) => None,
            })
            .collect()
    }

    /// Whether any class of the chain describes state.
    #[must_use]
    pub fn has_state(&self) -> bool {
        let described = |info: &&TypeInfo| matches!(info.state, StateDecl::Described(_));
        self.class.lineage().iter().any(described)
    }

    /// Why the object cannot be saved, if a class of its chain says so.
    #[must_use]
    pub fn unmigratable(&self) -> Option<&'static str> {
        self.class.lineage().iter().find_map(|info| match info.state {
            StateDecl::Unmigratable(reason) => Some(reason),
            StateDecl::Described(_) | StateDecl::Stateless => None,
        })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.node.orphan_children();
        let class = Arc::clone(&self.class);
        for info in class.lineage().iter().rev() {
            if let Some(finalize) = info.instance_finalize {
                finalize(self);
            }
            if info.part.is_some() {
                drop(self.parts.pop());
            }
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("type", &self.type_name())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::qom::{Container, Obj, Object, WeakObj};

    /// What happened to an object; the log outlives it.
    type Log = Arc<Mutex<Vec<String>>>;

    #[derive(Object)]
    #[object(
        name = "base", abstract, stateless, unregistered,
        instance_init = base_init, instance_post_init = base_post_init, instance_finalize = base_finalize
    )]
    struct Base {
        #[runtime(reason = "for the test alone")]
        log: Log,
    }

    #[derive(Object)]
    #[object(
        name = "leaf", parent = Base, stateless, unregistered,
        instance_init = leaf_init, instance_post_init = leaf_post_init, instance_finalize = leaf_finalize
    )]
    struct Leaf {
        #[runtime(reason = "for the test alone")]
        dropped: Dropped,
    }

    /// Says so when the part that it is in is dropped.
    #[derive(Default)]
    struct Dropped(Mutex<Option<(Log, &'static str)>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            if let Some((log, what)) = self.0.get_mut() {
                log.lock().push(format!("{what} dropped"));
            }
        }
    }

    fn say(object: &Object, what: impl Into<String>) {
        object
            .part::<Base>()
            .expect("the root of the chain")
            .log
            .lock()
            .push(what.into());
    }

    fn base_init(object: &Arc<Object>) {
        say(object, "base init");
    }

    fn leaf_init(object: &Arc<Object>) {
        say(object, "leaf init");
        *object.part::<Leaf>().expect("its own").dropped.0.lock() = Some((log_of(object), "leaf part"));
    }

    fn base_post_init(object: &Arc<Object>) {
        say(object, "base post_init");
    }

    fn leaf_post_init(object: &Arc<Object>) {
        say(object, "leaf post_init");
    }

    fn leaf_finalize(object: &Object) {
        let tree = (
            object.this().is_none(),
            object.parent().is_none(),
            object.children().len(),
            object.path(),
        );
        say(object, format!("leaf finalize {tree:?}"));
        object.unparent();
        object.walk(|_| say(object, "found itself"));
    }

    fn base_finalize(object: &Object) {
        say(
            object,
            format!("base finalize, leaf part there: {}", object.part::<Leaf>().is_some()),
        );
    }

    fn types() -> Arc<TypeTable> {
        TypeTable::build([Base::type_info(), Leaf::type_info()]).expect("they fit")
    }

    fn log_of(object: &Object) -> Log {
        Arc::clone(&object.part::<Base>().expect("the root of the chain").log)
    }

    #[test]
    fn init_runs_parent_to_child_post_init_child_to_parent_and_finalize_in_reverse() {
        let leaf = types().new_object("leaf").expect("concrete");
        let log = log_of(&leaf);
        assert_eq!(
            *log.lock(),
            ["base init", "leaf init", "leaf post_init", "base post_init"]
        );
        log.lock().clear();
        drop(leaf);
        assert_eq!(
            *log.lock(),
            [
                "leaf finalize (true, true, 0, \"/\")",
                "leaf part dropped",
                "base finalize, leaf part there: false"
            ]
        );
    }

    #[test]
    fn a_part_is_reached_by_its_type_and_only_where_the_chain_has_it() {
        let types = types();
        let leaf = types.new_object("leaf").expect("concrete");
        assert!(leaf.part::<Leaf>().is_some() && leaf.part::<Base>().is_some());
        assert!(leaf.part::<Container>().is_none());
        assert!(Obj::<Base>::new(Arc::clone(&leaf)).is_some_and(|base| Arc::ptr_eq(&base.log, &log_of(&leaf))));
    }

    #[test]
    fn an_object_lives_as_long_as_its_place_or_a_handle() {
        let types = types();
        let root = types.new_object("container").expect("concrete");
        let leaf = Obj::<Leaf>::create(&types).expect("concrete");
        let weak = leaf.downgrade();
        root.add_child("leaf", leaf).expect("free");
        let held = weak.upgrade().expect("its place holds it");
        drop(root);
        assert_eq!(held.object().path(), "/", "it is the root of its own tree now");
        assert!(held.object().parent().is_none());
        drop(held);
        assert!(weak.upgrade().is_none());
        assert!(WeakObj::<Leaf>::default().upgrade().is_none());
    }

    #[test]
    fn a_dying_parent_lets_its_children_go_first_and_the_youngest_of_them_first() {
        let types = types();
        let root = types.new_object("leaf").expect("concrete");
        let log = log_of(&root);
        log.lock().clear();
        for name in ["b", "c", "a"] {
            let child = Obj::<Leaf>::create(&types).expect("concrete");
            *child.dropped.0.lock() = Some((Arc::clone(&log), name));
            root.add_child(name, child).expect("free");
        }
        drop(root);
        assert_eq!(log.lock()[..3], ["a dropped", "c dropped", "b dropped"]);
        assert_eq!(log.lock()[4], "leaf part dropped");
    }

    #[test]
    fn several_trees_in_one_process_know_nothing_of_each_other() {
        let types = types();
        let trees: Vec<_> = (0..3)
            .map(|_| types.new_object("container").expect("concrete"))
            .collect();
        for tree in &trees {
            tree.add_child("leaf", types.new_object("leaf").expect("concrete"))
                .expect("free in each");
        }
        let leaves: Vec<_> = trees.iter().filter_map(|tree| tree.resolve("/leaf")).collect();
        assert!(leaves.iter().all(|leaf| leaf.path() == "/leaf"));
        assert!(!Arc::ptr_eq(&leaves[0], &leaves[1]));
        assert!(leaves[2].root().is_some_and(|root| Arc::ptr_eq(&root, &trees[2])));
    }
}
