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
mod compare;
mod decode;
#[doc(hidden)]
pub mod derived;
mod description;
mod encode;
mod error;
mod fields;
mod leaves;
mod name;
mod path;
mod relation;
mod schema;
mod schema_cbor;
#[cfg(test)]
mod testing;
mod value;

pub use adapt::{AdaptError, Refusal, adapt};
pub use compare::{Comparison, Condition, FieldVerdict, Obstacle, Verdict, compare};
pub use decode::{DecodeError, DecodeFault, decode};
pub use description::{HookError, Section, StateHooks, VmEnum, VmField, VmSequence, VmState};
pub use encode::{EncodeError, encode};
pub use error::{Mismatch, StateError};
pub use leaves::{FieldDiff, NoLeaf, diff};
pub use name::Name;
pub use path::{FieldPath, NoPath, Step};
pub use schema::{Description, FieldSchema, Schema, SchemaError, SchemaFault, SubsectionSchema, TypeFault, WireType};
pub use schema_cbor::SchemaReadError;
pub use value::{StructValue, Value};
pub use vmstate_macros::{VmEnum, VmState};
