//! Values of properties and the kinds that check them.

use std::fmt;

use serde_json::Value as Json;

use super::ConfigValue;

/// The value of a property, as the command line, the monitor and a recipe hand it around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyValue {
    /// Not set.
    Null,
    /// A truth value.
    Bool(bool),
    /// An unsigned number or a size in bytes.
    Uint(u64),
    /// A signed number.
    Int(i64),
    /// Text.
    Str(String),
    /// A list.
    List(Vec<PropertyValue>),
    /// The canonical path of an object, or `None` where the link leads nowhere.
    Link(Option<String>),
    /// What no property takes, as it was written: an object, a number with a fraction, or one of more than 64 bits.
    Unfit(String),
}

impl<T: ConfigValue> From<T> for PropertyValue {
    fn from(value: T) -> Self {
        value.to_property()
    }
}

impl From<&str> for PropertyValue {
    fn from(value: &str) -> Self {
        Self::Str(value.to_owned())
    }
}

impl From<&PropertyValue> for Json {
    fn from(value: &PropertyValue) -> Self {
        match value {
            PropertyValue::Null | PropertyValue::Link(None) => Self::Null,
            PropertyValue::Bool(value) => Self::from(*value),
            PropertyValue::Uint(value) => Self::from(*value),
            PropertyValue::Int(value) => Self::from(*value),
            PropertyValue::Str(value) | PropertyValue::Link(Some(value)) | PropertyValue::Unfit(value) => {
                Self::from(value.as_str())
            }
            PropertyValue::List(values) => values.iter().map(Self::from).collect(),
        }
    }
}

impl From<&Json> for PropertyValue {
    /// A value that no property takes is none of any kind, so that it is refused in the words in which its text would be.
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Self::Uint(value),
                (None, Some(value)) => Self::Int(value),
                (None, None) => Self::Unfit(written(number)),
            },
            Json::String(value) => Self::Str(value.clone()),
            Json::Array(values) => Self::List(values.iter().map(Self::from).collect()),
            Json::Object(_) => Self::Unfit(json.to_string()),
        }
    }
}

/// A number with a fraction or of more than 64 bits. The latter have all their digits, as somebody would write them.
fn written(number: &serde_json::Number) -> String {
    const BITS_64: f64 = 18_446_744_073_709_551_616.0;
    match number.as_f64() {
        Some(large) if large.abs() >= BITS_64 / 2.0 => format!("{large:.0}"),
        _ => number.to_string(),
    }
}

impl fmt::Display for PropertyValue {
    /// As a user would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Link(None) => Ok(()),
            Self::Bool(value) => f.write_str(if *value { "on" } else { "off" }),
            Self::Uint(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Str(value) | Self::Link(Some(value)) | Self::Unfit(value) => f.write_str(value),
            Self::List(values) => {
                let items: Vec<_> = values.iter().map(Self::to_string).collect();
                let is_ambiguous = |item: &String| item.contains(',') || item.is_empty() && items.len() == 1;
                if !items.iter().any(is_ambiguous) && !items.first().is_some_and(|first| first.starts_with('[')) {
                    f.write_str(&items.join(","))
                } else {
                    Json::from(self).fmt(f)
                }
            }
        }
    }
}

