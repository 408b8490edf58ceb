#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the live tests on other real kernels: Debian's signed cloud images, in emulated machines, without KVM or root.
#
#   ./kernels.sh [OPTION...] [KERNEL...]     without a KERNEL: those of docs/kernels.md; sid and experimental are known too,
#                                            and with -arm64 or -arm64-16k (pages of 16 KiB) after it, as 6.12-arm64, each for ARM;
#                                            with -nobtf at the end, as 5.10-nobtf, without its type information (BTF);
#                                            with -integrity or -confidentiality in that mode of kernel lockdown
#     --tests 'ARGUMENTS'   what the test program gets, e.g. 'tcplife::owners|tcpreset' or '--skip tcplife::many'
#     --soak MINUTES        instead of the tests, what scripts/soak.sh does; a guest's minute takes some of the host's
#     --out DIR             keeps what each guest said and left in DIR/KERNEL
#     --write               rewrites docs/kernels.md from this run; with --tests only what the verifier checks
#     --offline             takes the kernels in the cache, as they are
#     --jobs N              runs so many guests at a time (1); each keeps one processor busy
#
# TCPTOOLS_KERNEL_CACHE (~/.cache/tcptools): fetched kernels. TCPTOOLS_DEBIAN_MIRROR (that of this machine's
# apt; a URL without its /debian), TCPTOOLS_DEBIAN_KEYRING: where from, and whose signature. TCPTOOLS_VM_LIMIT (3600): seconds until a guest is ended.
#
# Exit status 0: every test passed on every kernel, or was ignored with the missing feature named.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup.sh
. scripts/vm/fetch.sh
. scripts/vm/sysroot.sh
. scripts/vm/image.sh
. scripts/vm/boot.sh
. scripts/vm/report.sh

ALL_KERNELS="5.10 6.1 6.12 newest 6.12-integrity 5.10-nobtf newest-nobtf 5.10-confidentiality newest-confidentiality"
out=
guest=
write=
offline=
jobs=1
kernels=()
while [ $# -gt 0 ]; do
	case $1 in
	--tests) guest="$guest tests=$(echo "$2" | tr ' ' ,)" && shift ;;
	--soak) guest="$guest soak=$2 tests=--ignored,faults::soak" && shift ;;
	--out) out=$2 && shift ;;
	--write) write=1 ;;
	--offline) offline=1 ;;
	--jobs) jobs=$2 && shift ;;
	-*)
		sed -n '5,19s/^# \{0,1\}//p' "$0" >&2
		exit 2
		;;
	*) kernels+=("$1") ;;
	esac
	shift
done
# shellcheck disable=SC2206 # one word per kernel
[ ${#kernels[@]} -gt 0 ] || kernels=($ALL_KERNELS)

arches=$(for name in "${kernels[@]}"; do arch_of "$name"; done | sort -u)
need clang libelf-dev make pkg-config iproute2 nftables kmod xz-utils busybox-static
for arch in $arches; do
	case $arch in
	amd64) need qemu-system-x86 ;;
	arm64) need qemu-system-arm gcc-aarch64-linux-gnu ;;
	esac
done
mapfile -t packages < <(for name in "${kernels[@]}"; do kernel_of "$name"; done | sort -uV)
[ -n "$offline" ] || fetch "${packages[@]}"

# build ARCH: the commands and the test program, whose path it prints.
build() {
	local on=
	[ "$1" = amd64 ] || on=scripts/cross.sh
	echo "building for $1" >&2
	$on cargo build --locked --profile emulated --bins >&2 || return
	$on cargo test --locked --profile emulated --test live --no-run --message-format=json 2>/dev/null |
		sed -n 's/.*"name":"live".*"executable":"\([^"]*\)".*/\1/p' | tail -1
}
declare -A live
for arch in $arches; do live[$arch]=$(build "$arch"); done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=${out:-$scratch/out}

# One kernel's run, from its image to what it left.
run() {
	local dir=$out/$1 started=$SECONDS arch kernel
	kernel=$CACHE/kernels/$(kernel_of "$1")
	arch=$(arch_of "$1")
	rm -rf "${dir:?}" && mkdir -p "$dir"
	cp "$kernel/version" "$dir/version"
	image "$kernel" "$scratch/$1" "$arch" "$(dirname "${live[$arch]}")/.." "${live[$arch]}"
	boot "$arch" "$kernel" "$scratch/$1" "$dir" "$guest" "$(parameter_of "$1")"
	rm "$scratch/$1"
	echo $((SECONDS - started)) >"$dir/seconds"
}

for name in "${kernels[@]}"; do
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
	run "$name" &
done
wait
failed=0
for name in "${kernels[@]}"; do verdict "$out/$name" "$name" || failed=1; done
case $write:$guest in
1:) page "$out" "${kernels[@]}" >docs/kernels.md ;;
1:*) verified_in docs/kernels.md "$out" "${kernels[@]}" ;;
esac
exit $failed
