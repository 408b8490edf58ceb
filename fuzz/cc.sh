#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The C compiler of a build with `cargo fuzz`: what ends up in the fuzzer, libbpf, is checked as Rust is. Build scripts
# link the same sources without a sanitizer; cargo keeps theirs apart from those of the target, a folder named after it.
case ${OUT_DIR:-} in
*/*-unknown-linux-*/release/*) exec clang -fsanitize=address -fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp "$@" ;;
*) exec clang "$@" ;;
esac
