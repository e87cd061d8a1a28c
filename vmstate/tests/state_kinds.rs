//! Every kind of field and every attribute, each by what it promises.

use std::collections::{BTreeMap, VecDeque};

use vmstate::state::{
    self, Bitmap, Deadline, Description, FieldSchema, HostClock, Schema, StructValue, Value, VirtualClock, VmEnum,
    VmState, WireType,
};

/// The whole way of a section: taken out, encoded, decoded by the writer's schema out of its record, adapted, put in.
fn transfer<W: VmState, R: VmState>(writer: &W) -> Result<R, String> {
    let bytes = state::encode(W::schema(), &writer.to_value()).map_err(|error| error.to_string())?;
    let schema = Schema::from_cbor(&W::schema().to_cbor()).expect("the schema reads back");
    let value = state::decode(&schema, &bytes).map_err(|error| error.to_string())?;
    let adapted = state::adapt(value, &schema, R::schema()).map_err(|error| error.to_string())?;
    R::from_value(&adapted).map_err(|error| error.to_string())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, VmEnum)]
enum Mode {
    #[default]
    OneShot,
    Square,
}

#[derive(Clone, Debug, Default, PartialEq, VmState)]
#[vmstate(version = 4)]
struct Line {
    vector: u8,
    mode: Mode,
}

#[derive(Clone, Debug, PartialEq, VmState)]
struct Everything {
    flag: bool,
    u8s: [u8; 3],
    i8: i8,
    i16: i16,
    i32: i32,
    i64: i64,
    u16: u16,
    u32: u32,
    u64: u64,
    f64: f64,
    matrix: [[u16; 2]; 2],
    used: u16,
    #[vmstate(length = used)]
    fifo: [u8; 8],
    #[vmstate(max = 9)]
    own_length: VecDeque<u32>,
    nested: Line,
    #[vmstate(max = 3)]
    lines: Vec<Line>,
    some: Option<Line>,
    none: Option<u8>,
    mode: Mode,
    #[vmstate(max = 20)]
    text: String,
    #[vmstate(max = 20)]
    bytes: Vec<u8>,
    #[vmstate(max = 100)]
    pending: Bitmap,
    #[vmstate(max = 4)]
    slots: BTreeMap<u16, Line>,
    timer: Deadline<VirtualClock>,
    alarm: Deadline<HostClock>,
}

fn everything() -> Everything {
    let line = Line {
        vector: 33,
        mode: Mode::Square,
    };
    let mut pending = Bitmap::new(67);
    pending.set(66, true);
    Everything {
        flag: true,
        u8s: [1, 2, 3],
        i8: -8,
        i16: -16,
        i32: -32,
        i64: i64::MIN,
        u16: 16,
        u32: 32,
        u64: u64::MAX,
        f64: -0.25,
        matrix: [[1, 2], [3, 4]],
        used: 2,
        fifo: [b'h', b'i', 0, 0, 0, 0, 0, 0],
        own_length: [7, 8].into(),
        nested: line.clone(),
        lines: vec![line.clone(), Line::default()],
        some: Some(line.clone()),
        none: None,
        mode: Mode::Square,
        text: "München".into(),
        bytes: vec![0xff, 0],
        pending,
        slots: BTreeMap::from([(7, line), (300, Line::default())]),
        timer: Deadline::at(1_000_000_007),
        alarm: Deadline::NONE,
    }
}

#[test]
fn every_kind_of_field_comes_back_as_it_was() {
    assert_eq!(transfer::<_, Everything>(&everything()), Ok(everything()));
}

#[test]
fn every_field_has_a_name_and_a_value_that_can_be_shown() {
    let mut shown = Vec::new();
    everything()
        .to_value()
        .for_each_leaf(|path, value| shown.push(format!("{path}: {value}")));
    for line in [
        "flag: true",
        "i8: -8",
        "fifo: 0x6869",
        "matrix[1][0]: 0x3",
        "lines[0].mode: square",
        "none: none",
        "pending: {66} of 67",
        "slots[=300].vector: 0x0",
        "text: \"München\"",
        "timer: at 1000000007 ns",
        "alarm: not armed",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:#?}");
    }
}

