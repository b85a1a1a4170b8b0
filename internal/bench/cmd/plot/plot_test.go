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

// made is results of all scenarios that the pages have a place for,
// with figures that nobody could measure.
func made(names []string, mode result.Mode) *result.File {
	file := &result.File{Date: "2026-11-24", Machine: "none", Command: "none", Rounds: 2, Seconds: 1}
	sample := result.Sample{Requests: 100, Seconds: 1, CPU: 2, BareCPU: 2, Latency: []float64{1, 2, 3, 4}}
	for _, name := range names {
		s := &result.Scenario{Name: name, Mode: mode}
		for _, contender := range []string{
			bare, control, forwardAuth, gate, "caddy respond", "metrics_gate own session", "metrics_gate names",
			"metrics_gate names, request_buffers", "metrics_gate batch", "metrics_gate handshake",
		} {
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
BenchmarkUngated/reads-2             100   100.0 one-ns   1.25 ratio
BenchmarkUngated/writes-2            100   90.0 one-ns    1.15 ratio
BenchmarkHandedOn-2                  3     30000 heap-B/request   24000 stack-B/request
BenchmarkThroughput/bare/goroutines=1   1   50 ns/op   20000 requests/s
pkg: github.com/metricsgate/metricsgate/caddymodule
BenchmarkServeHTTP/not_gated-2       100   7.5 ns/op   0 B/op   0 allocs/op
BenchmarkServeHTTP/bare-2            100   2.5 ns/op   0 B/op   0 allocs/op
pkg: github.com/metricsgate/metricsgate/gate
BenchmarkDecisionsInTurn-2           3     0.201 many   0.075 one
`

// TestPagesAreFilled makes the pages from made-up results: every table has its
// place on one of them, every place gets a table, and once more gives the same.
func TestPagesAreFilled(t *testing.T) {
	t.Parallel()
	results, docs := t.TempDir(), t.TempDir()
	read := func(docs string) (text string) {
		for _, page := range pages {
			raw, err := os.ReadFile(filepath.Join(docs, page))
			if err != nil {
				t.Fatal(err)
			}
			text += string(raw)
		}
		return text
	}
	var names []string
	for _, match := range regexp.MustCompile(`<!-- begin (\S+) -->`).FindAllStringSubmatch(read("../../../../docs"), -1) {
		if name := match[1]; !slices.Contains([]string{"targets", "ratios", "steps", "cold", "memory"}, name) {
			names = append(names, name)
		}
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(results, "bench.txt"), []byte(benchmarks), 0o600),
		made(names, result.Solo).Write(filepath.Join(results, "load.json")),
		made([]string{"memory"}, result.Memory).Write(filepath.Join(results, "memory.json")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, page := range pages {
		raw, err := os.ReadFile(filepath.Join("../../../../docs", page))
		if err == nil {
			err = os.WriteFile(filepath.Join(docs, page), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var before string
	for range 2 {
		if err := run(results, docs); err != nil {
			t.Fatal(err)
		}
		after := read(docs)
		if before != "" && before != after {
			t.Error("written again, the pages are others")
		}
		before = after
	}
	for _, want := range []string{
		"| request that is neither gated nor a page, 14 presets ÷ one route | ≤ 1.3 | 1.25 |",
		"| cached decision ÷ verifying its HS256 token, 9,000 users in turn | ≤ 0.06 | 0.201 |",
		"application hanging | bounded: 1,024 of them | 54 |",
		"| the same, a batch of 50 events compressed by gzip, each of which names it | ≤ 1.35 | 1.00 | 1.00 |",
		"| time that a cached decision adds ÷ Caddy's own, % |  | 0.25 |",
		"| request that is neither gated nor a page, added ns | ≤ 20 | 5.0 |",
		"| caddymodule | ServeHTTP/not_gated-2 | 7.5 |",
		"without an answer | 5.9 | 32.5 | 97 | 1.02 |",
	} {
		if !strings.Contains(before, want) {
			t.Errorf("the pages lack %q", want)
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
			t.Errorf("%s has no figures, or no place on a page", image)
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
		if err := fill([]string{page}, map[string]string{"a": "| x |\n"}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
