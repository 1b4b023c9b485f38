# Compiles the program with whichever compiler there is.
set -eu
mkdir -p "$(dirname "$1")"
if command -v go >/dev/null; then
	CGO_ENABLED=0 go build -ldflags '-s -w' -o "$1" hello.go
else
	cc -static -O2 -o "$1" hello.c
fi
"$1"