/// What values a property takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyKind {
    /// `on` or `off`.
    Bool,
    /// An unsigned number within a range; `bits` only names the type.
    Uint {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A signed number within a range.
    Int {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// A number of bytes within a range, written with a suffix if one likes: `256M`.
    Size {
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// Text.
    Str,
    /// One of several names.
    Enum {
        /// What the choice is called.
        name: &'static str,
        /// The names, in the order of their declaration.
        values: Vec<&'static str>,
    },
    /// A value or nothing.
    Optional(Box<PropertyKind>),
    /// A list of values.
    List(Box<PropertyKind>),
    /// A path of an object of that type elsewhere in the tree.
    Link(&'static str),
    /// An object of that type that this one owns.
    Child(&'static str),
}

impl PropertyKind {
    /// The name of the kind, as QEMU has it: `uint16`, `bool`, `link<x86-cpu>`.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::Bool => "bool".to_owned(),
            Self::Uint { bits, .. } => format!("uint{bits}"),
            Self::Int { bits, .. } => format!("int{bits}"),
            Self::Size { .. } => "size".to_owned(),
            Self::Str => "str".to_owned(),
            Self::Enum { name, .. } => (*name).to_owned(),
            Self::Optional(kind) => kind.type_name(),
            Self::List(kind) => format!("list<{}>", kind.type_name()),
            Self::Link(target) => format!("link<{target}>"),
            Self::Child(target) => format!("child<{target}>"),
        }
    }

    /// The value in this kind's own form, or `None` where it is none of this kind. Text is read the way a user writes
    /// it on the command line, so that a value set from a string and one set from JSON are checked by the same rule.
    #[must_use]
    pub(super) fn accept(&self, value: &PropertyValue) -> Option<PropertyValue> {
        match (self, value) {
            (Self::Bool, PropertyValue::Bool(_)) | (Self::Str, PropertyValue::Str(_)) => Some(value.clone()),
            (Self::Bool, PropertyValue::Str(text)) => match text.as_str() {
                "on" | "true" | "yes" => Some(PropertyValue::Bool(true)),
                "off" | "false" | "no" => Some(PropertyValue::Bool(false)),
                _ => None,
            },
            (Self::Uint { min, max, .. }, _) => {
                let number = as_u64(value, parse_number)?;
                (min..=max).contains(&&number).then_some(PropertyValue::Uint(number))
            }
            (Self::Size { min, max }, _) => {
                let number = as_u64(value, parse_size)?;
                (min..=max).contains(&&number).then_some(PropertyValue::Uint(number))
            }
            (Self::Int { min, max, .. }, _) => {
                let number = as_i64(value)?;
                (min..=max).contains(&&number).then_some(PropertyValue::Int(number))
            }
            (Self::Enum { values, .. }, PropertyValue::Str(text)) => {
                values.contains(&text.as_str()).then(|| value.clone())
            }
            (Self::Optional(_), PropertyValue::Null) => Some(PropertyValue::Null),
            (Self::Optional(kind), PropertyValue::Str(text)) if text == "null" && **kind != Self::Str => {
                Some(PropertyValue::Null)
            }
            (Self::Optional(kind), _) => kind.accept(value),
            (Self::List(kind), PropertyValue::List(values)) => values
                .iter()
                .map(|value| kind.accept(value))
                .collect::<Option<_>>()
                .map(PropertyValue::List),
            (Self::List(_), PropertyValue::Str(text)) if text.is_empty() => Some(PropertyValue::List(Vec::new())),
            (Self::List(kind), PropertyValue::Str(text)) => {
                if let Some(list) = json_list(text) {
                    return self.accept(&list);
                }
                text.split(',')
                    .map(|item| kind.accept(&PropertyValue::Str(item.to_owned())))
                    .collect::<Option<_>>()
                    .map(PropertyValue::List)
            }
            (Self::Link(_), PropertyValue::Link(_)) => Some(value.clone()),
            (Self::Link(_), PropertyValue::Null) => Some(PropertyValue::Link(None)),
            (Self::Link(_), PropertyValue::Str(path)) => {
                Some(PropertyValue::Link((!path.is_empty()).then(|| path.clone())))
            }
            _ => None,
        }
    }

    /// Narrows the range of a number from below.
    pub(super) fn set_min(&mut self, bound: &PropertyValue) {
        match (self, bound) {
            (Self::Uint { min, .. } | Self::Size { min, .. }, PropertyValue::Uint(bound)) => *min = *bound,
            (Self::Int { min, .. }, PropertyValue::Int(bound)) => *min = *bound,
            (Self::Optional(kind) | Self::List(kind), _) => kind.set_min(bound),
            _ => {}
        }
    }

    /// Narrows the range of a number from above.
    pub(super) fn set_max(&mut self, bound: &PropertyValue) {
        match (self, bound) {
            (Self::Uint { max, .. } | Self::Size { max, .. }, PropertyValue::Uint(bound)) => *max = *bound,
            (Self::Int { max, .. }, PropertyValue::Int(bound)) => *max = *bound,
            (Self::Optional(kind) | Self::List(kind), _) => kind.set_max(bound),
            _ => {}
        }
    }

    /// Turns a 64-bit number into a size.
    pub(super) fn make_size(&mut self) {
        match self {
            Self::Uint { min, max, .. } => *self = Self::Size { min: *min, max: *max },
            Self::Optional(kind) | Self::List(kind) => kind.make_size(),
            _ => {}
        }
    }
}

impl fmt::Display for PropertyKind {
    /// What a user is told to give.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("on or off"),
            Self::Uint { min, max, .. } => write!(f, "a number from {min} to {max}"),
            Self::Int { min, max, .. } => write!(f, "a number from {min} to {max}"),
            Self::Size { min, max } => {
                f.write_str("a size in bytes, or with a suffix K, M, G or T")?;
                match (*min, *max) {
                    (0, u64::MAX) => Ok(()),
                    (min, u64::MAX) => write!(f, ", from {min}"),
                    (min, max) => write!(f, ", from {min} to {max}"),
                }
            }
            Self::Str => f.write_str("text"),
            Self::Enum { values, .. } => write!(f, "one of {}", values.join(", ")),
            Self::Optional(kind) => write!(f, "{kind}, or null"),
            Self::List(kind) => write!(f, "a list, each item {kind}"),
            Self::Link(target) => write!(f, "the path of an object of type {target}"),
            Self::Child(target) => write!(f, "an object of type {target}"),
        }
    }
}