#[test]
fn a_nested_struct_has_its_own_version_on_the_wire() {
    #[derive(VmState)]
    struct Outer {
        line: Line,
    }
    let line = Line {
        vector: 33,
        mode: Mode::Square,
    };
    let bytes = state::encode(Outer::schema(), &Outer { line }.to_value()).expect("fits");
    assert_eq!(
        bytes,
        [1, 4, 33, 1, 0, 0],
        "outer 1, line 4, its fields, no subsections of either"
    );
    let error = state::decode(Outer::schema(), &[1, 3, 33, 1, 0, 0]).expect_err("another version");
    assert!(
        error
            .to_string()
            .contains("field line, at byte 1: it is of version 3, and its description of version 4"),
        "{error}"
    );
}

#[test]
fn an_array_is_saved_as_far_as_its_length_field_says_and_a_length_beyond_it_is_refused() {
    #[derive(Clone, Debug, PartialEq, VmState)]
    struct Fifo {
        used: u8,
        #[vmstate(length = used)]
        bytes: [u8; 4],
    }
    let fifo = Fifo {
        used: 2,
        bytes: [1, 2, 3, 4],
    };
    let loaded: Fifo = transfer(&fifo).expect("two of four");
    assert_eq!(loaded.bytes, [1, 2, 0, 0], "what is beyond the length is no state");
    let overfull = Fifo { used: 5, ..fifo };
    let error = transfer::<_, Fifo>(&overfull).expect_err("five of four");
    assert!(
        error.contains("field bytes: it has 4 elements, and `used` says 5"),
        "{error}"
    );
    // What counts need not be called in the source what it is called in what is saved.
    #[derive(Clone, Debug, PartialEq, VmState)]
    struct Renamed {
        #[vmstate(name = "used")]
        count: u8,
        #[vmstate(length = count)]
        bytes: [u8; 4],
    }
    let renamed: Renamed = transfer(&Fifo {
        used: 2,
        ..overfull.clone()
    })
    .expect("the same description");
    assert_eq!((renamed.count, renamed.bytes), (2, [1, 2, 0, 0]));
    // A stream that contradicts itself: used is 1, and two bytes follow.
    let error = state::decode(Fifo::schema(), &[1, 1, 2, 7, 7, 0]).expect_err("it contradicts itself");
    assert!(
        error.to_string().contains("it has 2 elements, and `used` says 1"),
        "{error}"
    );
}

#[test]
fn a_length_that_another_description_does_not_tie_is_a_condition() {
    #[derive(VmState)]
    struct Free {
        used: u8,
        #[vmstate(max = 4, name = "bytes")]
        data: Vec<u8>,
    }
    #[derive(Debug, VmState)]
    struct Tied {
        used: u8,
        #[vmstate(length = used)]
        bytes: [u8; 4],
    }
    assert_eq!(
        state::compare(Free::schema(), Tied::schema()).to_string(),
        "bytes loads only if it has as many elements as `used` says"
    );
    let free = |used, data| transfer::<_, Tied>(&Free { used, data });
    assert_eq!(
        free(1, vec![9]).map(|tied| (tied.used, tied.bytes)),
        Ok((1, [9, 0, 0, 0]))
    );
    assert!(
        free(2, vec![9])
            .expect_err("one of two")
            .contains("field bytes loads only if")
    );
}

#[test]
fn an_unknown_variant_is_refused_by_its_name() {
    #[derive(VmEnum)]
    enum Newer {
        OneShot,
        Square,
        Hardware,
    }
    #[derive(VmState)]
    struct New {
        mode: Newer,
    }
    #[derive(Debug, VmState)]
    struct Old {
        mode: Mode,
    }
    let mode = |mode| transfer::<_, Old>(&New { mode });
    assert!(mode(Newer::OneShot).is_ok());
    assert_eq!(mode(Newer::Square).map(|old| old.mode), Ok(Mode::Square));
    let error = mode(Newer::Hardware).expect_err("unknown");
    assert!(
        error.contains("field mode loads only if it is none of `hardware`, which the reader does not know"),
        "{error}"
    );
}

