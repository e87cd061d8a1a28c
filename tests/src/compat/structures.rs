//! What KVM is given for the states that a release accepted. It is in no schema, and has to stay, or the guest of a snapshot goes on with
//! the right values in other registers.
//!
//! A field that this program reads from another place of KVM's structures, and writes back there, fits itself. So a release keeps, for
//! each machine, what each of its accepted states of a processor or an interrupt controller becomes ([`vmm::accel::kvm::structures`]). The
//! file has for each section the structures whole, and then a line for each state with the bytes that are others:
//!
//! ```text
//! busy /machine/pit (i8254-common)
//! = kvm_pit_state2: a9040000...
//! channels[0].count 1: kvm_pit_state2+0 0100
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use vmm::accel::kvm::structures;
use vmstate::qom::{StateDecl, TypeTable};
use vmstate::state::{Schema, StructValue, adapt};

use super::accepted::{self, Accepted};
use super::rig::SavedSection;
use crate::process::Scratch;

/// The file of a release that has what the states of a machine become.
#[must_use]
pub fn file_name(machine: &str) -> String {
    format!("structures-{machine}.txt.gz")
}

/// The structures of one state, by name.
type Structures = BTreeMap<String, Vec<u8>>;

/// Makes structures of states as this program does.
struct Maker {
    schemas: BTreeMap<&'static str, Schema>,
}

impl Maker {
    fn new() -> Result<Self, String> {
        let types = TypeTable::gathered().map_err(|error| error.to_string())?;
        let described = types.infos().filter_map(|info| match &info.state {
            StateDecl::Described(binding) => Some((info.name, binding.schema().clone())),
            StateDecl::Stateless | StateDecl::Unmigratable(_) => None,
        });
        Ok(Self {
            schemas: described.collect(),
        })
    }

    /// What a state becomes that `section`'s writer wrote.
    fn structures(&self, section: &SavedSection, state: StructValue) -> Result<Structures, String> {
        let description = section.description.as_str();
        let here = self.schemas.get(description).ok_or("there is no such description")?;
        let state = adapt(state, &section.schema, here).map_err(|error| error.to_string())?;
        let made = structures(description, &state).map_err(|error| error.to_string())?;
        Ok(made.into_iter().collect())
    }
}

/// The text of a file: what each of `states` becomes that is made of one of `bases`.
fn text(states: &[Accepted], bases: &[accepted::Base<'_>]) -> Result<String, String> {
    let maker = Maker::new()?;
    let mut text = String::new();
    for base in bases {
        for section in &base.sections {
            let is_of = |state: &&Accepted| {
                (&state.base, &state.path, &state.description) == (&base.name, &section.path, &section.description)
            };
            let mut states = states.iter().filter(is_of).peekable();
            let whole = maker.structures(section, section.value.clone())?;
            if whole.is_empty() || states.peek().is_none() {
                continue;
            }
            let _ = writeln!(text, "{} {} ({})", base.name, section.path, section.description);
            for (name, bytes) in &whole {
                let _ = writeln!(text, "= {name}: {}", hex(bytes));
            }
            for state in states {
                let made = maker.structures(section, state.value_in(section)?)?;
                let _ = writeln!(text, "{} {}:{}", state.field, state.value, others(&whole, &made));
            }
        }
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The runs of bytes in which `made` differs from `whole`.
fn others(whole: &Structures, made: &Structures) -> String {
    let mut text = String::new();
    for (name, bytes) in made {
        let before = whole.get(name).map_or(&[][..], Vec::as_slice);
        let differs = |at: usize| before.get(at) != bytes.get(at);
        let mut at = 0;
        while at < bytes.len() {
            let run = (at..bytes.len()).take_while(|&at| differs(at)).count();
            if run > 0 {
                let _ = write!(text, " {name}+{at:#x} {}", hex(&bytes[at..at + run]));
            }
            at += run.max(1);
        }
    }
    text
}

/// Leaves in a release's folder, which has its states already, what they become.
///
/// # Errors
///
/// A file that cannot be read or written, or a state that becomes nothing.
pub fn make(folder: &Path, machine: &str) -> Result<(), String> {
    let text = today(folder, machine)?;
    let path = folder.join(file_name(machine));
    let written = File::create(&path).and_then(|file| {
        let mut packed = GzEncoder::new(file, Compression::best());
        packed.write_all(text.as_bytes())?;
        packed.finish()?.sync_all()
    });
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// What the states of a release become in this program.
///
/// # Errors
///
/// A file that cannot be read, or a state that becomes nothing.
fn today(folder: &Path, machine: &str) -> Result<String, String> {
    let scratch = Scratch::in_memory();
    let states = accepted::read(&folder.join(accepted::file_name(machine)))?;
    text(&states, &accepted::bases(folder, machine, &scratch)?)
}

/// Tells of each state of a release that becomes something else here: the section, the field, and the bytes.
///
/// # Errors
///
/// A file that cannot be read, or is not what it was.
pub fn others_here(folder: &Path, machine: &str) -> Result<Vec<String>, String> {
    let path = folder.join(file_name(machine));
    let mut released = String::new();
    let read = File::open(&path).and_then(|file| GzDecoder::new(file).read_to_string(&mut released));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    let today = today(folder, machine)?;
    // What this program has besides, such as a register that is new, is at the value that it has without a state of it.
    let mut today = today.lines();
    let mut section = "";
    let mut others = Vec::new();
    for was in released.lines() {
        let named = |line: &str| line.split_once(':').map(|(name, _)| name.to_owned());
        let is = loop {
            let Some(is) = today.next() else { break None };
            let is_new = was != is && is.starts_with("= ") && named(is) != named(was);
            if !is_new {
                break Some(is);
            }
        };
        if !was.starts_with("= ") && was.ends_with(')') {
            section = was;
        }
        if is != Some(was) {
            let shown = |line: &str| line.chars().take(240).collect::<String>();
            others.push(format!(
                "{machine}, {section}: was \"{}\", is \"{}\"",
                shown(was),
                shown(is.unwrap_or_default())
            ));
        }
        if is.is_none() || others.len() > 40 {
            break;
        }
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_differ_are_told_by_structure_and_place() {
        let structures = |bytes: &[u8]| Structures::from([("kvm_x".to_owned(), bytes.to_vec())]);
        let whole = structures(&[0, 1, 2, 3, 4]);
        assert_eq!(others(&whole, &whole), "");
        assert_eq!(
            others(&whole, &structures(&[0, 7, 8, 3, 9])),
            " kvm_x+0x1 0708 kvm_x+0x4 09"
        );
    }
}
