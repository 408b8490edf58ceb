#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what was built: all commands, or the single-file form (docs/packaging.md).
#
#   scripts/install.sh               installs
#   scripts/install.sh --uninstall   removes what an installation with the same PREFIX has left there
#
# Settings, from the environment:
#   PREFIX       /usr/local by default; a distribution sets /usr
#   DESTDIR      a directory to install below, for packages, which know their files themselves
#   BIN          where the built commands are, by default CARGO_TARGET_DIR/release or target/release
#   SINGLE       1: BIN/tcptools has all commands in it, 0: it has not; by default it is asked
#   GENERATOR    a tcptools that runs here, if those in BIN are for another kind of machine: makes the completions
#   TOOL_PREFIX  if it is set, each command also gets this before its name in PREFIX/bin; set but empty: its bare name,
#                which other packages have too
#   MAN          no: without man pages, which need lowdown unless man/ has them ready-made, as in the source package
#   ZSH          where zsh looks for completions, share/zsh/site-functions by default
#
# In PREFIX/bin there is `tcptools`, which runs the others; they are in PREFIX/libexec/tcptools. Nothing is written there
# before everything is made and checked. Modes do not depend on the umask.
set -eu
cd "$(dirname "$0")/.."
umask 022
if [ "${1:-}" = --uninstall ]; then exec scripts/lay.sh --uninstall; fi
[ $# = 0 ] || {
	echo "usage: scripts/install.sh [--uninstall]" >&2
	exit 2
}
fail() {
	echo "$1" >&2
	exit 1
}

prefix=${PREFIX:-/usr/local}
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
zsh=${ZSH:-share/zsh/site-functions}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
commands=
for source in src/bin/*.rs; do
	name=$(basename "$source" .rs)
	[ "$name" = tcptools ] || commands="$commands $name"
done

[ -x "$bin/tcptools" ] || fail "$bin/tcptools is missing: cargo build --release --locked --bin tcptools --features single"
if [ -z "${SINGLE:-}" ]; then
	SINGLE=0
	# Only the single-file form answers to another name.
	ln -s "$(cd "$bin" && pwd)/tcptools" "$stage/tcplife"
	case $("$stage/tcplife" --version 2>/dev/null) in tcplife*) SINGLE=1 ;; esac
	rm "$stage/tcplife"
fi
if [ "$SINGLE" = 0 ]; then
	for name in $commands; do
		[ -x "$bin/$name" ] || fail "$bin/$name is missing: cargo build --release --locked"
	done
fi
if [ "${MAN:-}" != no ] && ! command -v lowdown >/dev/null; then
	[ -d man/man8 ] || fail "man pages are made by lowdown, which is missing (Debian: apt-get install lowdown); MAN=no does without"
fi

# A link, where the temporary directory is in the same file system.
take() { ln -L "$1" "$2" 2>/dev/null || cp "$1" "$2"; }
tree=$stage/tree
mkdir -p "$tree/bin" "$tree/libexec/tcptools"
take "$bin/tcptools" "$tree/bin/"
for name in $commands; do
	if [ "$SINGLE" = 1 ]; then
		ln -s ../../bin/tcptools "$tree/libexec/tcptools/$name"
	else
		take "$bin/$name" "$tree/libexec/tcptools/"
	fi
	if [ -n "${TOOL_PREFIX+set}" ]; then
		ln -s "../libexec/tcptools/$name" "$tree/bin/$TOOL_PREFIX$name"
	fi
done

man=$tree/share/man
doc=share/doc/tcptools
if [ "${MAN:-}" = no ]; then
	:
elif command -v lowdown >/dev/null; then
	DOCDIR=$prefix/$doc scripts/man.sh "$man"
else
	mkdir -p "$tree/share"
	cp -R man "$man"
	for page in "$man"/man?/*; do
		sed "s|/usr/share/doc/tcptools|$prefix/$doc|g" "$page" >"$stage/page"
		cat "$stage/page" >"$page"
	done
fi
if [ -n "${TOOL_PREFIX+set}" ] && [ "${MAN:-}" != no ]; then
	for name in $commands; do
		echo ".so man8/tcptools-$name.8" >"$man/man8/$TOOL_PREFIX$name.8"
	done
fi

# generate SHELL FILE [COMMAND=NAME]: tcptools asks the commands for their flags.
generate() {
	mkdir -p "$tree/$(dirname "$2")"
	"${GENERATOR:-$bin/tcptools}" --generate-completion "$1" ${3:+--completion-of "$3"} >"$tree/$2"
}
generate bash share/bash-completion/completions/tcptools
generate zsh "$zsh/_tcptools"
generate fish share/fish/vendor_completions.d/tcptools.fish
if [ -n "${TOOL_PREFIX+set}" ]; then
	for name in $commands; do
		own=$TOOL_PREFIX$name
		generate bash "share/bash-completion/completions/$own" "$name=$own"
		generate zsh "$zsh/_$own" "$name=$own"
		generate fish "share/fish/vendor_completions.d/$own.fish" "$name=$own"
	done
fi

# As they lie in the sources, so that their links lead somewhere.
mkdir -p "$tree/$doc/docs"
cp README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE* "$tree/$doc/"
cp -R docs/. "$tree/$doc/docs/"
mkdir -p "$tree/$doc/packaging"
cp -R packaging/systemd packaging/container packaging/prometheus "$tree/$doc/packaging/"

PREFIX=$prefix scripts/lay.sh "$tree"