/// The list that a text is in JSON: how one is written whose items hold commas.
fn json_list(text: &str) -> Option<PropertyValue> {
    if !text.starts_with('[') {
        return None;
    }
    let json: Json = serde_json::from_str(text).ok()?;
    Some(PropertyValue::from(&json))
}

fn as_u64(value: &PropertyValue, parse: fn(&str) -> Option<u64>) -> Option<u64> {
    match value {
        PropertyValue::Uint(number) => Some(*number),
        PropertyValue::Int(number) => u64::try_from(*number).ok(),
        PropertyValue::Str(text) => parse(text),
        _ => None,
    }
}

fn as_i64(value: &PropertyValue) -> Option<i64> {
    match value {
        PropertyValue::Int(number) => Some(*number),
        PropertyValue::Uint(number) => i64::try_from(*number).ok(),
        PropertyValue::Str(text) => match text.strip_prefix('-') {
            Some(magnitude) => 0i64.checked_sub_unsigned(parse_number(magnitude)?),
            None => i64::try_from(parse_number(text)?).ok(),
        },
        _ => None,
    }
}

/// Decimal, or hexadecimal after `0x`. No sign, no spaces.
fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn parse_size(text: &str) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return parse_number(text);
    }
    let upper = text.to_ascii_uppercase();
    let upper = upper.strip_suffix("IB").unwrap_or(&upper);
    let shift = match upper.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return parse_number(upper),
    };
    parse_number(&upper[..upper.len() - 1])?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PropertyKind = PropertyKind::Uint {
        bits: 16,
        min: 0x10,
        max: 0x3ff,
    };
    const SIZE: PropertyKind = PropertyKind::Size { min: 0, max: u64::MAX };

    fn text(text: &str) -> PropertyValue {
        PropertyValue::Str(text.to_owned())
    }

    #[test]
    fn numbers_are_read_in_decimal_and_hexadecimal_and_kept_in_range() {
        assert_eq!(PORT.accept(&text("0x3f8")), Some(PropertyValue::Uint(0x3f8)));
        assert_eq!(PORT.accept(&text("1016")), PORT.accept(&PropertyValue::Int(1016)));
        for refused in [
            "",
            "0x",
            "+1016",
            "0x400",
            "15",
            "1016 ",
            "-1016",
            "99999999999999999999",
        ] {
            assert_eq!(PORT.accept(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn signed_numbers_reach_both_ends_of_their_range() {
        let kind = PropertyKind::Int {
            bits: 64,
            min: i64::MIN,
            max: i64::MAX,
        };
        assert_eq!(
            kind.accept(&text("-9223372036854775808")),
            Some(PropertyValue::Int(i64::MIN))
        );
        assert_eq!(kind.accept(&text("-9223372036854775809")), None);
        assert_eq!(kind.accept(&PropertyValue::Uint(u64::MAX)), None);
    }

    #[test]
    fn sizes_take_suffixes_and_do_not_overflow() {
        assert_eq!(SIZE.accept(&text("256M")), Some(PropertyValue::Uint(256 << 20)));
        assert_eq!(SIZE.accept(&text("1gib")), Some(PropertyValue::Uint(1 << 30)));
        for refused in ["M", "1X", "99999999T", "ÄM", "1ß"] {
            assert_eq!(SIZE.accept(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn json_and_values_are_converted_without_loss() {
        for value in [
            PropertyValue::Null,
            PropertyValue::Bool(true),
            PropertyValue::Uint(u64::MAX),
            PropertyValue::Int(-1),
            PropertyValue::List(vec![text("a"), PropertyValue::Uint(1)]),
        ] {
            assert_eq!(PropertyValue::from(&Json::from(&value)), value);
        }
    }

    #[test]
    fn what_no_property_takes_is_what_was_written_and_of_no_kind() {
        for written in [
            "2.0",
            "-1.5",
            r#"{"a":[1,null]}"#,
            "18446744073709551616",
            "-18446744073709551616",
        ] {
            let json: serde_json::Value = serde_json::from_str(written).expect("JSON");
            let value = PropertyValue::from(&json);
            assert_eq!(value.to_string(), written);
            for kind in [
                PORT,
                SIZE,
                PropertyKind::Bool,
                PropertyKind::Str,
                PropertyKind::List(Box::new(PORT)),
            ] {
                assert_eq!(kind.accept(&value), None, "{kind}");
                let list = PropertyKind::List(Box::new(kind));
                assert_eq!(list.accept(&PropertyValue::List(vec![value.clone()])), None, "{list}");
            }
        }
    }
}
