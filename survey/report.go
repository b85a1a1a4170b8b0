package survey

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/gate"
)

// Where what was found goes.
const (
	Passes    = "passes"    // it comes by the edge, and no gate has a route for it
	Unseen    = "unseen"    // a gate has a route for it, and may not see it
	Elsewhere = "elsewhere" // it goes to another host, and so past the edge
	Gated     = "gated"     // a gate decides it
)

// Finding is a kind of request that looks like metrics.
type Finding struct {
	// Standing is Passes, Unseen, Elsewhere or Gated.
	Standing string `json:"standing"`
	Method   string `json:"method"`
	// Host is another host than the page's, else empty.
	Host string `json:"host,omitempty"`
	// Path has a * where identifiers stand.
	Path     string `json:"path"`
	Requests int    `json:"requests"`
	// Status is what it is mostly answered with.
	Status int `json:"status"`
	// Preset is the one whose hints fit, if one's do.
	Preset string   `json:"preset,omitempty"`
	Why    []string `json:"why"`
	// Route is that of the gate.
	Route string `json:"route,omitempty"`
}

// Report is what came of a survey.
type Report struct {
	Requests int `json:"requests"`
	// Left is how many requests look like metrics and are among no finding, since
	// there were too many kinds.
	Left     int       `json:"left,omitempty"`
	Findings []Finding `json:"findings"`
	// Lines are those of a Caddyfile, inside of metrics_gate, that would gate
	// what passes.
	Lines []string `json:"lines"`
}

// Report says what was found: what passes first, and of that the most frequent.
func (s *Survey) Report() Report {
	report := Report{Requests: s.Requests, Left: s.Left, Findings: []Finding{}}
	found := maps.Clone(s.kinds)
	maps.DeleteFunc(found, func(_ kind, g *gathered) bool { return g.why() == nil })
	for k, g := range merged(found) {
		finding := Finding{
			Standing: Passes, Method: k.method, Host: k.host, Path: k.path, Requests: g.requests, Preset: g.sdk, Why: g.why(), Route: k.route,
			Status: slices.MaxFunc(slices.Sorted(maps.Keys(g.statuses)), func(a, b int) int { return cmp.Compare(g.statuses[a], g.statuses[b]) }),
		}
		switch {
		case k.host != "":
			finding.Standing = Elsewhere
		case k.sure:
			finding.Standing = Gated
		case k.route != "":
			finding.Standing = Unseen
		}
		report.Findings = append(report.Findings, finding)
	}
	order := []string{Passes, Unseen, Elsewhere, Gated}
	slices.SortFunc(report.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Standing), slices.Index(order, b.Standing)), cmp.Compare(b.Requests, a.Requests),
			cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Route, b.Route))
	})
	report.Lines = lines(report.Findings)
	return report
}

// lines would gate what passes: presets where there are some, and routes for what
// these leave.
func lines(findings []Finding) []string {
	lines := []string{}
	var presets []gate.UsedPreset
	var routes []gate.Route
	for i := range findings {
		f := &findings[i]
		if used, ok := f.usedPreset(); ok && !slices.Contains(presets, used) &&
			!slices.ContainsFunc(presets, func(earlier gate.UsedPreset) bool { return used.ValidateAfter(&earlier) != nil }) {
			presets = append(presets, used)
			preset, _ := gate.PresetNamed(used.Name)
			routes = append(routes, preset.RoutesAt(used.Prefix)...)
			lines = append(lines, strings.TrimSpace("preset "+used.Name+" "+used.Prefix))
		}
	}
	for i := range findings {
		f := &findings[i]
		route := f.gatedRoute()
		if f.Standing != Passes || f.isVague() || takes(routes, f.Method, f.Path, false) || route.Validate() != nil {
			continue
		}
		routes = append(routes, route)
		line := fmt.Sprintf("route %s %s", f.Method, f.Path)
		if route.Answer.Status != http.StatusNoContent {
			line += fmt.Sprintf(" {\n\tanswer %d\n}", route.Answer.Status)
		}
		lines = append(lines, line)
	}
	return lines
}

// usedPreset is the preset that would gate what passes, at the prefix that its
// path has.
func (f *Finding) usedPreset() (used gate.UsedPreset, ok bool) {
	preset, known := gate.PresetNamed(f.Preset)
	if f.Standing != Passes || !known {
		return used, false
	}
	for at := 0; ; {
		used = gate.UsedPreset{Name: f.Preset, Prefix: f.Path[:at]}
		if used.Prefix == preset.Prefix {
			used.Prefix = ""
		}
		if used.Validate() == nil && takes(preset.RoutesAt(used.Prefix), f.Method, f.Path, false) {
			return used, true
		}
		if at == len(f.Path) {
			return used, false
		}
		if next := strings.IndexByte(f.Path[at+1:], '/'); next >= 0 {
			at += next + 1
		} else {
			at = len(f.Path)
		}
	}
}

// isVague says whether a route of the finding's path would take ordinary requests
// as well: all that is below a folder, where no word says that it is for measuring.
func (f *Finding) isVague() bool {
	above, isBelow := strings.CutSuffix(f.Path, "/*")
	return isBelow && wordOf(above[strings.LastIndexByte(above, '/')+1:]) <= unknown
}

// gatedRoute would gate it, with what the application answers to most.
func (f *Finding) gatedRoute() gate.Route {
	status := f.Status
	if status < 200 || status > 299 {
		status = http.StatusNoContent
	}
	return gate.Route{Methods: []string{f.Method}, Path: f.Path, Answer: &gate.Answer{Status: status}}
}
