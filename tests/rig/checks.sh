# What the checks with `vm` on the emulated machine (tools/rig) have in common; for bash, to be sourced.
#
# Who sources it sets `vm` (the program), `checks` (function calls, each one check) and `bad` (what no line of a guest may
# match), and calls run_at. Who runs it may set CHECKS (a regular expression: checks by name) and TIMES (how often each is done).

# Seconds that one line of a guest may take: far more than it does, because everything is emulated there.
patience=300
# A check of the embedded guest's that failed.
bad='FAILED|^panic'

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
		[[ ! $line =~ $bad ]] || complains "$1"
		[[ $line =~ $2 ]] && return
	done
	tail -n 5 "$1.transcript" "$1.said" >&2 || true
	die "guest $1 did not say '$2'"
}

# complains NAME: the end, with what the guest says for a while after $line: a kernel's registers, its stacks
complains() {
	local complaint=$line more=100
	echo "$line" >&2
	while ((more-- > 0)) && IFS= read -r -t 20 line <&"${console[$1]}"; do echo "${line%$'\r'}" >&2; done
	die "guest $1: $complaint"
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
		[[ ! $line =~ $bad ]] || complains "$1"
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

# --- all checks, here or there ---

# Does the checks that are not in the file $ledger yet, and enters there those that it has done.
run_checks() {
	local check folder rc began round all=()
	for ((round = 1; round <= ${TIMES:-1}; round++)); do
		# The number is one more argument, which no check looks at.
		for check in "${checks[@]}"; do all+=("$check${TIMES:+ #$round}"); done
	done
	for check in "${all[@]}"; do
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

# run_at WHERE SCRIPT ARGUMENT...: does the checks on this machine (here), or on the emulated one (rig), where SCRIPT is called
# again with --inside and the arguments. Ends with a status that is 0 if all went well.
run_at() {
	local where=$1 rc boot results
	shift
	if [ "$where" = inside ]; then
		ledger=$LEDGER
		# An emulated machine that has locked up is given up at once.
		echo 1 >/proc/sys/kernel/softlockup_panic
		# By way of a pipe, so that nothing thinks of showing progress on a terminal.
		run_checks 2>&1 | cat
		return
	fi
	results=$(mktemp -d)
	# shellcheck disable=SC2064 # the folder is known now
	trap "rm -rf '$results'" EXIT
	ledger=$results/ledger
	: >"$ledger"
	if [ "$where" = here ]; then
		run_checks
	else
		# QEMU's emulation of SVM with several processors is not free of defects, old versions' least of all (see tools/rig),
		# and now and then the kernel on the emulated machine comes to a stop. Then what has not been checked yet is checked
		# on a new one.
		for boot in 1 2 3 4; do
			rc=0
			tools/rig --cpus 2 --kernel "${HOST_KERNEL:-}" --timeout 3600 --share "$results" -- \
				env CHECKS="${CHECKS:-}" TIMES="${TIMES:-}" LEDGER="$ledger" "$1" --inside "${@:2}" || rc=$?
			# The rig's own statuses.
			[[ $rc = 124 || $rc = 125 ]] || break
			echo "the emulated machine has not come to the end (status $rc, boot $boot)" >&2
		done
		[ "$rc" = 0 ] || return "$rc"
	fi
	echo "$(grep -c '^ok: ' "$ledger") checks went well"
	! grep '^FAILED: ' "$ledger"
}
