# What the checks with `vm` on the emulated machine (tools/rig) have in common; for bash, to be sourced.
#
# Who sources it sets `vm` (the program) and `checks` (function calls, each one check), and calls run_at. Who runs it may set
# CHECKS (a regular expression: checks by name) and TIMES (how often each is done).

# Seconds that one line of a guest may take: far more than it does, because everything is emulated there.
patience=300
# What no line of a guest may match: a check that failed, of the embedded guest's or of Linux's; a kernel that complains.
bad='FAILED|^panic| BAD |Kernel panic|BUG:|Oops|WARNING:|rcu: INFO|soft lockup'
# What a guest says only as it boots. A crash on arrival is a triple fault, after which it boots and works as ever: so nobody
# who waits for anything else passes over such a line.
boot_line='^tern-guest: ready|^GUEST-READY'

rig=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

# --- one check at a time, each in a shell and a folder of its own ---

die() {
	echo "  $*" >&2
	exit 1
}

# Of each vm, besides its process and its pipes: the last heartbeat, what the next one's number may be at most where that is
# another than one more, and the heartbeat that came before the last snapshot.
declare -A pid keys console beat limit at_snapshot events
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
	beat[$name]='' limit[$name]=''
}

# next_line NAME: the guest's next line, in $line; fails at the end. A failed check of the guest's is the end of this one, and so
# is a heartbeat that does not follow the one before.
next_line() {
	IFS= read -r -t "$patience" line <&"${console[$1]}" || return
	line=${line%$'\r'}
	echo "$line" >>"$1.transcript"
	[[ ! $line =~ $bad ]] || complains "$1"
	if [[ $line =~ ^beat\ [0-9]+($|\ t=) ]]; then
		[ -z "${beat[$1]}" ] || follows "${beat[$1]}" "$line" "${limit[$1]}" || die "guest $1 is not the one that it was"
		beat[$1]=$line limit[$1]=''
	fi
}

# follows BEFORE AFTER [LIMIT]: whether one guest can have said these heartbeats one after the other. None is left out where it
# goes on without a break, but a line may be torn between two consoles. A guest that has booted begins at 0 or 1 again.
follows() {
	local before after key
	count before 'beat ' "$1"
	count after 'beat ' "$2"
	[ "$after" -gt "$before" ] && [ "$after" -le "${3:-$((before + 2))}" ] || {
		echo "  '$2' does not follow '$1'${3:+, up to $3}" >&2
		return 1
	}
	for key in rounds= timers= mails= xsaves= t=; do
		[[ $1 =~ \ $key ]] || continue
		count before " $key" "$1"
		count after " $key" "$2"
		# Clocks have gone on, but not by more than the whole thing can have taken.
		if [[ $key != t= ]]; then
			[ "${after:--1}" -ge "$before" ]
		else
			[ "${after:--1}" -ge "$before" ] && [ "$after" -le $((before + 4 * patience)) ]
		fi || {
			echo "  $key has not gone on from '$1' to '$2'" >&2
			return 1
		}
	done
}

# count VARIABLE KEY LINE: the number behind the key, or nothing. (No other process is asked: where everything is emulated, some for
# each heartbeat take longer than the guest does to the next one.)
count() {
	local pattern="$2([0-9]+)"
	if [[ " $3" =~ $pattern ]]; then printf -v "$1" %s "${BASH_REMATCH[1]}"; else printf -v "$1" ''; fi
}

# await NAME REGEX: the next line of the guest that matches, in $line.
await() {
	local since=$SECONDS
	while next_line "$1"; do
		# A guest can do everything but this, heartbeat by heartbeat.
		[ $((SECONDS - since)) -lt $((2 * patience)) ] || break
		if [[ $line =~ $boot_line ]]; then
			[[ $line =~ $2 ]] || started_anew "$1"
			beat[$1]=''
		fi
		[[ $line =~ $2 ]] && return
	done
	tail -n 5 "$1.transcript" "$1.said" >&2 || true
	die "guest $1 did not say '$2'"
}

