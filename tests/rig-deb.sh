#!/usr/bin/env bash
# Debian's package of Tern on an emulated machine with a real KVM (tools/rig): it installs, does its main job from anywhere,
# brings its manual pages and completions, and leaves nothing behind. Takes a few minutes.
#
#   tests/rig-deb.sh [PACKAGE]      made by tools/deb where none is given
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "${1:-$(tools/deb | tail -n 1)}")
# shellcheck disable=SC2016 # for the shell over there
tools/rig --quiet --timeout 1800 -- bash -euc '
	# Its index of all manual pages would take most of the time.
	rm -f /var/lib/man-db/auto-update
	apt-get install -qq -y "$1"
	cd /
	vm --version
	vm demo --memory 64M
	dpkg -L tern | grep -q /man1/vm-migrate.1
	for file in $(dpkg -L tern); do [ -e "$file" ] || { echo "$file is missing"; exit 1; }; done
	bash -c "source /usr/share/bash-completion/completions/vm && complete -p vm"
	apt-get remove -qq -y tern
	! command -v vm
	echo "rig-deb: all well"
' - "$deb"
