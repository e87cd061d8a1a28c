//! State descriptions: what an object holds that the guest can change, said once, as data.
//!
//! A struct that derives [`macro@crate::VmState`] is taken apart into a [`StructValue`] and made of one. Its [`Schema`]
//! says what the value holds; [`encode()`] and [`decode()`] write and read the value as the schema says, so that whoever
//! has the schema can read the section without the Rust type. Streams and snapshots carry the schemas of their sections
//! ([`Schema::to_cbor`]).
//!
//! ```text
//!   writer                                                reader
//!   struct --to_value--> StructValue --encode--> bytes --decode--> StructValue --adapt--> StructValue --from_value--> struct
//!                             with the writer's schema                    from the writer's schema to the reader's
//! ```
//!
//! [`compare()`] says beforehand, from the two schemas alone, whether every value, no value, or only values under some
//! condition will get through [`adapt()`].

mod adapt;
mod bitmap;
mod compare;
mod configured;
mod deadline;
mod decode;
mod decode_error;
mod defaults;
#[doc(hidden)]
pub mod derived;
mod description;
mod encode;
mod error;
mod fields;
mod json;
mod leaves;
mod name;
mod path;
mod relation;
mod schema;
mod schema_cbor;
mod schema_error;
mod schema_json;
#[cfg(test)]
mod testing;
mod value;
mod verdict;
mod wire_type;
pub(crate) mod without;

pub use adapt::{AdaptError, Refusal, adapt};
pub use bitmap::Bitmap;
pub use compare::compare;
pub use configured::check_configured;
pub use deadline::{Deadline, HostClock, TimerClock, VirtualClock};
pub use decode::decode;
pub use decode_error::{DecodeError, DecodeFault};
pub use defaults::{ChangedDefault, changed_defaults};
pub use description::{HookError, Section, StateHooks, VmEnum, VmField, VmSequence, VmState};
pub use encode::{EncodeError, encode};
pub use error::{Misconfigured, Mismatch, OutOfRange, StateError};
pub use fields::VmKey;
pub use leaves::{FieldDiff, NoLeaf, diff};
pub use name::Name;
pub use path::{FieldPath, NoPath, Step};
pub use schema::{Description, FieldSchema, Schema, SubsectionSchema};
pub use schema_cbor::SchemaReadError;
pub use schema_error::{SchemaError, SchemaFault, TypeFault};
pub use schema_json::SchemaJsonError;
pub use value::{MapKey, StructValue, Value};
pub use verdict::{Comparison, Condition, FieldVerdict, Obstacle, Verdict};
/// Lets a fieldless enum be a field of a state struct: implements [`trait@VmEnum`] and [`VmField`].
///
/// A variant is named in kebab-case, or `#[vmstate(name = "...")]`. Writer and reader match variants by name, so they
/// may be reordered and added to. The first one stands for zero.
pub use vmstate_macros::VmEnum;
pub use wire_type::WireType;

/// Describes a struct as state: implements [`trait@VmState`] and, for structs inside of it, [`VmField`].
///
/// ```
/// use vmstate::state::{self, VmEnum, VmState};
///
/// #[derive(Clone, Copy, Debug, Default, PartialEq, VmEnum)]
/// enum Trigger { #[default] Edge, Level }
///
/// #[derive(Clone, Debug, Default, PartialEq, VmState)]
/// #[vmstate(name = "uart", version = 2)]
/// struct Uart {
///     divisor: u16,
///     trigger: Trigger,
///     #[vmstate(max = 16)]
///     fifo: Vec<u8>,
///     #[vmstate(since = 2, default = 0x60)]
///     line_status: u8,
/// }
///
/// let uart = Uart { divisor: 12, fifo: vec![b'x'], ..Uart::default() };
/// let bytes = state::encode(Uart::schema(), &uart.to_value())?;
/// let value = state::decode(Uart::schema(), &bytes)?;
/// assert_eq!(Uart::from_value(&value)?, uart);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # The struct, `#[vmstate(...)]`
///
/// | attribute | meaning |
/// | --- | --- |
/// | `name = "..."` | the description's name, the struct's in kebab-case unless given |
/// | `version = N` | the version that values are taken by, 1 unless given; a higher one is needed when the meaning of what is there changes, and makes older readers refuse |
/// | `minimum_version = N` | the oldest version that can be loaded, 1 unless given |
/// | `priority = N` | a higher one is loaded earlier, 0 unless given |
///
/// # The fields, `#[vmstate(...)]`
///
/// | attribute | meaning |
/// | --- | --- |
/// | `name = "..."` | the name in the description, the field's unless given: what keeps a field's old name when it is renamed |
/// | `range = A..=B` | the integers that it can be, or consist of: fewer than its type has. A value outside is neither saved nor loaded |
/// | `length = FIELD` | of an array `[T; N]`: only the first so many elements are state as the named field of the struct says; the others are their default on load |
/// | `must_equal(hint = "...")` | it is configuration: it must be what this machine has already, or the load is refused with the hint |
/// | `skip_when_default` | it is not written when it has its `default`, which may take 64 bytes |
/// | `max = N` | the most elements (of a text: bytes, of a bitmap: bits) of a `Vec`, `VecDeque`, `BTreeMap`, [`Bitmap`] or `String`, a `u32` |
/// | `since = N` | the first version that has the field; it needs a default for older ones |
/// | `default`, `default = EXPRESSION` | what it is when the writer does not have it |
/// | `until = N` | the first version that no longer has the field: it is not saved, and is kept to load older versions |
/// | `may_be_absent` | of an `Option<T>`: `None` is left out, so that a `T` of another version is the same field |
/// | `subsection`, `subsection(needed = f)` | the field, which derives `VmState` and `Default`, is a subsection. With `needed`, a `fn(&Self) -> bool`, it is optional: sent only if that says so, and its default when not sent. An addition that older readers shall load is such a subsection, switched off by older machine versions |
/// | `skip(reason = "...")` | it is no state; on load it is its default |
pub use vmstate_macros::VmState;
