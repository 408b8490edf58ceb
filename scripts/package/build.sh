# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by package.sh: builds the single-file form.
# shellcheck shell=bash disable=SC2154 # package.sh has $arch, $machine, $profile and $work

# What names this directory, the toolchain's or cargo's in a binary is renamed, so that it does not depend on them.
remap() {
	printf -- '--remap-path-prefix=%s=%s ' "$1" /target "$PWD" /tcptools \
		"${CARGO_HOME:-$HOME/.cargo}" /cargo "$(rustc --print sysroot)" /rustc
}

# cargo_for dynamic|static ARGUMENT...: runs cargo, with the shared libraries libc, libelf and zlib, or none. What it
# compiles for one directory serves for another.
cargo_for() {
	local kind=$1 triple=$machine-unknown-linux-gnu flags host
	local variable=CARGO_TARGET_${machine^^}_UNKNOWN_LINUX_GNU_RUSTFLAGS
	shift
	flags=$(remap "$work/$kind")
	[ "$kind" = dynamic ] || flags="$flags -C target-feature=+crt-static"
	# What builds the commands links libelf, too.
	host=$(uname -m)_unknown_linux_gnu
	local command=(env -u RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS "$variable=$flags" CARGO_TARGET_DIR="$work/$kind"
		"LIBBPF_SYS_LIBRARY_PATH_$host=$(library_path)")
	[ "$machine" = "$(uname -m)" ] || command+=(scripts/cross.sh)
	"${command[@]}" cargo "$@" --locked --profile "$profile" --target "$triple" --bin tcptools >&2
}

# build dynamic|static: prints the path of the binary.
build() {
	local features=single
	[ "$1" = dynamic ] || features=single,static
	cargo_for "$1" build --features "$features" || return
	echo "$work/$1/$machine-unknown-linux-gnu/$(folder)/tcptools"
}

# Where this machine's libelf.a and libz.a are.
library_path() {
	local path
	for path in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64 /usr/lib; do
		[ ! -e "$path/libz.a" ] || break
	done
	echo "$path"
}

folder() { if [ "$profile" = dev ]; then echo debug; else echo "$profile"; fi; }

# A tcptools that runs here, for completions: that of this kind of machine.
generator() {
	if [ "$machine" = "$(uname -m)" ]; then
		echo "$1"
	else
		machine=$(uname -m) profile=dev build dynamic
	fi
}

# stage TREE BINARY PREFIX [ZSH]: installs a binary below TREE, as install.sh does.
stage() {
	rm -rf "$1"
	mkdir -p "$1"
	BIN=$(dirname "$2") SINGLE=1 GENERATOR=$(generator "$2") DESTDIR=$1 PREFIX=$3 ZSH=${4:-} scripts/install.sh
}

# What all files of a tree have in common: the time.
clamp() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }
