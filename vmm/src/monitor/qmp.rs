//! QMP's messages as JSON.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{json, replies};
use crate::control::{ControlError, Event, JobId};

/// The class of an error, as far as QMP tells errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    Generic,
    CommandNotFound,
    DeviceNotFound,
}

impl ErrorClass {
    fn name(self) -> &'static str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
        }
    }
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QmpError {
    pub(super) class: ErrorClass,
    pub(super) description: String,
}

impl QmpError {
    pub(super) fn new(class: ErrorClass, description: impl Into<String>) -> Self {
        Self {
            class,
            description: description.into(),
        }
    }

    pub(super) fn generic(description: impl Into<String>) -> Self {
        Self::new(ErrorClass::Generic, description)
    }
}

impl From<ControlError> for QmpError {
    fn from(error: ControlError) -> Self {
        let class = match error {
            ControlError::Change { not_found: true, .. } => ErrorClass::DeviceNotFound,
            _ => ErrorClass::Generic,
        };
        Self::new(class, error.to_string())
    }
}

/// A request whose envelope is sound; its arguments have not been looked at.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) command: String,
    pub(super) arguments: Map<String, Value>,
}

/// Reads a request. The id comes first, because an error must carry it too.
pub(super) fn read_request(text: &[u8]) -> (Option<Value>, Result<Request, QmpError>) {
    let mut object = match json::parse(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return (None, Err(QmpError::generic("QMP input must be a JSON object"))),
        Err(error) => return (None, Err(QmpError::generic(format!("JSON parse error, {error}")))),
    };
    let id = object.remove("id");
    (id, read_envelope(object))
}

fn read_envelope(mut object: Map<String, Value>) -> Result<Request, QmpError> {
    let command = match object.remove("execute") {
        Some(Value::String(command)) => command,
        Some(_) => return Err(QmpError::generic("QMP input member 'execute' must be a string")),
        None if object.contains_key("exec-oob") => {
            return Err(QmpError::generic(
                "QMP input member 'exec-oob' is unexpected: no command runs out of band",
            ));
        }
        None => return Err(QmpError::generic("QMP input lacks member 'execute'")),
    };
    let arguments = match object.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(QmpError::generic("QMP input member 'arguments' must be an object")),
    };
    match object.keys().next() {
        Some(key) => Err(QmpError::generic(format!("QMP input member '{key}' is unexpected"))),
        None => Ok(Request { command, arguments }),
    }
}

/// A reply: what a command returned or why it did not, with the request's id if it had one.
pub(super) fn reply(id: Option<Value>, result: Result<Value, QmpError>) -> Vec<u8> {
    let mut reply = Map::new();
    match result {
        Ok(value) => reply.insert("return".into(), value),
        Err(error) => reply.insert(
            "error".into(),
            json!({ "class": error.class.name(), "desc": error.description }),
        ),
    };
    if let Some(id) = id {
        reply.insert("id".into(), id);
    }
    encode(&Value::Object(reply))
}

/// What a client is told first.
pub(super) fn greeting() -> Vec<u8> {
    encode(&json!({ "QMP": { "version": version(), "capabilities": [] } }))
}

/// The version as QMP gives it. The member is called `qemu` because clients look for it there; the numbers are Tern's.
#[must_use]
pub fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("tern ", env!("CARGO_PKG_VERSION")),
    })
}

/// An event as clients are told it, or `None` for one that is not for them.
pub(super) fn event(event: &Event, at: SystemTime) -> Option<Vec<u8>> {
    let (name, data) = match event {
        Event::Stop => ("STOP", None),
        Event::Resume => ("RESUME", None),
        Event::Shutdown(reason) => (
            "SHUTDOWN",
            Some(json!({ "guest": reason.by_guest(), "reason": reason.qmp_name() })),
        ),
        Event::Reset { reason, .. } => (
            "RESET",
            Some(json!({ "guest": reason.by_guest(), "reason": reason.qmp_name() })),
        ),
        Event::Powerdown => ("POWERDOWN", None),
        Event::GuestPanicked => ("GUEST_PANICKED", Some(json!({ "action": "poweroff" }))),
        Event::GuestCrashLoaded => ("GUEST_CRASHLOADED", Some(json!({ "action": "run" }))),
        Event::CannotGoOn { why } => ("GUEST_PANICKED", Some(json!({ "action": "pause", "x-tern-why": why }))),
        Event::DeviceDeleted { device, path } => ("DEVICE_DELETED", Some(of_device(device.as_deref(), path))),
        Event::DeviceStays { device, path } => ("DEVICE_UNPLUG_GUEST_ERROR", Some(of_device(device.as_deref(), path))),
        Event::Migration(account) => {
            let mut data = json!({ "status": account.status.qmp_name() });
            if let Some(JobId(job)) = account.job {
                data["x-tern-job"] = job.into();
            }
            // How it went goes along with the news that it is over: where the guest has been handed over, this process ends
            // before anybody could ask.
            if account.status.is_final() {
                data["x-tern-result"] = replies::migration(account);
            }
            ("MIGRATION", Some(data))
        }
        Event::MigrationPass { job: JobId(job), pass } => {
            ("MIGRATION_PASS", Some(json!({ "pass": pass, "x-tern-job": job })))
        }
        Event::Ended => return None,
    };
    // A clock before 1970 is nobody's.
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut message = Map::new();
    message.insert("event".into(), name.into());
    if let Some(data) = data {
        message.insert("data".into(), data);
    }
    let timestamp = json!({ "seconds": at.as_secs(), "microseconds": at.subsec_micros() });
    message.insert("timestamp".into(), timestamp);
    Some(encode(&Value::Object(message)))
}

