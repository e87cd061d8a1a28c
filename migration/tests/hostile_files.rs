//! Files made to exhaust the reader: every one is refused, in little memory.
//!
//! The cap is the kernel's, on this process: an allocation beyond it ends the test. So this is a process of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use migration::header::{Header, Identity, prefix};
use migration::ident::{ContentHash, Id};
use migration::manifest::Manifest;
use migration::record::{Record, RecordKind};
use migration::snapshot::Snapshot;
use minicbor::Encoder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the reader may take above what the process has anyway.
const CAP: u64 = 160 << 20;
/// How long it may take for one file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Limits the address space of this process.
fn cap_memory() {
    let status = fs::read_to_string("/proc/self/statm").expect("proc");
    let pages: u64 = status.split(' ').next().expect("a size").parse().expect("a number");
    let limit = Rlimit {
        current: Some(pages * 4096 + CAP),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit).expect("lowered");
}

/// A CBOR payload.
fn cbor(write: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder);
    encoder.into_writer()
}

/// Opens a file of these records, with an index and a trailer whose checksums are right.
fn open(path: &Path, records: &[(RecordKind, Vec<u8>)], blocks: impl FnOnce(&mut Encoder<Vec<u8>>)) -> String {
    let mut bytes = prefix().to_vec();
    let mut entries = Vec::new();
    for (kind, payload) in records {
        let offset = bytes.len() as u64;
        let length = Record::write(&mut bytes, *kind, payload).expect("in bounds");
        entries.push((kind.number(), offset, length, crc32fast::hash(payload)));
    }
    let index = cbor(|e| {
        e.map(2)
            .expect("written")
            .u8(0)
            .expect("written")
            .array(entries.len() as u64)
            .expect("written");
        for (kind, offset, length, crc) in entries {
            e.map(4)
                .expect("written")
                .u8(0)
                .expect("written")
                .u16(kind)
                .expect("written");
            e.u8(2).expect("written").u64(offset).expect("written");
            e.u8(4).expect("written").u64(length).expect("written");
            e.u8(6).expect("written").u32(crc).expect("written");
        }
        e.u8(2).expect("written");
        blocks(e);
    });
    let at = bytes.len() as u64;
    let length = Record::write(&mut bytes, RecordKind::Index, &index).expect("in bounds");
    let mut trailer = Vec::new();
    for number in [at, length, at + length + 72] {
        trailer.extend_from_slice(&number.to_le_bytes());
    }
    trailer.extend_from_slice(ContentHash::of(&index).as_bytes());
    Record::write(&mut bytes, RecordKind::Trailer, &trailer).expect("in bounds");
    fs::write(path, bytes).expect("written");
    refused(path)
}

/// The error, which has to come soon.
fn refused(path: &Path) -> String {
    let began = Instant::now();
    let error = Snapshot::open(path).expect_err("hostile");
    assert!(began.elapsed() < PATIENCE, "{error} took {:?}", began.elapsed());
    error.to_string()
}

fn header() -> (RecordKind, Vec<u8>) {
    let id = Id::from_bytes([1; 16]);
    let identity = Identity {
        vm: id,
        instance: id,
        name: "x".to_owned(),
        parent: None,
    };
    (RecordKind::Header, Header::new(id, identity).to_cbor())
}

fn no_schemas() -> (RecordKind, Vec<u8>) {
    (RecordKind::Schemas, vec![0xa2, 0, 0x80, 2, 0x80])
}

/// A payload as long as its kind may be, of one byte again and again behind `head`.
fn filled(kind: RecordKind, head: &[u8], byte: u8) -> (RecordKind, Vec<u8>) {
    let mut payload = head.to_vec();
    payload.resize(kind.max_payload() as usize, byte);
    (kind, payload)
}

#[test]
fn files_made_to_exhaust_memory_or_time_are_refused() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile.snap");
    cap_memory();

    // A file of a tebibyte that is one hole, and an index that lies in it and is as long as may be.
    let mut sparse = Vec::new();
    let zeros = vec![0; RecordKind::Index.max_payload() as usize];
    Record::write(&mut sparse, RecordKind::Index, &zeros).expect("in bounds");
    let (length, end) = (sparse.len() as u64, 1u64 << 40);
    let file = File::create(&path).expect("a file");
    file.write_all_at(&prefix(), 0).expect("written");
    file.write_all_at(&sparse[..16], end - 72 - length).expect("written");
    let mut trailer = Vec::new();
    for number in [end - 72 - length, length, end] {
        trailer.extend_from_slice(&number.to_le_bytes());
    }
    trailer.extend_from_slice(ContentHash::of(&zeros).as_bytes());
    let mut record = Vec::new();
    Record::write(&mut record, RecordKind::Trailer, &trailer).expect("in bounds");
    file.write_all_at(&record, end - 72).expect("written");
    drop((zeros, sparse));
    let error = refused(&path);
    assert!(error.contains("index record"), "{error}");

    // Lists of as many empty things as there are bytes.
    for byte in [0x00, 0x40, 0x60, 0x80, 0xa0, 0xf6] {
        let hostile = filled(RecordKind::Schemas, &[0xa1, 0, 0x9a, 0, 0x3f, 0xff, 0xf0], byte);
        let error = open(&path, &[header(), hostile], |e| drop(e.array(0)));
        assert!(error.contains("elements in"), "{error}");
        let hostile = filled(RecordKind::Schemas, &[0xa2, 0, 0x80, 2, 0x99, 0xff, 0xff], byte);
        open(&path, &[header(), hostile], |e| drop(e.array(0)));
        let hostile = filled(RecordKind::Manifest, &[0xa2, 0, 0xa8, 0, 0x60, 2], byte);
        open(&path, &[header(), no_schemas(), hostile], |e| drop(e.array(0)));
    }

    // Nesting without end, in a value that may be skipped.
    for byte in [0x81, 0x9f, 0xa1, 0xbf, 0xc1] {
        let hostile = filled(RecordKind::Manifest, &[0xa1, 1], byte);
        open(&path, &[header(), no_schemas(), hostile], |e| drop(e.array(0)));
    }

    // An index that is one long list, or claims sums for RAM that nothing describes.
    open(&path, &[header()], |e| drop(e.array(u64::MAX)));
    let manifest = (RecordKind::Manifest, Manifest::default().to_cbor());
    let records = [header(), no_schemas(), manifest, (RecordKind::SectionsEnd, Vec::new())];
    let error = open(&path, &records, |e| {
        e.array(60_000).expect("written");
        for _ in 0..60_000 {
            e.map(4).expect("written");
            for key in [0, 2, 4] {
                e.u8(key).expect("written").u64(u64::MAX).expect("written");
            }
            e.u8(6).expect("written").bytes(&[0; 60]).expect("written");
        }
    });
    assert!(error.contains("60000 RAM blocks"), "{error}");
    fs::remove_file(&path).expect("there");
}
