#!/bin/sh
# Runs a command that needs the network, and runs it again if it fails, four times in all: a mirror or a proxy that
# stumbles once must not end a whole run of the tests.
set -u

for pause in 2 5 15 0; do
	"$@" && exit 0
	code=$?
	[ "$pause" = 0 ] || { echo "trying again in $pause s: $*" >&2; sleep "$pause"; }
done
exit "$code"
