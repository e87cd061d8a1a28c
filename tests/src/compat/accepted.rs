//! The states that a release accepted: whatever its loader and its `post_load` hooks took, every later Tern has to take.
//!
//! A schema does not see hooks, and a few snapshots do not meet every value that a hook may come to refuse. So a release keeps, for each
//! machine, thousands of states that it has loaded: a snapshot of its corpus in which one field of one object is another. They are
//! data, and a later Tern needs nothing of what chose them. The file has a line of JSON for each:
//!
//! ```text
//! {"base":"busy","description":"serial16550","path":"/machine/serial0"}    what the next lines change: snapshot and section
//! ["divisor",0]                                                          the section with this in that field
//! [".",{"divisor":7, ...}]                                               all of the section
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use migration::snapshot::{RestoreOptions, inspect};
use migration::vm::DestinationVm;
use serde_json::{Value as Json, json};
use vmstate::qom::sections::IncomingSection;
use vmstate::state::{FieldPath, MapKey, Step, StructValue, Value, diff, encode};

use super::corpus::{self, Golden};
use super::deviations::deviations;
use super::random::Random;
use super::rig::{Saved, SavedSection};
use super::sample::Extreme;
use super::values::legal_value;
use crate::machine::Site;
use crate::process::Scratch;

/// The kinds of snapshots that the states are made of.
pub const BASES: [&str; 4] = ["reset", "busy", "filled", corpus::OPTIONAL];
/// States of each section in which every field is any other; of a large one they would take too much room.
const RANDOM: u32 = 8;
/// A section that can have more bytes is a large one.
const LARGE: usize = 8 << 10;
/// After so many states that are refused no more are asked for.
const ENOUGH: usize = 40;

/// The file of a release that has the states of a machine.
#[must_use]
pub fn file_name(machine: &str) -> String {
    format!("accepted-{machine}.jsonl.gz")
}

/// A state that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The kind of snapshot.
    pub base: String,
    /// The object that has another state there.
    pub path: String,
    /// The type that describes it.
    pub description: String,
    /// The field that is another.
    pub field: FieldPath,
    /// What it is, as JSON of its type.
    pub value: Json,
}

/// Loads sections into a machine.
pub type Loader<'a> = Box<dyn FnMut(Vec<IncomingSection>) -> Result<(), String> + 'a>;

/// The state of a machine, some field of which is to be another, and where it loads.
pub struct Base<'a> {
    /// What it is called.
    pub name: String,
    /// The state, as it was written.
    pub sections: Saved,
    /// Makes a machine that can take it.
    pub fresh: Box<dyn Fn() -> Loader<'a> + 'a>,
}

impl Base<'static> {
    /// A snapshot, which loads as one does that is restored, where there are no processors.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn of_snapshot(golden: &Golden, scratch: &Scratch) -> Result<Self, String> {
        let file = golden.unpack(scratch);
        let info = inspect(&file).map_err(|error| error.to_string())?;
        let sections = info.sections.into_iter().map(|section| SavedSection {
            path: section.path,
            description: section.description,
            schema: section.schema,
            value: section.state,
        });
        let fresh = move || {
            let restored = Site::new("qtest").restore(&file, &RestoreOptions::default());
            let mut restored = restored.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let load = move |sections| restored.vm.load(sections).map_err(|error| error.to_string());
            Box::new(load) as Loader<'_>
        };
        Ok(Self {
            name: golden.variant.clone(),
            sections: sections.collect(),
            fresh: Box::new(fresh),
        })
    }
}

