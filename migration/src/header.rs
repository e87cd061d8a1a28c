//! How every snapshot and stream begins: who this is, readable without the writer's types and across format versions.

use crate::cbor::{self, CborError, cbor_map};
use crate::ident::{ContentHash, Id};

/// The version of the format that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The fixed first bytes of a file and of a connection: a magic number, the format version, and a checksum.
pub const PREFIX_LEN: usize = 16;

const MAGIC: [u8; 8] = *b"TERN\r\n\x1a\0";

/// Why the first bytes are not those of a transfer that this build can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Something else altogether.
    #[error("this is no Tern snapshot or stream (it does not begin with Tern's magic number)")]
    Magic,
    /// The magic number is right and the rest is damaged.
    #[error("the prefix is damaged (checksum {found:#010x} instead of {expected:#010x})")]
    Damaged {
        /// What the bytes give.
        expected: u32,
        /// What they say.
        found: u32,
    },
    /// A format of the future.
    #[error(
        "this has format version {0}, and this version of Tern reads up to {FORMAT_VERSION}; a newer one is needed"
    )]
    Version(u32),
}

/// The prefix that this build writes.
#[must_use]
pub fn prefix() -> [u8; PREFIX_LEN] {
    let mut bytes = [0; PREFIX_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks a prefix; returns the format version, which this build can read.
///
/// # Errors
///
/// Why it cannot.
pub fn check_prefix(bytes: &[u8; PREFIX_LEN]) -> Result<u32, PrefixError> {
    let [.., v0, v1, v2, v3, c0, c1, c2, c3] = *bytes;
    if bytes[..8] != MAGIC {
        return Err(PrefixError::Magic);
    }
    let (expected, found) = (crc32fast::hash(&bytes[..12]), u32::from_le_bytes([c0, c1, c2, c3]));
    if expected != found {
        return Err(PrefixError::Damaged { expected, found });
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version == 0 || version > FORMAT_VERSION {
        Err(PrefixError::Version(version))
    } else {
        Ok(version)
    }
}

/// Whether a snapshot or stream can begin with these bytes, of which there may be fewer than a prefix has.
pub(crate) fn may_begin_with(bytes: &[u8]) -> bool {
    bytes.iter().zip(MAGIC).all(|(found, wanted)| *found == wanted)
}

/// Who a VM is. The VM's own identity stays through every transfer; the instance's is new wherever a VM begins to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The VM, for its whole life.
    pub vm: Id,
    /// This running instance of it: two clones of one snapshot differ here.
    pub instance: Id,
    /// What its user calls it.
    pub name: String,
    /// The snapshot that this instance came from, if it came from one.
    pub parent: Option<Parent>,
}
cbor_map!(Identity, "identity" { 0 => vm, 2 => instance, 4 => name, 6 => parent });

/// The snapshot that something descends from, with the hash that tells whether a file is that snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The parent's snapshot identity.
    pub snapshot: Id,
    /// BLAKE3 over the parent's index, which holds the checksum of everything else in the file.
    pub hash: ContentHash,
}
cbor_map!(Parent, "parent" { 0 => snapshot, 2 => hash });

/// The contents of the header record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What this is: a snapshot's identity, or the migration's where the endpoint is no file.
    pub snapshot: Id,
    /// Whose state it is, and which snapshot that came from.
    pub identity: Identity,
    /// Names of features that a reader has to know.
    pub features: Vec<String>,
    /// The Tern that wrote it.
    pub writer: String,
    /// When it was made, in seconds since 1970 by the host's clock. For people: the guest's time is an object's state.
    pub created: Option<u64>,
}
cbor_map!(Header, "header" { 0 => snapshot, 2 => identity, 4 => features, 6 => writer, 7 => created });

/// Features that this build reads, by the name that a header lists.
const FEATURES: &[&str] = &[];

impl Header {
    /// The header of a transfer of `identity` that this build begins now.
    #[must_use]
    pub fn new(snapshot: Id, identity: Identity) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            snapshot,
            identity,
            features: Vec::new(),
            writer: format!("tern {}", env!("CARGO_PKG_VERSION")),
            created: now.ok().map(|since| since.as_secs()),
        }
    }

    /// The record's payload.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }

    /// Reads the record's payload.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes, or the feature that this build does not know.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        let header: Self = cbor::from_bytes(bytes)?;
        match header
            .features
            .iter()
            .find(|feature| !FEATURES.contains(&feature.as_str()))
        {
            Some(feature) => Err(CborError {
                what: format!(
                    "feature {feature:?} is unknown to this version of Tern ({} wrote it)",
                    header.writer
                ),
                offset: 0,
            }),
            None => Ok(header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let id = |n| Id::from_bytes([n; 16]);
        let parent = Some(Parent {
            snapshot: id(4),
            hash: ContentHash::of(b"parent"),
        });
        Header::new(
            id(1),
            Identity {
                vm: id(2),
                instance: id(3),
                name: "web".into(),
                parent,
            },
        )
    }

    #[test]
    fn a_header_reads_back_and_an_unknown_feature_is_refused_by_name() {
        let mut header = header();
        assert_eq!(Header::from_cbor(&header.to_cbor()), Ok(header.clone()));
        header.features.push("holograms".into());
        let error = Header::from_cbor(&header.to_cbor()).expect_err("unknown feature");
        assert!(error.to_string().contains("\"holograms\" is unknown"), "{error}");
    }

    #[test]
    fn every_flipped_byte_of_the_prefix_is_found() {
        assert_eq!(check_prefix(&prefix()), Ok(FORMAT_VERSION));
        for position in 0..PREFIX_LEN {
            let mut bytes = prefix();
            bytes[position] ^= 0x10;
            check_prefix(&bytes).expect_err("damaged");
        }
    }

    #[test]
    fn a_format_of_the_future_is_told_from_damage() {
        let mut bytes = prefix();
        bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_prefix(&bytes), Err(PrefixError::Version(7)));
        assert_eq!(check_prefix(b"GET / HTTP/1.1\r\n"), Err(PrefixError::Magic));
    }
}
