package main

import (
	"fmt"

	"github.com/metricsgate/metricsgate/internal/bench/plot"
	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// plots are the files that stand beside the pages.
func plots(steps *steps, load, memory *result.File) map[string]string {
	kinds := []struct{ scenario, label, gate string }{
		{"collected", "beacon, collected", gate},
		{"own-session", "own session", "metrics_gate own session"},
		{"second-credential", "two credentials", gate},
		{"body", "beacon that names", "metrics_gate names"},
		{"batch", "batch of 50, gzip", "metrics_gate batch"},
		{"page", "page with script", "metrics_gate handshake"},
		{"page-config", "page changed", "metrics_gate handshake"},
		{"other", "neither", gate},
	}
	overhead := []plot.Series{{Name: "bare Caddy again (control)"}, {Name: "forward_auth"}, {Name: "metrics_gate"}}
	var labels []string
	for _, kind := range kinds {
		labels = append(labels, kind.label)
		for i, contender := range []string{control, forwardAuth, kind.gate} {
			overhead[i].Values = append(overhead[i].Values, pairRatio(load, kind.scenario, contender))
		}
	}

	var latency []plot.Series
	var percentiles []string
	for i, p := range result.Percentiles {
		percentiles = append(percentiles, fmt.Sprintf("p%v", p))
		for n, row := range find(load, "rate").Rows {
			if i == 0 {
				latency = append(latency, plot.Series{Name: row.Contender})
			}
			latency[n].Values = append(latency[n].Values, result.Median(row.Of(func(s result.Sample) float64 { return s.Latency[i] })))
		}
	}

	use := []plot.Series{{Name: "RSS"}, {Name: "live heap"}}
	var users []string
	for _, row := range find(memory, "memory").Rows {
		users = append(users, fmt.Sprintf("%d users", row.Memory.Users))
		use[0].Values = append(use[0].Values, row.Memory.RSS/1e6)
		use[1].Values = append(use[1].Values, row.Memory.HeapBytes/1e6)
	}

	throughput := []plot.Series{{Name: "the same chain without a gate"}, {Name: "blocked by the gate"}}
	var cores []string
	for _, suffix := range []string{"", "-2"} { // Go leaves -1 out
		for _, goroutines := range []string{"1", "64"} {
			cores = append(cores, fmt.Sprintf("GOMAXPROCS=%c, %s gor.", "12"[len(suffix)/2], goroutines))
			for i, name := range []string{"bare", "blocked"} {
				full := "bench Throughput/" + name + "/goroutines=" + goroutines + suffix
				throughput[i].Values = append(throughput[i].Values, result.Median(steps.values[full]["requests/s"]))
			}
		}
	}
	return map[string]string{
		"overhead.svg":   plot.Bars("CPU of a request ÷ bare Caddy, both loaded at once", "%.2f", labels, overhead...),
		"latency.svg":    plot.Bars("Latency at 1,000 requests a second, µs", "%.0f", percentiles, latency...),
		"memory.svg":     plot.Bars("Memory with so many users cached, MB", "%.0f", users, use...),
		"throughput.svg": plot.Bars("Requests a second through Caddy's handlers, in one process", "%.0f", cores, throughput...),
	}
}
