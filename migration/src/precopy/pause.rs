//! The pause of a source: the guest stands still, its state and what is left of its memory are judged once more, and
//! then it is sent.
//!
//! The receiver hears of a pause only when that judgement has been passed, so that one that is taken back costs it nothing.

use std::time::{Duration, Instant};

use vmstate::state::Section;

use super::deadlines::{Deadlines, End, longest_pause};
use super::failure::Failure;
use super::handover::Paused;
use super::message::{Ready, RoundEnd};
use super::source::{Source, SourceState, lap};
use crate::fault::spoil_sections;
use crate::record::RecordKind;
use crate::schemas::SchemaTable;
use crate::stats::{PauseReport, TakenBack};
use crate::switchover::{FixedCost, PauseTooLong, Switchover};

/// How many times the connection is crossed between the pause and the running guest: state, *ready*, *go*. In halves of
/// a round trip.
const CROSSINGS: u32 = 3;

/// What a pause of a machine with so many vCPUs is taken to cost with no RAM left to send, over a connection with this
/// round trip.
///
/// Nothing can measure it beforehand: it takes a pause to read a vCPU, and a vCPU's state to load one. So these are the
/// medians of idle guests with 1 to 8 vCPUs on two busy CPUs, as "x-tern-pause" shows them: 0.5 and 1.0 ms with one,
/// 2.5 and 5 ms with eight.
pub(super) fn fixed_cost(cpus: usize, round_trip: Duration) -> FixedCost {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let cost =
        |base, per_cpu| Duration::from_micros(base).saturating_add(Duration::from_micros(per_cpu).saturating_mul(cpus));
    FixedCost {
        before: cost(250, 250),
        after: cost(500, 500).saturating_add(round_trip.saturating_mul(CROSSINGS) / 2),
    }
}

/// A machine that stands still, with its state taken out.
pub(super) struct Still<'a> {
    pub(super) paused: Paused<'a>,
    pub(super) sections: Vec<Vec<u8>>,
    /// When what the report of the pause holds so far was done.
    pub(super) since: Instant,
    pub(super) bound: Bound,
}

/// How long a pause may get that was found to fit its limit, until *go* is said.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    began: Instant,
    limit: Duration,
    allowed: Duration,
}

impl Bound {
    fn new(began: Instant, limit: Duration, deadlines: &Deadlines) -> Self {
        Self {
            began,
            limit,
            allowed: longest_pause(limit).min(deadlines.blackout),
        }
    }

    pub(super) fn end(self) -> End {
        End::after(self.allowed.saturating_sub(self.began.elapsed()))
    }

    /// [`give_back`], where a pause that a deadline ended is named as what it was.
    pub(super) fn give_back(self, paused: Paused<'_>, failure: Failure) -> (Failure, SourceState) {
        let (failure, state) = give_back(paused, failure);
        let failure = match (&state, failure.is_deadline()) {
            (SourceState::Resumed, true) => Failure::StoodStill {
                stood_still: self.began.elapsed(),
                limit: self.limit,
                allowed: self.allowed,
            },
            _ => failure,
        };
        (failure, state)
    }
}

/// Lets a machine go on that could not be sent, and says why and what has become of it.
fn give_back(paused: Paused<'_>, failure: Failure) -> (Failure, SourceState) {
    let state = paused
        .resume()
        .map_or_else(|error| SourceState::Stuck(error.into()), |()| SourceState::Resumed);
    (failure, state)
}

