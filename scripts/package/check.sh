# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by package.sh: installs what was made into root directories, and tries it there as a user would.
# shellcheck shell=bash disable=SC2154 # package.sh has the variables

said() { printf '== %s\n' "$*" >&2; }
failed() {
	echo "package.sh: $*" >&2
	exit 1
}

# Only packages of this kind of machine can be tried.
foreign() {
	[ "$machine" != "$(uname -m)" ] || return 1
	said "$1 for $arch is not tried: this is a $(uname -m)"
}

# Refused connections on the loopback, until the file $1 is gone.
traffic() { while [ -e "$1" ]; do (: </dev/tcp/127.0.0.1/1) 2>/dev/null || sleep 0.05; done; }

# in_root ROOT COMMAND...: there, with /proc and /sys, in a mount namespace of its own.
in_root() {
	local root=$1
	shift
	# shellcheck disable=SC2016 # the inner shell's
	unshare --mount --pid --fork sh -c 'root=$1; shift; mkdir -p "$root/proc" "$root/sys"
		mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && exec chroot "$root" "$@"' sh "$root" "$@"
}

# watches ROOT COMMAND...: what the command, run there, prints of refused connections.
watches() {
	local busy generator
	busy=$(mktemp)
	traffic "$busy" >&2 &
	generator=$!
	in_root "$@" || true
	rm -f "$busy"
	wait "$generator"
}

# shows ROOT PATTERN COMMAND...: it prints a line like this.
shows() {
	local lines
	lines=$(watches "$1" "${@:3}")
	grep -m 1 -e "$2" <<<"$lines" >&2 || failed "no line like '$2' from: ${*:3}: $lines"
}

# shows_rows ROOT COMMAND...: the command, run there, shows them as rows.
shows_rows() { shows "$1" ' 127\.0\.0\.1 .* x ' "${@:2}"; }

check_static() {
	! foreign static || return 0
	local name=tcptools-$version-linux-$machine root
	root=$(mktemp -d)
	said "static: a root that has nothing but the file, /proc and /sys"
	! readelf -d "$out/$name" | grep NEEDED || failed "$name needs shared libraries"
	cp "$out/$name" "$root/tcptools"
	ln -s tcptools "$root/tcplife"
	shows_rows "$root" /tcplife -d 3
	shows_rows "$root" /tcptools tcplife -d 3
	in_root "$root" /tcptools check >/dev/null || failed "tcptools check fails in an empty root"
	in_root "$root" /tcpconnect -d 1s --dns 2>/dev/null || :
	rm -rf "$root"

	said "static: the tarball, installed and removed"
	root=$(mktemp -d)
	tar -xzf "$out/$name.tar.gz" -C "$root"
	(umask 077 && PREFIX=$root/usr "$root/$name/install.sh")
	[ "$("$root/usr/bin/tcptools" tcplife --version)" = "tcplife $version" ] || failed "the tarball does not work"
	[ -z "$(find "$root/usr" ! -type l ! -perm -o=r)" ] || failed "the tarball has files that users cannot read"
	PREFIX=$root/usr "$root/$name/install.sh" --uninstall
	[ ! -e "$root/usr/bin" ] && [ ! -e "$root/usr/share" ] || failed "the tarball leaves: $(find "$root/usr")"
	rm -rf "$root"
}

# debian_root: a fresh Debian, with what the package is tried beside. Kept as a tarball in target/package.
debian_root() {
	need mmdebstrap
	local tar=$work/debian.tar root
	[ -e "$tar" ] || mmdebstrap --quiet --variant=apt --include=libbpf-tools,man-db,bash-completion,zsh,fish,libelf1,zlib1g \
		"${TCPTOOLS_DEBIAN_SUITE:-bookworm}" "$tar" >&2
	root=$(mktemp -d)
	tar -xf "$tar" -C "$root"
	echo "$root"
}

# What is in a root, but for what every installation of any package touches.
listing() {
	(cd "$1" && find . \( -path ./proc -o -path ./sys -o -path ./tmp -o -path ./var/cache -o -path ./var/log \
		-o -path ./root -o -path ./var/lib/apt -o -path ./var/lib/dpkg -o -path ./var/lib/rpm \) -prune -o -print) | sort
}

