//! The object model: what a machine is made of, and how it is described, named, configured and saved.
//!
//! The semantics are those of QEMU's object model, because its users and its literature know them; the form is safe
//! Rust. The way in:
//!
//! - a type is declared once, as static data ([`TypeInfo`]), normally by `#[derive(Object)]`, and gathered at link time
//!   by [`Phase`];
//! - the [`TypeTable`] is a value built from such declarations; it initialises a [`Class`] the first time it is asked
//!   for, parent first;
//! - an [`Object`](struct@Object) is a header (class, place in the tree, children) and one *part* per class of its chain; [`Obj`] and
//!   [`WeakObj`] are handles that know the part's Rust type;
//! - the composition tree owns objects: one lives as long as its place, or as long as somebody holds a handle;
//! - [`Property`] is the one mechanism by which the command line, the monitor and a migration's recipe configure an
//!   object, [`Config`] and [`Link`] the fields behind it;
//! - [`sections`] takes the state of a whole tree out, and puts it into a fresh one.
//!
//! What does not live here: anything that knows hardware, an accelerator or a socket.

mod child_name;
mod class;
mod config;
mod configuration;
mod defaults;
mod handle;
mod link;
mod object;
mod own_property;
mod phase;
mod property;
mod property_access;
mod property_value;
mod resolve;
pub mod sections;
mod state_binding;
mod tree;
mod type_info;
mod type_table;
mod type_table_error;
mod user_creatable;

pub use child_name::{AddChildError, check_child_name, check_id};
pub use class::{Class, ClassData};
pub use config::{Config, ConfigEnum, ConfigProperty, ConfigValue};
pub use configuration::Configuration;
pub use defaults::{GlobalError, GlobalProperty, NewObjectError, ParseGlobalError, PropertyDefaults};
pub use handle::{Obj, ObjectPart, WeakObj};
pub use link::{Link, LinkCheck, StrongLink};
pub use object::{Object, ObjectError};
pub use own_property::AddPropertyError;
pub use phase::{DECLARATIONS, Declaration, Phase};
pub use property::{Property, PropertyInfo};
pub use property_access::PropertyError;
pub use property_value::{PropertyKind, PropertyValue};
pub use resolve::ResolveError;
pub use state_binding::{HookTable, Install, StateBinding, StateCell, StatePart};
pub use tree::Container;
pub use type_info::{OBJECT, StateDecl, TypeInfo, TypeKind};
pub use type_table::TypeTable;
pub use type_table_error::TypeTableError;
pub use user_creatable::{
    USER_OBJECTS, UserCreatable, UserCreatableClass, UserObjectError, add_user_object, delete_user_object,
};
/// Declares a type of the object model: the struct becomes the part that the type adds to its objects.
///
/// ```
/// use parking_lot::Mutex;
/// use vmstate::VmState;
/// use vmstate::qom::{Config, Link, Obj, Object, ObjectPart, TypeTable};
///
/// /// All that the guest can change, and nothing else.
/// #[derive(Default, VmState)]
/// struct UartState {
///     divisor: u16,
/// }
///
/// #[derive(Object)]
/// #[object(name = "uart")]
/// struct Uart {
///     #[config(property, default = 0x3f8, max = 0xfff8, description = "first I/O port")]
///     io_base: Config<u16>,
///     #[config(link, description = "where a break goes")]
///     peer: Link<Uart>,
///     #[runtime(reason = "the host's side, made by realize")]
///     wires: Mutex<Option<String>>,
///     #[derived(reason = "follows from the divisor")]
///     period: Mutex<u64>,
///     #[state]
///     state: Mutex<UartState>,
/// }
///
/// let types = TypeTable::build([Uart::type_info()])?;
/// let uart = Obj::<Uart>::create(&types)?;
/// uart.object().set_property_str("io-base", "0x2f8")?;
/// assert_eq!(uart.io_base.get(), 0x2f8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It implements [`ObjectPart`] and [`Default`] (every field starts as its `default`, its `init`, or `Default`),
/// [`StatePart`] where there is a state, and enters the declaration in the link-time list.
///
/// # The type: `#[object(...)]`
///
/// | option | meaning |
/// | --- | --- |
/// | `name = "..."` | the name of the type; mandatory |
/// | `parent = P` | what it extends, `object` unless given: a Rust type (`Device`), a constant (`TYPE_DEVICE`) or text |
/// | `abstract` | only its descendants have objects |
/// | `interface` | the struct, `struct Hotplug;`, names an interface: it has no objects, and gets `TYPE` and `type_info()` of its own |
/// | `interfaces = [I, ...]` | what it implements, named like a parent |
/// | `stateless` | it adds no state |
/// | `unmigratable = "..."` | its objects cannot be saved, and this is the reason that the user is shown |
/// | `hooks` | it implements [`StateHooks`](crate::state::StateHooks) |
/// | `class_data = D` | what it adds to its class; `D` is `Default + Clone` |
/// | `properties = f` | `fn() -> Vec<Property>`: properties besides those of the fields |
/// | `class_init = f`, `class_base_init = f` | `fn(&mut Class)` |
/// | `instance_init = f`, `instance_post_init = f` | `fn(&Arc<Object>)` |
/// | `instance_finalize = f` | `fn(&Object)` |
/// | `phase = Machine` | the [`Phase`] of the declaration, `Qom` unless given |
/// | `unregistered` | it is in no list: tables that want it name it |
///
/// A type has a `#[state]` field, or is `stateless`, or `unmigratable`: anything else does not compile.
///
/// # The fields
///
/// Each has exactly one mark, or the struct does not compile.
///
/// | mark | for | type of the field |
/// | --- | --- | --- |
/// | `#[config(property, ...)]` | configuration that a user or recipe sets until the object is frozen; options `default`, `min`, `max`, `size` (a number of bytes), `live` (can be set afterwards, too), `description`, `name` (the field's in kebab-case unless given) | [`Config<T>`](Config) |
/// | `#[config(link, ...)]` | a reference to another object; options `check` (a [`LinkCheck`]), `live`, `description`, `name` | [`Link<T>`](Link), or [`StrongLink<T>`](StrongLink), which keeps its target alive |
/// | `#[config]` | configuration that the program sets | any |
/// | `#[runtime(reason = "...")]` | what is no state, and why: made anew when the object comes to life | any |
/// | `#[state]` | what the guest can change; one field, so that it is taken out whole | `parking_lot::Mutex<S>`, `S` derives [`VmState`](macro@crate::VmState) |
/// | `#[derived(reason = "...")]` | what follows from the other fields, and how | any |
///
/// The last four also take `init = EXPRESSION`.
pub use vmstate_macros::Object;
