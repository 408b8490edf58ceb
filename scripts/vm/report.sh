# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by kernels.sh: what a guest's run says, in a line for the terminal and in docs/kernels.md.
# shellcheck shell=bash

# summary FILE: how many tests had which outcome; the test program may print several results.
summary() {
	awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
		END { print passed + 0 " passed, " failed + 0 " failed, " ignored + 0 " ignored" }' "$1"
}

# title OUT NAME: the kernel's release, and in which way it ran.
title() {
	local release
	release=$(cat "$1/release")
	case $(way_of "$2") in
	nobtf) echo "$release without BTF" ;;
	integrity) echo "$release in lockdown" ;;
	confidentiality) echo "$release in lockdown (confidentiality)" ;;
	*) echo "$release" ;;
	esac
}

# few NAME: why only some of the tests run there; fails if all do.
few() {
	case $(way_of "$1") in
	nobtf) echo "all but the \`records\` tests, which are made for it" ;;
	confidentiality) echo "all but \`fallback::lockdown\`: every command refuses to run, with one message" ;;
	*) return 1 ;;
	esac
}

# verdict OUT NAME: a line of the outcome, the reasons of ignored tests, and on failure all that helps.
verdict() {
	local release
	if [ ! -s "$1/status" ]; then
		echo "$2: the guest ended without a result" >&2
		tail -c 3000 "$1/tests" "$1/console" "$1/qemu" >&2
		return 1
	fi
	release=$(cat "$1/release")
	echo "$2 ($release, $(cat "$1/seconds") s): $(summary "$1/tests")"
	few "$2" >/dev/null || sed -n 's/^test \(.*[^ ]\) *\.\.\. ignored (\(.*\))$/  \1: \2/p' "$1/tests"
	[ "$(cat "$1/status")" = 0 ] && return 0
	sed -n '/^failures:/,/^test result/p' "$1/tests" >&2
	return 1
}

# tests_of FILE: the outcomes, one a line: command, ok or FAILED or ignored, test, reason.
tests_of() {
	sed -n 's/^test \(fallback::[a-z_]*\|[a-z_]*\)::\([^ ]*\) *\.\.\. \([a-zA-Z]*\)\( (\(.*\))\)\{0,1\}$/\1 \3 \2 \5/p' "$1"
}

# blank_of FILE: the columns that had a value in no row: command and key.
blank_of() {
	awk '{ key = $1 " " $2; if ($3) full[key] = 1; else blank[key] = 1 }
		END { for (key in blank) if (!(key in full)) print key }' "$1" | sort
}

# why COMMAND COLUMN LACKS: why a column is blank, by scripts/vm/blank; of several lines the first that applies.
why() {
	awk -v column="$2" -v lacks="$3" '/^#/ { next }
		$1 == column && ($2 == "-" || index(lacks, $2 ": 1")) { sub(/^[^ ]+ +[^ ]+ +/, ""); print; found = 1; exit }
		END { exit !found }' scripts/vm/blank || {
		echo "**unexplained**"
		echo "$1: why is $2 blank? scripts/vm/blank does not say" >&2
		return 1
	}
}

# row TITLE KIND NAME...: a row of the table. Uses the page's `out`.
row() {
	local title=$1 kind=$2 name
	shift 2
	printf '| %s |' "$title"
	for name in "$@"; do
		case $kind in
		line) echo -n ' --- |' ;;
		release) echo -n " $(title "$out/$name" "$name") |" ;;
		state)
			if [ "$(way_of "$name")" = nobtf ]; then
				echo -n ' user space |'
			elif [ "$(way_of "$name")" = confidentiality ]; then
				echo -n ' - |'
			elif grep -q 'sk_storage: 1' "$out/$name/lacks"; then
				echo -n ' a table |'
			else
				echo -n ' the socket |'
			fi
			;;
		verified) awk -F ': ' -v c="$title" '$1 == c { sum += $4; if ($4 > most) most = $4 }
			END { printf sum ? " " most " of " sum " |" : " - |" }' "$out/$name/verified" ;;
		count) tests_of "$out/$name/tests" | awk -v c="$title" '$1 == c { n[$2]++ }
			END { run = n["ok"] + n["FAILED"]; printf run ? " " n["ok"] + 0 " of " run " |" : " - |" }' ;;
		esac
	done
	echo
}

