#!/bin/bash
# Builds the Linux test guest: vmlinux (PVH entry), bzImage, initrd.cpio and initrd-min.cpio.
#
#   build.sh [--variant small|full] [--out DIR] [--cache DIR] [--jobs N] [--print-key]
#
# The result lies in CACHE/VARIANT-KEY, where KEY is a hash of all inputs; a finished one is used again.
# With --out its files are copied to DIR as well. The last line printed is the folder with the files.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
variant=small out='' jobs=$(nproc) print_key=''
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tern/guest-linux

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit "$1"; }
while [ $# -gt 0 ]; do
	case $1 in
	--variant) variant=$2; shift 2 ;;
	--out) out=$2; shift 2 ;;
	--cache) cache=$2; shift 2 ;;
	--jobs) jobs=$2; shift 2 ;;
	--print-key) print_key=1; shift ;;
	-h|--help) usage 0 ;;
	*) usage 2 >&2 ;;
	esac
done
case $variant in
small) fragments=() ;;
full) fragments=(smp.config pci.config acpi.config) ;;
*) usage 2 >&2 ;;
esac

tarball=/usr/src/linux-source-6.1.tar.xz
declare -A need=([gcc]=gcc [make]=make [flex]=flex [bison]=bison [bc]=bc [patch]=patch [xz]=xz-utils
	[perl]=perl [python3]=python3 [busybox]=busybox-static [flock]=util-linux)
missing=()
for tool in "${!need[@]}"; do
	command -v "$tool" >/dev/null || missing+=("${need[$tool]}")
done
[ -f $tarball ] || missing+=(linux-source-6.1)
[ -f /usr/include/libelf.h ] || missing+=(libelf-dev)
[ -f /usr/include/stdlib.h ] || missing+=(libc6-dev)
if [ ${#missing[@]} -gt 0 ]; then
	echo "build.sh: packages are missing: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 3
fi
busybox=$(command -v busybox)

sources=$( (cd "$here" && cat build.sh stored-gzip.py kernel.config "${fragments[@]}" patches/*.patch initramfs/*) | sha256sum)
tools=$(gcc --version | head -1; ld --version | head -1; sha256sum <"$busybox"; sha256sum <$tarball)
key=$(printf '%s\n' "$variant" "$sources" "$tools" | sha256sum | cut -c1-16)
done_dir=$cache/$variant-$key
if [ -n "$print_key" ]; then
	echo "$key"
	exit
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

build() {
	local tree_key src obj log cc_flags list
	tree_key=$( (cat "$here"/patches/*.patch; sha256sum <$tarball) | sha256sum | cut -c1-16)
	src=$cache/src-$tree_key
	obj=$cache/obj-$variant-$tree_key
	log=$cache/build-$variant.log
	if [ ! -e "$src/.ready" ]; then
		rm -rf "$src"
		mkdir "$src"
		echo "unpacking and patching the kernel" >&2
		tar -xJf $tarball -C "$src" --strip-components=1
		for p in "$here"/patches/*.patch; do
			patch -s -p1 -d "$src" <"$p"
		done
		touch "$src/.ready"
	fi

	export KBUILD_BUILD_TIMESTAMP='2024-01-01 00:00:00 UTC' KBUILD_BUILD_USER=guest KBUILD_BUILD_HOST=guest
	export KBUILD_BUILD_VERSION=1 SOURCE_DATE_EPOCH=1704067200
	# REP MOVSQ and REP STOSQ wherever the compiler copies and clears: one instruction for many
	cc_flags='-mmemset-strategy=unrolled_loop:24:noalign,rep_8byte:-1:noalign'
	cc_flags+=' -mmemcpy-strategy=unrolled_loop:16:noalign,rep_8byte:-1:noalign'
	mkdir -p "$obj"
	(cd "$here" && cat kernel.config "${fragments[@]}") >"$obj/wanted.config"
	echo "building the kernel, log in $log" >&2
	make -s --no-print-directory -C "$src" O="$obj" KCONFIG_ALLCONFIG="$obj/wanted.config" allnoconfig >"$log" 2>&1
	for line in $(grep -o '^CONFIG_[A-Z0-9_]*=[^"]*$' "$obj/wanted.config"); do
		grep -qxF "$line" "$obj/.config" ||
			{ [ "${line#*=}" = n ] && ! grep -q "^${line%=*}=" "$obj/.config"; } ||
			echo "build.sh: note: $line did not take effect" >&2
	done
	make --no-print-directory -C "$src" O="$obj" -j"$jobs" KCFLAGS="$cc_flags" \
		KGZIP="$here/stored-gzip.py" vmlinux bzImage >>"$log" 2>&1 ||
		{ tail -20 "$log" >&2; exit 1; }

	local flags=(-O2 -Wall -Wextra -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie
		-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -fcf-protection=none
		-Wl,--build-id=none,-z,noseparate-code -s)
	mkdir -p "$obj/root"
	for p in init memcheck smpcheck; do
		gcc "${flags[@]}" -o "$obj/root/$p" "$here/initramfs/$p.c"
	done
	list=$obj/root/list
	cat >"$list" <<-EOF
		dir /dev 755 0 0
		nod /dev/console 600 0 0 c 5 1
		dir /bin 755 0 0
		file /init $obj/root/init 755 0 0
		file /bin/memcheck $obj/root/memcheck 755 0 0
		file /bin/smpcheck $obj/root/smpcheck 755 0 0
	EOF
	"$obj/usr/gen_init_cpio" -t $SOURCE_DATE_EPOCH "$list" >"$obj/root/initrd-min.cpio"
	echo "file /bin/busybox $busybox 755 0 0" >>"$list"
	for p in sh ls cat echo mount umount ps dd ip ping cmp sync sleep dmesg free vi top poweroff reboot; do
		echo "slink /bin/$p busybox 755 0 0" >>"$list"
	done
	"$obj/usr/gen_init_cpio" -t $SOURCE_DATE_EPOCH "$list" >"$obj/root/initrd.cpio"

	rm -rf "$done_dir.new"
	mkdir "$done_dir.new"
	cp "$obj/vmlinux" "$obj/arch/x86/boot/bzImage" "$obj/root/initrd.cpio" "$obj/root/initrd-min.cpio" "$obj/System.map" \
		"$done_dir.new"
	cp "$obj/.config" "$done_dir.new/config"
	strip --strip-debug "$done_dir.new/vmlinux"
	(cd "$done_dir.new" && sha256sum * >SHA256SUMS)
	mv "$done_dir.new" "$done_dir"
}

[ -e "$done_dir/SHA256SUMS" ] || build
if [ -n "$out" ]; then
	mkdir -p "$out"
	for f in "$done_dir"/*; do
		cmp -s "$f" "$out/${f##*/}" || cp "$f" "$out/"
	done
	done_dir=$(cd "$out" && pwd)
fi
echo "$done_dir"
