package result

import (
	"fmt"
	"slices"
	"strings"
)

// forwardAuth is the row that others are also compared with.
const forwardAuth = "caddy forward_auth"

type column struct {
	head string
	cell func(*Scenario, *Row) string
}

// spread writes a median with the least and the greatest value.
func spread(format string, values []float64) string {
	if len(values) == 0 {
		return ""
	}
	if len(values) == 1 {
		return fmt.Sprintf(format, values[0])
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", Median(values), slices.Min(values), slices.Max(values))
}

func of(head, format string, value func(Sample) float64) column {
	return column{head, func(_ *Scenario, r *Row) string { return spread(format, r.Of(value)) }}
}

func median(head, format string, value func(Sample) float64) column {
	return column{head, func(_ *Scenario, r *Row) string { return fmt.Sprintf(format, Median(r.Of(value))) }}
}

// over is the ratio to the bare proxy of the same host, or to a named row.
func over(head, named string, value func(Sample) float64) column {
	return column{head, func(s *Scenario, r *Row) string {
		other := s.Row(named)
		if named == "" {
			other = s.Row(r.Bare)
		}
		return spread("%.2f", r.Over(other, value))
	}}
}

var failures = column{"failed", func(_ *Scenario, r *Row) string {
	failed := 0
	for _, sample := range r.Samples {
		failed += sample.Failed
	}
	return fmt.Sprint(failed)
}}

var contender = column{"contender", func(_ *Scenario, r *Row) string { return r.Contender }}

var columns = map[Mode][]column{
	Pair: {
		contender,
		of("CPU ÷ bare", "%.3f", PairRatio),
		median("CPU µs a request", "%.1f", CPU),
		median("bare", "%.1f", func(s Sample) float64 { return s.BareCPU }),
		failures,
	},
	Settings: {
		{"setting", contender.cell},
		of("CPU ÷ without", "%.3f", PairRatio),
		median("CPU µs a request", "%.1f", CPU),
		median("without", "%.1f", func(s Sample) float64 { return s.BareCPU }),
		failures,
	},
	Solo: {
		contender,
		of("requests/s", "%.0f", PerSecond),
		over("÷ bare", "", PerSecond),
		of("CPU µs a request", "%.1f", CPU),
		over("÷ bare", "", CPU),
		over("÷ forward_auth", forwardAuth, CPU),
		median("p50 µs", "%.0f", P50),
		median("p99 µs", "%.0f", P99),
		// Well below 100, something else held the contender back.
		median("core busy %", "%.0f", func(s Sample) float64 { return s.CPU * PerSecond(s) / 1e4 }),
		median("passed on %", "%.0f", func(s Sample) float64 { return 100 * s.Passed }),
		failures,
	},
	Answer: {
		contender,
		of("p50 µs", "%.0f", P50),
		over("÷ bare", "", P50),
		of("p99 µs", "%.0f", P99),
		median("passed on %", "%.0f", func(s Sample) float64 { return 100 * s.Passed }),
		failures,
	},
	Rate: {
		contender,
		of("p50 µs", "%.0f", P50),
		of("p99 µs", "%.0f", P99),
		over("p99 ÷ bare", "", P99),
		median("CPU µs a request", "%.1f", CPU),
		failures,
	},
	FirstTouch: {
		contender,
		of("ms for all", "%.0f", func(s Sample) float64 { return 1000 * s.Seconds }),
		of("÷ floor", "%.2f", OverFloor),
		median("lookups", "%.0f", func(s Sample) float64 { return float64(s.Lookups) }),
		failures,
	},
	Memory: {
		{"users", func(_ *Scenario, r *Row) string { return fmt.Sprint(r.Memory.Users) }},
		{"live heap MB", func(_ *Scenario, r *Row) string { return fmt.Sprintf("%.1f", r.Memory.HeapBytes/1e6) }},
		{"bytes a user", func(s *Scenario, r *Row) string {
			if r.Memory.Users == 0 {
				return ""
			}
			return fmt.Sprintf("%.0f", (r.Memory.HeapBytes-s.Rows[0].Memory.HeapBytes)/float64(r.Memory.Users))
		}},
		{"RSS MB", func(_ *Scenario, r *Row) string { return fmt.Sprintf("%.0f", r.Memory.RSS/1e6) }},
		{"full collection ms", func(_ *Scenario, r *Row) string { return fmt.Sprintf("%.1f", r.Memory.CollectionMS) }},
		{"longest pause ms", func(_ *Scenario, r *Row) string { return fmt.Sprintf("%.2f", r.Memory.PauseMS) }},
		of("p99 µs", "%.0f", P99),
		over("p99 ÷ empty", "", P99),
		failures,
	},
}

// ProfileDelay is how long the profile server takes in FirstTouch, in seconds.
const ProfileDelay = 0.005

// OverFloor divides by the time that the lookups alone take if every
// connection waits for one after the other and nothing else takes any.
func OverFloor(s Sample) float64 {
	return s.Seconds / (float64(s.Requests) * ProfileDelay / FirstTouchConnections)
}

// FirstTouchConnections is how many of them ask at once in FirstTouch.
const FirstTouchConnections = 32

// Markdown is the scenario's table.
func (s *Scenario) Markdown() string {
	var b strings.Builder
	line := func(cell func(column) string) {
		for _, c := range columns[s.Mode] {
			b.WriteString("| " + cell(c) + " ")
		}
		b.WriteString("|\n")
	}
	line(func(c column) string { return c.head })
	line(func(c column) string {
		return map[bool]string{true: "---", false: "---:"}[c.head == "contender" || c.head == "setting"]
	})
	for _, row := range s.Rows {
		line(func(c column) string { return c.cell(s, row) })
	}
	return b.String()
}
