//! What every type with state owes, whatever it is.
//!
//! Any legal state is loaded or refused, and what was loaded is what is saved; twice is as good as once; a reset puts
//! back what it does not declare to keep; damage is refused with nothing changed, or loads as some other state that is
//! as good as any.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hw::core::{Device, device_class};
use vmstate::qom::sections::LoadTreeError;
use vmstate::qom::{Object, StateDecl, TypeKind, TypeTable};
use vmstate::state::{Schema, StructValue, Value, WireType};

use super::program::program;
use super::random::Random;
use super::rig::{Rig, Saved, SavedSection};
use super::values::legal_value;

/// Of so many states at least one has to be accepted, or the rest says nothing.
const ACCEPTED_ONE_IN: u32 = 10;
/// Sections of so many bytes have each of their bytes changed to every other value.
const SMALL: usize = 32;
/// Sections of more bytes are damaged in one case only: each byte, as in all others.
const LARGE: usize = 2048;

/// The concrete types whose objects have state that can be saved, sorted by name.
#[must_use]
pub fn types_with_state(types: &TypeTable) -> Vec<&'static str> {
    concrete(types, |lineage| {
        lineage.iter().any(|state| matches!(state, StateDecl::Described(_)))
    })
}

/// The concrete types that are devices or machines and can be saved, sorted by name; with state or without.
#[must_use]
pub fn devices(types: &TypeTable) -> Vec<&'static str> {
    let mut devices = concrete(types, |_| true);
    devices.retain(|name| {
        let class = types.class(name).expect("it is in the table");
        class.is_a("device") || class.is_a("machine")
    });
    devices
}

fn concrete(types: &TypeTable, wanted: impl Fn(&[StateDecl]) -> bool) -> Vec<&'static str> {
    let concrete = types.infos().filter(|info| info.kind == TypeKind::Concrete);
    let wanted = concrete.filter(|info| {
        let class = types.class(info.name).expect("it is in the table");
        let states: Vec<_> = class.lineage().iter().map(|info| info.state).collect();
        let is_saved = !states.iter().any(|state| matches!(state, StateDecl::Unmigratable(_)));
        is_saved && wanted(&states)
    });
    wanted.map(|info| info.name).collect()
}

/// What became of the states and the damage that a type was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// States that were loaded.
    pub accepted: u32,
    /// States that the object refused.
    pub refused: u32,
    /// Damaged sections that were refused.
    pub damage_refused: u64,
    /// Damaged sections that were loaded as some other state.
    pub damage_harmless: u64,
    /// An accelerator resets it, so that nothing was said about reset.
    pub is_reset_by_accelerator: bool,
}

/// Holds a type to all that it owes, with `cases` states.
///
/// # Errors
///
/// What it does not keep, with its name, the case and the seed.
pub fn check(types: &Arc<TypeTable>, type_name: &str, cases: u32, seed: u64) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    for case in 0..cases {
        let mut random = Random::new(seed, type_name, case);
        let checked = catch_unwind(AssertUnwindSafe(|| {
            Case::new(types, type_name)?.check(&mut random, &mut outcome)
        }));
        let checked = checked.unwrap_or_else(|panic| Err(format!("it panics: {}", message(&*panic))));
        checked.map_err(|error| format!("{type_name}: {error}\n(case {case}; TERN_SEED={seed:#x})"))?;
    }
    if outcome.accepted * ACCEPTED_ONE_IN < cases {
        let Outcome { accepted, refused, .. } = outcome;
        return Err(format!(
            "{type_name}: of {cases} legal states {refused} were refused and {accepted} loaded, too few to say anything: \
             let its description say with ranges what it takes"
        ));
    }
    Ok(outcome)
}

/// What a panic says.
#[must_use]
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("something that is no text")
        .to_owned()
}

/// The sections of an object among those of its tree.
fn of_object<'a>(saved: &'a [SavedSection], object: &Object) -> impl Iterator<Item = (usize, &'a SavedSection)> {
    let path = object.path();
    saved
        .iter()
        .enumerate()
        .filter(move |(_, section)| section.path == path)
}

/// A state like `saved`, with any legal state of the object that the rig is for.
///
/// # Errors
///
/// What was made is no state of its description: a mistake of the maker.
pub fn any_state(rig: &Rig, saved: &Saved, random: &mut Random) -> Result<Saved, String> {
    let mut any = saved.clone();
    for (index, section) in of_object(saved, &rig.subject()) {
        any[index].value = legal_value(&section.schema, &section.value, random);
        any[index].bytes()?;
    }
    Ok(any)
}

