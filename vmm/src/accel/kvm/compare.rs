//! Whether KVM holds what it was given: a comparison field by field, and the list of what may differ.

use hw::timer::clock::{HostTsc, TscPolicy};
use vmstate::state::{StructValue, Value, VmState};

use super::super::Difference;

/// A field that KVM may show otherwise than it was written, with no instruction in between.
pub struct Tolerated {
    /// The name of the state's description.
    pub description: &'static str,
    /// The field, with its path within the state; a `*` stands for any field of a structure.
    pub field: &'static str,
    /// Why it differs.
    pub reason: &'static str,
    /// Whether a difference is within bounds.
    allows: fn(&Compared<'_>) -> bool,
}

impl Tolerated {
    /// Whether the row is about `field`.
    fn is_for(&self, field: &str) -> bool {
        let (mut wanted, mut parts) = (self.field.split('.'), field.split('.'));
        loop {
            match (wanted.next(), parts.next()) {
                (None, None) => return true,
                (Some(wanted), Some(part)) if wanted == "*" || wanted == part => {}
                _ => return false,
            }
        }
    }
}

/// Two values of a field, and the structures that they are in.
struct Compared<'a> {
    field: &'a str,
    loaded: &'a Value,
    read: &'a Value,
    loaded_in: &'a StructValue,
    read_in: &'a StructValue,
    /// Whether this KVM lets TSCs be set at all.
    sets_tsc: bool,
    /// Whether the guest is to have its TSC's speed.
    tsc: TscPolicy,
}

impl Compared<'_> {
    /// The field goes on from the loaded value by at most `most`.
    fn runs_on(&self, most: u64) -> bool {
        number(self.read)
            .checked_sub(number(self.loaded))
            .is_some_and(|passed| passed <= most)
    }

    /// The field differs in no bit but those of `mask`.
    fn differs_only_in(&self, mask: u64) -> bool {
        (number(self.loaded) ^ number(self.read)) & !mask == 0
    }

    /// The upper half of the loaded value is gone, and nothing else is.
    fn is_lower_half(&self) -> bool {
        number(self.read) == number(self.loaded) & u64::from(u32::MAX)
    }

    fn loaded_number(&self, field: &str) -> u64 {
        self.loaded_in.get(field).map_or(0, number)
    }

    /// Both structures are segment registers that hold no segment, whose attributes mean nothing.
    fn is_of_no_segment(&self) -> bool {
        [self.loaded_in, self.read_in].iter().all(|within| {
            let is = |field, value| within.get(field) == Some(&Value::Bool(value));
            is("unusable", true) || is("present", false)
        })
    }

    /// One side says that the component is at rest, and the other shows its contents at rest.
    fn is_at_rest(&self) -> bool {
        match (self.loaded, self.read) {
            (Value::Option(None), Value::Option(Some(shown))) | (Value::Option(Some(shown)), Value::Option(None)) => {
                rests(shown)
            }
            _ => false,
        }
    }

    /// Interrupts are held back in both or in neither structure, whatever the instruction that does it.
    fn shadows_alike(&self) -> bool {
        let shadowed = |within: &StructValue| {
            ["shadow_sti", "shadow_mov_ss"]
                .iter()
                .any(|field| within.get(field) == Some(&Value::Bool(true)))
        };
        shadowed(self.loaded_in) == shadowed(self.read_in)
    }
}

/// Whether a value is what an XSAVE component holds at rest: zeros, but for the control word of the x87.
fn rests(value: &Value) -> bool {
    const CONTROL_AT_REST: u64 = 0x37f;
    match value {
        Value::Uint(number) => *number == 0,
        Value::Bytes(bytes) => bytes.iter().all(|byte| *byte == 0),
        Value::Array(values) => values.iter().all(rests),
        Value::Struct(fields) => fields.fields().all(|(name, value)| {
            let control = name == "control" && *value == Value::Uint(CONTROL_AT_REST);
            control || rests(value)
        }),
        _ => false,
    }
}

/// The reason for which the attributes of a segment register may differ.
const NO_SEGMENT: &str = "the attributes of a register that holds no segment mean nothing, and Intel's processors and AMD's \
                          keep different ones";

/// What a segment register's attributes are tolerated for, but where a row says more.
fn no_segment(compared: &Compared<'_>) -> bool {
    compared.is_of_no_segment()
}

