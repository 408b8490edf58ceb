#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds for 64-bit ARM (aarch64-unknown-linux-gnu) on another machine:
#
#   scripts/cross.sh cargo build --release --locked
#
# runs a command with cargo set up for that target; what is built is in target/aarch64-unknown-linux-gnu/. Needs Debian's
# cross compiler, which it installs, and libraries for the target:
#   TCPTOOLS_SYSROOT   a root directory with libc, libelf and zlib for arm64, and their headers; by default one from
#                      Debian's packages, made in TCPTOOLS_KERNEL_CACHE (~/.cache/tcptools). Empty: the cross
#                      compiler's own directories, as with libelf-dev:arm64 and zlib1g-dev:arm64 installed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || {
	sed -n '3,11s/^# \{0,1\}//p' scripts/cross.sh >&2
	exit 2
}
. scripts/setup.sh
. scripts/vm/fetch.sh
. scripts/vm/sysroot.sh

need clang libelf-dev make pkg-config gcc-aarch64-linux-gnu
target=aarch64-unknown-linux-gnu
if command -v rustup >/dev/null; then rustup -q target add "$target"; fi

root=${TCPTOOLS_SYSROOT-$(sysroot)}
sysroot=${root:+--sysroot=$root}
export CARGO_BUILD_TARGET=$target
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CFLAGS_aarch64_unknown_linux_gnu=$sysroot
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
flags=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS:-}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="$flags${sysroot:+ -C link-arg=$sysroot}"
# Where libelf.a and libz.a are, for --features static.
export LIBBPF_SYS_LIBRARY_PATH_aarch64_unknown_linux_gnu=$root/usr/lib/aarch64-linux-gnu
exec "$@"
