#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes man pages from docs/: scripts/man.sh [OUTDIR], by default target/man. Needs lowdown.
#
# docs/<command>.md becomes tcptools-<command>.8, as the commands share names with other packages', and what all
# commands have in common becomes section 7. A page is complete in itself: the flags, exit status, environment and files
# that it shares with others are taken from the tables of docs/common-flags.md.
#
#   DOCDIR             where the rest of docs/ is installed, /usr/share/doc/tcptools by default
#   SOURCE_DATE_EPOCH  the date in the pages; by default that of the last commit
set -eu
cd "$(dirname "$0")/.."
out=${1:-${CARGO_TARGET_DIR:-target}/man}
docdir=${DOCDIR:-/usr/share/doc/tcptools}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
command -v lowdown >/dev/null || {
	echo "man pages are made by lowdown, which is missing (Debian: apt-get install lowdown)" >&2
	exit 1
}
when=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
date=$(LC_ALL=C date -u -d "@$when" '+%Y-%m-%d')

# The other pages of docs/ that a page links, by their installed names.
further() { # FILE
	grep -oE '\]\([a-z-]+\.md' "$1" | sed 's/](//' | sort -u | while read -r linked; do
		case $linked in common-flags.md | json.md | tracepoints.md) continue ;; esac
		if head -n 1 "docs/$linked" | grep -qx '# NAME'; then continue; fi
		echo "$docdir/docs/$linked"
	done
}

page() { # FILE NAME SECTION
	awk -v section="$3" -v shared=docs/common-flags.md -f scripts/man/shared.awk "$1" |
		awk -v page="$2" -v section="$3" -v further="$(further "$1" | tr '\n' ' ')" -f scripts/man/prepare.awk |
		lowdown -s -Tman --parse-no-intraemph --parse-no-super --parse-no-strike \
			-m "title=$(echo "$2" | tr '[:lower:]' '[:upper:]')" -m "section=$3" -m "date=$date" -m "source=tcptools $version" |
		awk -f scripts/man/finish.awk >"$out/man$3/$2.$3"
	grep -q '^\.SH "SEE ALSO"' "$out/man$3/$2.$3" || {
		echo "$1 cannot be made a man page" >&2
		exit 1
	}
}

mkdir -p "$out/man7" "$out/man8"
for file in docs/*.md; do
	name=$(basename "$file" .md)
	case $name in
	common-flags | json | tracepoints) page "$file" "tcptools-$name" 7 ;;
	tcptools) page "$file" tcptools 8 ;;
	*) if head -n 1 "$file" | grep -qx '# NAME'; then page "$file" "tcptools-$name" 8; fi ;;
	esac
done
chmod 755 "$out" "$out"/man?
chmod 644 "$out"/man?/*
