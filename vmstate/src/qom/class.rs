//! What all objects of a type share.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter::successors;
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
    interfaces: BTreeSet<&'static str>,
    data: Vec<Box<dyn ClassData>>,
    properties: BTreeMap<&'static str, Arc<Property>>,
}

impl Class {
    /// Inherits by value, adds what `info` declares, and runs the initialisers: `class_base_init` of every ancestor
    /// from the root, then `class_init`.
    pub(super) fn initialise(
        info: &'static TypeInfo,
        parent: Option<Arc<Class>>,
        own_interfaces: impl IntoIterator<Item = &'static str>,
        own_properties: &[Arc<Property>],
    ) -> Self {
        let mut class = match &parent {
            Some(parent) => Self {
                info,
                interfaces: parent.interfaces.clone(),
                data: parent.data.iter().map(|data| data.as_ref().clone_data()).collect(),
                properties: parent.properties.clone(),
                parent: None,
            },
            None => Self {
                info,
                parent: None,
                interfaces: BTreeSet::new(),
                data: Vec::new(),
                properties: BTreeMap::new(),
            },
        };
        class.parent = parent;
        class.interfaces.extend(own_interfaces);
        class.data.extend(info.class_data.map(|make| make()));
        class.properties.extend(
            own_properties
                .iter()
                .map(|property| (property.name(), Arc::clone(property))),
        );
        let ancestors = class.lineage();
        for ancestor in ancestors.iter().take(ancestors.len() - 1) {
            if let Some(base_init) = ancestor.class_base_init {
                base_init(&mut class);
            }
        }
        if let Some(class_init) = info.class_init {
            class_init(&mut class);
        }
        class
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
    pub fn lineage(&self) -> Vec<&'static TypeInfo> {
        let mut chain: Vec<_> = successors(Some(self), |class| class.parent.as_deref())
            .map(|class| class.info)
            .collect();
        chain.reverse();
        chain
    }

    /// Every interface that the class implements, inherited ones included, sorted by name.
    pub fn interfaces(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.interfaces.iter().copied()
    }

    /// Whether this is the type `name`, extends it, or implements it.
    #[must_use]
    pub fn is_a(&self, name: &str) -> bool {
        self.interfaces.contains(name)
            || successors(Some(self), |class| class.parent.as_deref()).any(|class| class.name() == name)
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
