#!/bin/sh
# Installs the Debian packages named that are not installed yet.
set -eu

missing=
for p in "$@"; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
again=$(dirname "$0")/again.sh
# A machine that has just come up may be updating itself: its locks are waited for.
apt="$sudo apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
# shellcheck disable=SC2086 # the lists are split on purpose
{ "$again" $apt update && "$again" $apt install -y --no-install-recommends $missing; } >"$log" 2>&1 ||
	{ tail -n 30 "$log" >&2; exit 1; }
