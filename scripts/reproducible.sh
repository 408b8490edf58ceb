#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the packages twice, from copies of the sources in directories of different names, and compares the files.
#
#   scripts/reproducible.sh [--against DIR] [ARGUMENT...]     arguments go to package.sh: --profile dev, deb
#
# --against: builds once, and compares with an earlier build's files, as in target/package/out.
set -euo pipefail
cd "$(dirname "$0")/.."
against=
if [ "${1:-}" = --against ]; then
	against=$(cd "$2" && pwd)
	shift 2
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# built DIR ARGUMENT...: from the files that git knows, as they are now.
built() {
	local dir=$1
	shift
	mkdir -p "$dir"
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$dir"
	(cd "$dir" && env -u CARGO_TARGET_DIR ./package.sh "$@" >&2)
}

if [ -z "$against" ]; then
	built "$work/first" "$@"
	mv "$work/first/target/package/out" "$work/out"
	rm -rf "$work/first"
	against=$work/out
fi
built "$work/another/directory" "$@"
status=0
for file in "$work"/another/directory/target/package/out/*; do
	if cmp -s "$file" "$against/$(basename "$file")"; then
		echo "the same: $(basename "$file")"
	else
		[ "$(basename "$file")" = SHA256SUMS ] || echo "differs: $(basename "$file")" >&2
		status=1
	fi
done
exit "$status"
