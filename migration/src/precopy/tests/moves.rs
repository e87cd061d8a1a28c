//! Migrations that arrive, and those that are refused or given up before anything is lost.

use super::*;
use crate::channel::Channel;
use crate::listener::Reach;
use crate::phases::{Phase, TransferKind};
use crate::precopy::fake::{Owner, User, differing_pages};
use crate::precopy::{Failure, Receiver, SourceState, send};
use crate::ram::PAGE_SIZE;
use crate::testing::{FakeRun, Misbehaviour};
use crate::uri::Uri;

/// A pause that is allowed to last so long is never taken back on any host.
const ALLOWED: Duration = Duration::from_secs(60);

fn assert_same(migration: &Migration, arrived: &Arrived<Witnessed>) {
    assert_eq!(differing_pages(&migration.source, &arrived.vm), [0; 0]);
    assert!(
        arrived.vm.vm.blocks[1].is_readonly(),
        "the guest can reboot from it, and never write it"
    );
    assert_eq!(arrived.vm.vm.states, migration.source.vm.states());
    assert!(matches!(migration.source.vm.run_state(), FakeRun::HandedOver(_)));
    assert_eq!(migration.witness.running(), Some(Owner::Destination));
}

#[test]
fn an_idle_guest_arrives_whole_in_one_round_and_a_pause_without_ram() {
    let migration = Migration::of(Shape::IDLE);
    let (report, arrived) = arrived(migration.run());
    assert_same(&migration, &arrived);
    let rounds: Vec<_> = report
        .rounds
        .iter()
        .map(|round| (round.number, round.raw_pages))
        .collect();
    assert_eq!(rounds, [(1, 301), (2, 0)]);
    assert_eq!(report.notes, ["fake-1.0: is a fake"]);
    assert_eq!(report.sent_bytes, arrived.report.received_bytes);
    assert!(report.pause.total() <= report.total && report.pause.state_bytes > 0);
}

#[test]
fn both_sides_pass_every_phase_of_the_table_in_order() {
    let migration = Migration::of(Shape::IDLE);
    let (sent, arrived) = arrived(migration.run());
    let all: Vec<Phase> = Phase::of(TransferKind::Precopy).collect();
    for phases in [sent.phases, arrived.report.phases] {
        assert_eq!(phases.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), all);
    }
}

#[test]
fn a_guest_that_goes_on_writing_arrives_whole_however_the_accelerator_begins_its_log() {
    for initially_set in [false, true] {
        let migration = Migration::of(Shape {
            initially_set,
            ..Shape::BUSY
        });
        let (report, arrived) = arrived(migration.run());
        assert_same(&migration, &arrived);
        let dirty = report.rounds.iter().skip(1).filter(|round| round.raw_pages > 0).count();
        assert!(dirty >= 2, "two rounds with dirty pages: {:?}", report.rounds);
        assert!(
            report.rounds.iter().skip(1).any(|round| round.zero_pages > 0),
            "{:?}",
            report.rounds
        );
    }
}

#[test]
fn memory_that_was_never_touched_is_neither_sent_nor_taken() {
    let migration = Migration::of(Shape {
        pages: 64 << 8,
        full: 10,
        ..Shape::IDLE
    });
    let (report, arrived) = arrived(migration.run());
    assert!(report.sent_bytes < 20 * PAGE_SIZE, "{} bytes", report.sent_bytes);
    let populated: u64 = arrived.vm.vm.blocks[0]
        .populated_ranges()
        .expect("known")
        .iter()
        .map(|r| r.end - r.start)
        .sum();
    assert_eq!(populated, 10 * PAGE_SIZE);
}

#[test]
fn the_gauges_show_a_migration_from_outside() {
    let migration = Migration::of(Shape::BUSY);
    assert_eq!(migration.gauges.read().phase, None);
    let (report, _arrived) = arrived(migration.run());
    let figures = migration.gauges.read();
    assert_eq!(figures.phase, Some(Phase::Done));
    assert_eq!(figures.downtime, Some(report.pause.total()));
    assert_eq!(usize::try_from(figures.rounds), Ok(report.rounds.len()));
    assert_eq!((figures.total_bytes, figures.remaining_bytes), (513 * PAGE_SIZE, 0));
    assert_eq!(figures.transferred_bytes, report.sent_bytes);
}

