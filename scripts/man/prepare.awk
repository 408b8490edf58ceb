# SPDX-License-Identifier: MIT OR Apache-2.0
# Markdown for people who read it in a man page: NAME first, capital sections, and links as references. Fenced blocks
# stay as they are.

# A link to a page is the page's name and section; to anything else, its text.
function links(line,    start, text, target, rest, reference) {
	while (match(line, /\[[^][]*\]\([^()]*\)/)) {
		start = substr(line, 1, RSTART - 1)
		rest = substr(line, RSTART + RLENGTH)
		text = substr(line, RSTART + 1, RLENGTH - 2)
		target = text
		sub(/^.*\]\(/, "", target)
		sub(/\]\(.*$/, "", text)
		sub(/#.*/, "", target)
		reference = ""
		if (target ~ /^(common-flags|json|tracepoints)\.md$/) reference = "**tcptools-" target "**(7)"
		else if (target ~ /^(tcp[a-z]+|tplist|sockbuf|metrics)\.md$/) {
			reference = (target == "tcptools.md") ? "**tcptools**(8)" : "**tcptools-" target "**(8)"
			if (!see_also) reference = text == "details" || text == "explained" ? reference : ""
		}
		sub(/\.md/, "", reference)
		if (see_also && reference != "") line = start reference rest
		else if (reference != "" && start ~ /\($/ && rest ~ /^\)/) line = start "see " reference rest
		else if (reference != "") line = start text " (" reference ")" rest
		else if (target == "" && start ~ /\($/ && rest ~ /^\)/) line = start "see below" rest
		else line = start text rest
	}
	return line
}

/^```/ { fence = !fence }
fence || /^```/ { print; next }
section == 7 && /^# / {
	title = substr($0, 3)
	if (title ~ /^.[a-z]/) title = tolower(substr(title, 1, 1)) substr(title, 2)
	print "# NAME\n\n" page " - " title "\n\n# DESCRIPTION"
	next
}
section == 7 { sub(/^## /, "# ") }
section == 8 && named && NF { sub(/^[^ ]+/, page); named = 0 }
/^# NAME/ { named = 1 }
/^# / { $0 = toupper($0); see_also = $0 == "# SEE ALSO" }
{ print links($0) }

END {
	if (section == 7) print "\n# SEE ALSO\n\n**tcptools**(8)"
	n = split(further, files, " ")
	for (i = 1; i <= n; i++) all = all (i == 1 ? "\n" : ",\n") "`" files[i] "`"
	if (all) print all
}
