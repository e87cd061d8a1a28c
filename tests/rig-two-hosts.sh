#!/usr/bin/env bash
# Two hosts that are not alike: guests move between two emulated machines (tools/rig) with unlike processors and host kernels,
# under a model that both have, there and back; and what one host cannot hold it refuses by name, the source untouched.
# Takes about ten minutes and two processors, and is therefore no part of .ci/run; run it when something about CPU models,
# under vmm/src/accel/kvm or in migration changes.
#
#   tests/rig-two-hosts.sh                      builds vm, and checks it with Debian's kernel as tests/rig-linux.sh does
#   tests/rig-two-hosts.sh VM KERNEL INITRD     checks these
#   tests/rig-two-hosts.sh --embedded [VM]      the same with the guest that is built in: quicker
#
# CPU_ONE, CPU_TWO, KERNEL_ONE and KERNEL_TWO choose other hosts. The exit status is 0 if all went well.
set -euo pipefail
script=$(realpath "$0")
here=$(dirname "$script")
# shellcheck source-path=SCRIPTDIR
. "$here/rig/checks.sh"
# shellcheck source-path=SCRIPTDIR
. "$here/rig/linux.sh"

# QEMU's emulation does not bring Debian's kernel up as an Opteron_G4 or G5, so the older host is the one before those, with
# their SSE and as many leaves of CPUID.
cpu_one=${CPU_ONE:-Opteron_G3,level=13,+ssse3,+sse4.1,+sse4.2} cpu_two=${CPU_TWO:-EPYC}
# The kernel of Debian's release, and the newest of those that are backported to it.
kernel_one=${KERNEL_ONE:-} kernel_two=${KERNEL_TWO:-}

# --- what the two sides tell each other, by files in a folder that both see ---

tell() {
	printf '%s\n' "${2:-}" >"$shared/.$me.$1"
	mv "$shared/.$me.$1" "$shared/$me.$1"
}

# hear WHAT: what the other side tells, in $heard
hear() {
	local end=$((SECONDS + 4 * patience))
	# No news comes from such a folder: one has to look.
	until [ -e "$shared/$other.$1" ]; do
		[ ! -e "$shared/failed" ] || die "the other host has failed"
		[ "$SECONDS" -lt "$end" ] || die "the other host does not tell '$1'"
		sleep 1
	done
	heard=$(<"$shared/$other.$1")
}

# --- what the guest is ---

begins() {
	local name=$1 model=$2
	if [ -n "${kernel:-}" ]; then
		boots "$name" 2 "$smpcheck" --cpu "$model"
		checks_itself "$name"
	else
		# The emulated machine loses AVX by itself.
		start "$name" run --cpu "$model" --cpus 2 --memory 64M --cmdline 'mib=24 beat=200 avx=0 dirty=8 rate=max'
		await "$name" '^tern-guest: ready'
		await "$name" '^beat '
		verify "$name"
	fi
}

# arrives NAME STEP: waits for a guest at an address that the other side is told
arrives() {
	local uri
	# Each kernel measures the speed of the emulated TSC for itself, and not very well.
	start "$1" receive "tcp:$address:0" --allow-remote --allow-tsc-mismatch
	until uri=$(grep -m 1 '^tcp:' "$1.said"); do
		kill -0 "${pid[$1]}" 2>/dev/null || die "$1 does not listen: $(cat "$1.said")"
		sleep 1
	done
	tell "$2" "$uri"
}

# goes NAME STEP: to the address that the other side tells
goes() {
	hear "$2"
	ask migrate "$1" "$heard" --downtime-limit 60s
	ends "$1"
	tell "$2-beat" "${beat[$1]}"
}

# came NAME STEP: the guest that the other side has sent goes on here, and was not booted anew on the way
came() {
	hear "$2-beat"
	beat[$1]=$heard
	goes_on "$1"
}

goes_on() {
	if [ -n "${kernel:-}" ]; then
		checks_itself "$1"
	else
		await "$1" '^beat '
		verify "$1"
	fi
}

# --- the checks: each side runs them in the same order ---

# Each tells what it has, and both come to the same processor.
baseline() {
	ask cpu show host --json >offer.json
	tell offer "$(cat offer.json)"
	hear offer
	printf '%s\n' "$heard" >their.json
	ask cpu baseline offer.json their.json | tee /dev/stderr | tail -n 1 | sed 's/^vm run --cpu //' >cpu
	ask cpu check "$(cat cpu)"
	tell shared "$(cat cpu)"
	hear shared
	[ "$heard" = "$(cat cpu)" ] || die "one host says $(cat cpu), the other $heard"
	cp cpu "$shared/$me.cpu"
	if [ "$me" = two ]; then
		# The hosts are unlike indeed.
		grep -q '"avx2"' offer.json || die "this host lacks AVX2"
		! grep -q '"avx2"' their.json || die "the other host has AVX2"
	fi
}

# there_and_back STEP MODEL
there_and_back() {
	local model=$2
	[ "$model" != shared ] || model=$(<"$shared/one.cpu")
	if [ "$me" = one ]; then
		begins a "$model"
		goes a "$1-there"
		arrives c "$1-back"
		came c "$1-back"
		ask quit c
		ends c
	else
		arrives b "$1-there"
		came b "$1-there"
		goes b "$1-back"
	fi
	tell "$1-done"
	hear "$1-done"
}

