#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs all commands at once for MINUTES (60 by default) on mixed traffic with loss, in network namespaces that come and go,
# and compares rows with the kernel's counters each minute. Fails if something differs, is lost, or grows.
# TCPTOOLS_BIN_DIR: other binaries than those that cargo builds, such as installed ones.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
need clang libelf-dev make pkg-config iproute2 nftables

minutes=${1:-60}
case $minutes in
'' | *[!0-9]* | 0*)
	echo "usage: scripts/soak.sh [MINUTES]" >&2
	exit 2
	;;
esac
TCPTOOLS_SOAK=$minutes exec ./check.sh --test live -- --ignored --nocapture faults::soak
