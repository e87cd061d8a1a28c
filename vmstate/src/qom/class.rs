//! What all objects of a type share.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::{Property, TypeInfo, TypeKind};

/// Data of a class: virtual methods, tables, constants. A descendant starts with a copy of what its parent ended with,
/// and its `class_init` overrides. Everything that can be cloned is class data.
pub trait ClassData: Any + Send + Sync {
    /// A copy for a descendant.
    fn clone_data(&self) -> Box<dyn ClassData>;
}

impl<T: Any + Send + Sync + Clone> ClassData for T {
    fn clone_data(&self) -> Box<dyn ClassData> {
        Box::new(self.clone())
    }
}

/// A class: a type that was initialised. Made by [`TypeTable::class`](super::TypeTable::class), and from then on
/// immutable.
pub struct Class {
    info: &'static TypeInfo,
    parent: Option<Arc<Class>>,
    lineage: Vec<&'static TypeInfo>,
    interfaces: BTreeSet<&'static str>,
    data: Vec<Box<dyn ClassData>>,
    properties: BTreeMap<Arc<str>, Arc<Property>>,
}

impl Class {
    /// Inherits by value, adds what `info` declares, and runs the initialisers: `class_base_init` of every ancestor
    /// from the root, then `class_init`.
    pub(super) fn initialise(
        info: &'static TypeInfo,
        parent: Option<Arc<Class>>,
        own_interfaces: impl IntoIterator<Item = &'static TypeInfo>,
        own_properties: &[Arc<Property>],
    ) -> Self {
        let mut class = match &parent {
            Some(parent) => parent.inherit(info),
            None => Self::empty(info),
        };
        class.parent = parent;
        class.lineage.push(info);
        for interface in own_interfaces {
            if class.interfaces.insert(interface.name) {
                class.data.extend(interface.class_data.map(|make| make()));
            }
        }
        class.data.extend(info.class_data.map(|make| make()));
        class.properties.extend(
            own_properties
                .iter()
                .map(|property| (Arc::from(property.name()), Arc::clone(property))),
        );
        let ancestors = class
            .parent
            .as_ref()
            .map(|parent| parent.lineage.clone())
            .unwrap_or_default();
        for base_init in ancestors.iter().filter_map(|ancestor| ancestor.class_base_init) {
            base_init(&mut class);
        }
        if let Some(class_init) = info.class_init {
            class_init(&mut class);
        }
        class
    }

    fn empty(info: &'static TypeInfo) -> Self {
        Self {
            info,
            parent: None,
            lineage: Vec::new(),
            interfaces: BTreeSet::new(),
            data: Vec::new(),
            properties: BTreeMap::new(),
        }
    }

    /// What the class of a child starts as.
    fn inherit(&self, info: &'static TypeInfo) -> Self {
        Self {
            info,
            parent: None,
            lineage: self.lineage.clone(),
            interfaces: self.interfaces.clone(),
            data: self.data.iter().map(|data| data.as_ref().clone_data()).collect(),
            properties: self.properties.clone(),
        }
    }

