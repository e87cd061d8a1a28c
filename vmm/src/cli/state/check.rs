//! `vm state check`: whether what one Tern saves loads in another.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use serde_json::{Value, json};
use vmstate::state::{
    AdaptError, Condition, FieldPath, Schema, Step, StructValue, Verdict, adapt, changed_defaults, compare,
};

use super::{
    descriptions::{Described, Descriptions},
    plain,
};
use crate::cli::{error::CliError, exit::Exit, messages::Messages};

/// Say of each field whether what one Tern saves loads in another, in both directions.
///
/// OLD and NEW are files that "vm state schema --json" wrote, or snapshots. Of a snapshot the values count: what loads only under
/// a condition is decided. The exit status is 1 if something does not load, whatever its value is, or if a field has another default:
/// what was saved without it is something else then.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm state check released.json                  # against this program
  vm state check released.json new.json --json
  vm state check web.tern --forward             # does this snapshot load here?")]
pub(super) struct Args {
    /// The older side: descriptions or a snapshot.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The newer side; else this program.
    #[arg(value_name = "NEW")]
    new: Option<PathBuf>,
    /// Let only what OLD saves and NEW does not load count, and not the way back.
    #[arg(long)]
    forward: bool,
    /// Name the fields that load as well.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let old = Descriptions::of_file(&args.old)?;
    let (new, cannot_be_built) = match &args.new {
        Some(path) => (Descriptions::of_file(path)?, None),
        None => old.counterpart()?,
    };
    let mut directions = [Direction::new(&old, &new), Direction::new(&new, &old)];
    if let Some(because) = cannot_be_built {
        directions[0].fields.push(whole("the machine".to_owned(), &because));
    }
    let counted = if args.forward {
        &directions[..1]
    } else {
        &directions[..]
    };
    let breaks = counted.iter().any(Direction::breaks);
    let value = json!({
        "breaks": breaks,
        "old-to-new": directions[0].to_json(),
        "new-to-old": directions[1].to_json(),
    });
    let text = Text {
        directions: &directions,
        all: args.all,
    };
    messages.result(text, &value)?;
    Ok(if breaks { Exit::Failed } else { Exit::Done }.code())
}

/// What becomes of the state that one side writes and the other reads.
struct Direction<'a> {
    writer: &'a Descriptions,
    reader: &'a Descriptions,
    fields: Vec<Field>,
}

/// The verdict on a field.
struct Field {
    section: String,
    field: String,
    answer: Answer,
}

#[derive(PartialEq)]
enum Answer {
    Loads,
    /// The condition of the verdict, in words.
    LoadsOnlyIf(String),
    DoesNot(String),
    /// It loads, and is something else where an older Tern did not save it.
    Begins(String),
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Loads => Self::Loads,
            Verdict::LoadsOnlyIf(condition) => Self::LoadsOnlyIf(condition.to_string()),
            Verdict::DoesNot(obstacle) => Self::DoesNot(obstacle.to_string()),
        }
    }
}

impl<'a> Direction<'a> {
    fn new(writer: &'a Descriptions, reader: &'a Descriptions) -> Self {
        // Sections of two machines are paired by object. Where one side is no machine, or the other a snapshot, whose objects may have been
        // elsewhere or only be like those, by what describes them.
        let is_snapshot = |side: &Descriptions| side.sections.iter().any(|section| section.value.is_some());
        let by_object =
            writer.machine.is_some() && reader.machine.is_some() && is_snapshot(writer) == is_snapshot(reader);
        let is_same = |a: &Described, b: &Described| a.description == b.description && (!by_object || a.path == b.path);
        let mut fields = Vec::new();
        let mut seen = BTreeSet::new();
        for section in &writer.sections {
            // Of a snapshot each object has its own answer, whatever it is held against.
            let name = if by_object || section.value.is_some() {
                section.name()
            } else {
                plain(&section.description)
            };
            let known = || reader.sections.iter().filter(|known| is_same(known, section));
            match known()
                .find(|known| known.path == section.path)
                .or_else(|| known().next())
            {
                Some(known) if section.value.is_some() || seen.insert(name.clone()) => {
                    judge(&name, section, known, &mut fields);
                }
                // The machine of the reader need not have all that the writer's program has.
                None if by_object || reader.machine.is_none() || section.value.is_some() => {
                    fields.push(whole(name, "the reader has no such state"));
                }
                _ => {}
            }
        }
        if by_object {
            let lacks = |known: &&Described| !writer.sections.iter().any(|section| is_same(known, section));
            let missing = reader.sections.iter().filter(lacks);
            fields
                .extend(missing.map(|known| whole(known.name(), "the reader has it, and the writer does not send it")));
        }
        Self { writer, reader, fields }
    }

