//! Files that are damaged, cut off, or made to deceive.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::index::{Index, RecordEntry, TRAILER_LEN, Trailer};
use super::*;
use crate::header::PREFIX_LEN;
use crate::ident::ContentHash;
use crate::record::{HEADER_LEN, IGNORABLE, Record, RecordHeader, RecordKind};
use crate::testing::{FakeVm, Scratch};

/// A small snapshot that can be damaged byte by byte, and what each byte belongs to.
struct Victim {
    _scratch: Scratch,
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
    parts: Vec<(Part, Range<u64>)>,
}

impl Victim {
    fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.path().join("victim.snap");
        // Two pages of sixteen in use; the block after it begins with a gap.
        let vm = FakeVm::new(64 << 10);
        vm.fill(8192..16384, 5);
        save(&vm, &path, &SaveOptions::default(), &()).expect("saved");
        let snapshot = Snapshot::open(&path).expect("whole");
        let length = snapshot.file.length;
        let mut parts = vec![(Part::Prefix, 0..to_u64(PREFIX_LEN))];
        let record = |entry: &RecordEntry| (entry.part(), entry.offset..entry.offset + entry.length);
        parts.extend(snapshot.index.records.iter().map(record));
        parts.extend(snapshot.layout.padding());
        parts.extend(
            snapshot
                .layout
                .blocks
                .iter()
                .map(|b| (Part::Ram(b.name.clone()), b.offset..b.offset + b.size)),
        );
        parts.push((
            Part::Record(RecordKind::Index),
            snapshot.layout.index..length - TRAILER_LEN,
        ));
        parts.push((Part::Record(RecordKind::Trailer), length - TRAILER_LEN..length));
        parts.sort_by_key(|(_, range)| range.start);
        let file = File::options().write(true).open(&path).expect("writable");
        Self {
            bytes: fs::read(&path).expect("readable"),
            _scratch: scratch,
            path,
            file,
            parts,
        }
    }

    /// Opens and checks everything.
    fn check(&self) -> Result<(), SnapshotError> {
        Snapshot::open(&self.path)?.verify(1, &())
    }

    fn part_of(&self, offset: u64) -> Part {
        let (part, _) = self
            .parts
            .iter()
            .find(|(_, range)| range.contains(&offset))
            .expect("every byte has a part");
        part.clone()
    }

    /// Flips bits of one byte: the damage is found, and its part named.
    fn flip(&self, offset: u64, bits: u8) {
        let good = self.bytes[to_usize(offset)];
        self.file.write_all_at(&[good ^ bits], offset).expect("damaged");
        let error = self.check().expect_err("damage has to be found");
        self.file.write_all_at(&[good], offset).expect("repaired");
        assert_eq!(error.part(), Some(self.part_of(offset)), "byte {offset}: {error}");
    }

    /// The whole file with other records before RAM: checksums, index and trailer are right, so that what the records
    /// say is all that is wrong.
    fn forge(&self, change: impl FnOnce(&mut Vec<(u16, Vec<u8>)>, &mut Index)) -> Result<(), SnapshotError> {
        let snapshot = Snapshot::open(&self.path).expect("whole");
        let mut index = snapshot.index.clone();
        let mut records: Vec<_> = index
            .records
            .iter()
            .map(|entry| {
                let start = to_usize(entry.offset) + HEADER_LEN;
                let payload = self.bytes[start..to_usize(entry.offset + entry.length)].to_vec();
                (entry.kind, payload)
            })
            .collect();
        let paths: Vec<_> = index.records.iter().map(|entry| entry.path.clone()).collect();
        index.records.clear();
        change(&mut records, &mut index);

        let mut bytes = self.bytes[..PREFIX_LEN].to_vec();
        for (number, (kind, payload)) in records.iter().enumerate() {
            let offset = to_u64(bytes.len());
            let header = match RecordKind::from_number(*kind) {
                Some(kind) => RecordHeader::new(kind, &[payload]).expect("in bounds"),
                None => RecordHeader::of_the_future(*kind, IGNORABLE, payload),
            };
            bytes.extend_from_slice(&header.to_bytes());
            bytes.extend_from_slice(payload);
            index.records.push(RecordEntry {
                kind: *kind,
                path: paths.get(number).cloned().flatten(),
                offset,
                length: to_u64(bytes.len()) - offset,
                crc: crc32fast::hash(payload),
            });
        }
        let ram = snapshot.layout.blocks.first().expect("a block").offset;
        bytes.resize(bytes.len().max(to_usize(ram)), 0);
        bytes.extend_from_slice(&self.bytes[to_usize(ram)..to_usize(snapshot.layout.index)]);
        let at = to_u64(bytes.len());
        let index = index.to_cbor();
        let index_length = Record::write(&mut bytes, RecordKind::Index, &index).expect("in bounds");
        let file_length = at + index_length + TRAILER_LEN;
        let trailer = Trailer {
            index: at,
            index_length,
            file_length,
            hash: ContentHash::of(&index),
        };
        Record::write(&mut bytes, RecordKind::Trailer, &trailer.to_bytes()).expect("in bounds");
        let forged = self.path.with_extension("forged");
        fs::write(&forged, &bytes).expect("written");
        Snapshot::open(&forged)?.verify(1, &())
    }
}

