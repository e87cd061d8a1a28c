//! Which record may follow which: the protocol as one table per kind of transfer.
//!
//! Sender and receiver both walk the table, so that neither can take a step that the other does not expect, and the
//! tests of faults iterate over the same list. A phase names what is being waited for.
//!
//! ```text
//!  file     Header -> Schemas -> Manifest -> Sections -> Index -> Done        (RAM lies outside the records)
//!
//!  precopy  source                                          destination
//!           Hello        ---------------------------------->
//!           Hello        <----------------------------------
//!           Header, Schemas, Manifest  -------------------->
//!           Preflight    <----------------------------------  the verdict, before a byte of RAM
//!           Rounds       RAM*, end of round  -------------->  (<--- round received)
//!           Pause        pause, RAM*, end of round  -------->  the guest stands still, and what is left fits the limit
//!           Sections     section*, end of sections  -------->
//!           Ready        <----------------------------------  everything is loaded and verified
//!           Go           ---------------------------------->  from here the source never runs by itself
//!           Running      <----------------------------------  the guest lives there
//! ```

use std::fmt;

use crate::record::RecordKind;

/// What a transfer ends in. Postcopy and live snapshots will be rows of the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferKind {
    /// A snapshot file.
    File,
    /// A live migration by rounds.
    Precopy,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The machine that is saved or sent.
    Source,
    /// The machine that is to be.
    Destination,
}

/// Where a transfer stands, by what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The source says who it is.
    Hello,
    /// The destination says who it is.
    HelloBack,
    /// Identities and features.
    Header,
    /// Descriptions.
    Schemas,
    /// Recipe and inventory.
    Manifest,
    /// The destination's verdict.
    Preflight,
    /// RAM, with the guest running.
    Rounds,
    /// What is left of RAM, with the guest paused.
    Pause,
    /// Device state.
    Sections,
    /// A file's index.
    Index,
    /// The destination loads.
    Ready,
    /// The source gives the guest away.
    Go,
    /// The destination begins to run.
    Running,
    /// Nothing follows.
    Done,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 14] = [
        Self::Hello,
        Self::HelloBack,
        Self::Header,
        Self::Schemas,
        Self::Manifest,
        Self::Preflight,
        Self::Rounds,
        Self::Pause,
        Self::Sections,
        Self::Index,
        Self::Ready,
        Self::Go,
        Self::Running,
        Self::Done,
    ];

    /// The phases that a transfer of this kind passes, in order.
    pub fn of(kind: TransferKind) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |&phase| phase == Self::Done || TABLE.iter().any(|row| row.kind == kind && row.phase == phase))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::HelloBack => "hello back",
            Self::Header => "header",
            Self::Schemas => "schemas",
            Self::Manifest => "manifest",
            Self::Preflight => "preflight",
            Self::Rounds => "rounds",
            Self::Pause => "pause",
            Self::Sections => "device state",
            Self::Index => "index",
            Self::Ready => "ready",
            Self::Go => "go",
            Self::Running => "running",
            Self::Done => "done",
        })
    }
}

/// One allowed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// In which kind of transfer.
    pub kind: TransferKind,
    /// Where it stands.
    pub phase: Phase,
    /// Who speaks.
    pub from: Side,
    /// What is said.
    pub record: RecordKind,
    /// Where that leads.
    pub next: Phase,
}

const fn row(kind: TransferKind, phase: Phase, from: Side, record: RecordKind, next: Phase) -> Row {
    Row {
        kind,
        phase,
        from,
        record,
        next,
    }
}

/// The protocol. Heartbeats and aborts, which any side may send in any phase of a live migration, are not listed.
pub const TABLE: &[Row] = {
    use Side::{Destination, Source};
    use TransferKind::{File, Precopy};
    &[
        row(File, Phase::Header, Source, RecordKind::Header, Phase::Schemas),
        row(File, Phase::Schemas, Source, RecordKind::Schemas, Phase::Manifest),
        row(File, Phase::Manifest, Source, RecordKind::Manifest, Phase::Sections),
        row(File, Phase::Sections, Source, RecordKind::Section, Phase::Sections),
        row(File, Phase::Sections, Source, RecordKind::SectionsEnd, Phase::Index),
        row(File, Phase::Index, Source, RecordKind::Index, Phase::Index),
        row(File, Phase::Index, Source, RecordKind::Trailer, Phase::Done),
        row(Precopy, Phase::Hello, Source, RecordKind::Hello, Phase::HelloBack),
        row(Precopy, Phase::HelloBack, Destination, RecordKind::Hello, Phase::Header),
        row(Precopy, Phase::Header, Source, RecordKind::Header, Phase::Schemas),
        row(Precopy, Phase::Schemas, Source, RecordKind::Schemas, Phase::Manifest),
        row(Precopy, Phase::Manifest, Source, RecordKind::Manifest, Phase::Preflight),
        row(
            Precopy,
            Phase::Preflight,
            Destination,
            RecordKind::Preflight,
            Phase::Rounds,
        ),
        row(Precopy, Phase::Rounds, Source, RecordKind::Ram, Phase::Rounds),
        row(Precopy, Phase::Rounds, Source, RecordKind::RoundEnd, Phase::Rounds),
        row(Precopy, Phase::Rounds, Destination, RecordKind::RoundAck, Phase::Rounds),
        row(Precopy, Phase::Rounds, Source, RecordKind::Pause, Phase::Pause),
        row(Precopy, Phase::Pause, Source, RecordKind::Ram, Phase::Pause),
        row(Precopy, Phase::Pause, Source, RecordKind::RoundEnd, Phase::Sections),
        row(Precopy, Phase::Sections, Source, RecordKind::Section, Phase::Sections),
        row(Precopy, Phase::Sections, Source, RecordKind::SectionsEnd, Phase::Ready),
        row(Precopy, Phase::Ready, Destination, RecordKind::Ready, Phase::Go),
        row(Precopy, Phase::Go, Source, RecordKind::Go, Phase::Running),
        row(Precopy, Phase::Running, Destination, RecordKind::Running, Phase::Done),
    ]
};

