//! The payload of a RAM record: runs of pages of one block.
//!
//! ```text
//!  0      2        4       8          16      20       24
//!  +------+--------+-------+----------+-------+--------+---------- - - -+------- - - -
//!  | block| channel| round | sequence | runs  | 0      | runs: 16 bytes | raw pages, in
//!  +------+--------+-------+----------+-------+--------+ each           | order of runs
//!                                                      +---------- - - -+------- - - -
//!  a run: | first page (8) | pages (4) | encoding (2) | 0 (2) |
//! ```
//!
//! All numbers are little endian, and runs ascend without touching what came before. `block` counts the blocks of the
//! recipe. Zero pages cost their share of a run. In the first round they are not sent at all: the receiver's memory is
//! fresh, and writing zeros into it would only allocate it.

use crate::record::RecordKind;

/// The granularity of everything here.
pub const PAGE_SIZE: u64 = hw::memory::PAGE_SIZE;

/// Bytes before the runs.
pub const HEAD_LEN: usize = 24;
/// Bytes of one run.
pub const RUN_LEN: usize = 16;
/// The most runs that one record has.
pub const MAX_RUNS: usize = 2048;
/// The most bytes of raw pages that one record has.
pub const MAX_DATA: usize = 2 << 20;

const _: () = assert!(HEAD_LEN + MAX_RUNS * RUN_LEN + MAX_DATA <= RecordKind::Ram.max_payload() as usize);

/// What a RAM record says besides the runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamHead {
    /// Which block of the recipe, from 0.
    pub block: u16,
    /// The channel that carries it. A page stays on its channel within a round.
    pub channel: u16,
    /// The round, from 1; the pages that are sent with the guest paused are the last one.
    pub round: u32,
    /// How many RAM records the channel carried before this one.
    pub sequence: u64,
}

/// How a run's pages are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Encoding {
    /// All zero: nothing follows.
    Zero = 0,
    /// As they are.
    Raw = 1,
}

/// Consecutive pages that are carried in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page's number in its block.
    pub first: u64,
    /// How many pages, at least one.
    pub pages: u32,
    /// How they are carried.
    pub encoding: Encoding,
}

impl Run {
    /// The bytes of the block that the run covers.
    #[must_use]
    pub fn bytes(&self) -> std::ops::Range<u64> {
        let start = self.first * PAGE_SIZE;
        start..start + u64::from(self.pages) * PAGE_SIZE
    }
}

/// Why a RAM record cannot be what a source sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a RAM record is no such thing: {0}")]
pub struct RamError(pub(crate) String);

/// A RAM record taken apart, all of it checked against the machine's blocks.
#[derive(Debug, PartialEq, Eq)]
pub struct RamRecord<'a> {
    /// What it says besides the runs.
    pub head: RamHead,
    runs: &'a [u8],
    data: &'a [u8],
}