#[test]
fn a_range_is_kept_on_both_sides_and_says_which_values_load() {
    #[derive(Clone, Debug, PartialEq, VmState)]
    struct Counter {
        #[vmstate(range = 0..=5)]
        mode: u8,
        #[vmstate(range = -1..=1)]
        steps: [i16; 2],
    }
    let counter = Counter {
        mode: 5,
        steps: [-1, 1],
    };
    assert_eq!(transfer(&counter), Ok(counter.clone()));
    let error = transfer::<_, Counter>(&Counter {
        mode: 6,
        ..counter.clone()
    })
    .expect_err("no such mode");
    assert!(
        error.contains("cannot be saved: field mode: 6 is not between 0 and 5"),
        "{error}"
    );
    let error = state::decode(Counter::schema(), &[1, 6, 0, 0, 0]).expect_err("no such mode");
    assert!(
        error
            .to_string()
            .contains("field mode, at byte 2: 6 is not between 0 and 5"),
        "{error}"
    );

    #[derive(VmState)]
    struct Wide {
        mode: u32,
        #[vmstate(range = 1..=1)]
        steps: [i16; 2],
    }
    assert_eq!(
        state::compare(Wide::schema(), Counter::schema()).to_string(),
        "mode loads only if it is between 0 and 255\nmode loads only if it is between 0 and 5"
    );
    assert_eq!(
        state::compare(Counter::schema(), Counter::schema()).to_string(),
        "loads"
    );
    let wide = |mode| transfer::<_, Counter>(&Wide { mode, steps: [1, 1] });
    assert!(wide(5).is_ok());
    assert!(
        wide(6)
            .expect_err("too large")
            .contains("field mode loads only if it is between 0 and 5")
    );
}

#[test]
fn a_range_makes_a_narrower_type_load_and_ranges_without_a_common_value_never_do() {
    let field = |wire, range| {
        let mut description = Description::new("counter");
        description.fields = vec![FieldSchema {
            range,
            ..FieldSchema::new("x", wire)
        }];
        description.check().expect("legal")
    };
    let verdict = |writer: &Schema, reader: &Schema| state::compare(writer, reader).to_string();
    let (narrow, wide) = (field(WireType::U8, None), field(WireType::U32, Some((0, 200))));
    assert_eq!(verdict(&wide, &narrow), "loads");
    let value = StructValue::new(1).with("x", Value::Uint(200));
    assert!(state::adapt(value, &wide, &narrow).is_ok());
    let above = field(WireType::U32, Some((201, 300)));
    assert_eq!(
        verdict(&wide, &above),
        "x does not load: the writer has 0 to 200 there, and the reader takes 201 to 300"
    );
}

#[test]
fn a_field_that_is_left_out_when_it_has_its_default_costs_one_byte() {
    #[derive(Clone, Debug, PartialEq, VmState)]
    struct Timer {
        #[vmstate(default = [0xff; 16], skip_when_default)]
        masks: [u8; 16],
    }
    let rests = Timer { masks: [0xff; 16] };
    let used = Timer { masks: [1; 16] };
    let bytes = |timer: &Timer| state::encode(Timer::schema(), &timer.to_value()).expect("fits").len();
    assert_eq!((bytes(&rests), bytes(&used)), (3, 19));
    assert_eq!(transfer(&rests), Ok(rests));
    assert_eq!(transfer(&used), Ok(used));
}

#[test]
fn what_was_left_out_is_the_writers_default_and_not_the_readers() {
    #[derive(VmState)]
    struct Writer {
        #[vmstate(default = 7, skip_when_default)]
        divisor: u8,
    }
    #[derive(Debug, PartialEq, VmState)]
    struct Reader {
        #[vmstate(default = 9, skip_when_default)]
        divisor: u8,
    }
    assert_eq!(transfer(&Writer { divisor: 7 }), Ok(Reader { divisor: 7 }));
    assert_eq!(transfer(&Writer { divisor: 9 }), Ok(Reader { divisor: 9 }));
}

