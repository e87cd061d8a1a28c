//! Handles of objects that know the Rust type of a part.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::{Object, ObjectError, TypeInfo, TypeTable};

/// What a type adds to its objects: a Rust struct. `#[derive(Object)]` implements it.
pub trait ObjectPart: Any + Send + Sync + Default {
    /// The name of the type.
    const TYPE: &'static str;

    /// The declaration of the type, for a table built by hand.
    fn type_info() -> &'static TypeInfo;
}

/// A handle of an object that is a `T`, and dereferences to that part.
pub struct Obj<T: ObjectPart> {
    object: Arc<Object>,
    part: Part<T>,
}

/// Where in an object the part is: found once, so that a device's register access does not search.
struct Part<T> {
    index: usize,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

impl<T: ObjectPart> Obj<T> {
    /// The handle, or `None` where the object is no `T`.
    #[must_use]
    pub fn new(object: Arc<Object>) -> Option<Self> {
        let index = object.part_index::<T>()?;
        Some(Self {
            object,
            part: Part {
                index,
                of: std::marker::PhantomData,
            },
        })
    }

    /// Makes an object of type `T` itself.
    ///
    /// # Errors
    ///
    /// [`ObjectError`] where `types` does not know `T`, or `T` is abstract.
    pub fn create(types: &Arc<TypeTable>) -> Result<Self, ObjectError> {
        let object = types.new_object(T::TYPE)?;
        Self::new(object).ok_or_else(|| ObjectError::UnknownType {
            name: T::TYPE.to_owned(),
        })
    }

    /// The object behind the handle.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// A handle that does not keep the object alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakObj<T> {
        WeakObj {
            object: Arc::downgrade(&self.object),
            part: Some(self.part),
        }
    }
}

impl<T: ObjectPart> Deref for Obj<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object
            .part_at(self.part.index)
            .expect("parts of a live object do not move")
    }
}

impl<T: ObjectPart> Clone for Obj<T> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            part: self.part,
        }
    }
}

impl<T: ObjectPart> From<Obj<T>> for Arc<Object> {
    fn from(handle: Obj<T>) -> Self {
        handle.object
    }
}

impl<T: ObjectPart> fmt::Debug for Obj<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

/// A handle that does not keep its object alive: what memory regions, timers and links hold.
pub struct WeakObj<T: ObjectPart> {
    object: Weak<Object>,
    part: Option<Part<T>>,
}

impl<T: ObjectPart> WeakObj<T> {
    /// The object, or `None` once it is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<Obj<T>> {
        Some(Obj {
            object: self.object.upgrade()?,
            part: self.part?,
        })
    }
}

impl<T: ObjectPart> Default for WeakObj<T> {
    /// A handle of nothing.
    fn default() -> Self {
        Self {
            object: Weak::new(),
            part: None,
        }
    }
}

impl<T: ObjectPart> Clone for WeakObj<T> {
    fn clone(&self) -> Self {
        Self {
            object: Weak::clone(&self.object),
            part: self.part,
        }
    }
}

impl<T: ObjectPart> fmt::Debug for WeakObj<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.upgrade() {
            Some(object) => object.fmt(f),
            None => write!(f, "(no {})", T::TYPE),
        }
    }
}
