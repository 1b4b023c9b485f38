#!/usr/bin/env bash
# The demo: builds a multi-stage image twice with a daemon and a store of its own, and shows what came of it.
set -euo pipefail

bin=$(cd "$1" && pwd)
bases=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

if [ "$(id -u)" != 0 ]; then
	exec sudo env PATH="$PATH" "$0" "$bin" "$bases"
fi
work=$(mktemp -d)
export BOXBUILD_ROOT=$work/root
unset BOXBUILD_ADDR
boxbuild=$bin/boxbuild

finish() {
	status=$?
	# The daemon would leave by itself when it has been idle for a while; the demo does not make anybody wait for that.
	if read -r pid _ <"$BOXBUILD_ROOT/lock" && [ -n "$pid" ]; then
		kill "$pid" 2>/dev/null || true
		for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
	fi 2>/dev/null
	rm -rf "$work"
	exit $status
}
trap finish EXIT

run() {
	printf '\n\033[1m$ %s\033[0m\n' "$*"
	"$@"
}
seconds() { date +%s.%N; }
took() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b - a }'; }

cd "$here/testdata/demo"
echo "The base images, from Debian packages:"
run "$boxbuild" import "$bases/busybox.tar" busybox:latest
run "$boxbuild" import -c 'CMD ["bash"]' "$bases/debian-bookworm.tar" debian:bookworm

echo
echo "The first build runs every step:"
a=$(seconds)
run "$boxbuild" build --progress plain -t demo:1 .
b=$(seconds)
echo
echo "The second one finds them all:"
run "$boxbuild" build --progress plain -t demo:1 .
c=$(seconds)

echo
echo "What it made:"
run "$boxbuild" images
run "$boxbuild" history demo:1
run "$boxbuild" build -q --progress quiet -o "$work/out" .
run ls -l "$work/out" "$work/out/web"
run "$work/out/hello"
run cat "$work/out/web/nginx-test"
run "$boxbuild" df

printf '\nfirst build: %s s, second build: %s s\n' "$(took "$a" "$b")" "$(took "$b" "$c")"
