#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Checks the BPF C: its format (.clang-format), more warnings than the build has, and what clang-tidy finds; a minute.
#   scripts/lint-bpf.sh          checks
#   scripts/lint-bpf.sh --fix    formats
# CLANG_FORMAT names another clang-format of version 14: what a version makes of a style differs from the next one's.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
need clang clang-format clang-tidy

format=${CLANG_FORMAT:-clang-format}
# shellcheck disable=SC2312 # find does not fail
mapfile -t sources < <(find src/bpf -name '*.[ch]' | sort)
case ${1-} in
--fix) exec "$format" -i "${sources[@]}" ;;
'') ;;
*) sed -n '4,5s/^# *//p' "$0" >&2 && exit 2 ;;
esac

failed=0
if "$format" --version | grep -q 'version 14\.'; then
	"$format" --dry-run -Werror "${sources[@]}" || failed=1
else
	echo "NOT RUN: the format is that of clang-format 14, and this is $("$format" --version)"
fi

# The headers of the BPF library are where cargo's build of it has put them.
headers() { find "${CARGO_TARGET_DIR:-target}"/*/build/libbpf-sys-*/out -maxdepth 1 -name include -print -quit 2>/dev/null || true; }
[ -n "$(headers)" ] || cargo check --locked --quiet -p libbpf-sys
flags=(-D__TARGET_ARCH_x86 -Isrc/bpf/common -isystem "$(headers)" -g -O2 -target bpf)
# Besides those of build.rs.
warnings=(-Wall -Wextra -Wno-unused-parameter -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wimplicit-fallthrough
	-Wconditional-uninitialized -Wcomma -Wunreachable-code-aggressive -Wassign-enum -Wextra-semi -Wextra-semi-stmt
	-Wloop-analysis -Wtautological-compare -Wover-aligned -Wredundant-parens -Wbitfield-enum-conversion
	-Wunused-macros -Wduplicate-enum -Wformat=2 -Wnewline-eof -Wnull-pointer-arithmetic -Wstring-conversion)
checks='-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-bugprone-macro-parentheses'
checks="$checks,-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result"
checks="$checks,misc-misplaced-const,readability-misleading-indentation,readability-redundant-*"
for source in src/bpf/*.bpf.c src/bpf/support/*.bpf.c; do
	clang -fsyntax-only -Werror "${warnings[@]}" "${flags[@]}" "$source" || failed=1
	clang-tidy --quiet --header-filter='src/bpf/.*' --warnings-as-errors='*' --checks="$checks" "$source" -- "${flags[@]}" 2>/dev/null || failed=1
done
exit $failed
