//! What is wrong with a file whose end is not where it should be: told from its beginning.

use super::error::{Part, SnapshotError};
use super::index::TRAILER_LEN;
use super::layout::Layout;
use super::reader::{SnapshotFile, record_len};
use super::to_u64;
use crate::header::PREFIX_LEN;
use crate::manifest::Manifest;
use crate::phases::{Phase, Side, TransferKind, Walk};
use crate::record::RecordKind;

/// Finds the first part that is not wholly there, or the damage before it; `found` is what the end looked like, and the
/// answer for a file that is as long as it should be.
pub(super) fn diagnose(file: &SnapshotFile, found: SnapshotError) -> SnapshotError {
    if let SnapshotError::Read { .. } = found {
        return found;
    }
    match first_missing(file) {
        Ok(None) => found,
        Ok(Some(error)) | Err(error) => error,
    }
}

fn first_missing(file: &SnapshotFile) -> Result<Option<SnapshotError>, SnapshotError> {
    let mut walk = Walk::new(TransferKind::File);
    let mut offset = to_u64(PREFIX_LEN);
    let mut manifest = None;
    while walk.phase() != Phase::Index {
        let part = Part::Record(expected(walk.phase()));
        let (header, payload) = file.record(&part, offset, file.length)?;
        if let Some(kind) = header.kind {
            let wrong = |because: String| file.contents(part.clone(), offset, because);
            walk.step(Side::Source, kind)
                .map_err(|error| wrong(error.to_string()))?;
            if kind == RecordKind::Manifest {
                manifest = Some(Manifest::from_cbor(&payload).map_err(|error| wrong(error.to_string()))?);
            }
        }
        offset += record_len(&header);
    }
    let Some(layout) = manifest.and_then(|manifest| Layout::new(offset, &manifest.recipe.ram)) else {
        return Ok(None);
    };
    let mut parts: Vec<_> = layout.padding().collect();
    parts.extend(
        layout
            .blocks
            .iter()
            .map(|block| (Part::Ram(block.name.clone()), block.offset..block.offset + block.size)),
    );
    parts.sort_by_key(|(_, range)| range.start);
    if let Some((part, _)) = parts.into_iter().find(|(_, range)| range.end > file.length) {
        return Ok(Some(file.truncated(part)));
    }
    let part = Part::Record(RecordKind::Index);
    let (index, _) = file.known_record(&part, RecordKind::Index, layout.index, file.length)?;
    let end = layout.index + record_len(&index) + TRAILER_LEN;
    if end > file.length {
        return Ok(Some(file.truncated(Part::Record(RecordKind::Trailer))));
    }
    let extra = file.length - end;
    Ok((extra > 0).then(|| SnapshotError::Overlong {
        path: file.path.clone(),
        extra,
    }))
}

/// The record that a phase begins with.
fn expected(phase: Phase) -> RecordKind {
    match phase {
        Phase::Header => RecordKind::Header,
        Phase::Schemas => RecordKind::Schemas,
        Phase::Manifest => RecordKind::Manifest,
        Phase::Sections => RecordKind::Section,
        _ => RecordKind::Index,
    }
}
