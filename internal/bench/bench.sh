#!/bin/sh
# bench.sh [baseline]
# Runs the benchmarks of every step and compares them, as ratios, with those
# that were committed for this machine. All of them run once, then all of them
# again: a slow minute of the machine then hits every benchmark a little, and
# none of them wholly. With the word baseline, the latest results become what
# later ones are compared with. One that fails ends the run, and the results of
# the one before stay.
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
	[ -f "$latest" ] || { echo "there are no results yet: run make bench first" >&2; exit 1; }
	# It is there to be committed.
	[ "$(wc -c < "$latest")" -lt 200000 ] || { echo "$latest is not below 200 kB: look for what it says again and again" >&2; exit 1; }
	cp "$latest" "$baseline"
	echo "$baseline is now what make bench compares with"
	exit
fi

# measure runs benchmarks and adds what they print to the results. Whoever calls
# it must not stand before an ||, where the shell looks at the last command only.
measure() {
	go test -run '^$' -benchtime "${BENCHTIME:-500ms}" -timeout 30m "$@" >> "$latest.part" || {
		grep -m 20 -A 5 -E '^(--- FAIL|FAIL|panic:)' "$latest.part" >&2
		echo "the benchmarks failed; $latest.part has all that they printed" >&2
		exit 1
	}
}

packages=$(go list ./... | grep -v /metricsgate/tests) # tests/ measures whole machines
{
	echo "date: $(date -u +%F)"
	echo "command: COUNT=${COUNT:-6} BENCHTIME=${BENCHTIME:-500ms} make bench"
} > "$latest.part"
for n in $(seq "${COUNT:-6}"); do
	echo "round $n of ${COUNT:-6}" >&2
	# shellcheck disable=SC2086 # several packages
	measure -bench . -benchmem -skip Throughput $packages
	for procs in 1 2; do
		(export GOMAXPROCS="$procs"; measure -bench Throughput ./internal/bench)
	done
done
mv "$latest.part" "$latest"

# Where dates and commands counted, results of two days would never be compared.
benchstat="go tool -modfile=tools/go.mod benchstat -ignore date,command"
if [ -f "$baseline" ]; then
	$benchstat "baseline=$baseline" "now=$latest"
else
	$benchstat "now=$latest"
	echo "no baseline of this machine ($machine); make bench-baseline keeps these as one"
fi
