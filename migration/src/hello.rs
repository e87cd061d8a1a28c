//! How a connection opens, in both directions: one hello per channel, whatever the channel will carry.

use crate::cbor::{self, Cbor, CborError, Reader, Writer, cbor_map};
use crate::header::FORMAT_VERSION;
use crate::ident::Id;
use crate::phases::Side;

/// The contents of the hello record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which side speaks.
    pub role: Side,
    /// The migration that this channel belongs to; the destination repeats the source's.
    pub migration: Id,
    /// Which channel this is, from 0.
    pub channel: u32,
    /// How many channels the migration has.
    pub channels: u32,
    /// Names of what the speaker can do beyond the format version; the other side uses none that it does not know.
    pub features: Vec<String>,
    /// The oldest format version that the speaker reads.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
    /// The speaker's version of Tern, for people.
    pub tern: String,
}
cbor_map!(Hello, "hello" {
    0 => role, 2 => migration, 4 => channel, 6 => channels, 8 => features, 10 => oldest, 12 => newest, 14 => tern,
});

impl Cbor for Side {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Source => 0u32,
            Self::Destination => 1,
        }
        .write(writer);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        match u32::read(reader)? {
            0 => Ok(Self::Source),
            1 => Ok(Self::Destination),
            other => Err(reader.error(format_args!("role {other} is unknown"))),
        }
    }
}

impl Hello {
    /// The hello of this build, for a migration with one channel.
    #[must_use]
    pub fn new(role: Side, migration: Id) -> Self {
        Self {
            role,
            migration,
            channel: 0,
            channels: 1,
            features: Vec::new(),
            oldest: 1,
            newest: FORMAT_VERSION,
            tern: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The record's payload.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::to_bytes(self)
    }

    /// Reads the record's payload, said by the other side.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes, or why these two cannot talk.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        let hello: Self = cbor::from_bytes(bytes)?;
        let refuse = |what| Err(CborError { what, offset: 0 });
        if hello.channels == 0 || hello.channel >= hello.channels {
            return refuse(format!(
                "channel {} of {} does not exist",
                hello.channel, hello.channels
            ));
        }
        if hello.oldest > FORMAT_VERSION || hello.newest < 1 {
            return refuse(format!(
                "Tern {} speaks format versions {} to {}, and this version 1 to {FORMAT_VERSION}; one side has to be updated",
                hello.tern, hello.oldest, hello.newest
            ));
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello::new(Side::Destination, Id::from_bytes([9; 16]))
    }

    #[test]
    fn a_hello_reads_back() {
        assert_eq!(Hello::from_cbor(&hello().to_cbor()), Ok(hello()));
    }

    #[test]
    fn sides_without_a_common_version_part_with_both_ranges_named() {
        let future = Hello {
            oldest: 7,
            newest: 9,
            ..hello()
        };
        let error = Hello::from_cbor(&future.to_cbor()).expect_err("nothing in common");
        assert!(error.to_string().contains("7 to 9"), "{error}");
    }

    #[test]
    fn a_channel_beyond_the_count_is_refused() {
        Hello::from_cbor(&Hello { channel: 1, ..hello() }.to_cbor()).expect_err("channel 1 of 1");
    }
}
