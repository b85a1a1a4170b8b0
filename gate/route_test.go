package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
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
		{"post", "/metrics", 204},
		{"Post", "/metrics", 204},
		{"POST", "/metricsx", 0},
		{"POST", "/metrics/x", 0},
		{"POST", "/metrics-flow", 0},
		{"POST", "/v1/metrics", 0},
		{"POST", "/metrics;a", 204},
		{"POST", "/metrics;/a", 204},
		{"POST", "/;a/metrics", 204},
		{"POST", "/x;/metrics/a", 0},
		{"POST", "//host/metrics", 204},
		{"POST", "//host/x/metrics", 0},
		{"POST", "/x\\..\\metrics", 204},
		{"POST", "metrics", 204},
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
		{"CONNECT", "/", 201},
		{"CONNECT", "/Metrics-errors/", 204},
		{"CONNECT", "/only-head", 0},
		{"CONNECT", "/metrics", 0},
	} {
		status := 0
		if route := g.routes.matchURL(test.method, &url.URL{Path: test.path}); route != nil {
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

// A * is a segment, what is more literal wins, then what is earlier, and what
// is essential passes as it is written.
func TestRoutesWithStars(t *testing.T) {
	t.Parallel()
	var table routeTable
	for _, route := range []Route{
		{Methods: []string{"POST"}, Path: "/submit/*/*/*"},
		{Methods: []string{"POST"}, Path: "/submit/*/deletion-request/*", Class: ClassEssential},
		{Methods: []string{"POST"}, Path: "/a/b/*"},
		{Methods: []string{"POST"}, Path: "/a/*/c"},
		{Methods: []string{"POST"}, Path: "/a/*/d"},
		{Methods: []string{"POST"}, Path: "/a/b/d"},
		{Methods: []string{"GET"}, Path: "/*"},
		{Methods: []string{"GET"}, Path: "/", Class: ClassEssential},
		{Methods: []string{"GET"}, Path: "/keep/", Class: ClassEssential},
		{Methods: []string{"GET"}, Path: "/Keep/this", Class: ClassEssential},
		{Methods: []string{"GET"}, Path: "/keep/that", Class: ClassExperiment},
	} {
		table.add(route.prepare())
	}
	for _, c := range []struct{ method, target, path string }{
		{"POST", "/submit/app/events/1", "/submit/*/*/"},
		{"POST", "/submit/app/events/1/2/", "/submit/*/*/"},
		{"POST", "/submit/app/events/", "/submit/*/*/"},
		{"POST", "/submit/app/events", ""},
		{"POST", "/submit//events/1", ""},
		{"POST", "/submit/app/deletion-request/1", "essential"},
		{"POST", "/submit/app/Deletion-Request/1", "/submit/*/*/"},
		{"POST", "/submit/app/deletion-request;x/1", "/submit/*/*/"},
		{"POST", "/submit/app/events/../deletion-request/1", "/submit/*/*/"},
		{"POST", "/submit/app%2fx/deletion-request/1", "/submit/*/*/"},
		{"POST", "/a/b/c", "/a/b/"}, // as literal as the next, and earlier
		{"POST", "/a/x/c", "/a/*/c"},
		{"POST", "/a/x/C/", "/a/*/c"},
		{"POST", "/a/x%2fy/c", "/a/*/c"}, // one segment for Express
		{"POST", `/a/x\y/c`, "/a/*/c"},
		{"POST", "/a//c", ""},
		{"POST", "/a/x/y/c", ""},
		{"POST", "/a/b/d", "/a/b/d"},
		{"POST", "/a/b/e", "/a/b/"},
		{"POST", "/a/b", ""},
		{"GET", "/", "essential"},
		{"GET", "//", "/"},
		{"GET", "/x", "/"},
		{"GET", "*", "/"},
		{"GET", "/keep/", "essential"},
		{"GET", "/keep", "/"},
		{"GET", "/Keep/this", "essential"},
		{"get", "/Keep/this", "essential"},
		{"HEAD", "/Keep/this", "essential"},
		{"GET", "/Keep/this/", "/"},
		{"GET", "/keep/this", "/"},
		{"GET", "/Keep/this/../that", "/keep/that"},
		{"OPTIONS", "/x", ""},
	} {
		u, err := url.ParseRequestURI(c.target)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		switch route := table.lookUp(c.method, u); {
		case route != nil && route.essential:
			got = "essential"
		case route != nil:
			got = route.path
		}
		if got != c.path {
			t.Errorf("%s %s: %q, want %q", c.method, c.target, got, c.path)
		}
	}
}

// What nobody can follow is gated: more than a server reads, and more steps up
// than are counted.
func TestPathsBeyondReading(t *testing.T) {
	t.Parallel()
	table := readingTable()
	for target, gated := range map[string]bool{
		"/" + strings.Repeat("x", longestRead):                                      false, // every server reads that alike
		"/;" + strings.Repeat("x", longestRead):                                     true,
		"/x" + strings.Repeat("/..", 100) + "/beacon":                               true,
		"/c" + strings.Repeat("/y", 70) + strings.Repeat("/..", 70) + "/z;":         true,
		"/c" + strings.Repeat("/y", 60) + strings.Repeat("/..", 60) + "/z;":         false,
		"/c/.." + strings.Repeat("/y", 60) + strings.Repeat("/..", 60) + "/beacon;": true,
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		if got := table.matchURL("GET", u) != nil; got != gated {
			t.Errorf("%.40s, of %d bytes: %v", target, len(target), got)
		}
	}
}

func TestOwnRouteTakesThePlaceOfThePresets(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{
		Presets: []UsedPreset{{Name: "fxa"}},
		Routes:  []Route{{Methods: []string{"POST"}, Path: "/metrics-errors", Answer: &Answer{Status: 418}}},
	})
	if got := g.routes.match("POST", "/metrics-errors").answer.status; got != 418 {
		t.Errorf("POST /metrics-errors answers %d, not the own route's 418", got)
	}
	if got := g.routes.match("GET", "/metrics-errors").answer.status; got != 200 {
		t.Errorf("GET /metrics-errors answers %d, not the preset's 200", got)
	}
}

// What a request came with counts only where what it was rewritten to is of no
// route, not even of one that is essential.
func TestRewrittenToWhatIsEssential(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{
		Routes: []Route{{Methods: []string{"POST"}, Path: "/metrics"}, {Methods: []string{"POST"}, Path: "/keep", Class: ClassEssential}},
		Host:   Host{Original: func(*http.Request) (string, *url.URL) { return "POST", &url.URL{Path: "/metrics"} }},
	})
	for path, want := range map[string]bool{"/keep": false, "/other": true} {
		if _, gated := g.RouteOf(httptest.NewRequest("POST", path, nil)); gated != want {
			t.Errorf("/metrics that was rewritten to %s is gated: %v", path, gated)
		}
	}
}

