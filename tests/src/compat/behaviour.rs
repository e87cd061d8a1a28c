//! What the devices of a release did, from states that it could save: every later Tern has them do the same.
//!
//! A description says which fields there are, and not what they mean. Two fields that have changed places, a hook that
//! refuses what was legal, a register that answers something else: no schema shows it. So a release leaves behind a
//! transcript. Its runs are those in which the suite found a field of the state to be missed when it is lost
//! ([`forgotten`](super::forgotten)), so that each field that anybody can see is seen in one; and a few more. A run has the
//! state in the bytes that were saved, what is done, and all that came of it. It is data: whoever checks it makes no program.
//!
//! The file is text, packed with gzip. Each line begins with what it says:
//!
//! - `schema NUMBER DESCRIPTION JSON`: a description, as the release had it;
//! - `type NAME`, and `on MACHINE` for each version of the machine whose properties the device had (a machine has its own);
//! - `new SCHEMA PATH BYTES`: the state of an object of the type, or of one around it, when it is new;
//! - `run`, with the nanoseconds since the beginning and the bytes that back ends take; then `ram ADDRESS BYTES` for a page,
//!   and `state SCHEMA PATH BYTES` in place of a `new`;
//! - `do ...`: a step, and `saw ...`: what came of it, or of the load before the first step;
//! - `end`, with the lines that are high, and the hash of the RAM.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use hw::core::MachineType;
use hw::memory::AccessError;
use vmstate::qom::TypeTable;
use vmstate::qom::sections::IncomingSection;
use vmstate::state::Schema;

use super::conformance::{devices, message};
use super::forgotten::Found;
use super::machine::OPTIONS;
use super::program::{Op, Space};
use super::rig::{Outside, Pages, Rig, Saved, SavedSection, Seen};
use super::split_run::Scenario;

/// The file of a release's folder.
pub const FILE: &str = "behaviour.txt.gz";
/// Random runs in which fields are lost, of a device alone.
const CASES: u32 = 400;
/// The same of a machine, which has all devices.
const CASES_OF_MACHINE: u32 = 8;
/// Random runs that are kept whatever is seen in them.
const ANYWAY: u32 = 4;
/// In how many runs each field is missed, as a rule.
const ROUNDS: u64 = 4;
/// What to do about a difference.
const REMEDY: &str = "what a released machine does from a state that was saved never changes: a field that is renamed or changes places \
     keeps its name in the file (`name = \"...\"`), one whose meaning changes is a new field, a hook takes all that it took, and what \
     is new for a guest is switched off by the `compat` of the released machines (CONTRIBUTING.md)";

/// What devices did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The descriptions of the states.
    pub schemas: Vec<(String, Arc<Schema>)>,
    /// The types.
    pub subjects: Vec<Subject>,
}

/// What objects of one type did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The type.
    pub type_name: String,
    /// Each version of the machine on which a device did so; none for a machine itself.
    pub machines: Vec<String>,
    /// The state of a new one, and of what is around it.
    pub new: Vec<Section>,
    /// The runs.
    pub runs: Vec<Run>,
}

/// A state as it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The number of its description.
    pub schema: usize,
    /// The canonical path of the object.
    pub path: String,
    /// The state.
    pub bytes: Vec<u8>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Nanoseconds since the beginning.
    pub now: u64,
    /// How many bytes the back ends take.
    pub room: usize,
    /// The RAM at the beginning.
    pub ram: Pages,
    /// The states that are not those of new objects.
    pub states: Vec<Section>,
    /// What was seen at the load.
    pub loaded: Vec<String>,
    /// What was done, and what was seen then.
    pub steps: Vec<(Op, Vec<String>)>,
    /// The lines that were high in the end, and the hash of the RAM.
    pub end: String,
}

impl Transcript {
    /// Makes the transcript of all types of this program that can be driven on the bench, on each of its machines.
    ///
    /// # Errors
    ///
    /// A type cannot be put on the bench, or its runs are not the same each time.
    pub fn make(types: &Arc<TypeTable>, seed: u64) -> Result<Self, String> {
        let mut made = Self::default();
        let machines: Vec<_> = MachineType::all(types)
            .into_iter()
            .map(|machine| machine.name)
            .collect();
        for type_name in devices(types) {
            if !Rig::new(types, type_name)?.ground().is_inert() {
                let on = on_machines(type_name, &machines);
                made.add(
                    types,
                    type_name,
                    &on.iter().map(String::as_str).collect::<Vec<_>>(),
                    seed,
                )?;
            }
        }
        Ok(made)
    }