# refused STEP MODEL FEATURE...: the second host's guest cannot go to the first, and nothing has happened to it
refused() {
	local step=$1 model=$2 status=0 feature
	shift 2
	if [ "$me" = two ]; then
		begins d "$model"
		hear "$step"
		ask migrate d "$heard" 2>d.refusal || status=$?
		cat d.refusal
		[ "$status" = 4 ] || die "vm migrate ended with status $status, not 4"
		for feature in "$@"; do
			grep -q "$feature (CPUID " d.refusal || die "$feature is not named"
		done
		[ "$(ask info d --json | sed 's/.*"state":"\([^"]*\)".*/\1/')" = running ] || die 'the source does not run'
		goes_on d
		ask quit d
		ends d
	else
		arrives e "$step"
		# A receiver that has refused ends.
		wait "${pid[e]}" || status=$?
		cat e.said
		[ "$status" = 1 ] || die "vm receive ended with status $status, not 1"
	fi
	tell "$step-done"
	hear "$step-done"
}

checks=(
	'baseline'
	'there_and_back level2 x86-64-v2'
	'there_and_back common shared'
	'refused feature x86-64-v2,+smep,+fsgsbase smep fsgsbase'
	'refused hosts host avx2 bmi1 smep'
)

# --- where they run ---

if [ "${1:-}" = --inside ]; then
	me=$2 shared=$3 release=$4 vm=$5 kernel=${6:-} initrd=${7:-}
	case $me in
	one) other=two address=192.0.2.1 ;;
	two) other=one address=192.0.2.2 ;;
	esac
	ledger=$shared/$me.ledger
	touch "$ledger"
	watch_emulator
	runs_kernel "$release"
	echo "host $me: $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
	trap 'grep -q ^FAILED "$ledger" && touch "$shared/failed"' EXIT
	for check in "${checks[@]}"; do
		CHECKS="^$check\$"
		CHECKS=${CHECKS//+/\\+} run_checks 2>&1 | cat
		! grep ^FAILED "$ledger" || exit 1
	done
	exit
fi
cd "$here/.."
guest=linux
if [ "${1:-}" = --embedded ]; then guest=embedded && shift; fi
if [ $# -gt 0 ]; then
	mapfile -t programs <<<"$(realpath "$@")"
else
	cargo build --release -p vmm --bin vm
	programs=("$PWD/target/release/vm")
	if [ "$guest" = linux ]; then
		files=$(tests/rig/linux-guest "${GUEST_KERNEL:-}")
		mapfile -t -O 1 programs <<<"$files"
	fi
fi
case $guest:${#programs[@]} in embedded:1 | linux:3) ;; *)
	echo 'usage: rig-two-hosts.sh [VM KERNEL INITRD | --embedded [VM]]' >&2
	exit 2
	;;
esac
newest() { apt-cache search --names-only "^linux-image-$1\\.[0-9.]+(\\+deb[0-9]+)?-amd64\$" | sort -V | tail -n 1 | cut -d ' ' -f 1; }
kernel_two=${kernel_two:-$(newest 6.12)}
[ -n "$kernel_two" ] || {
	echo 'apt knows no kernel 6.12: add "deb http://deb.debian.org/debian bookworm-backports main" to its sources, or set KERNEL_TWO' >&2
	exit 1
}
release_one=$(release_of "$kernel_one") release_two=$(release_of "$kernel_two")
case ${KERNEL_ONE-}${KERNEL_TWO-}:$release_one:$release_two in
:6.1.*:6.12.* | ?*:*) ;;
*)
	echo "the two hosts would run $release_one and $release_two, not 6.1 and 6.12" >&2
	exit 1
	;;
esac
shared=$(mktemp -d)
trap 'rm -rf "$shared"' EXIT
# A kernel does not trust the emulated TSC by itself, and then kvmclock promises no order between vCPUs; how far they come apart
# depends on how badly the kernel has measured the TSC. It is one for all emulated processors.
host() {
	local rc=0 release=release_$1
	tools/rig --wire "$shared/wire,$2" --cpu "$3" --kernel "$4" --append tsc=reliable --cpus 2 --timeout 3600 --share "$shared" -- \
		"$script" --inside "$1" "$shared" "${!release}" "${programs[@]}" 2>&1 | sed -u "s/^/$1: /" || rc=$?
	# The other one need not wait for this one any more.
	[ "$rc" = 0 ] || touch "$shared/failed"
	return "$rc"
}
# Now and then an emulated machine comes to a stop, see run_at. Then both begin anew with what not both have done.
for boot in 1 2 3; do
	one=0 two=0
	host one 192.0.2.1 "$cpu_one" "$kernel_one" &
	first=$!
	# Its kernel is fetched, if need be, before it offers the wire.
	until [ -S "$shared/wire" ] || ! kill -0 "$first" 2>/dev/null; do sleep 1; done
	host two 192.0.2.2 "$cpu_two" "$kernel_two" || two=$?
	wait "$first" || one=$?
	[[ " $one $two " =~ ' '12[45]' ' ]] || break
	# What one host has found stays found, whatever the other one's emulator did.
	! grep -h '^FAILED: ' "$shared"/*.ledger || break
	echo "an emulated machine has not come to the end (statuses $one and $two, boot $boot)" >&2
	grep -h '^set aside: ' "$shared"/*.ledger || true
	done_by_both=$(cat "$shared"/*.ledger | { grep '^ok: ' || true; } | sort | uniq -d)
	find "$shared" -mindepth 1 ! -name '*.cpu' -delete
	tee "$shared/one.ledger" >"$shared/two.ledger" <<<"$done_by_both"
done
cat "$shared"/*.ledger
[ "$(grep -c '^ok: ' "$shared/one.ledger")" = ${#checks[@]} ] && [ "$one$two" = 00 ] && echo 'all went well on both hosts'
