//! `vm state diff`: what has changed from one snapshot to another.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use migration::manifest::CpuidEntry;
use migration::snapshot::{RamInfo, SectionInfo, SnapshotInfo};
use serde_json::{Value, json};
use vmstate::state::{FieldDiff, diff};

use super::{plain, section_name, snapshot};
use crate::cli::{error::CliError, exit::Exit, messages::Messages};

/// Name each field in which two snapshots differ, and say how much of their memory does.
///
/// The exit status is 0 if they hold the same machine in the same state, and 1 if not. Who wrote them, when, and under which
/// identity is not compared.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm state diff before.tern after.tern\n  vm state diff a.tern b.tern --json")]
pub(super) struct Args {
    /// A snapshot.
    #[arg(value_name = "A")]
    left: PathBuf,
    /// The snapshot to compare it with.
    #[arg(value_name = "B")]
    right: PathBuf,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let (left, right) = (snapshot(&args.left)?, snapshot(&args.right)?);
    let differences = Differences::between(&left, &right);
    messages.result(&differences, &differences.to_json())?;
    Ok(if differences.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    }
    .code())
}

#[derive(Default)]
struct Differences {
    /// What is not state: the machine, its properties.
    machine: Vec<Difference>,
    fields: Vec<(String, FieldDiff)>,
    ram: Vec<RamDifference>,
    /// What could not be compared, and why.
    unreadable: Vec<(String, String)>,
}

struct Difference {
    what: String,
    left: Option<String>,
    right: Option<String>,
}

struct RamDifference {
    block: String,
    chunks: usize,
    of: usize,
}

impl Differences {
    fn between(left: &SnapshotInfo, right: &SnapshotInfo) -> Self {
        let unreadable = left.unreadable.iter().chain(&right.unreadable).cloned().collect();
        Self {
            machine: machine(left, right),
            fields: fields(left, right),
            ram: ram(left, right),
            unreadable,
        }
    }

    fn is_empty(&self) -> bool {
        self.machine.is_empty() && self.fields.is_empty() && self.ram.is_empty() && self.unreadable.is_empty()
    }

    fn to_json(&self) -> Value {
        let machine = |one: &Difference| json!({ "what": one.what, "left": one.left, "right": one.right });
        let field = |(section, field): &(String, FieldDiff)| {
            let side = |value: &Option<vmstate::state::Value>| value.as_ref().map(vmstate::state::Value::to_json);
            json!({
                "section": section,
                "field": field.path.to_string(),
                "left": side(&field.left),
                "right": side(&field.right),
            })
        };
        let ram = |one: &RamDifference| json!({ "block": one.block, "chunks": one.chunks, "of": one.of });
        let unreadable = |(part, because): &(String, String)| json!({ "part": part, "because": because });
        json!({
            "same": self.is_empty(),
            "machine": self.machine.iter().map(machine).collect::<Value>(),
            "fields": self.fields.iter().map(field).collect::<Value>(),
            "ram": self.ram.iter().map(ram).collect::<Value>(),
            "unreadable": self.unreadable.iter().map(unreadable).collect::<Value>(),
        })
    }
}

/// Pairs what two lists have under the same key, in the order of the keys.
fn paired<'a, K: Ord, T>(
    left: &'a [T],
    right: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> impl Iterator<Item = (K, (Option<&'a T>, Option<&'a T>))> {
    let mut pairs = BTreeMap::<K, (Option<&T>, Option<&T>)>::new();
    for one in left {
        pairs.entry(key(one)).or_default().0 = Some(one);
    }
    for one in right {
        pairs.entry(key(one)).or_default().1 = Some(one);
    }
    pairs.into_iter()
}

