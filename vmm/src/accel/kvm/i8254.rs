//! The 8254: KVM's structure and the described one.

use hw::timer::i8254::{I8254Channel, I8254State};
use kvm_bindings::{KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON, kvm_pit_channel_state, kvm_pit_state2};
use vmstate::qom::Object;

use super::super::AccelError;
use super::refused;
use super::state::{HeldState, SyncContext};

/// The 8254 under KVM.
#[derive(Object)]
#[object(name = "kvm-i8254", parent = "i8254-common", stateless)]
pub struct KvmI8254 {}

pub(super) fn read(cx: &SyncContext<'_>, state: &mut HeldState) -> Result<(), AccelError> {
    let pit = cx
        .vm
        .fd()
        .get_pit2()
        .map_err(|error| refused("to tell the 8254's registers", error))?;
    state.pit = state_of(&pit);
    Ok(())
}

pub(super) fn write(cx: &SyncContext<'_>, state: &HeldState) -> Result<(), AccelError> {
    cx.vm
        .fd()
        .set_pit2(&state_to(&state.pit))
        .map_err(|error| refused("the 8254's registers", error))
}

pub(super) fn state_of(pit: &kvm_pit_state2) -> I8254State {
    I8254State {
        channels: pit.channels.map(channel_of),
        speaker: pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0,
        replaced: pit.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0,
    }
}

pub(super) fn state_to(state: &I8254State) -> kvm_pit_state2 {
    let I8254State {
        channels,
        speaker,
        replaced,
    } = state;
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    kvm_pit_state2 {
        channels: [
            channel_to(&channels[0]),
            channel_to(&channels[1]),
            channel_to(&channels[2]),
        ],
        flags: flag(*speaker, KVM_PIT_FLAGS_SPEAKER_DATA_ON) | flag(*replaced, KVM_PIT_FLAGS_HPET_LEGACY),
        ..Default::default()
    }
}

fn channel_of(channel: kvm_pit_channel_state) -> I8254Channel {
    let kvm_pit_channel_state {
        count,
        latched_count,
        count_latched,
        status_latched,
        status,
        read_state,
        write_state,
        write_latch,
        rw_mode,
        mode,
        bcd,
        gate,
        // Host time, which KVM stamps anew whenever the channel is written.
        count_load_time: _,
    } = channel;
    I8254Channel {
        count,
        latched_count,
        count_latched,
        status_latched: status_latched != 0,
        status,
        read_state,
        write_state,
        write_latch,
        access_mode: rw_mode,
        mode,
        bcd: bcd != 0,
        gate: gate != 0,
    }
}

fn channel_to(channel: &I8254Channel) -> kvm_pit_channel_state {
    let I8254Channel {
        count,
        latched_count,
        count_latched,
        status_latched,
        status,
        read_state,
        write_state,
        write_latch,
        access_mode,
        mode,
        bcd,
        gate,
    } = *channel;
    kvm_pit_channel_state {
        count,
        latched_count,
        count_latched,
        status_latched: status_latched.into(),
        status,
        read_state,
        write_state,
        write_latch,
        rw_mode: access_mode,
        mode,
        bcd: bcd.into(),
        gate: gate.into(),
        count_load_time: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_survives_the_way_through_kvms_structure() {
        let mut state = I8254State {
            speaker: true,
            ..I8254State::default()
        };
        state.channels[2] = I8254Channel {
            count: 1193,
            mode: 3,
            gate: true,
            write_latch: 7,
            ..I8254Channel::default()
        };
        assert_eq!(state_of(&state_to(&state)), state);
    }
}