    /// Adds what objects of a type do; of a device, on each of these machines.
    ///
    /// # Errors
    ///
    /// As [`Self::make`].
    pub fn add(&mut self, types: &Arc<TypeTable>, type_name: &str, machines: &[&str], seed: u64) -> Result<(), String> {
        let is_machine = MachineType::find(types, type_name).is_some();
        let cases = if is_machine { CASES_OF_MACHINE } else { CASES };
        let mut beginnings = Vec::new();
        for case in 0..ANYWAY {
            beginnings.push(Beginning::of(&Scenario::new(types, type_name, case, seed)?)?);
        }
        for round in 1..=ROUNDS {
            let keep = |scenario: &Scenario| {
                beginnings.push(Beginning::of(scenario)?);
                Ok(())
            };
            Found::default().look_with(types, type_name, (cases, seed.wrapping_add(round)), keep)?;
        }

        let on = machines.iter().map(|machine| Some(*machine));
        let on: Vec<_> = if is_machine || machines.is_empty() {
            vec![None]
        } else {
            on.collect()
        };
        let mut subjects: Vec<Subject> = Vec::new();
        for machine in on {
            let rig = Rig::on_machine(types, type_name, machine, &Outside::default())?;
            let mut subject = Subject {
                type_name: type_name.to_owned(),
                machines: machine.map(str::to_owned).into_iter().collect(),
                new: self.sections(&rig.save()?)?,
                runs: Vec::new(),
            };
            for beginning in &beginnings {
                let mut run = Run {
                    now: beginning.outside.time_and_room().0,
                    room: beginning.outside.time_and_room().1,
                    ram: beginning.ram.clone(),
                    states: self.sections(&as_on(&rig, &beginning.saved)?)?,
                    loaded: Vec::new(),
                    steps: beginning.ops.iter().map(|op| (op.clone(), Vec::new())).collect(),
                    end: String::new(),
                };
                run.states.retain(|section| !subject.new.contains(section));
                let Seeing { loaded, steps, end } = self.replay(types, &subject, machine, &run)?;
                (run.loaded, run.end) = (loaded, end);
                for ((_, saw), seen) in run.steps.iter_mut().zip(steps) {
                    *saw = seen;
                }
                subject.runs.push(run);
            }
            let same = subjects
                .iter_mut()
                .find(|known| (&known.new, &known.runs) == (&subject.new, &subject.runs));
            match same {
                Some(same) => same.machines.extend(subject.machines),
                None => subjects.push(subject),
            }
        }
        self.subjects.extend(subjects);
        Ok(())
    }

