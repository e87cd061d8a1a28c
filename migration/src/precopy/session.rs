//! One side's end of the conversation: records in the order of the table, with phases entered as they lead there.
//!
//! Both sides walk [`TABLE`](crate::phases::TABLE) with every record that they send or receive. A step into another
//! phase sets the deadlines that hold there, is written down for the report, and is where faults strike.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::deadlines::{Deadlines, End};
use super::failure::Failure;
use super::message::{Abort, Message};
use crate::channel::{Channel, ChannelError, Patience};
use crate::fault::{FaultAction, Faults};
use crate::header::{PREFIX_LEN, check_prefix, prefix};
use crate::phases::{Phase, Side, TransferKind, Walk};
use crate::record::{HEADER_LEN, RecordHeader, RecordKind};

/// How many bytes of a payload are waited for before memory is taken for more.
const STEP: usize = 256 << 10;

/// What a rest looks up from so often, to see what has changed.
const REST: Duration = Duration::from_millis(50);

/// How long a side that gives up tries to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct Session<'a> {
    channel: Channel,
    walk: Walk,
    side: Side,
    deadlines: Deadlines,
    faults: &'a dyn Faults,
    entered: Vec<(Phase, Instant)>,
    /// When what goes on now has to be over, since the guest stands still.
    blackout_end: Option<End>,
    /// What the last record brought: the first `length` bytes of a buffer that is kept.
    buffer: Vec<u8>,
    length: usize,
    last_sent: Instant,
    /// Whether the peer knows that it talks to a Tern.
    introduced: bool,
}

impl<'a> Session<'a> {
    /// A conversation that begins on a connection that stands.
    pub(super) fn open(channel: Channel, side: Side, deadlines: Deadlines, faults: &'a dyn Faults) -> Self {
        Self {
            channel,
            walk: Walk::new(TransferKind::Precopy),
            side,
            deadlines,
            faults,
            entered: Vec::new(),
            blackout_end: None,
            buffer: Vec::new(),
            length: 0,
            last_sent: Instant::now(),
            introduced: false,
        }
    }

