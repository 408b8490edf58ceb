# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by kernels.sh: Debian's signed cloud kernels, fetched with apt's own verification into a cache.
#
# The cache has an apt state of its own (the machine's is neither read nor changed), one for each architecture, and for
# each kernel kernels/<name>/{release,version,vmlinuz,lib/modules/<release>}.
# shellcheck shell=bash

# The mirror is the one that this machine's apt uses, if it is a Debian.
# shellcheck disable=SC2016 # apt expands it
MIRROR=${TCPTOOLS_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sed -n 's|/debian/$||p' | head -n 1)}
KEYRING=${TCPTOOLS_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
CACHE=${TCPTOOLS_KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptools}

# A kernel may be run in another way than its package has it: NAME-nobtf, NAME-integrity, NAME-confidentiality.
kernel_of() {
	local name=$1
	for way in nobtf integrity confidentiality; do name=${name%-"$way"}; done
	echo "$name"
}

# way_of NAME: that way, or nothing.
way_of() {
	local name
	name=$(kernel_of "$1")
	name=${1#"$name"}
	echo "${name#-}"
}

# What a kernel is called here: a release, and what it runs on if that is no PC: 6.12, 6.12-arm64, 6.12-arm64-16k (with
# pages of 16 KiB, which no cloud image has).
arch_of() {
	case $1 in
	*-arm64*) echo arm64 ;;
	*) echo amd64 ;;
	esac
}

package_of() {
	case $1 in
	*-arm64-16k) echo linux-image-arm64-16k ;;
	*-arm64) echo linux-image-cloud-arm64 ;;
	*) echo linux-image-cloud-amd64 ;;
	esac
}

# Where to look for a kernel, the first suite that has one wins; of `newest`, the highest version of all.
suites_of() {
	case ${1%-arm64*} in
	5.10) echo bullseye-security bullseye ;;
	6.1) echo bookworm-security bookworm ;;
	6.12) echo trixie-security trixie ;;
	sid | experimental) echo "$1" ;;
	newest) echo sid experimental ;;
	*)
		echo "unknown kernel $1: there are $ALL_KERNELS" >&2
		return 1
		;;
	esac
}

# apt_conf: makes the state $APT for packages of $ARCH.
apt_conf() {
	local suite target
	mkdir -p "$APT/lists/partial" "$APT/archives/partial"
	for suite in ${SUITES:-bullseye bookworm trixie sid experimental}; do
		echo "deb [arch=$ARCH signed-by=$KEYRING] $MIRROR/debian $suite main"
		case $suite in sid | experimental) continue ;; esac
		echo "deb [arch=$ARCH signed-by=$KEYRING] $MIRROR/debian-security $suite-security main"
	done >"$APT/sources.list"
	: >"$APT/status"
	cat >"$APT/apt.conf" <<-CONF
		Dir::State::Lists "$APT/lists";
		Dir::State::status "$APT/status";
		Dir::Cache "$APT";
		Dir::Cache::pkgcache "pkgcache.bin";
		Dir::Etc::SourceList "$APT/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		APT::Architecture "$ARCH";
		APT::Architectures { "$ARCH"; };
		APT::Sandbox::User "";
		Acquire::Languages "none";
		Acquire::Retries "1";
		Acquire::http::Timeout "20";
		Acquire::https::Timeout "20";
	CONF
	for target in Contents-deb DEP-11 DEP-11-icons DEP-11-icons-small DEP-11-icons-hidpi DEP-11-icons-large; do
		echo "Acquire::IndexTargets::deb::$target::DefaultEnabled \"false\";"
	done >>"$APT/apt.conf"
}

# apt COMMAND...: apt-get or apt-cache on the cache's own state. Old suites' indexes are long expired by date.
apt() {
	local command=$1
	shift
	APT_CONFIG=$APT/apt.conf "$command" -o Acquire::Check-Valid-Until=false \
		-o Dir::Cache::pkgcache=pkgcache.bin "$@"
}

# The version of the kernel's meta package.
version_of() {
	local suite version package best=
	package=$(package_of "$1")
	for suite in $(suites_of "$1"); do
		version=$(apt apt-cache madison "$package" | awk -v suite="/debian(-security)? $suite/main " '$0 ~ suite { print $3; exit }')
		[ -n "$version" ] || continue
		[ "${1%-arm64*}" = newest ] || { echo "$version" && return; }
		dpkg --compare-versions "$version" gt "${best:-0}" && best=$version
	done
	[ -n "$best" ] && echo "$best"
}

# packages_of NAME VERSION: what to download. From 7.x on the image package is empty, and its parts are packages of their own.
packages_of() {
	local image release part
	image=$(apt apt-cache show "$(package_of "$1")=$2" | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | head -1)
	release=${image#linux-image-}
	if apt apt-cache show "linux-binary-$release" >/dev/null 2>&1; then
		for part in binary modules; do echo "linux-$part-$release=$2"; done
	else
		echo "$image"
	fi
}

unpack() {
	local dir=$1 deb release
	shift
	for deb in "$@"; do dpkg-deb -x "$deb" "$dir/tree"; done
	release=$(basename "$(find "$dir/tree" -path '*/lib/modules/*' -prune | head -1)")
	mkdir -p "$dir/lib/modules"
	mv "$dir"/tree/*/modules/"$release" "$dir/lib/modules/" 2>/dev/null ||
		mv "$dir"/tree/*/lib/modules/"$release" "$dir/lib/modules/"
	mv "$(find "$dir/tree/boot" "$dir/lib/modules" -name 'vmlinuz*' 2>/dev/null | head -1)" "$dir/vmlinuz"
	echo "$release" >"$dir/release"
	rm -rf "$dir/tree"
}

fetch_one() {
	local name=$1 version dir=$CACHE/kernels/$1 new=$CACHE/kernels/$1.new
	version=$(version_of "$name") && [ -n "$version" ] || return 1
	[ "$(cat "$dir/version" 2>/dev/null)" != "$version" ] || return 0
	echo "fetching kernel $name: $version" >&2
	rm -rf "$new" && mkdir -p "$new/debs"
	# shellcheck disable=SC2046 # one word per package
	(cd "$new/debs" && apt apt-get download -qq $(packages_of "$name" "$version") >&2) || return 1
	unpack "$new" "$new"/debs/*.deb || return 1
	rm -rf "$new/debs" "$dir"
	echo "$version" >"$new/version"
	mv "$new" "$dir"
}

update() {
	if [ -z "$MIRROR" ]; then
		echo "no Debian mirror is known: TCPTOOLS_DEBIAN_MIRROR can name one" >&2
		return
	fi
	apt_conf
	apt apt-get update -qq >&2 || echo "the mirror $MIRROR cannot be reached, or not all of it" >&2
}

# fetch KERNEL...: the newest of each; one that is cached already serves when the mirror cannot be reached.
fetch() {
	local name ARCH APT known=
	mkdir -p "$CACHE/kernels"
	for name in "$@"; do
		suites_of "$name" >/dev/null || return 1
		ARCH=$(arch_of "$name")
		APT=$CACHE/apt-$ARCH
		[[ " $known " = *" $ARCH "* ]] || update
		known="$known $ARCH"
		fetch_one "$name" && continue
		if [ ! -e "$CACHE/kernels/$name/vmlinuz" ]; then
			echo "kernel $name cannot be had from ${MIRROR:-any mirror}, and $CACHE holds none" >&2
			return 1
		fi
		echo "kernel $name cannot be looked up: taking the one in $CACHE" >&2
	done
}
