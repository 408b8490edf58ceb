#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Measures what the commands cost, beside the peers that are installed, and prints Markdown tables.
# ./bench.sh                     kernel time: per connection and per event, in multiples of an empty program
# ./bench.sh --rate              what tracing leaves of the rate, run-time statistics off
# ./bench.sh --start             what starting takes, the memory then, and what idling takes
# ./bench.sh --scale SOCKETS     the curves over open sockets and files up to so many, e.g. 1000000 (8 GB)
# With each: --rounds N, --connections N, --load storm|reset|bulk|drop|flood, --only NAME, and --against DIR, which
# measures another build's commands beside these.
set -eu
cd "$(dirname "$0")"
. scripts/setup.sh
need clang libelf-dev make pkg-config iproute2 nftables

cargo build --release --locked --bins
PATH=$PATH:/usr/sbin:/sbin exec cargo bench --locked --target-dir "${CARGO_TARGET_DIR:-target}/bench" --bench cost --config 'target."cfg(all())".runner = "'"$([ "$(id -u)" = 0 ] && echo env || echo sudo -E)"'"' -- "$@"