/// An entry of the I/O APIC's table, but for what its interrupt is doing just now.
const DELIVERY_BITS: u64 = 1 << 12 | 1 << 14;

fn number(value: &Value) -> u64 {
    match value {
        Value::Uint(number) => *number,
        _ => 0,
    }
}

/// How long a comparison may come after the load, in nanoseconds: far more than it ever does.
const PATIENCE_NS: u64 = 60_000_000_000;

/// The input of the interrupt controllers that KVM's own interval timer drives.
const TIMER_INPUT: u64 = 1 << 0;

/// What kvm_amd does to a 64-bit kernel's SYSENTER registers, unless the guest believes that its processor is Intel's.
const SYSENTER: &str = "a kvm_amd keeps the lower half of what it is given; on AMD's processors SYSENTER exists outside of \
                        long mode only, and uses no more than that";

/// All fields that may differ.
pub const TOLERATED: &[Tolerated] = &[
    Tolerated {
        description: "x86-cpu",
        field: "system.*.kind",
        reason: "as the other attributes; and Intel's processors set the bit that says that a segment was accessed",
        allows: |compared| {
            const ACCESSED: u64 = 1;
            let gained = number(compared.read) & !number(compared.loaded);
            no_segment(compared) || (compared.differs_only_in(ACCESSED) && gained == ACCESSED)
        },
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.dpl",
        reason: "as the other attributes; but that of SS is the privilege level, also where SS holds no segment",
        allows: |compared| no_segment(compared) && compared.field != "system.ss.dpl",
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.code_or_data",
        reason: NO_SEGMENT,
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.present",
        reason: NO_SEGMENT,
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.big",
        reason: NO_SEGMENT,
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.long",
        reason: NO_SEGMENT,
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.available",
        reason: NO_SEGMENT,
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.unusable",
        reason: "a segment that is not present cannot be used either; some KVMs say both, and some only the one",
        allows: no_segment,
    },
    Tolerated {
        description: "x86-cpu",
        field: "system.*.granular",
        reason: "as the other attributes; and AMD's processors do not keep the bit, so that KVM makes it up from the limit, \
                 of which only those up to 1 MiB in whole pages can be written both ways",
        allows: |compared| {
            let limit = compared.loaded_number("limit");
            no_segment(compared) || (limit <= 0xf_ffff && limit & 0xfff == 0xfff)
        },
    },
    Tolerated {
        description: "x86-cpu",
        field: "xsave.*",
        reason: "some kernels show a component that is at rest as absent, and some show what it holds at rest",
        allows: |compared| compared.is_at_rest(),
    },
    Tolerated {
        description: "x86-cpu",
        field: "msrs.sysenter_esp",
        reason: SYSENTER,
        allows: |compared| compared.is_lower_half(),
    },
    Tolerated {
        description: "x86-cpu",
        field: "msrs.sysenter_eip",
        reason: SYSENTER,
        allows: |compared| compared.is_lower_half(),
    },
    Tolerated {
        description: "x86-cpu",
        field: "events.shadow_sti",
        reason: "AMD's processors have one such shadow and KVM shows it as both; Intel's take one of two",
        allows: |compared| compared.shadows_alike(),
    },
    Tolerated {
        description: "x86-cpu",
        field: "events.shadow_mov_ss",
        reason: "as the shadow of STI",
        allows: |compared| compared.shadows_alike(),
    },
    Tolerated {
        description: "guest-clock",
        field: "realtime_ns",
        reason: "the host's wall clock is not KVM's to hold; the record has it for who wants to jump ahead",
        allows: |_| true,
    },
    Tolerated {
        description: "guest-clock",
        field: "kvmclock_ns",
        reason: "it runs from the instant at which it is set, and is set again before the guest goes on",
        allows: |compared| compared.runs_on(PATIENCE_NS),
    },
    Tolerated {
        description: "guest-clock",
        field: "tsc",
        reason: "it runs on like kvmclock; a KVM without TSC offsets shows the host's",
        allows: |compared| {
            let most = PATIENCE_NS / 1_000_000 * compared.loaded_number("tsc_khz");
            !compared.sets_tsc || compared.runs_on(most)
        },
    },
    Tolerated {
        description: "guest-clock",
        field: "tsc_differences",
        reason: "a KVM without TSC offsets has no differences",
        allows: |compared| !compared.sets_tsc,
    },
    Tolerated {
        description: "guest-clock",
        field: "tsc_khz",
        reason: "hosts measure the same oscillator with small differences; larger ones were refused at the load, unless \
                 the user asked for them",
        allows: |compared| {
            let khz = u32::try_from(number(compared.read)).unwrap_or(0);
            let here = HostTsc { khz, scales: false };
            here.is_near(number(compared.loaded)) || compared.tsc == TscPolicy::Tolerate
        },
    },
    Tolerated {
        description: "apic",
        field: "timer_current",
        reason: "the timer counts from the instant at which it is written, and is written again before the guest goes on",
        allows: |compared| number(compared.read) <= compared.loaded_number("timer_initial"),
    },
    Tolerated {
        description: "apic",
        field: "tsc_deadline",
        reason: "a deadline that has passed is disarmed, by a KVM that injects timer interrupts at once; it is written \
                 again before the guest goes on",
        allows: |compared| number(compared.read) == 0,
    },
    Tolerated {
        description: "apic",
        field: "requested",
        reason: "the timers may tick; the registers are written again before the guest goes on",
        allows: |compared| match (compared.loaded, compared.read) {
            (Value::Array(loaded), Value::Array(read)) => {
                let words = || loaded.iter().zip(read);
                let lost = words().any(|(loaded, read)| number(loaded) & !number(read) != 0);
                let new: u32 = words()
                    .map(|(loaded, read)| (number(read) & !number(loaded)).count_ones())
                    .sum();
                !lost && new <= 2
            }
            _ => false,
        },
    },
    Tolerated {
        description: "ioapic",
        field: "requested",
        reason: "a tick of the interval timer may be caught half way; the registers are written again before the guest \
                 goes on",
        allows: |compared| compared.differs_only_in(TIMER_INPUT),
    },
    Tolerated {
        description: "ioapic",
        field: "redirection",
        reason: "a level that waits is delivered when the table is written, which the entry then shows; it is written again \
                 before the guest goes on",
        allows: |compared| match (compared.loaded, compared.read) {
            (Value::Array(loaded), Value::Array(read)) => {
                let mut entries = loaded.iter().zip(read);
                loaded.len() == read.len()
                    && entries.all(|(loaded, read)| (number(loaded) ^ number(read)) & !DELIVERY_BITS == 0)
            }
            _ => false,
        },
    },
    Tolerated {
        description: "i8259",
        field: "primary.requested",
        reason: "the interval timer may tick; the registers are written again before the guest goes on",
        allows: |compared| compared.differs_only_in(TIMER_INPUT),
    },
    Tolerated {
        description: "i8259",
        field: "primary.last_levels",
        reason: "a tick of the interval timer may be caught half way; the registers are written again before the guest \
                 goes on",
        allows: |compared| compared.differs_only_in(TIMER_INPUT),
    },
];

