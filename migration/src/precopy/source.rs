//! The source of a live migration.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadlines::Deadlines;
use super::failure::Failure;
use super::message::{RoundAck, RoundEnd};
use super::pause::fixed_cost;
use super::scan::RamSender;
use super::session::Session;
use crate::cancel::CancelToken;
use crate::channel::Channel;
use crate::conditions::Conditions;
use crate::fault::{Faults, NoFaults};
use crate::header::Header;
use crate::hello::Hello;
use crate::ident::Id;
use crate::manifest::Manifest;
use crate::phases::Side;
use crate::record::RecordKind;
use crate::schemas::SchemaTable;
use crate::stats::{Gauges, SendReport};
use crate::switchover::{Limits, Next, Round, Switchover};
use crate::uri::Uri;
use crate::vm::{PreflightReport, SourceVm, VmError};

/// What the user of a source can choose.
#[derive(Clone)]
pub struct SendOptions {
    /// The longest pause that the guest may suffer, and what the connection may be used for.
    pub limits: Limits,
    /// How long the receiver may take.
    pub deadlines: Deadlines,
    /// Where to fail on purpose.
    pub faults: Arc<dyn Faults>,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            limits: Duration::from_millis(300).into(),
            deadlines: Deadlines::default(),
            faults: Arc::new(NoFaults),
        }
    }
}

/// What has become of the guest on a side that could not send it.
#[derive(Debug)]
pub enum SourceState {
    /// It is as it was before the migration: running, if it ran.
    Resumed,
    /// It could not be resumed after the pause. No other side has it.
    Stuck(Box<VmError>),
    /// The receiver was told to run it and did not say that it does: it is kept paused and whole, until its user
    /// resolves which side has it.
    Undecided,
}

/// A machine that did not arrive, or of which it is not known.
#[derive(Debug)]
pub struct SendError {
    /// Why.
    pub failure: Failure,
    /// What has become of the guest.
    pub source_state: SourceState,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = &self.failure;
        match &self.source_state {
            SourceState::Resumed => write!(f, "{failure}"),
            SourceState::Stuck(because) => write!(f, "{failure}; and the guest could not be resumed: {because}"),
            SourceState::Undecided => write!(
                f,
                "{failure}; the receiver had been told to run the guest, so it is kept paused here: find out whether it \
                 runs there, then use `vm resolve NAME --discard` if it does, and `--resume` if it does not"
            ),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.failure)
    }
}

/// Moves a running machine to where a receiver listens. Returns once it runs there.
///
/// `cancel` ends it until *go*; `gauges` shows how far it is.
///
/// # Errors
///
/// [`SendError`], with what has become of the guest.
pub fn send(
    vm: &dyn SourceVm,
    to: &Uri,
    options: &SendOptions,
    cancel: &CancelToken,
    gauges: &Gauges,
) -> Result<SendReport, SendError> {
    gauges.update(|figures| figures.began = Some(Instant::now()));
    let channel = Channel::connect(to, cancel, options.deadlines.connecting()).map_err(|error| SendError {
        failure: if cancel.is_cancelled() {
            Failure::Cancelled
        } else {
            error.into()
        },
        source_state: SourceState::Resumed,
    })?;
    send_over(vm, channel, &to.to_string(), options, gauges)
}

