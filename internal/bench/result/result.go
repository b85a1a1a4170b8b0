// Package result holds what the load rig measured, and the tables made of it.
package result

import (
	"encoding/json"
	"math"
	"os"
	"slices"
)

// File is one run of the rig.
type File struct {
	Date    string
	Machine string
	Command string
	Rounds  int
	Seconds float64 // of each load
	// Missing are the contenders that are not installed.
	Missing   []string
	Scenarios []*Scenario
}

// Mode is how a scenario loads its contenders.
type Mode string

// The modes of loading.
const (
	// Pair loads a contender and the bare proxy of its host at the same
	// moment, so that whatever disturbs the machine disturbs both.
	Pair Mode = "pair"
	// Settings is Pair with the gate as it is in the place of the bare proxy.
	Settings Mode = "settings"
	// Solo loads one contender after the other as fast as they answer.
	Solo Mode = "solo"
	// Answer is Solo with an application that takes its time, for how long a
	// client waits.
	Answer Mode = "answer"
	// Rate loads the contenders at a fixed rate, each for a moment in turn, so
	// that whatever disturbs the machine for longer disturbs all alike. Two at
	// the same moment would slow each other down.
	Rate Mode = "rate"
	// FirstTouch sends one request of each of many users that are not cached.
	FirstTouch Mode = "first touch"
	// Memory is Rate with caches that hold many users.
	Memory Mode = "memory"
)

// Scenario is one kind of load on several contenders.
type Scenario struct {
	Name        string // also the marker in docs/measurements.md
	About       string
	Mode        Mode
	Connections int
	Rows        []*Row
}

// Row is one contender. Bare is the row that it is compared with, mostly that
// of the same host without a gate; empty for that row itself.
type Row struct {
	Contender, Bare string
	Samples         []Sample // one a round
	Memory          *MemoryUse
}

// Percentiles are what a Sample has latencies for.
var Percentiles = []float64{50, 90, 99, 99.9}

const p50, p99 = 0, 2 // their places

// Sample is what one round measured.
type Sample struct {
	Requests, Failed int
	Seconds          float64
	CPU              float64   // µs a request, decision service included
	BareCPU          float64   // pair, settings: of the other, at the same moment
	Latency          []float64 // µs, by Percentiles
	Passed           float64   // share of requests that reached the application
	Lookups          int       // at the profile server
}

// MemoryUse is what a process holds with many users cached.
type MemoryUse struct {
	Users          int
	HeapBytes, RSS float64
	CollectionMS   float64 // one full collection
	PauseMS        float64 // the longest that requests were stopped for it
}

// Row returns the row of a contender, or nil.
func (s *Scenario) Row(contender string) *Row {
	for _, row := range s.Rows {
		if row.Contender == contender {
			return row
		}
	}
	return nil
}

// Of is one value of each round.
func (r *Row) Of(value func(Sample) float64) []float64 {
	var all []float64
	for _, sample := range r.Samples {
		all = append(all, value(sample))
	}
	return all
}

// Over is the values round by round, divided by those of another row: a slow
// minute of the machine hits both, and a ratio of two medians would keep it.
func (r *Row) Over(other *Row, value func(Sample) float64) []float64 {
	all := r.Of(value)
	if other == nil || len(other.Samples) != len(all) {
		return nil
	}
	for i, below := range other.Of(value) {
		all[i] /= below
	}
	return all
}

// What a Sample is asked for.
var (
	CPU       = func(s Sample) float64 { return s.CPU }
	PairRatio = func(s Sample) float64 { return s.CPU / s.BareCPU }
	PerSecond = func(s Sample) float64 { return float64(s.Requests) / s.Seconds }
	P50       = func(s Sample) float64 { return s.Latency[p50] }
	P99       = func(s Sample) float64 { return s.Latency[p99] }
)

// Median is the middle value, and NaN of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// Read reads a file of results.
func Read(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file := new(File)
	return file, json.Unmarshal(raw, file)
}

// Write writes it.
func (f *File) Write(path string) error {
	raw, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