/// Compares states of objects.
pub struct Comparison {
    sets_tsc: bool,
    tsc: TscPolicy,
    found: Vec<Difference>,
}

impl Comparison {
    /// A comparison on a KVM that lets TSCs be set, or does not.
    pub fn new(sets_tsc: bool, tsc: TscPolicy) -> Self {
        Self {
            sets_tsc,
            tsc,
            found: Vec::new(),
        }
    }

    /// Compares the state that the object at `path` was loaded with to what was read back.
    pub fn object<S: VmState + PartialEq>(&mut self, path: &str, loaded: &S, read: &S) {
        // Nearly always, and then nothing has to be taken apart.
        if loaded == read {
            return;
        }
        let place = Place {
            path,
            description: S::NAME,
            prefix: "",
        };
        self.structs(&place, &loaded.to_value(), &read.to_value());
    }

    /// What differs and must not.
    pub fn found(self) -> Vec<Difference> {
        self.found
    }

    fn structs(&mut self, place: &Place<'_>, loaded_in: &StructValue, read_in: &StructValue) {
        for (name, loaded) in loaded_in.fields() {
            let field = format!("{}{name}", place.prefix);
            let Some(read) = read_in.get(name) else {
                self.report(place, &field, loaded, None);
                continue;
            };
            if let (Some(loaded), Some(read)) = (as_struct(loaded), as_struct(read)) {
                self.structs(
                    &Place {
                        prefix: &format!("{field}."),
                        ..*place
                    },
                    loaded,
                    read,
                );
            } else if loaded != read {
                let compared = Compared {
                    field: &field,
                    loaded,
                    read,
                    loaded_in,
                    read_in,
                    sets_tsc: self.sets_tsc,
                    tsc: self.tsc,
                };
                let tolerated = TOLERATED
                    .iter()
                    .any(|row| row.description == place.description && row.is_for(&field) && (row.allows)(&compared));
                if !tolerated {
                    self.report(place, &field, loaded, Some(read));
                }
            }
        }
    }