    /// How many runs there are.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.subjects.iter().map(|subject| subject.runs.len()).sum()
    }

    fn sections(&mut self, saved: &Saved) -> Result<Vec<Section>, String> {
        let section = |section: &SavedSection| {
            let description = (section.description.clone(), Arc::clone(&section.schema));
            let known = self.schemas.iter().position(|known| *known == description);
            let schema = known.unwrap_or_else(|| {
                self.schemas.push(description);
                self.schemas.len() - 1
            });
            Ok(Section {
                schema,
                path: section.path.clone(),
                bytes: section.bytes()?,
            })
        };
        saved.iter().map(section).collect()
    }

    /// Does a run on this program: what is seen at the load, at each step, and in the end.
    fn replay(
        &self,
        types: &Arc<TypeTable>,
        subject: &Subject,
        machine: Option<&str>,
        run: &Run,
    ) -> Result<Seeing, String> {
        let rig = Rig::on_machine(types, &subject.type_name, machine, &Outside::new(run.now, run.room))?;
        rig.set_ram(&run.ram);
        let sections = subject.new.iter().map(|new| {
            let state = run
                .states
                .iter()
                .find(|state| (&state.path, state.schema) == (&new.path, new.schema));
            let section = state.unwrap_or(new);
            let (description, schema) = &self.schemas[section.schema];
            IncomingSection {
                path: section.path.clone(),
                description: description.clone(),
                writer_schema: Arc::clone(schema),
                bytes: section.bytes.clone(),
            }
        });
        rig.load_sections(sections.collect())
            .map_err(|error| format!("the state is refused: {error}"))?;
        let texts = || -> Vec<_> { rig.take_seen().iter().map(|(_, seen)| seen_text(seen)).collect() };
        let loaded = texts();
        let inputs = rig.ground().inputs;
        let mut steps = Vec::new();
        for (number, (op, _)) in run.steps.iter().enumerate() {
            if matches!(op, Op::Type { input, .. } if *input >= inputs) {
                return Err(format!(
                    "step {number}, {}: there is no such input any more",
                    op_text(op)
                ));
            }
            rig.run(number, std::slice::from_ref(op));
            steps.push(texts());
        }
        let high: Vec<_> = rig.outside().high().map(|input| input.to_string()).collect();
        let end = format!("high [{}] ram {}", high.join(","), ram_hash(&rig.ram()));
        Ok(Seeing { loaded, steps, end })
    }

    /// Does all runs on this program, and tells of those that differ: by type, state and step, with what to do.
    #[must_use]
    pub fn differences(&self, types: &Arc<TypeTable>) -> Vec<String> {
        let mut found = Vec::new();
        for subject in &self.subjects {
            let machines: Vec<_> = match subject.machines.as_slice() {
                [] => vec![None],
                machines => machines.iter().map(|machine| Some(machine.as_str())).collect(),
            };
            for machine in machines {
                for (number, run) in subject.runs.iter().enumerate() {
                    let done = catch_unwind(AssertUnwindSafe(|| self.replay(types, subject, machine, run)));
                    let done = done.unwrap_or_else(|panic| Err(format!("it panics: {}", message(&*panic))));
                    let difference = match done {
                        Ok(seen) => run.difference(&seen),
                        Err(why) => Some(why),
                    };
                    if let Some(difference) = difference {
                        let on = machine.map_or_else(String::new, |machine| format!(" on {machine}"));
                        found.push(format!(
                            "{}{on}, run {number} ({} steps), from {}: {difference}\n    remedy: {REMEDY}",
                            subject.type_name,
                            run.steps.len(),
                            self.describe(run),
                        ));
                    }
                }
            }
        }
        found
    }

    /// The state that a run begins with, for people.
    fn describe(&self, run: &Run) -> String {
        let state = |section: &Section| {
            let (description, schema) = &self.schemas[section.schema];
            let value = match vmstate::state::decode(schema, &section.bytes) {
                Ok(value) => {
                    let mut leaves = Vec::new();
                    value.for_each_leaf(|path, value| leaves.push(format!("{path}={value}")));
                    leaves.join(" ")
                }
                Err(error) => error.to_string(),
            };
            format!("{} ({description}) {value}", section.path)
        };
        if run.states.is_empty() {
            return "a new object".to_owned();
        }
        run.states.iter().map(state).collect::<Vec<_>>().join("; ")
    }

    /// Writes it into the folder of a release.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let path = folder.join(FILE);
        let written = File::create(&path).and_then(|file| {
            let mut encoder = GzEncoder::new(file, Compression::best());
            encoder.write_all(self.to_string().as_bytes())?;
            encoder.finish()?.sync_all()
        });
        written.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads it from the folder of a release.
    ///
    /// # Errors
    ///
    /// There is none, or it is something else; the text names the line.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join(FILE);
        let mut text = String::new();
        let read = fs::read(&path).and_then(|packed| GzDecoder::new(packed.as_slice()).read_to_string(&mut text));
        let read = read.map_err(|error| error.to_string()).and_then(|_| Self::parse(&text));
        read.map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Reads what [`fmt::Display`] wrote.
    ///
    /// # Errors
    ///
    /// The line that is none of a transcript.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut transcript = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let parsed = transcript.line(line);
            parsed.ok_or_else(|| format!("line {number} is none of a transcript: {line:.200}"))?;
        }
        Ok(transcript)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "schema" => {
                let (number, rest) = rest.split_once(' ')?;
                let (description, json) = rest.split_once(' ')?;
                let schema = Schema::from_json(&serde_json::from_str(json).ok()?).ok()?;
                self.schemas.push((description.to_owned(), Arc::new(schema)));
                (number.parse() == Ok(self.schemas.len() - 1)).then_some(())
            }
            "type" => {
                self.subjects.push(Subject {
                    type_name: rest.to_owned(),
                    machines: Vec::new(),
                    new: Vec::new(),
                    runs: Vec::new(),
                });
                Some(())
            }
            _ => {
                let schemas = self.schemas.len();
                self.subjects.last_mut()?.line(schemas, kind, rest)
            }
        }
    }
}

