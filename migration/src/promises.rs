//! The numbers of the formats that other versions of Tern rely on. A release keeps them, and CI holds every later program against them.

use crate::precopy::Deadlines;
use crate::ram::{MAX_DATA, MAX_RUNS};
use crate::record::RecordKind;
use crate::snapshot::CHUNK;
use crate::{cbor, manifest, precopy, record, snapshot};

/// How a number may change in later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// It stays: both sides go by it.
    Stay,
    /// It is how much a reader takes, which must not become less.
    Grow,
    /// It is what a peer waits for, which must not become more.
    Shrink,
}

/// A number, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// What it is.
    pub name: String,
    /// How much it is, times in milliseconds.
    pub value: u64,
    /// How it may change.
    pub may: May,
}

/// All of them.
#[must_use]
pub fn numbers() -> Vec<Number> {
    let number = |name: &str, value: u64, may| Number {
        name: name.to_owned(),
        value,
        may,
    };
    let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let Deadlines {
        hello,
        silence,
        heartbeat,
        running,
        ..
    } = Deadlines::default();
    let mut numbers = vec![
        number("bytes of RAM with one checksum", CHUNK, May::Stay),
        number("runs of pages in a RAM record", size(MAX_RUNS), May::Stay),
        number("bytes of pages in a RAM record", size(MAX_DATA), May::Stay),
        number("bytes of a text", size(cbor::MAX_TEXT), May::Grow),
        number("entries of a list", size(cbor::MAX_LIST), May::Grow),
        number("depth of a map", cbor::MAX_DEPTH.into(), May::Grow),
        number("blocks of RAM", size(manifest::MAX_BLOCKS), May::Grow),
        number("bytes of an unknown record", record::MAX_UNKNOWN.into(), May::Grow),
        number("bytes of state in a snapshot", snapshot::MAX_STATE, May::Grow),
        number("bytes of state in a migration", size(precopy::MAX_STATE), May::Grow),
        number("wait for a hello", millis(hello), May::Grow),
        number("wait for a sign of life", millis(silence), May::Grow),
        number("between signs of life", millis(heartbeat), May::Shrink),
        number("wait for a guest to run", millis(running), May::Grow),
    ];
    for kind in RecordKind::ALL {
        numbers.push(number(&format!("kind of {kind}"), kind.number().into(), May::Stay));
        numbers.push(number(
            &format!("bytes of {kind}"),
            kind.max_payload().into(),
            May::Grow,
        ));
    }
    numbers
}
