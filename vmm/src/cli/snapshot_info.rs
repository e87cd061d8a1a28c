//! A snapshot file as JSON, for `vm info FILE`.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use migration::{
    manifest::Recipe,
    snapshot::{SnapshotError, SnapshotInfo, inspect},
};
use serde_json::{Value, json};

/// What the snapshot at `path` holds; with the fields of every object's state if `with_state`.
///
/// The writer's types are not needed for it: names and kinds come from the schemas in the file.
pub(super) fn describe(path: &Path, with_state: bool) -> Result<Value, SnapshotError> {
    let info = inspect(path)?;
    let mut json = header(&info);
    json["machine"] = machine(&info.manifest.recipe);
    json["ram"] = ram(&info).into();
    json["objects"] = objects(&info, with_state).into();
    Ok(json)
}

/// Seconds since 1970 as RFC 3339 has them; a file can say what it likes, and a year that no calendar has stays a number.
pub(super) fn time_of_day(seconds: u64) -> String {
    const YEAR_10000: u64 = 253_402_300_800;
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        Some(time) if seconds < YEAR_10000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{seconds} seconds since 1970"),
    }
}

/// Who wrote a snapshot, of which VM.
pub(super) fn header(info: &SnapshotInfo) -> Value {
    let identity = &info.header.identity;
    json!({
        "snapshot": info.header.snapshot.to_string(),
        "written-by": info.header.writer,
        "created": info.header.created.map(time_of_day),
        "name": identity.name,
        "vm-id": identity.vm.to_string(),
        "instance-id": identity.instance.to_string(),
        "parent": identity.parent.as_ref().map(|parent| parent.snapshot.to_string()),
        "file-bytes": info.length,
        "disk-bytes": info.allocated,
    })
}

/// The machine, and what it boots from.
pub(super) fn machine(recipe: &Recipe) -> Value {
    json!({
        "type": recipe.machine,
        "cpu-model": recipe.cpu.name,
        "cpus": recipe.cpus.len(),
        "memory-bytes": recipe.memory,
        "tsc-khz": recipe.cpu.tsc_khz,
        "boot": recipe.boot.iter().map(|part| json!({
            "role": part.role,
            "bytes": part.length,
            "blake3": part.hash.to_string(),
        })).collect::<Vec<_>>(),
    })
}

fn ram(info: &SnapshotInfo) -> Vec<Value> {
    let block = |block: &migration::snapshot::RamInfo| json!({ "block": block.name, "bytes": block.size, "data-bytes": block.raw, "offset": block.offset });
    info.ram.iter().map(block).collect()
}

fn objects(info: &SnapshotInfo, with_state: bool) -> Vec<Value> {
    let object = |section: &migration::snapshot::SectionInfo| {
        let mut object = json!({
            "path": section.path,
            "type": section.description,
            "state-bytes": section.length,
        });
        if with_state {
            object["state"] = section.state.to_json();
        }
        object
    };
    info.sections.iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_calendars_have_it_and_no_number_breaks_it() {
        assert_eq!(time_of_day(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_of_day(1_796_000_000), "2026-11-30T00:53:20Z");
        assert_eq!(time_of_day(253_402_300_799), "9999-12-31T23:59:59Z");
        for seconds in [253_402_300_800, u64::MAX] {
            assert_eq!(time_of_day(seconds), format!("{seconds} seconds since 1970"));
        }
    }
}