    fn report(&mut self, place: &Place<'_>, field: &str, loaded: &Value, read: Option<&Value>) {
        self.found.push(Difference {
            field: format!("{}: {field}", place.path),
            loaded: format!("{loaded:?}"),
            read: read.map_or_else(|| "nothing".to_owned(), |read| format!("{read:?}")),
        });
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a str,
    description: &'static str,
    prefix: &'a str,
}

/// A structure, also one that could be absent and is not.
fn as_struct(value: &Value) -> Option<&StructValue> {
    match value {
        Value::Struct(value) => Some(value),
        Value::Option(Some(value)) => as_struct(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::i386::cpu_state::{CpuState, ExceptionEvent, SegmentRegister};
    use hw::i386::xsave::{PkruState, X87State};
    use hw::intc::apic::ApicState;
    use hw::timer::clock::ClockState;

    fn fields<S: VmState + PartialEq>(loaded: &S, read: &S, sets_tsc: bool) -> Vec<String> {
        let mut comparison = Comparison::new(sets_tsc, TscPolicy::Keep);
        comparison.object("/x", loaded, read);
        comparison
            .found()
            .into_iter()
            .map(|difference| difference.field)
            .collect()
    }

    #[test]
    fn a_difference_is_named_down_to_its_field() {
        let mut loaded = CpuState::default();
        loaded.events.exception = Some(ExceptionEvent::default());
        let mut read = loaded.clone();
        read.general.rax = 1;
        read.events.exception = Some(ExceptionEvent {
            vector: 3,
            ..ExceptionEvent::default()
        });
        assert_eq!(
            fields(&loaded, &read, true),
            ["/x: general.rax", "/x: events.exception.vector"]
        );
    }

    /// A tolerated field: what it was loaded as beside what, what may be read then, and what may not.
    struct Case {
        place: (&'static str, &'static str),
        beside: Option<(&'static str, u64)>,
        loaded: Value,
        within: Value,
        beyond: Option<Value>,
    }

    fn cases() -> Vec<Case> {
        let case = |place, beside, loaded, within, beyond: Option<Value>| Case {
            place,
            beside,
            loaded,
            within,
            beyond,
        };
        let one = Value::Uint;
        let words = |words: &[u64]| Value::Array(words.iter().copied().map(Value::Uint).collect());
        let clock = |field| ("guest-clock", field);
        let khz = Some(("tsc_khz", 1000));
        vec![
            case(clock("realtime_ns"), None, one(5), one(4), None),
            case(
                clock("kvmclock_ns"),
                None,
                one(5),
                one(60_000_000_005),
                Some(one(60_000_000_006)),
            ),
            case(clock("tsc"), khz, one(5), one(60_000_005), Some(one(60_000_006))),
            // Only where TSCs cannot be set.
            case(clock("tsc_differences"), None, words(&[0, 1]), words(&[0, 0]), None),
            case(
                clock("tsc_khz"),
                None,
                one(1_000_000),
                one(1_000_250),
                Some(one(1_000_251)),
            ),
            case(
                ("apic", "timer_current"),
                Some(("timer_initial", 9)),
                one(5),
                one(9),
                Some(one(10)),
            ),
            case(("apic", "tsc_deadline"), None, one(5), one(0), Some(one(4))),
            case(
                ("apic", "requested"),
                None,
                words(&[4, 0]),
                words(&[5, 1]),
                Some(words(&[1, 0])),
            ),
            case(("ioapic", "requested"), None, one(2), one(3), Some(one(0))),
            case(
                ("ioapic", "redirection"),
                None,
                words(&[0x8034, 0]),
                words(&[0xc034, 0]),
                Some(words(&[0x8035, 0])),
            ),
            case(("i8259", "primary.requested"), None, one(2), one(3), Some(one(6))),
            case(("i8259", "primary.last_levels"), None, one(3), one(2), Some(one(7))),
        ]
    }

    /// Cases of the processor's fields, where what is beside a field counts on both sides.
    #[test]
    fn what_processors_keep_differently_is_tolerated_and_nothing_else() {
        type Change = fn(&mut CpuState);
        let alike: &[(&str, Change, Change)] = &[
            (
                "attributes of no segment",
                |cpu| cpu.system.ds.unusable = true,
                |cpu| {
                    cpu.system.ds = SegmentRegister {
                        unusable: true,
                        limit: 0xffff,
                        ..SegmentRegister::default()
                    };
                },
            ),
            (
                "no segment, said by one of two",
                |cpu| (cpu.system.ss.present, cpu.system.ss.unusable) = (false, false),
                |cpu| (cpu.system.ss.present, cpu.system.ss.unusable) = (false, true),
            ),
            (
                "accessed",
                |cpu| (cpu.system.es.present, cpu.system.es.kind) = (true, 2),
                |cpu| (cpu.system.es.present, cpu.system.es.kind) = (true, 3),
            ),
            (
                "granularity",
                |cpu| (cpu.system.gs.present, cpu.system.gs.limit) = (true, 0xfff),
                |cpu| {
                    (cpu.system.gs.present, cpu.system.gs.limit) = (true, 0xfff);
                    cpu.system.gs.granular = true;
                },
            ),
            (
                "a component at rest",
                |_| (),
                |cpu| cpu.xsave.x87 = Some(X87State::default()),
            ),
            ("another one", |cpu| cpu.xsave.pkru = Some(PkruState::default()), |_| ()),
            (
                "SYSENTER",
                |cpu| cpu.msrs.sysenter_eip = 0xffff_ffff_8100_0000,
                |cpu| {
                    cpu.msrs.sysenter_eip = 0x8100_0000;
                },
            ),
            (
                "shadow",
                |cpu| cpu.events.shadow_sti = true,
                |cpu| {
                    (cpu.events.shadow_sti, cpu.events.shadow_mov_ss) = (true, true);
                },
            ),
        ];
        let unlike: &[(&str, Change, Change)] = &[
            (
                "system.ds.dpl",
                |cpu| cpu.system.ds.present = true,
                |cpu| (cpu.system.ds.present, cpu.system.ds.dpl) = (true, 3),
            ),
            (
                "system.ds.unusable",
                |cpu| cpu.system.ds.present = true,
                |cpu| (cpu.system.ds.present, cpu.system.ds.unusable) = (true, true),
            ),
            ("system.ss.dpl", |_| (), |cpu| cpu.system.ss.dpl = 3),
            (
                "system.ss.base",
                |cpu| cpu.system.ss.unusable = true,
                |cpu| {
                    (cpu.system.ss.unusable, cpu.system.ss.base) = (true, 1);
                },
            ),
            (
                "system.es.kind",
                |cpu| (cpu.system.es.present, cpu.system.es.kind) = (true, 3),
                |cpu| (cpu.system.es.present, cpu.system.es.kind) = (true, 2),
            ),
            (
                "system.gs.granular",
                |cpu| (cpu.system.gs.present, cpu.system.gs.limit) = (true, 0x1234),
                |cpu| {
                    (cpu.system.gs.present, cpu.system.gs.limit) = (true, 0x1234);
                    cpu.system.gs.granular = true;
                },
            ),
            (
                "xsave.x87",
                |_| (),
                |cpu| {
                    cpu.xsave.x87 = Some(X87State {
                        status: 1,
                        ..X87State::default()
                    });
                },
            ),
            (
                "msrs.sysenter_esp",
                |cpu| cpu.msrs.sysenter_esp = 0x1234,
                |cpu| cpu.msrs.sysenter_esp = 0,
            ),
            ("events.shadow_sti", |cpu| cpu.events.shadow_sti = true, |_| ()),
        ];
        let found = |loaded: &Change, read: &Change| {
            let (mut left, mut right) = (CpuState::default(), CpuState::default());
            loaded(&mut left);
            read(&mut right);
            fields(&left, &right, true)
        };
        for (what, loaded, read) in alike {
            assert_eq!(found(loaded, read), [""; 0], "{what}");
        }
        for (field, loaded, read) in unlike {
            assert_eq!(found(loaded, read), [format!("/x: {field}")]);
        }
    }

    fn is_tolerated(case: &Case, read: &Value, sets_tsc: bool) -> bool {
        let (description, path) = case.place;
        let state = |value: &Value| {
            let (outer, field) = path
                .split_once('.')
                .map_or((None, path), |(outer, field)| (Some(outer), field));
            let mut state = StructValue::new(1).with(field, value.clone());
            if let Some((name, number)) = case.beside {
                state.set(name, Value::Uint(number));
            }
            match outer {
                None => state,
                Some(outer) => StructValue::new(1).with(outer, Value::Struct(state)),
            }
        };
        let mut comparison = Comparison::new(sets_tsc, TscPolicy::Keep);
        let place = Place {
            path: "/x",
            description,
            prefix: "",
        };
        comparison.structs(&place, &state(&case.loaded), &state(read));
        comparison.found().is_empty()
    }

    #[test]
    fn every_tolerated_field_has_its_bound() {
        let cases = cases();
        let covered: Vec<_> = cases.iter().map(|case| case.place).collect();
        // The processor's fields have a test of their own.
        let rows = TOLERATED.iter().filter(|row| row.description != "x86-cpu");
        let rows: Vec<_> = rows.map(|row| (row.description, row.field)).collect();
        assert_eq!(covered, rows);
        for case in &cases {
            let sets_tsc = case.place.1 != "tsc_differences";
            assert!(is_tolerated(case, &case.within, sets_tsc), "{:?}", case.place);
            if let Some(beyond) = &case.beyond {
                assert!(!is_tolerated(case, beyond, sets_tsc), "{:?}", case.place);
            }
        }
    }

    #[test]
    fn timers_may_count_on_but_not_up() {
        let loaded = ApicState {
            timer_initial: 100,
            timer_current: 50,
            ..ApicState::default()
        };
        let counted = ApicState {
            timer_current: 40,
            ..loaded.clone()
        };
        let wrong = ApicState {
            timer_current: 101,
            ..loaded.clone()
        };
        assert!(fields(&loaded, &counted, true).is_empty());
        assert_eq!(fields(&loaded, &wrong, true), ["/x: timer_current"]);
    }

    #[test]
    fn clocks_may_run_on_but_not_back() {
        let loaded = ClockState {
            tsc_khz: 1000,
            tsc: 5000,
            kvmclock_ns: 5000,
            ..ClockState::default()
        };
        let later = ClockState {
            tsc: 6000,
            kvmclock_ns: 6000,
            realtime_ns: 7,
            ..loaded.clone()
        };
        let earlier = ClockState {
            tsc: 4000,
            kvmclock_ns: 4000,
            ..loaded.clone()
        };
        assert!(fields(&loaded, &later, true).is_empty());
        assert_eq!(fields(&loaded, &earlier, true), ["/x: tsc", "/x: kvmclock_ns"]);
        assert_eq!(fields(&loaded, &earlier, false), ["/x: kvmclock_ns"]);
    }

    #[test]
    fn another_frequency_is_none_only_where_it_was_asked_for() {
        let loaded = ClockState {
            tsc_khz: 2_000_000,
            ..ClockState::default()
        };
        let read = ClockState {
            tsc_khz: 3_000_000,
            ..loaded.clone()
        };
        for (policy, wanted) in [(TscPolicy::Keep, 1), (TscPolicy::Tolerate, 0)] {
            let mut comparison = Comparison::new(true, policy);
            comparison.object("/x", &loaded, &read);
            assert_eq!(comparison.found().len(), wanted, "{policy:?}");
        }
    }

    #[test]
    fn an_interrupt_may_come_in_but_none_may_get_lost() {
        let mut loaded = ApicState::default();
        loaded.requested[1] = 1;
        let mut more = loaded.clone();
        more.requested[2] = 4;
        assert!(fields(&loaded, &more, true).is_empty());
        assert_eq!(fields(&more, &loaded, true), ["/x: requested"]);
    }
}
