//! What a user may say after `--console`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where the guest's console is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// The VMM's own standard input and output.
    #[default]
    Stdio,
    /// A unix socket that the VMM listens on; one client at a time.
    Unix(PathBuf),
    /// A pseudo-terminal that is made for it, whose name the user is told.
    Pty,
    /// A file, for output alone. It begins empty.
    File(PathBuf),
    /// Nowhere: output is dropped, and there is no input.
    Null,
}

/// A console that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no console; it can be stdio, pty, unix:PATH, file:PATH or null")]
pub struct ConsoleSpecError(String);

impl FromStr for ConsoleSpec {
    type Err = ConsoleSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "pty" => Ok(Self::Pty),
            None if text == "null" => Ok(Self::Null),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(Path::new(path).to_owned())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(Path::new(path).to_owned())),
            _ => Err(ConsoleSpecError(text.to_owned())),
        }
    }
}

impl fmt::Display for ConsoleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Pty => f.write_str("pty"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Null => f.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_is_read_as_it_is_written() {
        for text in ["stdio", "null", "pty", "unix:/run/x:y", "file:log", "file:/x:y"] {
            assert_eq!(text.parse::<ConsoleSpec>().expect("a console").to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_choices() {
        for text in ["", "unix:", "pty:", "stdio:", "file:", "vc"] {
            let error = text.parse::<ConsoleSpec>().expect_err("no console");
            assert!(
                error.to_string().contains("stdio, pty, unix:PATH, file:PATH or null"),
                "{error}"
            );
        }
    }
}
