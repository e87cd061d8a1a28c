//! The destination's RAM while it is being filled.

use std::sync::Arc;

use hw::memory::RamBlock;

use super::failure::Failure;
use crate::manifest::Recipe;
use crate::ram::{Encoding, PAGE_SIZE, RamRecord, Run, to_u64, to_usize};
use crate::stats::bytes;
use crate::vm::{finish_blocks, match_blocks};

/// Puts the pages of RAM records where they belong, and counts records so that a missing one is missed.
pub(super) struct RamReceiver {
    blocks: Vec<Block>,
    pages: Vec<u64>,
    round: u32,
    records: u64,
    raw_pages: u64,
}

struct Block {
    ram: Arc<RamBlock>,
    /// Pages that hold something: a zero page has to be written only where one of these is.
    received: Vec<u64>,
}

impl RamReceiver {
    /// Takes the blocks of a machine that was built from `recipe`, and makes sure that they are what it says and fresh:
    /// what the source does not send reads as zero there.
    pub(super) fn new(blocks: Vec<Arc<RamBlock>>, recipe: &Recipe) -> Result<Self, Failure> {
        match_blocks(recipe, &blocks)?;
        for block in &blocks {
            if !block.populated_ranges()?.is_empty() {
                block.discard(0..block.size())?;
            }
        }
        let pages: Vec<u64> = blocks.iter().map(|block| block.size() / PAGE_SIZE).collect();
        let block = |(ram, pages): (Arc<RamBlock>, &u64)| Block {
            ram,
            received: vec![0; to_usize(pages.div_ceil(64))],
        };
        Ok(Self {
            blocks: blocks.into_iter().zip(&pages).map(block).collect(),
            pages,
            round: 1,
            records: 0,
            raw_pages: 0,
        })
    }

    /// Pages received with contents so far.
    pub(super) fn raw_pages(&self) -> u64 {
        self.raw_pages
    }

    /// Takes one record's pages.
    pub(super) fn apply(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let record = RamRecord::parse(payload, &self.pages)?;
        let head = record.head;
        if (head.channel, head.round, head.sequence) != (0, self.round, self.records) {
            return Err(Failure::Protocol(format!(
                "RAM record {} of round {} on channel {} came as record {} of round {}",
                head.sequence, head.round, head.channel, self.records, self.round
            )));
        }
        self.records += 1;
        let block = &mut self.blocks[usize::from(head.block)];
        for (run, data) in record.runs() {
            match run.encoding {
                Encoding::Raw => {
                    block.ram.write(run.bytes().start, data)?;
                    block.note(run);
                    self.raw_pages += u64::from(run.pages);
                }
                Encoding::Zero => block.zero(run)?,
            }
        }
        Ok(())
    }

    /// Ends a round, which has to have been complete.
    pub(super) fn end_round(&mut self, round: u32, records: u64) -> Result<(), Failure> {
        if (round, records) != (self.round, self.records) {
            return Err(Failure::Protocol(format!(
                "round {round} with {records} RAM records ended after {} of round {}",
                self.records, self.round
            )));
        }
        self.round = self.round.saturating_add(1);
        Ok(())
    }

    /// Guest RAM in bytes.
    pub(super) fn total_bytes(&self) -> u64 {
        bytes(self.pages.iter().sum())
    }

    /// Makes the blocks final that the guest can never write, after their contents were found to be what the recipe says.
    pub(super) fn finish_boot_payload(&self, recipe: &Recipe) -> Result<(), Failure> {
        let blocks: Vec<_> = self.blocks.iter().map(|block| Arc::clone(&block.ram)).collect();
        Ok(finish_blocks(recipe, &blocks)?)
    }
}

impl Block {
    fn note(&mut self, run: Run) {
        for page in run.first..run.first + u64::from(run.pages) {
            self.received[to_usize(page / 64)] |= 1 << (page % 64);
        }
    }

    fn zero(&mut self, run: Run) -> Result<(), Failure> {
        const ZEROS: [u8; 4096] = [0; 4096];
        const _: () = assert!(to_u64(ZEROS.len()) == PAGE_SIZE);
        for page in run.first..run.first + u64::from(run.pages) {
            let word = &mut self.received[to_usize(page / 64)];
            if *word == 0 {
                continue;
            }
            let bit = 1 << (page % 64);
            if *word & bit != 0 {
                *word &= !bit;
                self.ram.write(page * PAGE_SIZE, &ZEROS)?;
            }
        }
        Ok(())
    }
}
