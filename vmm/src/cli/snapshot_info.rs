//! A snapshot file as JSON, for `vm info FILE`.

use std::path::Path;

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

/// Who wrote a snapshot, of which VM.
pub(super) fn header(info: &SnapshotInfo) -> Value {
    let identity = &info.header.identity;
    json!({
        "snapshot": info.header.snapshot.to_string(),
        "written-by": info.header.writer,
        "created": info.header.created,
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
