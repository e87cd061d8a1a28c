//! RAM out of a file: every chunk is checked before any of it reaches the guest's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hw::memory::{PAGE_SIZE, RamBlock};

use super::chunk::{self, ChunkHasher, ChunkSum};
use super::error::{Part, SnapshotError};
use super::extents::Extents;
use super::layout::CHUNK;
use super::reader::Snapshot;
use super::work::{self, Job};
use super::{to_u64, to_usize};
use crate::progress::Progress;

impl Snapshot {
    /// Checks all that [`Self::open`] did not look at: every chunk of RAM, and that the padding is zero.
    ///
    /// # Errors
    ///
    /// The first damage that was found.
    pub fn verify(&self, threads: usize, progress: &dyn Progress) -> Result<(), SnapshotError> {
        self.read_ram(None, threads, progress)
    }

    /// Reads RAM into fresh blocks, in the order of the recipe, checking everything as [`Self::verify`] does. Pages of
    /// zeros are not written, so that they take no memory.
    ///
    /// # Errors
    ///
    /// The first damage that was found; the blocks then hold parts of the RAM and are of no use.
    pub fn load_ram(
        &self,
        blocks: &[Arc<RamBlock>],
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<(), SnapshotError> {
        self.read_ram(Some(blocks), threads, progress)
    }

    fn verify_padding(&self, extents: &Extents) -> Result<(), SnapshotError> {
        let mut buffer = vec![0; 64 << 10];
        for (part, gap) in self.layout.padding() {
            for data in extents.within(gap) {
                for start in data.clone().step_by(buffer.len()) {
                    let step = (data.end - start).min(to_u64(buffer.len()));
                    let bytes = &mut buffer[..to_usize(step)];
                    self.file.read(part.clone(), start, bytes)?;
                    if let Some(position) = bytes.iter().position(|&byte| byte != 0) {
                        let offset = start + to_u64(position);
                        return Err(SnapshotError::Padding {
                            path: self.file.path.clone(),
                            part,
                            offset,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn read_ram(
        &self,
        blocks: Option<&[Arc<RamBlock>]>,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<(), SnapshotError> {
        let extents = Extents::of(&self.file.file, self.layout.index).map_err(|source| SnapshotError::Open {
            path: self.file.path.clone(),
            source,
        })?;
        self.verify_padding(&extents)?;
        let sums: Vec<Vec<ChunkSum>> = self.index.blocks.iter().map(super::index::BlockEntry::sums).collect();
        let jobs: Vec<Job> = (0..)
            .zip(&self.layout.blocks)
            .flat_map(|(block, placement)| (0..placement.chunks()).map(move |chunk| Job { block, chunk }))
            .collect();
        let total = sums.iter().flatten().map(|sum| u64::from(sum.pages) * PAGE_SIZE).sum();
        let done = AtomicU64::new(0);
        work::spread(&jobs, threads, || {
            let (extents, sums, done) = (&extents, &sums, &done);
            let mut buffer = vec![0; to_usize(CHUNK)];
            move |job: &Job| {
                if progress.cancelled() {
                    return Err(SnapshotError::Cancelled);
                }
                let sum = sums[job.block][to_usize(job.chunk)];
                self.read_chunk(
                    extents,
                    *job,
                    sum,
                    blocks.map(|blocks| &*blocks[job.block]),
                    &mut buffer,
                )?;
                if sum.pages > 0 {
                    let read = u64::from(sum.pages) * PAGE_SIZE;
                    progress.advanced(done.fetch_add(read, Ordering::Relaxed) + read, total);
                }
                Ok(())
            }
        })?;
        Ok(())
    }

    /// Checks one chunk, and copies it into its block if there is one.
    fn read_chunk(
        &self,
        extents: &Extents,
        job: Job,
        expected: ChunkSum,
        block: Option<&RamBlock>,
        buffer: &mut [u8],
    ) -> Result<(), SnapshotError> {
        let placement = &self.layout.blocks[job.block];
        let part = Part::Ram(placement.name.clone());
        let chunk = placement.chunk(job.chunk);
        let (start, end) = (placement.offset + chunk.start, placement.offset + chunk.end);
        let mut hasher = ChunkHasher::default();
        let mut runs = Vec::new();
        for data in extents.within(start..end) {
            // Data is found in the file system's blocks, which may be smaller than pages.
            let data = data.start / PAGE_SIZE * PAGE_SIZE..data.end.next_multiple_of(PAGE_SIZE);
            let begin = to_usize(data.start - start);
            let bytes = &mut buffer[begin..to_usize(data.end - start)];
            self.file.read(part.clone(), data.start, bytes)?;
            hasher.add(work::page_in_chunk(data.start - start), bytes, |run| {
                runs.push(begin + run.start..begin + run.end);
            });
        }
        let found = hasher.finish();
        let damaged = |because| SnapshotError::Chunk {
            path: self.file.path.clone(),
            part: part.clone(),
            start: chunk.start,
            end: chunk.end,
            offset: start,
            because,
        };
        if found != expected {
            let because = format!(
                "{} pages with checksum {:#010x} instead of {} with {:#010x}",
                found.pages, found.crc, expected.pages, expected.crc
            );
            return Err(damaged(because));
        }
        let Some(block) = block else { return Ok(()) };
        for run in runs {
            let offset = chunk.start + to_u64(run.start);
            block
                .write(offset, &buffer[run])
                .map_err(|error| damaged(error.to_string()))?;
        }
        Ok(())
    }
}

/// The chunk module's page is the one of RAM blocks.
const _: () = assert!(chunk::PAGE as u64 == PAGE_SIZE);
