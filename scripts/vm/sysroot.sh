# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by scripts/cross.sh and kernels.sh, after scripts/vm/fetch.sh: what a build for arm64 links with and what a
# guest of that kind runs, both from Debian's packages, unpacked into the cache: nothing is installed.
# shellcheck shell=bash

# An old release: binaries run with the libraries they were linked with and newer ones (glibc 2.36).
SYSROOT_SUITE=bookworm
SYSROOT_PACKAGES="libc6-dev libelf-dev zlib1g-dev iproute2 nftables busybox-static"

# sysroot: prints the directory, which is made if it is not there. Remove it to have it made anew.
sysroot() {
	# shellcheck disable=SC2034 # apt_conf's
	local dir=$CACHE/sysroot-arm64 ARCH=arm64 APT=$CACHE/sysroot-arm64.new/apt SUITES=$SYSROOT_SUITE deb
	if [ ! -e "$dir" ]; then
		echo "fetching the libraries and tools of Debian $SYSROOT_SUITE for arm64" >&2
		rm -rf "$dir.new"
		apt_conf
		apt apt-get update -qq >&2
		# shellcheck disable=SC2086 # one word per package
		apt apt-get install -qq --download-only --no-install-recommends $SYSROOT_PACKAGES >&2
		mkdir -p "$dir.new/root/usr"
		for deb in "$APT"/archives/*.deb; do dpkg-deb -x "$deb" "$dir.new/root"; done
		mv "$dir.new/root" "$dir"
		rm -rf "$dir.new"
	fi
	echo "$dir"
}
