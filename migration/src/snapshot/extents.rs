//! Which parts of a file are no holes.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Holes shorter than this are read as the zeros that they are: so the list stays short whatever the file.
const SHORT_HOLE: u64 = 64 << 10;

/// The parts of a file that may hold something other than zeros, in ascending order.
///
/// They are asked for once, from the beginning to the end: on some file systems (tmpfs) to look for the next hole costs
/// as much as there is data before it.
#[derive(Debug)]
pub(super) struct Extents(Vec<Range<u64>>);

impl Extents {
    /// The extents of the first `length` bytes.
    pub(super) fn of(file: &File, length: u64) -> io::Result<Self> {
        let mut all: Vec<Range<u64>> = Vec::new();
        let mut offset = 0;
        while let Some(data) = next_data(file, offset..length)? {
            offset = data.end;
            match all.last_mut() {
                Some(last) if data.start - last.end < SHORT_HOLE => last.end = data.end,
                _ => all.push(data),
            }
        }
        Ok(Self(all))
    }

    /// The parts of `range` that are no holes.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.0.partition_point(|extent| extent.end <= range.start);
        let touching = self.0[first..]
            .iter()
            .take_while(move |extent| extent.start < range.end);
        touching.map(move |extent| extent.start.max(range.start)..extent.end.min(range.end))
    }
}

/// The first stretch of `range` that is no hole, as far as the file system can tell.
fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(start) => start.max(range.start),
        // Nothing but a hole to the end of the file.
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(range)),
        Err(error) => return Err(error.into()),
    };
    if start >= range.end {
        return Ok(None);
    }
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(start..end.clamp(start + 1, range.end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_written_is_an_extent_and_short_holes_are_not_counted() {
        let scratch = Scratch::new();
        let path = scratch.path().join("sparse");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        for offset in [1 << 20, (1 << 20) + 8192, 8 << 20] {
            file.write_all_at(&[1; 4096], offset).expect("written");
        }
        file.set_len(16 << 20).expect("longer");
        let extents = Extents::of(&file, 16 << 20).expect("known");
        let parts: Vec<_> = extents.within(0..16 << 20).collect();
        assert_eq!(parts, [1 << 20..(1 << 20) + 12288, 8 << 20..(8 << 20) + 4096]);
        let parts: Vec<_> = extents.within((1 << 20) + 4096..(8 << 20) + 100).collect();
        assert_eq!(parts, [(1 << 20) + 4096..(1 << 20) + 12288, 8 << 20..(8 << 20) + 100]);
        assert_eq!(extents.within(2 << 20..3 << 20).count(), 0);
    }

    #[test]
    fn an_empty_file_and_one_hole_have_no_extents() {
        let scratch = Scratch::new();
        let file = File::create_new(scratch.path().join("hole")).expect("a file");
        assert_eq!(Extents::of(&file, 0).expect("known").0, []);
        file.set_len(1 << 20).expect("longer");
        assert_eq!(Extents::of(&file, 1 << 20).expect("known").0, []);
    }
}