    fn breaks(&self) -> bool {
        self.fields
            .iter()
            .any(|field| matches!(field.answer, Answer::DoesNot(_) | Answer::Begins(_)))
    }

    fn verdict(&self) -> &'static str {
        let conditional = self
            .fields
            .iter()
            .any(|field| matches!(field.answer, Answer::LoadsOnlyIf(_)));
        let obstacle = |field: &Field| matches!(field.answer, Answer::DoesNot(_));
        match (self.breaks(), conditional) {
            (true, _) if self.fields.iter().any(obstacle) => "does-not-load",
            (true, _) => "has-other-defaults",
            (false, true) => "loads-only-if",
            (false, false) => "loads",
        }
    }

    fn to_json(&self) -> Value {
        let field = |field: &Field| {
            let (verdict, because) = match &field.answer {
                Answer::Loads => ("loads", None),
                Answer::LoadsOnlyIf(condition) => ("loads-only-if", Some(condition)),
                Answer::DoesNot(obstacle) => ("does-not-load", Some(obstacle)),
                Answer::Begins(change) => ("has-other-defaults", Some(change)),
            };
            json!({ "section": field.section, "field": field.field, "verdict": verdict, "because": because })
        };
        let side = |side: &Descriptions| json!({ "from": side.what, "tern": side.tern, "machine": side.machine });
        json!({
            "verdict": self.verdict(),
            "writer": side(self.writer),
            "reader": side(self.reader),
            "fields": self.fields.iter().map(field).collect::<Value>(),
        })
    }
}

fn whole(section: String, because: &str) -> Field {
    Field {
        section,
        field: ".".to_owned(),
        answer: Answer::DoesNot(because.to_owned()),
    }
}

/// The verdicts on the fields of one section. Where its state is known, conditions are looked at.
fn judge(name: &str, writer: &Described, reader: &Described, fields: &mut Vec<Field>) {
    let comparison = compare(&writer.schema, &reader.schema);
    let loads = writer
        .value
        .as_ref()
        .map(|value| adapt(value.clone(), &writer.schema, &reader.schema));
    let decided = loads.as_ref().is_some_and(Result::is_ok);
    // A snapshot has all that its writer knew. Of two descriptions, both are there for what is older than they are.
    if loads.is_none() {
        let changed = changed_defaults(&writer.schema, &reader.schema);
        fields.extend(changed.iter().map(|changed| Field {
            section: name.to_owned(),
            field: changed.path.to_string(),
            answer: Answer::Begins(format!("{changed}; what is to begin otherwise is a new field")),
        }));
    }
    let mut refusals: Vec<_> = loads.into_iter().filter_map(Result::err).collect();
    for field in comparison.fields {
        let answer = match (field.verdict, &writer.value) {
            // What only the machine that loads it can tell stays open.
            (Verdict::LoadsOnlyIf(condition), Some(value)) if condition != Condition::AsConfigured => {
                let loads = match decided {
                    true => Ok(()),
                    false => alone(&field.path, value, writer, reader),
                };
                match loads {
                    Ok(()) => Answer::Loads,
                    Err(Some(refused)) if refused.path.described() == field.path => {
                        refusals.push(refused);
                        continue;
                    }
                    Err(_) => Answer::LoadsOnlyIf(condition.to_string()),
                }
            }
            (verdict, _) => verdict.into(),
        };
        fields.push(Field {
            section: name.to_owned(),
            field: field.path.to_string(),
            answer,
        });
    }
    let mut told = BTreeSet::new();
    for refused in refusals {
        let path = refused.path.to_string();
        if told.insert(path.clone()) {
            fields.push(Field {
                section: name.to_owned(),
                field: path,
                answer: Answer::DoesNot(format!("as it is in this snapshot: it {}", refused.refusal)),
            });
        }
    }
}

