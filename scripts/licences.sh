#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Prints the licences of what a build of tcptools contains: its own, and those of every library that is linked into it.
#
#   scripts/licences.sh [TARGET] [static | debian]     static: with the C libraries of this machine's packages, too;
#                                                      debian: without the long texts that every Debian has
#
# Needs cargo and jq, and the sources that `cargo fetch` leaves.
set -eu
cd "$(dirname "$0")/.."
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
how=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Whether it is a text that /usr/share/common-licenses has, as Debian wants it.
common() { [ "$how" = debian ] && grep -qE 'TERMS AND CONDITIONS FOR (USE, REPRODUCTION|COPYING, DISTRIBUTION)' "$1"; }

rule() { printf '\n%s\n%s\n\n' "$1" "$(echo "$1" | sed 's/./-/g')"; }

cat <<-END
	tcptools
	========

	Copyright: the authors of tcptools

	The Rust code is licensed under the MIT licence or the Apache License, version 2.0, at
	your option. The programs for the kernel (src/bpf) are licensed under the GNU General
	Public License, version 2, or the BSD 2-Clause licence, at your option.

	What is linked into the commands, and its licences, comes after that. Where a library
	leaves the choice, its MIT licence is taken.

	On Debian systems, the complete texts of the Apache License, version 2.0, of the GNU
	General Public License, versions 2 and 3, and of the GNU Lesser General Public License,
	versions 2.1 and 3, are in /usr/share/common-licenses.
END
for file in LICENSE-MIT LICENSE-BSD-2-Clause LICENSE-APACHE LICENSE-GPL-2.0; do
	! common "$file" || continue
	rule "$file"
	cat "$file"
done

cargo tree --locked --target "$target" -e normal,no-proc-macro --prefix none -f '{p}' --features single |
	sed 's/ v/ /; s/ (.*//' | sort -u >"$work/linked"
cargo metadata --locked --format-version 1 --filter-platform "$target" >"$work/metadata"
jq -r '.packages[] | [.name + " " + .version, .license // "", (.authors | join(", ")), .manifest_path] | @tsv' \
	"$work/metadata" | sort >"$work/all"

rule "Libraries"
while read -r crate; do
	[ "${crate%% *}" != tcptools ] || continue
	awk -F '\t' -v crate="$crate" '$1 == crate { print "* " $1 "\n  licence: " $2; if ($3 != "") print "  by " $3; exit }' "$work/all"
done <"$work/linked"
echo "* libbpf, as it comes with libbpf-sys
  licence: LGPL-2.1 OR BSD-2-Clause (taken: BSD-2-Clause)
* the standard library of Rust
  licence: MIT OR Apache-2.0"

# Each text once, with all that it is of.
mkdir "$work/texts"
while read -r crate; do
	[ "${crate%% *}" != tcptools ] || continue
	dir=$(dirname "$(awk -F '\t' -v crate="$crate" '$1 == crate { print $4; exit }' "$work/all")")
	mit=$(find "$dir" -maxdepth 1 -type f -iname '*license*mit*')
	if [ -n "$mit" ]; then
		set -- "$mit"
	else
		set -- "$dir"/LICENSE* "$dir"/COPYING* "$dir"/licenses/* "$dir"/libbpf/LICENSE.BSD*
	fi
	found=
	for file in "$@"; do
		[ -f "$file" ] || continue
		found=1
		sum=$(sha256sum <"$file" | cut -c1-16)
		cp "$file" "$work/texts/$sum"
		echo "$crate" >>"$work/texts/$sum.of"
	done
	[ -n "$found" ] || echo "$crate comes without the text of its licence" >&2
done <"$work/linked"
for of in "$work"/texts/*.of; do
	printf '%s\t%s\n' "$(sort -u "$of" | tr '\n' ',' | sed 's/,$//; s/,/, /g')" "${of%.of}"
done | sort | while IFS="$(printf '\t')" read -r names text; do
	rule "$(echo "$names" | cut -c1-90)"
	[ ${#names} -le 90 ] || printf 'This is the licence of: %s\n\n' "$names" | fold -s -w 90
	if common "$text"; then
		echo "The Apache License, version 2.0."
	else
		cat "$text"
	fi
done

[ "$how" = static ] || exit 0
rule "C libraries"
echo "A static build also contains the GNU C Library, libelf of elfutils and zlib, from the packages of
Debian named below, where their sources are, too. To link tcptools with other versions of them,
build it from its sources: docs/packaging.md says how."
for package in libc6-dev libelf-dev zlib1g-dev libgcc-12-dev; do
	version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null) || continue
	rule "$package $version"
	cat "/usr/share/doc/$package/copyright"
done
