package tests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Handlers in front of the gate may rewrite what a client asked for. What the
// client asked for counts as well, where nothing says that it must not.
func TestPathsBeforeRewrites(t *testing.T) {
	t.Parallel()
	behind, authorizer, profile := newContentServer(t), newContentServer(t), newProfile(t)
	proxy := testcaddy.ProxyTo(behind.addr())
	gate := func(routes ...string) string {
		return testcaddy.Gate(append(routes, testcaddy.SessionJWT(), profile.block(patient))...)
	}
	const flags = "route GET /flags experiment {\nanswer 200 application/json `{}`\n}"
	named := "&(gate) {\n" + gate(flags) + "\n}\n"

	type request struct {
		request string
		header  string
		gated   bool
	}
	out := testcaddy.Session(profile.account(optOut))
	for _, c := range []struct {
		name       string
		directives []string
		requests   []request
	}{
		{
			"handle_path",
			[]string{"handle_path /ingest* {", gate("route POST /ingest/e"), proxy, "}", "handle {", proxy, "}"},
			[]request{
				{"POST /ingest/e", "", true},
				{"POST /INGEST/e/", "", true},
				{"POST /ingest/e;x", "", true},
				{"POST /ingest/x/../e", "", true},
				{"POST /ingest/other", "", false},
				{"POST /e", "", false},
			},
		},
		{
			"handle_path, and the path that is left",
			[]string{"handle_path /ingest* {", gate("route POST /e"), proxy, "}"},
			[]request{{"POST /ingest/e", "", true}},
		},
		{
			"uri strip_prefix",
			[]string{"uri strip_prefix /ingest", gate("route POST /ingest/e"), proxy},
			[]request{{"POST /ingest/e", "", true}, {"POST /e", "", false}},
		},
		{
			"uri strip_suffix",
			[]string{"uri strip_suffix .json", gate("route POST /e.json"), proxy},
			[]request{{"POST /e.json", "", true}, {"POST /e", "", false}},
		},
		{
			"uri path_regexp, inside route and handle",
			[]string{"handle {", "route {", "uri path_regexp ^/v[0-9]+/ /", gate("route POST /v1/e"), proxy, "}", "}"},
			[]request{{"POST /v1/e", "", true}, {"POST /v2/e", "", false}},
		},
		{
			"rewrite",
			[]string{"rewrite /ingest/* /collect?from={path}", gate("route POST /ingest/*"), proxy},
			[]request{{"POST /ingest/e", "", true}, {"POST /collect", "", false}},
		},
		{
			"method",
			[]string{"method POST", gate("route PATCH /beacon"), proxy},
			[]request{{"PATCH /beacon", "", true}, {"patch /beacon", "", true}, {"POST /beacon", "", false}},
		},
		{
			"handle_response of another proxy, as forward_auth has it",
			[]string{
				"route {", "reverse_proxy " + authorizer.addr() + " {", "method GET", "rewrite /asset.js", "@ok status 2xx", "handle_response @ok {",
				"rewrite /ingest/e /e", "}", "}", gate("route POST /ingest/e"), proxy, "}",
			},
			[]request{{"POST /ingest/e", "", true}},
		},
		{
			"what the path has become is essential",
			[]string{"rewrite /t/old /t/keep", gate("route POST /t/*", "route POST /t/keep essential"), proxy},
			[]request{{"POST /t/old", "", false}, {"POST /t/keep", "", false}, {"POST /t/x", "", true}},
		},
		{
			"what it was is essential",
			[]string{"rewrite /t/keep /kept", gate("route POST /t/*", "route POST /t/keep essential"), proxy},
			[]request{{"POST /t/keep", "", false}, {"POST /t/keep;x", "", true}},
		},
		{
			"a page that a rewrite serves",
			[]string{"rewrite /flags /", gate(flags), proxy},
			[]request{
				{"GET /flags", "Sec-Fetch-Dest: document", false},
				{"GET /flags", "Sec-Fetch-Dest: iframe", false},
				{"GET /flags", "Accept: text/html,*/*", false},
				{"GET /flags", "Sec-Fetch-Dest: empty", true},
				{"GET /flags", "", true},
				{"HEAD /flags", "", true},
			},
		},
		{
			"an error page",
			[]string{"error /beacon 503", "handle_errors {", "rewrite * /asset.js", "method GET", gate("route POST /beacon", "route POST /x"), proxy, "}"},
			[]request{{"POST /beacon", "", false}},
		},
	} {
		addr := testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, c.directives...))
		for _, r := range c.requests {
			headers := []string{testcaddy.Cookie(out)}
			if r.header != "" {
				headers = append(headers, r.header)
			}
			if a := send(t, behind, addr, r.request, "", headers...); a.collected() == r.gated {
				t.Errorf("%s: %s %s: reached the application: %v, answered %d", c.name, r.request, r.header, a.collected(), a.status)
			}
		}
	}

	// A gate that a request comes to twice decides it once.
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, named, testcaddy.Site(addr, "route {", "invoke gate", "rewrite * /asset.js", "invoke gate", proxy, "}"))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	if a := send(t, behind, addr, "GET /flags", "", in); !a.collected() {
		t.Errorf("twice through one gate: answered %d", a.status)
	}
	if n := caddy.Metric("requests_total", "route", "/flags"); n != 1 {
		t.Errorf("twice through one gate: counted %v times", n)
	}
}

