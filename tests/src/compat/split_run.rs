//! A run that is saved and loaded in the middle is the same run.
//!
//! Equality of what is saved, loaded and saved again cannot see what nobody thought to save. So here a device does
//! something afterwards, and what it does is compared with what one does that was never moved: reads, lines with their
//! times, requests, bytes to back ends, and memory.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vmstate::qom::TypeTable;

use super::conformance::{any_state, message};
use super::program::{Directed, Op, directed, program};
use super::random::Random;
use super::rig::{Outside, Pages, Rig, Saved, Seen};

/// The most steps of a program, what it looks at in the end not counted.
const STEPS: usize = 48;
/// How often a state is tried that the object may refuse to begin with.
const TRIES: u32 = 16;

/// What happens in one case: where it begins, what is done, and before which step it is saved and loaded.
pub struct Scenario {
    types: Arc<TypeTable>,
    type_name: String,
    start: Option<Saved>,
    ops: Vec<Op>,
    split: usize,
}

/// What was seen of a run from one step on, and what was left of it in the end.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    seen: Vec<(usize, Seen)>,
    outside: Outside,
    ram: Pages,
}

impl Scenario {
    /// Case `case` of a type: every other one begins with any legal state instead of that of a new object.
    ///
    /// # Errors
    ///
    /// The type cannot be put on the bench, or cannot be saved.
    pub fn new(types: &Arc<TypeTable>, type_name: &str, case: u32, seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed, type_name, case);
        let rig = Rig::new(types, type_name)?;
        let start = if case.is_multiple_of(2) {
            None
        } else {
            start(types, type_name, &mut random)?
        };
        let len = random.index(STEPS) + 1;
        let ops = program(&rig.ground(), len, &mut random);
        let split = random.index(len + 1);
        let (types, type_name) = (Arc::clone(types), type_name.to_owned());
        Ok(Self {
            types,
            type_name,
            start,
            ops,
            split,
        })
    }

    /// The directed cases of a type, for what random programs meet late. Each byte is written to each register that is near
    /// the beginning of a place: before the split, after which something is written to each other register, as the argument
    /// of a command that waits for one; and after the split from any legal state, as the command that shows something.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn directed(
        types: &Arc<TypeTable>,
        type_name: &str,
        seed: u64,
    ) -> Result<impl Iterator<Item = Result<Self, String>>, String> {
        let programs = directed(&Rig::new(types, type_name)?.ground());
        let (types, type_name) = (Arc::clone(types), type_name.to_owned());
        Ok((0..).zip(programs).map(move |(case, Directed { ops, split })| {
            let mut random = Random::new(seed, &type_name, case);
            let start = (split == 0)
                .then(|| start(&types, &type_name, &mut random))
                .transpose()?
                .flatten();
            Ok(Self {
                types: Arc::clone(&types),
                type_name: type_name.clone(),
                start,
                ops,
                split,
            })
        }))
    }

    /// What is done after the split.
    #[must_use]
    pub fn rest(&self) -> &[Op] {
        &self.ops[self.split..]
    }

    /// A rig at the start.
    fn begin(&self) -> Result<Rig, String> {
        let rig = Rig::new(&self.types, &self.type_name)?;
        if let Some(start) = &self.start {
            rig.load(start)?;
        }
        // The lines that the start drives are as they are.
        drop(rig.take_seen());
        Ok(rig)
    }

    /// Runs as far as the split.
    ///
    /// # Errors
    ///
    /// As [`Rig::new`].
    pub fn first_half(&self) -> Result<Rig, String> {
        let rig = self.begin()?;
        rig.run(0, &self.ops[..self.split]);
        Ok(rig)
    }

    /// Runs from the split to the end, and tells what was seen.
    #[must_use]
    pub fn second_half(&self, rig: &Rig) -> Ending {
        drop(rig.take_seen());
        rig.run(self.split, &self.ops[self.split..]);
        Ending {
            seen: rig.take_seen(),
            outside: rig.outside(),
            ram: rig.ram(),
        }
    }

    /// A new rig in place of `left`, amid the same, in the state `saved`.
    ///
    /// # Errors
    ///
    /// The state is refused, or the lines are not what they were.
    pub fn arrive(&self, left: &Rig, saved: &Saved) -> Result<Rig, String> {
        let outside = left.outside();
        let rig = Rig::amid(&self.types, &self.type_name, &outside)?;
        rig.set_ram(&left.ram());
        rig.load(saved)?;
        let here = rig.outside();
        if !here.high().eq(outside.high()) {
            return Err(format!("the lines were {outside:?} and are {here:?} after the load"));
        }
        // A line that is high on both sides is one edge less than a line that falls and rises.
        let raised = rig
            .take_seen()
            .into_iter()
            .all(|(_, seen)| matches!(seen, Seen::Line { level: true, .. }));
        if !raised {
            return Err("a load does more than raise the lines that were high".to_owned());
        }
        Ok(rig)
    }

    /// In which way a run differs from one that was not split, or `None`.
    #[must_use]
    pub fn difference(&self, whole: &Ending, split: &Ending) -> Option<String> {
        let mut pairs = whole.seen.iter().zip(&split.seen);
        let at = pairs.find(|(whole, split)| whole != split);
        let longer = whole.seen.len().min(split.seen.len());
        let (one, other) = match at {
            Some((one, other)) => (Some(one), Some(other)),
            None => (whole.seen.get(longer), split.seen.get(longer)),
        };
        if let Some((step, _)) = one.or(other) {
            let op = &self.ops[*step];
            return Some(format!(
                "at step {step}, {op:x?}: in one piece {one:x?}, split {other:x?}"
            ));
        }
        let lines = whole.outside.high().eq(split.outside.high());
        if !lines {
            return Some(format!(
                "in the end: in one piece {:?}, split {:?}",
                whole.outside, split.outside
            ));
        }
        let pages: BTreeSet<_> = whole.ram.keys().chain(split.ram.keys()).collect();
        let page = pages
            .into_iter()
            .find(|page| whole.ram.get(page) != split.ram.get(page));
        page.map(|page| format!("in the end the RAM at {page:#x} differs"))
    }

    /// What is done and where it is split, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let from = if self.start.is_some() {
            "any legal state"
        } else {
            "a new object"
        };
        let (before, after) = self.ops.split_at(self.split);
        format!("from {from}: {before:x?}\nsaved and loaded, then: {after:x?}")
    }

    fn check(&self) -> Result<(), String> {
        let whole = self.begin()?;
        whole.run(0, &self.ops[..self.split]);
        let first = whole.take_seen();
        let expected = self.second_half(&whole);

        let left = self.begin()?;
        left.run(0, &self.ops[..self.split]);
        if left.take_seen() != first {
            return Err("two runs of the same differ, so that nothing can be said of it".to_owned());
        }
        let saved = left.save()?;
        if left.save()? != saved {
            return Err("saved twice, it is not the same".to_owned());
        }
        let arrived = self.arrive(&left, &saved)?;
        let split = self.second_half(&arrived);
        if let Some(difference) = self.difference(&expected, &split) {
            return Err(difference);
        }
        if whole.save()? != arrived.save()? {
            return Err("all that was seen is the same, and the state in the end is not".to_owned());
        }
        // The source of a save goes on, if nobody takes its guest, as if nothing had been.
        let resumed = self.second_half(&left);
        self.difference(&expected, &resumed)
            .map_or(Ok(()), |difference| Err(format!("after a save: {difference}")))
    }
}

/// Any state that the object takes, or `None` if it takes hardly any.
fn start(types: &Arc<TypeTable>, type_name: &str, random: &mut Random) -> Result<Option<Saved>, String> {
    for _ in 0..TRIES {
        let rig = Rig::new(types, type_name)?;
        let any = any_state(&rig, &rig.save()?, random)?;
        if rig.load(&any).is_ok() {
            return Ok(Some(any));
        }
    }
    Ok(None)
}

/// Holds a type to it, in `cases` runs.
///
/// # Errors
///
/// How a run differs, with all that is needed to see it again.
pub fn check(types: &Arc<TypeTable>, type_name: &str, cases: u32, seed: u64) -> Result<(), String> {
    for case in 0..cases {
        let again = format!("(case {case}; TERN_SEED={seed:#x})");
        let scenario = Scenario::new(types, type_name, case, seed).map_err(|error| format!("{error}\n{again}"))?;
        let checked = catch_unwind(AssertUnwindSafe(|| scenario.check()));
        let checked = checked.unwrap_or_else(|panic| Err(format!("it panics: {}", message(&*panic))));
        checked.map_err(|error| format!("{type_name}: {error}\n{}\n{again}", scenario.describe()))?;
    }
    Ok(())
}
