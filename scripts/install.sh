#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what `cargo build --release --locked` built. Settings, from the environment:
#   DESTDIR      a directory to install below, for packages
#   PREFIX       /usr/local by default; a distribution sets /usr
#   BIN          where the built commands are, target/release by default
#   GENERATOR    a tcptools that runs here, if those in BIN are for another kind of machine: makes the completions
#   TOOL_PREFIX  if it is set, each command also gets this before its name in PREFIX/bin; set but empty: its bare name,
#                which other packages have too
#
# In PREFIX/bin there is `tcptools`, which runs the others; they are in PREFIX/libexec/tcptools.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
commands=

for source in src/bin/*.rs; do
	name=$(basename "$source" .rs)
	[ -x "$bin/$name" ] || {
		echo "$bin/$name is missing: cargo build --release --locked" >&2
		exit 1
	}
	[ "$name" = tcptools ] || commands="$commands $name"
done

install -d "$root/bin" "$root/libexec/tcptools"
install -m 755 "$bin/tcptools" "$root/bin/"
for name in $commands; do
	install -m 755 "$bin/$name" "$root/libexec/tcptools/"
	if [ -n "${TOOL_PREFIX+set}" ]; then
		ln -sf "../libexec/tcptools/$name" "$root/bin/$TOOL_PREFIX$name"
	fi
done

man=$root/share/man
./scripts/man.sh "$man"
if [ -n "${TOOL_PREFIX+set}" ]; then
	for name in $commands; do
		echo ".so man8/tcptools-$name.8" >"$man/man8/$TOOL_PREFIX$name.8"
	done
fi

# generate SHELL FILE: the command asks the others for their flags.
generate() {
	install -d "$root/share/$(dirname "$2")"
	"${GENERATOR:-$root/bin/tcptools}" --generate-completion "$1" >"$root/share/$2"
}
generate bash bash-completion/completions/tcptools
generate zsh zsh/site-functions/_tcptools
generate fish fish/vendor_completions.d/tcptools.fish

install -d "$root/share/doc/tcptools"
install -m 644 README.md CHANGELOG.md LICENSE* "$root/share/doc/tcptools/"