#[test]
fn what_is_left_out_cannot_be_made_to_take_memory_by_a_stream() {
    let mut description = Description::new("bomb");
    description.fields = vec![FieldSchema {
        default: Some(Value::Bytes(vec![1; 65])),
        skip_when_default: true,
        ..FieldSchema::new("x", WireType::Bytes { max: 1 << 20 })
    }];
    let error = description
        .check()
        .expect_err("a byte of the stream would stand for 66");
    assert!(error.to_string().contains("at most 64 bytes"), "{error}");
}

#[test]
fn configuration_that_differs_is_refused_with_its_hint() {
    #[derive(VmState)]
    struct Hub {
        #[vmstate(must_equal(hint = "start it with the same number of ports"))]
        ports: u8,
        #[vmstate(max = 8)]
        lines: Vec<Port>,
    }
    #[derive(VmState)]
    struct Port {
        #[vmstate(must_equal(hint = "plug the same devices"), default = 0, skip_when_default)]
        device: u8,
    }
    let hub = |ports, devices: &[u8]| {
        let lines = devices.iter().map(|device| Port { device: *device }).collect();
        Hub { ports, lines }.to_value()
    };
    let check = |incoming: &StructValue| {
        state::check_configured(Hub::schema(), incoming, &hub(4, &[0, 3])).map_err(|error| error.to_string())
    };
    assert_eq!(check(&hub(4, &[0, 3])), Ok(()));
    assert_eq!(
        check(&hub(2, &[0, 3])),
        Err(
            "field ports: it is 0x2, and this machine is configured for 0x4: start it with the same number of ports"
                .into()
        )
    );
    assert_eq!(
        check(&hub(4, &[5, 3])),
        Err("field lines[0].device: it is 0x5, and this machine is configured for 0x0: plug the same devices".into())
    );
    assert_eq!(
        check(&hub(4, &[0, 3, 5])),
        Err("field lines[2].device: it is 0x5, and this machine is configured for 0x0: plug the same devices".into()),
        "also of what is not here"
    );
}

#[test]
fn configuration_that_is_not_here_differs_and_what_a_stream_leaves_out_says_nothing() {
    #[derive(VmState)]
    struct Clocked {
        #[vmstate(may_be_absent, must_equal(hint = "fit the same crystal"))]
        crystal: Option<u32>,
        #[vmstate(subsection(needed = Clocked::is_tuned))]
        tuning: Tuning,
    }
    #[derive(Default, VmState)]
    struct Tuning {
        tuned: bool,
        #[vmstate(must_equal(hint = "fit the same tuner"))]
        hz: u32,
    }
    impl Clocked {
        fn is_tuned(&self) -> bool {
            self.tuning.tuned
        }
    }
    let of = |crystal, tuned, hz| {
        Clocked {
            crystal,
            tuning: Tuning { tuned, hz },
        }
        .to_value()
    };
    let check = |incoming: &StructValue, here: &StructValue| {
        state::check_configured(Clocked::schema(), incoming, here).map_err(|error| error.to_string())
    };
    let bare = of(None, false, 0);
    let whole = of(Some(5), true, 1);
    assert_eq!(check(&whole, &whole), Ok(()));
    assert_eq!(check(&bare, &whole), Ok(()));
    assert_eq!(
        check(&of(Some(5), false, 0), &bare),
        Err("field crystal: it is 0x5, and this machine is configured for nothing: fit the same crystal".into())
    );
    assert_eq!(
        check(&of(None, true, 1), &bare),
        Err("field tuning.hz: it is 0x1, and this machine is configured for nothing: fit the same tuner".into())
    );
}

