//! The source's RAM, round by round: which pages go into which records.
//!
//! The rule that no write is lost (see [`hw::memory::DirtyBitmaps`]): a page is taken off the bitmap, then the log is
//! armed for it, and only then is it read. Arming is done window by window just before the pages are read, so that a
//! large guest does not stumble over all of its memory being write-protected at once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use hw::memory::{DirtyClient, RamBlock};

use super::failure::Failure;
use super::session::Session;
use crate::fault::{Faults, PageFault};
use crate::pacing::{Bandwidth, Pacer};
use crate::ram::{PAGE_SIZE, RamBuffer, RamError, RamHead, to_u64};
use crate::record::RecordKind;
use crate::stats::{Gauges, RoundReport};
use crate::vm::SourceVm;

/// How much of a block is taken and armed at once.
const WINDOW: u64 = 64 << 20;

/// How many pages are copied at once: few enough that the passes over them find them in the first-level cache.
const COPY: u64 = 8;

const CLIENT: DirtyClient = DirtyClient::Migration;

/// Sends the pages of a machine.
pub(super) struct RamSender<'a> {
    vm: &'a dyn SourceVm,
    blocks: Vec<Arc<RamBlock>>,
    faults: &'a dyn Faults,
    gauges: &'a Gauges,
    buffer: RamBuffer,
    round: RoundReport,
    records: u64,
    /// Gone once the guest stands still.
    pacer: Option<Pacer>,
}

impl<'a> RamSender<'a> {
    pub(super) fn new(vm: &'a dyn SourceVm, faults: &'a dyn Faults, gauges: &'a Gauges, limit: Bandwidth) -> Self {
        Self {
            vm,
            blocks: vm.ram(),
            faults,
            gauges,
            buffer: RamBuffer::new(),
            round: RoundReport::default(),
            records: 0,
            pacer: Some(Pacer::new(limit)),
        }
    }

