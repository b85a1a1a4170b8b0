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

// targets is the table of what was promised and what was measured.
func targets(steps *steps, load, memory *result.File) string {
	var b strings.Builder
	b.WriteString("| what | target | measured | control |\n| --- | --- | ---: | ---: |\n")
	line := func(what, target, format string, measured float64, controls ...float64) {
		shown := ""
		for _, value := range controls {
			shown = fmt.Sprintf(format, value)
		}
		fmt.Fprintf(&b, "| %s | %s | "+format+" | %s |\n", what, target, measured, shown)
	}
	line("CPU of a collected beacon ÷ bare Caddy (pair)", "≤ control + 0.02", "%.3f",
		pairRatio(load, "collected", gate), pairRatio(load, "collected", control))
	line("time that a cached decision adds ÷ Caddy's own, %", "≤ 0.4", "%.2f",
		100*steps.get("bench Chain/collected/added", "added-ns")/steps.get("bench Chain/collected/proxied", "caddy-ns"))
	line("CPU of a collected beacon of 2 KB with `names` ÷ bare Caddy (pair)", "≤ 1.10", "%.3f",
		pairRatio(load, "body", "metrics_gate names"), pairRatio(load, "body", control))
	line("request that is neither gated nor a page, added ns", "≤ 20", "%.1f",
		steps.get("caddymodule ServeHTTP/not_gated", "ns/op")-steps.get("caddymodule ServeHTTP/bare", "ns/op"))
	line("the same, allocations", "0", "%.0f", steps.get("caddymodule ServeHTTP/not_gated", "allocs/op"))
	line("throughput of blocked beacons ÷ bare Caddy proxying them", "≥ 3.5", "%.2f",
		medianOver(load, "blocked", gate, bare, result.PerSecond), medianOver(load, "blocked", control, bare, result.PerSecond))
	line("CPU of blocked beacons ÷ `forward_auth`", "≤ 0.20", "%.2f", medianOver(load, "blocked", gate, forwardAuth, result.CPU))
	line("CPU of collected beacons ÷ `forward_auth`", "≤ 0.50", "%.2f", medianOver(load, "collected-solo", gate, forwardAuth, result.CPU))
	line("cached decision ÷ verifying its HS256 token", "≤ 0.04", "%.3f",
		steps.get("gate CachedDecision", "ns/op")/steps.get("gate Verify", "ns/op"))
	line("the same, allocations", "0", "%.0f", steps.get("gate CachedDecision", "allocs/op"))
	line("p99 at 1,000 requests a second ÷ bare Caddy", "≤ control + 0.05", "%.2f",
		medianOver(load, "rate", gate, bare, result.P99), medianOver(load, "rate", control, bare, result.P99))
	line("10,000 requests at once of one cold user, lookups", "1", "%.0f", steps.get("bench OneColdUser", "lookups"))
	line("first touch of 10,000 users ÷ floor", "≤ 1.35", "%.2f", firstTouch(load))
	if rows := find(memory, "memory").Rows; len(rows) > 1 {
		last := rows[len(rows)-1]
		line(fmt.Sprintf("%d users, bytes of live heap a user", last.Memory.Users), "≤ 300", "%.0f",
			(last.Memory.HeapBytes-rows[0].Memory.HeapBytes)/float64(last.Memory.Users))
		line("the same, p99 ÷ an empty cache", "≤ 1.2", "%.2f", result.Median(last.Over(rows[0], result.P99)))
	}
	line("preference hit, 64 goroutines ÷ 1", "≤ 1.5", "%.2f", steps.get("bench Contention/preference", "ratio"))
	line("CPU of a page with `handshake` ÷ bare Caddy (pair)", "≤ 1.10", "%.3f",
		pairRatio(load, "page", "metrics_gate handshake"), pairRatio(load, "page", control))
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		line(algorithm+" session after its first request ÷ HS256", "1.0", "%.2f", steps.get("bench Algorithms", algorithm))
	}
	return b.String() + fmt.Sprintf("\n*%s, %s. Medians of the tables below.*\n", load.Date, load.Machine)
}

func firstTouch(load *result.File) float64 {
	if row := find(load, "first-touch").Row(gate); row != nil {
		return result.Median(row.Of(result.OverFloor))
	}
	return math.NaN()
}
