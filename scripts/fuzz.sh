#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Gives damaged bytes to everything that reads foreign ones (fuzz/, src/fuzz/):
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]   each target, or these, for SECONDS (60; 0: builds only); FUZZ_JOBS (2) at a time
#
# Prints what each has run, and which edges of the code it has reached; an input that fails is kept in
# fuzz/artifacts/TARGET/. What was found before is in fuzz/corpus/, which is not checked in. Exits 1 after a failure, and
# 0 with "NOT RUN" where there is no nightly compiler or no cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=60
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
	seconds=$1
	shift
fi
if [ $# -eq 0 ]; then
	mapfile -t targets < <(basename -s .rs fuzz_targets/*.rs)
else
	targets=("$@")
fi
for target in "${targets[@]}"; do
	if [ ! -e "fuzz_targets/$target.rs" ]; then
		echo "fuzz.sh: no target '$target' (there are: $(basename -s .rs fuzz_targets/*.rs | xargs))" >&2
		exit 2
	fi
done

not_run() {
	echo "NOT RUN: $*"
	exit 0
}
cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal ||
	not_run "no nightly toolchain can be installed here"
cargo +nightly fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked ||
	not_run "cargo-fuzz cannot be installed here"

# libbpf is checked, too.
CC=$PWD/cc.sh
export CC
cargo +nightly fuzz build
[ "$seconds" != 0 ] || exit 0
binaries=$(cargo +nightly metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
binaries=$binaries/$(rustc -vV | sed -n 's/^host: //p')/release

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
one() {
	mkdir -p "corpus/$1" "artifacts/$1"
	# A minute for one input is a hang, even on a busy machine.
	ASAN_OPTIONS=detect_odr_violation=0 "$binaries/$1" "corpus/$1" "seeds/$1" -artifact_prefix="artifacts/$1/" \
		-max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 ${FUZZ_FLAGS:+"$FUZZ_FLAGS"} \
		>"$logs/$1" 2>&1 || touch "$logs/$1.failed"
}
pids=()
for target in "${targets[@]}"; do
	while [ "$(jobs -rp | wc -l)" -ge "${FUZZ_JOBS:-2}" ]; do
		wait -n || true
	done
	one "$target" &
	pids+=("$!")
done
wait "${pids[@]}" || true

status=0
printf '%-12s %10s %8s %6s\n' TARGET RUNS EDGES FOUND
for target in "${targets[@]}"; do
	log=$logs/$target
	runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
	edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
	found=0
	if [ -e "$log.failed" ]; then
		found=1
		status=1
	fi
	printf '%-12s %10s %8s %6s\n' "$target" "${runs:--}" "${edges:--}" "$found"
	if [ "$found" = 1 ]; then
		grep -v '^#' "$log" | tail -n 60
	fi
done
exit "$status"
