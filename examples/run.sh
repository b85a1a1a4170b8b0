#!/bin/sh
# Runs the demonstration of Caddyfile.example with the ./caddy that `make run`
# built, and http://localhost:8080 is the page to open. Ctrl-C ends it.
#
# Signing in is not what this demonstration is about, so the demo users' session
# tokens are minted here, as the sign-in of a real application would do, and the
# Caddyfile hands them out as cookies.
set -eu
cd "$(dirname "$0")/.."

if [ ! -x ./caddy ]; then
	echo "examples/run.sh: there is no ./caddy here yet; 'make run' builds it and comes back" >&2
	exit 1
fi

# Two Caddys can listen to the same ports, and each would get some of the requests.
if ! ./caddy metrics-gate status --address localhost:2019 2>&1 | grep -q 'performing request'; then
	echo "examples/run.sh: a Caddy runs here already (its admin API is at localhost:2019); end it with Ctrl-C where it was started, or with ./caddy stop" >&2
	exit 1
fi

# session prints the token of one account, good for a day. The issuer and the
# audience are those that Caddyfile.example asks for; client id and scope let
# its holder read and write the own preference at the profile server.
session() {
	./caddy metrics-gate token --uid "$1" \
		--key examples/keys/session.secret \
		--issuer http://localhost:8080 --audience http://localhost:8080 \
		--client-id demo-page --scope profile:write --lifetime 24h
}

# examples/page/demo.js has the same two uids, for the beacons that name them.
DEMO_SESSION_ANN=$(session 0a110a110a110a110a110a110a110a11)
DEMO_SESSION_BEN=$(session 0be00be00be00be00be00be00be00be0)
export DEMO_SESSION_ANN DEMO_SESSION_BEN

# The line to act on comes when there is something to open, below what Caddy logs
# as it starts.
{
	tries=0
	until ./caddy metrics-gate status --address localhost:2019 >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ "$tries" -lt 100 ] || exit 0
		sleep 0.2
	done
	echo "Metrics Gate: open http://localhost:8080, and http://localhost:8083 for another application (Ctrl-C ends it)"
} &
exec ./caddy run --config Caddyfile.example
