package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/result"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// sampled is how many of the cached users the load comes from. There are as
// many where none was cached before, which makes that cache all but empty.
const sampled = 1000

// memory fills the caches of one gate for each number of users, each with a
// preference and a verified token, and then loads the gates in turn.
func (r *rig) memory(ctx context.Context, file *result.File) error {
	s := &result.Scenario{
		Name: "memory", Mode: result.Memory, Connections: 32,
		About: fmt.Sprintf("%d reports a second of %d users, out of all that are cached", fixedRate, sampled),
	}
	file.Scenarios = append(file.Scenarios, s)
	var gates []*contender
	var loads []load
	admins := map[*result.Row]string{}
	for _, cached := range r.cached {
		admin := freeAddr()
		c := &contender{
			name: strconv.Itoa(cached), program: "caddy", config: "gate.caddyfile",
			// All have the same bound. Half of it is what a cache surely keeps.
			env: []string{"BENCH_ADMIN=" + admin, "BENCH_ENTRIES=" + strconv.Itoa(max(sampled, slices.Max(r.cached))*5/2)},
		}
		if err := r.start(c); err != nil {
			return err
		}
		gates = append(gates, c)
		row := &result.Row{Contender: c.name, Bare: strconv.Itoa(r.cached[0]), Memory: &result.MemoryUse{Users: cached}}
		s.Rows, admins[row] = append(s.Rows, row), admin
		if cached > 0 {
			fill := newLoad(c.addr, s.Connections, cached, func(n int) []byte { return failure(stub.UID(n)) })
			if came := fill.once(); came.failed > 0 {
				return fmt.Errorf("%d of %d requests of new users failed", came.failed, cached)
			}
			fill.close()
		}
		if err := measureHeap(row.Memory, admin); err != nil {
			return err
		}
		row.Memory.RSS = c.rss()
		var requests [][]byte
		for n := range sampled {
			requests = append(requests, failure(stub.UID(n*max(1, cached/sampled))))
		}
		loads = append(loads, loadOf(c.addr, s.Connections, requests))
		loads[len(loads)-1].once()
		fmt.Fprintf(os.Stderr, "%s %d users cached\n", time.Now().Format(time.TimeOnly), cached)
	}
	for range r.rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		for i, sample := range r.inTurn(gates, loads) {
			s.Rows[i].Samples = append(s.Rows[i].Samples, sample)
		}
	}
	for row, admin := range admins {
		stats, err := memStats(admin, "")
		if err != nil {
			return err
		}
		row.Memory.PauseMS = slices.Max(stats["PauseNs"]) / 1e6
	}
	return nil
}

// measureHeap asks for the live heap, and for how long it takes to collect it:
// what the same question takes longer if a collection comes first.
func measureHeap(use *result.MemoryUse, admin string) error {
	var with, without []float64
	for range 5 {
		for parameters, took := range map[string]*[]float64{"&gc=1": &with, "": &without} {
			start := time.Now()
			stats, err := memStats(admin, parameters)
			if err != nil {
				return err
			}
			*took = append(*took, time.Since(start).Seconds()*1000)
			if parameters != "" {
				use.HeapBytes = stats["HeapAlloc"][0]
			}
		}
	}
	use.CollectionMS = max(0, result.Median(with)-result.Median(without))
	return nil
}

// memStats is the runtime's account of the memory, at the end of the profile
// that Caddy's admin API gives out.
func memStats(admin, parameters string) (map[string][]float64, error) {
	response, err := http.Get("http://" + admin + "/debug/pprof/heap?debug=1" + parameters)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	stats := map[string][]float64{}
	for line := range strings.Lines(string(raw)) {
		name, values, found := strings.Cut(strings.TrimPrefix(line, "# "), " = ")
		if !found {
			continue
		}
		for field := range strings.FieldsSeq(strings.Trim(values, "[]\n")) {
			if value, err := strconv.ParseFloat(field, 64); err == nil {
				stats[name] = append(stats[name], value)
			}
		}
	}
	if len(stats["HeapAlloc"]) == 0 || len(stats["PauseNs"]) == 0 {
		return nil, fmt.Errorf("the heap profile of %s says nothing of the heap", admin)
	}
	return stats, nil
}
