//! Values that properties of new objects have instead of their declared defaults: what an accelerator, a machine version
//! and the user ask for, of all objects of a type.
//!
//! The order is QEMU's. A new object has its declared defaults; then its `instance_init` and `instance_post_init`
//! functions have run; then come the settings of the accelerator, of the machine, and of the user (`--global`), and
//! within each of these in the order in which they are listed: the later one wins. What is set on the object itself
//! comes after all of them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Object, ObjectError, PropertyError, PropertyValue, TypeTable};

/// One value for a property of all objects of a type and of those that extend or implement it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalProperty {
    /// The type.
    pub type_name: Cow<'static, str>,
    /// The property.
    pub property: Cow<'static, str>,
    /// The value, as a user writes it.
    pub value: Cow<'static, str>,
    /// Objects of the type that have no such property are passed over.
    pub optional: bool,
}

impl GlobalProperty {
    /// The setting, which all objects of the type must be able to take.
    #[must_use]
    pub const fn new(type_name: &'static str, property: &'static str, value: &'static str) -> Self {
        Self {
            type_name: Cow::Borrowed(type_name),
            property: Cow::Borrowed(property),
            value: Cow::Borrowed(value),
            optional: false,
        }
    }
}

impl fmt::Display for GlobalProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}={}", self.type_name, self.property, self.value)
    }
}

/// Text that is no setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not of the form TYPE.PROPERTY=VALUE")]
pub struct ParseGlobalError(
    /// What was given.
    pub String,
);

impl FromStr for GlobalProperty {
    type Err = ParseGlobalError;

    /// Reads `TYPE.PROPERTY=VALUE`. Names of types can hold dots (`microvm-1.0`), those of properties do not.
    fn from_str(text: &str) -> Result<Self, ParseGlobalError> {
        let split = text.split_once('=').and_then(|(place, value)| {
            let (type_name, property) = place.rsplit_once('.')?;
            (!type_name.is_empty() && !property.is_empty()).then_some((type_name, property, value))
        });
        let (type_name, property, value) = split.ok_or_else(|| ParseGlobalError(text.to_owned()))?;
        Ok(Self {
            type_name: type_name.to_owned().into(),
            property: property.to_owned().into(),
            value: value.to_owned().into(),
            optional: false,
        })
    }
}

/// Who asks for a setting, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Accelerator,
    Machine,
    User,
}

/// The settings of one machine.
#[derive(Clone, Debug, Default)]
pub struct PropertyDefaults {
    slots: [Vec<GlobalProperty>; 3],
}

/// A setting that no machine can follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{global}: {reason}")]
pub struct GlobalError {
    /// The setting, as `TYPE.PROPERTY=VALUE`.
    pub global: String,
    /// What is wrong with it, and what could be given.
    pub reason: String,
}

/// Why a new object could not be made as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewObjectError {
    /// There are no objects of that type.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A setting does not fit it.
    #[error(transparent)]
    Property(#[from] PropertyError),
}

impl PropertyDefaults {
    /// The same with these settings of the accelerator, after those that it has asked for so far.
    #[must_use]
    pub fn with_accelerator(self, globals: impl IntoIterator<Item = GlobalProperty>) -> Self {
        self.with(Slot::Accelerator, globals)
    }

    /// The same with these settings of the machine's version.
    #[must_use]
    pub fn with_machine(self, globals: impl IntoIterator<Item = GlobalProperty>) -> Self {
        self.with(Slot::Machine, globals)
    }

    /// The same with these settings of the user.
    #[must_use]
    pub fn with_user(self, globals: impl IntoIterator<Item = GlobalProperty>) -> Self {
        self.with(Slot::User, globals)
    }

    fn with(mut self, slot: Slot, globals: impl IntoIterator<Item = GlobalProperty>) -> Self {
        self.slots[slot as usize].extend(globals);
        self
    }

    /// What the user asks for, in order.
    #[must_use]
    pub fn user(&self) -> &[GlobalProperty] {
        &self.slots[Slot::User as usize]
    }

    /// Checks every setting against the types, before there is any object.
    ///
    /// # Errors
    ///
    /// The first that no object can follow, in the order of application.
    pub fn check(&self, types: &TypeTable) -> Result<(), GlobalError> {
        self.slots.iter().flatten().try_for_each(|global| check(types, global))
    }

    /// Makes an object of type `name` with these settings; it has no place in a tree yet.
    ///
    /// # Errors
    ///
    /// [`NewObjectError`].
    pub fn new_object(&self, types: &Arc<TypeTable>, name: &str) -> Result<Arc<Object>, NewObjectError> {
        let object = types.new_object(name)?;
        self.apply(&object)?;
        Ok(object)
    }

    /// Sets on a new object whatever is asked for of its type.
    ///
    /// # Errors
    ///
    /// The property that cannot be set so.
    pub fn apply(&self, object: &Object) -> Result<(), PropertyError> {
        for global in self
            .slots
            .iter()
            .flatten()
            .filter(|global| object.is_a(&global.type_name))
        {
            match object.set_property_str(&global.property, &global.value) {
                Err(PropertyError::Unknown { .. }) if global.optional => {}
                set => set?,
            }
        }
        Ok(())
    }
}