# verified NAME...: the section about the verifier. Uses the page's `out`.
verified() {
	local name command known=()
	for name in "$@"; do
		[ ! -s "$out/$name/verified" ] || known+=("$name")
	done
	[ ${#known[@]} -gt 0 ] || return 0
	cat <<-'TEXT'

		## What the verifier checks

		How many instructions it goes through when a command starts, each path anew: of the program that
		takes most, and of all (`--verbose` prints those of each). The kernel's limit for a program is
		1,000,000. Kernels before 5.16 do not tell.

	TEXT
	echo "As of $(date -u +%F):"
	echo
	row command release "${known[@]}"
	row --- line "${known[@]}"
	for command in $(for name in "${known[@]}"; do cut -d : -f 1 "$out/$name/verified"; done | sort -u); do
		row "$command" verified "${known[@]}"
	done
}

# verified_in PAGE OUT NAME...: replaces that section, the last one of the page.
verified_in() {
	local page=$1 out=$2 rest
	shift 2
	rest=$(sed '/^## What the verifier checks/,$d' "$page")
	{
		echo "$rest"
		verified "$@"
	} >"$page"
}

# page OUT NAME...: docs/kernels.md from the runs of these kernels; fails if a blank column is not explained.
page() {
	local out=$1 name command key reason lacks complete=0
	shift
	cat <<-'TEXT'
		# Kernels

		Results of the live tests on Debian's signed cloud kernels, in emulated machines. The tests make
		real traffic, and compare rows with what they sent and with the kernel's counters. A cell shows how
		many tests passed of those that ran. `./kernels.sh` repeats the run, and `./kernels.sh --write`
		writes this page; do not edit it by hand.

		`fallback::` tests compare a command that runs without BTF or without a ring buffer with the same
		command that has both, on the same traffic. `fallback::btf` tests read sockets with the types of a
		file (`--btf`), and with the kernel's own types where it has no ring buffer.

	TEXT
	echo "As of $(date -u +%F):"
	echo
	row command release "$@"
	row --- line "$@"
	for command in $(for name in "$@"; do tests_of "$out/$name/tests"; done | awk '$2 != "ignored" { print $1 }' | sort -u); do
		row "$command" count "$@"
	done
	row "*where the state of a socket is kept*" state "$@"

	printf '\n## Tests that a kernel cannot run\n\n'
	for name in "$@"; do
		few "$name" >/dev/null && echo "- $(title "$out/$name" "$name"): $(few "$name")." && continue
		tests_of "$out/$name/tests" | awk -v release="$(title "$out/$name" "$name")" '$2 == "ignored" {
			test = $1 "::" $3; $1 = $2 = $3 = ""; sub(/^ */, "")
			print "- " (/^the package / ? "Every guest" : release) ": `" test "`: " $0 }'
	done | sort -u | sed '$!b;/./!s/.*/None./'

	printf '\n## Columns that are blank in every row\n\n'
	for name in "$@"; do
		case $(way_of "$name") in
		nobtf)
			echo "- $(title "$out/$name" "$name"): fields that no record has ([architecture](architecture.md#without-type-information))."
			continue
			;;
		confidentiality) continue ;;
		esac
		lacks=$(cat "$out/$name/lacks")
		while read -r command key; do
			reason=$(why "$command" "$key" "$lacks") || complete=1
			echo "- $(title "$out/$name" "$name"), $command: \`$key\`: $reason"
		done < <(blank_of "$out/$name/seen")
	done
	verified "$@"
	return $complete
}
