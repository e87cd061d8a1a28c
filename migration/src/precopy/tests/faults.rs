//! Phase × fault × side: whatever fails, at most one side runs the guest, and before *go* it is the source.
//!
//! The cases follow from the lists of phases, actions and sides. A fault that never fired would prove nothing, so each
//! is counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cancel::TooLate;
use crate::fault::{FaultAction, PageFault, Plan};
use crate::phases::{Phase, Side, TransferKind};
use crate::precopy::fake::{Owner, differing_pages};
use crate::precopy::{Failure, SourceState};
use crate::testing::{FakeRun, FakeState};

const SIDES: [Side; 2] = [Side::Source, Side::Destination];

fn phases() -> impl Iterator<Item = Phase> {
    Phase::of(TransferKind::Precopy).filter(|&phase| phase != Phase::Done)
}

/// One fault, and how often it fired.
struct Once {
    side: Side,
    phase: Phase,
    action: FaultAction,
    fired: AtomicUsize,
}

impl Faults for Once {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        ((side, phase) == (self.side, self.phase)).then(|| {
            self.fired.fetch_add(1, Ordering::Relaxed);
            self.action
        })
    }
}

fn suffer(side: Side, phase: Phase, action: FaultAction) {
    let case = format!("{side:?} {phase} {}", action.name());
    let faults = Arc::new(Once {
        side,
        phase,
        action,
        fired: AtomicUsize::new(0),
    });
    let migration = Migration::of(Shape::BUSY).with_faults(&faults);
    let (sent, received) = migration.run();
    assert_eq!(faults.fired.load(Ordering::Relaxed), 1, "{case} fired");

    let panicked = action == FaultAction::Abort;
    assert_eq!(sent.is_none(), panicked && side == Side::Source, "{case}: {sent:?}");
    assert_eq!(
        received.is_none(),
        panicked && side == Side::Destination,
        "{case}: {received:?}"
    );
    let standing = migration.source.vm.run_state();
    let arrived = received.and_then(Result::ok);
    match (side, phase) {
        (_, Phase::Running) => {
            let runs_there = side == Side::Source || matches!(action, FaultAction::Cut | FaultAction::Stall);
            assert_eq!(
                (&standing, arrived.is_some()),
                (&FakeRun::Undecided, runs_there),
                "{case}"
            );
            assert_eq!(
                migration.witness.running(),
                runs_there.then_some(Owner::Destination),
                "{case}"
            );
            // What was kept is whole: either copy is the guest.
            if let Some(arrived) = arrived {
                assert_eq!(differing_pages(&migration.source, &arrived.vm), [0; 0], "{case}");
            }
        }
        // The receiver fails between *ready* and *go*: the source may have said *go* before it could know.
        (Side::Destination, Phase::Go) if standing == FakeRun::Undecided => {
            assert!(arrived.is_none() && migration.witness.running().is_none(), "{case}");
        }
        _ => {
            assert!(arrived.is_none(), "{case}");
            migration.source.assert_runs();
        }
    }
    if let Some(sent) = sent {
        let error = sent.expect_err(&case);
        match standing {
            FakeRun::Undecided => assert!(
                matches!(error.source_state, SourceState::Undecided),
                "{case}: {error:?}"
            ),
            _ => assert!(matches!(error.source_state, SourceState::Resumed), "{case}: {error:?}"),
        }
        // Who fails and can still speak says why.
        if (side, action) == (Side::Destination, FaultAction::Error) && phase != Phase::Go {
            assert!(
                error.to_string().contains("the fault error was injected"),
                "{case}: {error}"
            );
        }
    }
}

#[test]
fn at_most_one_side_runs_the_guest_whatever_fails_in_whatever_phase() {
    let cases: Vec<_> = phases()
        .flat_map(|phase| FaultAction::ALL.map(|action| (phase, action)))
        .flat_map(|(phase, action)| SIDES.map(|side| (side, phase, action)))
        .collect();
    assert_eq!(cases.len(), 12 * 4 * 2);
    // Most of the time goes into waiting for deadlines.
    for cases in cases.chunks(32) {
        thread::scope(|scope| {
            for &(side, phase, action) in cases {
                scope.spawn(move || suffer(side, phase, action));
            }
        });
    }
}

/// Cancels as a side enters a phase, and keeps the answer.
struct CancelIn {
    side: Side,
    phase: Phase,
    token: CancelToken,
    answer: parking_lot::Mutex<Option<Result<(), TooLate>>>,
}

impl Faults for CancelIn {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        if (side, phase) == (self.side, self.phase) {
            *self.answer.lock() = Some(self.token.cancel());
        }
        None
    }
}

#[test]
fn either_side_can_cancel_in_every_phase_until_it_has_committed_itself() {
    let cases: Vec<_> = phases().flat_map(|phase| SIDES.map(|side| (side, phase))).collect();
    assert_eq!(cases.len(), 24);
    for (side, phase) in cases {
        let migration = Migration::of(Shape::BUSY);
        let token = &migration.cancel[if side == Side::Source { 0 } else { 1 }];
        let faults = Arc::new(CancelIn {
            side,
            phase,
            token: token.clone(),
            answer: parking_lot::Mutex::default(),
        });
        let migration = migration.with_faults(&faults);
        let (sent, received) = migration.run();
        let (sent, received) = (sent.expect("no panic"), received.expect("no panic"));

        // The source commits itself by saying *go*, the destination by saying *ready*.
        let committed = phase
            >= if side == Side::Source {
                Phase::Running
            } else {
                Phase::Go
            };
        let case = format!("{side:?} {phase}: {sent:?} {received:?}");
        let answer = faults.answer.lock().expect("the phase was entered");
        assert_eq!(answer.is_err(), committed, "{case}");
        if committed {
            assert!(sent.is_ok() && received.is_ok(), "{case}");
            continue;
        }
        migration.source.assert_runs();
        let error = sent.expect_err("cancelled");
        assert!(matches!(error.source_state, SourceState::Resumed), "{case}");
        match side {
            Side::Source => assert!(matches!(error.failure, Failure::Cancelled), "{case}"),
            Side::Destination => {
                assert!(
                    matches!(received, Err(ReceiveError::Failed(Failure::Cancelled))),
                    "{case}"
                );
                assert!(matches!(error.failure, Failure::Peer(_)), "{case}");
            }
        }
    }
}

