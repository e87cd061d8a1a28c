//! What a Rust type implements to be state: derived for structs and enums, given for plain types.

use super::error::StateError;
use super::schema::Schema;
use super::value::{StructValue, Value};
use super::wire_type::WireType;

/// A struct that is the state of an object, or a part of it. Derived; see [`macro@crate::VmState`].
pub trait VmState: Sized {
    /// The name of the description.
    const NAME: &'static str;

    /// The description of this type, the same at every call.
    ///
    /// # Panics
    ///
    /// At the first call, if the type's attributes make no well-formed description and the derive could not see it
    /// (an array of no elements, types nested too deep).
    fn schema() -> &'static Schema;

    /// Takes the state out.
    fn to_value(&self) -> StructValue;

    /// Makes the state of a value that has been adapted to [`Self::schema`].
    ///
    /// # Errors
    ///
    /// If a field is missing or does not fit.
    fn from_value(value: &StructValue) -> Result<Self, StateError>;
}

/// A type that a field of a state struct can have.
///
/// Given for `bool`, the integers of 8 to 64 bits, `f64`, `[T; N]`, `Option<T>` and [`Deadline`](super::Deadline); derived together with
/// [`VmState`] for structs and by [`macro@crate::VmEnum`] for fieldless enums.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a VmState struct as it is",
    note = "derive VmState (struct) or VmEnum (fieldless enum) for it",
    note = "a Vec, VecDeque, BTreeMap, Bitmap or String needs a bound: `#[vmstate(max = 64)]`",
    note = "a timer is the Deadline at which it runs out; a file descriptor cannot be state, as no channel passes one yet",
    note = "what is no state is marked `#[vmstate(skip(reason = \"...\"))]`"
)]
pub trait VmField: Sized {
    /// How it is written.
    fn wire_type() -> WireType;

    /// Takes the value out.
    fn to_value(&self) -> Value;

    /// Makes it of a value.
    ///
    /// # Errors
    ///
    /// If the value is of another kind, or out of range.
    fn from_value(value: &Value) -> Result<Self, StateError>;

    /// Takes a run of values out; bytes have a shorter form than the general one.
    #[doc(hidden)]
    fn run_to_value(run: &[Self]) -> Value {
        Value::Array(run.iter().map(Self::to_value).collect())
    }

    /// The reverse of `run_to_value`.
    #[doc(hidden)]
    fn run_from_value(value: &Value) -> Result<Vec<Self>, StateError> {
        super::fields::elements_from_value(value)
    }
}

/// A type of variable length, which a field can have together with a bound: `#[vmstate(max = 64)]`.
///
/// Given for `Vec<T>`, `VecDeque<T>`, `BTreeMap<K, T>` with integers as keys, [`Bitmap`](super::Bitmap), `String` and
/// options of these.
#[diagnostic::on_unimplemented(message = "`{Self}` has no variable length, so `max` says nothing about it")]
pub trait VmSequence: Sized {
    /// How it is written, with at most `max` elements (bytes, for a text).
    fn wire_type(max: u32) -> WireType;

    /// Takes the value out, however long it is; the encoder enforces the bound.
    fn to_value(&self) -> Value;

    /// Makes it of a value.
    ///
    /// # Errors
    ///
    /// If the value is of another kind, or longer than `max`.
    fn from_value(value: &Value, max: u32) -> Result<Self, StateError>;
}

/// A fieldless enum whose variants are state. Derived; see [`macro@crate::VmEnum`].
pub trait VmEnum: Sized {
    /// The names of the variants. The order is that of the wire.
    const VARIANTS: &'static [&'static str];

    /// The name of this variant.
    fn variant(&self) -> &'static str;

    /// The variant of that name.
    fn from_variant(name: &str) -> Option<Self>;
}

/// What an object does around saving and loading, beyond its fields. Every hook may refuse.
pub trait StateHooks {
    /// Before the state is taken out, with the VM paused: brings the state fields up to date. It must not change what
    /// the guest could see, as the VM may run on.
    ///
    /// # Errors
    ///
    /// The save ends with this error, and the VM runs on.
    fn pre_save(&self) -> Result<(), HookError> {
        Ok(())
    }

    /// After the state was taken out, also if that failed; undoes what `pre_save` did.
    ///
    /// # Errors
    ///
    /// The save ends with this error, and the VM runs on.
    fn post_save(&self) -> Result<(), HookError> {
        Ok(())
    }

    /// Whether this object, as it is configured, has the optional subsection of that name at all. What a machine version
    /// does not have is switched off by a property that its compatibility properties set, and is neither described nor
    /// sent nor taken then. The answer follows from the configuration and from what is on the machine, which do not change while
    /// a state is taken, sent or loaded. One that is within a field or another
    /// subsection is called as these lead to it: `channels.fifo`, for all elements of a run alike.
    fn has_subsection(&self, path: &str) -> bool {
        let _ = path;
        true
    }

    /// Before any state is put into the fresh tree. Every section has been decoded by then.
    ///
    /// # Errors
    ///
    /// The load ends with this error, and the fresh machine is dropped.
    fn pre_load(&self) -> Result<(), HookError> {
        Ok(())
    }

    /// After the states of all objects were put in: checks this one's and derives from it what is not saved. The hooks
    /// of objects with a higher priority have run. `version` is the writer's.
    ///
    /// # Errors
    ///
    /// The load ends with this error, and the fresh machine is dropped.
    fn post_load(&self, version: u32) -> Result<(), HookError> {
        let _ = version;
        Ok(())
    }
}

/// The refusal of a hook: a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HookError(String);

impl HookError {
    /// A refusal for this reason.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl From<String> for HookError {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<&str> for HookError {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// The state of one object, as it is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The canonical path of the object.
    pub path: String,
    /// The name of the type that describes the state: the abstract one, not an accelerator's subclass.
    pub description: String,
    /// The state.
    pub value: StructValue,
}
