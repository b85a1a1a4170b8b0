#!/usr/bin/env bash
# Builds ./caddy: Caddy with its standard modules and Metrics Gate, from this
# tree. Versions are pinned, here and in
# tools/go.mod, so that two runs build the same.
#
#	./xcaddy.sh                                        Metrics Gate only
#	./xcaddy.sh --with github.com/mholt/caddy-ratelimit   and another plugin
set -euo pipefail
cd "$(dirname "$0")"

caddy_version=v2.11.9
module=github.com/metricsgate/metricsgate

command -v go >/dev/null || { echo "xcaddy.sh: Go is not installed; see https://go.dev/dl" >&2; exit 1; }

# Which Metrics Gate it is, for status and the metric of it: the tag, or else the
# commit. Where that comes with a replacement, Go takes this tree without ever
# asking a proxy for the module.
version=v0.0.0
if tag=$(git describe --tags --exact-match --dirty --match 'v[0-9]*' 2>/dev/null); then
	version=$tag
elif commit=$(git describe --always --exclude '*' --abbrev=12 --dirty 2>/dev/null); then
	version=v0.0.0-g$commit
fi
go tool -modfile=tools/go.mod xcaddy build "$caddy_version" \
	--output ./caddy --with "$module@$version=." "$@"

# A binary that was built is not yet one that works.
modules=$(./caddy list-modules)
for name in http.handlers.metrics_gate http.matchers.metrics_optout http.handlers.profile_server; do
	grep -qx "$name" <<<"$modules" || { echo "xcaddy.sh: $name is missing from the binary" >&2; exit 1; }
done
./caddy validate --config Caddyfile.example >/dev/null 2>&1 || {
	echo "xcaddy.sh: the binary refuses Caddyfile.example; run ./caddy validate --config Caddyfile.example" >&2
	exit 1
}
echo "built ./caddy: Caddy $(./caddy version | cut -d' ' -f1) with Metrics Gate"