impl<'a> RamRecord<'a> {
    /// Takes a payload apart. `block_pages` has the number of pages of each block of the recipe.
    ///
    /// # Errors
    ///
    /// What does not fit: into the record, or into the blocks.
    pub fn parse(payload: &'a [u8], block_pages: &[u64]) -> Result<Self, RamError> {
        let refuse = |what: String| Err(RamError(what));
        let Some((head, rest)) = payload.split_first_chunk::<HEAD_LEN>() else {
            return refuse(format!("it has {} bytes", payload.len()));
        };
        let [
            b0,
            b1,
            c0,
            c1,
            r0,
            r1,
            r2,
            r3,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            n0,
            n1,
            n2,
            n3,
            reserved @ ..,
        ] = *head;
        let head = RamHead {
            block: u16::from_le_bytes([b0, b1]),
            channel: u16::from_le_bytes([c0, c1]),
            round: u32::from_le_bytes([r0, r1, r2, r3]),
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        };
        let Some(&pages_of_block) = block_pages.get(usize::from(head.block)) else {
            return refuse(format!("block {} does not exist", head.block));
        };
        let runs = u32::from_le_bytes([n0, n1, n2, n3]);
        let length = usize::try_from(runs)
            .ok()
            .filter(|&runs| reserved == [0; 4] && (1..=MAX_RUNS).contains(&runs))
            .map(|runs| runs * RUN_LEN);
        let Some((runs, data)) = length.and_then(|length| rest.split_at_checked(length)) else {
            return refuse(format!("it claims {runs} runs"));
        };
        let record = Self { head, runs, data };

        let (mut next, mut raw) = (0, 0);
        for bytes in record.raw_runs() {
            let run = decode_run(bytes).ok_or_else(|| RamError("a run's encoding is unknown".into()))?;
            let end = run
                .first
                .checked_add(run.pages.into())
                .filter(|&end| end <= pages_of_block);
            let Some(end) = end.filter(|_| run.pages > 0 && run.first >= next) else {
                return refuse(format!(
                    "a run of {} pages from page {} does not fit into block {} of {pages_of_block} pages behind page {next}",
                    run.pages, run.first, head.block
                ));
            };
            next = end;
            if run.encoding == Encoding::Raw {
                raw += u64::from(run.pages);
            }
        }
        if u64::try_from(data.len()) != Ok(raw * PAGE_SIZE) {
            return refuse(format!("it has {} bytes for {raw} pages", data.len()));
        }
        Ok(record)
    }

    /// The runs in ascending order, with the bytes of the raw ones.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &'a [u8])> {
        let mut rest = self.data;
        self.raw_runs().filter_map(decode_run).map(move |run| {
            let length = match run.encoding {
                Encoding::Zero => 0,
                Encoding::Raw => to_usize(run.bytes().end - run.bytes().start),
            };
            // `parse` has seen that there are as many bytes as the raw runs have.
            let (data, behind) = rest.split_at_checked(length).unwrap_or_default();
            rest = behind;
            (run, data)
        })
    }

    fn raw_runs(&self) -> impl Iterator<Item = &'a [u8; RUN_LEN]> {
        self.runs.as_chunks().0.iter()
    }
}

fn decode_run(bytes: &[u8; RUN_LEN]) -> Option<Run> {
    let [f0, f1, f2, f3, f4, f5, f6, f7, p0, p1, p2, p3, e0, e1, 0, 0] = *bytes else {
        return None;
    };
    Some(Run {
        first: u64::from_le_bytes([f0, f1, f2, f3, f4, f5, f6, f7]),
        pages: u32::from_le_bytes([p0, p1, p2, p3]),
        encoding: match u16::from_le_bytes([e0, e1]) {
            0 => Encoding::Zero,
            1 => Encoding::Raw,
            _ => return None,
        },
    })
}

/// The pages of one RAM record while it is being filled.
///
/// Guest memory is copied here first: the guest goes on writing, and a checksum over memory that changes between
/// checksum and send would be a false alarm. The copy is made a few pages at a time, so that all later passes (zero
/// test, checksum, the kernel's copy) find the bytes in the cache.
#[derive(Debug)]
pub struct RamBuffer {
    runs: Vec<Run>,
    data: Box<[u8]>,
    filled: usize,
}

impl RamBuffer {
    /// Pages that a record carries at most. Less than a record may have: the buffer should stay in a core's cache.
    pub const CAPACITY: usize = 256 << 10;

    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            runs: Vec::with_capacity(MAX_RUNS),
            data: vec![0; Self::CAPACITY].into(),
            filled: 0,
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether not a single page more might fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many pages fit whatever they hold.
    #[must_use]
    pub fn room(&self) -> u64 {
        let data = to_u64(self.data.len() - self.filled) / PAGE_SIZE;
        // A page can need a run of its own.
        data.min(to_u64(MAX_RUNS - self.runs.len()))
    }