#[test]
fn a_bitmap_a_map_and_a_deadline_load_under_the_conditions_that_are_theirs() {
    let field = |wire| {
        let mut description = Description::new("device");
        description.fields = vec![FieldSchema::new("x", wire)];
        description.check().expect("legal")
    };
    let verdict = |writer, reader| state::compare(&field(writer), &field(reader)).to_string();
    let bitmap = |max| WireType::Bitmap { max };
    assert_eq!(verdict(bitmap(8), bitmap(9)), "loads");
    assert_eq!(verdict(bitmap(9), bitmap(8)), "x loads only if its length is at most 8");
    let map = |key, of| WireType::Map {
        key: Box::new(key),
        of: Box::new(of),
        max: 4,
    };
    assert_eq!(
        verdict(map(WireType::U8, WireType::U8), map(WireType::U32, WireType::U64)),
        "loads"
    );
    assert_eq!(
        verdict(map(WireType::U32, WireType::U64), map(WireType::U8, WireType::U8)),
        "x[] loads only if it is between 0 and 255\nx loads only if every key of it is between 0 and 255"
    );
    assert!(
        verdict(map(WireType::U8, WireType::Bool), map(WireType::U8, WireType::U8))
            .starts_with("x loads only if nothing")
    );
    let on = |clock: &'static str| WireType::Deadline { clock: clock.into() };
    assert_eq!(verdict(on("virtual"), on("virtual")), "loads");
    assert_eq!(
        verdict(on("virtual"), on("host")),
        "x does not load: the writer's deadline on the virtual clock is no deadline on the host clock, as which the \
         reader knows it"
    );
}

#[test]
fn keys_of_a_map_that_are_there_twice_or_out_of_order_are_refused() {
    #[derive(VmState)]
    struct Slots {
        #[vmstate(max = 4)]
        slots: BTreeMap<u8, bool>,
    }
    assert!(state::decode(Slots::schema(), &[1, 2, 3, 1, 4, 1, 0]).is_ok());
    for keys in [[3, 3], [4, 3]] {
        let error = state::decode(Slots::schema(), &[1, 2, keys[0], 1, keys[1], 1, 0]).expect_err("not in order");
        assert!(
            error
                .to_string()
                .contains("the key 3 of the map is there twice or not in its place"),
            "{error}"
        );
    }
}

#[test]
fn a_file_descriptor_is_refused_by_the_name_of_its_field_because_no_channel_passes_one() {
    let mut description = Description::new("tap");
    description.fields = vec![FieldSchema::new("queue", WireType::Fd)];
    let schema = description.check().expect("a later Tern may describe one");
    let read = Schema::from_cbor(&schema.to_cbor()).expect("the kind has a number");
    let reason = "it is a file descriptor, and no channel passes those yet";
    assert_eq!(
        state::compare(&read, &schema).to_string(),
        format!("queue does not load: {reason}")
    );
    let error = state::decode(&read, &[1, 0, 0]).expect_err("nothing was passed");
    assert!(
        error.to_string().contains(&format!("field queue, at byte 1: {reason}")),
        "{error}"
    );
    let value = StructValue::new(1).with("queue", Value::Uint(3));
    let error = state::encode(&read, &value).expect_err("nothing can be passed");
    assert_eq!(
        error.to_string(),
        format!("the state of `tap` cannot be saved: field queue: {reason}")
    );
}

#[test]
fn a_missing_mandatory_subsection_is_an_error_and_an_optional_one_is_its_initial_state() {
    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    struct Speaker {
        volume: u8,
    }
    #[derive(Clone, Debug, Default, PartialEq, VmState)]
    #[vmstate(name = "pit")]
    struct Pit {
        count: u8,
        #[vmstate(subsection)]
        gate: Speaker,
        #[vmstate(subsection(needed = Pit::speaks))]
        speaker: Speaker,
    }
    impl Pit {
        fn speaks(&self) -> bool {
            self.speaker.volume > 0
        }
    }
    let pit = Pit {
        count: 1,
        gate: Speaker { volume: 2 },
        speaker: Speaker::default(),
    };
    assert_eq!(transfer(&pit), Ok(pit.clone()), "the optional one was not sent");
    let loud = Pit {
        speaker: Speaker { volume: 9 },
        ..pit
    };
    assert_eq!(transfer(&loud), Ok(loud));
    let error = state::decode(Pit::schema(), &[1, 1, 0]).expect_err("no gate");
    assert!(
        error.to_string().contains("its subsection `gate` is missing"),
        "{error}"
    );
}
