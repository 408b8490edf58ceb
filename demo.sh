#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing, builds, and runs tcplife for a few seconds on traffic of its own.
set -eu
cd "$(dirname "$0")"
. scripts/setup.sh
need clang libelf-dev make pkg-config

built=${CARGO_TARGET_DIR:-target}/release
cargo build --release --locked --bin tcptools --example traffic --features single
ready=$(mktemp -u)
as_root "$built/tcptools" tcplife --duration 6 --ready-file "$ready" &
tool=$!
while kill -0 $tool 2>/dev/null && [ ! -e "$ready" ]; do sleep 0.1; done
"$built/examples/traffic" >&2
wait $tool
as_root rm -f "$ready"
echo "That was tcplife. $built/tcptools has all commands in it: $built/tcptools list; docs/ explains them." >&2
