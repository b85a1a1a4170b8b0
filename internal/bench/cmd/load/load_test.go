package main

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

func TestMain(m *testing.M) {
	serveStub()
	os.Exit(m.Run())
}

// TestTablesAreComplete runs everything for a moment. What comes out are no
// figures, but every gate did gate, every request got its answer, and no cell
// of a table that has to be there is empty.
func TestTablesAreComplete(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what builds and runs Caddy")
	}
	t.Parallel()
	r := &rig{rounds: 1, seconds: 50 * time.Millisecond, warm: 100, cached: []int{0, 300}, only: regexp.MustCompile("")}
	file, err := r.with(func(ctx context.Context, file *result.File) error {
		if err := r.load(ctx, file); err != nil {
			return err
		}
		return r.memory(ctx, file)
	})
	if err != nil {
		t.Fatal(err)
	}
	print(file)
	if want := len(scenarios(0)) + 1; len(file.Scenarios) != want {
		t.Errorf("%d scenarios, want %d", len(file.Scenarios), want)
	}
	for _, s := range file.Scenarios {
		for _, row := range s.Rows {
			if len(row.Samples) != 1 {
				t.Errorf("%s, %s: %d samples", s.Name, row.Contender, len(row.Samples))
				continue
			}
			sample := row.Samples[0]
			if sample.Requests == 0 || sample.Failed > 0 || sample.CPU <= 0 || len(sample.Latency) != len(result.Percentiles) {
				t.Errorf("%s, %s: %+v", s.Name, row.Contender, sample)
			}
			if s.Mode == result.Pair && sample.BareCPU <= 0 {
				t.Errorf("%s, %s: the bare proxy used no processor", s.Name, row.Contender)
			}
			gated := row.Bare != "" && row.Contender != "caddy bare again"
			if s.Name == "blocked" && (sample.Passed == 0) != gated {
				t.Errorf("%s, %s: %.2f of the requests passed", s.Name, row.Contender, sample.Passed)
			}
			if s.Mode == result.FirstTouch && (sample.Lookups == 100) != gated {
				t.Errorf("%s, %s: %d lookups", s.Name, row.Contender, sample.Lookups)
			}
			if s.Mode == result.Memory && row.Memory.HeapBytes == 0 {
				t.Errorf("%s, %s: no heap", s.Name, row.Contender)
			}
		}
		if table := s.Markdown(); strings.Contains(table, "NaN") || strings.Contains(table, "Inf") || strings.Count(table, "\n") != len(s.Rows)+2 {
			t.Errorf("%s:\n%s", s.Name, table)
		}
	}
}
