//! The prompt at a terminal: a line editor, and the VM's events above the line that is being typed.

use std::{
    fmt::Display,
    fs::DirBuilder,
    io::{Write, stdin, stdout},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process, thread,
    time::Duration,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::{
    CompletionType, Config, Context, Editor, ExternalPrinter, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::FileHistory, validate::Validator,
};
use serde_json::{Value, json};

use super::{
    super::{error::CliError, follow::Talk, messages::Messages},
    carry_out,
    complete::complete,
};
use crate::monitor::{
    client::{Client, ClientError},
    place::VmAddress,
};

/// So many lines are kept for later.
const REMEMBERED: usize = 1000;

/// How long an event is waited for at a time.
const LOOK: Duration = Duration::from_secs(60);

/// Asks for commands until the user leaves or the VM has ended.
pub(super) fn converse(address: &VmAddress, messages: Messages) -> Result<(), CliError> {
    let (name, events) = connect(address)?;
    let mut editor = editor(address)?;
    let history = history_file();
    if let Some(file) = &history {
        // There is none before the first line was ever typed.
        let _ = editor.load_history(file);
    }
    tell_events(&mut editor, events, name.clone(), messages)?;
    if !messages.is_json() {
        say(format_args!(
            "Tern {} monitor of {name} - type 'help' for the commands",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let prompt = format!("({name}) ");
    loop {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            // As a shell: the line is given up.
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => continue,
            Err(_) => return Ok(()),
        };
        if !line.trim().is_empty() && editor.add_history_entry(&line).unwrap_or_default() {
            // A full disk costs the history and nothing else.
            let _ = history.as_ref().map(|file| editor.append_history(file));
        }
        match carry_out(address, &line, messages) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if messages.is_json() => messages.error(&error),
            // Whose error it is the prompt says already.
            Err(CliError::Vm { error, .. }) => say(format_args!("Error: {error}")),
            Err(error) => say(format_args!("Error: {error}")),
        }
    }
}

/// A line for the user; one whose terminal has gone wants no more.
fn say(text: impl Display) {
    let _ = writeln!(stdout(), "{text}");
}

/// The VM's name, and a connection for its events.
fn connect(address: &VmAddress) -> Result<(String, Client), CliError> {
    let failed = |error| CliError::of_vm(address, error);
    let mut client = Client::connect(&address.socket()?).map_err(failed)?;
    let name = client.execute("query-name", json!({})).map_err(failed)?;
    Ok((name["name"].as_str().unwrap_or("vm").to_owned(), client))
}

fn editor(address: &VmAddress) -> Result<Editor<Helper, FileHistory>, CliError> {
    let unusable = |error: ReadlineError| CliError::Process(std::io::Error::other(error));
    let config = Config::builder()
        .max_history_size(REMEMBERED)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(unusable)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        // It would be left on in a terminal whose VM ends meanwhile.
        .bracketed_paste(false)
        .build();
    let mut editor = Editor::with_config(config).map_err(unusable)?;
    editor.set_helper(Some(Helper(address.clone())));
    Ok(editor)
}

/// Where the lines of earlier prompts are: in the user's state folder, as the XDG specification has it.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("tern");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    Some(folder.join("monitor-history"))
}

/// Shows events as they come, and ends the process with the VM: the line editor waits for keys and for nothing else.
fn tell_events(
    editor: &mut Editor<Helper, FileHistory>,
    mut events: Client,
    name: String,
    messages: Messages,
) -> Result<(), CliError> {
    let terminal = tcgetattr(stdin()).map_err(|error| CliError::Process(error.into()))?;
    // A terminal without the means gets them all the same, wherever its cursor is.
    let mut printer = editor.create_external_printer().ok();
    let tell = move || {
        let error = loop {
            match events.next_event(LOOK) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    let line = format!("{}\n", shown(&event, messages.is_json()));
                    let above = printer
                        .as_mut()
                        .is_some_and(|printer| printer.print(line.clone()).is_ok());
                    if !above {
                        let _ = stdout().write_all(line.as_bytes());
                    }
                }
                Err(error) => break error,
            }
        };
        end(&terminal, &name, &error, messages);
    };
    thread::Builder::new()
        .name("monitor-events".to_owned())
        .spawn(tell)
        .map_err(CliError::Process)?;
    Ok(())
}

/// Says that there is no VM any more, restores the terminal and ends the process.
fn end(terminal: &Termios, name: &str, error: &ClientError, messages: Messages) -> ! {
    let _ = tcsetattr(stdin(), OptionalActions::Now, terminal);
    let why = match error {
        ClientError::Closed => String::new(),
        other => format!(": {other}"),
    };
    if !messages.is_json() {
        say("");
    }
    messages.news("ended", format_args!("{name} is gone{why}"), json!({ "name": name }));
    process::exit(0)
}

/// An event as a line: `[SHUTDOWN guest=true reason=guest-shutdown]`.
fn shown(event: &Value, json: bool) -> String {
    if json {
        return event.to_string();
    }
    let mut text = event["event"].as_str().unwrap_or("?").to_owned();
    for (name, value) in event["data"].as_object().into_iter().flatten() {
        match value {
            Value::String(value) => text.push_str(&format!(" {name}={value}")),
            // The account of a migration; "info migrate" has it.
            Value::Object(_) | Value::Array(_) => {}
            value => text.push_str(&format!(" {name}={value}")),
        }
    }
    format!("[{text}]")
}

/// Completes from what the VM is made of.
struct Helper(VmAddress);

impl rustyline::Helper for Helper {}
impl Highlighter for Helper {}
impl Validator for Helper {}
impl Hinter for Helper {
    type Hint = String;
}

impl Completer for Helper {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let mut talk = None;
        let mut ask = |command: &str, arguments| {
            let talk = match &mut talk {
                Some(talk) => talk,
                none => none.insert(Talk::to(&self.0)?),
            };
            talk.ask(command, arguments)
        };
        Ok(complete(line.get(..cursor).unwrap_or(line), &mut ask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_with_what_it_says_and_without_whole_accounts() {
        let event =
            json!({ "event": "SHUTDOWN", "data": { "guest": true, "reason": "guest-shutdown" }, "timestamp": {} });
        assert_eq!(shown(&event, false), "[SHUTDOWN guest=true reason=guest-shutdown]");
        assert_eq!(shown(&json!({ "event": "STOP" }), false), "[STOP]");
        let event =
            json!({ "event": "MIGRATION", "data": { "status": "failed", "x-tern-result": { "status": "failed" } } });
        assert_eq!(shown(&event, false), "[MIGRATION status=failed]");
        assert_eq!(shown(&event, true), event.to_string());
    }
}
