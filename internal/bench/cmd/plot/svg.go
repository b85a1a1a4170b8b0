package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// series is one colour of a plot: a value for each label.
type series struct {
	name   string
	values []float64
}

// The sizes of plots, in pixels.
const width, barHeight, textLeft, textRight, top = 760, 16, 190, 150, 64

// svg is a plot with a legend. Its colours are told apart on white and on
// black, and it follows what the reader's system prefers.
func svg(title string, height int, all []series, body string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">
<style>
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
</style>
<text class="title" x="8" y="22">%s</text>
`, width, height, html.EscapeString(title), html.EscapeString(title))
	x := 8
	for i, one := range all {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"36\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"47\">%s</text>\n", x, colour(i), x+17, html.EscapeString(one.name))
		x += 34 + 8*len(one.name)
	}
	return b.String() + body + "</svg>\n"
}

func colour(i int) string {
	return []string{"#8b949e", "#d97706", "#2f81f7", "#2da44e", "#bf4bc4", "#cf222e"}[i%6]
}

// bars is a group of horizontal bars for each label.
func bars(title, format string, labels []string, all ...series) string {
	var b strings.Builder
	greatest := 0.0
	for _, one := range all {
		greatest = slices.Max(append(withoutNaN(one.values), greatest))
	}
	y := top
	for i, label := range labels {
		fmt.Fprintf(&b, "<text x=\"8\" y=\"%d\">%s</text>\n", y+13, html.EscapeString(label))
		for s, one := range all {
			if math.IsNaN(one.values[i]) {
				continue
			}
			long := one.values[i] / greatest * (width - textLeft - textRight)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\">"+format+"</text>\n",
				textLeft, y, long, barHeight-2, colour(s), textLeft+long+6, y+12, one.values[i])
			y += barHeight
		}
		y += barHeight
	}
	return svg(title, y, all, b.String())
}

func withoutNaN(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}

// plots are the files that stand beside docs/performance.md.
func plots(steps *steps, load, memory *result.File) map[string]string {
	kinds := []struct{ scenario, label, gate string }{
		{"collected", "beacon, collected", gate},
		{"body", "beacon that names", "metrics_gate names"},
		{"page", "page with script", "metrics_gate handshake"},
		{"other", "neither", gate},
	}
	overhead := []series{{name: "bare Caddy again (control)"}, {name: "forward_auth"}, {name: "metrics_gate"}}
	var labels []string
	for _, kind := range kinds {
		labels = append(labels, kind.label)
		for i, contender := range []string{control, forwardAuth, kind.gate} {
			overhead[i].values = append(overhead[i].values, pairRatio(load, kind.scenario, contender))
		}
	}

	var latency []series
	var percentiles []string
	for i, p := range result.Percentiles {
		percentiles = append(percentiles, fmt.Sprintf("p%v", p))
		for n, row := range find(load, "rate").Rows {
			if i == 0 {
				latency = append(latency, series{name: row.Contender})
			}
			latency[n].values = append(latency[n].values, result.Median(row.Of(func(s result.Sample) float64 { return s.Latency[i] })))
		}
	}

	use := []series{{name: "RSS"}, {name: "live heap"}}
	var users []string
	for _, row := range find(memory, "memory").Rows {
		users = append(users, fmt.Sprintf("%d users", row.Memory.Users))
		use[0].values = append(use[0].values, row.Memory.RSS/1e6)
		use[1].values = append(use[1].values, row.Memory.HeapBytes/1e6)
	}

	throughput := []series{{name: "the same chain without a gate"}, {name: "blocked by the gate"}}
	var cores []string
	for _, suffix := range []string{"", "-2"} { // Go leaves -1 out
		for _, goroutines := range []string{"1", "64"} {
			cores = append(cores, fmt.Sprintf("GOMAXPROCS=%c, %s gor.", "12"[len(suffix)/2], goroutines))
			for i, name := range []string{"bare", "blocked"} {
				full := "bench Throughput/" + name + "/goroutines=" + goroutines + suffix
				throughput[i].values = append(throughput[i].values, result.Median(steps.values[full]["requests/s"]))
			}
		}
	}
	return map[string]string{
		"overhead.svg":   bars("CPU of a request ÷ bare Caddy, both loaded at once", "%.2f", labels, overhead...),
		"latency.svg":    bars("Latency at 1,000 requests a second, µs", "%.0f", percentiles, latency...),
		"memory.svg":     bars("Memory with so many users cached, MB", "%.0f", users, use...),
		"throughput.svg": bars("Requests a second through Caddy's handlers, in one process", "%.0f", cores, throughput...),
	}
}