# started_anew NAME: the end, with what was said before it
started_anew() {
	tail -n 20 "$1.transcript" ./*.said >&2 || true
	die "guest $1 has started anew: $line"
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

# rest NAME: what the guest says until its process ends
rest() {
	while next_line "$1"; do
		[[ ! $line =~ $boot_line ]] || started_anew "$1"
	done
}

# ends NAME [STATUS]: the process ends by itself, without any more complaints of the guest
ends() {
	local status=0
	rest "$1"
	wait "${pid[$1]}" || status=$?
	[ "$status" = "${2:-0}" ] || { cat "$1.said" >&2; die "$1 ended with status $status, not ${2:-0}"; }
}

killed() {
	kill -9 "${pid[$1]}"
	wait "${pid[$1]}" 2>/dev/null || true
}

# snapshot NAME FILE [OPTION...]
snapshot() {
	[ -n "${beat[$1]}" ] || await "$1" '^beat '
	at_snapshot[$1]=${beat[$1]}
	ask snapshot "$@"
}

# restores FROM TO FILE [OPTION...]: a guest goes on from its last snapshot, and its process has been killed
restores() {
	local from=$1 to=$2
	killed "$from"
	rest "$from"
	start "$to" restore "${@:3}"
	local last
	count last 'beat ' "${beat[$from]}"
	beat[$to]=${at_snapshot[$from]} limit[$to]=$((last + 2))
	await "$to" '^beat '
	verify "$to"
}

# listen NAME: to the events of a VM from now on
listen() {
	local out first
	mkfifo "$1.events"
	python3 "$rig/events.py" "$XDG_RUNTIME_DIR/tern/$1.sock" >"$1.events" &
	exec {out}<"$1.events"
	read -r -t "$patience" first <&"$out" && [ "$first" = listening ] || die "the monitor of $1 does not answer"
	events[$1]=$out
}

# no_reset NAME: none of the events since was a reset
no_reset() {
	local event
	while read -r -t 0.2 event <&"${events[$1]}"; do
		[[ $event != RESET* ]] || die "guest $1: $event"
	done
}

# heard NAME EVENT: waits for it
heard() {
	local event
	while read -r -t "$patience" event <&"${events[$1]}"; do
		[[ $event != "$2"* ]] || return 0
	done
	die "there is no $2 from $1"
}

# moves FROM TO URI: a live migration
moves() {
	[ -n "${beat[$1]}" ] || await "$1" '^beat '
	start "$2" receive "$3"
	local uri
	until uri=$(head -n 1 "$2.said") && [ -n "$uri" ]; do
		kill -0 "${pid[$2]}" 2>/dev/null || die "$2 does not listen: $uri"
	done
	listen "$2"
	ask migrate "$1" "$uri" --downtime-limit 60s
	ends "$1"
	beat[$2]=${beat[$1]}
	await "$2" '^beat '
	verify "$2"
	no_reset "$2"
}

# --- the emulator ---

# QEMU's emulation of SVM now and then mixes the world of the host into that of the guest: then KVM sees a guest whose instruction
# pointer is within the host's own kvm_amd module, behind VMRUN, where a guest comes by chance at most (each boot of the host
# has it elsewhere).
# Whatever the guest does from there says nothing about Tern. (What else has been seen there, and is not told apart from a defect of
# Tern's: a triple fault of a guest that was well a moment before, in the very VMRUN by which KVM injects an interrupt, while its
# memory is being moved.)
tracing=/sys/kernel/tracing

# Has the kernel keep each such exit, and nothing else; and a host that has locked up is given up at once.
watch_emulator() {
	echo 1 >/proc/sys/kernel/softlockup_panic
	local module size start exits=$tracing/events/kvm/kvm_exit
	mount -t tracefs none "$tracing" 2>/dev/null || true
	while read -r module size _ _ _ start _; do
		[ "$module" != kvm_amd ] || break
	done </proc/modules
	[ "$module" = kvm_amd ] && [ -d "$exits" ] || die 'there is no kvm_amd to be watched'
	printf 'guest_rip >= %#x && guest_rip < %#x' "$start" $((start + size)) >"$exits/filter"
	echo 1 >"$exits/enable"
	watched=yes
}

# What was kept, if anything.
emulator_failed() { grep -m 3 kvm_exit: "$tracing/trace"; }

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
		# What was seen during another check says nothing of this one.
		[ -z "${watched-}" ] || : >"$tracing/trace"
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
		if [ "$rc" != 0 ] && [ -n "${watched-}" ] && emulator_failed; then
			echo "the emulator has put the host into the guest, so that nothing is known of: $check ($((SECONDS - began)) s)"
			echo "set aside: $check" >>"$ledger"
			return 125
		fi
		if [ "$rc" = 0 ]; then rc=ok; else rc=FAILED; fi
		echo "$rc: $check ($((SECONDS - began)) s)"
		echo "$rc: $check" >>"$ledger"
	done
}

# went_well LEDGER: says how many checks did; fails if one did not, or if there was none
went_well() {
	local count
	count=$(grep -c '^ok: ' "$1" || true)
	echo "$count checks went well"
	grep '^set aside: ' "$1" | sort | uniq -c || true
	! grep '^FAILED: ' "$1" || return 1
	[ "$count" -gt 0 ] || {
		echo "nothing was checked: ${CHECKS:+no check matches CHECKS='$CHECKS'; }there are: ${checks[*]}" >&2
		return 1
	}
}

# release_of PACKAGE: the release, as uname tells it, of the kernel that the emulated machine boots (of Debian's release: '')
release_of() {
	local file
	file=$(tools/rig --kernel "$1" --fetch)
	echo "${file##*/vmlinuz-}"
}

