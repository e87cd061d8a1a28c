//! Link fields: how an object refers to another that it does not own.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::property::{Access, Refused};
use super::{Obj, Object, ObjectPart, Property, PropertyKind, PropertyValue, WeakObj};

/// Whether the object given first may link to the one given second; the text says why not.
pub type LinkCheck<T> = fn(&Object, &Obj<T>) -> Result<(), String>;

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
        field: fn(&P) -> &Self,
        check: Option<LinkCheck<T>>,
    ) -> Property {
        link_property::<P, T>(
            name,
            description,
            check,
            move |part| field(part).get(),
            move |part, target| {
                *field(part).target.write() = target.map_or_else(WeakObj::default, |target| target.downgrade());
                None
            },
        )
    }
}

/// As [`Link`], but the target lives as long as the link leads to it, wherever in the tree it is or is not.
///
/// Two objects that hold each other so would never die: a strong link leads to what knows nothing of its users, such as
/// a back end.
pub struct StrongLink<T: ObjectPart> {
    target: RwLock<Option<Obj<T>>>,
}

impl<T: ObjectPart> StrongLink<T> {
    /// The object that the link leads to.
    #[must_use]
    pub fn get(&self) -> Option<Obj<T>> {
        self.target.read().clone()
    }

    /// The property `name` that stands for the link `field` of part `P`; `#[derive(Object)]` writes the call.
    #[must_use]
    pub fn property<P: ObjectPart>(
        name: &'static str,
        description: &'static str,
        field: fn(&P) -> &Self,
        check: Option<LinkCheck<T>>,
    ) -> Property {
        link_property::<P, T>(
            name,
            description,
            check,
            move |part| field(part).get(),
            move |part, target| std::mem::replace(&mut *field(part).target.write(), target),
        )
    }
}

fn link_property<P: ObjectPart, T: ObjectPart>(
    name: &'static str,
    description: &'static str,
    check: Option<LinkCheck<T>>,
    get: impl Fn(&P) -> Option<Obj<T>> + Send + Sync + 'static,
    put: impl Fn(&P, Option<Obj<T>>) -> Option<Obj<T>> + Send + Sync + 'static,
) -> Property {
    Property::with_access(
        name,
        description,
        PropertyKind::Link(T::TYPE),
        Some(PropertyValue::Link(None)),
        Access::Link {
            get: Box::new(move |object| get(object.own_part::<P>()).map(Arc::from)),
            set: Some(Box::new(move |object, target| {
                let target = match target {
                    Some(target) => Some(Obj::<T>::new(Arc::clone(target)).ok_or(Refused::Kind)?),
                    None => None,
                };
                if let (Some(check), Some(target)) = (check, &target) {
                    check(object, target).map_err(Refused::Because)?;
                }
                Ok(put(object.own_part::<P>(), target).map(Arc::from))
            })),
        },
    )
}

impl<T: ObjectPart> Default for Link<T> {
    /// A link that leads nowhere.
    fn default() -> Self {
        Self {
            target: RwLock::default(),
        }
    }
}

impl<T: ObjectPart> Default for StrongLink<T> {
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

impl<T: ObjectPart> fmt::Debug for StrongLink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.read().fmt(f)
    }
}
