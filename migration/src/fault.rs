//! Breaking a live migration on purpose.
//!
//! A test that has never failed proves nothing, and an error path that has never run does not work. The shipped engine
//! therefore asks [`Faults`] at fixed points: when a side enters a phase, for each page that it sends, for each page
//! that it takes off the dirty log, for each section. A [`Plan`] is such faults as text, for tests that run the real
//! program, and counts what has fired.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use vmstate::state::{Section, StructValue, Value};

use crate::phases::{Phase, Side, TransferKind};

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

    /// A section was taken from the machine and is about to be sent.
    fn on_section(&self, section: &mut Section) {
        let _ = section;
    }
}

/// No faults: what every real migration has.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl Faults for NoFaults {}

/// Faults as text: one or more of these, separated by commas.
///
/// | text | effect |
/// | --- | --- |
/// | `source:rounds:cut` | this side suffers this [`FaultAction`] as it enters this phase |
/// | `page:drop:1/500:7` | one page in 500, picked by seed 7, is left out (`zero`: sent as zeros; `swap`: with its neighbour's contents) |
/// | `dirty:lose:1/50:7` | one dirty page in 50 is taken for clean |
/// | `field:/machine/serial0:lcr` | this field of this object's sections is sent as zero (`a.b` for one inside a struct) |
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
    ZeroField { path: String, field: String },
}

#[derive(Clone, Copy, Debug)]
enum PageFaultKind {
    Drop,
    Zero,
    Swap,
}

/// Which pages: one in so many, by a hash of page and seed, so that a run can be repeated.
#[derive(Clone, Copy, Debug)]
struct Pick {
    one_in: u64,
    seed: u64,
}

