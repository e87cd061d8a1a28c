//! Link fields: how an object refers to another that it does not own.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::property::Access;
use super::{Obj, ObjectPart, Property, PropertyKind, PropertyValue, WeakObj};

/// The value of a `#[config(link)]` field: an object of type `T` elsewhere in the tree, or nothing. A link does not keep
/// its target alive, and leads nowhere once that is gone.
pub struct Link<T: ObjectPart> {
    target: RwLock<WeakObj<T>>,
}

impl<T: ObjectPart> Link<T> {
    /// The object that the link leads to.
    #[must_use]
    pub fn get(&self) -> Option<Obj<T>> {
        self.target.read().upgrade()
    }

    /// The property `name` that stands for the link `field` of part `P`; `#[derive(Object)]` writes the call.
    #[must_use]
    pub fn property<P: ObjectPart>(
        name: &'static str,
        description: &'static str,
        field: fn(&P) -> &Link<T>,
    ) -> Property {
        Property::with_access(
            name,
            description,
            PropertyKind::Link(T::TYPE),
            Some(PropertyValue::Link(None)),
            Access::Link {
                get: Box::new(move |object| field(object.own_part::<P>()).get().map(Arc::from)),
                set: Box::new(move |object, target| {
                    let target = match target {
                        Some(target) => Obj::<T>::new(Arc::clone(target))?.downgrade(),
                        None => WeakObj::default(),
                    };
                    *field(object.own_part::<P>()).target.write() = target;
                    Some(())
                }),
            },
        )
    }
}

impl<T: ObjectPart> Default for Link<T> {
    /// A link that leads nowhere.
    fn default() -> Self {
        Self {
            target: RwLock::default(),
        }
    }
}

impl<T: ObjectPart> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.read().fmt(f)
    }
}
