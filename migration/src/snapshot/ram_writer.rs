//! RAM into a file: only what the guest has used, and of that only the pages that are not zero.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hw::memory::{PAGE_SIZE, RamBlock};

use super::chunk::{ChunkHasher, ChunkSum};
use super::layout::{CHUNK, Layout};
use super::work::{self, Job};
use super::writer::{SaveError, write_failed};
use super::{to_u64, to_usize};
use crate::fault::{Faults, PageFault};
use crate::progress::Progress;
use crate::vm::memory_error;

/// How much is copied out of the guest's memory at once: it is read three times more, and should stay in the cache.
const PIECE: usize = 256 << 10;

/// Writes the blocks of a paused machine.
pub(super) struct RamWriter<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    pub(super) layout: &'a Layout,
    pub(super) blocks: &'a [Arc<RamBlock>],
    pub(super) progress: &'a dyn Progress,
    pub(super) faults: Option<&'a dyn Faults>,
}

/// What was written.
pub(super) struct WrittenRam {
    /// The sums of each block's chunks.
    pub(super) sums: Vec<Vec<ChunkSum>>,
    /// How many bytes were not zero.
    pub(super) data: u64,
}

impl RamWriter<'_> {
    /// Writes everything, on so many threads.
    pub(super) fn write(&self, threads: usize) -> Result<WrittenRam, SaveError> {
        let mut populated = Vec::with_capacity(self.blocks.len());
        let mut jobs = Vec::new();
        for (number, (block, placement)) in self.blocks.iter().zip(&self.layout.blocks).enumerate() {
            let ranges = block.populated_ranges().map_err(|error| memory_error(block, &error))?;
            let mut next = 0;
            for range in &ranges {
                for chunk in next.max(range.start / CHUNK)..range.end.div_ceil(CHUNK) {
                    jobs.push(Job { block: number, chunk });
                    next = chunk + 1;
                }
            }
            debug_assert!(next <= placement.chunks());
            populated.push(ranges);
        }
        let total = populated.iter().flatten().map(|range| range.end - range.start).sum();
        let done = AtomicU64::new(0);

        let sums = work::spread(&jobs, threads, || {
            let (populated, done) = (&populated, &done);
            let mut buffer = vec![0; PIECE];
            move |job: &Job| {
                if self.progress.cancelled() {
                    return Err(SaveError::Cancelled);
                }
                let (sum, read) = self.write_chunk(*job, &populated[job.block], &mut buffer)?;
                self.progress
                    .advanced(done.fetch_add(read, Ordering::Relaxed) + read, total);
                Ok(sum)
            }
        })?;

        let mut all: Vec<Vec<ChunkSum>> = self
            .layout
            .blocks
            .iter()
            .map(|block| vec![ChunkSum::default(); to_usize(block.chunks())])
            .collect();
        for (job, sum) in jobs.iter().zip(sums) {
            all[job.block][to_usize(job.chunk)] = sum;
        }
        let pages: u64 = all.iter().flatten().map(|sum| u64::from(sum.pages)).sum();
        Ok(WrittenRam {
            sums: all,
            data: pages * PAGE_SIZE,
        })
    }

    /// Writes one chunk; returns its sum and how many bytes were looked at.
    fn write_chunk(&self, job: Job, populated: &[Range<u64>], buffer: &mut [u8]) -> Result<(ChunkSum, u64), SaveError> {
        let (block, placement) = (&self.blocks[job.block], &self.layout.blocks[job.block]);
        let chunk = placement.chunk(job.chunk);
        let mut hasher = ChunkHasher::default();
        let mut looked_at = 0;
        for part in pieces(populated, &chunk, to_u64(buffer.len())) {
            let bytes = &mut buffer[..to_usize(part.end - part.start)];
            block
                .read(part.start, bytes)
                .map_err(|error| memory_error(block, &error))?;
            if let Some(faults) = self.faults {
                spoil(faults, block, part.start, bytes);
            }
            let mut written = Ok(());
            hasher.add(work::page_in_chunk(part.start - chunk.start), bytes, |run| {
                if written.is_ok() {
                    let offset = placement.offset + part.start + to_u64(run.start);
                    written = self.file.write_all_at(&bytes[run], offset);
                }
            });
            written.map_err(|source| write_failed(self.path, self.layout.index, source))?;
            looked_at += part.end - part.start;
        }
        Ok((hasher.finish(), looked_at))
    }
}

/// The populated parts of a chunk, none longer than `most`.
fn pieces(populated: &[Range<u64>], chunk: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let first = populated.partition_point(|range| range.end <= chunk.start);
    let touching = populated[first..].iter().take_while(|range| range.start < chunk.end);
    touching.flat_map(move |range| {
        let part = range.start.max(chunk.start)..range.end.min(chunk.end);
        part.clone()
            .step_by(to_usize(most))
            .map(move |start| start..(start + most).min(part.end))
    })
}

/// Breaks the pages that a test wants broken.
fn spoil(faults: &dyn Faults, block: &RamBlock, offset: u64, bytes: &mut [u8]) {
    for (number, page) in (offset / PAGE_SIZE..).zip(bytes.chunks_exact_mut(to_usize(PAGE_SIZE))) {
        match faults.on_page(block.name(), number) {
            None => {}
            Some(PageFault::Drop | PageFault::Zero) => page.fill(0),
            // A neighbour that does not exist leaves the page as it is.
            Some(PageFault::SwapWith(other)) => drop(block.read(other * PAGE_SIZE, page)),
        }
    }
}
