//! The 8259 pair: KVM's structures and the described ones.

use hw::intc::i8259::{I8259Chip, I8259State, PRIMARY_TRIGGER_MASK, SECONDARY_TRIGGER_MASK};
use kvm_bindings::kvm_pic_state;
use vmstate::qom::Object;

use super::super::AccelError;
use super::state::{HeldState, SyncContext};
use super::{ioctl, refused};

/// The 8259 pair under KVM.
#[derive(Object)]
#[object(name = "kvm-i8259", parent = "i8259-common", stateless)]
pub struct KvmI8259 {}

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Result<(), AccelError> {
    let [primary, secondary] =
        ioctl::get_pics(cx.vm.fd()).map_err(|error| refused("to tell the 8259s' registers", error))?;
    state.pic = I8259State {
        primary: chip_of(&primary),
        secondary: chip_of(&secondary),
    };
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    ioctl::set_pics(cx.vm.fd(), state_to(&state.pic)).map_err(|error| refused("the 8259s' registers", error))
}

pub(super) fn state_to(state: &I8259State) -> [kvm_pic_state; 2] {
    let I8259State { primary, secondary } = state;
    [
        chip_to(primary, PRIMARY_TRIGGER_MASK),
        chip_to(secondary, SECONDARY_TRIGGER_MASK),
    ]
}

pub(super) fn chip_of(pic: &kvm_pic_state) -> I8259Chip {
    let kvm_pic_state {
        last_irr,
        irr,
        imr,
        isr,
        priority_add,
        irq_base,
        read_reg_select,
        poll,
        special_mask,
        init_state,
        auto_eoi,
        rotate_on_auto_eoi,
        special_fully_nested_mode,
        init4,
        elcr,
        elcr_mask: _,
    } = *pic;
    I8259Chip {
        last_levels: last_irr,
        requested: irr,
        masked: imr,
        in_service: isr,
        priority_base: priority_add,
        vector_base: irq_base,
        read_in_service: read_reg_select != 0,
        poll: poll != 0,
        special_mask: special_mask != 0,
        init_step: init_state,
        auto_end: auto_eoi != 0,
        rotate_on_auto_end: rotate_on_auto_eoi != 0,
        special_fully_nested: special_fully_nested_mode != 0,
        four_init_words: init4 != 0,
        level_triggered: elcr,
    }
}

fn chip_to(chip: &I8259Chip, elcr_mask: u8) -> kvm_pic_state {
    let I8259Chip {
        last_levels,
        requested,
        masked,
        in_service,
        priority_base,
        vector_base,
        read_in_service,
        poll,
        special_mask,
        init_step,
        auto_end,
        rotate_on_auto_end,
        special_fully_nested,
        four_init_words,
        level_triggered,
    } = *chip;
    kvm_pic_state {
        last_irr: last_levels,
        irr: requested,
        imr: masked,
        isr: in_service,
        priority_add: priority_base,
        irq_base: vector_base,
        read_reg_select: read_in_service.into(),
        poll: poll.into(),
        special_mask: special_mask.into(),
        init_state: init_step,
        auto_eoi: auto_end.into(),
        rotate_on_auto_eoi: rotate_on_auto_end.into(),
        special_fully_nested_mode: special_fully_nested.into(),
        init4: four_init_words.into(),
        elcr: level_triggered,
        elcr_mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_survives_the_way_through_kvms_structure() {
        let chip = I8259Chip {
            masked: 0xfb,
            vector_base: 0x30,
            poll: true,
            init_step: 2,
            ..I8259Chip::default()
        };
        assert_eq!(chip_of(&chip_to(&chip, PRIMARY_TRIGGER_MASK)), chip);
    }
}