impl Base<'_> {
    fn bytes(&self) -> Result<Vec<Vec<u8>>, String> {
        self.sections.iter().map(SavedSection::bytes).collect()
    }

    /// Tries states of all kinds of sections, and returns those that are accepted.
    ///
    /// # Errors
    ///
    /// What was tried is no state of its description: a mistake of who chose it.
    pub fn ask(&self) -> Result<Vec<Accepted>, String> {
        let mut states = Vec::new();
        for section in self.one_of_each() {
            let tried = self.candidates(section)?.into_iter();
            states.extend(tried.map(|(field, value)| Accepted {
                base: self.name.clone(),
                path: section.path.clone(),
                description: section.description.clone(),
                field,
                value,
            }));
        }
        let refused = self.try_all(&states, usize::MAX)?;
        let mut number = 0..;
        states.retain(|_| !refused.contains_key(&number.next().unwrap_or(usize::MAX)));
        Ok(states)
    }

    /// A section of each description: of several the last where every field is filled, else the first. For optional parts, of what has some.
    fn one_of_each(&self) -> Vec<&SavedSection> {
        let mut of_each: BTreeMap<&str, &SavedSection> = BTreeMap::new();
        let is_optional =
            |section: &&SavedSection| self.name != corpus::OPTIONAL || !section.schema.subsections.is_empty();
        for section in self.sections.iter().filter(is_optional) {
            let of_description = of_each.entry(&section.description).or_insert(section);
            if self.name != "reset" && self.name != "busy" {
                *of_description = section;
            }
        }
        of_each.into_values().collect()
    }

    /// The states to try of a section. One that is large is next to the same in a machine that is busy as in one that was reset.
    fn candidates(&self, section: &SavedSection) -> Result<Vec<(FieldPath, Json)>, String> {
        let (schema, here) = (&section.schema, &section.value);
        let most = encode(schema, &Extreme::Most.of(schema)).map_err(|error| error.to_string())?;
        let is_large = most.len() > LARGE;
        if is_large && self.name == "busy" {
            return Ok(Vec::new());
        }
        let deviations = deviations(schema, here).into_iter();
        let deviations = deviations.map(|(field, value)| (field, value.to_json()));
        let random = (0..if is_large { 0 } else { RANDOM }).map(|case| {
            let mut random = Random::new(1, &section.description, case);
            (FieldPath::root(), legal_value(schema, here, &mut random).to_json())
        });
        Ok(deviations.chain(random).collect())
    }

    /// Loads all those of `states` that are made of this, and tells of each that is refused: the object, the field, its value, and why.
    /// After 40 it tells no more.
    ///
    /// # Errors
    ///
    /// One is no state of its description: the file is damaged.
    pub fn refused(&self, states: &[Accepted]) -> Result<Vec<String>, String> {
        let states: Vec<_> = states.iter().filter(|state| state.base == self.name).cloned().collect();
        Ok(self.try_all(&states, ENOUGH)?.into_values().collect())
    }

    /// Loads states, and tells by their number of those that are refused, until there are `enough` of them.
    ///
    /// States of different sections are loaded together; where that is refused, each alone.
    fn try_all(&self, states: &[Accepted], enough: usize) -> Result<BTreeMap<usize, String>, String> {
        let bytes = self.bytes()?;
        let mut waiting = vec![VecDeque::new(); self.sections.len()];
        for (number, state) in states.iter().enumerate() {
            let key = (&state.path, &state.description);
            let index = self
                .sections
                .iter()
                .position(|section| (&section.path, &section.description) == key);
            let index = index.ok_or_else(|| format!("{} has no {} ({})", state.base, state.path, state.description))?;
            waiting[index].push_back(number);
        }
        let mut refused = BTreeMap::new();
        let mut load = (self.fresh)();
        loop {
            let next = waiting.iter_mut().enumerate();
            let together = next.filter_map(|(index, waiting)| Some((index, waiting.pop_front()?)));
            let together: Vec<_> = together.collect();
            if together.is_empty() || refused.len() >= enough {
                return Ok(refused);
            }
            let mut all = bytes.clone();
            for (index, number) in &together {
                all[*index] = states[*number].bytes(&self.sections[*index])?;
            }
            if load(self.incoming(&all)).is_ok() {
                continue;
            }
            // What has refused a state is to be dropped.
            load = (self.fresh)();
            for (index, number) in together {
                let mut alone = bytes.clone();
                alone[index] = std::mem::take(&mut all[index]);
                if let Err(why) = load(self.incoming(&alone)) {
                    refused.insert(number, states[number].told(&self.sections[index], &why));
                    load = (self.fresh)();
                }
            }
        }
    }

    fn incoming(&self, bytes: &[Vec<u8>]) -> Vec<IncomingSection> {
        let sections = self.sections.iter().zip(bytes).map(|(section, bytes)| IncomingSection {
            path: section.path.clone(),
            description: section.description.clone(),
            writer_schema: Arc::clone(&section.schema),
            bytes: bytes.clone(),
        });
        sections.collect()
    }
}

impl Accepted {
    /// The state, of which `section` is what is not said here.
    ///
    /// # Errors
    ///
    /// It cannot be that: the file is damaged.
    pub fn value_in(&self, section: &SavedSection) -> Result<StructValue, String> {
        let wrong = || {
            let Self {
                base,
                path,
                description,
                field,
                value,
            } = self;
            format!("{base}: {path} ({description}): {field} cannot be {value}")
        };
        let mut state = section.value.to_json();
        *member(&mut state, self.field.steps()).ok_or_else(wrong)? = self.value.clone();
        StructValue::from_json(&section.schema, &state).ok_or_else(wrong)
    }

    fn bytes(&self, section: &SavedSection) -> Result<Vec<u8>, String> {
        let value = self.value_in(section)?;
        let section = SavedSection {
            value,
            ..section.clone()
        };
        section.bytes()
    }

    /// What is told of it where it is refused.
    fn told(&self, section: &SavedSection, why: &str) -> String {
        let value = self.value_in(section).unwrap_or_else(|_| section.value.clone());
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), Value::to_string);
        let differing = diff(&section.value, &value);
        let mut fields: Vec<_> = differing
            .iter()
            .take(4)
            .map(|one| format!("{} = {}", one.path, shown(&one.right)))
            .collect();
        if differing.len() > fields.len() {
            fields.push(format!("and {} more", differing.len() - fields.len()));
        }
        let Self {
            base,
            path,
            description,
            ..
        } = self;
        format!("{base}: {path} ({description}): {}: {why}", fields.join(", "))
    }
}

