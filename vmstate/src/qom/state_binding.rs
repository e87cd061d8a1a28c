//! How the framework reaches the state of an object: from a part's `#[state]` field to a [`StructValue`] and back.

use std::borrow::Cow;
use std::fmt;

use parking_lot::Mutex;

use super::{Object, ObjectPart};
use crate::state::without::{lacking_in, without};
use crate::state::{HookError, Schema, StateError, StateHooks, StructValue, VmState};

/// Puts a state that was checked into an object. It cannot fail: that is what the checking was for.
pub type Install = Box<dyn FnOnce(&Object) + Send>;

/// What a `#[state]` field can be: a lock around a struct that derives [`VmState`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a `#[state]` field",
    note = "a `#[state]` field is a `parking_lot::Mutex<S>`, where the struct S derives VmState"
)]
pub trait StateCell: Send + Sync + 'static {
    /// The struct.
    type State: VmState + Send + 'static;

    /// Takes the state out.
    fn take(&self) -> StructValue;

    /// Puts a state in.
    fn put(&self, state: Self::State);
}

impl<S: VmState + Send + 'static> StateCell for Mutex<S> {
    type State = S;

    fn take(&self) -> StructValue {
        self.lock().to_value()
    }

    fn put(&self, state: S) {
        *self.lock() = state;
    }
}

/// A part with a `#[state]` field. `#[derive(Object)]` implements it.
pub trait StatePart: ObjectPart {
    /// The type of the field.
    type Cell: StateCell;

    /// The field.
    fn state_cell(&self) -> &Self::Cell;
}

/// The state that one class of a chain adds to its objects.
#[derive(Clone, Copy)]
pub struct StateBinding {
    schema: fn() -> &'static Schema,
    take: fn(&Object) -> StructValue,
    prepare: fn(&StructValue) -> Result<Install, StateError>,
    hooks: HookTable,
}

/// The hooks of a part, as calls on its object.
#[derive(Clone, Copy)]
pub struct HookTable {
    pre_save: fn(&Object) -> Result<(), HookError>,
    post_save: fn(&Object) -> Result<(), HookError>,
    pre_load: fn(&Object) -> Result<(), HookError>,
    post_load: fn(&Object, u32) -> Result<(), HookError>,
    has_subsection: fn(&Object, &str) -> bool,
}

impl HookTable {
    /// No hooks.
    pub const NONE: Self = Self {
        pre_save: |_| Ok(()),
        post_save: |_| Ok(()),
        pre_load: |_| Ok(()),
        post_load: |_, _| Ok(()),
        has_subsection: |_, _| true,
    };

    /// The hooks of part `P`.
    #[must_use]
    pub const fn of<P: ObjectPart + StateHooks>() -> Self {
        Self {
            pre_save: |object| object.own_part::<P>().pre_save(),
            post_save: |object| object.own_part::<P>().post_save(),
            pre_load: |object| object.own_part::<P>().pre_load(),
            post_load: |object, version| object.own_part::<P>().post_load(version),
            has_subsection: |object, name| object.own_part::<P>().has_subsection(name),
        }
    }
}

impl StateBinding {
    /// The state of part `P`.
    #[must_use]
    pub const fn of<P: StatePart>(hooks: HookTable) -> Self {
        Self {
            schema: || <P::Cell as StateCell>::State::schema(),
            take: |object| object.own_part::<P>().state_cell().take(),
            prepare: |value| {
                let state = <P::Cell as StateCell>::State::from_value(value)?;
                Ok(Box::new(move |object: &Object| {
                    object.own_part::<P>().state_cell().put(state)
                }))
            },
            hooks,
        }
    }

    /// The description, with every subsection that some configuration of the type has.
    #[must_use]
    pub fn schema(&self) -> &'static Schema {
        (self.schema)()
    }

    /// The description of this object's state: without the optional subsections that it does not have as it is
    /// configured.
    #[must_use]
    pub fn schema_of(&self, object: &Object) -> Cow<'static, Schema> {
        without(self.schema(), &|path| !(self.hooks.has_subsection)(object, path))
    }

    /// Takes the state out; the object stays as it is. No hook runs.
    #[must_use]
    pub fn take(&self, object: &Object) -> StructValue {
        (self.take)(object)
    }

    /// Takes the state out between the hooks `pre_save` and `post_save`; the latter runs in any case.
    ///
    /// # Errors
    ///
    /// What a hook refused with.
    pub fn save(&self, object: &Object) -> Result<StructValue, HookError> {
        let value = (self.hooks.pre_save)(object).and_then(|()| self.take_described(object));
        let after = (self.hooks.post_save)(object);
        let value = value?;
        after.map(|()| value)
    }

    /// Takes the state out, and refuses to leave anything behind that the configuration of the object has no place for.
    fn take_described(&self, object: &Object) -> Result<StructValue, HookError> {
        let value = self.take(object);
        let lacking = lacking_in(self.schema(), &value, &|path| {
            !(self.hooks.has_subsection)(object, path)
        });
        match lacking {
            None => Ok(value),
            Some(name) => Err(HookError::new(format!(
                "its subsection `{name}` is in use, and this version of the machine does not have it"
            ))),
        }
    }

    /// Checks that `value` is a state, without touching an object.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the field that is none.
    pub fn prepare(&self, value: &StructValue) -> Result<Install, StateError> {
        (self.prepare)(value)
    }

    /// Runs the hook before a load.
    ///
    /// # Errors
    ///
    /// What the hook refused with.
    pub fn pre_load(&self, object: &Object) -> Result<(), HookError> {
        (self.hooks.pre_load)(object)
    }

    /// Runs the hook after a load; `version` is the writer's.
    ///
    /// # Errors
    ///
    /// What the hook refused with.
    pub fn post_load(&self, object: &Object, version: u32) -> Result<(), HookError> {
        (self.hooks.post_load)(object, version)
    }
}

impl fmt::Debug for StateBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateBinding").finish_non_exhaustive()
    }
}
