//! What will happen to a writer's state at a reader, told from the two schemas alone.
//!
//! The same comparison serves the preflight of a migration, the static check of two releases and the tests. Where it
//! says "only if", the values decide: [`adapt`](super::adapt()) of the value as it is then tells.

use super::name::Name;
use super::path::{FieldPath, Step};
use super::relation::{Relation, integer_bounds};
use super::schema::{FieldSchema, Schema, SubsectionSchema};
use super::verdict::{Comparison, Condition, FieldVerdict, Obstacle, Verdict};
use super::wire_type::WireType;

/// Tells for each field whether what `writer` describes can be loaded by `reader`.
///
/// - If all verdicts are [`Verdict::Loads`], [`adapt`](super::adapt()) takes every value.
/// - If one is [`Verdict::DoesNot`], it takes none.
/// - Otherwise it takes those values that meet the conditions.
#[must_use]
pub fn compare(writer: &Schema, reader: &Schema) -> Comparison {
    Comparison {
        fields: structs(&FieldPath::root(), writer, reader),
    }
}

type Verdicts = Vec<FieldVerdict>;

fn one(path: &FieldPath, verdict: Verdict) -> Verdicts {
    vec![FieldVerdict {
        path: path.clone(),
        verdict,
    }]
}

fn structs(path: &FieldPath, writer: &Schema, reader: &Schema) -> Verdicts {
    if let Some(obstacle) = version_obstacle(writer.version, reader) {
        return one(path, Verdict::DoesNot(obstacle));
    }
    let inside = |name: &Name| path.join(Step::Field(name.clone()));
    let mut verdicts = Vec::new();
    for field in &reader.fields {
        let path = inside(&field.name);
        verdicts.extend(match counterpart(writer, field) {
            Some(sent) => fields(&path, sent, field, count_is_kept(writer, reader, field)),
            None if field.is_dispensable() => one(&path, Verdict::Loads),
            None => one(&path, Verdict::DoesNot(Obstacle::NoDefault)),
        });
    }
    for subsection in &reader.subsections {
        let path = inside(&subsection.name);
        verdicts.extend(match writer.subsection(&subsection.name) {
            Some(sent) => subsections(&path, sent, subsection),
            None if subsection.optional => one(&path, Verdict::Loads),
            None => one(&path, Verdict::DoesNot(Obstacle::NoDefault)),
        });
    }
    let lost_fields = writer
        .live_fields()
        .filter(|field| !is_known(reader, writer.version, &field.name));
    verdicts.extend(lost_fields.flat_map(|field| one(&inside(&field.name), loss_of_field(field))));
    let lost_subsections = writer
        .subsections
        .iter()
        .filter(|lost| reader.subsection(&lost.name).is_none());
    verdicts.extend(lost_subsections.flat_map(|lost| one(&inside(&lost.name), loss_of_subsection(lost))));
    verdicts
}

/// Why a reader does not load a version, if it does not.
pub(super) fn version_obstacle(found: u32, reader: &Schema) -> Option<Obstacle> {
    let (oldest, newest) = (reader.minimum_version, reader.version);
    (!(oldest..=newest).contains(&found)).then_some(Obstacle::Version { found, oldest, newest })
}

/// The writer's field for a field of the reader's, if the reader has it at the writer's version.
pub(super) fn counterpart<'a>(writer: &'a Schema, field: &FieldSchema) -> Option<&'a FieldSchema> {
    let sent = writer.field(&field.name).filter(|sent| sent.is_live_at(writer.version));
    sent.filter(|_| field.is_live_at(writer.version))
}

/// Whether a reader has a field of that name at the writer's version.
fn is_known(reader: &Schema, version: u32, name: &str) -> bool {
    reader.field(name).is_some_and(|field| field.is_live_at(version))
}

/// What is asked of a field that the reader does not know.
pub(super) fn loss_of_field(field: &FieldSchema) -> Verdict {
    match &field.default {
        _ if field.may_be_absent => Verdict::LoadsOnlyIf(Condition::Nothing {
            because: Obstacle::Unknown,
        }),
        Some(default) => Verdict::LoadsOnlyIf(Condition::Is(default.clone())),
        None => Verdict::DoesNot(Obstacle::Unknown),
    }
}

