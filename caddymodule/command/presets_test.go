package command

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
)

var update = flag.Bool("update", false, "write the goldens anew")

// TestPresets holds what each preset stands for against its golden, and the
// lines that are printed against the preset.
func TestPresets(t *testing.T) {
	t.Parallel()
	goldens, err := filepath.Glob("testdata/presets/*.caddyfile")
	if err != nil || !*update && len(goldens) != len(gate.PresetNames()) {
		t.Errorf("there are %d goldens of %d presets, %v", len(goldens), len(gate.PresetNames()), err)
	}
	for _, name := range gate.PresetNames() {
		var printed bytes.Buffer
		used := gate.UsedPreset{Name: name}
		preset, _ := gate.PresetNamed(name)
		if preset.NeedsPrefix {
			used.Prefix = "/tunnel"
		}
		if err := printPreset(&printed, gate.UsedPreset{Name: name}); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "presets", name+".caddyfile")
		if *update {
			if err := os.WriteFile(golden, printed.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if diff := cmp.Diff(string(want), printed.String()); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got; write anew with -update)\n%s", name, err, diff)
		}
		var parsed caddymodule.Gate
		if err := parsed.UnmarshalCaddyfile(caddyfile.NewTestDispenser("metrics_gate {\n" + printed.String() + "}")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		known := make(session.Sources, 1) // or names would not be read
		stands, err := gate.New(gate.Config{Presets: []gate.UsedPreset{used}, Sessions: known})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		written, err := gate.New(gate.Config{Routes: parsed.Routes, Sessions: known})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(routesOf(stands), routesOf(written)); diff != "" {
			t.Errorf("%s: the lines stand for other routes (-preset +lines)\n%s", name, diff)
		}
	}
}

// routesOf are the routes of a gate, all that is left out filled in.
func routesOf(g *gate.Gate) []gate.Route {
	var routes []gate.Route
	for _, route := range g.Routes() {
		route.Class = route.ClassOrDefault()
		if route.Names != nil && len(route.Names.Places()) == 0 {
			route.Names = nil
		}
		routes = append(routes, route)
	}
	return routes
}

func TestPresetsAreListed(t *testing.T) {
	t.Parallel()
	var listed bytes.Buffer
	if err := listPresets(&listed); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(listed.String(), "\n"); len(lines) != len(gate.PresetNames())+1 || !strings.HasPrefix(lines[0], "ahoy") {
		t.Errorf("%s", &listed)
	}
	if !strings.Contains(listed.String(), "sentry <prefix>") {
		t.Errorf("nothing says that sentry needs a prefix:\n%s", &listed)
	}
	var printed bytes.Buffer
	if err := printPreset(&printed, gate.UsedPreset{Name: "posthog", Prefix: "/ingest"}); err != nil || !strings.Contains(printed.String(), "route POST /ingest/e {") {
		t.Errorf("error %v:\n%s", err, &printed)
	}
	for want, used := range map[string]gate.UsedPreset{
		`there is no preset "posthgo" (did you mean posthog?); the presets are ahoy, `: {Name: "posthgo"},
		`preset posthog: "ingest" does not start with /`:                               {Name: "posthog", Prefix: "ingest"},
		`preset posthog: "/ingest/" is not a prefix`:                                   {Name: "posthog", Prefix: "/ingest/"},
	} {
		if err := printPreset(&printed, used); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: error %v, want %s", used, err, want)
		}
	}
}
