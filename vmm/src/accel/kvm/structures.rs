//! What KVM is given for a described state, as bytes: what a release saved has to reach the same places of KVM's structures for ever.
//!
//! Nothing here talks to KVM. The rows of [`super::state`] use the same conversions.

use hw::i386::cpu_state::CpuState;
use hw::i386::cpuid::{CpuidEntry, CpuidTable, LEAF_XSAVE};
use hw::i386::msr;
use hw::i386::xsave::{XsaveError, XsaveLayout};
use hw::intc::apic::ApicState;
use hw::intc::i8259::I8259State;
use hw::intc::ioapic::IoapicState;
use hw::timer::i8254::I8254State;
use kvm_bindings::{kvm_lapic_state, kvm_sregs2};
use vmstate::state::{StructValue, VmState};
use zerocopy::IntoBytes;

use super::{apic, cpu, cpu_events, i8254, i8259, ioapic};

/// A structure or register by its name in KVM's headers, with its bytes.
pub type Structure = (String, Vec<u8>);

/// Where each component lies in the XSAVE area that is shown: number, size, offset. It is that of Intel's processors; any would do.
const XSAVE_LAYOUT: [(u32, u32, u32); 7] = [
    (2, 0x100, 0x240),
    (5, 0x40, 0x440),
    (6, 0x200, 0x480),
    (7, 0x400, 0x680),
    (9, 8, 0xa80),
    (17, 0x40, 0xac0),
    (18, 0x2000, 0xb00),
];

