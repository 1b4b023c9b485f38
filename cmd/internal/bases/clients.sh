#!/bin/sh
# Builds the clients of BuildKit that the tests speak to the daemon with, from the sources that Go's module proxy has:
#
#	buildctl   at the version that go.mod requires
#	buildx     at the version below
#
# They are built once and kept in the directory given, outside the source tree, each below a directory with its version.
# One that cannot be built, for want of a network say, is left out: the tests that need it skip themselves.
set -eu

buildx=v0.38.2 # what the scripts in cmd/internal/e2e/buildkit/testdata/buildx were written with

dir=${1:?usage: clients.sh DIRECTORY}
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9
again=$(cd "$(dirname "$0")" && pwd)/again.sh

# build MODULE VERSION NAME: their modules exclude versions of others, with which `go install` refuses to work; so each is
# built where its source lies, with its own requirements.
build() {
	out=$dir/$3-$2
	if [ ! -x "$out/$3" ]; then
		echo "building $3 $2, once"
		tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
		if (cd "$tmp" && "$again" go mod download -json "$1@$2") >"$tmp/log" 2>"$tmp/errors" &&
			src=$(sed -n 's/.*"Dir": "\(.*\)",*/\1/p' "$tmp/log") &&
			GOFLAGS='' CGO_ENABLED=0 "$again" go build -C "$src" -mod=readonly -trimpath -ldflags='-s -w' -o "$tmp/$3" "./cmd/$3" >"$tmp/log" 2>"$tmp/errors"; then
			mkdir -p "$out"
			mv "$tmp/$3" "$out/$3"
		else
			tail -n 5 "$tmp/log" "$tmp/errors" 2>/dev/null || true
			echo "$3 $2 was not built: the tests that need it are skipped"
		fi
		rm -rf "$tmp"
	fi
	ln -sfn "$3-$2/$3" "$dir/$3"
}

build github.com/moby/buildkit "$(go list -m -f '{{.Version}}' github.com/moby/buildkit)" buildctl
build github.com/docker/buildx "$buildx" buildx
