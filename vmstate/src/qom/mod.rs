//! The object model: what a machine is made of, and how it is described, named, configured and saved.
//!
//! The semantics are those of QEMU's object model, because its users and its literature know them; the form is safe
//! Rust. The way in:
//!
//! - a type is declared once, as static data ([`TypeInfo`]), normally by `#[derive(Object)]`, and gathered at link time
//!   by [`Phase`];
//! - the [`TypeTable`] is a value built from such declarations; it initialises a [`Class`] the first time it is asked
//!   for, parent first;
//! - an [`Object`] is a header (class, place in the tree, children) and one *part* per class of its chain; [`Obj`] and
//!   [`WeakObj`] are handles that know the part's Rust type;
//! - the composition tree owns objects: one lives as long as its place, or as long as somebody holds a handle;
//! - [`Property`] is the one mechanism by which the command line, the monitor and a migration's recipe configure an
//!   object, [`Config`] and [`Link`] the fields behind it;
//! - [`sections`] takes the state of a whole tree out, and puts it into a fresh one.
//!
//! What does not live here: anything that knows hardware, an accelerator or a socket.

mod class;
mod config;
mod handle;
mod link;
mod object;
mod phase;
mod property;
mod property_access;
mod property_value;
pub mod sections;
mod state_binding;
mod tree;
mod type_info;
mod type_table;

pub use class::{Class, ClassData};
pub use config::{Config, ConfigProperty, ConfigValue};
pub use handle::{Obj, ObjectPart, WeakObj};
pub use link::Link;
pub use object::{Object, ObjectError};
pub use phase::{DECLARATIONS, Declaration, Phase};
pub use property::{Property, PropertyInfo};
pub use property_access::PropertyError;
pub use property_value::{NotAPropertyValue, PropertyKind, PropertyValue};
pub use state_binding::{HookTable, Install, StateBinding, StateCell, StatePart};
pub use tree::{AddChildError, Container, check_child_name};
pub use type_info::{OBJECT, StateDecl, TypeInfo, TypeKind};
pub use type_table::{TypeTable, TypeTableError};
pub use vmstate_macros::Object;
