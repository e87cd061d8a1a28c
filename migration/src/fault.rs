//! Breaking a transfer on purpose.
//!
//! A test that has never failed proves nothing, and an error path that has never run does not work. The shipped engine
//! therefore asks [`Faults`] at fixed points: when a side enters a phase, for each page that it sends, for each page
//! that it takes off the dirty log, for each section. A [`Plan`] is such faults as text, for tests that run the real
//! program, and counts what has fired.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use vmstate::state::{FieldPath, Schema, Section};

use crate::phases::{Phase, Side};
use crate::schemas::SchemaTable;

/// What happens to a side as it enters a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultAction {
    /// The side's own work fails: it takes its error path and tells the peer why.
    Error,
    /// The thread that runs the engine dies (a panic): what unwinding does has to suffice.
    Abort,
    /// The connection is cut under it.
    Cut,
    /// It hangs: reads nothing and says nothing until the peer hangs up.
    Stall,
}

impl FaultAction {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Error, Self::Abort, Self::Cut, Self::Stall];

    /// The name in a plan.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Abort => "abort",
            Self::Cut => "cut",
            Self::Stall => "stall",
        }
    }
}

/// What is sent instead of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// Nothing: the receiver keeps what it has.
    Drop,
    /// Zeros.
    Zero,
    /// The contents of the page with this number in the same block.
    SwapWith(u64),
}

/// Where the engine can be broken. Every method does nothing by default.
pub trait Faults: Send + Sync {
    /// `side` has entered `phase`.
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        let _ = (side, phase);
        None
    }

    /// Page number `page` of `block` is about to be sent.
    fn on_page(&self, block: &str, page: u64) -> Option<PageFault> {
        let _ = (block, page);
        None
    }

    /// Page number `page` of `block` was found dirty. True: it is taken for clean.
    fn lose_dirty(&self, block: &str, page: u64) -> bool {
        let _ = (block, page);
        false
    }

    /// A section, which `schema` describes, was taken from the machine and is about to be sent.
    fn on_section(&self, section: &mut Section, schema: &Schema) {
        let _ = (section, schema);
    }
}

/// No faults: what every real migration has.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl Faults for NoFaults {}

/// Lets `faults` have those sections of a machine that its table describes; to send one of the others fails by itself.
pub(crate) fn spoil_sections(faults: &dyn Faults, table: &SchemaTable, sections: &mut [Section]) {
    for section in sections {
        if let Some((_, schema)) = table.get(&section.path, &section.description) {
            faults.on_section(section, schema);
        }
    }
}

/// Faults as text: one or more of these, separated by commas.
///
/// | text | effect |
/// | --- | --- |
/// | `source:rounds:cut` | this side suffers this [`FaultAction`] as it enters this phase; once, so that a list of these makes one transfer after the other fail |
/// | `page:drop:1/500:7` | one page in 500, picked by seed 7, is left out (`zero`: sent as zeros; `swap`: changes places with its neighbour) |
/// | `dirty:lose:1/50:7` | one dirty page in 50 is taken for clean |
/// | `page:zero:1/500:7:2048-4095` | the same, among the pages with these numbers only |
/// | `field:/machine/serial0:lcr` | this field of this object's sections is sent as zero (a [`FieldPath`]: `a.b[3]`) |
#[derive(Debug, Default)]
pub struct Plan(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    text: String,
    what: What,
    fired: AtomicU64,
}

#[derive(Debug)]
enum What {
    Phase(Side, Phase, FaultAction),
    Page(PageFaultKind, Pick),
    LoseDirty(Pick),
    ZeroField { object: String, field: FieldPath },
}

#[derive(Clone, Copy, Debug)]
enum PageFaultKind {
    Drop,
    Zero,
    Swap,
}

/// Which pages: one in so many, by a hash of page and seed, so that a run can be repeated.
#[derive(Clone, Debug)]
struct Pick {
    one_in: u64,
    seed: u64,
    among: RangeInclusive<u64>,
}

impl Pick {
    fn picks(&self, page: u64) -> bool {
        if !self.among.contains(&page) {
            return false;
        }
        // SplitMix64: neighbours are picked independently of each other.
        let mut x = page.wrapping_add(self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31).is_multiple_of(self.one_in)
    }
}

