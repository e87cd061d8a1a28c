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

here=$(dirname "$(realpath "$0")")
# shellcheck source-path=SCRIPTDIR
. "$here/rig/checks.sh"

# A guest that checks itself: 24 MiB of pages with known contents. (The emulated machine loses AVX by itself.)
idle='mib=24 beat=200 avx=0'
# The same, and a third of the pages are written over and over.
dirtying="$idle dirty=8 rate=max"

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
	await a '^tern-guest: ready'
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
		snapshot "$from" "$from.tern"
		await "$from" '^beat '
		restores "$from" "$from$how" "$from.tern" "--verify=$how"
		from=$from$how
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
	snapshot a a.tern --stop
	ask quit a
	ends a
	start b restore a.tern
	beat[b]=${beat[a]}
	until ask info b >b.info 2>&1; do
		kill -0 "${pid[b]}" 2>/dev/null || die "$(cat b.said)"
	done
	ask cont b
	await b '^beat '
	verify b
	ask quit b
	ends b
}

# What the newest release has left in the repository, made on another KVM and for processors of another vendor.
golden() {
	local release=$here/compat file name known=0
	release=$release/$(sed -n 's/^version = "\(.*\)"/\1/p' "$release/releases.toml" | tail -n 1)
	for file in "$release"/corpus/*.guest-*.tern.gz; do
		name=$(basename "$file" .tern.gz)
		gzip -dc "$file" >"$name.tern"
		start "$name" restore "$name.tern" --allow-tsc-mismatch
		pages=''
		await "$name" '^beat '
		verify "$name"
		snapshot "$name" "$name.again"
		type_keys "$name" q
		ends "$name"
		known=$((known + 1))
	done
	[ "$known" -gt 0 ] || die "there is no guest in $release/corpus"
}

# tests_of PROGRAM: those that are about KVM
tests_of() { timeout $((3 * patience)) "$1" accel::kvm reads_back golden_; }

checks=(
	'demo'
	'runs_to_its_end 1' 'runs_to_its_end 2' 'runs_to_its_end 1 host' 'runs_to_its_end 2 host'
	'exit_status_is_the_guests'
	'reboot'
	'snapshots x86-64-v1-1' 'snapshots host'
	'migrations x86-64-v1-1' 'migrations host'
	'stop_and_cont'
	'golden'
)

# --- where they run ---

cd "$here/.."
where=rig
case ${1:-} in --here | --inside) where=${1#--} && shift ;; esac
if [ $# -gt 0 ]; then
	mapfile -t programs <<<"$(realpath "$@")"
else
	cargo build --release -p vmm --bin vm
	tests=$(cargo test -p vmm -p tern-tests --lib --test state_round_trip --test golden_corpus --no-run --message-format json)
	tests=$(sed -n 's/.*"executable":"\([^"]*\/\(vmm\|state_round_trip\|golden_corpus\)-[^"]*\)".*/\1/p' <<<"$tests")
	mapfile -t programs <<<"$PWD/target/release/vm"$'\n'"$tests"
fi
vm=${programs[0]}
for program in "${programs[@]:1}"; do checks+=("tests_of $program"); done
run_at "$where" "$PWD/tests/rig.sh" "${programs[@]}"
