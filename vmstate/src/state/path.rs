//! Where in a value something is: `lvt[3].mode`.

use std::fmt;
use std::str::FromStr;

use super::name::Name;
use super::value::MapKey;

/// One step from a value to a value inside it. An option is no step: its contents have the option's own path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// To a field or a subsection of a struct.
    Field(Name),
    /// To one element of an array or a sequence.
    Index(usize),
    /// To the value of a map that has this key.
    Key(MapKey),
    /// To every element of an array, a sequence or a map, in a verdict that holds for all of them alike.
    Each,
}

/// The path from a section's value to a field inside it, printed as `lvt[3].mode`; `.` is the value itself, `slots[=7]` what a map has under the key 7, and
/// `lvt[].mode` means the mode of every element.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The path of the value itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The steps, outermost first.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// This path seen from one level further out. Errors gather their path so, on the way out only.
    #[must_use]
    pub fn within(mut self, outer: Step) -> Self {
        self.0.insert(0, outer);
        self
    }

    /// This path and one step further in.
    #[must_use]
    pub fn join(&self, inner: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(inner);
        Self(steps)
    }

    /// This path with every index replaced by "each": the field as the description knows it, however long the
    /// arrays are.
    #[must_use]
    pub fn described(&self) -> Self {
        let each = |step: &Step| match step {
            Step::Index(_) | Step::Key(_) => Step::Each,
            other => other.clone(),
        };
        Self(self.0.iter().map(each).collect())
    }
}

impl FromIterator<Step> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[={key}]")?,
                Step::Each => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

/// A text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no path of a field; one looks like `lvt[3].mode`")]
pub struct NoPath(String);

impl FromStr for FieldPath {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<Self, NoPath> {
        let no_path = || NoPath(text.to_owned());
        if text == "." {
            return Ok(Self::root());
        }
        let mut steps = Vec::new();
        for part in text.split('.') {
            let mut pieces = part.split('[');
            let name = Name::from(pieces.next().unwrap_or_default().to_owned());
            if name.is_field_name() {
                steps.push(Step::Field(name));
            } else if !(name.is_empty() && steps.is_empty() && part.starts_with('[')) {
                return Err(no_path());
            }
            for piece in pieces {
                let index = piece.strip_suffix(']').ok_or_else(no_path)?;
                steps.push(match index {
                    "" => Step::Each,
                    key if key.starts_with('=') => Step::Key(key[1..].parse().map_err(|_| no_path())?),
                    digits => Step::Index(digits.parse().map_err(|_| no_path())?),
                });
            }
        }
        Ok(Self(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_printed_from_the_outside_in() {
        let path = FieldPath::root()
            .within(Step::Field("mode".into()))
            .within(Step::Index(3))
            .within(Step::Field("lvt".into()));
        assert_eq!(path.to_string(), "lvt[3].mode");
        assert_eq!(path.described().to_string(), "lvt[].mode");
        assert_eq!(FieldPath::root().to_string(), ".");
    }

    #[test]
    fn a_text_that_is_no_path_is_refused() {
        for bad in [
            "", "a..b", "a.", ".a", "a[", "a[x]", "a]", "a.[0]", "a[0]b", "a[=]", "a[=x]",
        ] {
            assert!(bad.parse::<FieldPath>().is_err(), "{bad}");
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            "[a-z][a-z0-9_-]{0,8}".prop_map(|name| Step::Field(name.into())),
            any::<usize>().prop_map(Step::Index),
            any::<MapKey>().prop_map(Step::Key),
            Just(Step::Each),
        ]
    }

    proptest! {
        #[test]
        fn every_path_reads_back_as_it_was_printed(steps in prop::collection::vec(step(), 0..8)) {
            let path = FieldPath(steps);
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }
    }
}
