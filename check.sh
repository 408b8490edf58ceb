#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing and runs all tests, those with real traffic on the running kernel included.
# Arguments go to cargo test: ./check.sh --test live
set -eu
cd "$(dirname "$0")"
. scripts/setup.sh
need clang libelf-dev make pkg-config iproute2 nftables lowdown groff-base man-db mandoc
# For the tests of tcptools metrics, which start it themselves.
need_stopped prometheus

# The live tests need root; building does not.
if [ "$(id -u)" != 0 ]; then
	set -- --config 'target."cfg(all())".runner = "sudo -E"' "$@"
fi
PATH=$PATH:/usr/sbin:/sbin TCPTOOLS_REQUIRE_LIVE=1 exec cargo test --locked "$@"
