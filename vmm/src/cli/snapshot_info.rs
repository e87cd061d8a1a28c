//! A snapshot file as JSON, for `vm info FILE`.

use std::path::Path;

use migration::{
    manifest::Recipe,
    snapshot::{SnapshotError, SnapshotInfo, inspect},
};
use serde_json::{Map, Value, json};
use vmstate::state::{StructValue, Value as StateValue};

/// What the snapshot at `path` holds; with the fields of every object's state if `with_state`.
///
/// The writer's types are not needed for it: names and kinds come from the schemas in the file.
pub(super) fn describe(path: &Path, with_state: bool) -> Result<Value, SnapshotError> {
    let info = inspect(path)?;
    let identity = &info.header.identity;
    Ok(json!({
        "snapshot": info.header.snapshot.to_string(),
        "written-by": info.header.writer,
        "created": info.header.created,
        "name": identity.name,
        "vm-id": identity.vm.to_string(),
        "instance-id": identity.instance.to_string(),
        "parent": identity.parent.as_ref().map(|parent| parent.snapshot.to_string()),
        "file-bytes": info.length,
        "disk-bytes": info.allocated,
        "machine": machine(&info.manifest.recipe),
        "ram": ram(&info),
        "objects": objects(&info, with_state),
    }))
}

fn machine(recipe: &Recipe) -> Value {
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
    let block = |block: &migration::snapshot::RamInfo| json!({ "block": block.name, "bytes": block.size, "data-bytes": block.data, "offset": block.offset });
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
            object["state"] = fields(&section.state);
        }
        object
    };
    info.sections.iter().map(object).collect()
}

fn fields(state: &StructValue) -> Value {
    let mut members: Map<_, _> = state
        .fields()
        .map(|(name, value)| (name.to_string(), field(value)))
        .collect();
    for (name, subsection) in state.subsections() {
        members.insert(name.to_string(), fields(subsection));
    }
    members.into()
}

fn field(value: &StateValue) -> Value {
    match value {
        StateValue::Bool(value) => json!(value),
        StateValue::Uint(value) => json!(value),
        StateValue::Int(value) => json!(value),
        StateValue::F64(value) => json!(value),
        StateValue::Bytes(bytes) => bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into(),
        StateValue::Str(text) => json!(text),
        StateValue::Array(elements) => elements.iter().map(field).collect(),
        StateValue::Struct(state) => fields(state),
        StateValue::Option(value) => value.as_deref().map_or(Value::Null, field),
        StateValue::Enum(variant) => json!(variant.to_string()),
    }
}
