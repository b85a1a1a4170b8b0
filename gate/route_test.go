package gate

import (
	"slices"
	"strings"
	"testing"
)

func TestGatedPaths(t *testing.T) {
	t.Parallel()
	route := func(method, path string, status int) Route {
		return Route{Methods: strings.Split(method, ","), Path: path, Answer: &Answer{Status: status}}
	}
	g := newGate(t, Config{Routes: []Route{
		route("POST", "/metrics", 204),
		route("GET,HEAD,POST", "/metrics-errors", 204),
		route("POST", "/api/*", 200),
		route("POST", "/api/events/*", 202),
		route("POST", "/api/events/one", 203),
		route("GET", "/", 201),
		route("HEAD", "/only-head", 205),
		route("GET", "/both", 207),
		route("HEAD", "/both", 206),
	}})
	for _, test := range []struct {
		method, path string
		status       int // of the route's answer; 0: not gated
	}{
		{"POST", "/metrics", 204},
		{"POST", "/METRICS", 204},
		{"POST", "/Metrics/", 204},
		{"POST", "//metrics", 204},
		{"POST", "/./metrics", 204},
		{"POST", "/a/../metrics", 204},
		{"POST", "/metrics//", 204},
		{"POST", "/metrics/.", 204},
		{"GET", "/metrics", 0},
		{"OPTIONS", "/metrics", 0},
		{"PUT", "/metrics", 0},
		{"post", "/metrics", 0},
		{"POST", "/metricsx", 0},
		{"POST", "/metrics/x", 0},
		{"POST", "/metrics-flow", 0},
		{"POST", "/v1/metrics", 0},
		{"POST", "/metrics;a", 0},
		{"POST", "metrics", 0},
		{"POST", "", 0},
		{"POST", "*", 0},
		{"HEAD", "/metrics-errors", 204},
		{"GET", "/metrics-errors/", 204},
		{"POST", "/api/x", 200},
		{"POST", "/API/x/y", 200},
		{"POST", "/api/", 200},
		{"POST", "/api", 0},
		{"POST", "/api/events/two", 202},
		{"POST", "/api/Events/one/", 203},
		{"POST", "/api/events/../x", 200},
		{"POST", "/api//events/one", 203}, // the exact route, when cleaned
		{"POST", "/api/x/../events/one", 203},
		{"POST", "/api/../x", 200}, // below /api, as it came
		{"POST", "//api/.", 200},
		{"POST", "/x/../api/.", 200},
		{"HEAD", "/only-head", 205},
		{"HEAD", "/both", 206},
		{"GET", "/both", 207},
		{"POST", "/api/.", 200},
		{"POST", "/x/../api/y", 200},
		{"GET", "/", 201},
		{"GET", "//", 201},
		{"GET", "", 201},
		{"HEAD", "/", 201},
	} {
		status := 0
		if route := g.routes.match(test.method, test.path); route != nil {
			status = route.answer.status
		}
		if status != test.status {
			t.Errorf("%s %s: route %d, want %d", test.method, test.path, status, test.status)
		}
		taken := slices.ContainsFunc(g.Routes(), func(route Route) bool { return route.Takes(test.method, test.path) })
		if taken != (test.status != 0) {
			t.Errorf("%s %s: taken by itself: %t", test.method, test.path, taken)
		}
	}
}

func TestOwnRouteTakesThePlaceOfThePresets(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{
		Preset: "fxa",
		Routes: []Route{{Methods: []string{"POST"}, Path: "/metrics-errors", Answer: &Answer{Status: 418}}},
	})
	if got := g.routes.match("POST", "/metrics-errors").answer.status; got != 418 {
		t.Errorf("POST /metrics-errors answers %d, not the own route's 418", got)
	}
	if got := g.routes.match("GET", "/metrics-errors").answer.status; got != 200 {
		t.Errorf("GET /metrics-errors answers %d, not the preset's 200", got)
	}
}

// FuzzRouteEnding holds the short way to "not gated" against the long one,
// which a table with a prefix route takes.
func FuzzRouteEnding(f *testing.F) {
	var short, long routeTable
	for _, path := range []string{"/metrics", "/b", "/", "/ünicode/É", "/x/Flags", "/k"} {
		for _, table := range []*routeTable{&short, &long} {
			if err := table.add(&gatedRoute{methods: []string{"GET"}, path: path}); err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := long.add(&gatedRoute{methods: []string{"NONE"}, path: "/", below: true}); err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{
		"/metrics", "/METRICS/", "//metrics", "/x/../metrics", "/metrics/x/..", "/metrics/.", "/metricſ", "/\u212a",
		"/ÜNICODE/é", "/x/flags", "/", "", ".", "/b/", "/B", "metrics", "/metrics.js", "/static/app.js",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, want := short.match("GET", path), long.match("GET", path)
		if (got == nil) != (want == nil) || got != nil && got.path != want.path {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	})
}
