//! The unit of every transfer, on a wire and in a file: a typed record with a bounded length and checksums.
//!
//! ```text
//!  0        2        4            8             12            16
//!  +--------+--------+------------+-------------+-------------+---------
//!  | kind   | flags  | length     | payload crc | header crc  | payload
//!  +--------+--------+------------+-------------+-------------+---------
//! ```
//!
//! All numbers are little endian. The header has a checksum of its own, over its first 12 bytes: a damaged length is
//! found at once, instead of after waiting for bytes that never come. A reader that does not know a kind skips the
//! record if its writer marked it ignorable, and refuses it otherwise.

use std::fmt;
use std::io::{self, Read, Write};

/// Bytes that a record takes besides its payload.
pub const HEADER_LEN: usize = 16;

/// The reader may skip this record if it does not know its kind.
pub(crate) const IGNORABLE: u16 = 1;

/// What a reader still skips of a kind that it does not know.
pub(crate) const MAX_UNKNOWN: u32 = 4 << 20;

/// Which kind of record, and with it what the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum RecordKind {
    /// Opens a channel, in both directions.
    Hello = 1,
    /// Identities and features.
    Header = 2,
    /// The descriptions of all sections that can follow.
    Schemas = 3,
    /// Recipe and inventory.
    Manifest = 4,
    /// The state of one object.
    Section = 5,
    /// The last section was sent.
    SectionsEnd = 6,
    /// Pages of RAM (precopy).
    Ram = 7,
    /// A round is complete: a barrier for all channels.
    RoundEnd = 8,
    /// Where everything lies in a file, with checksums.
    Index = 9,
    /// The end of a file: where its index is.
    Trailer = 10,
    /// The destination's answer to the offer.
    Preflight = 16,
    /// The destination has received a round.
    RoundAck = 17,
    /// The destination has loaded and verified everything.
    Ready = 18,
    /// The source gives the guest away.
    Go = 19,
    /// The destination runs the guest.
    Running = 20,
    /// The sender of this gives up; the payload says why.
    Abort = 21,
    /// The sender of this is alive.
    Heartbeat = 22,
    /// The source pauses the guest now.
    Pause = 23,
}

impl RecordKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Hello,
        Self::Header,
        Self::Schemas,
        Self::Manifest,
        Self::Section,
        Self::SectionsEnd,
        Self::Ram,
        Self::RoundEnd,
        Self::Index,
        Self::Trailer,
        Self::Preflight,
        Self::RoundAck,
        Self::Ready,
        Self::Go,
        Self::Running,
        Self::Abort,
        Self::Heartbeat,
        Self::Pause,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        // The enum is repr(u16): its discriminants are the numbers.
        self as u16
    }

    /// The kind with this number, if this build knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The longest payload that a reader accepts of this kind: what it may have to hold in memory.
    #[must_use]
    pub const fn max_payload(self) -> u32 {
        match self {
            Self::SectionsEnd | Self::Trailer | Self::RoundEnd | Self::RoundAck => 64,
            Self::Ready | Self::Go | Self::Running | Self::Heartbeat | Self::Pause => 256,
            Self::Hello | Self::Abort => 4 << 10,
            Self::Header => 64 << 10,
            Self::Preflight => 1 << 20,
            Self::Ram => (2 << 20) + (64 << 10),
            Self::Section => 1 << 20,
            Self::Schemas | Self::Manifest => 4 << 20,
            Self::Index => 64 << 20,
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Header => "header",
            Self::Schemas => "schemas",
            Self::Manifest => "manifest",
            Self::Section => "section",
            Self::SectionsEnd => "end of sections",
            Self::Ram => "RAM",
            Self::RoundEnd => "end of round",
            Self::Index => "index",
            Self::Trailer => "trailer",
            Self::Preflight => "preflight",
            Self::RoundAck => "round received",
            Self::Ready => "ready",
            Self::Go => "go",
            Self::Running => "running",
            Self::Abort => "abort",
            Self::Heartbeat => "heartbeat",
            Self::Pause => "pause",
        })
    }
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes end, or the connection broke.
    #[error("reading a record failed: {0}")]
    Io(#[from] io::Error),
    /// The header is damaged, or there is no record here.
    #[error("a record's header is damaged (checksum {found:#010x} instead of {expected:#010x})")]
    Header {
        /// What the header's bytes give.
        expected: u32,
        /// What it says.
        found: u32,
    },
    /// The payload is damaged.
    #[error("the {} record is damaged (checksum {found:#010x} instead of {expected:#010x})", name_of(*.number))]
    Payload {
        /// The number of its kind, which may be an unknown one.
        number: u16,
        /// What the payload gives.
        expected: u32,
        /// What the header says.
        found: u32,
    },
    /// A payload is longer than its kind allows.
    #[error("the {kind} record claims {length} bytes, more than the {max} that such a record may have")]
    TooLong {
        /// The kind of the record.
        kind: RecordKind,
        /// What the header says, or what was to be written.
        length: u64,
        /// The bound.
        max: u32,
    },
    /// A kind that this build does not know and must not skip.
    #[error("record kind {0} is critical and unknown to this version of Tern; a newer one is needed")]
    Unknown(u16),
    /// A flag that this build does not know.
    #[error("a record has the unknown flags {0:#06x}; a newer version of Tern is needed")]
    UnknownFlags(u16),
}