// A single-page application serves its page for every path that is no file. One
// of its pages has the path of a gated route.
func TestSinglePageApplicationUnderTryFiles(t *testing.T) {
	t.Parallel()
	profile, addr, folder := newProfile(t), testcaddy.FreeAddr(t), t.TempDir()
	for name, text := range map[string]string{"index.html": page, "app.js": "flags()"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testcaddy.Start(t, testcaddy.Site(addr,
		"root * "+folder,
		"try_files {path} /index.html",
		testcaddy.Gate(
			"route GET /flags experiment {\nanswer 200 application/json `{\"control\":true}`\n}",
			"route POST /beacon",
			testcaddy.SessionJWT(), profile.block(patient)),
		"file_server"))
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	const control = `{"control":true}`
	for _, c := range []struct{ request, header, body string }{
		{"GET /flags", "Sec-Fetch-Dest: document", page},
		{"GET /flags/", "Accept: text/html", page},
		{"GET /settings", "Sec-Fetch-Dest: document", page},
		{"GET /", "Sec-Fetch-Dest: document", page},
		{"GET /app.js", "Sec-Fetch-Dest: script", "flags()"},
		{"GET /settings", "Sec-Fetch-Dest: empty", page},
		{"GET /flags", "Sec-Fetch-Dest: empty", control},
		{"GET /Flags/?x=1", "Sec-Fetch-Dest: empty", control},
	} {
		a := send(t, nil, addr, c.request, "", out, c.header)
		if a.status != 200 || a.body != c.body {
			t.Errorf("%s, %s: answered %d %q", c.request, c.header, a.status, a.body)
		}
	}
	if a := send(t, nil, addr, "POST /beacon", "{}", out); a.status != 204 {
		t.Errorf("POST /beacon, which try_files rewrites: answered %d %q", a.status, a.body)
	}
}

// What Firefox Accounts needs of its server besides metrics goes on working for
// those who opted out, whatever stands in front of the gate.
func TestEssentialRequestsOfFxA(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	proxy := testcaddy.ProxyTo(behind.addr())
	preset := testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient))
	wider := testcaddy.Gate("preset fxa", "route GET,POST /metrics/*", "route GET,POST /*/oauth/*", "route GET /*/oauth/signin essential",
		testcaddy.SessionJWT(), profile.block(patient))
	for name, site := range map[string][]string{
		"alone":             {preset, proxy},
		"below a path":      {"handle_path /fxa/* {", preset, proxy, "}", "handle {", preset, proxy, "}"},
		"with wider routes": {wider, proxy},
	} {
		addr := testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, site...))
		for _, request := range []string{
			"GET /metrics-flow", "GET /metrics-flow?event_type=engage&entrypoint=x", "POST /metrics-flow", "OPTIONS /metrics",
			"GET /", "GET /signin", "GET /signup?service=sync", "GET /settings", "GET /oauth/signin", "GET /v1/oauth/signin", "GET /authorization",
			"POST /_/csp-violation", "GET /__heartbeat__", "GET /asset.js", "GET /experiments.js", "GET /metrics", "POST /nimbus-experiments-x",
		} {
			if a := send(t, behind, addr, request, "", out, "Sec-Fetch-Dest: empty"); !a.collected() {
				t.Errorf("%s: %s was answered %d and did not reach the application", name, request, a.status)
			}
		}
		for _, request := range []string{"POST /metrics", "GET /metrics-errors", "POST /metrics-errors", "GET /experiments.bundle.js", "POST /nimbus-experiments"} {
			if a := send(t, behind, addr, request, "{}", out); a.collected() {
				t.Errorf("%s: %s reached the application", name, request)
			}
		}
	}
}
