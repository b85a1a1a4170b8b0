package survey_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/survey"
)

// TestHints: what a hint says is that preset's and nobody else's, wherever the
// operator has put it, and the line that is suggested gates it.
func TestHints(t *testing.T) {
	t.Parallel()
	for _, name := range gate.PresetNames() {
		preset, _ := gate.PresetNamed(name)
		for _, hint := range preset.Hints {
			for _, prefix := range []string{"", "/in/gest"} {
				query := strings.Join(hint.Query, "=1&")
				r := &survey.Request{Method: "POST", Path: prefix + strings.ReplaceAll(hint.Path, "*", "x"), Query: query, Status: 200, Sent: 900, Received: 900, Header: http.Header{}}
				if r.Path == "" {
					r.Path = "/somewhere"
				}
				if hint.Header != "" {
					r.Header.Set(hint.Header, "x")
				}
				if hint.ContentType != "" {
					r.Header.Set("Content-Type", hint.ContentType+"; charset=utf-8")
				}
				if slices.ContainsFunc(preset.Routes, func(route gate.Route) bool {
					return route.Methods[0] == "GET" && strings.HasSuffix(hint.Path, route.Path) && route.Path != ""
				}) {
					r.Method = "GET"
				}
				var s survey.Survey
				s.Add(r)
				report := s.Report()
				if len(report.Findings) != 1 || report.Findings[0].Preset != name {
					t.Errorf("%s: %+v at %q is %+v", name, hint, prefix, report.Findings)
					continue
				}
				if !gates(t, report.Lines, r.Method, r.Path) {
					t.Errorf("%s: %+v at %q: %q do not gate %s %s", name, hint, prefix, report.Lines, r.Method, r.Path)
				}
				isOwn := hint.Path != "" && slices.ContainsFunc(preset.Routes, func(route gate.Route) bool {
					return route.Takes(r.Method, strings.TrimPrefix(hint.Path, preset.Prefix))
				})
				if want := strings.TrimSpace("preset " + name + " " + prefixOf(&preset, prefix)); isOwn && !slices.Equal(report.Lines, []string{want}) {
					t.Errorf("%s: %+v at %q: lines %q, want %s", name, hint, prefix, report.Lines, want)
				}
			}
		}
	}
}

// prefixOf is what to write for routes below a folder.
func prefixOf(preset *gate.Preset, folder string) string {
	if folder == "" {
		return ""
	}
	return folder + preset.Prefix
}

// gates says whether lines of a Caddyfile have a request gated.
func gates(t *testing.T, lines []string, method, path string) bool {
	t.Helper()
	var config gate.Config
	for _, line := range lines {
		words := append(strings.Fields(line), "", "")
		switch words[0] {
		case "preset":
			config.Presets = append(config.Presets, gate.UsedPreset{Name: words[1], Prefix: words[2]})
		case "route":
			config.Routes = append(config.Routes, gate.Route{Methods: words[1:2], Path: words[2]})
		}
	}
	g, err := gate.New(config)
	if err != nil {
		t.Errorf("%q: %v", lines, err)
		return false
	}
	r, err := http.NewRequest(method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, gated := g.RouteOf(r)
	return gated
}

// TestPresetsInLogsThatSayLittle: how many of what the presets gate as metrics is
// found in a log that has neither headers nor hosts, by what it answers. What is
// missed is named here, and found where there are headers.
func TestPresetsInLogsThatSayLittle(t *testing.T) {
	t.Parallel()
	queries := map[string]string{ // as these SDKs have them
		"countly": "app_key=1&device_id=1&events=1", "mixpanel": "verbose=1&ip=1&distinct_id=1", "snowplow": "e=pv&p=web&tv=js-4", "matomo": "idsite=1&rec=1",
	}
	looked, missed := 0, []string{}
	for _, name := range gate.PresetNames() {
		preset, _ := gate.PresetNamed(name)
		if preset.NeedsPrefix {
			continue // it can be anywhere
		}
		for _, route := range preset.RoutesAt("") {
			if route.Class != gate.ClassMetrics {
				continue
			}
			for _, method := range route.Methods {
				if method == "HEAD" {
					continue // what GET is found by
				}
				path := route.Path
				if strings.HasSuffix(path, "/*") {
					path = map[string]string{"glean": "/submit/app/baseline/1/x", "segment": strings.TrimSuffix(path, "*") + "batch"}[name]
				}
				var s survey.Survey
				s.Add(&survey.Request{Method: method, Path: path, Query: queries[name], Status: route.Answer.Status, Sent: -1, Received: int64(len(route.Answer.Body))})
				if looked++; len(s.Report().Findings) == 0 {
					missed = append(missed, name+" "+method+" "+path)
				}
			}
		}
	}
	if diff := cmp.Diff([]string{"umami POST /api/send"}, missed); diff != "" || looked < 30 {
		t.Errorf("of %d (-want +got)\n%s", looked, diff)
	}
}