/// What is asked of a subsection that the reader does not know.
pub(super) fn loss_of_subsection(subsection: &SubsectionSchema) -> Verdict {
    match subsection.optional {
        true => Verdict::LoadsOnlyIf(Condition::Nothing {
            because: Obstacle::Unknown,
        }),
        false => Verdict::DoesNot(Obstacle::Unknown),
    }
}

fn fields(path: &FieldPath, writer: &FieldSchema, reader: &FieldSchema, count_is_kept: bool) -> Verdicts {
    let mut contents = types(path, &writer.wire, &reader.wire);
    apply_ranges(path, writer, reader, &mut contents);
    let is_lost = contents
        .iter()
        .any(|field| matches!(field.verdict, Verdict::DoesNot(_)));
    if let Some(length) = &reader.length
        && !(count_is_kept && writer.length.as_ref() == Some(length))
        && !is_lost
    {
        let condition = Condition::LengthIsField(length.clone());
        contents.extend(one(path, Verdict::LoadsOnlyIf(condition)));
    }
    if reader.must_equal.is_some() && writer.must_equal.is_none() && !is_lost {
        contents.extend(one(path, Verdict::LoadsOnlyIf(Condition::AsConfigured)));
    }
    match (writer.may_be_absent, reader.is_dispensable()) {
        (false, _) => contents,
        (true, true) => or_nothing(path, contents),
        (true, false) => and_sent(path, contents),
    }
}

/// Whether the field that says how many elements `field` has comes from the writer, as it was there.
fn count_is_kept(writer: &Schema, reader: &Schema, field: &FieldSchema) -> bool {
    let count = field.length.as_ref().and_then(|length| reader.field(length));
    count.is_some_and(|count| counterpart(writer, count).is_some())
}

/// What the ranges of the two add to the verdicts on the types, and what they make superfluous of them.
fn apply_ranges(path: &FieldPath, writer: &FieldSchema, reader: &FieldSchema, verdicts: &mut Verdicts) {
    let bounds = |field: &FieldSchema| field.range.or_else(|| integer_bounds(field.wire.integers()?));
    let Some(sent) = bounds(writer) else { return };
    let is_within = |(least, most): (i128, i128)| least <= sent.0 && sent.1 <= most;
    verdicts.retain(|field| match field.verdict {
        Verdict::LoadsOnlyIf(Condition::Between { least, most }) => !is_within((least, most)),
        _ => true,
    });
    let Some((least, most)) = reader.range else { return };
    if is_within((least, most))
        || verdicts
            .iter()
            .any(|field| matches!(field.verdict, Verdict::DoesNot(_)))
    {
        return;
    }
    let disjoint = (sent.1 < least || most < sent.0) && writer.wire.is_integer() && reader.wire.is_integer();
    let verdict = match disjoint {
        true => Verdict::DoesNot(Obstacle::Disjoint {
            writer: sent,
            reader: (least, most),
        }),
        false => Verdict::LoadsOnlyIf(Condition::Between { least, most }),
    };
    verdicts.extend(one(path, verdict));
}

fn subsections(path: &FieldPath, writer: &SubsectionSchema, reader: &SubsectionSchema) -> Verdicts {
    let contents = structs(path, &writer.schema, &reader.schema);
    match (writer.optional, reader.optional) {
        (false, _) => contents,
        (true, true) => or_nothing(path, contents),
        (true, false) => and_sent(path, contents),
    }
}