    /// Enters the first phase.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.enter(self.walk.phase())
    }

    pub(super) fn phase(&self) -> Phase {
        self.walk.phase()
    }

    /// When each phase so far was entered.
    pub(super) fn entered(&self) -> &[(Phase, Instant)] {
        &self.entered
    }

    /// The phases so far, each with how long after `began` it was entered.
    pub(super) fn phases_since(&self, began: Instant) -> Vec<(Phase, Duration)> {
        self.entered.iter().map(|&(phase, at)| (phase, at - began)).collect()
    }

    pub(super) fn sent(&self) -> u64 {
        self.channel.sent()
    }

    pub(super) fn received(&self) -> u64 {
        self.channel.received()
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Ends the pause that is about to be told to the peer at `end`, if its deadline is not earlier.
    pub(super) fn end_pause_at(&mut self, end: End) {
        self.blackout_end = Some(end);
        let patience = self.deadlines.patience(Phase::Pause, self.blackout_end);
        self.channel.set_patience(patience);
    }

    /// Lets the time run for which *go* is taken. Comes before *ready* is said: this side may be stopped right behind it.
    pub(super) fn limit_go(&mut self) {
        self.blackout_end = Some(self.deadlines.go_end());
    }

    /// Fails if the time that the guest may stand still is over, whatever there is to be read.
    pub(super) fn check_blackout(&self) -> Result<(), Failure> {
        let phase = self.walk.phase();
        let standing_still = matches!(phase, Phase::Pause | Phase::Sections | Phase::Ready | Phase::Go);
        if standing_still && self.blackout_end.is_some_and(End::has_passed) {
            return Err(match (self.side, phase) {
                (Side::Destination, Phase::Go) => Failure::LateGo,
                _ => Failure::channel(phase, ChannelError::Overdue),
            });
        }
        Ok(())
    }

    /// Sends the magic number that opens a connection in both directions.
    pub(super) fn send_prefix(&mut self) -> Result<(), Failure> {
        let sent = self.channel.send(&[&prefix()]);
        self.introduced = sent.is_ok();
        self.name_phase(sent)
    }

    /// Receives the peer's magic number.
    pub(super) fn receive_prefix(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; PREFIX_LEN];
        let received = self.channel.receive(&mut bytes);
        self.name_phase(received)?;
        check_prefix(&bytes)?;
        Ok(())
    }

    /// Sends a message.
    pub(super) fn say(&mut self, kind: RecordKind, message: &impl Message) -> Result<(), Failure> {
        self.send(kind, &[&message.to_payload()])
    }

    /// Sends a record with a payload in parts, and takes the step that it means.
    pub(super) fn send(&mut self, kind: RecordKind, payload: &[&[u8]]) -> Result<(), Failure> {
        let mut walk = self.walk;
        walk.step(self.side, kind)?;
        let header = RecordHeader::new(kind, payload)?.to_bytes();
        let sent = match payload {
            [only] => self.channel.send(&[&header, only]),
            [first, second] => self.channel.send(&[&header, first, second]),
            parts => self.channel.send(&[&header, &parts.concat()]),
        };
        self.name_phase(sent)?;
        self.last_sent = Instant::now();
        self.step_to(walk)
    }

    /// Says that this side is alive, if it has said nothing for a while.
    pub(super) fn keep_alive(&mut self) -> Result<(), Failure> {
        if self.last_sent.elapsed() < self.deadlines.heartbeat {
            return Ok(());
        }
        self.send(RecordKind::Heartbeat, &[])
    }

    /// Sends nothing for `time`, or for less, but that this side is alive, and looks whether the peer has given up.
    pub(super) fn rest(&mut self, time: Duration) -> Result<(), Failure> {
        self.keep_alive()?;
        let rested = self.channel.rest(time.min(REST));
        self.name_phase(rested)?;
        self.check_peer()
    }

    /// Looks, without waiting, whether the peer has given up or is gone; in a phase in which it has nothing to say.
    pub(super) fn check_peer(&mut self) -> Result<(), Failure> {
        if self.channel.is_quiet() {
            return Ok(());
        }
        match self.receive_any()? {
            RecordKind::Heartbeat => Ok(()),
            RecordKind::Abort => Err(self.peer_gave_up()),
            kind => Err(Failure::Protocol(format!("a {kind} record came unasked"))),
        }
    }

    /// Receives the next record that says something, and takes the step that it means.
    pub(super) fn receive(&mut self) -> Result<(RecordKind, &[u8]), Failure> {
        loop {
            let kind = self.receive_any()?;
            match kind {
                RecordKind::Heartbeat => {}
                RecordKind::Abort => return Err(self.peer_gave_up()),
                kind => return Ok((kind, self.payload())),
            }
        }
    }

    /// Receives a record of this kind and reads its message.
    pub(super) fn expect<M: Message>(&mut self, kind: RecordKind) -> Result<M, Failure> {
        self.expect_with(kind, |payload| M::from_payload(payload))
    }

    /// Receives a record of this kind and has its payload read.
    pub(super) fn expect_with<T>(
        &mut self,
        kind: RecordKind,
        read: impl FnOnce(&[u8]) -> Result<T, crate::CborError>,
    ) -> Result<T, Failure> {
        let (found, payload) = self.receive()?;
        if found != kind {
            return Err(Failure::Protocol(format!("a {found} record came where {kind} was due")));
        }
        read(payload).map_err(|source| Failure::Contents { kind, source })
    }

    /// Does something that takes a while and needs no conversation, and says now and then that this side is alive.
    pub(super) fn alive_while<T>(&mut self, work: impl FnOnce() -> T) -> Result<T, Failure> {
        let (done, over) = (Mutex::new(false), Condvar::new());
        let interval = self.deadlines.heartbeat;
        std::thread::scope(|scope| {
            let beating = scope.spawn(|| {
                let mut done = done.lock();
                while !*done {
                    if over.wait_for(&mut done, interval).timed_out() {
                        self.keep_alive()?;
                    }
                }
                Ok(())
            });
            // Ends the heartbeat also if the work panics.
            let stop = Stop(&done, &over);
            let result = work();
            drop(stop);
            match beating.join() {
                Ok(Ok(())) => Ok(result),
                Ok(Err(failure)) => Err(failure),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Tells the peer why this side gives up, and ends the connection. The guest must not wait for this.
    pub(super) fn give_up(mut self, failure: &Failure) {
        // The user's cancellation has ended the migration and must not end this.
        if let Ok(token) = crate::cancel::CancelToken::new() {
            self.channel.set_cancel_token(token);
        }
        self.be_brief();
        match failure {
            // It knows, or is not there to hear it.
            Failure::Peer(_) | Failure::Prefix(_) => {}
            failure if failure.is_end_of_peer() => {}
            Failure::Refused(_) if self.side == Side::Destination => self.channel.linger(),
            Failure::Refused(_) => {}
            failure => {
                let mut because = failure.to_string();
                because.truncate(because.floor_char_boundary(3 << 10));
                let payload = Abort { because }.to_payload();
                let introduction = prefix();
                let introduction = if self.introduced { &[] } else { &introduction[..] };
                let said = RecordHeader::new(RecordKind::Abort, &[&payload])
                    .is_ok_and(|header| self.channel.send(&[introduction, &header.to_bytes(), &payload]).is_ok());
                if said && !matches!(failure, Failure::Channel { .. }) {
                    self.channel.linger();
                }
            }
        }
        self.channel.close();
    }

    /// After an error: if the peer has closed the connection, its reason may still be there to be read.
    pub(super) fn ask_why(&mut self, failure: Failure) -> Failure {
        if !failure.is_end_of_peer() {
            return failure;
        }
        self.be_brief();
        loop {
            match self.receive_any() {
                Ok(RecordKind::Abort) => return self.peer_gave_up(),
                Ok(_) => {}
                Err(_) => return failure,
            }
        }
    }

    fn be_brief(&mut self) {
        self.channel.set_patience(Patience {
            silence: LAST_WORDS,
            end: Instant::now().checked_add(LAST_WORDS),
        });
    }

    fn receive_any(&mut self) -> Result<RecordKind, Failure> {
        loop {
            let mut header = [0; HEADER_LEN];
            let received = self.channel.receive(&mut header);
            self.name_phase(received)?;
            let header = RecordHeader::from_bytes(&header)?;
            let mut walk = self.walk;
            if let Some(kind) = header.kind {
                walk.step(self.peer(), kind)?;
            }
            let received = self.receive_payload(crate::ram::to_usize(header.length.into()));
            self.name_phase(received)?;
            header.check(self.payload())?;
            // What is in the socket's buffers needs no wait that a deadline could end, and may be old.
            if header.kind != Some(RecordKind::Abort) {
                self.check_blackout()?;
            }
            let Some(kind) = header.kind else { continue };
            self.step_to(walk)?;
            return Ok(kind);
        }
    }

    /// Memory grows with the bytes that arrive, not with the length that a header claims.
    fn receive_payload(&mut self, length: usize) -> Result<(), ChannelError> {
        let mut filled = 0;
        while filled < length {
            let end = length.min(filled + STEP);
            if self.buffer.len() < end {
                self.buffer.resize(end, 0);
            }
            self.channel.receive(&mut self.buffer[filled..end])?;
            filled = end;
        }
        self.length = length;
        Ok(())
    }

    fn payload(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    fn peer_gave_up(&self) -> Failure {
        match Abort::from_payload(self.payload()) {
            // It ends up on a terminal.
            Ok(abort) => Failure::Peer(abort.because.replace(char::is_control, " ")),
            Err(source) => Failure::Contents {
                kind: RecordKind::Abort,
                source,
            },
        }
    }

    fn peer(&self) -> Side {
        match self.side {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }

    fn step_to(&mut self, walk: Walk) -> Result<(), Failure> {
        let before = self.walk.phase();
        self.walk = walk;
        if walk.phase() == before {
            Ok(())
        } else {
            self.enter(walk.phase())
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Failure> {
        self.entered.push((phase, Instant::now()));
        if phase == Phase::Pause {
            let own = self.deadlines.blackout_end();
            self.blackout_end = Some(self.blackout_end.map_or(own, |end| end.min(own)));
        }
        self.channel
            .set_patience(self.deadlines.patience(phase, self.blackout_end));
        let fault = if phase == Phase::Done {
            None
        } else {
            self.faults.on_phase(self.side, phase)
        };
        match fault {
            None => Ok(()),
            Some(FaultAction::Cut) => {
                self.channel.close();
                Ok(())
            }
            Some(FaultAction::Stall) => Err(Failure::channel(phase, self.channel.stall())),
            Some(action @ FaultAction::Error) => Err(Failure::Injected { phase, action }),
            Some(FaultAction::Abort) => panic!("the fault abort was injected in phase {phase}"),
        }
    }

    fn name_phase<T>(&self, result: Result<T, ChannelError>) -> Result<T, Failure> {
        result.map_err(|source| Failure::channel(self.walk.phase(), source))
    }
}

struct Stop<'a>(&'a Mutex<bool>, &'a Condvar);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
}