    /// Lets `fill` copy `pages` pages (no more than [`Self::room`]) from page `first` on, and takes them: raw, or as
    /// zero pages, which are left out altogether unless `explicit_zeros`.
    pub fn add<E>(
        &mut self,
        first: u64,
        pages: u64,
        explicit_zeros: bool,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Added, E> {
        let start = self.filled;
        let end = start + to_usize(pages * PAGE_SIZE);
        fill(&mut self.data[start..end])?;

        let mut added = Added::default();
        for page in 0..pages {
            let from = start + to_usize(page * PAGE_SIZE);
            let bytes = from..from + PAGE_LEN;
            if is_zero(&self.data[bytes.clone()]) {
                added.zero += 1;
                if explicit_zeros {
                    self.push(first + page, Encoding::Zero);
                }
            } else {
                added.raw += 1;
                if from != self.filled {
                    self.data.copy_within(bytes, self.filled);
                }
                self.filled += PAGE_LEN;
                self.push(first + page, Encoding::Raw);
            }
        }
        Ok(added)
    }

    /// The payload in two parts.
    #[must_use]
    pub fn payload(&self, head: &RamHead) -> (Vec<u8>, &[u8]) {
        let mut bytes = Vec::with_capacity(HEAD_LEN + self.runs.len() * RUN_LEN);
        bytes.extend(head.block.to_le_bytes());
        bytes.extend(head.channel.to_le_bytes());
        bytes.extend(head.round.to_le_bytes());
        bytes.extend(head.sequence.to_le_bytes());
        bytes.extend(u32::try_from(self.runs.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend([0; 4]);
        for run in &self.runs {
            bytes.extend(run.first.to_le_bytes());
            bytes.extend(run.pages.to_le_bytes());
            bytes.extend((run.encoding as u16).to_le_bytes());
            bytes.extend([0; 2]);
        }
        (bytes, &self.data[..self.filled])
    }

    /// Makes the buffer empty again.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.filled = 0;
    }

    fn push(&mut self, page: u64, encoding: Encoding) {
        if let Some(last) = self.runs.last_mut()
            && last.encoding == encoding
            && last.first + u64::from(last.pages) == page
            && last.pages < u32::MAX
        {
            last.pages += 1;
            return;
        }
        self.runs.push(Run {
            first: page,
            pages: 1,
            encoding,
        });
    }
}

impl Default for RamBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// How many pages a buffer took, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Pages with contents.
    pub raw: u64,
    /// Zero pages.
    pub zero: u64,
}

const PAGE_LEN: usize = 4096;
const _: () = assert!(PAGE_LEN as u64 == PAGE_SIZE);

fn is_zero(page: &[u8]) -> bool {
    // A comparison of slices is the C library's memcmp, which is vectorised and ends at the first difference.
    page == &[0; PAGE_LEN][..]
}

/// A size in bytes as the host counts it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "Tern runs on 64-bit hosts: usize is as wide as u64"
)]
pub(crate) const fn to_usize(bytes: u64) -> usize {
    bytes as usize
}

