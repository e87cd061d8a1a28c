//! One client's conversation. Bytes in, bytes out: no sockets here.

use serde_json::json;

use super::{
    commands::execute,
    framer::{Frame, Framer},
    qmp::{self, ErrorClass, QmpError, Request},
};
use crate::control::Control;

/// What the server does with the client after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Answered; there may be more.
    Answered,
    /// The bytes so far hold no further request.
    WaitForBytes,
    /// The client is not worth listening to: send what is queued and hang up.
    HangUp,
}

/// One client's conversation.
#[derive(Debug, Default)]
pub(super) struct Session {
    framer: Framer,
    negotiated: bool,
    awaits_the_end: bool,
}

impl Session {
    /// Adds bytes from the client.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// Whether the client is to be told of events: not before it has negotiated.
    pub(super) fn hears_events(&self) -> bool {
        self.negotiated
    }

    /// Whether the client has asked how a migration goes that was not over, and has not heard of its end by asking again. That is how
    /// clients made for QEMU wait for it: there, the source is still there to be asked.
    pub(super) fn awaits_the_end(&self) -> bool {
        self.awaits_the_end
    }

    /// Answers the next request, if there is a whole one; the answer goes to `send`.
    pub(super) fn answer_next(&mut self, vm: &dyn Control, send: impl FnOnce(&[u8])) -> Next {
        match self.framer.next() {
            None => Next::WaitForBytes,
            Some(Frame::Object(text)) => {
                let (id, request) = qmp::read_request(&text);
                send(&qmp::reply(id, request.and_then(|request| self.carry_out(vm, request))));
                Next::Answered
            }
            Some(Frame::Garbage) => {
                let error = QmpError::generic("JSON parse error, expected an object");
                send(&qmp::reply(None, Err(error)));
                Next::Answered
            }
            Some(Frame::Unbearable(why)) => {
                send(&qmp::reply(None, Err(QmpError::generic(why))));
                Next::HangUp
            }
        }
    }

    fn carry_out(&mut self, vm: &dyn Control, request: Request) -> Result<serde_json::Value, QmpError> {
        const NEGOTIATION: &str = "qmp_capabilities";
        match (self.negotiated, request.command == NEGOTIATION) {
            (true, false) => {
                let answer = execute(vm, &request.command, request.arguments);
                match request.command.as_str() {
                    "query-migrate" => self.awaits_the_end = answer.as_ref().is_ok_and(is_under_way),
                    "quit" => self.awaits_the_end = false,
                    _ => {}
                }
                answer
            }
            (false, false) => Err(QmpError::new(
                ErrorClass::CommandNotFound,
                format!("Expecting capabilities negotiation with '{NEGOTIATION}'"),
            )),
            (true, true) => Err(QmpError::new(
                ErrorClass::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            )),
            (false, true) => {
                for (name, value) in &request.arguments {
                    match (name.as_str(), value.as_array()) {
                        ("enable", Some(wanted)) if wanted.is_empty() => {}
                        ("enable", Some(wanted)) => {
                            let message = format!("Capability {} is not offered", wanted[0]);
                            return Err(QmpError::generic(message));
                        }
                        ("enable", None) => {
                            return Err(QmpError::generic(
                                "Invalid parameter type for 'enable', expected: array",
                            ));
                        }
                        _ => return Err(QmpError::generic(format!("Parameter '{name}' is unexpected"))),
                    }
                }
                self.negotiated = true;
                Ok(json!({}))
            }
        }
    }
}

/// Whether an answer to `query-migrate` tells of a migration that is not over.
fn is_under_way(answer: &serde_json::Value) -> bool {
    let status = answer["status"].as_str();
    status.is_some_and(|status| !["completed", "failed", "cancelled"].contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_vm::FakeVm;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Says `bytes` to a session, and returns its answers and whether it hung up.
    fn say(session: &mut Session, vm: &FakeVm, bytes: &[u8]) -> (Vec<Value>, bool) {
        session.push(bytes);
        let mut answers = Vec::new();
        loop {
            let next = session.answer_next(vm, |line| answers.push(serde_json::from_slice(line).expect("JSON")));
            match next {
                Next::Answered => {}
                Next::WaitForBytes => return (answers, false),
                Next::HangUp => return (answers, true),
            }
        }
    }

    #[test]
    fn nothing_but_negotiation_comes_first_and_it_comes_once() {
        let (mut session, vm) = (Session::default(), FakeVm::default());
        let (answers, _) = say(&mut session, &vm, br#"{"execute":"stop"}"#);
        assert_eq!(answers[0]["error"]["class"], "CommandNotFound");
        assert!(!session.hears_events());
        let (answers, _) = say(&mut session, &vm, br#"{"execute":"qmp_capabilities","id":1}"#);
        assert_eq!(answers, [json!({ "return": {}, "id": 1 })]);
        assert!(session.hears_events());
        let (answers, _) = say(&mut session, &vm, br#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(answers[0]["error"]["class"], "CommandNotFound");
        assert_eq!(vm.asked(), []);
    }

    #[test]
    fn a_capability_that_was_not_offered_cannot_be_enabled() {
        let (mut session, vm) = (Session::default(), FakeVm::default());
        for arguments in [r#"{"enable":["oob"]}"#, r#"{"enable":true}"#, r#"{"disable":[]}"#] {
            let request = format!(r#"{{"execute":"qmp_capabilities","arguments":{arguments}}}"#);
            let (answers, _) = say(&mut session, &vm, request.as_bytes());
            assert_eq!(answers[0]["error"]["class"], "GenericError", "{arguments}");
            assert!(!session.hears_events());
        }
        say(
            &mut session,
            &vm,
            br#"{"execute":"qmp_capabilities","arguments":{"enable":[]}}"#,
        );
        assert!(session.hears_events());
    }

    #[test]
    fn requests_are_answered_in_order_with_their_ids() {
        let (mut session, vm) = (Session::default(), FakeVm::default());
        let (answers, _) = say(
            &mut session,
            &vm,
            br#"{"execute":"qmp_capabilities","id":"a"}{"execute":"query-status","id":{"b":2}}
               nonsense
               {"execute":"query-name","id":null}"#,
        );
        let ids: Vec<_> = answers.iter().map(|answer| answer.get("id").cloned()).collect();
        assert_eq!(
            ids,
            [Some(json!("a")), Some(json!({ "b": 2 })), None, Some(Value::Null)]
        );
        assert_eq!(answers[3]["return"]["name"], "fake");
    }

    #[test]
    fn a_client_that_sends_without_end_is_hung_up_on() {
        let (mut session, vm) = (Session::default(), FakeVm::default());
        let (answers, hung_up) = say(&mut session, &vm, &[b"{\"".as_slice(), &[b'a'; 70_000]].concat());
        assert!(hung_up);
        assert!(answers[0]["error"]["desc"].as_str().expect("text").contains("64 KiB"));
    }

    proptest! {
        #[test]
        fn any_bytes_get_answers_or_silence_and_never_touch_the_vm(
            bytes in proptest::collection::vec(any::<u8>(), 0..500), negotiated: bool,
        ) {
            let (mut session, vm) = (Session { negotiated, ..Session::default() }, FakeVm::default());
            say(&mut session, &vm, &bytes);
            prop_assert_eq!(vm.asked(), []);
        }
    }
}