#[test]
fn a_machine_moves_over_tcp_and_over_a_unix_socket_although_strangers_call_first() {
    let path = std::env::temp_dir().join(format!("tern-precopy-{}", std::process::id()));
    for uri in [Uri::Unix(path.clone()), "tcp:127.0.0.1:0".parse().expect("a URI")] {
        let migration = Migration::of(Shape::BUSY);
        let receiver = Receiver::bind(&uri, Reach::Loopback).expect("free");
        let to = receiver.local_uri().clone();
        thread::scope(|scope| {
            let [cancel, receivers_cancel] = &migration.cancel;
            let receiving = scope
                .spawn(|| receiver.accept(&migration.factory, &migration.receive, receivers_cancel, &Gauges::new()));
            // One hangs up, one speaks another language, one says nothing for as long as it is let.
            drop(Channel::connect(&to, cancel, PATIENCE).expect("a listener"));
            let mut browser = Channel::connect(&to, cancel, PATIENCE).expect("a listener");
            browser
                .send(&[b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
                .expect("sent");
            let _silent = Channel::connect(&to, cancel, PATIENCE).expect("a listener");

            let mut options = migration.send.clone();
            options.deadlines.hello = Duration::from_secs(20);
            let sent = send(&*migration.source, &to, &options, cancel, &migration.gauges);
            let arrived = arrived((Some(sent), receiving.join().ok())).1;
            assert_same(&migration, &arrived);
        });
    }
    assert!(!path.exists(), "the socket's file is gone with its listener");
}

#[test]
fn strangers_who_say_nothing_or_too_little_keep_no_source_waiting() {
    let path = std::env::temp_dir().join(format!("tern-silent-{}", std::process::id()));
    for uri in [Uri::Unix(path.clone()), "tcp:127.0.0.1:0".parse().expect("a URI")] {
        let mut migration = Migration::of(Shape::BUSY);
        // Who waits for them to be late waits in vain.
        migration.receive.deadlines.hello = Duration::from_secs(3600);
        let receiver = Receiver::bind(&uri, Reach::Loopback).expect("free");
        let to = receiver.local_uri().clone();
        thread::scope(|scope| {
            let [cancel, receivers_cancel] = &migration.cancel;
            let receiving = scope
                .spawn(|| receiver.accept(&migration.factory, &migration.receive, receivers_cancel, &Gauges::new()));
            let call = || Channel::connect(&to, cancel, PATIENCE).expect("a listener");
            let _silent = [(); 5].map(|()| call());
            let mut slow = call();
            slow.send(&[&crate::header::prefix()[..1]]).expect("sent");

            let mut options = migration.send.clone();
            options.deadlines.hello = Duration::from_secs(20);
            let sent = send(&*migration.source, &to, &options, cancel, &migration.gauges);
            // Not to hang where it has failed.
            let _ = receivers_cancel.cancel();
            let arrived = arrived((Some(sent), receiving.join().ok())).1;
            assert_same(&migration, &arrived);
        });
    }
}

#[test]
fn a_refusal_names_each_difference_on_both_sides_and_nothing_has_moved() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.factory.factory.refuses = Some("is not known here; a newer Tern is needed".to_owned());
    let (error, received) = failed(migration.run());
    assert_eq!(
        error.to_string(),
        "the receiver cannot take this machine: machine: is not known here; a newer Tern is needed"
    );
    assert!(matches!(error.source_state, SourceState::Resumed));
    assert!(
        matches!(received, ReceiveError::Failed(Failure::Refused(_))),
        "{received:?}"
    );
    assert_eq!(migration.gauges.read().rounds, 0);
    migration.source.assert_runs();
}

#[test]
fn a_machine_that_cannot_be_built_is_refused_before_ram_moves() {
    let mut migration = Migration::of(Shape::IDLE);
    migration.factory.cannot_build = true;
    let (error, _) = failed(migration.run());
    assert!(
        error
            .to_string()
            .contains("cannot be built there: fake: a test wants it so"),
        "{error}"
    );
    assert_eq!(migration.gauges.read().rounds, 0);
    migration.source.assert_runs();
}

#[test]
fn a_load_that_fails_resumes_the_source_with_the_receivers_reason() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.factory.factory.cannot_load = true;
    let (error, _) = failed(migration.run());
    assert!(matches!(error.source_state, SourceState::Resumed));
    assert_eq!(
        error.to_string(),
        "the other side gave up: the state of /machine: a test wants it so"
    );
    migration.source.assert_runs();
}