/// As [`send`], over a connection that stands; the channel's token cancels. `to` is where the machine goes, for people.
///
/// # Errors
///
/// [`SendError`], with what has become of the guest.
pub fn send_over(
    vm: &dyn SourceVm,
    channel: Channel,
    to: &str,
    options: &SendOptions,
    gauges: &Gauges,
) -> Result<SendReport, SendError> {
    let began = Instant::now();
    gauges.update(|figures| _ = figures.began.get_or_insert(began));
    let session = Session::open(channel, Side::Source, options.deadlines, &*options.faults);
    let mut source = Source {
        vm,
        session,
        ram: RamSender::new(vm, &*options.faults, gauges, options.limits.bandwidth.clone()),
        options,
        gauges,
        report: SendReport::default(),
        conditions: Conditions::default(),
        round_trip: Duration::MAX,
        cpus: vm.recipe().cpus.len(),
    };
    match source.run(to) {
        Ok(()) => {
            let mut report = source.report;
            report.total = began.elapsed();
            report.sent_bytes = source.session.sent();
            report.phases = source.session.phases_since(began);
            Ok(report)
        }
        Err((failure, source_state)) => {
            // The guest runs again by now: finding out why and saying so may take their time.
            let failure = source.session.ask_why(failure);
            source.session.give_up(&failure);
            Err(SendError { failure, source_state })
        }
    }
}

pub(super) struct Source<'a> {
    pub(super) vm: &'a dyn SourceVm,
    pub(super) session: Session<'a>,
    pub(super) ram: RamSender<'a>,
    pub(super) options: &'a SendOptions,
    pub(super) gauges: &'a Gauges,
    pub(super) report: SendReport,
    /// What the receiver loads only if the values allow it.
    pub(super) conditions: Conditions,
    /// The shortest that was seen.
    pub(super) round_trip: Duration,
    /// vCPUs of the machine.
    pub(super) cpus: usize,
}