    /// RAM of the machine in bytes.
    pub(super) fn total_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.size()).sum()
    }

    /// Bytes that are dirty, as of the last look at the log.
    pub(super) fn dirty_bytes(&self) -> u64 {
        let pages: u64 = self.blocks.iter().map(|block| block.dirty().count(CLIENT)).sum();
        pages * PAGE_SIZE
    }

    /// RAM records sent so far.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// What the round so far consists of, for the one who times it.
    pub(super) fn round(&mut self) -> &mut RoundReport {
        &mut self.round
    }

    /// Sends as fast as it goes from now on, whatever the limit: the guest stands still for it.
    pub(super) fn hurry(&mut self) {
        self.pacer = None;
    }

    /// Waits until the limit allows more.
    fn wait_for_turn(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        session.check_peer()?;
        while let Some(wait) = self.pacer.as_mut().and_then(|pacer| pacer.wait(Instant::now())) {
            session.rest(wait)?;
        }
        Ok(())
    }

    /// Begins the next round.
    pub(super) fn begin_round(&mut self) -> u32 {
        self.round = RoundReport {
            number: self.round.number + 1,
            ..RoundReport::default()
        };
        self.round.number
    }

    /// Sends all that was ever written. Logging has begun, and nothing has been taken off the log yet.
    pub(super) fn send_populated(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        // An accelerator that begins with every page marked dirty (and none armed) is caught up with here.
        self.vm.dirty_log_sync()?;
        for (index, block) in self.blocks.clone().iter().enumerate() {
            let populated = block.populated_ranges()?;
            let mut rest = populated.as_slice();
            for window in windows(0..block.size()) {
                self.take_and_arm(block, window.clone())?;
                session.keep_alive()?;
                while let Some(range) = rest.first().filter(|range| range.start < window.end) {
                    let part = range.start.max(window.start)..range.end.min(window.end);
                    self.send_range(session, index, part, false)?;
                    if range.end > window.end {
                        break;
                    }
                    rest = &rest[1..];
                }
            }
            self.flush(session, index)?;
            // A page that was first written between the list and its window's arming is in no log.
            for range in difference(&block.populated_ranges()?, &populated) {
                block.dirty().mark_for(CLIENT, range.start, range.end - range.start);
            }
        }
        Ok(())
    }

    /// Sends what is dirty as of the last look at the log.
    pub(super) fn send_dirty(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        for (index, block) in self.blocks.clone().iter().enumerate() {
            let mut from = 0;
            while let Some(dirty) = block.dirty().next_dirty(CLIENT, from) {
                let window = dirty..block.size().min(dirty + WINDOW);
                from = window.end;
                for run in self.take_and_arm(block, window)? {
                    self.send_dirty_run(session, index, run)?;
                }
            }
            self.flush(session, index)?;
        }
        Ok(())
    }

    /// Takes the dirty pages of a window and arms the log for them.
    fn take_and_arm(&self, block: &RamBlock, window: Range<u64>) -> Result<Vec<Range<u64>>, Failure> {
        let runs = block.dirty().take(CLIENT, window);
        if let (Some(first), Some(last)) = (runs.first(), runs.last()) {
            self.vm.dirty_log_clear(block, first.start..last.end)?;
        }
        Ok(runs)
    }

    fn send_dirty_run(&mut self, session: &mut Session<'_>, index: usize, run: Range<u64>) -> Result<(), Failure> {
        let block = Arc::clone(&self.blocks[index]);
        let mut kept = run.start;
        for page in pages(run.clone()) {
            if self.faults.lose_dirty(block.name(), page / PAGE_SIZE) {
                self.send_range(session, index, kept..page, true)?;
                kept = page + PAGE_SIZE;
            }
        }
        self.send_range(session, index, kept..run.end, true)
    }

    fn send_range(
        &mut self,
        session: &mut Session<'_>,
        index: usize,
        range: Range<u64>,
        explicit_zeros: bool,
    ) -> Result<(), Failure> {
        let block = Arc::clone(&self.blocks[index]);
        let mut at = range.start;
        while at < range.end {
            if self.buffer.is_full() {
                self.flush(session, index)?;
            }
            let count = COPY.min((range.end - at) / PAGE_SIZE).min(self.buffer.room());
            let first = at / PAGE_SIZE;
            at += count * PAGE_SIZE;

            // The common case copies in one go; where a page is tampered with, each page goes by itself.
            let tampered = |page| self.faults.on_page(block.name(), page);
            let faults: Vec<_> = (first..first + count)
                .filter_map(|page| Some((page, tampered(page)?)))
                .collect();
            if faults.is_empty() {
                let added = self
                    .buffer
                    .add(first, count, explicit_zeros, |into| block.read(first * PAGE_SIZE, into))?;
                self.round.count(added);
                continue;
            }
            for page in first..first + count {
                let fault = faults.iter().find(|(at, _)| *at == page).map(|(_, fault)| *fault);
                let read = |into: &mut [u8]| match fault {
                    None => block.read(page * PAGE_SIZE, into),
                    Some(PageFault::SwapWith(other)) => block.read(other * PAGE_SIZE, into),
                    Some(PageFault::Zero | PageFault::Drop) => {
                        into.fill(0);
                        Ok(())
                    }
                };
                if fault != Some(PageFault::Drop) {
                    let added = self.buffer.add(page, 1, explicit_zeros, read)?;
                    self.round.count(added);
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, session: &mut Session<'_>, index: usize) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return session.keep_alive();
        }
        let head = RamHead {
            block: u16::try_from(index).map_err(|_| RamError(format!("{index} blocks are too many")))?,
            channel: 0,
            round: self.round.number,
            sequence: self.records,
        };
        self.wait_for_turn(session)?;
        let (runs, data) = self.buffer.payload(&head);
        session.send(RecordKind::Ram, &[&runs, data])?;
        self.records += 1;
        let sent = to_u64(runs.len() + data.len() + crate::record::HEADER_LEN);
        self.round.sent_bytes += sent;
        if let Some(pacer) = &mut self.pacer {
            pacer.sent(Instant::now(), sent);
        }
        let (transferred, data) = (session.sent(), to_u64(data.len()));
        self.gauges.update(|figures| {
            figures.transferred_bytes = transferred;
            figures.remaining_bytes = figures.remaining_bytes.saturating_sub(data);
        });
        self.buffer.clear();
        Ok(())
    }
}

/// The windows of a range, in order.
fn windows(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let window = start..range.end.min(start + WINDOW);
        start = window.end;
        (window.start < window.end).then_some(window)
    })
}

/// The offsets of the pages of a range.
fn pages(range: Range<u64>) -> impl Iterator<Item = u64> {
    (range.start / PAGE_SIZE..range.end / PAGE_SIZE).map(|page| page * PAGE_SIZE)
}

/// What `now` covers and `before` did not. Both ascend, each without overlaps.
fn difference(now: &[Range<u64>], before: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut new = Vec::new();
    let mut known = before.iter().peekable();
    for range in now {
        let mut at = range.start;
        while let Some(covered) = known.peek() {
            if covered.start >= range.end {
                break;
            }
            if covered.start > at {
                new.push(at..covered.start);
            }
            at = at.max(covered.end);
            if covered.end > range.end {
                break;
            }
            known.next();
        }
        if at < range.end {
            new.push(at..range.end);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_cover_a_range_once() {
        assert_eq!(
            windows(0..WINDOW * 2 + 4096).collect::<Vec<_>>(),
            [0..WINDOW, WINDOW..2 * WINDOW, 2 * WINDOW..2 * WINDOW + 4096]
        );
        assert_eq!(windows(5..5).count(), 0);
    }

    fn ranges(bits: u64) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
            match found.last_mut() {
                Some(last) if last.end == bit => last.end += 1,
                _ => found.push(bit..bit + 1),
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_difference_holds_exactly_what_is_new(now in any::<u64>(), before in any::<u64>()) {
            let new = difference(&ranges(now), &ranges(before)).into_iter().flatten().fold(0, |bits, bit| bits | 1 << bit);
            prop_assert_eq!(new, now & !before);
        }
    }
}
