//! What strangers' bytes are read by, as targets for a fuzzer and for a test that goes over their seeds (`tests/tests/fuzz_seeds.rs`).
//!
//! The checksums of records would keep a fuzzer out, so each target begins behind them: with a payload. A target panics
//! if something is wrong; that what is refused is refused is all right with it.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use migration::header::{Header, PREFIX_LEN};
use migration::hello::Hello;
use migration::ident::Id;
use migration::manifest::Manifest;
use migration::phases::Side;
use migration::ram::{PAGE_SIZE, RamBuffer, RamHead, RamRecord};
use migration::record::{Record, RecordKind};
use migration::schemas::SchemaTable;
use migration::section;
use vmstate::qom::sections::{IncomingSection, SectionSchema};
use vmstate::qom::{StateDecl, TypeTable};
use vmstate::state::{Schema, Section, Verdict, adapt, compare, decode, encode};

/// A target: reads bytes, and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by name, which is that of their folder of seeds and of their program in `tests/fuzz/targets`.
pub const TARGETS: [(&str, Target); 6] = [
    ("records", records),
    ("hello", hello),
    ("header", header),
    ("manifest", manifest),
    ("section", section),
    ("ram", ram),
];

/// Records one after the other, as a connection brings them.
pub fn records(bytes: &[u8]) {
    let mut reader = Cursor::new(bytes);
    while let Ok(record) = Record::read(&mut reader) {
        let mut again = Vec::new();
        Record::write(&mut again, record.kind, &record.payload).expect("as long as it was");
        assert_eq!(Record::read(&mut Cursor::new(again)).expect("just written"), record);
    }
}

/// The greeting of a connection.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::from_cbor(bytes) {
        assert_eq!(Hello::from_cbor(&hello.to_cbor()).expect("just written"), hello);
    }
}

/// Identities and features.
pub fn header(bytes: &[u8]) {
    if let Ok(header) = Header::from_cbor(bytes) {
        assert_eq!(Header::from_cbor(&header.to_cbor()).expect("just written"), header);
    }
}

/// Recipe and inventory.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::from_cbor(bytes) {
        assert_eq!(
            Manifest::from_cbor(&manifest.to_cbor()).expect("just written"),
            manifest
        );
    }
}

/// The length of the descriptions in four bytes, the descriptions, and a section that is written by one of them. What can be decoded
/// is written as it was read, and loads here or is refused as the comparison foretold.
pub fn section(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((schemas, payload)) = rest.split_at_checked(length) else {
        return;
    };
    let Ok(table) = SchemaTable::from_cbor(schemas) else {
        return;
    };
    let again = SchemaTable::from_cbor(&table.to_cbor()).expect("just written");
    assert!(table.iter().eq(again.iter()), "descriptions are what they were");
    let Ok((incoming, value)) = section::decode(&table, payload) else {
        return;
    };
    let writer = &incoming.writer_schema;
    let written = encode(writer, &value).expect("it was decoded by the same description");
    assert_eq!(decode(writer, &written).expect("just written"), value);
    let info = types().infos().find(|info| info.name == incoming.description);
    if let Some(StateDecl::Described(binding)) = info.map(|info| &info.state) {
        let reader = binding.schema();
        let foretold = compare(writer, reader);
        match adapt(value, writer, reader) {
            Ok(_) => assert!(
                foretold
                    .complaints()
                    .all(|complaint| !matches!(complaint.verdict, Verdict::DoesNot(_)))
            ),
            Err(_) => assert!(foretold.complaints().next().is_some()),
        }
    }
}

/// Pages of memory, for a machine with two blocks.
pub fn ram(bytes: &[u8]) {
    const BLOCKS: [u64; 2] = [16, 4096];
    let Ok(record) = RamRecord::parse(bytes, &BLOCKS) else {
        return;
    };
    let pages = BLOCKS[usize::from(record.head.block)];
    let mut next = 0;
    for (run, data) in record.runs() {
        assert!(run.pages > 0 && run.first >= next, "runs ascend");
        next = run.first + u64::from(run.pages);
        assert!(next <= pages, "a run lies in its block");
        let length = run.bytes().end - run.bytes().start;
        assert!(data.is_empty() || u64::try_from(data.len()) == Ok(length));
    }
}

fn types() -> &'static Arc<TypeTable> {
    static TYPES: OnceLock<Arc<TypeTable>> = OnceLock::new();
    TYPES.get_or_init(|| TypeTable::gathered().expect("sound types"))
}

/// What no file has: a greeting, and pages as a connection brings them.
pub fn seeds_of_connections() -> [(&'static str, Vec<u8>); 2] {
    let hello = Hello::new(Side::Source, Id::default()).to_cbor();
    let mut buffer = RamBuffer::new();
    let page = usize::try_from(PAGE_SIZE).expect("small");
    let fill = |bytes: &mut [u8]| {
        bytes.fill(0);
        bytes[page..2 * page].fill(0x5a);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(_) = buffer.add(3, 3, true, fill);
    let (mut ram, data) = buffer.payload(&RamHead::default());
    ram.extend_from_slice(data);
    [("hello", hello), ("ram", ram)]
}

/// A section with no description but its own.
fn alone(schemas: &[u8], payload: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (incoming, value) = section::decode(&SchemaTable::from_cbor(schemas).ok()?, payload).ok()?;
    let IncomingSection {
        path,
        description,
        writer_schema,
        ..
    } = incoming;
    let table = SchemaTable::new(&[SectionSchema {
        path: path.clone(),
        description: description.clone(),
        schema: Schema::clone(&writer_schema),
    }]);
    let section = Section {
        path,
        description,
        value,
    };
    Some((table.to_cbor(), section::encode(&table, &section).ok()?))
}

/// What a snapshot file has for each target, by the target's name.
pub fn seeds_of(file: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut reader = Cursor::new(file.get(PREFIX_LEN..).unwrap_or_default());
    let mut schemas = Vec::new();
    loop {
        let at = usize::try_from(reader.position()).unwrap_or(usize::MAX);
        let Ok(Record { kind, payload }) = Record::read(&mut reader) else {
            return seeds;
        };
        let end = usize::try_from(reader.position()).unwrap_or(usize::MAX);
        if payload.len() < 1 << 16 {
            seeds.push(("records", reader.get_ref()[at..end].to_vec()));
        }
        match kind {
            RecordKind::Header => seeds.push(("header", payload)),
            RecordKind::Manifest => seeds.push(("manifest", payload)),
            RecordKind::Schemas => schemas = payload,
            RecordKind::Section => {
                // All descriptions once: to read them takes a hundred times as long as a section, whose own one will do.
                let is_first = seeds.iter().all(|(target, _)| *target != "section");
                let (schemas, payload) = alone(&schemas, &payload)
                    .filter(|_| !is_first)
                    .unwrap_or((schemas.clone(), payload));
                let length = u32::try_from(schemas.len()).expect("a record's payload");
                seeds.push(("section", [&length.to_le_bytes()[..], &schemas, &payload].concat()));
            }
            _ => {}
        }
    }
}
