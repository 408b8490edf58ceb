# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by package.sh: makes the packages.
# shellcheck shell=bash disable=SC2154 # package.sh has the variables

# The shared libraries of a binary, as Debian's packages and their versions. For another kind of machine, those of the
# same build for this one: nothing here knows that kind's packages.
depends() {
	local own=$1
	[ "$machine" = "$(uname -m)" ] || own=$(machine=$(uname -m) profile=dev build dynamic)
	mkdir -p "$work/shlibs/debian"
	touch "$work/shlibs/debian/control"
	(cd "$work/shlibs" && dpkg-shlibdeps -O -e"$own" 2>/dev/null) | sed -n 's/^shlibs:Depends=//p'
}

# In one line of less than 80 characters, without an article or a dot, as both kinds of packages want it.
summary() { sed -n 's/^description = "Small \(.*\), from.*"/\1/p' Cargo.toml; }

make_deb() {
	local tree=$work/deb doc=usr/share/doc/tcptools binary
	binary=$(build dynamic)
	stage "$tree" "$binary" /usr share/zsh/vendor-completions
	find "$tree/usr/share/man" -type f -exec gzip -9n {} +
	# Debian has the licences in one file.
	rm "$tree/$doc"/LICENSE*
	scripts/licences.sh "$machine-unknown-linux-gnu" debian >"$tree/$doc/copyright"
	gzip -9n "$tree/$doc/CHANGELOG.md"
	mv "$tree/$doc/CHANGELOG.md.gz" "$tree/$doc/changelog.gz"
	gzip -9n >"$tree/$doc/changelog.Debian.gz" <<-END
		tcptools ($version-1) unstable; urgency=medium

		  * Version $version; changelog.gz says what is new.

		 -- $packager  $(date -u -d "@$SOURCE_DATE_EPOCH" -R)
	END
	install -D -m 644 packaging/lintian-overrides "$tree/usr/share/lintian/overrides/tcptools"
	find "$tree" -type f ! -path '*/usr/bin/*' -exec chmod 644 {} +
	mkdir "$tree/DEBIAN"
	(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
	cat >"$tree/DEBIAN/control" <<-END
		Package: tcptools
		Version: $version-1
		Section: net
		Priority: optional
		Architecture: $arch
		Depends: $(depends "$binary")
		Suggests: libbpf-tools
		Installed-Size: $(du -k -s --apparent-size "$tree/usr" | cut -f 1)
		Maintainer: $packager
		Description: $(summary)
	$(fold -s -w 78 packaging/description | sed 's/ *$//; s/^$/./; s/^/ /')
	END
	clamp "$tree"
	dpkg-deb --root-owner-group -Zxz -b "$tree" "$out/tcptools_$version-1_$arch.deb" >&2
}

make_rpm() {
	local tree=$work/rpm binary
	binary=$(build dynamic)
	stage "$tree" "$binary" /usr
	find "$tree/usr/share/man" -type f -exec gzip -9n {} +
	scripts/licences.sh "$machine-unknown-linux-gnu" >"$tree/usr/share/doc/tcptools/THIRD-PARTY"
	chmod 644 "$tree/usr/share/doc/tcptools/THIRD-PARTY"
	clamp "$tree"
	rpmbuild -bb --quiet --target "$machine" --define "_topdir $work/rpmbuild" --define "tree $tree" \
		--define "its_version $version" --define "its_packager $packager" --define "its_summary $(summary | sed 's/^c/C/')" \
		--define "its_date $(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" packaging/tcptools.spec >&2
	cp "$work/rpmbuild/RPMS/$machine/tcptools-$version-1.$machine.rpm" "$out/"
}

make_static() {
	local name=tcptools-$version-linux-$machine binary tree
	tree=$work/tarball/$name
	binary=$(build static)
	stage "$work/tarball" "$binary" "/$name"
	# Its pages name files of its own place.
	sed -i "s|/$name/share/doc|/usr/local/share/doc|g" "$tree"/share/man/man?/*
	scripts/licences.sh "$machine-unknown-linux-gnu" static >"$tree/share/doc/tcptools/THIRD-PARTY"
	cp scripts/lay.sh "$tree/install.sh"
	cp packaging/README.tarball "$tree/README"
	chmod 755 "$tree/install.sh"
	chmod 644 "$tree/README" "$tree/share/doc/tcptools/THIRD-PARTY"
	clamp "$tree"
	tar -C "$work/tarball" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu -cf - "$name" |
		gzip -9n >"$out/$name.tar.gz"
	cp -p "$binary" "$out/$name"
}

# The sources, with the man pages ready-made: `cargo install` and `scripts/install.sh` need no lowdown.
make_crate() {
	rm -rf man
	scripts/man.sh man
	CARGO_TARGET_DIR=$work cargo package --locked --no-verify --allow-dirty --quiet >&2
	rm -rf man
	cp "$work/package/tcptools-$version.crate" "$out/"
}