# completes ROOT: the shells complete a flag of a command.
completes() {
	local got
	# shellcheck disable=SC2016 # the inner shell's
	got=$(in_root "$1" bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader tcptools
		COMP_WORDS=(tcptools tcplife --ready-fi) COMP_CWORD=2; _tcptools tcptools --ready-fi tcplife; echo "${COMPREPLY[@]}"')
	[ "$got" = --ready-file ] || failed "bash does not complete: $got"
	# shellcheck disable=SC2016 # the inner shell's
	got=$(in_root "$1" zsh -fc 'autoload -Uz compinit; compinit -u -D; echo "$_comps[tcptools]"; autoload +X _tcptools && echo loads')
	[ "$got" = $'_tcptools\nloads' ] || failed "zsh does not complete: $got"
	got=$(in_root "$1" fish -c 'complete -C "tcptools tcplife --ready-fi"')
	[[ $got = --ready-file* ]] || failed "fish does not complete: $got"
}

# pages ROOT: man finds and shows them.
pages() {
	local page text
	for page in tcptools tcptools-tcplife tcptools-json; do
		text=$(in_root "$1" env LC_ALL=C.UTF-8 MANPAGER=cat MANWIDTH=80 man "$page") || failed "man $page"
		grep -q 'SEE ALSO' <<<"$text" || failed "man $page shows no page"
	done
}

check_deb() {
	! foreign deb || return 0
	local root
	said "deb: lintian"
	need lintian
	lintian --fail-on error,warning --info "$out/tcptools_$version-1_$arch.deb"
	root=$(debian_root)
	said "deb: a fresh Debian, beside libbpf-tools"
	listing "$root" >"$work/before"
	cp "$out/tcptools_$version-1_$arch.deb" "$root/tmp/"
	in_root "$root" sh -c 'apt-get -qq -o Dpkg::Use-Pty=0 install /tmp/*.deb >/dev/null && dpkg -V tcptools libbpf-tools' || failed "the .deb cannot be installed"
	# Policy of minimal images: no documentation. Debian's own has it.
	[ "$(in_root "$root" sh -c 'command -v tcplife')" = /usr/sbin/tcplife ] || failed "libbpf-tools' tcplife is not found first"
	pages "$root"
	completes "$root"
	shows_rows "$root" tcptools tcplife -d 3
	shows "$root" refused tcptools triage -d 3
	said "deb: a user with CAP_BPF and CAP_PERFMON"
	shows_rows "$root" setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps -all,+bpf,+perfmon \
		--ambient-caps -all,+bpf,+perfmon --bounding-set -all,+bpf,+perfmon tcptools tcplife -d 3
	in_root "$root" dpkg --purge tcptools >/dev/null
	listing "$root" >"$work/after"
	diff "$work/before" "$work/after" >&2 || failed "the .deb leaves files behind"
	rm -rf "$root"
}

check_rpm() {
	! foreign rpm || return 0
	local root left file=$out/tcptools-$version-1.$machine.rpm own=()
	said "rpm: rpmlint"
	need rpmlint
	rpmlint -c packaging/rpmlint.toml "$file" >"$work/rpmlint" || failed "rpmlint: $(cat "$work/rpmlint")"
	! grep -E ': [EW]: ' "$work/rpmlint" >&2 || failed "rpmlint has warnings"
	root=$(debian_root)
	said "rpm: a root of its own"
	listing "$root" >"$work/before"
	# No rpm of this root's libraries is in its database, which is empty.
	# Debian's own rpm has to be told that this is no Debian package's place.
	! grep -q Debian /etc/os-release || own=(--force-debian)
	rpm "${own[@]}" --root "$root" --dbpath /var/lib/rpm -i --nodeps "$file"
	[ -z "$(rpm "${own[@]}" --root "$root" --dbpath /var/lib/rpm -V --nodeps tcptools)" ] || failed "rpm -V finds differences"
	pages "$root"
	shows_rows "$root" tcptools tcplife -d 3
	rpm "${own[@]}" --root "$root" --dbpath /var/lib/rpm -e --nodeps tcptools
	listing "$root" >"$work/after"
	# Empty directories of Debian's, which rpm does not know of, may go.
	left=$(comm -13 "$work/before" "$work/after")
	[ -z "$left" ] || failed "the .rpm leaves files behind: $left"
	rm -rf "$root"
}

check_crate() {
	local dir
	dir=$(mktemp -d)
	tar -xzf "$out/tcptools-$version.crate" -C "$dir"
	cd "$dir/tcptools-$version"
	said "crate: what its README and documentation link is in it"
	grep -ohE '\]\((docs/)?[a-z/0-9-]+\.md' README.md | sed 's/](//' | while read -r file; do
		[ -e "$file" ] || failed "the source package has no $file"
	done
	for file in demo.sh check.sh kernels.sh bench.sh package.sh examples/traffic.rs man/man8/tcptools.8; do
		[ -e "$file" ] || failed "the source package has no $file"
	done
	cd - >/dev/null
	said "crate: cargo install"
	cargo_for dynamic install --quiet --path "$dir/tcptools-$version" --root "$dir/root" --features single
	[ "$("$dir/root/bin/tcptools" tcplife --version)" = "tcplife $version" ] || failed "cargo install does not work"
	rm -rf "$dir"
}
