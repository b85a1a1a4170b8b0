package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// steps is what Go's benchmarks printed: values by package and benchmark, and
// by unit.
type steps struct {
	date, cpu, command string
	names              []string
	values             map[string]map[string][]float64
}

func readSteps(path string) (*steps, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &steps{values: map[string]map[string][]float64{}}
	pkg := ""
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "date":
			s.date = value
		case "command":
			s.command = value
		case "cpu":
			s.cpu = value
		case "pkg":
			pkg = value[strings.LastIndexByte(value, '/')+1:]
		}
		field := strings.Fields(line)
		if len(field) < 4 || !strings.HasPrefix(field[0], "Benchmark") {
			continue
		}
		name := pkg + " " + strings.TrimPrefix(field[0], "Benchmark")
		if s.values[name] == nil {
			s.names = append(s.names, name)
			s.values[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(field); i += 2 {
			n, err := strconv.ParseFloat(field[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %q", path, line)
			}
			s.values[name][field[i+1]] = append(s.values[name][field[i+1]], n)
		}
	}
	return s, nil
}

// get is the median of a benchmark's value. The number of processors, which
// Go appends to names, may be left out; then any will do.
func (s *steps) get(name, unit string) float64 {
	for _, full := range s.names {
		if cut := strings.LastIndexByte(full, '-'); full == name || cut > 0 && full[:cut] == name {
			return result.Median(s.values[full][unit])
		}
	}
	return math.NaN()
}

// most is the greatest of the medians of the benchmarks whose names begin so.
func (s *steps) most(prefix, unit string) float64 {
	most := math.NaN()
	for _, name := range s.names {
		if value := result.Median(s.values[name][unit]); strings.HasPrefix(name, prefix) && !(value <= most) {
			most = value
		}
	}
	return most
}

// cold is the table of lookups of users whom nobody knows yet.
func (s *steps) cold() string {
	var b strings.Builder
	b.WriteString("| how it asks | p50 ms | p99 ms | CPU µs a lookup | requests a lookup |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, way := range []struct{ name, about string }{
		{"HTTP1", "HTTP/1.1"}, {"HTTP2", "HTTP/2"}, {"HTTP1-hedged", "HTTP/1.1, once more after 20 ms without an answer"},
	} {
		value := func(unit string) float64 { return s.get("bench Cold/"+way.name, unit) }
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.0f | %.2f |\n", way.about, value("p50-ms"), value("p99-ms"), value("cpu-µs"), value("requests"))
	}
	return b.String() + s.origin()
}

func (s *steps) origin() string {
	return fmt.Sprintf("\n*Medians. %s, %s; `%s`.*\n", s.date, s.cpu, s.command)
}

// markdown is a table of everything that has a time for one operation.
func (s *steps) markdown() string {
	var b strings.Builder
	b.WriteString("| package | benchmark | ns | MB/s | B | allocations |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
	for _, name := range slices.Sorted(slices.Values(s.names)) {
		values := s.values[name]
		if len(values["ns/op"]) == 0 {
			continue // a ratio, which is among the targets
		}
		cell := func(unit, format string) string {
			if len(values[unit]) == 0 {
				return ""
			}
			return fmt.Sprintf(format, result.Median(values[unit]))
		}
		pkg, benchmark, _ := strings.Cut(name, " ")
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", pkg, benchmark,
			cell("ns/op", "%.1f"), cell("MB/s", "%.0f"), cell("B/op", "%.0f"), cell("allocs/op", "%.0f"))
	}
	return b.String() + s.origin()
}
