//! Peers that lie, and wires that damage: never a panic, never a hang, never two owners.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::hello::Hello;
use crate::ident::Id;
use crate::phases::Side;
use crate::precopy::fake::Owner;
use crate::precopy::{Failure, SourceState};
use crate::record::{Record, RecordKind};
use crate::testing::FakeRun;

/// What a wire does to the bytes that one side sends.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Turns over bits of the byte at this offset.
    Flip(usize, u8),
    /// Ends after so many bytes.
    CutAt(usize),
}

/// Carries bytes until an end is reached, does the harm, and says how many there were.
fn carry(mut from: &UnixStream, mut to: &UnixStream, harm: Option<Harm>) -> usize {
    let mut carried = 0;
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut bytes)
        && length > 0
    {
        let mut piece = &mut bytes[..length];
        match harm {
            Some(Harm::Flip(at, bits)) if (carried..carried + length).contains(&at) => piece[at - carried] ^= bits,
            Some(Harm::CutAt(at)) if carried + length > at => piece = &mut bytes[..at - carried],
            _ => {}
        }
        carried += piece.len();
        if to.write_all(piece).is_err() || piece.len() < length {
            break;
        }
    }
    // Both ends learn of it, whichever was first.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    carried
}

/// Runs a migration over a wire with harm in one of its directions: to the destination, to the source.
fn over_a_wire(migration: &Migration, harm: [Option<Harm>; 2]) -> (Option<Sent>, Option<Received>, [usize; 2]) {
    let pair = || UnixStream::pair().expect("a socket pair");
    let ((near, near_wire), (far, far_wire)) = (pair(), pair());
    let [near_token, far_token] = migration.cancel.clone();
    let near = Channel::over(near.into(), near_token, PATIENCE).expect("a socket");
    let far = Channel::over(far.into(), far_token, PATIENCE).expect("a socket");
    thread::scope(|scope| {
        let there = scope.spawn(|| carry(&near_wire, &far_wire, harm[0]));
        let back = scope.spawn(|| carry(&far_wire, &near_wire, harm[1]));
        let (sent, received) = migration.run_over(near, far);
        (sent, received, [there, back].map(|wire| wire.join().expect("no panic")))
    })
}

fn suffer(harm: [Option<Harm>; 2]) {
    let migration = Migration::of(Shape {
        pages: 16,
        full: 4,
        working_set: 2,
        ..Shape::IDLE
    });
    let (sent, received, carried) = over_a_wire(&migration, harm);
    let case = format!("{harm:?}: {sent:?} {received:?}");
    let (sent, received) = (sent.expect("no panic"), received.expect("no panic"));
    match migration.source.vm.run_state() {
        FakeRun::Running => {
            migration.source.assert_runs();
            assert!(received.is_err(), "{case}");
            assert!(
                matches!(
                    sent,
                    Err(SendError {
                        source_state: SourceState::Resumed,
                        ..
                    })
                ),
                "{case}"
            );
        }
        FakeRun::Undecided => {
            assert_eq!(
                migration.witness.running(),
                received.is_ok().then_some(Owner::Destination),
                "{case}"
            );
            assert!(
                matches!(
                    sent,
                    Err(SendError {
                        source_state: SourceState::Undecided,
                        ..
                    })
                ),
                "{case}"
            );
        }
        // How many rounds there are depends on how quick they are, and the harm was to come later.
        FakeRun::HandedOver(_) => {
            let came_later = |(harm, carried): (Option<Harm>, usize)| match harm {
                Some(Harm::Flip(at, _) | Harm::CutAt(at)) => at >= carried,
                None => true,
            };
            assert!(harm.into_iter().zip(carried).all(came_later), "{case}");
        }
        FakeRun::Paused => panic!("forgotten: {case}"),
    }
}

#[test]
fn every_damaged_or_missing_byte_ends_the_migration_with_one_owner() {
    let shape = Shape {
        pages: 16,
        full: 4,
        working_set: 2,
        ..Shape::IDLE
    };
    let unharmed = Migration::of(shape);
    let (sent, received, lengths) = over_a_wire(&unharmed, [None; 2]);
    arrived((sent, received));
    for (direction, length) in lengths.into_iter().enumerate() {
        for at in (0..length).step_by((length / 150).max(1)) {
            for harm in [Harm::Flip(at, 1 << (at % 8)), Harm::CutAt(at)] {
                let mut harms = [None; 2];
                harms[direction] = Some(harm);
                suffer(harms);
            }
        }
    }
}

