# What the checks of Linux guests have in common; for bash, to be sourced after checks.sh.
#
# The guest has the programs of tools/guest-linux, tests/rig/linux-guest makes it. Who sources this sets `kernel` and `initrd`.

quiet='console=ttyS0 panic=-1 quiet loglevel=4'
# Two processors that check clocks, timers, interrupts between them, registers and memory, some of which is rewritten.
smpcheck="$quiet tern.run=smpcheck tern.mib=32 tern.rate=5 tern.beat=1000"
# What each processor has to have done between two heartbeats that prove something.
counts='rounds timers mails'

# boots NAME CPUS CMDLINE [OPTION...]: up to userland
boots() {
	start "$1" run --kernel "$kernel" --initrd "$initrd" --cpus "$2" --memory 256M --cmdline "$3" "${@:4}"
	await "$1" '^GUEST-READY'
}

# checks_itself NAME: all processors of a Linux guest go on with every kind of check, and the memory is whole
checks_itself() {
	local before=${beat[$1]} beats=0
	if [ -z "$before" ]; then
		await "$1" '^beat .*cpus=2'
		before=$line
	fi
	verify "$1"
	until
		await "$1" '^beat .*cpus=2'
		all_higher "$before" "$line"
	do
		[ $((++beats)) -lt 300 ] || die "guest $1 does not go on with every check: first '$before', at last '$line'"
	done
}

# all_higher BEFORE AFTER: every count is, of the processor that has done the least
all_higher() {
	local key before after
	for key in $counts; do
		count before " $key=" "$1"
		count after " $key=" "$2"
		[ "${after:-0}" -gt "${before:-0}" ] || return 1
	done
}
