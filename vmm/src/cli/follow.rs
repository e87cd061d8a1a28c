//! Talking to a running VM, and following a migration or snapshot until it is over.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::CliError;
use crate::{
    control::MigrationStatus,
    monitor::{
        client::{Client, ClientError},
        place::VmAddress,
    },
};

/// Progress is looked at so often.
const LOOK: Duration = Duration::from_millis(200);

/// A running VM, as a command talks to it.
pub(super) struct Talk {
    address: VmAddress,
    client: Client,
}

impl Talk {
    /// Connects to a running VM.
    pub(super) fn to(address: &VmAddress) -> Result<Self, CliError> {
        let client = Client::connect(&address.socket()?).map_err(|error| CliError::of_vm(address, error))?;
        Ok(Self {
            address: address.clone(),
            client,
        })
    }

    /// Has the VM do something.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, CliError> {
        self.client
            .execute(command, arguments)
            .map_err(|error| CliError::of_vm(&self.address, error))
    }

    /// Waits for the VM's process to let go of the connection.
    pub(super) fn wait_for_the_end(self, patience: Duration) -> bool {
        self.client.wait_for_the_end(patience)
    }

    /// Starts a migration or snapshot with `command` and waits until it is over: that one, whatever others were there before or come
    /// after it. Returns what "query-migrate" says in the end, which is that it completed.
    pub(super) fn follow(
        &mut self,
        what: &str,
        command: &str,
        arguments: Value,
        watcher: &mut dyn Watcher,
    ) -> Result<Value, CliError> {
        let job = self.ask(command, arguments)?["x-tern-job"].take();
        if !job.is_u64() {
            let error = ClientError::NotQmp(format!("its answer to {command:?} names no job"));
            return Err(CliError::of_vm(&self.address, error));
        }
        self.follow_job(what, &job, watcher)
    }

    /// As [`Self::follow`], for what somebody else has started and is under way now.
    pub(super) fn follow_under_way(&mut self, what: &str, watcher: &mut dyn Watcher) -> Result<Value, CliError> {
        let state = self.ask("query-migrate", json!({}))?;
        let status = status_of(&state);
        if status == MigrationStatus::None || status.is_final() {
            return Err(CliError::NothingUnderWay(self.address.clone()));
        }
        watcher.look(&state);
        self.follow_job(what, &state["x-tern-job"], watcher)
    }

    fn follow_job(&mut self, what: &str, job: &Value, watcher: &mut dyn Watcher) -> Result<Value, CliError> {
        let result = self.wait_until_over(what, job, watcher);
        watcher.end(result.as_ref().ok());
        self.judge(what, result?)
    }

    fn wait_until_over(&mut self, what: &str, job: &Value, watcher: &mut dyn Watcher) -> Result<Value, CliError> {
        loop {
            match self.client.next_event(LOOK) {
                Ok(Some(mut event)) => {
                    if event["data"]["x-tern-job"] != *job {
                        continue;
                    }
                    // The end comes with the account of it: where the guest has gone, the process goes too, and cannot be asked.
                    let result = event["data"]["x-tern-result"].take();
                    if event["event"] == "MIGRATION" && status_of(&result).is_final() {
                        return Ok(result);
                    }
                }
                Ok(None) => {}
                Err(ClientError::Closed) => {
                    let why = "its process ended before it said how it went";
                    return Err(CliError::Start(format!("{what}: {why}")));
                }
                Err(error) => return Err(CliError::of_vm(&self.address, error)),
            }
            match self.client.execute("query-migrate", json!({})) {
                // Another has begun, so this one is over, and how it ended is on its way.
                Ok(state) if state["x-tern-job"] != *job => {}
                Ok(state) if status_of(&state).is_final() => return Ok(state),
                Ok(state) => watcher.look(&state),
                // The end came instead of the answer, and is found among the events.
                Err(ClientError::Closed) => {}
                Err(error) => return Err(CliError::of_vm(&self.address, error)),
            }
        }
    }

    fn judge(&self, what: &str, state: Value) -> Result<Value, CliError> {
        let why = || state["error-desc"].as_str().unwrap_or("no reason was given").to_owned();
        let what = what.to_owned();
        match status_of(&state) {
            MigrationStatus::Completed => Ok(state),
            MigrationStatus::Undecided => Err(CliError::Undecided {
                address: self.address.clone(),
                why: why(),
            }),
            MigrationStatus::Cancelled => Err(CliError::NotMoved {
                what,
                why: "it was cancelled".into(),
            }),
            _ => Err(CliError::NotMoved { what, why: why() }),
        }
    }
}

/// Is shown how something stands that is followed.
pub(super) trait Watcher {
    /// Sees an account of it, as "query-migrate" gives it.
    fn look(&mut self, account: &Value);

    /// It is over, with this account if there is one.
    fn end(&mut self, account: Option<&Value>);
}

