//! The local APIC of each processor, as an accelerator holds it.
//!
//! Left out: the processor priority, which follows from the task priority and what is in service; the version, which
//! follows from the model; the TSC deadline's own state beyond its register.

use parking_lot::Mutex;
use vmstate::qom::Object;
use vmstate::state::VmState;

/// A vCPU's local APIC. Its state is the accelerator's while the guest runs, and is read into the object when it is paused.
#[derive(Object)]
#[object(name = "apic-common", parent = "device", abstract)]
pub struct Apic {
    #[state]
    state: Mutex<ApicState>,
}

impl Apic {
    /// The registers, as of the last pause or load.
    #[must_use]
    pub fn state(&self) -> &Mutex<ApicState> {
        &self.state
    }
}

/// The registers of a local APIC.
#[derive(VmState, Clone, Debug, PartialEq)]
#[vmstate(name = "apic")]
pub struct ApicState {
    /// The APIC's id, which in xAPIC mode software may change.
    pub id: u32,
    /// The task priority. CR8 shows its upper half.
    pub task_priority: u32,
    /// Which logical destinations it answers to.
    pub logical_destination: u32,
    /// How logical destinations are meant: flat or by cluster.
    pub destination_format: u32,
    /// The spurious vector, and the software switch of the APIC.
    pub spurious_vector: u32,
    /// Interrupts being served, a bit per vector.
    pub in_service: [u32; 8],
    /// Interrupts that are level-triggered, a bit per vector.
    pub trigger_mode: [u32; 8],
    /// Interrupts that wait to be served, a bit per vector.
    pub requested: [u32; 8],
    /// What went wrong since software last looked.
    pub error_status: u32,
    /// The interprocessor interrupt that was sent last: the vector and how it is delivered.
    pub command_low: u32,
    /// The interprocessor interrupt that was sent last: its destination.
    pub command_high: u32,
    /// How the timer interrupts.
    pub lvt_timer: u32,
    /// How the thermal sensor interrupts.
    pub lvt_thermal: u32,
    /// How the performance counters interrupt.
    pub lvt_performance: u32,
    /// What the LINT0 pin does.
    pub lvt_lint0: u32,
    /// What the LINT1 pin does.
    pub lvt_lint1: u32,
    /// How errors interrupt.
    pub lvt_error: u32,
    /// How corrected machine checks interrupt.
    pub lvt_corrected: u32,
    /// What the timer counts down from.
    pub timer_initial: u32,
    /// Where the timer's count is.
    pub timer_current: u32,
    /// What the timer's clock is divided by.
    pub timer_divide: u32,
    /// The TSC value at which the timer interrupts in TSC-deadline mode, zero if disarmed.
    pub tsc_deadline: u64,
}

/// The masked state of an entry of the local vector table.
const LVT_MASKED: u32 = 1 << 16;

impl Default for ApicState {
    fn default() -> Self {
        Self::reset(0, false)
    }
}

impl ApicState {
    /// The state after reset of the APIC with `id`. The bootstrap processor's takes interrupts of the 8259 through
    /// LINT0 from the start, as the platform's wiring has it.
    #[must_use]
    pub fn reset(id: u32, bootstrap: bool) -> Self {
        const EXTERNAL_INTERRUPT: u32 = 7 << 8;
        Self {
            id,
            task_priority: 0,
            logical_destination: 0,
            destination_format: 0xffff_ffff,
            spurious_vector: 0xff,
            in_service: [0; 8],
            trigger_mode: [0; 8],
            requested: [0; 8],
            error_status: 0,
            command_low: 0,
            command_high: 0,
            lvt_timer: LVT_MASKED,
            lvt_thermal: LVT_MASKED,
            lvt_performance: LVT_MASKED,
            lvt_lint0: if bootstrap { EXTERNAL_INTERRUPT } else { LVT_MASKED },
            lvt_lint1: LVT_MASKED,
            lvt_error: LVT_MASKED,
            // There are no machine checks, so the entry does not exist and reads as zero.
            lvt_corrected: 0,
            timer_initial: 0,
            timer_current: 0,
            timer_divide: 0,
            tsc_deadline: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_masked_after_reset_but_for_the_wire_from_the_8259() {
        let state = ApicState::reset(1, false);
        assert_eq!(
            (state.id, state.lvt_lint0, state.lvt_timer),
            (1, LVT_MASKED, LVT_MASKED)
        );
        assert_eq!(ApicState::reset(0, true).lvt_lint0, 0x700);
    }
}
