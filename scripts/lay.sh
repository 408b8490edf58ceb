#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Lays a finished tree (bin, libexec, share) below PREFIX, /usr/local by default, and notes its files there. In a tarball
# it is install.sh, beside the tree.
#
#   install.sh [TREE]        by default the directory that it is in
#   install.sh --uninstall   removes what was noted, and directories that are then empty
#
# DESTDIR: a directory to install below, for packages; nothing is noted then.
set -eu
umask 022
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
noted=$root/share/doc/tcptools/installed-files
fail() {
	echo "$1" >&2
	exit 1
}

# What was noted and is not in a list: removed, with directories that are then empty.
remove_but() {
	[ -f "$noted" ] || return 0
	grep -vxF -f "$1" "$noted" >"$list.old" || :
	while read -r file; do rm -f "$root/$file"; done <"$list.old"
	while read -r file; do
		dir=$(dirname "$file")
		while [ "$dir" != . ]; do
			rmdir "$root/$dir" 2>/dev/null || break
			dir=$(dirname "$dir")
		done
	done <"$list.old"
}

list=$(mktemp)
trap 'rm -f "$list" "$list.old"' EXIT
if [ "${1:-}" = --uninstall ]; then
	[ -f "$noted" ] || fail "nothing was installed to $root by this script: there is no $noted"
	[ -w "$root/share/doc/tcptools" ] || fail "cannot remove from $root: run it as root"
	echo >"$list"
	remove_but "$list"
	exit
fi
tree=${1:-$(dirname "$0")}
[ -x "$tree/bin/tcptools" ] || fail "there is nothing to install in $tree"
above=$root
while [ ! -e "$above" ]; do above=$(dirname "$above"); done
for dir in "$above" "$root/bin" "$root/libexec" "$root/share"; do
	[ ! -e "$dir" ] || [ -w "$dir" ] || fail "cannot write to $dir: run it as root, or set PREFIX"
done

cd "$tree"
find bin libexec share ! -type d | sort >"$list"
remove_but "$list"
while read -r file; do
	mkdir -p "$root/$(dirname "$file")"
	case $file in
	bin/* | libexec/*)
		if [ -L "$file" ]; then
			rm -f "$root/$file"
			ln -s "$(readlink "$file")" "$root/$file"
		else
			install -m 755 "$file" "$root/$file"
		fi
		;;
	*) install -m 644 "$file" "$root/$file" ;;
	esac
done <"$list"
[ -n "${DESTDIR:-}" ] || {
	echo share/doc/tcptools/installed-files >>"$list"
	install -m 644 "$list" "$noted"
}
