//! Configuration fields: set by properties until the object is frozen, and part of the recipe.

use std::fmt;
use std::marker::PhantomData;

use parking_lot::RwLock;

use super::property::{Access, Refused};
use super::{ObjectPart, Property, PropertyKind, PropertyValue};

/// The value of a `#[config(property)]` field. It changes only through the object's properties, which check it.
#[derive(Default)]
pub struct Config<T> {
    value: RwLock<T>,
}

impl<T> Config<T> {
    /// A field with that value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self {
            value: RwLock::new(value),
        }
    }
}

impl<T: Clone> Config<T> {
    /// The value.
    #[must_use]
    pub fn get(&self) -> T {
        self.value.read().clone()
    }
}

impl<T: fmt::Debug> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.read().fmt(f)
    }
}

/// A Rust type that a property can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of a property",
    note = "bool, integers, String, Option and Vec of these can; another type implements ConfigValue"
)]
pub trait ConfigValue: Clone + Default + Send + Sync + 'static {
    /// What values are accepted.
    fn kind() -> PropertyKind;

    /// The value as a property.
    fn to_property(&self) -> PropertyValue;

    /// The value from a property that the kind has accepted, or `None` where the type has more to object.
    fn from_property(value: &PropertyValue) -> Option<Self>;
}

macro_rules! number {
    ($kind:ident, $wide:ty, $($number:ty),*) => {$(
        impl ConfigValue for $number {
            fn kind() -> PropertyKind {
                PropertyKind::$kind {
                    bits: u8::try_from(<$number>::BITS).unwrap_or(u8::MAX),
                    min: <$wide>::from(<$number>::MIN),
                    max: <$wide>::from(<$number>::MAX),
                }
            }

            fn to_property(&self) -> PropertyValue {
                PropertyValue::$kind(<$wide>::from(*self))
            }

            fn from_property(value: &PropertyValue) -> Option<Self> {
                match value {
                    PropertyValue::$kind(number) => Self::try_from(*number).ok(),
                    _ => None,
                }
            }
        }
    )*};
}

/// A choice among names: what a property is whose values are the variants of an enum.
///
/// ```
/// use vmstate::qom::{ConfigEnum, ConfigValue};
///
/// #[derive(Clone, Copy, Debug, Default, PartialEq)]
/// enum Parity {
///     #[default]
///     None,
///     Even,
/// }
///
/// impl ConfigEnum for Parity {
///     const NAME: &'static str = "parity";
///     const VALUES: &'static [(&'static str, Self)] = &[("none", Self::None), ("even", Self::Even)];
/// }
/// assert_eq!(Parity::kind().to_string(), "one of none, even");
/// ```
pub trait ConfigEnum: Copy + Default + PartialEq + Send + Sync + 'static {
    /// What the enum is called where types are listed.
    const NAME: &'static str;
    /// Each value with the name by which a user gives it.
    const VALUES: &'static [(&'static str, Self)];
}

impl<T: ConfigEnum> ConfigValue for T {
    fn kind() -> PropertyKind {
        PropertyKind::Enum {
            name: T::NAME,
            values: T::VALUES.iter().map(|(name, _)| *name).collect(),
        }
    }

    fn to_property(&self) -> PropertyValue {
        let named = T::VALUES.iter().find(|(_, value)| value == self);
        PropertyValue::Str(named.map(|(name, _)| (*name).to_owned()).unwrap_or_default())
    }

    fn from_property(value: &PropertyValue) -> Option<Self> {
        let PropertyValue::Str(text) = value else { return None };
        let named = T::VALUES.iter().find(|(name, _)| name == text);
        named.map(|(_, value)| *value)
    }
}

number!(Uint, u64, u8, u16, u32, u64);
number!(Int, i64, i8, i16, i32, i64);

impl ConfigValue for bool {
    fn kind() -> PropertyKind {
        PropertyKind::Bool
    }

    fn to_property(&self) -> PropertyValue {
        PropertyValue::Bool(*self)
    }

    fn from_property(value: &PropertyValue) -> Option<Self> {
        match value {
            PropertyValue::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl ConfigValue for String {
    fn kind() -> PropertyKind {
        PropertyKind::Str
    }

    fn to_property(&self) -> PropertyValue {
        PropertyValue::Str(self.clone())
    }

    fn from_property(value: &PropertyValue) -> Option<Self> {
        match value {
            PropertyValue::Str(value) => Some(value.clone()),
            _ => None,
        }
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    fn kind() -> PropertyKind {
        PropertyKind::Optional(Box::new(T::kind()))
    }

    fn to_property(&self) -> PropertyValue {
        self.as_ref().map_or(PropertyValue::Null, T::to_property)
    }

    fn from_property(value: &PropertyValue) -> Option<Self> {
        match value {
            PropertyValue::Null => Some(None),
            value => T::from_property(value).map(Some),
        }
    }
}

impl<T: ConfigValue> ConfigValue for Vec<T> {
    fn kind() -> PropertyKind {
        PropertyKind::List(Box::new(T::kind()))
    }

    fn to_property(&self) -> PropertyValue {
        PropertyValue::List(self.iter().map(T::to_property).collect())
    }

    fn from_property(value: &PropertyValue) -> Option<Self> {
        match value {
            PropertyValue::List(values) => values.iter().map(T::from_property).collect(),
            _ => None,
        }
    }
}

/// The property of a [`Config`] field in the making; `#[derive(Object)]` writes the calls.
pub struct ConfigProperty<P, T> {
    name: &'static str,
    field: fn(&P) -> &Config<T>,
    default: T,
    kind: PropertyKind,
    description: &'static str,
    live: bool,
    of: PhantomData<fn(P) -> T>,
}

impl<P: ObjectPart, T: ConfigValue> ConfigProperty<P, T> {
    /// The property `name` that stands for `field` of part `P`, which starts as `default`.
    #[must_use]
    pub fn new(name: &'static str, field: fn(&P) -> &Config<T>, default: T) -> Self {
        Self {
            name,
            field,
            default,
            kind: T::kind(),
            description: "",
            live: false,
            of: PhantomData,
        }
    }

    /// What the property is for, for users.
    #[must_use]
    pub fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// The smallest value of a number.
    #[must_use]
    pub fn min(mut self, min: &T) -> Self {
        self.kind.set_min(&min.to_property());
        self
    }

    /// The largest value of a number.
    #[must_use]
    pub fn max(mut self, max: &T) -> Self {
        self.kind.set_max(&max.to_property());
        self
    }

    /// Makes a number of bytes of a number.
    #[must_use]
    pub fn size(mut self) -> Self {
        self.kind.make_size();
        self
    }

    /// Lets it be set while the object is in use.
    #[must_use]
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The property.
    #[must_use]
    pub fn build(self) -> Property {
        let (field, live) = (self.field, self.live);
        let property = Property::with_access(
            self.name,
            self.description,
            self.kind,
            Some(self.default.to_property()),
            Access::Value {
                get: Box::new(move |object| field(object.own_part::<P>()).get().to_property()),
                set: Some(Box::new(move |object, value| {
                    let value = T::from_property(value).ok_or(Refused::Kind)?;
                    *field(object.own_part::<P>()).value.write() = value;
                    Ok(())
                })),
            },
        );
        if live { property.live() } else { property }
    }
}