#[test]
fn the_undamaged_file_loads_and_so_does_one_whose_checksums_were_made_anew() {
    let victim = Victim::new();
    victim.check().expect("undamaged");
    victim.forge(|_, _| {}).expect("unchanged");
}

#[test]
fn parts_tile_the_whole_file() {
    let victim = Victim::new();
    let mut end = 0;
    for (part, range) in &victim.parts {
        assert_eq!(range.start, end, "{part}");
        end = range.end;
    }
    assert_eq!(end, to_u64(victim.bytes.len()));
}

#[test]
fn every_flipped_byte_outside_ram_is_found_and_its_part_named() {
    let victim = Victim::new();
    for (part, range) in &victim.parts {
        if !matches!(part, Part::Ram(_)) {
            range.clone().for_each(|offset| victim.flip(offset, 1 << (offset % 8)));
        }
    }
    victim.check().expect("repaired");
}

#[test]
fn a_thousand_flips_in_ram_are_found_in_pages_and_in_holes() {
    let victim = Victim::new();
    for (part, range) in &victim.parts {
        if matches!(part, Part::Ram(_)) {
            range
                .clone()
                .step_by(67)
                .for_each(|offset| victim.flip(offset, 1 << (offset % 8)));
        }
    }
}

#[test]
fn every_truncation_is_found_and_the_first_missing_part_named() {
    let victim = Victim::new();
    let ends = victim
        .parts
        .iter()
        .flat_map(|(_, range)| [range.start, range.start + 1, range.end - 1]);
    for length in ends.filter(|&end| end < to_u64(victim.bytes.len())) {
        victim.file.set_len(length).expect("cut off");
        let error = victim.check().expect_err("truncated");
        // A section that is not there has no name.
        let part = match victim.part_of(length) {
            Part::Section(_) | Part::Record(RecordKind::SectionsEnd) => Part::Record(RecordKind::Section),
            part => part,
        };
        assert!(matches!(error, SnapshotError::Truncated { .. }), "{length}: {error}");
        assert_eq!(error.part(), Some(part), "{length}: {error}");
        victim.file.write_all_at(&victim.bytes, 0).expect("repaired");
    }
    victim.check().expect("repaired");
}

#[test]
fn bytes_after_the_end_are_refused() {
    let victim = Victim::new();
    victim
        .file
        .write_all_at(b"xyz", to_u64(victim.bytes.len()))
        .expect("written");
    assert!(matches!(victim.check(), Err(SnapshotError::Overlong { extra: 3, .. })));
}

