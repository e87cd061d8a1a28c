//! Damaged snapshots of a real machine: each is refused by the name of the part that is damaged, with little memory and
//! in little time, and nothing else notices.

mod heap;
mod victim;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use migration::record::RecordKind;
use migration::snapshot::{Part, RestoreOptions, Snapshot, Verify};
use rustix::fs::{FallocateFlags, fallocate};
use tern_tests::guest::EmbeddedGuest;
use tern_tests::machine::Site;
use tern_tests::needs_kvm;
use tern_tests::process::Scratch;
use victim::{Copy, Original, digest, names, parts_of, with_flipped};

#[global_allocator]
static HEAP: heap::Counted = heap::Counted;

/// The most that the tests here may have allocated at once, all together. It is below what the longest record may
/// claim, and above what honest restores on all threads take.
const MEMORY_CAP: usize = 48 << 20;
/// Threads that damage copies of their own.
const WORKERS: u64 = 2;
/// Bytes of a page.
const PAGE: u64 = 4096;

#[track_caller]
fn memory_was_kept_within_the_cap() {
    let peak = heap::peak();
    assert!(peak < MEMORY_CAP, "{peak} bytes were allocated at once");
}

/// Gives each of several workers its share of the offsets and a copy of its own to damage.
fn on_copies<I: Iterator<Item = u64>>(
    original: &Original,
    name: &str,
    share: impl Fn(u64) -> I + Sync,
    damage: impl Fn(&Copy<'_>, I) + Sync,
) {
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (share, damage) = (&share, &damage);
            scope.spawn(move || {
                let copy = original.copy(&format!("{name}-{worker}"));
                copy.restore().expect("undamaged");
                damage(&copy, share(worker));
                copy.is_as_it_was();
            });
        }
    });
}

#[test]
fn every_flipped_byte_of_what_describes_the_machine_is_found_and_its_record_named() {
    let original = Original::new(0..8);
    let is_record = |part: &Part| !matches!(part, Part::Ram(_) | Part::PaddingBefore(_));
    on_copies(
        &original,
        "records",
        |worker| {
            original
                .bytes_of(is_record)
                .filter(move |offset| offset % WORKERS == worker)
        },
        |copy, offsets| offsets.for_each(|offset| copy.flip_is_found(offset)),
    );
    memory_was_kept_within_the_cap();
}

#[test]
fn every_flipped_byte_of_padding_is_found() {
    let original = Original::new([]);
    let is_padding = |part: &Part| matches!(part, Part::PaddingBefore(_));
    on_copies(
        &original,
        "padding",
        |worker| {
            original
                .bytes_of(is_padding)
                .filter(move |offset| offset / PAGE % WORKERS == worker)
        },
        |copy, offsets| {
            // Padding is looked at once the records are known to be good, which here they are each time.
            let snapshot = Snapshot::open(&copy.path).expect("good records");
            for offset in offsets {
                let part = original.part_at(offset);
                with_flipped(&copy.file, offset, || match snapshot.verify(1, &()) {
                    Err(error) => names(&error, part, offset),
                    Ok(()) => panic!("the flipped byte {offset} in {part} was not found"),
                });
                // What was a hole becomes one again, so that it need not be read each time.
                let page = offset / PAGE * PAGE;
                if offset == page + PAGE - 1 && original.part_at(page) == part {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let _ = fallocate(&copy.file, hole, page, PAGE);
                }
            }
        },
    );
    memory_was_kept_within_the_cap();
}

#[test]
fn a_thousand_flips_in_ram_are_found_and_the_block_is_named() {
    let original = Original::new((300..1000).step_by(7));
    let is_ram = |part: &Part| matches!(part, Part::Ram(_));
    let bytes: u64 = original.bytes_of(is_ram).map(|_| 1).sum();
    let flips = |worker| {
        let original = &original;
        random(worker + 1).take(500).map(move |number| {
            let blocks = original.parts.iter().filter(|(part, _)| is_ram(part));
            let mut rest = number % bytes;
            for (_, range) in blocks {
                let size = range.end - range.start;
                if rest < size {
                    return range.start + rest;
                }
                rest -= size;
            }
            unreachable!("less than all bytes")
        })
    };
    on_copies(&original, "ram", flips, |copy, offsets| {
        offsets.for_each(|offset| copy.flip_is_found(offset));
    });
    memory_was_kept_within_the_cap();
}