impl Source<'_> {
    fn run(&mut self, to: &str) -> Result<(), (Failure, SourceState)> {
        let as_it_was = |failure| (failure, SourceState::Resumed);
        let table = self.negotiate().map_err(as_it_was)?;
        let log = DirtyLog::start(self.vm).map_err(|error| as_it_was(error.into()))?;
        self.begin_rounds();
        let still = self.stand_still(&table)?;
        let (mut part, bound) = (still.since, still.bound);
        self.session.end_pause_at(bound.end());
        let given_away = match self.empty(&still.sections, &mut part) {
            Ok(()) => still.paused.give_away(&mut self.session),
            Err(failure) => Err((still.paused, failure)),
        };
        let (given_away, said) = given_away.map_err(|(paused, failure)| bound.give_back(paused, failure))?;

        let running = said.and_then(|()| given_away.wait_until_running(&mut self.session, to));
        let running = running.map_err(|failure| (failure, SourceState::Undecided))?;
        let pause = &mut self.report.pause;
        pause.handover = lap(&mut part);
        pause.resume = Duration::from_micros(running.resume_us);
        let downtime = pause.total();
        self.gauges.update(|figures| figures.downtime = Some(downtime));
        self.note_phase();
        drop(log);
        Ok(())
    }

    /// Everything up to the receiver's verdict.
    fn negotiate(&mut self) -> Result<SchemaTable, Failure> {
        let migration = Id::random().map_err(Failure::Random)?;
        self.session.begin()?;
        self.note_phase();
        self.session.send_prefix()?;
        self.session
            .send(RecordKind::Hello, &[&Hello::new(Side::Source, migration).to_cbor()])?;
        self.session.receive_prefix()?;
        let answer = self.session.expect_with(RecordKind::Hello, Hello::from_cbor)?;
        if answer.role != Side::Destination || answer.migration != migration {
            return Err(Failure::Protocol("its hello is not the answer to ours".into()));
        }

        let header = Header::new(migration, self.vm.identity());
        self.session.send(RecordKind::Header, &[&header.to_cbor()])?;
        let table = SchemaTable::new(&self.vm.schemas());
        self.session.send(RecordKind::Schemas, &[&table.to_cbor()])?;
        let manifest = Manifest {
            recipe: self.vm.recipe(),
            inventory: self.vm.inventory(),
        };
        self.session.send(RecordKind::Manifest, &[&manifest.to_cbor()])?;
        self.note_phase();

        let verdict: PreflightReport = self.session.expect(RecordKind::Preflight)?;
        if !verdict.accepts() {
            return Err(Failure::Refused(verdict));
        }
        self.conditions = Conditions::new(&verdict, &table).map_err(|source| Failure::Contents {
            kind: RecordKind::Preflight,
            source,
        })?;
        self.look_at_conditions()?;
        self.report.notes = verdict.notes.iter().map(ToString::to_string).collect();
        Ok(table)
    }

    /// Fails if the guest, which runs, is in a state that the receiver cannot load.
    fn look_at_conditions(&self) -> Result<(), Failure> {
        if !self.conditions.is_empty() {
            self.conditions.check(&self.vm.peek())?;
        }
        Ok(())
    }

    /// RAM begins to flow.
    fn begin_rounds(&mut self) {
        let total = self.ram.total_bytes();
        self.report.ram_bytes = total;
        self.report.setup = self
            .session
            .entered()
            .first()
            .map_or(Duration::ZERO, |(_, at)| at.elapsed());
        let setup = self.report.setup;
        self.gauges.update(|figures| {
            figures.setup = Some(setup);
            figures.total_bytes = total;
            figures.remaining_bytes = total;
        });
        self.note_phase();
    }

    /// Rounds with the guest running, until it is time to stop it; returns how long the pause is predicted to be.
    pub(super) fn rounds(&mut self, switchover: &mut Switchover) -> Result<Duration, Failure> {
        loop {
            let number = self.ram.begin_round();
            self.gauges.begin_round(number);
            let began = Instant::now();
            if number == 1 {
                self.ram.send_populated(&mut self.session)?;
            } else {
                self.ram.send_dirty(&mut self.session)?;
            }
            let sent = Instant::now();
            self.session.say(
                RecordKind::RoundEnd,
                &RoundEnd {
                    round: number,
                    records: self.ram.records(),
                },
            )?;
            let acknowledged: RoundAck = self.session.expect(RecordKind::RoundAck)?;
            if acknowledged.round != number {
                return Err(Failure::Protocol(format!(
                    "it acknowledged round {}",
                    acknowledged.round
                )));
            }
            self.round_trip = self.round_trip.min(sent.elapsed());

            let took = began.elapsed();
            self.vm.dirty_log_sync()?;
            let left = self.ram.dirty_bytes();
            let round = self.ram.round();
            round.took = took;
            round.left_bytes = left;
            let round = *round;
            self.report.rounds.push(round);
            switchover.set_fixed_cost(fixed_cost(self.cpus, self.round_trip));
            let next = switchover.after(Round {
                sent: round.sent_bytes,
                took,
                left,
            });
            let expected = switchover.predicted();
            self.gauges.update(|figures| {
                figures.remaining_bytes = left;
                figures.raw_pages += round.raw_pages;
                figures.zero_pages += round.zero_pages;
                figures.dirty_bytes_per_second = round.dirty_bytes_per_second();
                figures.bytes_per_second = round.bytes_per_second();
                figures.expected_downtime = expected;
            });
            self.note_phase();
            self.look_at_conditions()?;
            match next? {
                Next::AnotherRound => {}
                Next::Stop(predicted) => return Ok(predicted),
            }
        }
    }

    pub(super) fn note_phase(&self) {
        let (phase, sent) = (self.session.phase(), self.session.sent());
        self.gauges.update(|figures| {
            figures.phase = Some(phase);
            figures.transferred_bytes = sent;
        });
        self.gauges.entered(phase);
    }
}

/// The time since `from`, which is set to now.
pub(super) fn lap(from: &mut Instant) -> Duration {
    let now = Instant::now();
    now - std::mem::replace(from, now)
}

/// Dirty logging, for as long as it lives.
struct DirtyLog<'a>(&'a dyn SourceVm);

impl<'a> DirtyLog<'a> {
    fn start(vm: &'a dyn SourceVm) -> Result<Self, VmError> {
        vm.dirty_log_start()?;
        Ok(Self(vm))
    }
}

impl Drop for DirtyLog<'_> {
    fn drop(&mut self) {
        self.0.dirty_log_stop();
    }
}