fn machine(left: &SnapshotInfo, right: &SnapshotInfo) -> Vec<Difference> {
    let facts = |info: &SnapshotInfo| {
        let recipe = &info.manifest.recipe;
        let mut facts = vec![
            ("machine".to_owned(), recipe.machine.clone()),
            ("CPU model".to_owned(), recipe.cpu.name.clone()),
            ("TSC in kHz".to_owned(), recipe.cpu.tsc_khz.to_string()),
            ("vCPUs".to_owned(), format!("{:?}", recipe.cpus)),
            ("memory in bytes".to_owned(), recipe.memory.to_string()),
        ];
        let leaf = |entry: &CpuidEntry| {
            let [eax, ebx, ecx, edx] = entry.registers;
            let registers = format!("{eax:08x} {ebx:08x} {ecx:08x} {edx:08x}");
            (format!("CPUID {:x}.{:x}", entry.function, entry.index), registers)
        };
        facts.extend(recipe.cpu.cpuid.iter().map(leaf));
        let boot = recipe
            .boot
            .iter()
            .map(|part| (format!("boot payload {}", part.role), part.hash.to_string()));
        facts.extend(boot);
        for object in &info.manifest.inventory.objects {
            facts.push((object.path.clone(), object.type_name.clone()));
            let properties = object.properties.iter();
            facts.extend(properties.map(|one| (format!("{} property {}", object.path, one.name), one.value.clone())));
        }
        facts
    };
    let (left, right) = (facts(left), facts(right));
    let differences = paired(&left, &right, |(what, _)| what).filter(|(_, (left, right))| left != right);
    let side = |fact: Option<&(String, String)>| fact.map(|(_, value)| value.clone());
    differences
        .map(|(what, (left, right))| Difference {
            what: what.clone(),
            left: side(left),
            right: side(right),
        })
        .collect()
}

fn fields(left: &SnapshotInfo, right: &SnapshotInfo) -> Vec<(String, FieldDiff)> {
    let key = |section: &'_ SectionInfo| (section.path.clone(), section.description.clone());
    let mut found = Vec::new();
    for ((path, description), sides) in paired(&left.sections, &right.sections, key) {
        let name = section_name(Some(&path), &description);
        let whole = |section: &SectionInfo| Some(vmstate::state::Value::Struct(section.state.clone()));
        let differ = match sides {
            (Some(left), Some(right)) => diff(&left.state, &right.state),
            (left, right) => vec![FieldDiff {
                path: vmstate::state::FieldPath::root(),
                left: left.and_then(whole),
                right: right.and_then(whole),
            }],
        };
        found.extend(differ.into_iter().map(|field| (name.clone(), field)));
    }
    found
}

fn ram(left: &SnapshotInfo, right: &SnapshotInfo) -> Vec<RamDifference> {
    paired(&left.ram, &right.ram, |block: &RamInfo| block.name.clone())
        .map(|(block, sides)| match sides {
            (Some(left), Some(right)) => RamDifference {
                block,
                chunks: left.chunks_that_differ(right),
                of: left.chunks().max(right.chunks()),
            },
            (left, right) => {
                let chunks = left.or(right).map_or(0, RamInfo::chunks);
                RamDifference {
                    block,
                    chunks,
                    of: chunks,
                }
            }
        })
        .filter(|one| one.chunks > 0)
        .collect()
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for Difference { what, left, right } in &self.machine {
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "absent".to_owned());
            lines.push(format!(
                "{what}: {} on the left, {} on the right",
                side(left),
                side(right)
            ));
        }
        lines.extend(self.fields.iter().map(|(section, field)| format!("{section}: {field}")));
        for RamDifference { block, chunks, of } in &self.ram {
            lines.push(format!("memory {block}: {chunks} of {of} chunks differ"));
        }
        for (part, because) in &self.unreadable {
            lines.push(format!("cannot be compared: {part}: {because}"));
        }
        if lines.is_empty() {
            lines.push("the same machine in the same state".to_owned());
        }
        let lines: Vec<_> = lines.iter().map(|line| plain(line)).collect();
        f.write_str(&lines.join("\n"))
    }
}