/// The status in an answer to "query-migrate".
pub(super) fn status_of(state: &Value) -> MigrationStatus {
    state["status"]
        .as_str()
        .and_then(MigrationStatus::from_qmp_name)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{messages::Messages, progress::Bar};
    use super::*;
    use crate::{
        control::{Control, Ending, Event, JobId, MigrationInfo},
        event_loop::{EventLoop, LoopHandle},
        fake_vm::FakeVm,
        monitor::MonitorServer,
        test_support::TempDir,
        unix_socket::PrivateListener,
    };
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        sync::Arc,
    };

    /// What a command sees that follows a migration which ends like this.
    fn follow(status: MigrationStatus, with_event: bool, then_ends: bool) -> Result<Value, CliError> {
        followed(|vm, handle| {
            vm.migration.lock().error = Some("the wire was cut".to_owned());
            if with_event {
                vm.reach(status);
            } else {
                vm.migration.lock().status = status;
            }
            if then_ends {
                vm.end(Ending::HandedOver { to: "tcp:h:1".into() });
                handle.defer(EventLoop::leave);
            }
        })
    }

    /// What a command sees that follows a migration in which this happens.
    fn followed(happens: impl FnOnce(&FakeVm, &LoopHandle)) -> Result<Value, CliError> {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let vm = Arc::new(FakeVm::default());
        let control: Arc<dyn Control> = vm.clone();
        let mut event_loop = EventLoop::new().expect("an event loop");
        let listener = PrivateListener::bind(&path).expect("a fresh path");
        let server = MonitorServer::start(listener, &control, &mut event_loop).expect("a sound socket");
        let handle = event_loop.handle();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                event_loop.run().expect("the loop runs");
                server.finish();
            });
            let talking = scope.spawn(move || {
                let mut talk = Talk::to(&VmAddress::Socket(path)).expect("the monitor answers");
                talk.follow(
                    "the migration",
                    "migrate",
                    json!({ "uri": "tcp:h:1" }),
                    &mut Bar::new("it", Messages::new(true)),
                )
            });
            while vm.asked().is_empty() {
                std::thread::yield_now();
            }
            happens(&vm, &handle);
            let result = talking.join().expect("no panic");
            handle.defer(EventLoop::leave);
            result
        })
    }

    #[test]
    fn a_completed_migration_is_seen_although_the_process_ends_at_once() {
        let state = follow(MigrationStatus::Completed, true, true).expect("completed");
        assert_eq!(state["status"], "completed");
    }

    #[test]
    fn a_completed_migration_is_seen_although_it_ends_in_the_moment_of_asking() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let requests = BufReader::new(stream.try_clone().expect("a descriptor"));
                writeln!(stream, r#"{{"QMP":{{"version":{{}},"capabilities":[]}}}}"#).expect("it listens");
                for (id, request) in (0..).zip(requests.lines().map_while(Result::ok)) {
                    if request.contains("query-migrate") {
                        let end =
                            r#"{"event":"MIGRATION","data":{"x-tern-job":1,"x-tern-result":{"status":"completed"}}}"#;
                        return writeln!(stream, "{end}").expect("it listens");
                    }
                    writeln!(stream, r#"{{"return":{{"x-tern-job":1}},"id":{id}}}"#).expect("it listens");
                }
            });
            let mut talk = Talk::to(&VmAddress::Socket(path)).expect("the monitor answers");
            talk.follow(
                "the migration",
                "migrate",
                json!({}),
                &mut Bar::new("it", Messages::new(true)),
            )
        });
        assert_eq!(result.expect("completed")["status"], "completed");
    }

    /// Tells how a job stands that need not be the one of which the VM was asked last.
    fn tell(vm: &FakeVm, job: u64, status: MigrationStatus) {
        vm.hub.publish(&Event::Migration(Arc::new(MigrationInfo {
            job: Some(JobId(job)),
            status,
            ..MigrationInfo::default()
        })));
    }

    #[test]
    fn the_end_of_another_migration_is_not_taken_for_ones_own() {
        let error = followed(|vm, _| {
            // The end of an earlier one that is told late, then of a later one of somebody else's, and that one's account.
            tell(vm, 0, MigrationStatus::Completed);
            tell(vm, 2, MigrationStatus::Completed);
            let own = std::mem::replace(
                &mut *vm.migration.lock(),
                MigrationInfo {
                    job: Some(JobId(2)),
                    status: MigrationStatus::Completed,
                    ..MigrationInfo::default()
                },
            );
            let asked = vm.queries();
            while vm.queries() < asked + 2 {
                std::thread::yield_now();
            }
            tell(vm, own.job.expect("begun").0, MigrationStatus::Failed);
        });
        assert_eq!(error.expect_err("its own failed").exit_code().code(), 4);
    }

    #[test]
    fn a_vm_that_does_not_say_which_migration_it_began_is_not_followed() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a client");
                let requests = BufReader::new(stream.try_clone().expect("a descriptor"));
                writeln!(stream, r#"{{"QMP":{{"version":{{}},"capabilities":[]}}}}"#).expect("it listens");
                for (id, _) in (0..).zip(requests.lines().map_while(Result::ok)) {
                    writeln!(stream, r#"{{"return":{{}},"id":{id}}}"#).expect("it listens");
                }
            });
            let mut talk = Talk::to(&VmAddress::Socket(path)).expect("the monitor answers");
            talk.follow(
                "the migration",
                "migrate",
                json!({}),
                &mut Bar::new("it", Messages::new(true)),
            )
        });
        assert!(error.expect_err("no job").to_string().contains("job"));
    }

    #[test]
    fn an_end_without_an_event_is_found_by_asking() {
        assert!(follow(MigrationStatus::Completed, false, false).is_ok());
    }

    #[test]
    fn a_failure_is_told_with_the_vms_reason() {
        let error = follow(MigrationStatus::Failed, true, false).expect_err("failed");
        assert_eq!(
            error.to_string(),
            "the migration failed: the wire was cut; the guest is where it was"
        );
        assert_eq!(error.exit_code().code(), 4);
    }

    #[test]
    fn an_undecided_hand_over_is_no_plain_failure() {
        let error = follow(MigrationStatus::Undecided, true, false).expect_err("undecided");
        assert_eq!(error.exit_code().code(), 5);
    }

    #[test]
    fn a_process_that_vanishes_is_no_success() {
        assert!(follow(MigrationStatus::Active, false, true).is_err());
    }
}
