#!/usr/bin/env bash
# Tern on the stock kvm_amd module, from which the KVM of a development machine may be far: what a user does with `vm`,
# the unit tests of the KVM accelerator, and that it holds what was loaded, on an emulated machine with Debian's kernel
# (tools/rig, which says what it needs). Takes three to ten minutes and is therefore no part of .ci/run; run it when
# something under vmm/src/accel/kvm, hw/src/i386 or vmm/guest changes.
#
#   tests/rig.sh                       builds vm and the tests that are of interest, and checks them
#   tests/rig.sh VM [TESTS...]         checks these (TESTS are programs that `cargo test --no-run` makes)
#   tests/rig.sh --here VM [TESTS...]  the same checks on this machine's own /dev/kvm
#
# CHECKS=REGEX picks checks by name. The exit status is 0 if all went well.
set -euo pipefail

# Seconds that one line of a guest may take: far more than it does, because everything is emulated there.
patience=300
# A guest that checks itself: 24 MiB of pages with known contents. (The emulated machine loses AVX by itself.)
idle='mib=24 beat=200 avx=0'
# The same, and a third of the pages are written over and over.
dirtying="$idle dirty=8 rate=max"

# --- one check at a time, each in a shell and a folder of its own ---

die() {
	echo "  $*" >&2
	exit 1
}

declare -A pid keys console
# start NAME COMMAND...: a vm in the foreground, its console on pipes, what it says in NAME.said
start() {
	local name=$1 in out
	shift
	rm -f "$name.keys" "$name.console"
	mkfifo "$name.keys" "$name.console"
	: >"$name.said"
	"$vm" "$@" --name "$name" <"$name.keys" >"$name.console" 2>"$name.said" &
	pid[$name]=$!
	exec {in}>"$name.keys" {out}<"$name.console"
	keys[$name]=$in console[$name]=$out
}

# await NAME REGEX: the next line of the guest that matches, in $line. A failed check of the guest's is the end.
await() {
	while IFS= read -r -t "$patience" line <&"${console[$1]}"; do
		line=${line%$'\r'}
		echo "$line" >>"$1.transcript"
		[[ $line != *FAILED* && $line != panic* ]] || die "guest $1: $line"
		[[ $line =~ $2 ]] && return
	done
	tail -n 5 "$1.transcript" "$1.said" >&2 || true
	die "guest $1 did not say '$2'"
}

# A command of vm that ends by itself.
ask() { timeout "$patience" "$vm" "$@"; }

type_keys() { printf %s "$2" >&"${keys[$1]}"; }

# verify NAME: the guest finds all its pages as they should be
verify() {
	type_keys "$1" v
	await "$1" '^verify '
	[ "${pages:=$line}" = "$line" ] || die "guest $1 says '$line' and said '$pages'"
}

# ends NAME [STATUS]: the process ends by itself, without any more complaints of the guest
ends() {
	local status=0
	while IFS= read -r -t "$patience" line <&"${console[$1]}"; do
		[[ $line != *FAILED* && $line != panic* ]] || die "guest $1: $line"
	done
	wait "${pid[$1]}" || status=$?
	[ "$status" = "${2:-0}" ] || { cat "$1.said" >&2; die "$1 ended with status $status, not ${2:-0}"; }
}

killed() {
	kill -9 "${pid[$1]}"
	wait "${pid[$1]}" 2>/dev/null || true
}

# moves FROM TO URI: a live migration
moves() {
	start "$2" receive "$3"
	local uri
	until uri=$(head -n 1 "$2.said") && [ -n "$uri" ]; do
		kill -0 "${pid[$2]}" 2>/dev/null || die "$2 does not listen: $uri"
	done
	ask migrate "$1" "$uri" --downtime-limit 60s
	ends "$1"
	await "$2" '^beat '
	verify "$2"
}

# --- the checks ---

demo() { ask demo --memory 64M; }

# runs_to_its_end CPUS [MODEL]
runs_to_its_end() {
	start a run --cpus "$1" ${2:+--cpu "$2"} --memory 64M --cmdline "$idle exit=5"
	await a '^tern-guest: ready'
	await a '^beat 5'
	ends a
}

exit_status_is_the_guests() {
	start a run --memory 64M --cmdline "$idle"
	await a '^beat '
	type_keys a e7
	ends a 7
}

reboot() {
	start a run --memory 64M --cpus 2 --cmdline "$idle"
	await a '^tern-guest: ready'
	verify a
	type_keys a r
	await a '^tern-guest: ready'
	verify a
	type_keys a q
	ends a
}

