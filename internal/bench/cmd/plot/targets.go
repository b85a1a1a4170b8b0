package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

const gate, control, bare, forwardAuth = "metrics_gate", "caddy bare again", "caddy bare", "caddy forward_auth"

// medianOver is the median of the ratios, round by round, of two rows of a
// scenario.
func medianOver(file *result.File, name, contender, below string, value func(result.Sample) float64) float64 {
	s := find(file, name)
	row, other := s.Row(contender), s.Row(below)
	if row == nil || other == nil {
		return math.NaN()
	}
	return result.Median(row.Over(other, value))
}

func find(file *result.File, name string) *result.Scenario {
	for _, s := range file.Scenarios {
		if s.Name == name {
			return s
		}
	}
	return new(result.Scenario)
}

func pairRatio(file *result.File, name, contender string) float64 {
	if row := find(file, name).Row(contender); row != nil {
		return result.Median(row.Of(result.PairRatio))
	}
	return math.NaN()
}

// table is one of figures, what they should be, and what the control reads.
type table struct{ strings.Builder }

func newTable() *table {
	t := new(table)
	t.WriteString("| what | target | measured | control |\n| --- | --- | ---: | ---: |\n")
	return t
}

func (t *table) line(what, target, format string, measured float64, controls ...float64) {
	shown := ""
	for _, value := range controls {
		shown = fmt.Sprintf(format, value)
	}
	fmt.Fprintf(t, "| %s | %s | "+format+" | %s |\n", what, target, measured, shown)
}

// targets is the table of what should be reached and what was measured.
func targets(steps *steps, load, memory *result.File) string {
	t := newTable()
	pair := func(what, target, scenario, contender string) {
		t.line(what, target, "%.2f", pairRatio(load, scenario, contender), pairRatio(load, scenario, control))
	}
	pair("CPU of a collected beacon, JWT session ÷ bare Caddy", "≤ control + 0.03", "collected", gate)
	pair("the same, the gate's own session", "≤ control + 0.03", "own-session", "metrics_gate own session")
	pair("the same, JWT and a second session that cannot be verified", "≤ control + 0.06", "second-credential", gate)
	pair("the same, the body names the account; both with `request_buffers`", "≤ 1.12", "body", "metrics_gate names, request_buffers")
	pair("the same, a batch of 50 events compressed by gzip, each of which names it", "≤ 1.35", "batch", "metrics_gate batch")
	t.line("time until the client has its answer, reply hidden, application of 1 ms ÷ bare Caddy", "≤ 0.6", "%.2f",
		medianOver(load, "answer", "metrics_gate names", bare, result.P50), medianOver(load, "answer", control, bare, result.P50))
	t.line("throughput of blocked beacons ÷ `caddy respond`", "≥ 0.95", "%.2f", medianOver(load, "blocked", gate, "caddy respond", result.PerSecond))
	pair("CPU of a page with `handshake` ÷ bare Caddy", "≤ 1.08", "page", "metrics_gate handshake")
	pair("the same, 30 KB of which the configuration is changed", "≤ 1.20", "page-config", "metrics_gate handshake")
	t.line("request that is neither gated nor a page, 14 presets ÷ one route", "≤ 1.3", "%.2f", steps.most("bench Ungated/", "ratio"))
	t.line("the same, allocations", "0", "%.0f", steps.get("caddymodule ServeHTTP/not_gated", "allocs/op"))
	t.line("cached decision ÷ verifying its HS256 token, 9,000 users in turn", "≤ 0.06", "%.3f", steps.get("gate DecisionsInTurn", "many"))
	t.line("the same, one user, whom the processor's caches hold", "", "%.3f", steps.get("gate DecisionsInTurn", "one"))
	t.line("p99 at 1,000 requests a second ÷ bare Caddy", "≤ control + 0.05", "%.2f",
		medianOver(load, "rate", gate, bare, result.P99), medianOver(load, "rate", control, bare, result.P99))
	t.line("first beacons of 10,000 users ÷ the time that their lookups take", "≤ 1.30", "%.2f", firstTouch(load))
	t.line("10,000 requests at once of one cold user, lookups", "1", "%.0f", steps.get("bench OneColdUser", "lookups"))
	if rows := find(memory, "memory").Rows; len(rows) > 1 {
		last := rows[len(rows)-1]
		t.line(fmt.Sprintf("%d users, bytes of live heap a user", last.Memory.Users), "≤ 260", "%.0f",
			(last.Memory.HeapBytes-rows[0].Memory.HeapBytes)/float64(last.Memory.Users))
		t.line("the same, p99 ÷ an empty cache", "≤ 1.1", "%.2f", result.Median(last.Over(rows[0], result.P99)))
	}
	t.line("KB of memory of a request handed on behind a hidden reply, application hanging", "bounded: 1,024 of them", "%.0f",
		(steps.get("bench HandedOn", "heap-B/request")+steps.get("bench HandedOn", "stack-B/request"))/1e3)
	return t.String() + fmt.Sprintf("\n*%s, %s. Medians; CPU of both at the same moment on the same core.*\n", load.Date, load.Machine)
}

// ratios is the table of what has no target of its own any more, or no time for one
// operation.
func ratios(steps *steps, load *result.File) string {
	t := newTable()
	t.line("time that a cached decision adds ÷ Caddy's own, %", "", "%.2f",
		100*steps.get("bench Chain/collected/added", "added-ns")/steps.get("bench Chain/collected/proxied", "caddy-ns"))
	t.line("request that is neither gated nor a page, added ns", "≤ 20", "%.1f",
		steps.get("caddymodule ServeHTTP/not_gated", "ns/op")-steps.get("caddymodule ServeHTTP/bare", "ns/op"))
	t.line("throughput of blocked beacons ÷ bare Caddy proxying them", "", "%.2f",
		medianOver(load, "blocked", gate, bare, result.PerSecond), medianOver(load, "blocked", control, bare, result.PerSecond))
	t.line("CPU of blocked beacons ÷ `forward_auth`", "", "%.2f", medianOver(load, "blocked", gate, forwardAuth, result.CPU))
	t.line("CPU of collected beacons ÷ `forward_auth`", "", "%.2f", medianOver(load, "collected-solo", gate, forwardAuth, result.CPU))
	t.line("preference hit, 64 goroutines ÷ 1", "≤ 1.5", "%.2f", steps.get("bench Contention/preference", "ratio"))
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		t.line(algorithm+" session after its first request ÷ HS256", "1.0", "%.2f", steps.get("bench Algorithms", algorithm))
	}
	return t.String() + steps.origin()
}

func firstTouch(load *result.File) float64 {
	if row := find(load, "first-touch").Row(gate); row != nil {
		return result.Median(row.Of(result.OverFloor))
	}
	return math.NaN()
}
