#!/bin/sh
# Makes the root file systems that the demo and the tests build on, from Debian packages alone:
#
#	busybox.tar           busybox-static with its links
#	debian-bookworm.tar   a minimal Debian 12
#
# They are made once and kept in the directory given, outside the source tree. Each appears under its final name only
# when it is whole.
set -eu
umask 022 # what users in the images can read does not depend on who makes them

dir=${1:?usage: bases.sh DIRECTORY}
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9

tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM

if [ ! -f "$dir/busybox.tar" ]; then
	root=$tmp/busybox
	mkdir -p "$root/bin" "$root/etc" "$root/root" "$root/tmp" "$root/var" "$root/usr" "$root/home"
	chmod 1777 "$root/tmp"
	chmod 700 "$root/root"
	cp /usr/bin/busybox "$root/bin/busybox"
	for applet in $(/usr/bin/busybox --list); do
		[ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"
	done
	printf 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
	printf 'root:x:0:\ndaemon:x:1:\nusers:x:100:daemon\nnogroup:x:65534:\n' >"$root/etc/group"
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$root" -cf "$tmp/busybox.tar" .
	mv "$tmp/busybox.tar" "$dir/busybox.tar"
fi

if [ ! -f "$dir/debian-bookworm.tar" ]; then
	root=$tmp/debian
	mkdir "$tmp/debs" # what has been downloaded is there when it is tried again
	# shellcheck disable=SC2016 # it is the inner shell that expands
	"$(dirname "$0")/again.sh" sh -c 'rm -rf --one-file-system "$1" &&
		debootstrap --variant=minbase --include=ca-certificates --cache-dir="$2" bookworm "$1"' sh "$root" "$tmp/debs" >"$tmp/log" 2>&1 ||
		{ tail -n 20 "$tmp/log" >&2; exit 1; }
	# As Debian's own images do: no package files kept, no services started.
	printf 'Binary::apt::APT::Keep-Downloaded-Packages "false";\nAPT::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/docker-clean"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/dev/* "$root/etc/hostname" "$root/etc/resolv.conf"
	tar --sort=name --numeric-owner -C "$root" -cf "$tmp/debian-bookworm.tar" .
	mv "$tmp/debian-bookworm.tar" "$dir/debian-bookworm.tar"
fi
