//! One description through three versions: what each writes, the latest one loads, and what an earlier one cannot
//! load it refuses by name.

use vmstate::state::{self, AdaptError, Schema, StructValue, Value, VmState};

/// As first released.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "timer")]
struct First {
    count: u16,
    rate: u32,
}

/// The count has become wider, there is a gate, and the rate is no longer state.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "timer", version = 2)]
struct Second {
    count: u64,
    #[vmstate(until = 2, default = 1_000)]
    rate: u32,
    #[vmstate(since = 2, default = true)]
    gate: bool,
}

/// The same version, with a subsection that is sent only when the speaker is on, and an alarm that need not be set.
#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(name = "timer", version = 2)]
struct Third {
    count: u64,
    #[vmstate(until = 2, default = 1_000)]
    rate: u32,
    #[vmstate(since = 2, default = true)]
    gate: bool,
    #[vmstate(may_be_absent)]
    alarm: Option<u64>,
    #[vmstate(subsection(needed = Third::speaks))]
    speaker: Speaker,
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
struct Speaker {
    volume: u8,
}

impl Third {
    fn speaks(&self) -> bool {
        self.speaker != Speaker::default()
    }
}

/// The whole way of a section: taken out, encoded, decoded by the writer's schema out of its record, adapted, put in.
fn transfer<W: VmState, R: VmState>(writer: &W) -> Result<R, AdaptError> {
    let bytes = state::encode(W::schema(), &writer.to_value()).expect("it is a value of its schema");
    let schema = Schema::from_cbor(&W::schema().to_cbor()).expect("the schema reads back");
    let value = state::decode(&schema, &bytes).expect("what was encoded decodes");
    let adapted = state::adapt(value, &schema, R::schema())?;
    Ok(R::from_value(&adapted).expect("what was adapted fits"))
}

fn refusal<W: VmState, R: VmState + std::fmt::Debug>(writer: &W) -> String {
    transfer::<W, R>(writer).expect_err("it should be refused").to_string()
}

#[test]
fn a_later_version_loads_an_earlier_one_with_defaults_for_what_is_new() {
    let second: Second = transfer(&First { count: 7, rate: 50 }).expect("version 1 loads");
    let loaded = Second {
        count: 7,
        rate: 50,
        gate: true,
    };
    assert_eq!(second, loaded, "a retired field is loaded from the version that has it");
}

#[test]
fn a_retired_field_has_its_default_when_the_writer_no_longer_has_it() {
    let writer = Second {
        count: 7,
        rate: 50,
        gate: false,
    };
    let same: Second = transfer(&writer).expect("the same version loads");
    assert_eq!(same, Second { rate: 1_000, ..writer });
}

#[test]
fn an_earlier_version_refuses_a_later_one() {
    let message = refusal::<_, First>(&Second::default());
    assert_eq!(
        message,
        "the state of `timer` cannot be loaded here: field . does not load: it is of version 2, and the reader loads \
         versions 1 to 1"
    );
}

#[test]
fn an_addition_that_is_not_used_loads_in_a_reader_without_it() {
    let unused = Third {
        count: 7,
        gate: true,
        ..Third::default()
    };
    let second: Second = transfer(&unused).expect("neither alarm nor speaker is sent");
    assert_eq!((second.count, second.gate), (7, true));

    let silent = Third {
        alarm: Some(1),
        ..unused.clone()
    };
    assert!(refusal::<_, Second>(&silent).contains("field alarm loads only if nothing is sent in it"));
    let loud = Third {
        speaker: Speaker { volume: 3 },
        ..unused
    };
    assert!(refusal::<_, Second>(&loud).contains("field speaker loads only if nothing is sent in it"));
}

#[test]
fn the_comparison_says_all_that_beforehand() {
    let compare = |writer, reader| state::compare(writer, reader).to_string();
    assert_eq!(compare(First::schema(), Third::schema()), "loads");
    assert_eq!(compare(Second::schema(), Third::schema()), "loads");
    let lost = "loads only if nothing is sent in it, because: the reader does not know it, and it would be lost";
    assert_eq!(
        compare(Third::schema(), Second::schema()),
        format!("alarm {lost}\nspeaker {lost}")
    );
}

#[test]
fn the_version_that_post_load_is_given_is_the_writers() {
    let value = StructValue::new(1)
        .with("count", Value::Uint(7))
        .with("rate", Value::Uint(50));
    let adapted = state::adapt(value, First::schema(), Second::schema()).expect("version 1 loads");
    assert_eq!(adapted.version(), 1);
}