#[test]
fn a_section_that_is_missing_doubled_or_out_of_place_is_refused() {
    let victim = Victim::new();
    let section = |records: &[(u16, Vec<u8>)]| {
        records
            .iter()
            .position(|(kind, _)| *kind == RecordKind::Section.number())
            .expect("a section")
    };
    let doubled = victim.forge(|records, _| {
        let at = section(records);
        records[at + 1] = records[at].clone();
    });
    assert!(doubled.expect_err("doubled").to_string().contains("fake0"));
    let misplaced = victim.forge(|records, _| records.swap(1, 2)).expect_err("out of place");
    assert!(misplaced.to_string().contains("has no place in phase"), "{misplaced}");
    victim
        .forge(|records, _| drop(records.remove(0)))
        .expect_err("no header");
    let endless = victim
        .forge(|records, _| drop(records.pop()))
        .expect_err("no end of sections");
    assert!(endless.to_string().contains("index record"), "{endless}");
}

#[test]
fn a_record_of_the_future_is_skipped_if_it_says_so_and_checked_all_the_same() {
    let victim = Victim::new();
    let future = (0x7777, b"something that this build cannot know".to_vec());
    victim.forge(|records, _| records.push(future)).expect("skipped");
    let forged = victim.path.with_extension("forged");
    let mut bytes = fs::read(&forged).expect("there");
    let at = bytes
        .windows(9)
        .position(|window| window == b"something")
        .expect("there");
    bytes[at] ^= 1;
    fs::write(&forged, bytes).expect("written");
    let error = Snapshot::open(&forged).expect_err("damaged");
    assert_eq!(error.part(), Some(Part::UnknownRecord(0x7777)), "{error}");
}

#[test]
fn a_record_of_another_file_does_not_fit() {
    let (victim, other) = (Victim::new(), Victim::new());
    let (_, header) = victim.parts[1].clone();
    assert_eq!(victim.parts[1], other.parts[1], "the headers are equally long");
    victim
        .file
        .write_all_at(&other.bytes[to_usize(header.start)..to_usize(header.end)], header.start)
        .expect("written");
    let error = victim.check().expect_err("a foreign header");
    assert!(error.to_string().contains("of another file"), "{error}");
}

#[test]
fn a_short_file_that_does_not_begin_like_a_snapshot_is_none_and_not_the_rest_of_one() {
    let scratch = Scratch::new();
    let path = scratch.path().join("hostname");
    std::fs::write(&path, "host\n").expect("written");
    let error = inspect(&path).expect_err("no snapshot");
    assert!(matches!(error, SnapshotError::Prefix { .. }), "{error}");
    assert!(error.to_string().contains("no Tern snapshot"), "{error}");
    std::fs::write(&path, "TERN\r").expect("written");
    let error = inspect(&path).expect_err("the rest is missing");
    assert!(matches!(error, SnapshotError::Truncated { .. }), "{error}");
}

#[test]
fn a_length_beyond_the_file_is_not_allocated() {
    let victim = Victim::new();
    let (_, schemas) = victim.parts[2].clone();
    let mut header = RecordHeader::new(RecordKind::Schemas, &[]).expect("short");
    header.length = RecordKind::Schemas.max_payload();
    victim
        .file
        .write_all_at(&header.to_bytes(), schemas.start)
        .expect("written");
    assert!(matches!(victim.check(), Err(SnapshotError::Truncated { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_that_say_nonsense_with_right_checksums_give_an_error_or_a_snapshot(
        record in 0..6usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<bool>(),
    ) {
        let victim = Victim::new();
        let _ = victim.forge(|records, _| {
            let payload = &mut records[record].1;
            for (at, byte) in changes {
                let length = payload.len();
                payload[at.index(length)] = byte;
            }
            if cut {
                payload.pop();
            }
        });
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_prefix_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let scratch = Scratch::new();
        let path = scratch.path().join("x");
        fs::write(&path, [crate::header::prefix().to_vec(), bytes].concat()).expect("written");
        prop_assert!(Snapshot::open(&path).is_err());
    }
}