/// A record that has no place where the transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {record} record has no place in phase {phase}: the other side broke the protocol, or the data is damaged")]
pub struct OutOfOrder {
    /// Where the transfer stands.
    pub phase: Phase,
    /// What came.
    pub record: RecordKind,
}

/// Walks the table: knows where one transfer stands, and refuses what has no place there.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    kind: TransferKind,
    phase: Phase,
}

impl Walk {
    /// A transfer that begins.
    #[must_use]
    pub fn new(kind: TransferKind) -> Self {
        let phase = match kind {
            TransferKind::File => Phase::Header,
            TransferKind::Precopy => Phase::Hello,
        };
        Self { kind, phase }
    }

    /// Where the transfer stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes the step of a record that `from` sends; returns where that leads.
    ///
    /// # Errors
    ///
    /// [`OutOfOrder`]; the walk stays where it was.
    pub fn step(&mut self, from: Side, record: RecordKind) -> Result<Phase, OutOfOrder> {
        if matches!(record, RecordKind::Heartbeat | RecordKind::Abort) && self.kind != TransferKind::File {
            return Ok(self.phase);
        }
        let row = TABLE
            .iter()
            .find(|row| (row.kind, row.phase, row.from, row.record) == (self.kind, self.phase, from, record))
            .ok_or(OutOfOrder {
                phase: self.phase,
                record,
            })?;
        self.phase = row.next;
        Ok(self.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_has_two_outcomes() {
        for (position, a) in TABLE.iter().enumerate() {
            for b in &TABLE[position + 1..] {
                assert_ne!((a.kind, a.phase, a.from, a.record), (b.kind, b.phase, b.from, b.record));
            }
        }
    }

    #[test]
    fn every_phase_of_a_kind_leads_on_to_its_end() {
        for kind in [TransferKind::File, TransferKind::Precopy] {
            for phase in Phase::of(kind).filter(|&phase| phase != Phase::Done) {
                assert!(
                    TABLE
                        .iter()
                        .any(|row| row.kind == kind && row.phase == phase && row.next > phase),
                    "{kind:?} never leaves {phase}"
                );
                assert!(
                    TABLE.iter().all(|row| row.kind != kind || row.next >= row.phase),
                    "{kind:?} goes back"
                );
            }
        }
    }

    #[test]
    fn go_has_no_place_before_ready() {
        let mut walk = Walk::new(TransferKind::Precopy);
        for (from, record) in [
            (Side::Source, RecordKind::Hello),
            (Side::Destination, RecordKind::Hello),
            (Side::Source, RecordKind::Header),
            (Side::Source, RecordKind::Schemas),
            (Side::Source, RecordKind::Manifest),
            (Side::Destination, RecordKind::Preflight),
            (Side::Source, RecordKind::Ram),
            (Side::Source, RecordKind::Pause),
            (Side::Source, RecordKind::RoundEnd),
            (Side::Source, RecordKind::Section),
            (Side::Source, RecordKind::SectionsEnd),
        ] {
            assert!(walk.step(Side::Source, RecordKind::Go).is_err());
            walk.step(from, record).expect("in order");
        }
        let refused = walk.step(Side::Source, RecordKind::Go).expect_err("not ready");
        assert_eq!(
            refused,
            OutOfOrder {
                phase: Phase::Ready,
                record: RecordKind::Go
            }
        );
        walk.step(Side::Destination, RecordKind::Ready).expect("ready");
        assert_eq!(walk.step(Side::Source, RecordKind::Go), Ok(Phase::Running));
    }
}
