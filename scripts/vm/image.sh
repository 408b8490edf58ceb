# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by kernels.sh: the guest's initramfs, which is all it has: no disk, no network, nothing shared with the host.
# shellcheck shell=bash

# What tests load of a kernel's modules; those that it has built in, or not at all, are passed over here, and a test
# that needs a missing one says so. nf_tables needs crc32c, which its dependencies do not say.
MODULES="crc32c veth nf_tables nft_numgen nft_reject_inet tcp_diag inet_diag sch_netem tcp_bbr nft_chain_nat nft_redir nft_nat nft_counter nft_objref nf_conntrack_netlink tls"

# A guest of this machine's own kind gets this machine's programs, another one ($SYSROOT is not empty) those of its kind.
# program NAME: its file.
program() {
	local other=${SYSROOT:+$SYSROOT/bin:$SYSROOT/usr/sbin}
	PATH=${other:-$PATH:/usr/sbin:/sbin} command -v "$1"
}

# libraries FILE: the shared libraries that it needs, by their paths in the guest. This machine's programs can be asked;
# in another's the linker's notes are read.
libraries() {
	local name file
	if [ -z "$SYSROOT" ]; then
		ldd "$1" 2>/dev/null | grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1
		return
	fi
	readelf -lW "$1" | sed -n 's/.*program interpreter: \(.*\)]$/\1/p'
	for name in $(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)]$/\1/p'); do
		file=$(find "$SYSROOT/lib" "$SYSROOT/usr/lib" -name "$name" | head -1)
		echo "${file#"$SYSROOT"}"
	done
}

# put FILE GUEST_PATH: a file, and of a program the shared libraries too, without debugging information.
put() {
	local library
	mkdir -p "$ROOT$(dirname "$2")"
	cp -L "$1" "$ROOT$2"
	[ "$(head -c4 "$1" | tail -c3)" = ELF ] || return 0
	"$STRIP" --strip-debug "$ROOT$2" 2>/dev/null || true
	for library in $(libraries "$1"); do
		[ -e "$ROOT$library" ] || put "$SYSROOT$library" "$library"
	done
}

# put_modules KERNEL_DIR: uncompressed, with the indexes that modprobe and the kernel's own requests go by.
put_modules() {
	local release name file from=$1/lib/modules to
	release=$(cat "$1/release")
	from=$from/$release
	to=$ROOT/lib/modules/$release
	mkdir -p "$to/kernel"
	# Packages from 7.x on leave these out, and depmod complains.
	touch "$from/modules.order" "$from/modules.builtin" "$from/modules.builtin.modinfo"
	cp "$from"/modules.builtin* "$from"/modules.order "$to/" 2>/dev/null || true
	[ -e "$from/modules.dep" ] || depmod -b "$1" "$release"
	for name in $MODULES; do
		modprobe -q -d "$1" -S "$release" --show-depends "$name" 2>/dev/null || true
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
		case $file in
		*.xz) xz -dc "$file" ;;
		*.zst) zstd -dcq "$file" ;;
		*) cat "$file" ;;
		esac >"$to/kernel/$(basename "${file%%.ko*}").ko"
	done
	depmod -b "$ROOT" "$release"
}

# put_busybox: with all its names, after the real programs, which win.
put_busybox() {
	local name
	mkdir -p "$ROOT/bin"
	cp -L "$(program busybox)" "$ROOT/bin/busybox"
	for name in $(busybox --list); do
		[ -e "$ROOT/bin/$name" ] || ln -s busybox "$ROOT/bin/$name"
	done
}

# image KERNEL_DIR FILE ARCH BINARIES LIVE: an initramfs with the commands in the directory BINARIES and the test program.
image() {
	local kernel=$1 file=$2 binaries=$4 live=$5 program STRIP=strip SYSROOT=
	if [ "$3" = arm64 ]; then
		SYSROOT=$(sysroot)
		STRIP=aarch64-linux-gnu-strip
	fi
	ROOT=$(mktemp -d)
	mkdir -p "$ROOT"/{proc,sys,dev,tmp,run,root,out,etc}
	for program in ip nft ss; do
		put "$(program "$program")" "/bin/$program"
	done
	for program in "$binaries"/*; do
		[ -f "$program" ] && [ -x "$program" ] && put "$program" "/usr/bin/$(basename "$program")"
	done
	put "$live" /usr/bin/live
	put_busybox
	put_modules "$kernel"
	echo "$MODULES" >"$ROOT/etc/modules"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nobody:x:65534:65534:nobody:/:/bin/false' >"$ROOT/etc/passwd"
	printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$ROOT/etc/group"
	printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$ROOT/etc/hosts"
	echo 'hosts: files' >"$ROOT/etc/nsswitch.conf"
	cp scripts/vm/init "$ROOT/init"
	chmod 755 "$ROOT/init" "$ROOT"
	(cd "$ROOT" && find . | busybox cpio -o -H newc 2>/dev/null) >"$file"
	rm -rf "$ROOT"
}