# snapshots MODEL
snapshots() {
	start a run --cpus 2 --cpu "$1" --memory 64M --cmdline "$dirtying"
	await a '^tern-guest: ready'
	verify a
	local from=a how
	for how in full none full; do
		ask snapshot "$from" "$from.tern"
		await "$from" '^beat '
		killed "$from"
		start "$from$how" restore "$from.tern" "--verify=$how"
		from=$from$how
		await "$from" '^beat '
		verify "$from"
	done
	type_keys "$from" q
	ends "$from"
}

# migrations MODEL
migrations() {
	start a run --cpus 2 --cpu "$1" --memory 64M --cmdline "$dirtying"
	await a '^tern-guest: ready'
	verify a
	moves a b tcp:127.0.0.1:0
	moves b c "unix:$PWD/c.migrate"
	moves c d tcp:127.0.0.1:0
	# It boots from what came with it.
	type_keys d r
	await d '^tern-guest: ready'
	verify d
	type_keys d q
	ends d
}

stop_and_cont() {
	start a run --cpus 2 --memory 64M --cmdline "$dirtying"
	await a '^tern-guest: ready'
	local round
	for round in 1 2 3 4 5; do
		ask stop a
		ask cont a
		await a '^beat '
	done
	verify a
	# A stopped guest stays so where it is restored.
	ask snapshot a a.tern --stop
	ask quit a
	ends a
	start b restore a.tern
	until ask info b >b.info 2>&1; do
		kill -0 "${pid[b]}" 2>/dev/null || die "$(cat b.said)"
	done
	ask cont b
	await b '^beat '
	verify b
	ask quit b
	ends b
}

# tests_of PROGRAM: those that are about KVM
tests_of() { timeout $((3 * patience)) "$1" accel::kvm reads_back; }

checks=(
	'demo'
	'runs_to_its_end 1' 'runs_to_its_end 2' 'runs_to_its_end 1 host' 'runs_to_its_end 2 host'
	'exit_status_is_the_guests'
	'reboot'
	'snapshots x86-64-v1-1' 'snapshots host'
	'migrations x86-64-v1-1' 'migrations host'
	'stop_and_cont'
)

# Does the checks that are not in the file $ledger yet, and enters there those that it has done.
run_checks() {
	local check folder rc began
	for check in "${checks[@]}"; do
		[[ $check =~ ${CHECKS:-.} ]] || continue
		! grep -qx "[a-zA-Z]*: $check" "$ledger" || continue
		echo "== $check"
		began=$SECONDS
		folder=$(mktemp -d)
		# Not as a condition: that would switch -e off inside.
		set +e
		(
			set -e
			trap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT
			cd "$folder"
			export XDG_RUNTIME_DIR=$folder
			$check
		)
		rc=$?
		set -e
		rm -rf "$folder"
		if [ "$rc" = 0 ]; then rc=ok; else rc=FAILED; fi
		echo "$rc: $check ($((SECONDS - began)) s)"
		echo "$rc: $check" >>"$ledger"
	done
}

# --- where they run ---

cd "$(dirname "$0")/.."
where=rig
case ${1:-} in --here | --inside) where=${1#--} && shift ;; esac
if [ $# -gt 0 ]; then
	mapfile -t programs <<<"$(realpath "$@")"
else
	cargo build --release -p vmm --bin vm
	tests=$(cargo test -p vmm -p tern-tests --lib --test state_round_trip --no-run --message-format json)
	tests=$(sed -n 's/.*"executable":"\([^"]*\/\(vmm\|state_round_trip\)-[^"]*\)".*/\1/p' <<<"$tests")
	mapfile -t programs <<<"$PWD/target/release/vm"$'\n'"$tests"
fi
vm=${programs[0]}
for program in "${programs[@]:1}"; do checks+=("tests_of $program"); done
case $where in
inside)
	ledger=$LEDGER
	# An emulated machine that has locked up is given up at once.
	echo 1 >/proc/sys/kernel/softlockup_panic
	# By way of a pipe, so that nothing thinks of showing progress on a terminal.
	run_checks 2>&1 | cat
	exit
	;;
esac
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
ledger=$results/ledger
: >"$ledger"
if [ "$where" = here ]; then
	run_checks
else
	# QEMU's emulation of SVM with several processors is not free of defects, and now and then the kernel on the emulated
	# machine comes to a stop. Then what has not been checked yet is checked on a new one.
	for boot in 1 2 3 4; do
		rc=0
		tools/rig --cpus 2 --timeout 1800 --share "$results" -- \
			env CHECKS="${CHECKS:-}" LEDGER="$ledger" "$PWD/tests/rig.sh" --inside "${programs[@]}" || rc=$?
		# The rig's own statuses.
		[[ $rc = 124 || $rc = 125 ]] || break
		echo "the emulated machine has not come to the end (status $rc, boot $boot)" >&2
	done
	[ "$rc" = 0 ] || exit "$rc"
fi
echo "$(grep -c '^ok: ' "$ledger") checks went well"
! grep '^FAILED: ' "$ledger"
