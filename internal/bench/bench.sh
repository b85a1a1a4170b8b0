#!/bin/sh
# bench.sh [baseline]
# Runs the benchmarks of every step and compares them, as ratios, with those
# that were committed for this machine. All of them run once, then all of them
# again: a slow minute of the machine then hits every benchmark a little, and
# none of them wholly. With the word baseline, the latest results become what
# later ones are compared with.
# COUNT (6) says how often, BENCHTIME (500ms) how long each.
set -eu
cd "$(dirname "$0")/../.."

model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)
procs=${GOMAXPROCS:-$(getconf _NPROCESSORS_ONLN)}
machine=$(printf '%s' "${model:-$(uname -sm)} x$procs" | tr -cs 'A-Za-z0-9' '-')
baseline=internal/bench/baseline/$machine.txt
latest=internal/bench/results/bench.txt
mkdir -p internal/bench/baseline internal/bench/results

if [ "${1:-}" = baseline ]; then
	cp "$latest" "$baseline"
	echo "$baseline is now what make bench compares with"
	exit
fi

packages="./internal/bench ./browser ./caddymodule ./policy ./profileclient ./profileserver ./session ./token"
for n in $(seq "${COUNT:-6}"); do
	echo "round $n of ${COUNT:-6}" >&2
	# shellcheck disable=SC2086 # several packages
	go test -run '^$' -bench . -benchmem -benchtime "${BENCHTIME:-500ms}" -timeout 30m -skip Throughput $packages
	for procs in 1 2; do
		GOMAXPROCS=$procs go test -run '^$' -bench Throughput -benchtime "${BENCHTIME:-500ms}" ./internal/bench
	done
done > "$latest.part" || { cat "$latest.part"; exit 1; }
{
	echo "date: $(date -u +%F)"
	echo "command: COUNT=${COUNT:-6} BENCHTIME=${BENCHTIME:-500ms} make bench"
	cat "$latest.part"
} > "$latest"
rm "$latest.part"

if [ -f "$baseline" ]; then
	go tool -modfile=tools/go.mod benchstat "baseline=$baseline" "now=$latest"
else
	go tool -modfile=tools/go.mod benchstat "now=$latest"
	echo "no baseline of this machine ($machine); make bench-baseline keeps these as one"
fi