fn check(types: &TypeTable, global: &GlobalProperty) -> Result<(), GlobalError> {
    let refuse = |reason| {
        Err(GlobalError {
            global: global.to_string(),
            reason,
        })
    };
    let Ok(class) = types.class(&global.type_name) else {
        return refuse(format!("there is no type '{}'", global.type_name));
    };
    let settable = class
        .property(&global.property)
        .filter(|property| property.is_settable());
    let Some(property) = settable else {
        if global.optional {
            return Ok(());
        }
        let known = class.properties().filter(|property| property.is_settable());
        let known: Vec<_> = known.map(|property| property.name()).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return refuse(format!(
            "{} has no property '{}'; it has: {known}",
            global.type_name, global.property
        ));
    };
    match property.kind().accept(&PropertyValue::Str(global.value.to_string())) {
        Some(_) => Ok(()),
        None => refuse(format!("give {}", property.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{Config, ObjectPart};

    #[derive(Object)]
    #[object(name = "card", abstract, stateless, unregistered, instance_post_init = post_init)]
    struct Card {
        #[config(property, default = 1, max = 100)]
        speed: Config<u32>,
        #[config(property, default = 1)]
        color: Config<u32>,
    }

    #[derive(Object)]
    #[object(name = "card-1.2", parent = Card, stateless, unregistered)]
    struct OldCard {}

    fn post_init(object: &Arc<Object>) {
        object.set_property("color", 2).expect("in range");
    }

    fn types() -> Arc<TypeTable> {
        TypeTable::build([Card::type_info(), OldCard::type_info()]).expect("they fit")
    }

    fn globals<const N: usize>(texts: [&str; N]) -> Vec<GlobalProperty> {
        texts.map(|text| text.parse().expect("well-formed")).into()
    }

    fn speed(defaults: &PropertyDefaults) -> PropertyValue {
        let card = defaults.new_object(&types(), "card-1.2").expect("concrete");
        card.property("speed").expect("known")
    }

    #[test]
    fn settings_apply_in_the_order_accelerator_machine_user_and_the_later_one_wins() {
        let all = PropertyDefaults::default()
            .with_user(globals(["card-1.2.speed=30", "card.speed=31"]))
            .with_machine(globals(["card.speed=20"]))
            .with_accelerator(globals(["card.speed=10", "card-1.2.speed=11"]));
        assert_eq!(
            speed(&all),
            PropertyValue::Uint(31),
            "the order counts, not how special the type is"
        );
        let [accelerator, machine, _] = all.slots.clone();
        let without_user = PropertyDefaults::default()
            .with_accelerator(accelerator.clone())
            .with_machine(machine);
        assert_eq!(speed(&without_user), PropertyValue::Uint(20));
        assert_eq!(
            speed(&PropertyDefaults::default().with_accelerator(accelerator)),
            PropertyValue::Uint(11)
        );
        assert_eq!(speed(&PropertyDefaults::default()), PropertyValue::Uint(1));
    }

    #[test]
    fn settings_come_after_post_init_and_before_what_is_set_on_the_object_itself() {
        let defaults = PropertyDefaults::default().with_machine(globals(["card.color=3"]));
        let card = defaults.new_object(&types(), "card-1.2").expect("concrete");
        assert_eq!(card.property("color"), Ok(PropertyValue::Uint(3)));
        card.set_property("color", 4).expect("in range");
        assert_eq!(card.property("color"), Ok(PropertyValue::Uint(4)));
    }

    #[test]
    fn a_setting_that_nothing_can_follow_is_refused_with_what_there_is() {
        let refused = |text| {
            let defaults = PropertyDefaults::default().with_user(globals([text]));
            defaults.check(&types()).expect_err("refused").to_string()
        };
        assert_eq!(refused("disk.speed=1"), "disk.speed=1: there is no type 'disk'");
        assert_eq!(
            refused("card-1.2.size=1"),
            "card-1.2.size=1: card-1.2 has no property 'size'; it has: color, speed"
        );
        assert_eq!(refused("card.speed=101"), "card.speed=101: give a number from 0 to 100");
    }

    #[test]
    fn an_optional_setting_passes_over_objects_that_have_no_such_property() {
        let setting = |optional| {
            let global = GlobalProperty {
                optional,
                ..GlobalProperty::new("object", "speed", "7")
            };
            PropertyDefaults::default().with_machine([global])
        };
        setting(true).check(&types()).expect("some objects have it");
        assert_eq!(speed(&setting(true)), PropertyValue::Uint(7));
        setting(true).new_object(&types(), "container").expect("passed over");
        assert!(setting(false).check(&types()).is_err());
        assert!(matches!(
            setting(false).new_object(&types(), "container"),
            Err(NewObjectError::Property(PropertyError::Unknown { .. }))
        ));
    }

    #[test]
    fn text_that_is_no_setting_is_refused_with_the_form() {
        assert_eq!(
            "card-1.2.speed=a=b".parse(),
            Ok(GlobalProperty::new("card-1.2", "speed", "a=b"))
        );
        for text in ["", "card", "card.speed", "card=1", ".speed=1", "card.=1"] {
            let error = text.parse::<GlobalProperty>().expect_err("refused").to_string();
            assert_eq!(error, format!("'{text}' is not of the form TYPE.PROPERTY=VALUE"));
        }
    }
}
