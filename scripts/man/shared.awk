# SPDX-License-Identifier: MIT OR Apache-2.0
# Completes a command's page: puts in, from the tables of docs/common-flags.md, the flags that all commands share, and
# before SEE ALSO the sections EXIT STATUS, ENVIRONMENT and FILES, unless the page has its own.

# The cells of a table's row, in `cell`.
function cells(line,    i, n) {
	gsub(/\\\|/, "\001", line)
	n = split(line, cell, "|")
	for (i = 1; i <= n; i++) {
		gsub(/\001/, "|", cell[i])
		gsub(/^ +| +$/, "", cell[i])
		gsub(/\]\(#/, "](common-flags.md#", cell[i])
	}
}

# Tables whose first row begins with this heading, as `table[HEADING, N, 1 or 2]`; those of flags by their section.
BEGIN {
	while ((getline line < shared) > 0) {
		if (line ~ /^## /) part = substr(line, 4)
		if (line !~ /^\|/) { name = ""; continue }
		cells(line)
		if (cell[2] ~ /^-+$/) continue
		if (!name) {
			name = cell[2] == "flag" ? "flag " part : cell[2]
			if (name in rows) name = name " again"
			rows[name] = 0
			continue
		}
		table[name, ++rows[name], 1] = cell[2]
		table[name, rows[name], 2] = cell[3]
	}
}

# The flags of a row as this page has them: a letter with another meaning here is not in `list`, but its long name is.
function own(flags,    n, i, word, all, left, said, parts) {
	if (index(list, "`--any-port`")) gsub(/`--port /, "`--any-port ", flags)
	all = flags
	n = split(flags, parts, "`")
	said = left = ""
	for (i = 2; i <= n; i += 2) {
		word = parts[i]
		sub(/[ =].*/, "", word)
		if (index(list, "`" word "`")) said = said " " word
	}
	for (i = 2; i <= n; i += 2) {
		word = parts[i]
		if (said != "" && word ~ /^-[A-Za-z]$/ && !index(list, "`" word "`")) continue
		left = left (left == "" ? "" : parts[i - 1] ~ /;/ ? "; " : ", ") "`" word "`"
	}
	return left == "" ? all : left
}

function definitions(name, filtered,    i, said) {
	for (i = 1; i <= rows[name]; i++) {
		said = table[name, i, 2]
		if (said ~ /^[a-z]/) said = toupper(substr(said, 1, 1)) substr(said, 2)
		if (said !~ /[.]$/) said = said "."
		print (filtered ? own(table[name, i, 1]) : table[name, i, 1])
		print ":   " said "\n"
	}
}

function section_of(title, name) {
	if (title in has) return
	print "# " title "\n"
	definitions(name, 0)
}

# The paragraph in OPTIONS that names the shared flags: they follow in full, and what it says of them after that.
function expand(    remarks) {
	remarks = list
	if (!sub(/^.*`-v`\. ?/, "", remarks)) remarks = ""
	sub(/`-v`\. .*/, "`-v`", list)
	print "## Filters\n\nA row must match all filters that are given. Separate the elements of a list by commas; start it with"
	print "`!` to negate it.\n"
	definitions("flag Filters", 1)
	print "## Output\n"
	definitions("flag Output", 1)
	print "## Running\n"
	definitions("flag Running", 1)
	if (remarks != "") print remarks "\n"
	print "These flags are shared by all commands; **tcptools-common-flags**(7) says more about them.\n"
	list = ""
}

{ text[NR] = $0 }
/^```/ { fence = !fence }
!fence && /^# / { has[substr($0, 3)] = 1 }

END {
	for (i = 1; i <= NR; i++) {
		$0 = text[i]
		if (section == 8 && /^\[Flags shared by all commands\]/) {
			list = $0
			while (text[i + 1] != "") list = list " " text[++i]
			expand()
			continue
		}
		if (section == 8 && $0 == "# SEE ALSO") {
			section_of("EXIT STATUS", "status")
			section_of("ENVIRONMENT", "variable")
			section_of("FILES", "file")
		}
		print
	}
}