struct Case {
    types: Arc<TypeTable>,
    type_name: String,
    rig: Rig,
    new: Saved,
}

impl Case {
    fn new(types: &Arc<TypeTable>, type_name: &str) -> Result<Self, String> {
        let rig = Rig::new(types, type_name)?;
        let new = rig.save()?;
        let types = Arc::clone(types);
        Ok(Self {
            types,
            type_name: type_name.to_owned(),
            rig,
            new,
        })
    }

    fn fresh(&self) -> Result<Rig, String> {
        Rig::new(&self.types, &self.type_name)
    }

    fn check(&self, random: &mut Random, outcome: &mut Outcome) -> Result<(), String> {
        let any = any_state(&self.rig, &self.new, random)?;
        match self.rig.load_bytes(&any, all_bytes(&any)?) {
            Ok(()) => outcome.accepted += 1,
            Err(LoadTreeError::Hook { .. }) => {
                outcome.refused += 1;
                return Ok(());
            }
            Err(error) => {
                return Err(format!(
                    "a legal state is refused, and not by the object itself: {error}"
                ));
            }
        }
        let saved = self.rig.save()?;
        if !any.iter().any(|section| has_optional(&section.schema)) {
            expect_same("what was loaded is not what is saved", &any, &saved)?;
        }
        let again = self.fresh()?;
        again.load(&saved)?;
        expect_same("saved, loaded and saved again", &saved, &again.save()?)?;
        let lines = again.outside();
        again.load(&saved)?;
        expect_same("loaded twice", &saved, &again.save()?)?;
        if again.outside() != lines {
            return Err(format!(
                "loaded twice, its lines were {lines:?} and are {:?}",
                again.outside()
            ));
        }
        self.check_damage(&again, &saved, random, outcome)?;
        self.check_reset(&saved, random, outcome)
    }

    /// Changes every byte, cuts the section everywhere, and adds a byte.
    fn check_damage(&self, rig: &Rig, saved: &Saved, random: &mut Random, outcome: &mut Outcome) -> Result<(), String> {
        let mut attack = Attack {
            rig,
            spare: self.fresh()?,
            now: saved.clone(),
        };
        for (index, section) in of_object(saved, &rig.subject()) {
            let bytes = section.bytes()?;
            if bytes.len() > LARGE && outcome.accepted > 1 {
                continue;
            }
            for at in 0..bytes.len() {
                let changes: Vec<u8> = if bytes.len() <= SMALL {
                    (1..=u8::MAX).collect()
                } else {
                    vec![1 << random.below(8), random.byte().max(1)]
                };
                for change in changes {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= change;
                    let refused = attack.load(index, damaged, random);
                    let refused = refused
                        .map_err(|error| format!("byte {at} of {bytes:02x?} changed by {change:#x}: {error}"))?;
                    *(if refused {
                        &mut outcome.damage_refused
                    } else {
                        &mut outcome.damage_harmless
                    }) += 1;
                }
            }
            let cut = (0..bytes.len()).map(|len| bytes[..len].to_vec());
            let longer = [bytes.iter().copied().chain([0]).collect::<Vec<_>>()];
            for damaged in cut.chain(longer) {
                let len = damaged.len();
                if !attack.load(index, damaged, random)? {
                    return Err(format!(
                        "{len} of its {} bytes were taken for a whole section",
                        bytes.len()
                    ));
                }
                outcome.damage_refused += 1;
            }
        }
        Ok(())
    }