/// Why a state becomes no structures.
#[derive(Debug, thiserror::Error)]
pub enum StructuresError {
    /// The value is of another description.
    #[error("it is no state of {0}")]
    OtherState(String),
    /// Its components have no room.
    #[error(transparent)]
    Xsave(#[from] XsaveError),
}

/// The structures that a state becomes which `description` describes, as this program does; none for what KVM does not hold.
///
/// # Errors
///
/// The state is none of that description.
pub fn structures(description: &str, state: &StructValue) -> Result<Vec<Structure>, StructuresError> {
    fn read<S: VmState>(description: &str, state: &StructValue) -> Result<S, StructuresError> {
        S::from_value(state).map_err(|_| StructuresError::OtherState(description.to_owned()))
    }
    Ok(match description {
        "i8254-common" => {
            let state: I8254State = read(description, state)?;
            named([("kvm_pit_state2", i8254::state_to(&state).as_bytes().to_vec())]).collect()
        }
        "i8259-common" => {
            let state: I8259State = read(description, state)?;
            let [primary, secondary] = i8259::state_to(&state);
            named([
                ("kvm_pic_state of the primary", primary.as_bytes().to_vec()),
                ("kvm_pic_state of the secondary", secondary.as_bytes().to_vec()),
            ])
            .collect()
        }
        "ioapic-common" => {
            let state: IoapicState = read(description, state)?;
            let (ioapic, redirection) = ioapic::state_to(&state);
            named([
                ("kvm_ioapic_state", ioapic.as_bytes().to_vec()),
                ("kvm_ioapic_state.redirtbl", redirection.as_bytes().to_vec()),
            ])
            .collect()
        }
        "apic-common" => {
            let state: ApicState = read(description, state)?;
            let page = |x2apic| {
                let mut page = kvm_lapic_state::default();
                apic::fill(&mut page, &state, x2apic);
                page.as_bytes().to_vec()
            };
            named([
                ("kvm_lapic_state", page(false)),
                ("kvm_lapic_state in x2APIC mode", page(true)),
                ("IA32_TSC_DEADLINE", state.tsc_deadline.to_le_bytes().to_vec()),
            ])
            .collect()
        }
        "x86-cpu" => of_cpu(&read(description, state)?)?,
        _ => Vec::new(),
    })
}

fn of_cpu(state: &CpuState) -> Result<Vec<Structure>, StructuresError> {
    // Taken apart so that a new part does not compile until it is shown here.
    let CpuState {
        general,
        system,
        debug,
        xcr0,
        xsave,
        msrs,
        events,
        mp_state,
    } = state;
    let component = |(number, size, offset)| CpuidEntry {
        eax: size,
        ebx: offset,
        ..CpuidEntry::new(LEAF_XSAVE, number)
    };
    let layout = XsaveLayout::of_host(&CpuidTable::new(XSAVE_LAYOUT.map(component)));
    let (_, size, offset) = XSAVE_LAYOUT[XSAVE_LAYOUT.len() - 1];
    let mut area = vec![0; usize::try_from(size + offset).unwrap_or(usize::MAX)];
    layout.put_together(xsave, &mut area)?;
    let msrs = msr::MSRS
        .iter()
        .map(|row| (format!("MSR {:#x}", row.index), (row.get)(msrs).to_le_bytes().to_vec()));
    Ok(named([
        ("kvm_regs", cpu::general_to(general).as_bytes().to_vec()),
        ("kvm_sregs2", bytes_of(&cpu::system_to(system))),
        ("kvm_debugregs", cpu::debug_to(debug).as_bytes().to_vec()),
        ("XCR0", xcr0.to_le_bytes().to_vec()),
        ("kvm_xsave", area),
        ("kvm_vcpu_events", cpu_events::events_to(events).as_bytes().to_vec()),
        (
            "kvm_mp_state",
            cpu_events::mp_state_to(*mp_state).to_le_bytes().to_vec(),
        ),
    ])
    .chain(msrs)
    .collect())
}

fn named<const N: usize>(structures: [(&str, Vec<u8>); N]) -> impl Iterator<Item = Structure> {
    structures.into_iter().map(|(name, bytes)| (name.to_owned(), bytes))
}

/// kvm-bindings has this one without the trait.
fn bytes_of(sregs: &kvm_sregs2) -> Vec<u8> {
    let kvm_sregs2 {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        flags,
        pdptrs,
    } = sregs;
    let segments = [cs, ds, es, fs, gs, ss, tr, ldt].into_iter().map(IntoBytes::as_bytes);
    let tables = [gdt, idt].into_iter().map(IntoBytes::as_bytes);
    let numbers = [cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags]
        .into_iter()
        .chain(pdptrs);
    let parts = segments.chain(tables).chain(numbers.map(IntoBytes::as_bytes));
    parts.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde_json::{Value as Json, json};

    use super::*;

    /// Where the numbers and flags of a state are.
    fn leaves(json: &Json, place: &str, found: &mut Vec<String>) {
        match json {
            Json::Object(members) => members
                .iter()
                .for_each(|(name, member)| leaves(member, &format!("{place}/{name}"), found)),
            Json::Array(members) => members
                .iter()
                .enumerate()
                .for_each(|(index, member)| leaves(member, &format!("{place}/{index}"), found)),
            _ => found.push(place.to_owned()),
        }
    }

    /// Each field alone is another, so that two that are exchanged on the way back do not stand for each other.
    #[track_caller]
    fn comes_back<S: VmState + Default + Debug + PartialEq>(way: impl Fn(&S) -> S, left_out: &[&str]) {
        let new = S::default().to_value().to_json();
        let mut places = Vec::new();
        leaves(&new, "", &mut places);
        places.retain(|place| !left_out.contains(&place.as_str()));
        assert!(places.len() > 20, "{places:?}");
        for place in places {
            let mut other = new.clone();
            let leaf = other.pointer_mut(&place).expect("it was found");
            *leaf = match leaf {
                Json::Bool(value) => json!(!*value),
                Json::Number(value) => json!(value.as_u64().expect("unsigned") ^ 1),
                leaf => panic!("{place}: {leaf}"),
            };
            let value = StructValue::from_json(S::schema(), &other).expect(&place);
            let state = S::from_value(&value).expect(&place);
            assert_eq!(way(&state), state, "{place}");
        }
    }

    #[test]
    fn each_field_of_the_chips_comes_back_from_kvms_structure() {
        comes_back(|state: &I8254State| i8254::state_of(&i8254::state_to(state)), &[]);
        let back = |state: &I8259State| {
            let [primary, secondary] = i8259::state_to(state);
            I8259State {
                primary: i8259::chip_of(&primary),
                secondary: i8259::chip_of(&secondary),
            }
        };
        comes_back(back, &[]);
        let back = |state: &ApicState| {
            let mut page = kvm_lapic_state::default();
            apic::fill(&mut page, state, false);
            apic::state_of(&page, false)
        };
        // A register of its own.
        comes_back(back, &["/tsc_deadline"]);
    }
}