// FuzzShortWay holds the short ways to "not gated" against the long one.
func FuzzShortWay(f *testing.F) {
	var tables [2]routeTable // without and with routes for everything below a path
	for i, paths := range [][]string{
		{"/metrics", "/b", "/ünicode/É", "/x/Flags", "/x/*/k", "/k", "/Kelvin", "/\u212a"},
		{"/Submit/*", "/v1/*", "/b/*", "/\u212a/*", "/x/*/k/*", "/.well-known/*", "/metrics"},
	} {
		for _, path := range paths {
			tables[i].add((&Route{Methods: []string{"GET", "PATCH"}, Path: path}).prepare())
		}
		tables[i].add((&Route{Methods: []string{"GET"}, Path: "/v1/keep/*", Class: ClassEssential}).prepare())
		tables[i].add((&Route{Methods: []string{"GET"}, Path: "/script.js", Class: ClassEssential}).prepare())
	}
	for _, path := range []string{
		"/metrics", "/METRICS/", "//metrics", "/x/../metrics", "/metrics/x/..", "/metrics/.", "/metricſ", "/\u212a",
		"/ÜNICODE/é", "/x/flags", "/", "", ".", "/b/", "/B", "metrics", "/metrics.js", "/static/app.js",
		"/metrics;a.js", "/;a/metrics", "/metrics;/static/app.js", "//h", "/\\h", "//host/metrics", "/x\\k", "/x\\y\\k", "/k\\", "/x/y/k",
		"/x/y%2fz/k", "/a%2fb/../k", "/k%2f", "/x%5ck", "/k%3bx", "/%2e%2e/k", "http:k", "*",
		"/.#", `\00`, "/..//b", "bk", "/kelvin", "/script.js",
		"/submit/x", "/SUBMIT/x/y", "/submit", "/x/../submit/x", "//host/submit/x", "/a;/submit/x", `/a\..\submit\x`, "/v1", "/v1/", "/V1/keep/x",
		"/v1/keep/../x", "/v2/x", "/\u212a/x", "/k/x", "/x/y/k/z", "/%76%31/x", "/.well-known/x", "/./.WELL-known/x", "/v1x", "/b/", "/b/x.js", "v1/x",
	} {
		f.Add("GET", path)
		f.Add("pAtCh", path)
		f.Add("head", path)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		urls := []*url.URL{{Path: target}}
		if u, err := url.ParseRequestURI(target); err == nil { // as a server does
			urls = append(urls, u)
		}
		for _, u := range urls {
			for i := range tables {
				want := tables[i].lookUp(method, u)
				if want != nil && want.essential {
					want = nil
				}
				if got := tables[i].matchURL(method, u); got != want {
					t.Errorf("%s %+v: %v, want %v", method, u, got, want)
				}
			}
		}
	})
}