/// Numbers that are the same in every run: xorshift (Marsaglia, 2003).
fn random(seed: u64) -> impl Iterator<Item = u64> {
    let step = |&number: &u64| {
        let number = number ^ number << 13;
        let number = number ^ number >> 7;
        Some(number ^ number << 17)
    };
    std::iter::successors(Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)), step).skip(8)
}

#[test]
fn every_truncation_is_found_and_the_first_missing_part_named() {
    let original = Original::new(0..8);
    let length = original.length();
    let boundaries = original
        .parts
        .iter()
        .flat_map(|(_, range)| [range.start, range.start + 1, range.end - 1]);
    let mut lengths: Vec<u64> = boundaries.chain(length - PAGE..length).collect();
    // From the longest to the shortest, so that nothing has to be repaired in between.
    lengths.sort_unstable();
    lengths.dedup();
    let copy = original.copy("truncated");
    copy.restore().expect("undamaged");
    for length in lengths.into_iter().rev() {
        copy.file.set_len(length).expect("cut off");
        let part = match original.part_at(length) {
            // A section that is not there has no name.
            Part::Section(_) | Part::Record(RecordKind::SectionsEnd) => &Part::Record(RecordKind::Section),
            part => part,
        };
        copy.is_refused_for(part, format_args!("a length of {length}"));
    }
    memory_was_kept_within_the_cap();
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let original = Original::new([]);
    let copy = original.copy("overlong");
    let length = original.length();
    copy.file.write_all_at(&[0], length).expect("written");
    copy.is_refused_for(&Part::Record(RecordKind::Trailer), "a byte more");
}

#[test]
fn a_file_is_never_changed_by_what_is_restored_from_it() {
    let original = Original::new(0..8);
    let before = (digest(&original.path), times(&original.path));
    for verify in [Verify::All, Verify::None] {
        let options = RestoreOptions {
            verify,
            ..RestoreOptions::default()
        };
        let site = Site::new("qtest");
        let mut restored = site.restore(&original.path, &options).expect("undamaged");
        migration::vm::DestinationVm::run(&mut restored.vm).expect("runs");
        let machine = site.machine(restored.vm.vm());
        let processor = machine.processor();
        for page in 0..1024 {
            let written = processor.execute(|| machine.vm.board().memory().write(page * PAGE, b"changed"));
            written.expect("the VM runs").expect("it is RAM");
        }
    }
    let after = (digest(&original.path), times(&original.path));
    assert_eq!(before, after);
}

fn times(path: &std::path::Path) -> (i64, i64) {
    let metadata = fs::metadata(path).expect("there");
    (metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn a_damaged_file_is_refused_in_a_sentence_and_its_guest_runs_on() {
    needs_kvm!();
    let home = Scratch::new();
    let mut guest = home.start(&[
        "run",
        "--name",
        "source",
        "--memory",
        "64M",
        "--cmdline",
        "mib=32 beat=20 rate=100",
    ]);
    guest.wait_ready();
    let file = home.file("guest.tern");
    let path = file.to_str().expect("text");
    home.vm_ok(&["snapshot", "source", path]);
    let whole = digest(&file);
    let handle = fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .expect("writable");
    for (part, range) in parts_of(&file) {
        // In the middle of each: in that of RAM is a page of the guest's working set.
        with_flipped(&handle, range.start.midpoint(range.end), || {
            let output = home.vm(&["restore", path, "--name", "copy"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{part}: {said}");
            assert!(output.stdout.is_empty(), "{part}: no guest says anything");
            assert!(said.contains(path), "{part}: {said}");
            assert!(
                part == Part::Prefix || said.contains(&part.to_string()),
                "{part}: {said}"
            );
            assert_eq!(said.lines().count(), 1, "{part}: {said}");
        });
    }
    guest.verify();

    // Undamaged it runs beside its source, out of the mapped file, and neither sees the other.
    let elsewhere = Scratch::new();
    let mut copy = elsewhere.start(&["restore", path, "--name", "copy", "--verify=none"]);
    copy.wait_beat();
    copy.verify();
    guest.verify();
    copy.verify();
    assert_eq!(digest(&file), whole);
}