impl<'a> Source<'a> {
    /// Rounds, and pauses that are taken back, until the machine stands still and what is left of it fits the limit.
    pub(super) fn stand_still(&mut self, table: &SchemaTable) -> Result<Still<'a>, (Failure, SourceState)> {
        let as_it_was = |failure| (failure, SourceState::Resumed);
        let limits = &self.options.limits;
        let mut switchover = Switchover::new(limits.clone(), fixed_cost(self.cpus, Duration::ZERO));
        loop {
            let predicted = self.rounds(&mut switchover).map_err(as_it_was)?;
            let began = Instant::now();
            let mut since = began;
            let paused = Paused::pause(self.vm).map_err(|error| as_it_was(error.into()))?;
            let mut pause = PauseReport {
                predicted,
                stop: lap(&mut since),
                ..PauseReport::default()
            };
            let sections = match self.take_state(table) {
                Ok(sections) => sections,
                Err(failure) => return Err(give_back(paused, failure)),
            };
            pause.save = lap(&mut since);
            // Behind everything that could still write to RAM.
            if let Err(error) = self.vm.dirty_log_sync() {
                return Err(give_back(paused, error.into()));
            }
            match switchover.in_pause(began.elapsed(), self.ram.dirty_bytes()) {
                Ok(()) => {
                    self.report.pause = pause;
                    return Ok(Still {
                        paused,
                        sections,
                        since,
                        bound: Bound::new(began, limits.downtime.get(), &self.options.deadlines),
                    });
                }
                Err(too_long) => {
                    self.take_back(paused, began, &too_long, switchover.may_pause_again())
                        .map_err(|state| (too_long.into(), state))?;
                }
            }
        }
    }

    fn take_state(&mut self, table: &SchemaTable) -> Result<Vec<Vec<u8>>, Failure> {
        let mut sections = self.vm.sections()?;
        self.conditions.check(&sections)?;
        spoil_sections(&*self.options.faults, table, &mut sections);
        encode(table, &sections)
    }

    /// Lets the guest go on after a pause that would have been too long; an error ends the migration with that.
    fn take_back(
        &mut self,
        paused: Paused<'_>,
        began: Instant,
        too_long: &PauseTooLong,
        again: bool,
    ) -> Result<(), SourceState> {
        paused.resume().map_err(|error| SourceState::Stuck(error.into()))?;
        self.report.taken_back.push(TakenBack {
            after_round: self.ram.round().number,
            stood_still: began.elapsed(),
            predicted: too_long.predicted,
            left_bytes: self.ram.dirty_bytes(),
        });
        self.gauges.update(|figures| {
            figures.pauses_taken_back += 1;
            figures.expected_downtime = Some(too_long.predicted);
        });
        if again { Ok(()) } else { Err(SourceState::Resumed) }
    }

    /// Sends all that is left of a machine that stands still, until the receiver has loaded it.
    pub(super) fn empty(&mut self, sections: &[Vec<u8>], part: &mut Instant) -> Result<(), Failure> {
        self.session.send(RecordKind::Pause, &[])?;
        self.note_phase();
        self.ram.hurry();
        let number = self.ram.begin_round();
        self.gauges.begin_round(number);
        self.ram.send_dirty(&mut self.session)?;
        self.session.say(
            RecordKind::RoundEnd,
            &RoundEnd {
                round: number,
                records: self.ram.records(),
            },
        )?;
        self.report.pause.ram = lap(part);
        let round = self.ram.round();
        round.took = self.report.pause.ram;
        self.report.pause.ram_bytes = round.sent_bytes;
        let round = *round;
        self.report.rounds.push(round);
        self.gauges.update(|figures| {
            figures.remaining_bytes = 0;
            figures.raw_pages += round.raw_pages;
            figures.zero_pages += round.zero_pages;
        });

        for payload in sections {
            self.session.send(RecordKind::Section, &[payload])?;
            self.report.pause.state_bytes += crate::ram::to_u64(payload.len());
        }
        self.session.send(RecordKind::SectionsEnd, &[])?;
        self.report.pause.state = lap(part);

        let ready: Ready = self.session.expect(RecordKind::Ready)?;
        self.report.pause.ready = lap(part);
        self.report.pause.load = Duration::from_micros(ready.load_us);
        Ok(())
    }
}

fn encode(table: &SchemaTable, sections: &[Section]) -> Result<Vec<Vec<u8>>, Failure> {
    sections
        .iter()
        .map(|section| Ok(crate::section::encode(table, section)?))
        .collect()
}