fn types(path: &FieldPath, writer: &WireType, reader: &WireType) -> Verdicts {
    match Relation::between(writer, reader) {
        Relation::Stays(verdict) => one(path, verdict),
        Relation::Structs { writer, reader } => structs(path, writer, reader),
        Relation::Options { writer, reader } => or_nothing(path, types(path, writer, reader)),
        Relation::Wrapped { reader } => types(path, writer, reader),
        Relation::Unwrapped { writer } => and_sent(path, types(path, writer, reader)),
        Relation::Maps {
            writer,
            reader,
            keys,
            length,
        } => {
            let mut verdicts = types(&path.join(Step::Each), writer, reader);
            verdicts.extend(
                [keys, length]
                    .into_iter()
                    .filter(|verdict| *verdict != Verdict::Loads)
                    .flat_map(|verdict| one(path, verdict)),
            );
            or_nothing(path, verdicts)
        }
        Relation::Elements {
            length: Verdict::DoesNot(obstacle),
            ..
        } => one(path, Verdict::DoesNot(obstacle)),
        Relation::Elements {
            writer,
            reader,
            length,
            may_be_empty,
        } => {
            let each = types(&path.join(Step::Each), writer, reader);
            let mut verdicts = if may_be_empty { or_nothing(path, each) } else { each };
            if length != Verdict::Loads {
                verdicts.extend(one(path, length));
            }
            verdicts
        }
    }
}

/// The verdicts on something that need not be there: an obstacle in it is a reason not to send it.
fn or_nothing(path: &FieldPath, contents: Verdicts) -> Verdicts {
    let obstacle = contents.iter().find_map(|field| match &field.verdict {
        Verdict::DoesNot(obstacle) => Some(obstacle.clone()),
        _ => None,
    });
    match obstacle {
        Some(because) => one(path, Verdict::LoadsOnlyIf(Condition::Nothing { because })),
        None => contents,
    }
}

