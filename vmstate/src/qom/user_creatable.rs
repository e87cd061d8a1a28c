//! Objects that a user makes: with an id, under `/objects`.

use std::sync::Arc;

use super::{
    AddChildError, Class, Configuration, NewObjectError, Object, ObjectError, PropertyDefaults, PropertyError, check_id,
};

/// Where the objects of users are.
pub const USER_OBJECTS: &str = "objects";

/// The types of which a user can make objects.
#[derive(Object)]
#[object(name = "user-creatable", interface, class_data = UserCreatableClass, unregistered)]
pub struct UserCreatable;

impl UserCreatable {
    /// Whether users can make objects of the class.
    #[must_use]
    pub fn can_be_made(class: &Class) -> bool {
        class.is_concrete() && class.is_a(Self::TYPE)
    }
}

/// What a virtual method of the interface says of an object: fine, or why not.
type Answer = Result<(), String>;

/// The virtual methods of the interface. Each class that implements it has its own copy.
#[derive(Clone, Copy, Default)]
pub struct UserCreatableClass {
    /// Makes the object ready for use, once all its properties are set. The text says why it cannot be.
    pub complete: Option<fn(&Arc<Object>) -> Answer>,
    /// Whether the object can be taken away; the text says why not. Without it, it always can.
    pub can_be_deleted: Option<fn(&Object) -> Answer>,
}

/// Why a user's object could not be made or deleted. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserObjectError {
    /// The tree has no folder for them.
    #[error("this machine takes no objects of users")]
    NoFolder,
    /// There are no objects of that type.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The type is not for users.
    #[error("a user cannot make a '{type_name}'; types that can be made: {known}")]
    NotForUsers {
        /// The type asked for.
        type_name: String,
        /// The types that users can make, sorted.
        known: String,
    },
    /// The id is taken, or cannot be one.
    #[error(transparent)]
    Id(#[from] AddChildError),
    /// A property does not take its value.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The object is not what was asked for, or cannot be had.
    #[error("{path} cannot be made: {reason}")]
    Incomplete {
        /// Where it would have been.
        path: String,
        /// What it says.
        reason: String,
    },
    /// There is no such object.
    #[error("there is no object '{id}' of a user")]
    Unknown {
        /// The id asked for.
        id: String,
    },
    /// Something uses it.
    #[error("{path} cannot be deleted: {reason}")]
    InUse {
        /// Where it is.
        path: String,
        /// What it says.
        reason: String,
    },
}

impl From<NewObjectError> for UserObjectError {
    fn from(error: NewObjectError) -> Self {
        match error {
            NewObjectError::Object(error) => error.into(),
            NewObjectError::Property(error) => error.into(),
        }
    }
}

/// Makes an object of type `type_name` under `/objects` of the tree below `root`, with the name `id`: configures it, completes it,
/// and freezes it.
///
/// # Errors
///
/// [`UserObjectError`]; the tree is as it was then.
pub fn add_user_object(
    root: &Object,
    defaults: &PropertyDefaults,
    type_name: &str,
    id: &str,
    configuration: impl Into<Configuration>,
) -> Result<Arc<Object>, UserObjectError> {
    check_id(id)?;
    let folder = root.child(USER_OBJECTS).ok_or(UserObjectError::NoFolder)?;
    let types = root.types();
    // What is abstract is refused below, with what there is in its place.
    if !types.class(type_name)?.is_a(UserCreatable::TYPE) {
        return Err(UserObjectError::NotForUsers {
            type_name: type_name.to_owned(),
            known: types.list(UserCreatable::can_be_made),
        });
    }
    let object = defaults.new_object(types, type_name)?;
    folder.add_child(id, Arc::clone(&object))?;
    let configured = configuration.into().apply(&object);
    let made = configured
        .map_err(UserObjectError::from)
        .and_then(|()| complete(&object));
    match made {
        Ok(()) => Ok(object),
        Err(error) => {
            object.unparent();
            Err(error)
        }
    }
}

fn complete(object: &Arc<Object>) -> Result<(), UserObjectError> {
    object.freeze();
    match object
        .class()
        .data::<UserCreatableClass>()
        .and_then(|class| class.complete)
    {
        Some(complete) => complete(object).map_err(|reason| UserObjectError::Incomplete {
            path: object.path(),
            reason,
        }),
        None => Ok(()),
    }
}