fn of_device(id: Option<&str>, path: &str) -> Value {
    let mut data = json!({ "path": path });
    if let Some(id) = id {
        data["device"] = id.into();
    }
    data
}

/// One line of ASCII, ended as QMP ends lines.
fn encode(message: &Value) -> Vec<u8> {
    let mut line = String::new();
    for character in message.to_string().chars() {
        if character.is_ascii() {
            line.push(character);
            continue;
        }
        // JSON writes what ASCII lacks as UTF-16. The serializer leaves such characters only inside strings.
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String does not fail.
            let _ = write!(line, "\\u{unit:04x}");
        }
    }
    line.push_str("\r\n");
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{MigrationInfo, MigrationStatus, ShutdownReason};
    use std::{sync::Arc, time::Duration};

    fn refused(text: &str) -> String {
        read_request(text.as_bytes()).1.expect_err(text).description
    }

    #[test]
    fn a_request_is_taken_apart() {
        let (id, request) = read_request(br#"{"execute":"migrate","arguments":{"uri":"tcp:h:1"},"id":[7]}"#);
        assert_eq!(id, Some(json!([7])));
        let request = request.expect("a sound request");
        assert_eq!(request.command, "migrate");
        assert_eq!(Value::Object(request.arguments), json!({ "uri": "tcp:h:1" }));
    }

    #[test]
    fn an_unsound_envelope_is_refused_with_the_member_named() {
        assert!(refused("{]").starts_with("JSON parse error"));
        let twice = refused(r#"{"execute":"query-status","execute":"quit"}"#);
        assert!(twice.contains(r#""execute" is given twice"#), "{twice}");
        let twice = refused(r#"{"execute":"migrate","arguments":{"uri":"tcp:h:1","uri":"tcp:h:2"}}"#);
        assert!(twice.contains(r#""uri" is given twice"#), "{twice}");
        assert_eq!(refused("{}"), "QMP input lacks member 'execute'");
        assert_eq!(
            refused(r#"{"execute":1}"#),
            "QMP input member 'execute' must be a string"
        );
        assert_eq!(
            refused(r#"{"execute":"x","arguments":[]}"#),
            "QMP input member 'arguments' must be an object"
        );
        assert_eq!(
            refused(r#"{"execute":"x","control":{}}"#),
            "QMP input member 'control' is unexpected"
        );
        assert!(refused(r#"{"exec-oob":"x"}"#).contains("exec-oob"));
    }

    #[test]
    fn an_error_carries_the_id_even_where_the_request_is_unsound() {
        let (id, request) = read_request(br#"{"id":"a","execute":1}"#);
        let line = reply(id, request.map(|_| Value::Null));
        let line: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(line["id"], "a");
        assert_eq!(line["error"]["class"], "GenericError");
    }

    #[test]
    fn lines_are_ascii_and_mean_the_same() {
        let line = reply(None, Ok(json!("dérive 🐦\n")));
        assert!(line.is_ascii() && line.ends_with(b"\r\n"));
        let back: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(back["return"], "dérive 🐦\n");
    }

    #[test]
    fn events_have_qemus_names_data_and_timestamps() {
        let at = UNIX_EPOCH + Duration::from_micros(5_000_007);
        let read = |what| -> Value { serde_json::from_slice(&event(&what, at).expect("for clients")).expect("JSON") };
        assert_eq!(
            read(Event::Shutdown(ShutdownReason::GuestShutdown)),
            json!({ "event": "SHUTDOWN", "data": { "guest": true, "reason": "guest-shutdown" }, "timestamp": { "seconds": 5, "microseconds": 7 } })
        );
        let reached = |status| {
            Event::Migration(Arc::new(MigrationInfo {
                job: Some(JobId(7)),
                status,
                ..MigrationInfo::default()
            }))
        };
        assert_eq!(
            read(reached(MigrationStatus::Active))["data"],
            json!({ "status": "active", "x-tern-job": 7 })
        );
        assert_eq!(
            read(reached(MigrationStatus::Completed))["data"],
            json!({ "status": "completed", "x-tern-job": 7, "x-tern-result": { "status": "completed", "x-tern-job": 7 } })
        );
        let panicked = read(Event::GuestPanicked);
        assert_eq!(panicked["event"], "GUEST_PANICKED");
        assert_eq!(panicked["data"], json!({ "action": "poweroff" }));
        assert_eq!(read(Event::GuestCrashLoaded)["data"], json!({ "action": "run" }));
        assert_eq!(read(Event::Stop).get("data"), None);
        assert_eq!(read(Event::Powerdown)["event"], "POWERDOWN");
        let pass = read(Event::MigrationPass { job: JobId(7), pass: 2 });
        assert_eq!(pass["event"], "MIGRATION_PASS");
        assert_eq!(pass["data"], json!({ "pass": 2, "x-tern-job": 7 }));
        assert_eq!(event(&Event::Ended, at), None);
    }
}
