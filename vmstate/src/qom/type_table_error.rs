//! Why declarations do not make a type table.

use super::Phase;

/// Why declarations do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeTableError {
    /// Two declarations of one name.
    #[error("type '{name}' is declared twice: at {first} and at {second}")]
    Duplicate {
        /// The name.
        name: &'static str,
        /// One place.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A name that cannot be typed or sent.
    #[error("type '{name}' at {at} has no good name: use lower-case letters, digits, '-', '_' and '.'")]
    BadName {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
    },
    /// A type extends one that nobody declares.
    #[error("type '{name}' at {at} extends '{parent}', which is not declared anywhere (is its crate linked in?)")]
    MissingParent {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The name that is missing.
        parent: &'static str,
    },
    /// A type extends or implements one that takes effect after it.
    #[error(
        "type '{name}' at {at} takes effect in phase {phase:?}, before '{later}', on which it builds, in phase {later_phase:?}"
    )]
    LaterPhase {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// Its phase.
        phase: Phase,
        /// What it extends or implements.
        later: &'static str,
        /// The phase of that.
        later_phase: Phase,
    },
    /// A type has no parent, or one of the wrong kind.
    #[error("type '{name}' at {at} cannot extend {parent}: interfaces extend interfaces and other types do not")]
    WrongParent {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The parent and its place, or "nothing".
        parent: String,
    },
    /// Types extend one another in a circle.
    #[error("types extend one another in a circle: {circle}")]
    ParentCycle {
        /// Every type of the circle with its place.
        circle: String,
    },
    /// A type implements an interface that nobody declares.
    #[error("type '{name}' at {at} implements '{interface}', which is not declared anywhere (is its crate linked in?)")]
    MissingInterface {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The name that is missing.
        interface: &'static str,
    },
    /// A type implements something that is no interface.
    #[error("type '{name}' at {at} implements '{interface}', which is no interface (declared at {declared_at})")]
    NoInterface {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// What it names.
        interface: &'static str,
        /// Where that is declared.
        declared_at: &'static str,
    },
    /// An interface has what only instances have.
    #[error("interface '{name}' at {at} has {what}, but interfaces have no instances")]
    InterfaceWithInstances {
        /// The name.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// What it has.
        what: &'static str,
    },
    /// A property exists already, in the type or above it.
    #[error("property '{property}' of type '{name}' at {at} exists already, in type '{other}' at {other_at}")]
    DuplicateProperty {
        /// The type.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The property.
        property: String,
        /// The type that has it first.
        other: &'static str,
        /// Where that is declared.
        other_at: &'static str,
    },
    /// A property cannot be what it says.
    #[error("property '{property}' of type '{name}' at {at}: {reason}")]
    BadProperty {
        /// The type.
        name: &'static str,
        /// Where it is declared.
        at: &'static str,
        /// The property.
        property: String,
        /// What is wrong.
        reason: String,
    },
}
