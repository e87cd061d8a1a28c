//! Whether a guest's TSC can count on here at its speed.

use hw::i386::cpuid::LEAF_FREQUENCIES;
use hw::timer::clock::{HostTsc, TscPolicy};
use migration::vm::{CpuModel, Finding, PreflightReport};

use crate::accel::Accelerator;

/// How guests' TSCs count under `accelerator`.
pub(super) fn here(accelerator: &dyn Accelerator) -> HostTsc {
    HostTsc {
        khz: accelerator.tsc_khz(),
        scales: accelerator.tsc_scales(),
    }
}

/// Compares the speed of a guest's TSC with what the host `here` gives.
pub(super) fn check(policy: TscPolicy, here: HostTsc, guest: &CpuModel, report: &mut PreflightReport) {
    let there = guest.tsc_khz;
    if there == u64::from(here.khz) || there == 0 || here.khz == 0 {
        return;
    }
    let (findings, because) = if here.counts_at(there) {
        let because = format!(
            "the guest's TSC counts at {there} kHz and this host's at {} kHz, which is made up for",
            here.khz
        );
        (&mut report.notes, because)
    } else if policy == TscPolicy::Tolerate {
        let because = format!(
            "the guest's TSC counted at {there} kHz and goes on at this host's {} kHz, as was asked for",
            here.khz
        );
        (&mut report.notes, because)
    } else {
        let because = format!(
            "the guest's TSC counts at {there} kHz; this host's counts at {} kHz and cannot be scaled, so that a guest \
             which keeps time by its TSC would keep it wrongly (--allow-tsc-mismatch takes it all the same)",
            here.khz
        );
        (&mut report.refusals, because)
    };
    findings.push(Finding {
        subject: "tsc".to_owned(),
        because,
    });
}

/// Enters with a guest that is taken at this host's speed what its TSC counts at from now on: for the next host, and for
/// what it is told when it boots again.
pub(super) fn adopt(here: HostTsc, guest: &mut CpuModel) {
    if here.khz == 0 || guest.tsc_khz == 0 || here.counts_at(guest.tsc_khz) {
        return;
    }
    guest.tsc_khz = here.khz.into();
    if let Some(told) = guest.cpuid.iter_mut().find(|entry| entry.function == LEAF_FREQUENCIES) {
        told.registers[0] = here.khz;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration::vm::CpuidEntry;

    const HERE: HostTsc = HostTsc {
        khz: 2_000_000,
        scales: false,
    };
    const SCALING: HostTsc = HostTsc { scales: true, ..HERE };

    fn guest(tsc_khz: u32) -> CpuModel {
        CpuModel {
            name: "x86-64-v1-1".to_owned(),
            tied_to_host: false,
            cpuid: vec![CpuidEntry {
                function: LEAF_FREQUENCIES,
                index: 0,
                indexed: false,
                registers: [tsc_khz, 1_000_000, 0, 0],
            }],
            tsc_khz: tsc_khz.into(),
        }
    }

    fn checked(policy: TscPolicy, here: HostTsc, khz: u32) -> PreflightReport {
        let mut report = PreflightReport::default();
        check(policy, here, &guest(khz), &mut report);
        report
    }

    #[test]
    fn another_frequency_is_refused_with_both_named_where_it_cannot_be_given() {
        let refused = checked(TscPolicy::Keep, HERE, 2_600_000);
        let because = refused.to_string();
        assert!(
            because.contains("2600000 kHz")
                && because.contains("2000000 kHz")
                && because.contains("--allow-tsc-mismatch"),
            "{because}"
        );
    }

    #[test]
    fn what_is_made_up_for_or_asked_for_is_noted() {
        assert_eq!(checked(TscPolicy::Keep, HERE, 2_000_000), PreflightReport::default());
        for (policy, here, khz) in [
            (TscPolicy::Keep, SCALING, 2_600_000),
            // 250 ppm apart.
            (TscPolicy::Keep, HERE, 2_000_500),
            (TscPolicy::Tolerate, HERE, 2_600_000),
        ] {
            let report = checked(policy, here, khz);
            assert!(report.accepts() && report.notes.len() == 1, "{here:?} {khz}");
        }
    }

    #[test]
    fn a_guest_that_was_taken_at_another_speed_has_that_speed() {
        let mut taken = guest(2_600_000);
        adopt(HERE, &mut taken);
        assert_eq!((taken.tsc_khz, taken.cpuid[0].registers[0]), (2_000_000, 2_000_000));
        for here in [SCALING, HostTsc { khz: 0, scales: false }] {
            let mut kept = guest(2_600_000);
            adopt(here, &mut kept);
            assert_eq!(kept, guest(2_600_000));
        }
    }
}
