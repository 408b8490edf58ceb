# SPDX-License-Identifier: MIT OR Apache-2.0
# What lowdown leaves to us: headings on one line, as indexers want them; definitions as lists; words of the command line
# in bold; nothing stretched to the margin or hyphenated; lines of less than 80 bytes; and tables whose columns are as wide
# as their longest word, the last one taking what is left.

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

# A text in lines of less than 80 bytes. None begins with a control character, nor ends a sentence before its end.
function fold(text,    words, n, i, line, all) {
	n = split(text, words, " ")
	line = words[1]
	for (i = 2; i <= n; i++) {
		if (length(line) + length(words[i]) + 1 > 78 && words[i] !~ /^[.']/) {
			all = all line "\n"
			line = words[i]
		} else line = line " " words[i]
	}
	return all line
}

function begin() {
	if (macro != "") print macro
	macro = ""
}

{ gsub(/\\fC|\\f\(C[WR]/, "\\fB") }

# lowdown writes a definition as a paragraph, a jump back of one line, and an indented paragraph.
waiting && /^\.if [nt] \\$/ { jump = 1; next }
waiting && jump { jump = 0; next }
waiting && /^\.IP "" / { print ".TP 5\n" term; waiting = 0; macro = ""; next }
waiting { begin(); print fold(term); waiting = 0 }
macro != "" || bare {
	if (/^[^.]/) { term = $0; waiting = 1; bare = 0; next }
	if (!/^\.(LP|PP)$/) { begin(); bare = 0 }
}
/^\.(LP|PP)$/ { if (heading) bare = 1; else macro = $0; heading = 0; next }
{ heading = 0 }

/^\.EX$/ { example = 1 }
/^\.EE$/ { example = 0 }
example { print; next }
/^\.SH$/ || /^\.SS$/ { level = $0; getline; gsub(/\\f./, ""); print level " \"" $0 "\""; heading = 1; next }
/^\.TH / { print; print ".nr HY 0\n.nh\n.ad l"; next }

/^\.TS$/ { table = 1; rows = ""; column = 0; split("", widest); next }
table == 1 { sub(/ expand/, ""); options = $0; table = 2; next }
table == 2 { if (/\.$/) { columns = NF; table = 3 }; next }
table && /^\.TE$/ { print ".TS\n" options "\n" layout("") "\n" layout(".") "\n" rows ".TE"; table = 0; next }
table {
	rows = rows (/^[^.T]/ ? fold($0) : $0) "\n"
	if (/T\{$/) { column = /^T\{$/ ? 1 : column + 1; next }
	if (!/^T\}/ && width($0) > widest[column]) widest[column] = width($0)
	next
}
/^[^.]/ { print fold($0); next }
{ print }
END { if (waiting) { begin(); print fold(term) } }