fn name_of(number: u16) -> String {
    RecordKind::from_number(number).map_or_else(|| format!("unknown ({number})"), |kind| kind.to_string())
}

/// A record's header, valid in itself: its checksum, flags and length were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The kind, or `None` for an unknown one that may be skipped.
    pub kind: Option<RecordKind>,
    /// The payload's length in bytes.
    pub length: u32,
    number: u16,
    flags: u16,
    payload_crc: u32,
}

impl RecordHeader {
    /// The header for a payload given in parts (so that a sender need not copy them together).
    ///
    /// # Errors
    ///
    /// [`RecordError::TooLong`] where no reader would accept it.
    pub fn new(kind: RecordKind, payload: &[&[u8]]) -> Result<Self, RecordError> {
        let total: usize = payload.iter().map(|part| part.len()).sum();
        let length = u32::try_from(total).ok().filter(|&length| length <= kind.max_payload());
        let length = length.ok_or(RecordError::TooLong {
            kind,
            length: u64::try_from(total).unwrap_or(u64::MAX),
            max: kind.max_payload(),
        })?;
        let mut crc = crc32fast::Hasher::new();
        payload.iter().for_each(|part| crc.update(part));
        Ok(Self {
            kind: Some(kind),
            length,
            number: kind.number(),
            flags: 0,
            payload_crc: crc.finalize(),
        })
    }

    /// The header of a record of the future.
    #[cfg(test)]
    pub(crate) fn of_the_future(number: u16, flags: u16, payload: &[u8]) -> Self {
        let known = Self::new(RecordKind::Hello, &[payload]).expect("short");
        Self {
            kind: None,
            number,
            flags,
            ..known
        }
    }

