//! The names of children, and why an object gets no place under one.

/// The longest name of a child, in bytes.
const MAX_NAME: usize = 128;

/// Why an object could not be put into the tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddChildError {
    /// The name cannot be part of a path.
    #[error("'{name}' cannot be the name of an object: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The parent has a child or a property of that name.
    #[error("{parent} already has a {what} '{name}'; choose another name")]
    NameTaken {
        /// The path of the parent.
        parent: String,
        /// "child" or "property".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An object has one place; take it out of the old one first.
    #[error("the object to be added as '{name}' is already in the tree, at {at}")]
    HasPlace {
        /// Its new name.
        name: String,
        /// Where it is.
        at: String,
    },
    /// The parent lies below the child, or is the child.
    #[error("'{name}' would become its own ancestor")]
    Cycle {
        /// The name.
        name: String,
    },
    /// The name asks for a number, and what it would be given to has state.
    #[error(
        "'{name}' cannot be numbered automatically: what has state is named in what is saved, so give it a name of its own"
    )]
    Stateful {
        /// The name.
        name: String,
    },
    /// The parent is being finalised.
    #[error("the object that would own '{name}' is being finalised")]
    ParentGone {
        /// The name.
        name: String,
    },
}

impl AddChildError {
    pub(super) fn stateful(name: &str) -> Self {
        Self::Stateful { name: name.to_owned() }
    }
}

/// Checks that `id` can be what a user calls an object or a device, as QEMU has it: it begins with a letter and holds letters,
/// digits, `-`, `.` and `_`.
///
/// # Errors
///
/// [`AddChildError::BadName`], also where [`check_child_name`] refuses.
pub fn check_id(id: &str) -> Result<(), AddChildError> {
    check_child_name(id)?;
    let mut characters = id.chars();
    let begins = characters.next().is_some_and(|first| first.is_ascii_alphabetic());
    if begins && characters.all(|one| one.is_ascii_alphanumeric() || matches!(one, '-' | '.' | '_')) {
        return Ok(());
    }
    Err(AddChildError::BadName {
        name: id.to_owned(),
        reason: "an id begins with a letter and holds letters, digits, '-', '.' and '_'",
    })
}

/// Checks that `name` can be a component of a path. What ends in `[*]` asks for a number, and is no name yet.
///
/// # Errors
///
/// [`AddChildError::BadName`] for an empty name, one that holds `/` or a control character, `.`, `..`, one that ends in
/// `[*]`, and one longer than 128 bytes.
pub fn check_child_name(name: &str) -> Result<(), AddChildError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 128 bytes"
    } else if name == "." || name == ".." {
        "it is reserved"
    } else if name.contains('/') {
        "it holds '/'"
    } else if name.contains(char::is_control) {
        "it holds a control character"
    } else if name.ends_with("[*]") {
        "it ends in '[*]', which asks for a number"
    } else {
        return Ok(());
    };
    Err(AddChildError::BadName {
        name: name.to_owned(),
        reason,
    })
}