/// Plays a destination that says `answers` after a proper hello, and lets the source say what it likes.
fn lie_to_a_source(answers: &[u8]) -> SendError {
    let migration = Migration::of(Shape::IDLE);
    let (near, mut liar) = {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (
            Channel::over(near.into(), migration.cancel[0].clone(), PATIENCE).expect("a socket"),
            far,
        )
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            liar.read_exact(&mut [0; crate::header::PREFIX_LEN])
                .expect("the source's prefix");
            let hello = Record::read(&mut liar).expect("the source's hello");
            let hello = Hello::from_cbor(&hello.payload).expect("the source's hello");
            let answer = Hello::new(Side::Destination, hello.migration).to_cbor();
            liar.write_all(&crate::header::prefix()).expect("sent");
            Record::write(&mut liar, RecordKind::Hello, &answer).expect("sent");
            // The source may have had enough before the end.
            let _ = liar.write_all(answers).and_then(|()| liar.shutdown(Shutdown::Write));
            let _ = std::io::copy(&mut liar, &mut std::io::sink());
        });
        let error = send_over(
            &*migration.source,
            near,
            "fake:liar",
            &migration.send,
            &migration.gauges,
        )
        .expect_err("nobody took the guest");
        migration.source.assert_runs();
        assert!(matches!(error.source_state, SourceState::Resumed), "{error:?}");
        error
    })
}

/// Plays a source that says `bytes` and nothing else.
fn lie_to_a_destination(bytes: &[u8]) -> ReceiveError {
    let migration = Migration::of(Shape::IDLE);
    let (mut liar, far) = UnixStream::pair().expect("a socket pair");
    let far = Channel::over(far.into(), migration.cancel[1].clone(), PATIENCE).expect("a socket");
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = liar.write_all(bytes).and_then(|()| liar.shutdown(Shutdown::Write));
            let _ = std::io::copy(&mut liar, &mut std::io::sink());
        });
        receive_over(far, &migration.factory, &migration.receive, &migration.gauges).expect_err("no guest came")
    })
}

fn records(said: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, payload) in said {
        Record::write(&mut bytes, *kind, payload).expect("short enough");
    }
    bytes
}

#[test]
fn a_receiver_that_claims_to_run_the_guest_before_it_was_given_is_not_believed() {
    let running = records(&[(RecordKind::Running, Vec::new())]);
    assert!(matches!(lie_to_a_source(&running).failure, Failure::OutOfOrder(_)));
    let ready = records(&[(RecordKind::Ready, Vec::new())]);
    assert!(matches!(lie_to_a_source(&ready).failure, Failure::OutOfOrder(_)));
}

#[test]
fn a_hello_of_the_wrong_side_or_with_channels_that_never_come_is_refused() {
    let opening = |hello: &Hello| {
        [
            &crate::header::prefix()[..],
            &records(&[(RecordKind::Hello, hello.to_cbor())]),
        ]
        .concat()
    };
    let mut hello = Hello::new(Side::Destination, Id::from_bytes([3; 16]));
    let error = lie_to_a_destination(&opening(&hello));
    assert!(matches!(error, ReceiveError::Failed(Failure::Protocol(_))), "{error}");
    hello.role = Side::Source;
    hello.channels = 2;
    let error = lie_to_a_destination(&opening(&hello));
    assert!(matches!(error, ReceiveError::Failed(Failure::Protocol(_))), "{error}");
}

#[test]
fn more_state_than_was_announced_is_not_kept_in_memory() {
    let migration = Migration::of(Shape {
        copies_of_state: 2,
        ..Shape::IDLE
    });
    let (error, received) = failed(migration.run());
    assert!(
        error.to_string().contains("than the 3 sections that were announced"),
        "{error}"
    );
    assert!(
        matches!(received, ReceiveError::Failed(Failure::Protocol(_))),
        "{received:?}"
    );
    migration.source.assert_runs();
}

#[test]
fn the_reason_of_the_other_side_reaches_the_user_without_its_control_characters() {
    let mut abort = vec![0xa1, 0x00, 0x65];
    abort.extend(b"\x1b[2Jx");
    let error = lie_to_a_source(&records(&[(RecordKind::Abort, abort)]));
    assert_eq!(error.to_string(), "the other side gave up:  [2Jx");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_move_no_guest(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        lie_to_a_destination(&bytes);
        lie_to_a_destination(&[&crate::header::prefix(), &bytes[..]].concat());
        lie_to_a_source(&bytes);
    }

    #[test]
    fn records_in_any_order_move_no_guest(
        kinds in prop::collection::vec((prop::sample::select(RecordKind::ALL.to_vec()), prop::collection::vec(any::<u8>(), 0..40)), 0..6)
    ) {
        lie_to_a_source(&records(&kinds));
        let hello = Hello::new(Side::Source, Id::from_bytes([3; 16])).to_cbor();
        let opening = records(&[(RecordKind::Hello, hello)]);
        lie_to_a_destination(&[&crate::header::prefix()[..], &opening, &records(&kinds)].concat());
    }
}