/// A size in bytes as the guest counts it.
pub(crate) const fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: RamHead = RamHead {
        block: 1,
        channel: 2,
        round: 3,
        sequence: 4,
    };

    fn page(value: u8) -> [u8; PAGE_LEN] {
        [value; PAGE_LEN]
    }

    fn add(buffer: &mut RamBuffer, first: u64, explicit_zeros: bool, values: &[u8]) -> Added {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| page(value)).collect();
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(&bytes);
            Ok::<_, std::convert::Infallible>(())
        };
        buffer
            .add(first, to_u64(values.len()), explicit_zeros, copy)
            .expect("infallible")
    }

    fn payload(buffer: &RamBuffer) -> Vec<u8> {
        let (mut runs, data) = buffer.payload(&HEAD);
        runs.extend(data);
        runs
    }

    fn mixed() -> Vec<u8> {
        let mut buffer = RamBuffer::new();
        add(&mut buffer, 3, true, &[7, 0, 0, 8]);
        add(&mut buffer, 7, true, &[9]);
        payload(&buffer)
    }

    #[test]
    fn runs_read_back_with_their_pages_and_neighbours_are_joined() {
        let mut buffer = RamBuffer::new();
        assert_eq!(add(&mut buffer, 3, true, &[7, 0, 0, 8]), Added { raw: 2, zero: 2 });
        add(&mut buffer, 7, true, &[9]);
        let payload = payload(&buffer);
        let record = RamRecord::parse(&payload, &[0, 8]).expect("its own payload");
        assert_eq!(record.head, HEAD);
        let runs: Vec<_> = record.runs().collect();
        let run = |first, pages, encoding| Run { first, pages, encoding };
        assert_eq!(runs[0], (run(3, 1, Encoding::Raw), &page(7)[..]));
        assert_eq!(runs[1], (run(4, 2, Encoding::Zero), &[][..]));
        assert_eq!(runs[2], (run(6, 2, Encoding::Raw), [page(8), page(9)].as_flattened()));
        assert_eq!(runs.len(), 3);
    }

    #[test]
    fn zero_pages_leave_no_trace_where_memory_is_fresh() {
        let mut buffer = RamBuffer::new();
        assert_eq!(add(&mut buffer, 0, false, &[0, 0]), Added { raw: 0, zero: 2 });
        assert!(buffer.is_empty());
        add(&mut buffer, 2, false, &[0, 5, 0, 6]);
        let payload = payload(&buffer);
        let record = RamRecord::parse(&payload, &[0, 8]).expect("its own payload");
        let pages: Vec<_> = record
            .runs()
            .map(|(run, data)| (run.first, run.pages, data[0]))
            .collect();
        assert_eq!(pages, [(3, 1, 5), (5, 1, 6)]);
    }

    #[test]
    fn a_buffer_never_takes_more_than_a_record_may_have() {
        let mut buffer = RamBuffer::new();
        let mut first = 0;
        while !buffer.is_full() {
            // The worst case: no two pages are neighbours, and zero pages take runs but no room.
            add(&mut buffer, first, true, &[if first % 3 == 0 { 1 } else { 0 }]);
            first += 2;
        }
        assert!(payload(&buffer).len() <= to_usize(RecordKind::Ram.max_payload().into()));
        buffer.clear();
        assert_eq!(
            (buffer.is_empty(), buffer.room()),
            (true, to_u64(RamBuffer::CAPACITY) / PAGE_SIZE)
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = mixed();
        RamRecord::parse(&good, &[0, 8]).expect("good");
        RamRecord::parse(&good, &[0, 7]).expect_err("the last run reaches beyond the block");
        RamRecord::parse(&good, &[8]).expect_err("no such block");
        RamRecord::parse(&good[..good.len() - 1], &[0, 8]).expect_err("a page is cut");
        RamRecord::parse(&[&good[..], &[0]].concat(), &[0, 8]).expect_err("a byte is left over");
        for (offset, bytes, what) in [
            (16, &[0xff; 4][..], "runs without end"),
            (16, &[0; 4], "no run"),
            (20, &[1], "a reserved field"),
            (HEAD_LEN, &[0xff; 8], "a page number that overflows"),
            (HEAD_LEN + 8, &[0; 4], "a run of nothing"),
            (HEAD_LEN + 12, &[9], "an unknown encoding"),
            (HEAD_LEN + 14, &[1], "a reserved field of a run"),
            (HEAD_LEN + RUN_LEN, &[2], "a run before its predecessor"),
        ] {
            let mut bad = good.clone();
            bad[offset..offset + bytes.len()].copy_from_slice(bytes);
            RamRecord::parse(&bad, &[0, 8]).expect_err(what);
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_give_an_error_or_runs_inside_the_block(
            flips in prop::collection::vec((0..HEAD_LEN + 3 * RUN_LEN, any::<u8>()), 1..6), cut in 0..9000usize,
        ) {
            let mut bytes = mixed();
            for (at, value) in flips {
                bytes[at] = value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut / 3));
            if let Ok(record) = RamRecord::parse(&bytes, &[64, 64]) {
                let mut data = 0;
                for (run, bytes) in record.runs() {
                    prop_assert!(run.bytes().end <= 64 * PAGE_SIZE);
                    data += bytes.len();
                }
                prop_assert!(data <= bytes.len());
            }
        }
    }
}
