//! `vm state inspect`: all that a snapshot holds but the contents of memory.

use std::{fmt, path::PathBuf};

use migration::{
    manifest::{InventoryObject, Property, Recipe},
    snapshot::{RamInfo, SectionInfo, SnapshotInfo},
};
use serde_json::{Value, json};

use super::{plain, section_name, snapshot};
use crate::cli::{
    error::CliError,
    messages::Messages,
    snapshot_info::{self, time_of_day},
    values::Size,
};

/// Show what a snapshot holds: who wrote it, the machine, each field of each object's state, and how its memory was used.
///
/// It reads files of newer versions of Tern as well, and says what of them it cannot show.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm state inspect web.tern\n  vm state inspect web.tern --json | jq .sections")]
pub(super) struct Args {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let info = snapshot(&args.file)?;
    messages.result(Text(&info), &to_json(&info))?;
    Ok(0)
}

fn to_json(info: &SnapshotInfo) -> Value {
    let mut json = snapshot_info::header(info);
    json["features"] = json!(info.header.features);
    json["manifest"] = json!({
        "machine": snapshot_info::machine(&info.manifest.recipe),
        "options": properties(&info.manifest.recipe.options),
        "objects": info.manifest.inventory.objects.iter().map(object).collect::<Value>(),
    });
    json["ram"] = info.ram.iter().map(ram).collect();
    json["sections"] = info.sections.iter().map(section).collect();
    let unreadable = |(part, because): &(String, String)| json!({ "part": part, "because": because });
    json["unreadable"] = info.unreadable.iter().map(unreadable).collect();
    json
}

fn properties(properties: &[Property]) -> Value {
    let members = properties
        .iter()
        .map(|property| (property.name.clone(), json!(property.value)));
    Value::Object(members.collect())
}

fn object(object: &InventoryObject) -> Value {
    json!({ "path": object.path, "type": object.type_name, "properties": properties(&object.properties) })
}

fn ram(block: &RamInfo) -> Value {
    json!({
        "block": block.name,
        "bytes": block.size,
        "zero-bytes": block.zero,
        "raw-bytes": block.raw,
        "compressed-bytes": block.compressed,
        "offset": block.offset,
    })
}

fn section(section: &SectionInfo) -> Value {
    json!({
        "path": section.path,
        "description": section.description,
        "version": section.state.version(),
        "bytes": section.length,
        "fields": section.state.to_json(),
    })
}

struct Text<'a>(&'a SnapshotInfo);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(info) = self;
        write_header(f, info)?;
        write_machine(f, &info.manifest.recipe)?;
        writeln!(
            f,
            "\nMEMORY{:>22}{:>14}{:>14}{:>14}",
            "SIZE", "ZERO", "RAW", "COMPRESSED"
        )?;
        for block in &info.ram {
            let size = |bytes| Size(bytes).to_string();
            let (zero, raw, compressed) = (size(block.zero), size(block.raw), size(block.compressed));
            let name = plain(&block.name);
            writeln!(
                f,
                "  {name:<12}{:>14}{zero:>14}{raw:>14}{compressed:>14}",
                size(block.size)
            )?;
        }
        writeln!(f, "\nOBJECTS")?;
        for object in &info.manifest.inventory.objects {
            write!(f, "  {} ({})", plain(&object.path), plain(&object.type_name))?;
            let shown = |property: &Property| format!("{}={}", property.name, property.value);
            let properties: Vec<_> = object.properties.iter().map(shown).collect();
            writeln!(
                f,
                "{}{}",
                if properties.is_empty() { "" } else { ": " },
                plain(&properties.join(" "))
            )?;
        }
        write!(f, "\nSTATE")?;
        for section in &info.sections {
            write_section(f, section)?;
        }
        for (part, because) in &info.unreadable {
            write!(f, "\n  cannot be shown: {}: {}", plain(part), plain(because))?;
        }
        Ok(())
    }
}

fn write_header(f: &mut fmt::Formatter<'_>, info: &SnapshotInfo) -> fmt::Result {
    let identity = &info.header.identity;
    writeln!(f, "snapshot:  {}", info.header.snapshot)?;
    writeln!(f, "written by {}", plain(&info.header.writer))?;
    if let Some(created) = info.header.created {
        writeln!(f, "created:   {}", time_of_day(created))?;
    }
    writeln!(
        f,
        "VM:        {} ({}), instance {}",
        plain(&identity.name),
        identity.vm,
        identity.instance
    )?;
    if let Some(parent) = &identity.parent {
        writeln!(f, "parent:    {}", parent.snapshot)?;
    }
    if !info.header.features.is_empty() {
        writeln!(f, "features:  {}", plain(&info.header.features.join(" ")))?;
    }
    let (length, allocated) = (Size(info.length), Size(info.allocated));
    writeln!(f, "file:      {length}, of which {allocated} are on the disk")
}

fn write_machine(f: &mut fmt::Formatter<'_>, recipe: &Recipe) -> fmt::Result {
    let (cpus, memory) = (recipe.cpus.len(), Size(recipe.memory));
    let (machine, cpu) = (plain(&recipe.machine), plain(&recipe.cpu.name));
    writeln!(
        f,
        "machine:   {machine}, {cpus} x {cpu}, {memory}, TSC at {} kHz",
        recipe.cpu.tsc_khz
    )?;
    for option in &recipe.options {
        writeln!(f, "option:    {}={}", plain(&option.name), plain(&option.value))?;
    }
    for part in &recipe.boot {
        let (role, length) = (plain(&part.role), Size(part.length));
        writeln!(f, "boots:     {role}, {length}, BLAKE3 {}", part.hash)?;
    }
    Ok(())
}

/// A section's fields, one a line: everything that has a value, by its path.
fn write_section(f: &mut fmt::Formatter<'_>, section: &SectionInfo) -> fmt::Result {
    let name = section_name(Some(&section.path), &section.description);
    write!(
        f,
        "\n  {name} version {}, {} bytes",
        section.state.version(),
        section.length
    )?;
    let mut written = Ok(());
    section.state.for_each_leaf(|path, value| {
        if written.is_ok() {
            written = write!(f, "\n    {path}: {value}");
        }
    });
    written
}
