#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: Firefox (ESR) and Chromium,
# for the tests of what a browser does and sees, PostgreSQL and PgBouncer, of
# which tests start servers of their own, nginx, to stand in front of the gate,
# Prometheus, which tests alerts and dashboard and, with jq and curl, answers what
# docs/audit.md asks, systemd-analyze, which tests the units, Node.js, for servers
# that stand behind it or that it asks and for the SDKs that it is proven with, and
# the C compiler without which Go has no race detector. On Debian it does so by
# itself where it may. "tests/setup.sh spellings" brings what make spellings needs
# besides.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
for browser in firefox-esr chromium; do
	command -v "$browser" >/dev/null || missing+=("$browser")
done
# Debian keeps the server's programs out of the PATH.
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx)
command -v promtool >/dev/null || missing+=(prometheus)
command -v jq >/dev/null || missing+=(jq)
command -v curl >/dev/null || missing+=(curl)
command -v systemd-analyze >/dev/null || missing+=(systemd)
# A compiler without the C library's headers is not enough. It can come with
# arguments, such as "clang -m64".
compiler=$(go env CC)
echo '#include <stdlib.h>' | $compiler -fsyntax-only -xc - 2>/dev/null || missing+=("${compiler%% *}" libc6-dev)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ "${1:-}" = spellings ]; then
	command -v javac >/dev/null || missing+=(default-jdk-headless)
	[ -e /usr/share/java/tomcat10-embed-core.jar ] || missing+=(libtomcat10-embed-java)
	/usr/bin/python3 -c 'import flask' 2>/dev/null || missing+=(python3-flask)
fi
if [ ${#missing[@]} != 0 ]; then
	if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
		echo "tests/setup.sh: the tests need ${missing[*]}; install it (Debian: sudo apt-get install ${missing[*]}) and run this again" >&2
		exit 1
	fi
	echo "tests/setup.sh: installing ${missing[*]} for the tests"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
# npm's own copy of the lock file says what was installed last.
for project in spellings fxa sdks; do
	(cd "$project" && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent; })
done
