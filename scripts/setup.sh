# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by demo.sh and check.sh: installs what is missing, and says what to do where it cannot.
# shellcheck shell=sh

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -E "$@"
	else
		echo "this needs root, and there is no sudo: run it as root" >&2
		exit 1
	fi
}

# have PACKAGE: whether what the package is needed for is there, whoever installed it.
have() {
	case $1 in
	libelf-dev) pkg-config --exists libelf zlib 2>/dev/null ;;
	pkg-config) command -v pkg-config >/dev/null ;;
	iproute2) command -v ip >/dev/null && command -v ss >/dev/null ;;
	nftables) command -v nft >/dev/null ;;
	gcc-aarch64-linux-gnu) command -v aarch64-linux-gnu-gcc >/dev/null ;;
	qemu-system-arm) command -v qemu-system-aarch64 >/dev/null ;;
	kmod) command -v depmod >/dev/null ;;
	xz-utils) command -v xz >/dev/null ;;
	qemu-system-x86) command -v qemu-system-x86_64 >/dev/null ;;
	busybox-static) command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;;
	groff-base) command -v groff >/dev/null ;;
	man-db) command -v man >/dev/null ;;
	dpkg-dev) command -v dpkg-shlibdeps >/dev/null ;;
	python3-pip) python3 -m pip --version >/dev/null 2>&1 ;;
	rpm) command -v rpmbuild >/dev/null ;;
	postgresql) set -- /usr/lib/postgresql/*/bin/pgbench && [ -x "$1" ] ;;
	redis-tools) command -v redis-benchmark >/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# lack PACKAGE...: which are missing, if any are.
lack() {
	missing=
	PATH=$PATH:/usr/sbin:/sbin
	for package in "$@"; do
		have "$package" || missing="$missing $package"
	done
	[ -n "$missing" ]
}

# need PACKAGE...: by their names in Debian and Ubuntu.
need() {
	lack "$@" || return 0
	if ! command -v apt-get >/dev/null; then
		echo "missing:$missing (Debian's names). Install what your system calls them:" >&2
		echo "  Fedora: dnf install clang elfutils-libelf-devel zlib-devel make pkgconf gcc iproute nftables lowdown groff man-db" >&2
		echo "  Arch:   pacman -S clang libelf zlib make pkgconf gcc iproute2 nftables lowdown groff man-db" >&2
		echo "  Alpine: apk add clang libelf-static elfutils-dev zlib-dev make pkgconf gcc musl-dev linux-headers iproute2 nftables lowdown groff mandoc" >&2
		exit 1
	fi
	echo "installing:$missing" >&2
	as_root apt-get update -qq
	# shellcheck disable=SC2086 # one word per package
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# need_stopped PACKAGE...: as need, for servers that tests start themselves. The packages start none, as long as
# policy-rc.d says no (invoke-rc.d(8)).
need_stopped() {
	policy=/usr/sbin/policy-rc.d
	lack "$@" || return 0
	if [ -e $policy ] || ! command -v apt-get >/dev/null; then
		need "$@"
		return
	fi
	(
		trap 'as_root rm -f $policy' EXIT
		as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
		need "$@"
	)
}

# need_python: packages of PyPI that tests ask for a second opinion, below target/, as the system's Python belongs to the
# system's packages (PEP 668). Tests that lack them say so.
need_python() {
	python=${CARGO_TARGET_DIR:-target}/python
	PYTHONPATH=$python python3 -c 'import duckdb, opentelemetry.proto.logs.v1.logs_pb2' 2>/dev/null && return
	echo "installing: duckdb opentelemetry-proto, into $python" >&2
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$python" --upgrade \
		'duckdb>=1.1' 'opentelemetry-proto>=1.30' >&2 ||
		echo "NOT RUN: tests that need the Python packages duckdb and opentelemetry-proto" >&2
}

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || {
	echo "cargo is missing: install Rust from https://rustup.rs" >&2
	exit 1
}
