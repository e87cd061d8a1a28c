//! A snapshot that is damaged byte by byte, and what each of its bytes belongs to.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migration::header::PREFIX_LEN;
use migration::record::{HEADER_LEN, RecordHeader, RecordKind};
use migration::snapshot::{Part, RestoreError, RestoreOptions, SaveOptions, SnapshotError, inspect, save};
use tern_tests::machine::Site;
use tern_tests::process::Scratch;
use vmm::vm::VmSpec;

/// How long a restore may take: far more than any does, so that only what hangs exceeds it.
const TIME_CAP: Duration = Duration::from_secs(20);
/// The length of a trailer, with its header.
const TRAILER: u64 = 72;

/// What every byte of a snapshot belongs to, in the order of the file.
pub fn parts_of(path: &Path) -> Vec<(Part, Range<u64>)> {
    let info = inspect(path).expect("undamaged");
    let file = File::open(path).expect("readable");
    let mut end = u64::try_from(PREFIX_LEN).expect("short");
    let mut parts = vec![(Part::Prefix, 0..end)];
    let mut paths = info.sections.iter().map(|section| section.path.clone());
    while parts.last().expect("the prefix").0 != Part::Record(RecordKind::SectionsEnd) {
        let start = end;
        let header = record_at(&file, start);
        end += record_length(&header);
        let part = match header.kind {
            Some(RecordKind::Section) => Part::Section(paths.next().expect("as many as there are sections")),
            Some(kind) => Part::Record(kind),
            None => Part::UnknownRecord(header.number()),
        };
        parts.push((part, start..end));
    }
    for block in &info.ram {
        if end < block.offset {
            parts.push((Part::PaddingBefore(block.name.clone()), end..block.offset));
        }
        end = block.offset + block.size;
        parts.push((Part::Ram(block.name.clone()), block.offset..end));
    }
    let index_end = end + record_length(&record_at(&file, end));
    parts.push((Part::Record(RecordKind::Index), end..index_end));
    parts.push((Part::Record(RecordKind::Trailer), index_end..info.length));
    assert_eq!(index_end + TRAILER, info.length);
    parts
}

fn record_at(file: &File, offset: u64) -> RecordHeader {
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, offset).expect("a record");
    RecordHeader::from_bytes(&header).expect("undamaged")
}

fn record_length(header: &RecordHeader) -> u64 {
    u64::from(header.length) + u64::try_from(HEADER_LEN).expect("short")
}

/// The snapshot of a real machine with little memory, most of it unused.
pub struct Original {
    folder: Scratch,
    /// The file.
    pub path: PathBuf,
    /// What each byte belongs to.
    pub parts: Vec<(Part, Range<u64>)>,
}

impl Original {
    /// A machine whose guest has written to these pages.
    pub fn new(pages: impl IntoIterator<Item = u64>) -> Self {
        let folder = Scratch::in_memory();
        let path = folder.file("original");
        let machine = Site::new("qtest").boot(&VmSpec {
            memory: 4 << 20,
            cpus: 2,
            ..VmSpec::new("victim", "")
        });
        let processor = machine.processor();
        for page in pages {
            let written = processor.execute(|| machine.vm.board().memory().write(page * 4096 + 77, b"written"));
            written.expect("the VM runs").expect("it is RAM");
        }
        save(&*machine.vm, &path, &SaveOptions::default(), &()).expect("saved");
        let parts = parts_of(&path);
        Self { folder, path, parts }
    }

    /// What the byte at `offset` belongs to.
    pub fn part_at(&self, offset: u64) -> &Part {
        let found = self.parts.iter().find(|(_, range)| range.contains(&offset));
        &found.expect("every byte belongs to something").0
    }

    /// The bytes of those parts that `wanted` picks.
    pub fn bytes_of(&self, wanted: impl Fn(&Part) -> bool) -> impl Iterator<Item = u64> {
        let parts = self.parts.iter().filter(move |(part, _)| wanted(part));
        parts.flat_map(|(_, range)| range.clone())
    }

    /// The file's length.
    pub fn length(&self) -> u64 {
        self.parts.last().expect("the trailer").1.end
    }

    /// A copy to be damaged, `name`d for whoever damages it.
    pub fn copy(&self, name: &str) -> Copy<'_> {
        let path = self.folder.file(name);
        let sparse = std::process::Command::new("cp")
            .arg("--sparse=always")
            .args([&self.path, &path])
            .status();
        assert!(sparse.expect("cp is there").success());
        let file = File::options().read(true).write(true).open(&path).expect("a copy");
        Copy {
            original: self,
            site: Site::new("qtest"),
            file,
            path,
        }
    }
}

/// A copy of a snapshot that may be damaged, and a place where it would be restored.
pub struct Copy<'a> {
    original: &'a Original,
    site: Site,
    /// The copy.
    pub file: File,
    /// Its path.
    pub path: PathBuf,
}

impl Copy<'_> {
    /// Restores what is there.
    pub fn restore(&self) -> Result<(), Box<RestoreError>> {
        let began = Instant::now();
        let restored = self.site.restore(&self.path, &RestoreOptions::default()).map(drop);
        let took = began.elapsed();
        assert!(took < TIME_CAP, "a restore took {took:?}");
        restored
    }

    /// Expects that what is there is refused because of `part`, and says so.
    pub fn is_refused_for(&self, part: &Part, damage: impl std::fmt::Display) {
        let error = match self.restore() {
            Err(error) => *error,
            Ok(()) => panic!("{damage} in {part} was not found"),
        };
        match error {
            RestoreError::Snapshot(error) => names(&error, part, damage),
            error => panic!("{damage} in {part}: {error}"),
        }
    }

    /// Flips a bit of the byte at `offset`, and expects that a restore finds it.
    pub fn flip_is_found(&self, offset: u64) {
        with_flipped(&self.file, offset, || {
            self.is_refused_for(self.original.part_at(offset), format_args!("the flipped byte {offset}"));
        });
    }

    /// Expects that the copy is whole again, and loads.
    pub fn is_as_it_was(&self) {
        assert_eq!(digest(&self.path), digest(&self.original.path));
        self.restore().expect("undamaged");
    }
}

/// Flips a bit of the byte at `offset`, does something, and flips it back.
pub fn with_flipped(file: &File, offset: u64, then: impl FnOnce()) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("readable");
    let damaged = byte.map(|byte| byte ^ 1 << (offset % 8));
    file.write_all_at(&damaged, offset).expect("damaged");
    then();
    file.write_all_at(&byte, offset).expect("repaired");
}

/// A digest of a file, which is not read into memory at once.
pub fn digest(path: &Path) -> u64 {
    let mut file = File::open(path).expect("readable");
    let (mut hasher, mut buffer) = (DefaultHasher::new(), vec![0; 64 << 10]);
    loop {
        let length = file.read(&mut buffer).expect("readable");
        if length == 0 {
            return hasher.finish();
        }
        hasher.write(&buffer[..length]);
    }
}

/// Expects that an error is about `part`, and that its message says so.
pub fn names(error: &SnapshotError, part: &Part, damage: impl std::fmt::Display) {
    assert_eq!(error.part().as_ref(), Some(part), "{damage}: {error}");
    if *part != Part::Prefix {
        assert!(
            error.to_string().contains(&part.to_string()),
            "{damage} in {part}: {error}"
        );
    }
}
