#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: Chromium, for the tests
# of what a browser sees. On Debian and Ubuntu it does so by itself where it may.
set -euo pipefail

command -v chromium >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
	echo "tests/setup.sh: installing Chromium for the browser tests"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
	exit 0
fi
echo "tests/setup.sh: the tests need Chromium, as chromium in the PATH; install it (Debian: sudo apt-get install chromium) and run this again" >&2
exit 1
