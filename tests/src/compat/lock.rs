//! The schemas of a release, and whether today's fit them.
//!
//! The file is what `vm state schema --machine M --json` writes, with one of everything that a user can add to the
//! machine: `vm state check FILE` reads it too.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};
use vmstate::qom::sections::{Move, SectionSchema, whereabouts};
use vmstate::state::{Condition, Obstacle, Schema, Verdict, changed_defaults, compare};

/// What a machine saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFile {
    /// The Tern that has the machine.
    pub tern: String,
    /// The machine.
    pub machine: String,
    /// What it saves.
    pub sections: Vec<SectionSchema>,
}

impl SchemaFile {
    /// The name of the file for a machine.
    #[must_use]
    pub fn name(machine: &str) -> String {
        format!("schema-{machine}.json")
    }

    /// The file's text.
    ///
    /// # Panics
    ///
    /// Never: what it is made of is JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        let section = |section: &SectionSchema| {
            json!({
                "path": section.path,
                "description": section.description,
                "schema": section.schema.to_json(),
            })
        };
        let json = json!({
            "tern": self.tern,
            "machine": self.machine,
            "sections": self.sections.iter().map(section).collect::<Json>(),
        });
        let mut text = serde_json::to_string_pretty(&json).expect("JSON has a text");
        text.push('\n');
        text
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let text = |json: &Json, name: &str| {
            let text = json[name].as_str().map(str::to_owned);
            text.ok_or_else(|| format!("it has no text {name:?}"))
        };
        let section = |json: &Json| {
            Ok(SectionSchema {
                path: text(json, "path")?,
                description: text(json, "description")?,
                schema: Schema::from_json(&json["schema"]).map_err(|error| error.to_string())?,
            })
        };
        let sections = json["sections"].as_array().ok_or("it has no sections")?;
        Ok(Self {
            tern: text(&json, "tern")?,
            machine: text(&json, "machine")?,
            sections: sections.iter().map(section).collect::<Result<_, String>>()?,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It is not there, or something else.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        let read = text.and_then(|text| Self::from_text(&text));
        read.map_err(|why| format!("{}: {why}", path.display()))
    }
}

/// Who reads what the other one wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This program what the release saved: for ever.
    Forward,
    /// The release what this program saves of the machine that the release knows: so that a fleet can roll back.
    Back,
}

/// A field that does not load, or not always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The release.
    pub release: String,
    /// The machine.
    pub machine: String,
    /// The direction in which it does not load.
    pub direction: Direction,
    /// The object.
    pub path: String,
    /// The type that has the description.
    pub description: String,
    /// The field, or `.` for the whole.
    pub field: String,
    /// What the comparison says of it.
    pub verdict: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            release,
            machine,
            path,
            description,
            field,
            verdict,
            remedy,
            ..
        } = self;
        let way = match self.direction {
            Direction::Forward => format!("what {release} saved of {machine}, here"),
            Direction::Back => format!("what is saved here of {machine}, in {release}"),
        };
        write!(
            f,
            "{way}: {path} ({description}): {field} {verdict}\n    remedy: {remedy}"
        )
    }
}

/// A step after which releases do not load a description any more, and of what. It gives up rolling back to those that there
/// were when it was taken, and to no later one; and of that field, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// The newest release to which nobody can roll back any more because of it.
    pub newest: &'static str,
    /// The type that has the description.
    pub description: &'static str,
    /// The field as the break names it, or `.` where the version has become higher.
    pub field: &'static str,
    /// Why rolling back was given up.
    pub why: &'static str,
}

impl OneWay {
    /// Whether it is this break that was accepted. `releases` are all, from the oldest to the newest.
    #[must_use]
    pub fn accepts(&self, found: &Break, releases: &[&str]) -> bool {
        let place = |release: &str| releases.iter().position(|known| *known == release);
        let is_reached = matches!((place(&found.release), place(self.newest)), (Some(of), Some(to)) if of <= to);
        found.direction == Direction::Back
            && is_reached
            && found.description == self.description
            && found.field == self.field
    }

    /// Whether the newest release that it gives up has this break indeed.
    #[must_use]
    pub fn is_needed(&self, found: &[Break], releases: &[&str]) -> bool {
        let mut of_newest = found.iter().filter(|found| found.release == self.newest);
        of_newest.any(|found| self.accepts(found, releases))
    }
}