#[test]
fn a_receiver_that_cannot_run_what_it_was_given_leaves_the_choice_to_the_user() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.factory.factory.cannot_run = true;
    let (error, received) = failed(migration.run());
    assert!(matches!(error.source_state, SourceState::Undecided), "{error:?}");
    assert!(error.to_string().contains("`vm resolve NAME --discard`"), "{error}");
    assert!(matches!(received, ReceiveError::CannotRun(_)), "{received:?}");
    assert_eq!(
        (migration.source.vm.run_state(), migration.witness.running()),
        (FakeRun::Undecided, None)
    );
}

#[test]
fn a_source_that_fails_to_do_its_part_runs_on() {
    for (how, what) in [
        (Misbehaviour::DirtyLog, "cannot log writes"),
        (Misbehaviour::Pause, "cannot pause"),
        (Misbehaviour::Sections, "cannot read the state"),
    ] {
        let migration = Migration::of(Shape::BUSY);
        migration.source.vm.misbehave(how);
        let (error, received) = failed(migration.run());
        assert!(error.to_string().contains(what), "{error}");
        assert!(matches!(error.source_state, SourceState::Resumed), "{error:?}");
        assert!(
            received.to_string().contains(what),
            "the receiver is told why: {received}"
        );
        migration.source.assert_runs();
    }
}

#[test]
fn a_source_that_cannot_go_on_says_so_and_nobody_else_has_the_guest() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.factory.factory.cannot_load = true;
    migration.source.vm.misbehave(Misbehaviour::Resume);
    let (error, _) = failed(migration.run());
    assert!(matches!(error.source_state, SourceState::Stuck(_)), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("could not be resumed: the accelerator cannot go on"),
        "{error}"
    );
    assert_eq!(migration.witness.running(), None);
}

#[test]
fn a_guest_that_does_not_converge_is_left_running() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.send.limits = Duration::ZERO.into();
    let (error, _) = failed(migration.run());
    assert!(matches!(error.failure, Failure::NotConverging(_)), "{error}");
    assert!(error.to_string().contains("MiB/s"), "{error}");
    migration.source.assert_runs();
}

#[test]
fn a_limit_that_is_raised_while_the_migration_runs_lets_it_end() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.send.limits = Duration::ZERO.into();
    *migration.source.user.lock() = User {
        limit: Some(migration.send.limits.downtime.clone()),
        at_a_look: Some(ALLOWED),
        ..User::default()
    };
    let (_, arrived) = arrived(migration.run());
    assert_same(&migration, &arrived);
}

#[test]
fn a_pause_that_turns_out_too_long_is_taken_back_and_the_rounds_go_on() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.send.limits = ALLOWED.into();
    *migration.source.user.lock() = User {
        limit: Some(migration.send.limits.downtime.clone()),
        // What is left is then too much, as it is after a burst.
        at_pauses: vec![Duration::ZERO; 2],
        at_resume: Some(ALLOWED),
        ..User::default()
    };
    let (report, arrived) = arrived(migration.run());
    assert_same(&migration, &arrived);
    assert_eq!(report.taken_back.len(), 2, "{:?}", report.taken_back);
    assert!(report.taken_back[0].after_round < report.taken_back[1].after_round);
    assert_eq!(migration.gauges.read().pauses_taken_back, 2);
    let pauses = |phases: &[(Phase, Duration)]| phases.iter().filter(|(phase, _)| *phase == Phase::Pause).count();
    assert_eq!(
        pauses(&report.phases),
        1,
        "the receiver never heard of those that were taken back"
    );
}

