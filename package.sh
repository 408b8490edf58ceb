#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes what users install, in target/package/out/: a .deb, an .rpm, a tarball without shared libraries, the same as a
# single file, the source package, and their checksums. Installs the tools that it needs. docs/packaging.md says more.
#
#   ./package.sh [OPTION...] [deb] [rpm] [static] [crate]     without a name: all of them
#     --arch ARCH      amd64 or arm64; by default this machine's
#     --profile NAME   of cargo, release by default; dev is quick
#     --check          then installs and tries each in a root directory of its own; needs root
#
# From the environment: PACKAGER (Name <address>), for the .deb and .rpm; SOURCE_DATE_EPOCH, by default the time of the last
# commit; CARGO_TARGET_DIR. The same sources give the same files, wherever they are built with the same tools.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup.sh
. scripts/package/build.sh
. scripts/package/make.sh
. scripts/package/check.sh

arch=$(dpkg --print-architecture 2>/dev/null || uname -m)
profile=release
check=
what=()
while [ $# -gt 0 ]; do
	case $1 in
	--arch) arch=$2 && shift ;;
	--profile) profile=$2 && shift ;;
	--check) check=1 ;;
	deb | rpm | static | crate) what+=("$1") ;;
	-h | --help) sed -n '3,14s/^# \{0,1\}//p' package.sh && exit ;;
	*) echo "package.sh: $1: see package.sh --help" >&2 && exit 2 ;;
	esac
	shift
done
case $arch in
amd64 | x86_64) arch=amd64 machine=x86_64 ;;
arm64 | aarch64) arch=arm64 machine=aarch64 ;;
*) echo "package.sh: packages are made for amd64 and arm64, not for $arch" >&2 && exit 2 ;;
esac
[ ${#what[@]} -gt 0 ] || what=(deb rpm static crate)
[ -z "$check" ] || [ "$(id -u)" = 0 ] || {
	echo "package.sh: --check makes root directories: run it as root" >&2
	exit 1
}

umask 022
export LC_ALL=C TZ=UTC
# As in the release.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=true
need clang libelf-dev make pkg-config lowdown jq dpkg-dev rpm
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
packager=${PACKAGER:-tcptools developers <tcptools@tcptools.invalid>}
work=$(mkdir -p "${CARGO_TARGET_DIR:-target}/package" && cd "${CARGO_TARGET_DIR:-target}/package" && pwd)
out=$work/out
mkdir -p "$out"

for name in "${what[@]}"; do make_"$name"; done
(cd "$out" && sha256sum -- *"$version"* >SHA256SUMS)
(cd "$out" && du -b -- *"$version"*)
if [ -n "$check" ]; then
	for name in "${what[@]}"; do check_"$name"; done
fi
