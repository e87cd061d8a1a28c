//! The index and the trailer: what a reader looks at first, from the file's end.

use super::chunk::ChunkSum;
use super::error::Part;
use crate::cbor::{self, Bytes, CborError, cbor_map};
use crate::ident::ContentHash;
use crate::record::{HEADER_LEN, RecordKind};

/// The length of a trailer record; always the file's last bytes.
pub(super) const TRAILER_LEN: u64 = TRAILER_PAYLOAD as u64 + HEADER_LEN as u64;
const TRAILER_PAYLOAD: usize = 56;

/// The contents of the index record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Every record before RAM, in order and without gaps.
    pub(super) records: Vec<RecordEntry>,
    /// Every RAM block, in the order of the recipe.
    pub(super) blocks: Vec<BlockEntry>,
}
cbor_map!(Index, "index" { 0 => records, 2 => blocks });

/// Where a record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordEntry {
    /// The number of its kind.
    pub(super) kind: u16,
    /// Of a section, whose state it is.
    pub(super) path: Option<String>,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its length with its header.
    pub(super) length: u64,
    /// Its payload's checksum, which is in its header as well: a record of another file does not fit in here.
    pub(super) crc: u32,
}
cbor_map!(RecordEntry, "entry" { 0 => kind, 1 => path, 2 => offset, 4 => length, 6 => crc });

impl RecordEntry {
    /// What to call the record.
    pub(super) fn part(&self) -> Part {
        match (RecordKind::from_number(self.kind), &self.path) {
            (Some(RecordKind::Section), Some(path)) => Part::Section(path.clone()),
            (Some(kind), _) => Part::Record(kind),
            (None, _) => Part::UnknownRecord(self.kind),
        }
    }
}

/// Where a RAM block lies, and the sums of its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockEntry {
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its size.
    pub(super) size: u64,
    /// How much of it one sum is for.
    pub(super) chunk: u64,
    /// The sums, six bytes each: pages that are not zero, and their checksum.
    sums: Bytes,
}
cbor_map!(BlockEntry, "RAM block" { 0 => offset, 2 => size, 4 => chunk, 6 => sums });

const SUM_LEN: usize = 6;

impl BlockEntry {
    /// The entry of a block with these sums.
    pub(super) fn new(offset: u64, size: u64, chunk: u64, sums: &[ChunkSum]) -> Self {
        let mut bytes = Vec::with_capacity(sums.len() * SUM_LEN);
        for sum in sums {
            bytes.extend_from_slice(&sum.pages.to_le_bytes());
            bytes.extend_from_slice(&sum.crc.to_le_bytes());
        }
        Self {
            offset,
            size,
            chunk,
            sums: Bytes(bytes),
        }
    }

    /// The sums, in order; as many as there are bytes for.
    pub(super) fn sums(&self) -> Vec<ChunkSum> {
        let sum = |bytes: &[u8]| match *bytes {
            [p0, p1, c0, c1, c2, c3] => ChunkSum {
                pages: u16::from_le_bytes([p0, p1]),
                crc: u32::from_le_bytes([c0, c1, c2, c3]),
            },
            _ => ChunkSum::default(),
        };
        self.sums.0.chunks_exact(SUM_LEN).map(sum).collect()
    }

    /// Whether there is one sum for each of `chunks` chunks.
    pub(super) fn has_sums_for(&self, chunks: u64) -> bool {
        u64::try_from(self.sums.0.len()).ok() == chunks.checked_mul(SUM_LEN as u64)
    }
}

impl Index {
    /// The record's payload.
    pub(super) fn to_cbor(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }

    /// Reads the record's payload.
    pub(super) fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        cbor::from_bytes(bytes)
    }
}

/// The contents of the trailer record. Its form is fixed, so that it can be found from the file's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Where the index record begins.
    pub(super) index: u64,
    /// The index record's length with its header.
    pub(super) index_length: u64,
    /// The length of the file.
    pub(super) file_length: u64,
    /// BLAKE3 over the index record's payload: by this a child knows its parent.
    pub(super) hash: ContentHash,
}

impl Trailer {
    /// The record's payload.
    pub(super) fn to_bytes(self) -> [u8; TRAILER_PAYLOAD] {
        let mut bytes = [0; TRAILER_PAYLOAD];
        bytes[..8].copy_from_slice(&self.index.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index_length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.file_length.to_le_bytes());
        bytes[24..].copy_from_slice(self.hash.as_bytes());
        bytes
    }

    /// Reads the record's payload.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, hash) = bytes.split_at_checked(24)?;
        let number = |at: usize| Some(u64::from_le_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            index: number(0)?,
            index_length: number(8)?,
            file_length: number(16)?,
            hash: ContentHash::from_bytes(hash.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_with_its_sums() {
        let sums = [
            ChunkSum { pages: 256, crc: 7 },
            ChunkSum::default(),
            ChunkSum {
                pages: 1,
                crc: u32::MAX,
            },
        ];
        let index = Index {
            records: vec![RecordEntry {
                kind: 5,
                path: Some("/machine/rtc".into()),
                offset: 16,
                length: 99,
                crc: 3,
            }],
            blocks: vec![BlockEntry::new(4096, 3 << 20, 1 << 20, &sums)],
        };
        let back = Index::from_cbor(&index.to_cbor()).expect("reads back");
        assert_eq!(back, index);
        assert_eq!(back.blocks[0].sums(), sums);
        assert!(back.blocks[0].has_sums_for(3) && !back.blocks[0].has_sums_for(4));
        assert_eq!(back.records[0].part().to_string(), "the section of /machine/rtc");
    }

    #[test]
    fn a_trailer_reads_back_and_another_length_is_none() {
        let trailer = Trailer {
            index: 1,
            index_length: 2,
            file_length: 3,
            hash: ContentHash::of(b"x"),
        };
        assert_eq!(Trailer::from_bytes(&trailer.to_bytes()), Some(trailer));
        assert_eq!(Trailer::from_bytes(&trailer.to_bytes()[1..]), None);
    }
}