impl Subject {
    fn line(&mut self, schemas: usize, kind: &str, rest: &str) -> Option<()> {
        let words: Vec<_> = rest.split(' ').collect();
        let section = || match words.as_slice() {
            [schema, path, bytes] => Some(Section {
                schema: schema.parse().ok().filter(|schema| *schema < schemas)?,
                path: (*path).to_owned(),
                bytes: bytes_of(bytes)?,
            }),
            _ => None,
        };
        match (kind, words.as_slice()) {
            ("on", [machine]) => self.machines.push((*machine).to_owned()),
            ("new", _) => self.new.push(section()?),
            ("run", [now, room]) => self.runs.push(Run {
                now: now.parse().ok()?,
                room: room.parse().ok()?,
                ram: Pages::new(),
                states: Vec::new(),
                loaded: Vec::new(),
                steps: Vec::new(),
                end: String::new(),
            }),
            ("ram", [address, bytes]) => {
                let run = self.runs.last_mut()?;
                run.ram.insert(number_of(address)?, bytes_of(bytes)?);
            }
            ("state", _) => self.runs.last_mut()?.states.push(section()?),
            ("do", words) => self.runs.last_mut()?.steps.push((op_of(words)?, Vec::new())),
            ("saw", _) => {
                let run = self.runs.last_mut()?;
                let saw = run.steps.last_mut().map_or(&mut run.loaded, |(_, saw)| saw);
                saw.push(rest.to_owned());
            }
            ("end", _) => rest.clone_into(&mut self.runs.last_mut()?.end),
            _ => return None,
        }
        Some(())
    }
}

impl Run {
    /// In what a run here differs from this one.
    fn difference(&self, Seeing { loaded, steps, end }: &Seeing) -> Option<String> {
        let told = |seen: &[String]| match seen {
            [] => "nothing".to_owned(),
            seen => seen.join(", "),
        };
        if self.loaded != *loaded {
            return Some(format!(
                "at the load: expected {}, found {}",
                told(&self.loaded),
                told(loaded)
            ));
        }
        let mut both = self.steps.iter().zip(steps).enumerate();
        if let Some((number, ((op, expected), found))) = both.find(|(_, ((_, expected), found))| expected != *found) {
            return Some(format!(
                "step {number}, {}: expected {}, found {}",
                op_text(op),
                told(expected),
                told(found)
            ));
        }
        (self.end != *end).then(|| format!("in the end: expected {}, found {end}", self.end))
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = |f: &mut fmt::Formatter<'_>, kind, section: &Section| {
            let Section { schema, path, bytes } = section;
            writeln!(f, "{kind} {schema} {path} {}", hex(bytes))
        };
        for (number, (description, schema)) in self.schemas.iter().enumerate() {
            writeln!(f, "schema {number} {description} {}", schema.to_json())?;
        }
        for subject in &self.subjects {
            writeln!(f, "type {}", subject.type_name)?;
            for machine in &subject.machines {
                writeln!(f, "on {machine}")?;
            }
            for new in &subject.new {
                section(f, "new", new)?;
            }
            for run in &subject.runs {
                writeln!(f, "run {} {}", run.now, run.room)?;
                for (address, page) in &run.ram {
                    writeln!(f, "ram {address:#x} {}", hex(page))?;
                }
                for state in &run.states {
                    section(f, "state", state)?;
                }
                run.loaded.iter().try_for_each(|saw| writeln!(f, "saw {saw}"))?;
                for (op, saw) in &run.steps {
                    writeln!(f, "do {}", op_text(op))?;
                    saw.iter().try_for_each(|saw| writeln!(f, "saw {saw}"))?;
                }
                writeln!(f, "end {}", run.end)?;
            }
        }
        Ok(())
    }
}

/// What is seen of a run.
struct Seeing {
    loaded: Vec<String>,
    steps: Vec<Vec<String>>,
    end: String,
}

/// How a run begins, and what is done in it.
struct Beginning {
    outside: Outside,
    ram: Pages,
    saved: Saved,
    ops: Vec<Op>,
}

impl Beginning {
    /// What comes after the split.
    fn of(scenario: &Scenario) -> Result<Self, String> {
        let rig = scenario.first_half()?;
        Ok(Self {
            outside: rig.outside(),
            ram: rig.ram(),
            saved: rig.save()?,
            ops: scenario.rest().to_vec(),
        })
    }
}