/// Holds the destination up as it enters a phase, until the source has ended; so a receiver is that was stopped.
struct StoppedIn {
    phase: Phase,
    source_ended: parking_lot::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Faults for StoppedIn {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        if (side, phase) == (Side::Destination, self.phase)
            && let Some(ended) = self.source_ended.lock().take()
        {
            ended.recv().expect("the source's end is told");
        }
        None
    }
}

/// A migration whose receiver stands still in a phase until the source has given up; then `meanwhile` happens.
fn receiver_stopped_in(
    phase: Phase,
    prepare: impl FnOnce(&mut Migration),
    meanwhile: impl FnOnce(&Migration),
) -> (Migration, SendError, ReceiveError) {
    let (tell, source_ended) = std::sync::mpsc::channel();
    let mut migration = Migration::of(Shape::IDLE).with_faults(&Arc::new(StoppedIn {
        phase,
        source_ended: parking_lot::Mutex::new(Some(source_ended)),
    }));
    prepare(&mut migration);
    let (near, far) = migration.channels();
    let (sent, received) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_over(far, &migration.factory, &migration.receive, &Gauges::new()));
        let sent = send_over(
            &*migration.source,
            near,
            "fake:there",
            &migration.send,
            &migration.gauges,
        );
        meanwhile(&migration);
        tell.send(()).expect("the receiver waits");
        (sent, receiving.join().expect("no panic"))
    });
    let (sent, received) = (sent.expect_err("given up"), received.expect_err("nothing arrived"));
    (migration, sent, received)
}

#[test]
fn a_go_that_is_read_after_the_source_gave_up_is_refused_however_early_it_came() {
    let (migration, sent, received) = receiver_stopped_in(
        Phase::Go,
        |_| {},
        |migration| {
            assert_eq!(migration.source.vm.run_state(), FakeRun::Undecided);
            // What `vm resolve --resume` does. The witness panics if the other one runs too.
            migration.source.resolve_resume();
        },
    );
    assert!(matches!(sent.source_state, SourceState::Undecided), "{sent}");
    assert!(
        matches!(received, ReceiveError::Failed(Failure::LateGo)),
        "{received:?}"
    );
    migration.source.assert_runs();
}

#[test]
fn a_pause_is_taken_back_once_it_has_outlived_its_limit_and_the_slack() {
    for phase in [Phase::Pause, Phase::Ready] {
        let (migration, sent, _) = receiver_stopped_in(
            phase,
            // So long that only the limit can end the pause: a test that waits for this has failed.
            |migration| migration.send.deadlines.blackout = Duration::from_secs(3600),
            |migration| migration.source.assert_runs(),
        );
        assert!(matches!(sent.source_state, SourceState::Resumed), "{sent}");
        let Failure::StoodStill {
            stood_still,
            limit,
            allowed,
        } = sent.failure
        else {
            panic!("{phase}: {sent}");
        };
        assert_eq!(
            (limit, allowed),
            (Duration::from_millis(300), Duration::from_millis(1300))
        );
        assert!(stood_still >= allowed, "{phase}: {stood_still:?}");
        migration.source.assert_runs();
    }
}

#[test]
fn damaged_pages_and_lost_dirty_bits_are_seen_in_the_guest_that_arrives() {
    for text in [
        "page:drop:1/50:3",
        "page:zero:1/50:3",
        "page:swap:1/50:3",
        "dirty:lose:1/10:3",
    ] {
        let plan: Arc<Plan> = Arc::new(text.parse().expect("a plan"));
        let migration = Migration::of(Shape::BUSY).with_faults(&plan);
        let arrived = arrived(migration.run()).1;
        let fired: u64 = plan.fired().map(|(_, count)| count).sum();
        let bad = differing_pages(&migration.source, &arrived.vm);
        assert!(
            fired > 0 && !bad.is_empty(),
            "{text}: fired {fired} times, bad pages {bad:?}"
        );
        assert!(
            bad.len() <= crate::ram::to_usize(fired) * 2,
            "{text}: nothing else is damaged"
        );
    }
}

#[test]
fn a_page_fault_hits_only_the_page_that_it_names() {
    struct Swap;
    impl Faults for Swap {
        fn on_page(&self, block: &str, page: u64) -> Option<PageFault> {
            (block == "ram" && page == 11).then_some(PageFault::SwapWith(200))
        }
    }
    let migration = Migration::of(Shape::IDLE).with_faults(&Arc::new(Swap));
    let arrived = arrived(migration.run()).1;
    assert_eq!(differing_pages(&migration.source, &arrived.vm), [11]);
}

#[test]
fn a_zeroed_field_arrives_as_zero() {
    let plan: Arc<Plan> = Arc::new("field:/machine/fake1:counter".parse().expect("a plan"));
    let migration = Migration::of(Shape::IDLE).with_faults(&plan);
    let arrived = arrived(migration.run()).1;
    let counters = |states: &[(String, FakeState)]| states.iter().map(|(_, state)| state.counter).collect::<Vec<_>>();
    assert_eq!(counters(&migration.source.vm.states()), [1000, 1001, 1002]);
    assert_eq!(counters(&arrived.vm.vm.states), [1000, 0, 1002]);
}