    /// The name of the type.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.info.name
    }

    /// The declaration of the type.
    #[must_use]
    pub fn info(&self) -> &'static TypeInfo {
        self.info
    }

    /// The class that this one extends.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Class>> {
        self.parent.as_ref()
    }

    /// The declarations of the chain, from the root down to this class.
    #[must_use]
    pub fn lineage(&self) -> &[&'static TypeInfo] {
        &self.lineage
    }

    /// Every interface that the class implements, inherited ones included, sorted by name.
    pub fn interfaces(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.interfaces.iter().copied()
    }

    /// Whether this is the type `name`, extends it, or implements it.
    #[must_use]
    pub fn is_a(&self, name: &str) -> bool {
        self.interfaces.contains(name) || self.lineage.iter().any(|info| info.name == name)
    }

    /// Whether objects can be made of it.
    #[must_use]
    pub fn is_concrete(&self) -> bool {
        self.info.kind == TypeKind::Concrete
    }

    /// The class data of type `D`, or `None` where no class of the chain declares such. Of two declarations the more
    /// derived one counts.
    #[must_use]
    pub fn data<D: ClassData>(&self) -> Option<&D> {
        self.data.iter().rev().find_map(|data| {
            let data: &dyn Any = data.as_ref();
            data.downcast_ref()
        })
    }

    /// The class data of type `D` for a `class_init` to change.
    pub fn data_mut<D: ClassData>(&mut self) -> Option<&mut D> {
        self.data.iter_mut().rev().find_map(|data| {
            let data: &mut dyn Any = data.as_mut();
            data.downcast_mut()
        })
    }

    /// The property `name` of the class.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Arc<Property>> {
        self.properties.get(name)
    }

    /// The properties of the class, inherited ones included, sorted by name.
    pub fn properties(&self) -> impl Iterator<Item = &Arc<Property>> + '_ {
        self.properties.values()
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Class")
            .field("name", &self.name())
            .field("parent", &self.parent.as_ref().map(|parent| parent.name()))
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::qom::{StateDecl, TypeTable};

    /// What ran for a class, in order.
    #[derive(Clone, Default)]
    struct Trace(Vec<&'static str>);

    #[derive(Clone, Default)]
    struct Extra(u32);

    static GRANDPARENT: TypeInfo = TypeInfo {
        kind: TypeKind::Abstract,
        interfaces: &["fast"],
        class_data: Some(|| Box::new(Trace::default())),
        class_base_init: Some(|class| trace(class, "grandparent base")),
        class_init: Some(|class| trace(class, "grandparent")),
        ..TypeInfo::new("grandparent", StateDecl::Stateless, "here")
    };
    static PARENT: TypeInfo = TypeInfo {
        parent: Some("grandparent"),
        class_data: Some(|| Box::new(Extra(7))),
        class_base_init: Some(|class| trace(class, "parent base")),
        class_init: Some(|class| trace(class, "parent")),
        ..TypeInfo::new("parent", StateDecl::Stateless, "here")
    };
    static CHILD: TypeInfo = TypeInfo {
        parent: Some("parent"),
        interfaces: &["fast", "small"],
        class_init: Some(|class| trace(class, "child")),
        ..TypeInfo::new("child", StateDecl::Stateless, "here")
    };
    static QUICK: TypeInfo = TypeInfo::interface("quick", "here");
    static FAST: TypeInfo = TypeInfo {
        parent: Some("quick"),
        ..TypeInfo::interface("fast", "here")
    };
    static SMALL: TypeInfo = TypeInfo::interface("small", "here");

    fn trace(class: &mut Class, what: &'static str) {
        class.data_mut::<Trace>().expect("inherited").0.push(what);
    }

    fn types() -> Arc<TypeTable> {
        TypeTable::build([&GRANDPARENT, &PARENT, &CHILD, &QUICK, &FAST, &SMALL]).expect("they fit")
    }

    fn traced(class: &Class) -> &[&'static str] {
        &class.data::<Trace>().expect("inherited").0
    }

    #[test]
    fn class_data_is_inherited_by_value_then_base_inits_of_all_ancestors_then_class_init() {
        let types = types();
        let child = types.class("child").expect("declared");
        assert_eq!(
            traced(&child),
            [
                "grandparent",
                "grandparent base",
                "parent",
                "grandparent base",
                "parent base",
                "child"
            ]
        );
        let parent = types.class("parent").expect("declared");
        assert_eq!(traced(&parent), ["grandparent", "grandparent base", "parent"]);
        assert_eq!(child.data::<Extra>().map(|extra| extra.0), Some(7));
        let grandparent = types.class("grandparent").expect("declared");
        assert!(grandparent.data::<Extra>().is_none());
    }

    #[test]
    fn interfaces_are_inherited_with_their_parents_and_not_duplicated() {
        let child = types().class("child").expect("declared");
        assert!(child.interfaces().eq(["fast", "quick", "small"]));
        assert!(
            ["child", "parent", "grandparent", "object", "quick"]
                .iter()
                .all(|name| child.is_a(name))
        );
        assert!(!child.is_a("container"));
    }

    #[test]
    fn a_class_that_implements_an_interface_has_the_interfaces_class_data_as_its_own() {
        static VIEWED: TypeInfo = TypeInfo {
            class_data: Some(|| Box::new(Extra(1))),
            ..TypeInfo::interface("viewed", "here")
        };
        static ONE: TypeInfo = TypeInfo {
            interfaces: &["viewed"],
            class_init: Some(|class| class.data_mut::<Extra>().expect("of the interface").0 = 2),
            ..TypeInfo::new("one", StateDecl::Stateless, "here")
        };
        static BELOW: TypeInfo = TypeInfo {
            parent: Some("one"),
            interfaces: &["viewed"],
            ..TypeInfo::new("below", StateDecl::Stateless, "here")
        };
        static OTHER: TypeInfo = TypeInfo {
            interfaces: &["viewed"],
            ..TypeInfo::new("other", StateDecl::Stateless, "here")
        };
        let types = TypeTable::build([&VIEWED, &ONE, &BELOW, &OTHER]).expect("they fit");
        let extra = |name| {
            types
                .class(name)
                .expect("declared")
                .data::<Extra>()
                .map(|extra| extra.0)
        };
        assert_eq!(["one", "below", "other"].map(extra), [Some(2), Some(2), Some(1)]);
    }

    #[test]
    fn a_class_is_initialised_once_when_first_asked_for_and_its_parent_before() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        static LAZY: TypeInfo = TypeInfo {
            parent: Some("parent"),
            class_init: Some(|_| {
                RUNS.fetch_add(1, Ordering::Relaxed);
            }),
            ..TypeInfo::new("lazy", StateDecl::Stateless, "here")
        };
        let types = TypeTable::build([&GRANDPARENT, &PARENT, &CHILD, &QUICK, &FAST, &SMALL, &LAZY]).expect("they fit");
        types.class("child").expect("declared");
        assert_eq!(RUNS.load(Ordering::Relaxed), 0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| types.new_object("lazy").expect("concrete"));
            }
        });
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
        let (lazy, child) = (
            types.class("lazy").expect("declared"),
            types.class("child").expect("declared"),
        );
        assert!(
            lazy.parent()
                .zip(child.parent())
                .is_some_and(|(one, other)| Arc::ptr_eq(one, other))
        );
    }

    #[test]
    fn two_tables_share_nothing() {
        let (one, other) = (types(), types());
        let (one, other) = (
            one.class("child").expect("declared"),
            other.class("child").expect("declared"),
        );
        assert!(!Arc::ptr_eq(&one, &other));
    }
}