/// Whether a field of a snapshot that is refused would load if it were the only difference: the field or the subsection of the state in
/// which `path` begins is described as the reader does, and all the rest as the writer does.
///
/// # Errors
///
/// Why it would not, or `None` where the two do not go together without the rest, so that nobody can tell.
fn alone(
    path: &FieldPath,
    value: &StructValue,
    writer: &Described,
    reader: &Described,
) -> Result<(), Option<AdaptError>> {
    let Some(Step::Field(name)) = path.steps().first() else {
        return Err(None);
    };
    let mut mixed = Schema::clone(&writer.schema).into_description();
    mixed.version = mixed.version.max(reader.schema.version);
    mixed.fields.retain(|field| field.name != *name);
    mixed.subsections.retain(|subsection| subsection.name != *name);
    mixed.fields.extend(reader.schema.field(name).cloned());
    mixed.subsections.extend(reader.schema.subsection(name).cloned());
    let mixed = mixed.check().map_err(|_| None)?;
    adapt(value.clone(), &writer.schema, &mixed).map(drop).map_err(Some)
}

struct Text<'a> {
    directions: &'a [Direction<'a>],
    all: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, direction) in self.directions.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            let side = |side: &Descriptions| plain(&format!("{} ({})", side.what, side.tern));
            let (writer, reader) = (side(direction.writer), side(direction.reader));
            write!(
                f,
                "{separator}from {writer} to {reader}: {}",
                direction.verdict().replace('-', " ")
            )?;
            for field in &direction.fields {
                let Field { section, field, answer } = field;
                match answer {
                    Answer::Loads if self.all => write!(f, "\n  {section}: {field} loads")?,
                    Answer::Loads => {}
                    Answer::LoadsOnlyIf(condition) => {
                        write!(f, "\n  {section}: {field} loads only if {}", plain(condition))?;
                    }
                    Answer::DoesNot(obstacle) => {
                        write!(f, "\n  {section}: {field} does not load: {}", plain(obstacle))?
                    }
                    Answer::Begins(change) => write!(f, "\n  {section}: {field} {}", plain(change))?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vmstate::state::{Description, FieldSchema, Value as State, WireType};

    fn side(machine: Option<&str>, sections: &[(&str, WireType, Option<State>)]) -> Descriptions {
        let section = |(name, wire, value): &(&str, WireType, Option<State>)| {
            let mut description = Description::new((*name).to_owned());
            description.fields = vec![FieldSchema::new("x", wire.clone())];
            Described {
                path: machine.map(|_| format!("/machine/{name}")),
                description: (*name).to_owned(),
                schema: Arc::new(description.check().expect("legal")),
                value: value.clone().map(|value| StructValue::new(1).with("x", value)),
            }
        };
        Descriptions {
            what: "a test".into(),
            offer: None,
            tern: "0".into(),
            machine: machine.map(str::to_owned),
            sections: sections.iter().map(section).collect(),
        }
    }

    fn said(writer: &Descriptions, reader: &Descriptions) -> String {
        let directions = [Direction::new(writer, reader)];
        let all = false;
        Text {
            directions: &directions,
            all,
        }
        .to_string()
    }

    #[test]
    fn a_condition_is_named_until_a_snapshots_value_decides_it() {
        let reader = side(None, &[("uart", WireType::U8, None)]);
        let schema = side(None, &[("uart", WireType::U16, None)]);
        assert!(said(&schema, &reader).ends_with("loads only if\n  uart: x loads only if it is between 0 and 255"));
        let of = |x| side(Some("m"), &[("uart", WireType::U16, Some(State::Uint(x)))]);
        assert!(
            said(&of(255), &reader).ends_with(": loads"),
            "{}",
            said(&of(255), &reader)
        );
        let refused = said(&of(256), &reader);
        assert!(
            refused.contains("x does not load: as it is in this snapshot"),
            "{refused}"
        );
        assert!(Direction::new(&of(256), &reader).breaks());
    }

    #[test]
    fn each_object_of_a_snapshot_has_its_own_answer_and_only_what_is_not_met_is_told() {
        let described = |wire: WireType| {
            let mut description = Description::new("uart");
            description.fields = ["x", "y", "z"].map(|name| FieldSchema::new(name, wire.clone())).into();
            Arc::new(description.check().expect("legal"))
        };
        let port = |number: u32, values: [u64; 3]| Described {
            path: Some(format!("/machine/serial{number}")),
            description: "uart".to_owned(),
            schema: described(WireType::U16),
            value: Some(
                ["x", "y", "z"]
                    .into_iter()
                    .zip(values)
                    .fold(StructValue::new(1), |value, (name, number)| {
                        value.with(name, State::Uint(number))
                    }),
            ),
        };
        let mut snapshot = side(Some("m"), &[]);
        snapshot.sections = vec![port(0, [1, 256, 2]), port(1, [1, 2, 3]), port(2, [300, 4, 500])];
        let mut program = side(None, &[("uart", WireType::U8, None)]);
        program.sections[0].schema = described(WireType::U8);
        let told = said(&snapshot, &program);
        let places: Vec<_> = told
            .lines()
            .skip(1)
            .map(|line| line.trim_start().split_once(" does not load").unwrap_or((line, "")).0)
            .collect();
        assert_eq!(
            places,
            [
                "/machine/serial0 (uart): y",
                "/machine/serial2 (uart): x",
                "/machine/serial2 (uart): z"
            ],
            "{told}"
        );
    }

    #[test]
    fn another_default_is_a_break_between_releases_and_none_for_a_snapshot() {
        let side = |default, value| {
            let mut side = side(None, &[("uart", WireType::U8, value)]);
            let mut description = Schema::clone(&side.sections[0].schema).into_description();
            description.fields[0].default = Some(State::Uint(default));
            side.sections[0].schema = Arc::new(description.check().expect("legal"));
            side
        };
        let (before, after) = (side(0, None), side(7, None));
        let told = said(&before, &after);
        assert!(
            told.contains("has other defaults\n  uart: x has another default (0x0 at the writer"),
            "{told}"
        );
        assert!(told.ends_with("is a new field"), "{told}");
        let direction = Direction::new(&before, &after);
        assert!(direction.breaks());
        assert_eq!(direction.to_json()["fields"][0]["verdict"], "has-other-defaults");
        assert!(!Direction::new(&before, &before).breaks());
        let snapshot = side(0, Some(State::Uint(3)));
        assert!(
            said(&snapshot, &after).ends_with(": loads"),
            "{}",
            said(&snapshot, &after)
        );
    }

    #[test]
    fn what_only_the_machine_that_loads_it_can_tell_stays_a_condition() {
        let writer = side(Some("m"), &[("uart", WireType::U16, Some(State::Uint(7)))]);
        let mut reader = side(None, &[("uart", WireType::U16, None)]);
        let mut configured = Schema::clone(&reader.sections[0].schema).into_description();
        configured.fields[0].must_equal = Some("give it the same".to_owned());
        reader.sections[0].schema = Arc::new(configured.check().expect("legal"));
        let said = said(&writer, &reader);
        assert!(
            said.ends_with("/machine/uart (uart): x loads only if it is as the reader's machine is configured"),
            "{said}"
        );
    }

    #[test]
    fn objects_of_two_machines_match_one_to_one_and_a_program_may_have_more_types() {
        let both = [("uart", WireType::U8, None), ("rtc", WireType::U8, None)];
        let (one, two) = (side(Some("m"), &both[..1]), side(Some("m"), &both));
        assert!(said(&two, &one).contains("/machine/rtc (rtc): . does not load: the reader has no such state"));
        assert!(said(&one, &two).contains("/machine/rtc (rtc): . does not load: the reader has it"));
        assert!(said(&one, &side(None, &both)).ends_with(": loads"));
        assert!(said(&side(None, &both), &one).ends_with(": loads"));
        let gone = said(&side(None, &both), &side(None, &both[..1]));
        assert!(
            gone.contains("rtc: . does not load: the reader has no such state"),
            "{gone}"
        );
        assert!(said(&side(None, &both[..1]), &side(None, &both)).ends_with(": loads"));
    }

    #[test]
    fn a_snapshot_and_the_descriptions_of_its_machine_match_whatever_its_objects_are_called() {
        let state = State::Uint(1);
        let snapshot = |names: &[&str]| {
            let mut side = side(Some("m"), &[("uart", WireType::U8, Some(state))]);
            let one = side.sections.remove(0);
            side.sections = names
                .iter()
                .map(|name| Described {
                    path: Some((*name).to_owned()),
                    description: one.description.clone(),
                    schema: Arc::clone(&one.schema),
                    value: one.value.clone(),
                })
                .collect();
            side
        };
        let file = side(Some("m"), &[("uart", WireType::U8, None), ("rtc", WireType::U8, None)]);
        let two = snapshot(&["/machine/a", "/machine/b"]);
        assert!(said(&two, &file).ends_with(": loads"), "{}", said(&two, &file));
        assert!(said(&file, &two).ends_with(": loads"), "{}", said(&file, &two));
        let without = side(Some("m"), &[("rtc", WireType::U8, None)]);
        let gone = said(&two, &without);
        assert!(
            gone.contains("/machine/b (uart): . does not load: the reader has no such state"),
            "{gone}"
        );
    }
}