/// What is at a path in the JSON of a state.
fn member<'a>(state: &'a mut Json, path: &[Step]) -> Option<&'a mut Json> {
    path.iter().try_fold(state, |place, step| match step {
        Step::Field(name) => place.get_mut(name.as_str()),
        Step::Index(index) => place.get_mut(*index),
        Step::Key(key) => {
            let number = |of: &Json| of.as_i64().map(MapKey::from).or(of.as_u64().map(MapKey::from));
            let is_it = |entry: &&mut Json| number(&entry["key"]) == Some(*key);
            place.as_array_mut()?.iter_mut().find(is_it)?.get_mut("value")
        }
        Step::Each => None,
    })
}

/// The text of a file with these states.
#[must_use]
pub fn to_text(states: &[Accepted]) -> String {
    let mut text = String::new();
    let mut last = None;
    for state in states {
        let Accepted {
            base,
            path,
            description,
            field,
            value,
        } = state;
        let section = (base, path, description);
        if last.replace(section) != Some(section) {
            text += &json!({ "base": base, "path": path, "description": description }).to_string();
            text.push('\n');
        }
        text += &json!([field.to_string(), value]).to_string();
        text.push('\n');
    }
    text
}

/// Reads what [`to_text`] wrote.
///
/// # Errors
///
/// The line that is something else.
pub fn from_text(text: &str) -> Result<Vec<Accepted>, String> {
    let mut states = Vec::new();
    let mut section = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |why: &str| format!("line {number}: {why}");
        let json: Json = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let named = |name: &str| json[name].as_str().map(str::to_owned);
        match json.as_array().map(Vec::as_slice) {
            None => {
                let names = named("base").zip(named("path")).zip(named("description"));
                section = Some(names.ok_or_else(|| wrong("it names no section"))?);
            }
            Some([Json::String(field), value]) => {
                let ((base, path), description) = section.clone().ok_or_else(|| wrong("it is of no section"))?;
                states.push(Accepted {
                    base,
                    path,
                    description,
                    field: field.parse().map_err(|_| wrong("it names no field"))?,
                    value: value.clone(),
                });
            }
            Some(_) => return Err(wrong("a state is a field and a value")),
        }
    }
    Ok(states)
}

/// Reads the file of a release.
///
/// # Errors
///
/// It is not there, or something else.
pub fn read(file: &Path) -> Result<Vec<Accepted>, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|packed| GzDecoder::new(packed).read_to_string(&mut text));
    let states = read.map_err(|error| error.to_string()).and_then(|_| from_text(&text));
    states.map_err(|why| format!("{}: {why}", file.display()))
}

/// Writes the file.
///
/// # Errors
///
/// It cannot be written.
pub fn write(file: &Path, states: &[Accepted]) -> io::Result<()> {
    let mut packed = GzEncoder::new(File::create(file)?, Compression::best());
    packed.write_all(to_text(states).as_bytes())?;
    packed.finish()?.sync_all()
}

/// The bases of a machine, of the snapshots in a release's folder.
///
/// # Errors
///
/// One is not there, or cannot be read.
pub fn bases(folder: &Path, machine: &str, scratch: &Scratch) -> Result<Vec<Base<'static>>, String> {
    let goldens = Golden::all(&folder.join(corpus::FOLDER))?;
    let base = |name: &&str| {
        let mut goldens = goldens.iter();
        let golden = goldens.find(|golden| golden.machine == machine && golden.variant == **name);
        Base::of_snapshot(
            golden.ok_or_else(|| format!("{machine} has no snapshot {name}"))?,
            scratch,
        )
    };
    BASES.iter().map(base).collect()
}

/// Asks this program for the states of `machine` that it accepts, and leaves them in a release's folder, which has its snapshots
/// already. Says how many there are.
///
/// # Errors
///
/// A file that cannot be read or written.
pub fn make(folder: &Path, machine: &str) -> Result<usize, String> {
    let scratch = Scratch::in_memory();
    let mut states = Vec::new();
    for base in bases(folder, machine, &scratch)? {
        states.extend(base.ask()?);
    }
    let file = folder.join(file_name(machine));
    write(&file, &states).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(states.len())
}

/// Tells of all states in a release's folder that this program refuses.
///
/// # Errors
///
/// There are not `count` of them, or a file is not what it was.
pub fn refused_here(folder: &Path, machines: &[String], count: usize) -> Result<Vec<String>, String> {
    let mut refused = Vec::new();
    let mut found = 0;
    for machine in machines {
        let scratch = Scratch::in_memory();
        let states = read(&folder.join(file_name(machine)))?;
        found += states.len();
        let bases = bases(folder, machine, &scratch)?;
        if let Some(state) = states
            .iter()
            .find(|state| bases.iter().all(|base| base.name != state.base))
        {
            return Err(format!("{machine}: there is no base {}", state.base));
        }
        for base in bases {
            let of_base = base.refused(&states)?;
            refused.extend(of_base.into_iter().map(|state| format!("{machine}, {state}")));
        }
    }
    if found != count {
        return Err(format!(
            "{}: {found} states were accepted, and {count} are listed",
            folder.display()
        ));
    }
    Ok(refused)
}
