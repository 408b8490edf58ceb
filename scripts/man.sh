#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes man pages from docs/: scripts/man.sh [OUTDIR], by default target/man. Needs lowdown.
#
# docs/<command>.md becomes tcptools-<command>.8, as the commands share names with other packages', and what all
# commands have in common becomes section 7.
set -eu
cd "$(dirname "$0")/.."
out=${1:-target/man}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
command -v lowdown >/dev/null || {
	echo "man pages are made by lowdown, which is missing (Debian: apt-get install lowdown)" >&2
	exit 1
}

# Markdown for people who read it in a man page: NAME first, capital sections, and links as references.
# Fenced blocks stay as they are.
prepare() {
	awk -v page="$1" -v section="$2" '
	/^```/ { fence = !fence }
	fence { print; next }
	section == 7 && /^# / {
		title = substr($0, 3)
		if (title ~ /^.[a-z]/) title = tolower(substr(title, 1, 1)) substr(title, 2)
		print "# NAME\n\n" page " - " title "\n\n# DESCRIPTION"
		next
	}
	section == 7 { sub(/^## /, "# ") }
	section == 8 && named && NF { sub(/^[^ ]+/, page); named = 0 }
	/^# NAME/ { named = 1 }
	/^# / { $0 = toupper($0) }
	{ print }' |
		sed -E -e 's/\]\((common-flags|json|tracepoints)\.md(#[^)]*)?\)/ (**tcptools-\1**(7))/g; s/\[([^][]*) \(\*\*tcptools-/\1 (**tcptools-/g' \
			-e 's/\[([^][]*)\]\(([a-z]+)\.md(#[^)]*)?\)/\1/g'
}

# lowdown leaves to us: headings on one line, as indexers want them; nothing stretched to the margin or hyphenated; and
# tables whose columns are as wide as their longest word, the last one taking what is left.
finish() {
	awk '
	function width(cell,    words, n, i, most) {
		gsub(/\\f./, "", cell)
		n = split(cell, words, " ")
		for (i = 1; i <= n; i++) if (length(words[i]) > most) most = length(words[i])
		if (length(cell) < 20 && length(cell) > most) most = length(cell)
		return most
	}
	function layout(end,    i, text) {
		for (i = 1; i < columns; i++) text = text "lw(" widest[i] "n) "
		return text "lx" end
	}
	/^\.SH$/ || /^\.SS$/ { macro = $0; getline; print macro " \"" $0 "\""; next }
	/^\.TH / { print; print ".nr HY 0\n.nh\n.ad l"; next }
	/^\.TS$/ { table = 1; rows = ""; column = 0; split("", widest); next }
	table == 1 { sub(/ expand/, ""); options = $0; table = 2; next }
	table == 2 { if (/\.$/) { columns = NF; table = 3 }; next }
	table && /^\.TE$/ { print ".TS\n" options "\n" layout("") "\n" layout(".") "\n" rows ".TE"; table = 0; next }
	table {
		rows = rows $0 "\n"
		if (/T\{$/) { column = /^T\{$/ ? 1 : column + 1; next }
		if (!/^T\}/ && width($0) > widest[column]) widest[column] = width($0)
		next
	}
	{ print }'
}

page() { # FILE NAME SECTION
	prepare "$2" "$3" <"$1" |
		lowdown -s -Tman --parse-no-intraemph --parse-no-super --parse-no-strike -m "title=$2" -m "section=$3" -m "source=tcptools $version" |
		finish >"$out/man$3/$2.$3"
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