/// A state without the subsections that the object lacks as it is configured in `rig`: on a version of the machine that was
/// released before them.
fn as_on(rig: &Rig, saved: &Saved) -> Result<Saved, String> {
    let here = rig.save()?;
    let as_on = saved.iter().zip(here).map(|(section, here)| {
        let mut section = section.clone();
        section.value = section.value.without_others(&here.schema);
        section.schema = here.schema;
        section
    });
    Ok(as_on.collect())
}

/// How many runs the transcript in a folder has; none if there is no transcript.
///
/// # Errors
///
/// It cannot be read.
pub fn count(folder: &Path) -> Result<Option<usize>, String> {
    if !folder.join(FILE).exists() {
        return Ok(None);
    }
    Ok(Some(Transcript::read(folder)?.runs()))
}

fn ram_hash(ram: &Pages) -> String {
    let mut hasher = blake3::Hasher::new();
    for (address, page) in ram {
        hasher.update(&address.to_le_bytes()).update(page);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Bytes as two digits each; none as a dash.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digit = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

fn number_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Read { space, address, size } => format!("read {} {address:#x} {size}", space_text(*space)),
        Op::Write { space, address, bytes } => format!("write {} {address:#x} {}", space_text(*space), hex(bytes)),
        Op::Wait { ns } => format!("wait {ns}"),
        Op::Type { input, bytes } => format!("type {input} {}", hex(bytes)),
        Op::Room { bytes } => format!("room {bytes}"),
        Op::Reset => "reset".to_owned(),
    }
}

fn op_of(words: &[&str]) -> Option<Op> {
    Some(match *words {
        ["read", space, address, size] => Op::Read {
            space: space_of(space)?,
            address: number_of(address)?,
            size: size.parse().ok().filter(|size| *size <= 4096)?,
        },
        ["write", space, address, bytes] => Op::Write {
            space: space_of(space)?,
            address: number_of(address)?,
            bytes: bytes_of(bytes)?,
        },
        ["wait", ns] => Op::Wait { ns: ns.parse().ok()? },
        ["type", input, bytes] => Op::Type {
            input: input.parse().ok()?,
            bytes: bytes_of(bytes)?,
        },
        ["room", bytes] => Op::Room {
            bytes: bytes.parse().ok()?,
        },
        ["reset"] => Op::Reset,
        _ => return None,
    })
}

const fn space_text(space: Space) -> &'static str {
    match space {
        Space::Memory => "memory",
        Space::Ports => "ports",
    }
}

fn space_of(text: &str) -> Option<Space> {
    match text {
        "memory" => Some(Space::Memory),
        "ports" => Some(Space::Ports),
        _ => None,
    }
}

fn seen_text(seen: &Seen) -> String {
    let refused = |error: &AccessError| match error {
        AccessError::Unassigned(address) => format!("unassigned {address:#x}"),
        AccessError::ReadOnly(address) => format!("read-only {address:#x}"),
        AccessError::Refused(address) => format!("refused {address:#x}"),
    };
    match seen {
        Seen::Read(bytes, Ok(())) => hex(bytes),
        Seen::Read(bytes, Err(error)) => format!("{} {}", hex(bytes), refused(error)),
        Seen::Refused(error) => refused(error),
        Seen::Line { at, input, level } => format!("line {input} {} at {at}", if *level { "high" } else { "low" }),
        Seen::Asked(what) => format!("asked for {what}"),
        Seen::Written(bytes) => format!("written {}", hex(bytes)),
        Seen::Room => "room for input".to_owned(),
        Seen::Took(bytes) => format!("took {bytes}"),
    }
}

/// The machines, and the machines with each option of the type switched on.
#[must_use]
pub fn on_machines(type_name: &str, machines: &[&str]) -> Vec<String> {
    let mut on: Vec<_> = machines.iter().map(|machine| (*machine).to_owned()).collect();
    for (_, option, value) in OPTIONS.iter().filter(|(of, ..)| *of == type_name) {
        on.extend(machines.iter().map(|machine| format!("{machine},{option}={value}")));
    }
    on
}

/// The types of a transcript, with the machines on which each is.
#[must_use]
pub fn coverage(transcript: &Transcript) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for subject in &transcript.subjects {
        let machines = found.entry(subject.type_name.clone()).or_default();
        machines.extend(subject.machines.iter().cloned());
    }
    found
}