# runs_kernel RELEASE: this machine does
runs_kernel() {
	[ "$(uname -r)" = "$1" ] || die "this host runs the kernel $(uname -r), not $1"
	echo "host kernel: $1"
}

# run_at WHERE SCRIPT ARGUMENT...: does the checks on this machine (here), or on the emulated one (rig), where SCRIPT is called
# again with --inside and the arguments. Ends with a status that is 0 if all went well.
run_at() {
	local where=$1 rc boot results release
	shift
	if [ "$where" = inside ]; then
		ledger=$LEDGER
		runs_kernel "$HOST_RELEASE"
		watch_emulator
		# By way of a pipe, so that nothing thinks of showing progress on a terminal.
		run_checks 2>&1 | cat
		return "${PIPESTATUS[0]}"
	fi
	results=$(mktemp -d)
	# shellcheck disable=SC2064 # the folder is known now
	trap "rm -rf '$results'" EXIT
	ledger=$results/ledger
	: >"$ledger"
	if [ "$where" = here ]; then
		run_checks
	else
		# Now and then the defects of QEMU's emulation of SVM bring the kernel on the emulated machine to a stop, or ruin a guest
		# (watch_emulator). Then what has not been checked yet is checked on a new one.
		release=$(release_of "${HOST_KERNEL:-}")
		for boot in 1 2 3 4; do
			rc=0
			tools/rig --cpus 2 --kernel "${HOST_KERNEL:-}" --timeout 3600 --share "$results" -- \
				env CHECKS="${CHECKS:-}" TIMES="${TIMES:-}" LEDGER="$ledger" HOST_RELEASE="$release" "$1" --inside "${@:2}" || rc=$?
			# The rig's own statuses.
			[[ $rc = 124 || $rc = 125 ]] || break
			echo "the emulated machine has not come to the end (status $rc, boot $boot)" >&2
		done
		[ "$rc" = 0 ] || return "$rc"
	fi
	went_well "$ledger"
}
