//! What `vm` says: results on stdout, everything else on stderr, for people or in JSON.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde_json::{Value, json};

use super::error::CliError;

/// How `vm` says things.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    json: bool,
}

impl Messages {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// The result of a command, for stdout. A reader that has gone wants no more; a disk that is full has to be told of, for what was
    /// written is not whole.
    pub(super) fn result(self, text: impl Display, value: &Value) -> Result<(), CliError> {
        let line = if self.json {
            format!("{value}\n")
        } else {
            format!("{text}\n")
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
            _ => Ok(()),
        }
    }

    /// News of a VM in the foreground, for stderr, beside the guest's console.
    pub(super) fn news(self, event: &str, text: impl Display, fields: Value) {
        say(&self.news_line(event, text, fields));
    }

    fn news_line(self, event: &str, text: impl Display, mut fields: Value) -> String {
        if self.json {
            fields["event"] = event.into();
            fields.to_string()
        } else {
            format!("vm: {text}")
        }
    }

    /// What only people are told, on stderr beside a result.
    pub(super) fn hint(self, text: impl Display) {
        if !self.json {
            say(&format!("vm: {text}"));
        }
    }

    /// A bare line for stderr that scripts take as it is.
    pub(super) fn line(self, event: &str, text: &str, fields: Value) {
        if self.json {
            self.news(event, text, fields);
        } else {
            say(text);
        }
    }

    /// Whether a user sits at a terminal and reads it.
    pub(super) fn shows_progress(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Why the command failed.
    pub(super) fn error(self, error: &CliError) {
        say(&self.error_line(error));
    }

    /// What [`Self::error`] says.
    pub(super) fn error_line(self, error: &CliError) -> String {
        let fields = json!({ "error": error.to_string(), "exit-code": error.exit_code().code() });
        self.news_line("error", error, fields)
    }
}

/// A line on stderr, in one write, so that it stays whole beside what others write there.
fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
