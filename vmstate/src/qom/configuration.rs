//! How an object is configured, as a whole: to be told elsewhere, and to be done there again.

use std::sync::Arc;

use super::{Object, Property, PropertyError, PropertyValue};

/// What is set of a new object before it is used.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// What the user has asked for, in order.
    pub properties: Vec<(String, PropertyValue)>,
    /// What the object has where it comes from without its user's doing, such as the defaults of another version. It is set first,
    /// and a property that there is not here is passed over.
    pub in_effect: Vec<(String, PropertyValue)>,
}

impl From<Vec<(String, PropertyValue)>> for Configuration {
    fn from(properties: Vec<(String, PropertyValue)>) -> Self {
        Self {
            properties,
            in_effect: Vec::new(),
        }
    }
}

impl Configuration {
    /// Configures `object`.
    ///
    /// # Errors
    ///
    /// [`PropertyError`]: a property does not take its value, or the user asked for one that there is not. Those before it are set.
    pub fn apply(self, object: &Object) -> Result<(), PropertyError> {
        let in_effect = self.in_effect.into_iter();
        let known = in_effect.filter(|(name, _)| object.find_property(name).is_some());
        let mut all = known.chain(self.properties);
        all.try_for_each(|(name, value)| object.set_property(&name, value))
    }
}

impl Object {
    /// Each property that can be set, or could until the object was in use, and its value, sorted by name. What only shows something
    /// is not among them.
    #[must_use]
    pub fn configuration(&self) -> Vec<(Arc<Property>, PropertyValue)> {
        let settable = self
            .declared_properties()
            .into_iter()
            .filter(|property| self.can_be_set(property));
        let mut all: Vec<_> = settable
            .filter_map(|property| Some((Arc::clone(&property), self.property(property.name()).ok()?)))
            .collect();
        all.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{Config, ObjectPart, TypeTable};

    #[derive(Object)]
    #[object(name = "thing", stateless, unregistered)]
    struct Thing {
        #[config(property, default = 7)]
        number: Config<u32>,
        #[config(property)]
        words: Config<Vec<String>>,
        #[config(property, live)]
        tune: Config<bool>,
    }

    fn thing() -> Arc<Object> {
        let table = TypeTable::build([Thing::type_info()]).expect("sound");
        table.new_object("thing").expect("concrete")
    }

    fn texts(object: &Object) -> Vec<String> {
        let all = object.configuration().into_iter();
        all.map(|(property, value)| format!("{}={value}", property.name()))
            .collect()
    }

    #[test]
    fn a_configuration_is_told_and_done_again_also_of_an_object_in_use() {
        let source = thing();
        let words = ["a", "b,c", "d\"e", " f ", "", "[*]"].map(PropertyValue::from);
        source
            .set_property("words", PropertyValue::List(words.to_vec()))
            .expect("a list");
        source.freeze();
        source.set_property("tune", true).expect("live");
        let there: Vec<_> = source.configuration();
        let texts_of_it = there
            .iter()
            .map(|(property, value)| (property.name().to_owned(), value.to_string().as_str().into()));
        let other = thing();
        Configuration::from(texts_of_it.collect::<Vec<_>>())
            .apply(&other)
            .expect("it takes its own words");
        assert_eq!(
            other.configuration().iter().map(|(_, value)| value).collect::<Vec<_>>(),
            there.iter().map(|(_, value)| value).collect::<Vec<_>>()
        );
        assert_eq!(texts(&other)[0], "number=7");
    }

    #[test]
    fn what_was_in_effect_gives_way_to_what_was_asked_for_and_may_be_unknown() {
        let configuration = Configuration {
            properties: vec![("number".to_owned(), 9u32.into())],
            in_effect: vec![
                ("number".to_owned(), 8u32.into()),
                ("of-a-later-version".to_owned(), 1u32.into()),
                ("tune".to_owned(), true.into()),
            ],
        };
        let object = thing();
        configuration.clone().apply(&object).expect("known");
        assert_eq!(texts(&object), ["number=9", "tune=on", "words="]);
        let asked = Configuration::from(configuration.in_effect);
        let error = asked.apply(&thing()).expect_err("asked for").to_string();
        assert!(error.contains("has no property 'of-a-later-version'"), "{error}");
    }
}