/// Text that is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fault: source:PHASE:ACTION, page:drop:1/N:SEED[:FROM-TO], dirty:lose:1/N:SEED[:FROM-TO] or \
     field:PATH:FIELD is wanted"
)]
pub struct ParsePlanError(String);

impl FromStr for Plan {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |text: &str| {
            let what = parse_one(text).ok_or_else(|| ParsePlanError(text.to_owned()))?;
            Ok(Planned {
                text: text.to_owned(),
                what,
                fired: AtomicU64::new(0),
            })
        };
        text.split(',').map(parse).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_one(text: &str) -> Option<What> {
    let parts: Vec<&str> = text.split(':').collect();
    Some(match *parts.as_slice() {
        ["page", kind, ref pick @ ..] => {
            let kind = match kind {
                "drop" => PageFaultKind::Drop,
                "zero" => PageFaultKind::Zero,
                "swap" => PageFaultKind::Swap,
                _ => return None,
            };
            What::Page(kind, parse_pick(pick)?)
        }
        ["dirty", "lose", ref pick @ ..] => What::LoseDirty(parse_pick(pick)?),
        ["field", object, field] => What::ZeroField {
            object: object.to_owned(),
            field: field.parse().ok()?,
        },
        [side, phase, action] => What::Phase(
            match side {
                "source" => Side::Source,
                "destination" => Side::Destination,
                _ => return None,
            },
            Phase::ALL.into_iter().find(|known| phase_name(*known) == phase)?,
            FaultAction::ALL.into_iter().find(|known| known.name() == action)?,
        ),
        _ => return None,
    })
}

fn parse_pick(parts: &[&str]) -> Option<Pick> {
    let (one_in, seed, among) = match *parts {
        [one_in, seed] => (one_in, seed, 0..=u64::MAX),
        [one_in, seed, among] => {
            let (from, to) = among.split_once('-')?;
            (one_in, seed, from.parse().ok()?..=to.parse().ok()?)
        }
        _ => return None,
    };
    Some(Pick {
        one_in: one_in.strip_prefix("1/")?.parse().ok().filter(|&n| n > 0)?,
        seed: seed.parse().ok()?,
        among,
    })
}

/// The name of a phase in a plan, which has no spaces.
#[must_use]
pub fn phase_name(phase: Phase) -> String {
    phase.to_string().replace(' ', "-")
}

impl Plan {
    /// Each fault of the plan, and how often it has fired.
    pub fn fired(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0
            .iter()
            .map(|planned| (planned.text.as_str(), planned.fired.load(Ordering::Relaxed)))
    }

    fn find<T>(&self, mut what: impl FnMut(&What) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|planned| {
            let found = what(&planned.what)?;
            planned.fired.fetch_add(1, Ordering::Relaxed);
            Some(found)
        })
    }
}

