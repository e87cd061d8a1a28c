#!/usr/bin/env bash
# A distribution's own kernel as the guest of Tern, on the stock kvm_amd module: Debian's vmlinuz with an initramfs and two
# processors, on an emulated machine with Debian's kernel (tools/rig). Takes about ten minutes and is therefore no part of
# .ci/run; run it when something under vmm/src/accel/kvm, vmm/src/boot, hw/src/i386 or hw/src/acpi changes.
#
#   tests/rig-linux.sh                            builds vm and the guest's initramfs, and checks them
#   tests/rig-linux.sh VM KERNEL INITRD           checks these, as tests/rig/linux-guest makes them
#   tests/rig-linux.sh --here VM KERNEL INITRD    the same checks on this machine's own /dev/kvm
#
# CHECKS=REGEX picks checks by name, TIMES=N does each N times. GUEST_KERNEL and HOST_KERNEL choose other packages of Debian's
# than the one of its release (linux-image-6.12.*-amd64 from its backports). The exit status is 0 if all went well.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
# shellcheck source-path=SCRIPTDIR
. "$here/rig/checks.sh"
# shellcheck source-path=SCRIPTDIR
. "$here/rig/linux.sh"

# The rig's emulated processor keeps no AVX registers, but whatever else XSAVE brings. (The kernel of tools/guest-linux does without.)
model=x86-64-v2,+xsave
counts="rounds timers mails ${WITHOUT_XSAVE-xsaves}"

# --- the checks ---

# A kernel that is told nothing but its console says how it found its machine.
boots_and_switches_off() {
	start a run --kernel "$kernel" --initrd "$initrd" --cpus "$1" --memory 256M \
		--cmdline 'console=ttyS0 tern.run=off tern.end=poweroff'
	await a '^GUEST-READY'
	await a 'reboot: Power down'
	ends a
	grep -q 'Using ACPI (MADT) for SMP configuration information' a.transcript || die 'the kernel has found no MADT'
	grep -q 'clocksource: Switched to clocksource kvm-clock' a.transcript || die 'the kernel does not use kvmclock'
	grep -Eq "smp: Brought up 1 node, $1 CPU|SMP disabled" a.transcript || die "the kernel has not found $1 processors"
	grep -q 'ttyS0 at I/O 0x3f8 (irq = [0-9]*,.* is a 16550A' a.transcript || die 'the kernel has found no serial port'
}

# Without ACPI it goes by the MP table.
boots_by_the_mp_table() {
	start a run --kernel "$kernel" --initrd "$initrd" --cpus 2 --memory 256M --cmdline 'console=ttyS0 acpi=off tern.run=off'
	await a '^GUEST-READY'
	await a 'reboot: Restarting system'
	await a '^GUEST-READY'
	killed a
	grep -q 'smp: Brought up 1 node, 2 CPU' a.transcript || die 'the kernel has not found 2 processors'
}


# The life of a guest: saved, restored, moved three times, restarted from inside, switched off.
life() {
	boots a 2 "$smpcheck tern.end=poweroff" --cpu "$model"
	checks_itself a
	snapshot a a.tern
	checks_itself a
	restores a b a.tern
	checks_itself b
	moves_on b c tcp:127.0.0.1:0
	moves_on c d "unix:$PWD/d.migrate"
	moves_on d e tcp:127.0.0.1:0
	rm a.tern
	# It boots from what came with it.
	type_keys e r
	await e '^GUEST-READY'
	checks_itself e
	type_keys e q
	await e 'reboot: Power down'
	ends e
}

# moves_on FROM TO URI: a live migration, after which the guest goes on with every kind of check
moves_on() {
	moves "$@"
	checks_itself "$2"
}

# The kernel's own driver of pvpanic finds the device by ACPI, and tells of the crash.
panics() {
	boots a 2 "$quiet tern.run=/bin/crash"
	bad=' BAD |BUG:|Oops|WARNING:'
	await a '^crash: events [0-9a-f]+$'
	listen a
	type_keys a $'\n'
	await a 'Kernel panic - not syncing: sysrq triggered crash'
	heard a GUEST_PANICKED
	ends a 6
	grep -q 'reported a panic' a.said || die "$(cat a.said)"
}

checks=('boots_and_switches_off 2' 'boots_and_switches_off 1' 'boots_by_the_mp_table' 'panics' 'life')

cd "$here/.."
where=rig
case ${1:-} in --here | --inside) where=${1#--} && shift ;; esac
if [ $# -gt 0 ]; then
	mapfile -t files <<<"$(realpath "$@")"
else
	cargo build --release -p vmm --bin vm
	guest=$(tests/rig/linux-guest "${GUEST_KERNEL:-}")
	mapfile -t files <<<"$PWD/target/release/vm"$'\n'"$guest"
fi
vm=${files[0]} kernel=${files[1]} initrd=${files[2]}
run_at "$where" "$PWD/tests/rig-linux.sh" "${files[@]}"