    /// The number of the kind, known or not.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The checksum that the payload has to have.
    #[must_use]
    pub fn payload_crc(&self) -> u32 {
        self.payload_crc
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..2].copy_from_slice(&self.number.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with a header, and the kinds and flags that must not be skipped.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Self, RecordError> {
        let [k0, k1, f0, f1, l0, l1, l2, l3, p0, p1, p2, p3, h0, h1, h2, h3] = *bytes;
        let (expected, found) = (crc32fast::hash(&bytes[..12]), u32::from_le_bytes([h0, h1, h2, h3]));
        if expected != found {
            return Err(RecordError::Header { expected, found });
        }
        let (number, flags) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([f0, f1]));
        if flags & !IGNORABLE != 0 {
            return Err(RecordError::UnknownFlags(flags & !IGNORABLE));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = RecordKind::from_number(number);
        match kind {
            Some(kind) if length > kind.max_payload() => {
                return Err(RecordError::TooLong {
                    kind,
                    length: length.into(),
                    max: kind.max_payload(),
                });
            }
            None if flags & IGNORABLE == 0 || length > MAX_UNKNOWN => return Err(RecordError::Unknown(number)),
            _ => {}
        }
        Ok(Self {
            kind,
            length,
            number,
            flags,
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }

    /// Checks a payload that was read into the caller's own buffer.
    ///
    /// # Errors
    ///
    /// [`RecordError::Payload`] if it is not the payload of this header.
    pub fn check(&self, payload: &[u8]) -> Result<(), RecordError> {
        let expected = crc32fast::hash(payload);
        if expected == self.payload_crc {
            return Ok(());
        }
        Err(RecordError::Payload {
            number: self.number,
            expected,
            found: self.payload_crc,
        })
    }
}

/// One record with its payload in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: RecordKind,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Record {
    /// Writes a record; returns how many bytes that took.
    ///
    /// # Errors
    ///
    /// [`RecordError::TooLong`] before anything is written, or the writer's failure.
    pub fn write(writer: &mut impl Write, kind: RecordKind, payload: &[u8]) -> Result<u64, RecordError> {
        let header = RecordHeader::new(kind, &[payload])?;
        writer.write_all(&header.to_bytes())?;
        writer.write_all(payload)?;
        Ok(u64::from(header.length) + 16)
    }

    /// Reads the next record that this build knows, skipping the ignorable ones that it does not.
    ///
    /// Memory grows with the bytes that arrive, not with the length that a header claims.
    ///
    /// # Errors
    ///
    /// What is wrong with the record, or the reader's failure.
    pub fn read(reader: &mut impl Read) -> Result<Self, RecordError> {
        loop {
            let mut header = [0; HEADER_LEN];
            reader.read_exact(&mut header)?;
            let header = RecordHeader::from_bytes(&header)?;
            let mut bytes = Vec::new();
            reader.by_ref().take(header.length.into()).read_to_end(&mut bytes)?;
            if u32::try_from(bytes.len()) != Ok(header.length) {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            header.check(&bytes)?;
            let Some(kind) = header.kind else { continue };
            return Ok(Self { kind, payload: bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Record::write(&mut bytes, kind, payload).expect("written");
        bytes
    }

    /// A record of a kind that no build knows.
    fn unknown(flags: u16, payload: &[u8]) -> Vec<u8> {
        let header = RecordHeader::of_the_future(0x7777, flags, payload);
        [&header.to_bytes(), payload].concat()
    }

    #[test]
    fn numbers_are_unique_and_read_back() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(RecordKind::from_number(0), None);
    }

    #[test]
    fn an_unknown_ignorable_record_is_skipped_and_an_unknown_critical_one_refused() {
        let mut bytes = unknown(IGNORABLE, b"from the future");
        bytes.extend(written(RecordKind::Go, b"x"));
        let record = Record::read(&mut bytes.as_slice()).expect("skips");
        assert_eq!(
            (record.kind, record.payload.as_slice()),
            (RecordKind::Go, b"x".as_slice())
        );
        assert!(matches!(
            Record::read(&mut unknown(0, b"").as_slice()),
            Err(RecordError::Unknown(0x7777))
        ));
        assert!(matches!(
            Record::read(&mut unknown(2, b"").as_slice()),
            Err(RecordError::UnknownFlags(2))
        ));
    }

    #[test]
    fn a_payload_beyond_the_bound_of_its_kind_is_neither_written_nor_read() {
        let long = vec![0; 65];
        let error = Record::write(&mut Vec::new(), RecordKind::SectionsEnd, &long).expect_err("too long");
        assert!(error.to_string().contains("claims 65 bytes"), "{error}");
        let header = RecordHeader {
            length: 65,
            ..RecordHeader::new(RecordKind::SectionsEnd, &[]).expect("short")
        };
        assert!(matches!(
            RecordHeader::from_bytes(&header.to_bytes()),
            Err(RecordError::TooLong { length: 65, .. })
        ));
    }

    #[test]
    fn a_length_that_no_bytes_follow_costs_no_memory_and_ends_as_an_error() {
        let header = RecordHeader {
            length: 64 << 20,
            ..RecordHeader::new(RecordKind::Index, &[]).expect("short")
        };
        assert!(matches!(
            Record::read(&mut header.to_bytes().as_slice()),
            Err(RecordError::Io(_))
        ));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = written(RecordKind::Section, b"state of a device");
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[position] ^= 1 << bit;
                Record::read(&mut bad.as_slice()).expect_err("damaged");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Record::read(&mut bytes.as_slice());
        }

        #[test]
        fn records_read_back(payload in prop::collection::vec(any::<u8>(), 0..4096)) {
            let record = Record::read(&mut written(RecordKind::Section, &payload).as_slice()).expect("reads back");
            prop_assert_eq!(record.payload, payload);
        }
    }
}