impl Faults for Plan {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        self.0.iter().find_map(|planned| match planned.what {
            What::Phase(its_side, its_phase, action) if (its_side, its_phase) == (side, phase) => {
                let first = planned
                    .fired
                    .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
                first.is_ok().then_some(action)
            }
            _ => None,
        })
    }

    fn on_page(&self, _block: &str, page: u64) -> Option<PageFault> {
        self.find(|what| match what {
            What::Page(PageFaultKind::Drop, pick) => pick.picks(page).then_some(PageFault::Drop),
            What::Page(PageFaultKind::Zero, pick) => pick.picks(page).then_some(PageFault::Zero),
            // Both of a pair, so that they change places.
            What::Page(PageFaultKind::Swap, pick) => pick.picks(page & !1).then_some(PageFault::SwapWith(page ^ 1)),
            _ => None,
        })
    }

    fn lose_dirty(&self, _block: &str, page: u64) -> bool {
        let lost = self.find(|what| match what {
            What::LoseDirty(pick) => pick.picks(page).then_some(()),
            _ => None,
        });
        lost.is_some()
    }

    fn on_section(&self, section: &mut Section, schema: &Schema) {
        // Several fields of one object may be in the plan.
        for planned in &self.0 {
            if let What::ZeroField { object, field } = &planned.what
                && *object == section.path
                && section.value.set_leaf_zero(schema, field).is_ok()
            {
                planned.fired.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl fmt::Debug for dyn Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmstate::state::{Description, FieldSchema, StructValue, Value, WireType};

    fn plan(text: &str) -> Plan {
        text.parse().expect("a plan")
    }

    fn counts(plan: &Plan) -> Vec<u64> {
        plan.fired().map(|(_, count)| count).collect()
    }

    #[test]
    fn a_plan_fires_where_it_says_and_counts() {
        let plan = plan("source:hello-back:stall,page:swap:1/2:1");
        assert_eq!(plan.on_phase(Side::Destination, Phase::HelloBack), None);
        assert_eq!(plan.on_phase(Side::Source, Phase::HelloBack), Some(FaultAction::Stall));
        let swapped: Vec<u64> = (0..1000)
            .filter(|&page| plan.on_page("ram", page) == Some(PageFault::SwapWith(page ^ 1)))
            .collect();
        assert!(
            (300..700).contains(&swapped.len()),
            "{} of 1000, one in two",
            swapped.len()
        );
        assert!(swapped.iter().all(|page| swapped.contains(&(page ^ 1))), "in pairs");
        let fired: Vec<_> = plan.fired().collect();
        let swapped = u64::try_from(swapped.len()).expect("few");
        assert_eq!(fired, [("source:hello-back:stall", 1), ("page:swap:1/2:1", swapped)]);
    }

    #[test]
    fn a_phase_strikes_once_so_that_one_transfer_after_the_other_fails() {
        let plan = plan("source:hello:error,source:hello:cut,source:rounds:stall");
        let enter = |phase| plan.on_phase(Side::Source, phase);
        assert_eq!(enter(Phase::Hello), Some(FaultAction::Error));
        assert_eq!(enter(Phase::Hello), Some(FaultAction::Cut));
        assert_eq!(enter(Phase::Hello), None);
        assert_eq!(enter(Phase::Rounds), Some(FaultAction::Stall));
        assert_eq!(counts(&plan), [1, 1, 1]);
    }

    #[test]
    fn pages_can_be_kept_out_of_it() {
        let plan = plan("page:drop:1/1:7:10-20,dirty:lose:1/1:7:12-12");
        let dropped: Vec<u64> = (0..100).filter(|&page| plan.on_page("ram", page).is_some()).collect();
        assert_eq!(dropped, (10..=20).collect::<Vec<_>>());
        let lost: Vec<u64> = (0..100).filter(|&page| plan.lose_dirty("ram", page)).collect();
        assert_eq!(lost, [12]);
    }

    #[test]
    fn every_phase_can_be_named_and_nonsense_cannot() {
        for phase in Phase::ALL {
            let plan = plan(&format!("destination:{}:cut", phase_name(phase)));
            assert_eq!(plan.on_phase(Side::Destination, phase), Some(FaultAction::Cut));
        }
        for text in [
            "",
            "source:rounds",
            "source:rounds:cut:now",
            "middle:rounds:cut",
            "page:eat:1/2:3",
            "page:drop:1/0:3",
            "page:drop:1/2",
            "page:drop:1/2:3:4",
            "field:/machine:a[",
        ] {
            text.parse::<Plan>().expect_err(text);
        }
    }

    #[test]
    fn a_field_is_zeroed_wherever_it_lies() {
        let schema = |name: &'static str, fields| {
            let mut description = Description::new(name);
            description.fields = fields;
            description.check().expect("legal")
        };
        let rate = schema("rate", vec![FieldSchema::new("count", WireType::U8)]);
        let schema = schema(
            "serial",
            vec![
                FieldSchema::new("lcr", WireType::U8),
                FieldSchema::new("rate", WireType::Struct(Box::new(rate))),
            ],
        );
        let inner = StructValue::new(1).with("count", Value::Uint(9));
        let mut section = Section {
            path: "/machine/serial0".into(),
            description: "serial".into(),
            value: StructValue::new(1)
                .with("lcr", Value::Uint(3))
                .with("rate", Value::Struct(inner)),
        };
        let plan = plan("field:/machine/serial0:rate.count,field:/machine/serial0:nothing");
        plan.on_section(&mut section, &schema);
        assert_eq!(section.value.to_string(), "{ lcr: 0x3, rate: { count: 0x0 } }");
        assert_eq!(counts(&plan), [1, 0]);
    }
}
