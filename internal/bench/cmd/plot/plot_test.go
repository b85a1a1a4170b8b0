package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// made is results of all scenarios that docs/performance.md has a place for,
// with figures that nobody could measure.
func made(names []string, mode result.Mode) *result.File {
	file := &result.File{Date: "2026-11-24", Machine: "none", Command: "none", Rounds: 2, Seconds: 1}
	sample := result.Sample{Requests: 100, Seconds: 1, CPU: 2, BareCPU: 2, Latency: []float64{1, 2, 3, 4}}
	for _, name := range names {
		s := &result.Scenario{Name: name, Mode: mode}
		for _, contender := range []string{bare, control, forwardAuth, gate, "metrics_gate names", "metrics_gate handshake"} {
			s.Rows = append(s.Rows, &result.Row{Contender: contender, Bare: bare, Samples: []result.Sample{sample, sample}, Memory: &result.MemoryUse{Users: 1, HeapBytes: 2e6, RSS: 3e6}})
		}
		file.Scenarios = append(file.Scenarios, s)
	}
	return file
}

const benchmarks = `date: 2026-11-24
command: make bench
goos: linux
pkg: github.com/metricsgate/metricsgate/internal/bench
cpu: None
BenchmarkChain/collected/added-2     100   200.0 added-ns
BenchmarkChain/collected/added-2     100   300.0 added-ns
BenchmarkChain/collected/proxied-2   5     100000 caddy-ns   1.01 control   1.02 ratio
BenchmarkCold/HTTP1-hedged-2         3     96.52 cpu-µs   5.911 p50-ms   32.46 p99-ms   1.020 requests
BenchmarkThroughput/bare/goroutines=1   1   50 ns/op   20000 requests/s
pkg: github.com/metricsgate/metricsgate/caddymodule
BenchmarkServeHTTP/not_gated-2       100   7.5 ns/op   0 B/op   0 allocs/op
BenchmarkServeHTTP/bare-2            100   2.5 ns/op   0 B/op   0 allocs/op
pkg: github.com/metricsgate/metricsgate/gate
BenchmarkCachedDecision-2            100   200 ns/op   0 B/op   0 allocs/op
BenchmarkVerify-2                    100   4000 ns/op  9 B/op   9 allocs/op
`

// TestPageIsFilled makes the page from made-up results: every table has its
// place in docs/performance.md, every place gets a table, and once more gives
// the same.
func TestPageIsFilled(t *testing.T) {
	t.Parallel()
	results, docs := t.TempDir(), t.TempDir()
	page, err := os.ReadFile("../../../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, match := range regexp.MustCompile(`<!-- begin (\S+) -->`).FindAllStringSubmatch(string(page), -1) {
		if name := match[1]; !slices.Contains([]string{"targets", "steps", "cold", "memory"}, name) {
			names = append(names, name)
		}
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(docs, "performance.md"), page, 0o600),
		os.WriteFile(filepath.Join(results, "bench.txt"), []byte(benchmarks), 0o600),
		made(names, result.Solo).Write(filepath.Join(results, "load.json")),
		made([]string{"memory"}, result.Memory).Write(filepath.Join(results, "memory.json")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var before string
	for range 2 {
		if err := run(results, docs); err != nil {
			t.Fatal(err)
		}
		raw, _ := os.ReadFile(filepath.Join(docs, "performance.md"))
		if before != "" && before != string(raw) {
			t.Error("written again, the page is another")
		}
		before = string(raw)
	}
	for _, want := range []string{
		"| time that a cached decision adds ÷ Caddy's own, % | ≤ 0.4 | 0.25 |",
		"| request that is neither gated nor a page, added ns | ≤ 20 | 5.0 |",
		"| cached decision ÷ verifying its HS256 token | ≤ 0.04 | 0.050 |",
		"| caddymodule | ServeHTTP/not_gated-2 | 7.5 |",
		"without an answer | 5.9 | 32.5 | 97 | 1.02 |",
	} {
		if !strings.Contains(before, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	images, _ := filepath.Glob(filepath.Join(docs, "*.svg"))
	for _, image := range images {
		raw, _ := os.ReadFile(image)
		for decoder := xml.NewDecoder(strings.NewReader(string(raw))); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", image, err, raw)
			}
		}
		if strings.Contains(string(raw), "NaN") && !strings.Contains(image, "throughput") || !strings.Contains(before, "("+filepath.Base(image)+")") {
			t.Errorf("%s has no figures, or no place on the page", image)
		}
	}
	if len(images) != 4 {
		t.Errorf("%d plots", len(images))
	}
}

func TestMarkersAreHeldAgainstTables(t *testing.T) {
	t.Parallel()
	for name, page := range map[string]string{
		"no place for a table":  "text",
		"a place without table": "<!-- begin a -->\n<!-- end a -->\n<!-- begin b -->\n<!-- end b -->\n",
	} {
		if _, err := fill(page, map[string]string{"a": "| x |\n"}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