impl Pick {
    fn picks(self, page: u64) -> bool {
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
    "{0:?} is no fault: source:PHASE:ACTION, page:drop:1/N:SEED, dirty:lose:1/N:SEED or field:PATH:FIELD is wanted"
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
    let mut parts = text.split(':');
    let what = match (parts.next()?, parts.next()?, parts.next()?) {
        ("page", kind, pick) => {
            let kind = match kind {
                "drop" => PageFaultKind::Drop,
                "zero" => PageFaultKind::Zero,
                "swap" => PageFaultKind::Swap,
                _ => return None,
            };
            What::Page(kind, parse_pick(pick, parts.next()?)?)
        }
        ("dirty", "lose", pick) => What::LoseDirty(parse_pick(pick, parts.next()?)?),
        ("field", path, field) => What::ZeroField {
            path: path.to_owned(),
            field: field.to_owned(),
        },
        (side, phase, action) => What::Phase(
            match side {
                "source" => Side::Source,
                "destination" => Side::Destination,
                _ => return None,
            },
            Phase::of(TransferKind::Precopy).find(|known| phase_name(*known) == phase)?,
            FaultAction::ALL.into_iter().find(|known| known.name() == action)?,
        ),
    };
    parts.next().is_none().then_some(what)
}

fn parse_pick(one_in: &str, seed: &str) -> Option<Pick> {
    Some(Pick {
        one_in: one_in.strip_prefix("1/")?.parse().ok().filter(|&n| n > 0)?,
        seed: seed.parse().ok()?,
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
        self.find(|what| match *what {
            What::Phase(its_side, its_phase, action) => ((its_side, its_phase) == (side, phase)).then_some(action),
            _ => None,
        })
    }

    fn on_page(&self, _block: &str, page: u64) -> Option<PageFault> {
        self.find(|what| match *what {
            What::Page(kind, pick) if pick.picks(page) => Some(match kind {
                PageFaultKind::Drop => PageFault::Drop,
                PageFaultKind::Zero => PageFault::Zero,
                PageFaultKind::Swap => PageFault::SwapWith(page ^ 1),
            }),
            _ => None,
        })
    }

    fn lose_dirty(&self, _block: &str, page: u64) -> bool {
        self.find(|what| match *what {
            What::LoseDirty(pick) => pick.picks(page).then_some(()),
            _ => None,
        })
        .is_some()
    }

    fn on_section(&self, section: &mut Section) {
        // Several fields of one object may be in the plan.
        for planned in &self.0 {
            if let What::ZeroField { path, field } = &planned.what
                && *path == section.path
                && zero_field(&mut section.value, field)
            {
                planned.fired.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sets the field with this dotted name to zero; false if there is none, or if its type has no zero.
pub fn zero_field(value: &mut StructValue, field: &str) -> bool {
    let (name, rest) = field
        .split_once('.')
        .map_or((field, None), |(name, rest)| (name, Some(rest)));
    match (value.get_mut(name), rest) {
        (Some(Value::Struct(inner)), Some(rest)) => zero_field(inner, rest),
        (Some(value), None) => zero(value),
        _ => false,
    }
}

fn zero(value: &mut Value) -> bool {
    match value {
        Value::Bool(value) => *value = false,
        Value::Uint(value) => *value = 0,
        Value::Int(value) => *value = 0,
        Value::F64(value) => *value = 0.0,
        Value::Bytes(bytes) => bytes.fill(0),
        Value::Str(text) => text.clear(),
        Value::Array(elements) => return elements.iter_mut().map(zero).filter(|&zeroed| zeroed).count() > 0,
        Value::Option(value) => *value = None,
        Value::Struct(_) | Value::Enum(_) => return false,
    }
    true
}

impl fmt::Debug for dyn Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fires_where_it_says_and_counts() {
        let plan: Plan = "source:hello-back:stall,page:swap:1/2:1".parse().expect("a plan");
        assert_eq!(plan.on_phase(Side::Destination, Phase::HelloBack), None);
        assert_eq!(plan.on_phase(Side::Source, Phase::HelloBack), Some(FaultAction::Stall));
        let swapped = (0..1000)
            .filter(|&page| plan.on_page("ram", page) == Some(PageFault::SwapWith(page ^ 1)))
            .count();
        assert!((300..700).contains(&swapped), "{swapped} of 1000, one in two");
        let fired: Vec<_> = plan.fired().collect();
        assert_eq!(
            fired,
            [
                ("source:hello-back:stall", 1),
                ("page:swap:1/2:1", u64::try_from(swapped).expect("few"))
            ]
        );
    }

    #[test]
    fn every_phase_can_be_named_and_nonsense_cannot() {
        for phase in Phase::of(TransferKind::Precopy) {
            let plan: Plan = format!("destination:{}:cut", phase_name(phase))
                .parse()
                .expect("a plan");
            assert_eq!(plan.on_phase(Side::Destination, phase), Some(FaultAction::Cut));
        }
        for text in [
            "",
            "source:rounds",
            "source:rounds:cut:now",
            "middle:rounds:cut",
            "page:eat:1/2:3",
            "page:drop:1/0:3",
        ] {
            text.parse::<Plan>().expect_err(text);
        }
    }

    #[test]
    fn a_field_is_zeroed_wherever_it_lies() {
        let inner = StructValue::new(1).with("count", Value::Uint(9));
        let value = StructValue::new(1)
            .with("lcr", Value::Uint(3))
            .with("rate", Value::Struct(inner));
        let mut section = Section {
            path: "/machine/serial0".into(),
            description: "serial".into(),
            value,
        };
        let plan: Plan = "field:/machine/serial0:rate.count,field:/machine/serial0:nothing"
            .parse()
            .expect("a plan");
        plan.on_section(&mut section);
        let Some(Value::Struct(inner)) = section.value.get("rate") else {
            panic!("the struct is still there")
        };
        assert_eq!(
            (section.value.get("lcr"), inner.get("count")),
            (Some(&Value::Uint(3)), Some(&Value::Uint(0)))
        );
        assert_eq!(plan.fired().map(|(_, count)| count).collect::<Vec<_>>(), [1, 0]);
    }
}