    fn check_reset(&self, saved: &Saved, random: &mut Random, outcome: &mut Outcome) -> Result<(), String> {
        let subject = self.rig.subject();
        let class = device_class(&subject).filter(|_| subject.part::<Device>().is_some());
        if class.is_some_and(|class| !class.has_reset()) {
            outcome.is_reset_by_accelerator = true;
            return Ok(());
        }
        let (used, new) = (self.fresh()?, self.fresh()?);
        used.load(saved)?;
        let ground = used.ground();
        used.run(0, &program(&ground, 8, random));
        let before = used.save()?;
        used.reset();
        new.reset();
        let (after, expected) = (used.save()?, new.save()?);
        if class.is_none() {
            let own = |saved: &Saved| of_object(saved, &subject).map(|(_, section)| section.clone()).collect();
            return expect_same("it is no device, and a reset changes it", &own(&before), &own(&after));
        }
        for (index, section) in of_object(&after, &subject) {
            expect_reset(
                class.map_or(&[], |class| class.kept_by_reset()),
                section,
                &expected[index].value,
            )?;
        }
        if !used.outside().high().eq(new.outside().high()) {
            return Err(format!(
                "after a reset its lines are not as those of a new one: {:?}",
                used.outside()
            ));
        }
        used.reset();
        expect_same("reset twice", &after, &used.save()?)
    }
}

/// Expects all fields but those that are kept to be as `expected`.
///
/// # Errors
///
/// The first that is not.
pub fn expect_reset(kept: &[&str], section: &SavedSection, expected: &StructValue) -> Result<(), String> {
    let is_kept = |path: &str| {
        kept.iter()
            .any(|kept| path == *kept || path.starts_with(&format!("{kept}.")))
    };
    for difference in vmstate::state::diff(&section.value, expected) {
        let path = difference.path.described().to_string();
        if !is_kept(&path) {
            let shown = |value: Option<Value>| value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
            let (here, new) = (shown(difference.left), shown(difference.right));
            return Err(format!(
                "after a reset, {path} of {} is {here}, and {new} in a new one",
                section.path
            ));
        }
    }
    Ok(())
}

/// Damaged sections for one object, one after the other.
struct Attack<'a> {
    rig: &'a Rig,
    /// Where is loaded what was made of damage.
    spare: Rig,
    /// What the rig's state is.
    now: Saved,
}

impl Attack<'_> {
    /// Loads the state with other bytes in one section; says whether it was refused.
    fn load(&mut self, index: usize, damaged: Vec<u8>, random: &mut Random) -> Result<bool, String> {
        let mut bytes = all_bytes(&self.now)?;
        bytes[index] = damaged;
        let lines = self.rig.outside();
        match self.rig.load_bytes(&self.now, bytes) {
            // The object has been touched, and its tree is to be dropped; here it is put back.
            Err(LoadTreeError::Hook { .. }) => {
                self.rig.load(&self.now)?;
                Ok(true)
            }
            Err(error) => {
                let refused = format!("refused ({error}), and yet something has changed");
                expect_same(&refused, &self.now, &self.rig.save()?)?;
                if self.rig.outside() != lines {
                    return Err(refused);
                }
                Ok(true)
            }
            Ok(()) => {
                let loaded = self.rig.save()?;
                self.spare.load(&loaded)?;
                expect_same(
                    "damage that was loaded does not come out again",
                    &loaded,
                    &self.spare.save()?,
                )?;
                // Whatever a guest does to it now must not be too much for it.
                self.spare.run(0, &program(&self.spare.ground(), 4, random));
                self.now = loaded;
                Ok(false)
            }
        }
    }
}

fn all_bytes(saved: &Saved) -> Result<Vec<Vec<u8>>, String> {
    saved.iter().map(SavedSection::bytes).collect()
}

fn expect_same(what: &str, one: &Saved, other: &Saved) -> Result<(), String> {
    if one == other && all_bytes(one)? == all_bytes(other)? {
        return Ok(());
    }
    let differing = one.iter().zip(other).filter(|(one, other)| one != other);
    let lines = differing.flat_map(|(one, other)| {
        let fields = vmstate::state::diff(&one.value, &other.value);
        fields.into_iter().map(|field| format!("{}: {field}", one.path))
    });
    let lines: Vec<_> = lines.collect();
    Err(format!("{what}: {}", lines.join("; ")))
}

/// Whether a state may be saved without a part that was loaded, because nothing needs it.
fn has_optional(schema: &Schema) -> bool {
    fn in_type(wire: &WireType) -> bool {
        match wire {
            WireType::Array { of, .. } | WireType::Seq { of, .. } | WireType::Map { of, .. } | WireType::Option(of) => {
                in_type(of)
            }
            WireType::Struct(schema) => has_optional(schema),
            _ => false,
        }
    }
    schema
        .subsections
        .iter()
        .any(|subsection| subsection.optional || has_optional(&subsection.schema))
        || schema.live_fields().any(|field| in_type(&field.wire))
}