/// The verdicts on something that need not be there, for a reader that must have it.
fn and_sent(path: &FieldPath, contents: Verdicts) -> Verdicts {
    let mut verdicts = one(path, Verdict::LoadsOnlyIf(Condition::Sent));
    verdicts.extend(contents);
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Description, StructValue, Value, adapt};

    fn schema(fields: Vec<FieldSchema>, subsections: Vec<SubsectionSchema>) -> Schema {
        let description = Description {
            fields,
            subsections,
            ..Description::new("uart")
        };
        description.check().expect("legal")
    }

    fn field(wire: WireType) -> Schema {
        schema(vec![FieldSchema::new("x", wire)], vec![])
    }

    fn enumeration(variants: &[&'static str]) -> WireType {
        let variants = variants.iter().map(|variant| Name::from(*variant)).collect();
        WireType::Enum { variants }
    }

    fn seq(of: WireType, max: u32) -> WireType {
        WireType::Seq { of: Box::new(of), max }
    }

    fn array(of: WireType, len: u32) -> WireType {
        WireType::Array { of: Box::new(of), len }
    }

    fn option(of: WireType) -> WireType {
        WireType::Option(Box::new(of))
    }

    fn nested(schema: Schema) -> WireType {
        WireType::Struct(Box::new(schema))
    }

    fn subsection(name: &'static str, optional: bool, schema: Schema) -> SubsectionSchema {
        SubsectionSchema {
            name: name.into(),
            optional,
            absent: None,
            schema,
        }
    }

    fn verdict(writer: &Schema, reader: &Schema) -> String {
        compare(writer, reader).to_string()
    }

    /// The verdict on a field `x` whose type is another one at the reader.
    fn retyped(writer: WireType, reader: WireType) -> String {
        verdict(&field(writer), &field(reader))
    }

    #[test]
    fn an_integer_may_become_wider_and_may_become_narrower_only_if_it_fits() {
        assert_eq!(retyped(WireType::U8, WireType::U64), "loads");
        assert_eq!(
            retyped(WireType::U32, WireType::U8),
            "x loads only if it is between 0 and 255"
        );
        assert_eq!(
            retyped(WireType::I64, WireType::I8),
            "x loads only if it is between -128 and 127"
        );
    }

    #[test]
    fn a_change_of_kind_or_of_sign_does_not_load() {
        for (writer, reader, refusal) in [
            (WireType::U8, WireType::I64, "the writer's u8 is no i64"),
            (WireType::Bool, WireType::U8, "the writer's bool is no u8"),
            (
                WireType::Str { max: 4 },
                WireType::Bytes { max: 4 },
                "the writer's text up to 4 is no bytes up to 4",
            ),
            (
                WireType::F64,
                nested(field(WireType::F64)),
                "the writer's f64 is no uart",
            ),
        ] {
            assert_eq!(
                retyped(writer, reader),
                format!("x does not load: {refusal}, as which the reader knows it")
            );
        }
    }

    #[test]
    fn a_renamed_field_is_one_that_is_missing_and_one_that_would_be_lost() {
        let renamed = schema(vec![FieldSchema::new("y", WireType::U8)], vec![]);
        assert_eq!(
            verdict(&field(WireType::U8), &renamed),
            "y does not load: the writer does not know it, and the reader has no default for it\n\
             x does not load: the reader does not know it, and it would be lost"
        );
    }

    #[test]
    fn a_field_that_the_reader_does_not_know_loads_only_with_its_default() {
        let nothing = schema(vec![], vec![]);
        let default = FieldSchema {
            default: Some(Value::Uint(3)),
            ..FieldSchema::new("x", WireType::U8)
        };
        assert_eq!(
            verdict(&schema(vec![default], vec![]), &nothing),
            "x loads only if it is 0x3, its default, because the reader does not know it"
        );
        let absent = FieldSchema {
            may_be_absent: true,
            ..FieldSchema::new("x", WireType::U8)
        };
        assert_eq!(
            verdict(&schema(vec![absent], vec![]), &nothing),
            "x loads only if nothing is sent in it, because: the reader does not know it, and it would be lost"
        );
    }

    #[test]
    fn a_field_that_the_writer_does_not_know_needs_a_default() {
        let nothing = schema(vec![], vec![]);
        assert!(verdict(&nothing, &field(WireType::U8)).starts_with("x does not load: the writer does not know it"));
        let default = FieldSchema {
            default: Some(Value::Uint(3)),
            ..FieldSchema::new("x", WireType::U8)
        };
        assert_eq!(verdict(&nothing, &schema(vec![default], vec![])), "loads");
    }

    #[test]
    fn a_bound_may_be_lowered_if_the_length_allows() {
        assert_eq!(retyped(seq(WireType::U16, 4), seq(WireType::U16, 9)), "loads");
        assert_eq!(
            retyped(seq(WireType::U16, 9), seq(WireType::U16, 4)),
            "x loads only if its length is at most 4"
        );
        let (long, short) = (WireType::Bytes { max: 9 }, WireType::Bytes { max: 4 });
        assert_eq!(retyped(long, short), "x loads only if its length is at most 4");
        let (long, short) = (WireType::Str { max: 9 }, WireType::Str { max: 4 });
        assert_eq!(retyped(long, short), "x loads only if its length is at most 4");
    }

    #[test]
    fn an_array_of_another_length_does_not_load_but_may_become_a_sequence() {
        for other in [3, 5] {
            let refusal = retyped(array(WireType::U16, 4), array(WireType::U16, other));
            assert!(
                refusal.starts_with("x does not load: the writer's [u16; 4] is no [u16; "),
                "{refusal}"
            );
        }
        assert_eq!(retyped(array(WireType::U16, 4), seq(WireType::U16, 8)), "loads");
        assert_eq!(retyped(array(WireType::U8, 4), WireType::Bytes { max: 4 }), "loads");
        assert_eq!(
            retyped(seq(WireType::U16, 8), array(WireType::U16, 4)),
            "x loads only if its length is 4"
        );
    }

    #[test]
    fn a_variant_that_the_reader_does_not_know_must_not_be_the_one() {
        let old = enumeration(&["edge", "level"]);
        let new = enumeration(&["none", "level", "edge", "both"]);
        assert_eq!(
            retyped(old.clone(), new.clone()),
            "loads",
            "the order is the schema's own"
        );
        assert_eq!(
            retyped(new, old.clone()),
            "x loads only if it is none of `none`, `both`, which the reader does not know"
        );
        assert!(retyped(old, enumeration(&["rising"])).starts_with("x does not load"));
    }

    #[test]
    fn an_option_may_come_and_go_if_there_is_something() {
        assert_eq!(retyped(WireType::U8, option(WireType::U16)), "loads");
        assert_eq!(
            retyped(option(WireType::U8), WireType::U8),
            "x loads only if it is sent, because the reader cannot do without it"
        );
    }

    #[test]
    fn an_obstacle_in_something_that_need_not_be_sent_is_a_condition() {
        let because = "nothing is sent in it, because: the writer's bool is no u8, as which the reader knows it";
        for (writer, reader) in [
            (option(WireType::Bool), option(WireType::U8)),
            (seq(WireType::Bool, 3), seq(WireType::U8, 3)),
        ] {
            assert_eq!(retyped(writer, reader), format!("x loads only if {because}"));
        }
        let sub = |wire| schema(vec![], vec![subsection("s", true, field(wire))]);
        assert_eq!(
            verdict(&sub(WireType::Bool), &sub(WireType::U8)),
            format!("s loads only if {because}")
        );
    }

    #[test]
    fn an_optional_subsection_that_the_reader_does_not_know_must_not_be_sent() {
        let nothing = schema(vec![], vec![]);
        let with = |optional| schema(vec![], vec![subsection("fifo", optional, field(WireType::U8))]);
        let lost = "the reader does not know it, and it would be lost";
        assert_eq!(
            verdict(&with(true), &nothing),
            format!("fifo loads only if nothing is sent in it, because: {lost}")
        );
        assert_eq!(verdict(&with(false), &nothing), format!("fifo does not load: {lost}"));
        assert_eq!(verdict(&nothing, &with(true)), "loads");
        assert!(verdict(&nothing, &with(false)).starts_with("fifo does not load: the writer does not know it"));
        assert!(verdict(&with(true), &with(false)).starts_with("fifo loads only if it is sent"));
    }

    #[test]
    fn a_nested_struct_has_a_version_of_its_own() {
        let version = |version, minimum_version| {
            let description = Description {
                version,
                minimum_version,
                ..Description::new("line")
            };
            field(array(nested(description.check().expect("legal")), 2))
        };
        assert_eq!(verdict(&version(1, 1), &version(2, 1)), "loads");
        let refusal = "x[] does not load: it is of version";
        assert_eq!(
            verdict(&version(2, 1), &version(1, 1)),
            format!("{refusal} 2, and the reader loads versions 1 to 1")
        );
        assert_eq!(
            verdict(&version(1, 1), &version(3, 2)),
            format!("{refusal} 1, and the reader loads versions 2 to 3")
        );
    }

    #[test]
    fn a_field_that_changed_its_meaning_is_known_by_the_version_and_not_by_the_name() {
        let reader = Description {
            version: 2,
            fields: vec![FieldSchema {
                since: 2,
                default: Some(Value::Uint(0)),
                ..FieldSchema::new("x", WireType::U8)
            }],
            ..Description::new("uart")
        };
        let reader = reader.check().expect("legal");
        assert_eq!(
            verdict(&field(WireType::U8), &reader),
            "x does not load: the reader does not know it, and it would be lost"
        );
    }

    #[test]
    fn the_verdict_on_the_whole_is_the_worst() {
        let writer = schema(
            vec![
                FieldSchema::new("a", WireType::U16),
                FieldSchema::new("b", WireType::Bool),
            ],
            vec![],
        );
        let fields = |a, b| schema(vec![FieldSchema::new("a", a), FieldSchema::new("b", b)], vec![]);
        let verdict = |reader| compare(&writer, &reader).verdict();
        assert_eq!(verdict(fields(WireType::U16, WireType::Bool)), Verdict::Loads);
        assert!(matches!(
            verdict(fields(WireType::U8, WireType::Bool)),
            Verdict::LoadsOnlyIf(_)
        ));
        assert!(matches!(
            verdict(fields(WireType::U8, WireType::U8)),
            Verdict::DoesNot(_)
        ));
    }

    #[test]
    fn a_condition_is_met_or_not_by_the_value() {
        let (writer, reader) = (field(WireType::U16), field(WireType::U8));
        let load = |x| adapt(StructValue::new(1).with("x", Value::Uint(x)), &writer, &reader);
        assert!(load(255).is_ok());
        assert_eq!(
            load(256).expect_err("256 is no u8").to_string(),
            "the state of `uart` cannot be loaded here: field x loads only if it is between 0 and 255"
        );
    }
}