/// Holds what `release` has of a machine against what `today` has of it, in both directions. Anything but "loads" is a break:
/// a condition is a guest that cannot come here, or cannot go back.
///
/// `moves` say where objects are today that were elsewhere.
#[must_use]
pub fn breaks(release: &SchemaFile, today: &SchemaFile, moves: &[Move]) -> Vec<Break> {
    let mut breaks = Vec::new();
    let mut met = BTreeSet::new();
    let make = |direction, section: &SectionSchema, field: String, verdict: String, remedy| Break {
        release: release.tern.clone(),
        machine: release.machine.clone(),
        direction,
        path: section.path.clone(),
        description: section.description.clone(),
        field,
        verdict,
        remedy,
    };
    let whole = |direction, section: &SectionSchema, because: &str, remedy| {
        make(
            direction,
            section,
            ".".to_owned(),
            format!("does not load: {because}"),
            remedy,
        )
    };
    for released in &release.sections {
        let Some(here) = counterpart(released, today, moves) else {
            breaks.push(whole(
                Direction::Forward,
                released,
                "there is no such state any more",
                KEEP_OBJECT,
            ));
            continue;
        };
        met.insert((&here.path, &here.description));
        // They differ in either direction; it is what older releases than this one saved that becomes something else here.
        for changed in changed_defaults(&released.schema, &here.schema) {
            let (field, verdict) = (changed.path.to_string(), changed.to_string());
            breaks.push(make(Direction::Forward, released, field, verdict, KEEP_DEFAULT));
        }
        for (direction, writer, reader) in [
            (Direction::Forward, &released.schema, &here.schema),
            (Direction::Back, &here.schema, &released.schema),
        ] {
            for complaint in compare(writer, reader).complaints() {
                let (field, verdict) = (complaint.path.to_string(), complaint.verdict.to_string());
                breaks.push(make(
                    direction,
                    released,
                    field,
                    verdict,
                    remedy(direction, &complaint.verdict),
                ));
            }
        }
        if here.path != released.path {
            breaks.push(whole(
                Direction::Back,
                released,
                "the release has the object there",
                MOVE_LATER,
            ));
        }
    }
    let new = today
        .sections
        .iter()
        .filter(|one| !met.contains(&(&one.path, &one.description)));
    for section in new {
        // A device of a user's is there when the user asks for it; another one comes with the machine.
        if section.path.starts_with("/machine/peripheral/") {
            continue;
        }
        breaks.push(whole(
            Direction::Forward,
            section,
            "the release does not send it",
            NEW_OBJECT,
        ));
        breaks.push(whole(
            Direction::Back,
            section,
            "the release does not know it",
            NEW_OBJECT,
        ));
    }
    breaks
}

/// What is today what a release had as `released`.
fn counterpart<'a>(released: &SectionSchema, today: &'a SchemaFile, moves: &[Move]) -> Option<&'a SectionSchema> {
    let mut places = std::iter::once(released.path.clone()).chain(whereabouts(&released.path, moves));
    places.find_map(|place| {
        let mut sections = today.sections.iter();
        sections.find(|one| one.path == place && one.description == released.description)
    })
}

const KEEP_OBJECT: &str =
    "keep the object and its type's name; one that has moved takes a row in the machine's moves (`formerly`)";
const NEW_OBJECT: &str = "give it to a new version of the machine, and not to one that was released";
const MOVE_LATER: &str = "move it in a new version of the machine, and leave it where it was in one that was released";
const TAKE_OLD: &str = "take all that the release could save: at least its range, length, keys and variants";
const STAY_WITHIN: &str = "this version of the machine is released: let it save nothing that the release does not take, \
     and put what is new into an optional subsection that only a new version of the machine has (`needed`, `has_subsection`)";
const SUBSECTION: &str = "make what is new an optional subsection (`needed`) that this version of the machine does not have \
     (`has_subsection`); if the step has to be, enter it in ONE_WAY with the newest release, the field and the reason";
const KEEP_FIELD: &str = "keep the field: under its old name (`name = \"...\"`), or retired (`until` with a `default`)";
const NEW_NAME: &str =
    "give what has changed a new name in a subsection, and keep the old field, retired (`until` with a `default`)";
const GIVE_DEFAULT: &str =
    "raise `version` and give it `since` and a `default`, or make it an optional subsection (`needed`)";
const KEEP_DEFAULT: &str = "keep the default as it was released; what is to begin as something else is a new field";
const OLD_VERSIONS: &str = "lower `minimum_version` to that of the release, and give what it did not have a `default`";

fn remedy(direction: Direction, verdict: &Verdict) -> &'static str {
    let obstacle = match verdict {
        Verdict::DoesNot(obstacle) | Verdict::LoadsOnlyIf(Condition::Nothing { because: obstacle }) => obstacle,
        Verdict::Loads | Verdict::LoadsOnlyIf(_) => {
            return match direction {
                Direction::Forward => TAKE_OLD,
                Direction::Back => STAY_WITHIN,
            };
        }
    };
    match (direction, obstacle) {
        (Direction::Forward, Obstacle::Version { .. }) => OLD_VERSIONS,
        (Direction::Forward, Obstacle::Unknown) => KEEP_FIELD,
        (Direction::Forward, Obstacle::NoDefault) => GIVE_DEFAULT,
        (_, Obstacle::Retyped { .. } | Obstacle::Disjoint { .. } | Obstacle::FileDescriptor) => NEW_NAME,
        (Direction::Back, Obstacle::Version { .. } | Obstacle::Unknown) => SUBSECTION,
        (Direction::Back, Obstacle::NoDefault) => KEEP_FIELD,
    }
}