/// Takes the user's object `id` out of the tree below `root`.
///
/// # Errors
///
/// [`UserObjectError`]: there is none, or it is in use.
pub fn delete_user_object(root: &Object, id: &str) -> Result<(), UserObjectError> {
    let folder = root.child(USER_OBJECTS).ok_or(UserObjectError::NoFolder)?;
    let object = folder.child(id).filter(|object| object.is_a(UserCreatable::TYPE));
    let object = object.ok_or_else(|| UserObjectError::Unknown { id: id.to_owned() })?;
    let class = object.class().data::<UserCreatableClass>();
    if let Some(can_be_deleted) = class.and_then(|class| class.can_be_deleted) {
        can_be_deleted(&object).map_err(|reason| UserObjectError::InUse {
            path: object.path(),
            reason,
        })?;
    }
    object.unparent();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{Config, ObjectPart, PropertyValue, TypeTable};

    #[derive(Object)]
    #[object(name = "rng", stateless, unregistered, interfaces = [UserCreatable], class_init = class_init)]
    struct Rng {
        #[config(property, max = 10)]
        rate: Config<u8>,
        #[config(property, live)]
        in_use: Config<bool>,
    }

    #[derive(Object)]
    #[object(name = "other", stateless, unregistered)]
    struct Other {}

    fn class_init(class: &mut Class) {
        let data = class.data_mut::<UserCreatableClass>().expect("of the interface");
        data.complete = Some(|object| match object.property("rate") {
            Ok(PropertyValue::Uint(0)) => Err("it needs a rate".to_owned()),
            _ => Ok(()),
        });
        data.can_be_deleted = Some(|object| match object.property("in-use") {
            Ok(PropertyValue::Bool(true)) => Err("a device reads from it".to_owned()),
            _ => Ok(()),
        });
    }

    fn root() -> Arc<Object> {
        let types = TypeTable::build([Rng::type_info(), Other::type_info()]).expect("they fit");
        let root = types.new_object("container").expect("concrete");
        root.add_child(USER_OBJECTS, types.new_object("container").expect("concrete"))
            .expect("free");
        root
    }

    fn add(root: &Object, type_name: &str, id: &str, rate: u64) -> Result<Arc<Object>, UserObjectError> {
        let properties = vec![("rate".to_owned(), PropertyValue::Uint(rate))];
        add_user_object(root, &PropertyDefaults::default(), type_name, id, properties)
    }

    #[test]
    fn a_users_object_is_completed_with_its_properties_and_fixed_from_then_on() {
        let root = root();
        let object = add(&root, "rng", "rng0", 5).expect("it fits");
        assert_eq!(object.path(), "/objects/rng0");
        assert!(object.is_frozen() && object.set_property("rate", 6).is_err());
    }

    #[test]
    fn a_users_object_that_fails_at_any_step_leaves_nothing_behind() {
        let root = root();
        for (type_name, id, rate, message) in [
            ("rngg", "a", 5, "there is no type 'rngg'"),
            (
                "other",
                "a",
                5,
                "a user cannot make a 'other'; types that can be made: rng",
            ),
            (
                "user-creatable",
                "a",
                5,
                "type 'user-creatable' is an interface and has no objects of its own; name one of the types that implement it",
            ),
            ("rng", "a/b", 5, "'a/b' cannot be the name of an object: it holds '/'"),
            (
                "rng",
                "a[1]",
                5,
                "'a[1]' cannot be the name of an object: an id begins with a letter and holds letters, digits, '-', '.' and '_'",
            ),
            (
                "rng",
                "a",
                11,
                "'11' is not a value for property 'rate' of /objects/a: give a number from 0 to 10",
            ),
            ("rng", "a", 0, "/objects/a cannot be made: it needs a rate"),
        ] {
            assert_eq!(
                add(&root, type_name, id, rate).expect_err("refused").to_string(),
                message
            );
            assert!(
                root.child(USER_OBJECTS).expect("there").children().is_empty(),
                "{message}"
            );
        }
        add(&root, "rng", "a", 5).expect("the id is free");
        assert!(matches!(add(&root, "rng", "a", 5), Err(UserObjectError::Id(_))));
    }

    #[test]
    fn a_users_object_in_use_is_not_deleted_and_one_that_is_not_dies() {
        let root = root();
        let object = add(&root, "rng", "rng0", 5).expect("it fits");
        object.set_property("in-use", true).expect("live");
        assert_eq!(
            delete_user_object(&root, "rng0").expect_err("in use").to_string(),
            "/objects/rng0 cannot be deleted: a device reads from it"
        );
        object.set_property("in-use", false).expect("live");
        let weak = Arc::downgrade(&object);
        drop(object);
        delete_user_object(&root, "rng0").expect("not in use");
        assert!(weak.upgrade().is_none());
        assert_eq!(
            delete_user_object(&root, "rng0").expect_err("gone").to_string(),
            "there is no object 'rng0' of a user"
        );
    }
}