#[test]
fn a_guest_whose_pauses_are_all_too_long_is_left_running() {
    let mut migration = Migration::of(Shape::BUSY);
    migration.send.limits = ALLOWED.into();
    *migration.source.user.lock() = User {
        limit: Some(migration.send.limits.downtime.clone()),
        at_pauses: vec![Duration::ZERO; 10],
        at_resume: Some(ALLOWED),
        ..User::default()
    };
    let (error, received) = failed(migration.run());
    assert!(matches!(error.failure, Failure::PauseTooLong(_)), "{error}");
    assert!(matches!(error.source_state, SourceState::Resumed), "{error:?}");
    assert!(error.to_string().contains("paused 4 times"), "{error}");
    assert!(received.to_string().contains("paused 4 times"), "{received}");
    assert_eq!(migration.source.user.lock().at_pauses.len(), 6);
    migration.source.assert_runs();
}

#[test]
fn two_machines_in_one_process_move_in_both_directions_at_once() {
    let migrations = [Migration::of(Shape::BUSY), Migration::of(Shape::BUSY)];
    thread::scope(|scope| {
        let running = migrations
            .each_ref()
            .map(|migration| scope.spawn(move || (migration, arrived(migration.run()).1)));
        for migration in running {
            let (migration, arrived) = migration.join().expect("no panic");
            assert_same(migration, &arrived);
        }
    });
}

/// A guest with so much in its RAM, on a connection of which it may have so much in a second.
fn paced(mib: u64, mib_per_second: u64) -> Migration {
    let pages = (mib << 20) / PAGE_SIZE;
    let mut migration = Migration::of(Shape {
        pages,
        full: pages,
        ..Shape::BUSY
    });
    migration.send.limits = ALLOWED.into();
    migration.send.limits.bandwidth.set(mib_per_second << 20);
    migration
}

#[test]
fn rounds_keep_to_the_bandwidth_that_their_user_allows_and_the_guest_arrives_whole() {
    let migration = paced(4, 16);
    let (report, arrived) = arrived(migration.run());
    assert_same(&migration, &arrived);
    // The last of the records is not waited for, nor is what the first 10 ms allow.
    let first = report.rounds[0];
    assert!(
        first.sent_bytes > 3 << 20 && first.took > Duration::from_millis(200),
        "{first:?}"
    );
}

#[test]
fn a_limit_that_is_lifted_frees_a_migration_under_way_whose_peer_has_not_lost_patience() {
    let mut migration = paced(4, 16);
    let bandwidth = migration.send.limits.bandwidth.clone();
    bandwidth.set(1);
    // For longer than either side bears silence.
    migration.send.deadlines.silence = Duration::from_millis(300);
    migration.receive.deadlines.silence = Duration::from_millis(300);
    let gauges = migration.gauges.clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            let begun = loop {
                match gauges.read().setup {
                    Some(_) => break std::time::Instant::now(),
                    None => thread::yield_now(),
                }
            };
            // It must not move for this long, which no event ends.
            while begun.elapsed() < Duration::from_millis(700) {
                assert!(gauges.read().transferred_bytes < 1 << 20);
                thread::sleep(Duration::from_millis(5));
            }
            bandwidth.set(0);
        });
        let (_, arrived) = arrived(migration.run());
        assert_same(&migration, &arrived);
    });
}

#[test]
fn a_migration_that_waits_for_its_turn_is_cancelled_at_once() {
    let migration = paced(4, 16);
    migration.send.limits.bandwidth.set(1);
    let gauges = migration.gauges.clone();
    let cancel = migration.cancel[0].clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            while gauges.read().transferred_bytes < 100 << 10 {
                thread::yield_now();
            }
            cancel.cancel().expect("nothing is given away yet");
        });
        let (error, _) = failed(migration.run());
        assert!(matches!(error.failure, Failure::Cancelled), "{error}");
        migration.source.assert_runs();
    });
}
