package gate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestPresetsKeepToTheSchema: a preset is one file, which anybody can add.
func TestPresetsKeepToTheSchema(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := compiler.Compile("testdata/preset.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("presets/*")
	if err != nil || len(files) < 14 {
		t.Fatalf("%d presets, %v", len(files), err)
	}
	for _, file := range files {
		text, err := presetFiles.Open(filepath.ToSlash(file))
		if err != nil {
			t.Errorf("%s is no preset: %v", file, err)
			continue
		}
		document, err := jsonschema.UnmarshalJSON(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestPresetsAlone: each makes a gate, at its own prefix and at another, and
// routes that any request reaches.
func TestPresetsAlone(t *testing.T) {
	t.Parallel()
	for _, name := range PresetNames() {
		preset, _ := PresetNamed(name)
		for _, prefix := range []string{"", "/ingest", "/a/b"} {
			if prefix == "" && preset.NeedsPrefix {
				continue
			}
			g := newGate(t, Config{Presets: []UsedPreset{{name, prefix}}})
			for _, route := range preset.RoutesAt(prefix) {
				path := strings.ReplaceAll(route.Path, "*", "x")
				for _, method := range route.Methods {
					found := g.routes.match(method, path)
					if found == nil || found.essential != (route.Class == ClassEssential) || !strings.HasPrefix(route.Path, prefix) {
						t.Errorf("%s at %q: %s %s is %+v", name, prefix, method, path, found)
					}
				}
			}
		}
	}
}

// TestPresetsBesideOneAnother: which of them need a prefix, so that a new one
// does not take another's requests unseen.
func TestPresetsBesideOneAnother(t *testing.T) {
	t.Parallel()
	var refused []string
	for i, name := range PresetNames() {
		for _, other := range PresetNames()[:i] {
			uses := []UsedPreset{{Name: other}, {Name: name}}
			for j := range uses {
				if presets[uses[j].Name].NeedsPrefix {
					uses[j].Prefix = "/tunnel"
				}
			}
			if _, err := New(Config{Presets: uses}); err != nil {
				refused = append(refused, other+" "+name)
			}
			uses[1].Prefix = "/elsewhere"
			if _, err := New(Config{Presets: uses}); err != nil {
				t.Errorf("%s and %s below a prefix: %v", other, name, err)
			}
		}
	}
	if want := []string{"countly snowplow"}; !slices.Equal(refused, want) {
		t.Errorf("%q are refused beside one another, want %q", refused, want)
	}
}

func TestRoutesThatMeet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"POST /e", "POST /e", true},
		{"POST /e", "POST /E/", true},
		{"POST /e", "GET /e", false},
		{"GET /e", "HEAD /e", true},
		{"POST /e", "POST /s", false},
		{"POST /e", "POST /e/f", false},
		{"POST /*", "POST /e/f", true},
		{"POST /*", "POST /", true},
		{"POST /e/*", "POST /e", true}, // with a slash at its end,
		{"POST /e/*", "POST /*", true},
		{"POST /a/*/c", "POST /a/b/*", true},
		{"POST /a/*/c", "POST /a/b/d", false},
		{"POST /*/b", "POST /a/*", true},
		{"GET /e essential", "GET /e", true},
		{"GET /e essential", "GET /* essential", false},
	} {
		ready := func(text string) *gatedRoute {
			words := append(strings.Fields(text), "")
			return (&Route{Methods: words[:1], Path: words[1], Class: words[2]}).prepare()
		}
		if ready(c.a).meets(ready(c.b)) != c.want || ready(c.b).meets(ready(c.a)) != c.want {
			t.Errorf("%s and %s: want %t", c.a, c.b, c.want)
		}
	}
}

func TestPresetsThatAreRefused(t *testing.T) {
	t.Parallel()
	for want, used := range map[string][]UsedPreset{
		`preset fxb: there is no preset "fxb"; the presets are ahoy, amplitude, `: {{Name: "fxb"}},
		`preset sentry: only you know where`:                                      {{Name: "sentry"}},
		`preset posthog: "ingest" does not start with /`:                          {{"posthog", "ingest"}},
		`preset posthog: "/ingest/" is not a prefix; write a path`:                {{"posthog", "/ingest/"}},
		`preset posthog: "/*" is not a prefix`:                                    {{"posthog", "/*"}},
		`preset posthog: "/a/../b" is not clean`:                                  {{"posthog", "/a/../b"}},
		`preset fxa: its /metrics and /metrics of preset fxa take the same`:       {{Name: "fxa"}, {Name: "fxa"}},
		`preset snowplow: its /i and /i of preset countly take the same requests; write a prefix for one of them, such as preset snowplow /snowplow, and tell it to the SDK`: {{Name: "countly"}, {Name: "snowplow"}},
	} {
		if _, err := New(Config{Presets: used}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: error %v, want %s", used, err, want)
		}
	}
}

// TestPresetsNameNobodyElses: the names of a preset are read on its routes, and
// a gate's own on its own.
func TestPresetsNameNobodyElses(t *testing.T) {
	t.Parallel()
	config := fxaConfig(t)
	config.Presets = []UsedPreset{{Name: "segment"}, {"mixpanel", "/mp"}}
	config.Routes = []Route{{Methods: []string{"POST"}, Path: "/beacon"}}
	config.Names = namesUID
	g := newGate(t, config)
	for _, c := range []struct {
		path, body string
		blocked    bool
	}{
		{"/beacon", `{"uid":"%s"}`, true},
		{"/beacon", `{"userId":"%s"}`, false},
		{"/v1/t", `{"userId":"%s"}`, true},
		{"/v1/t", `{"batch":[{"userId":null},{"userId":"%s"}]}`, true},
		{"/v1/t", `{"uid":"%s"}`, false},
		{"/mp/track", `data=[{"properties":{"distinct_id":"%s"}}]`, true},
	} {
		r, w := request("POST", c.path, fmt.Sprintf(c.body, optedOutUID), nil)
		app := new(upstream)
		if err := serve(t, g, w, r, app); err != nil || (app.requests.Load() == 0) != c.blocked {
			t.Errorf("%s %s: %d arrived, error %v", c.path, c.body, app.requests.Load(), err)
		}
	}
}
