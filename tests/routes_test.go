package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// The preset's routes, and what a blocked user's browser gets from each.
func TestPresetRoutes(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))

	for _, c := range []struct{ request, route, class, kind, answer string }{
		{"POST /metrics", "/metrics", "metrics", "application/json", success},
		{"GET /metrics-errors", "/metrics-errors", "metrics", "application/json", success},
		{"HEAD /metrics-errors", "/metrics-errors", "metrics", "application/json", ""},
		{"POST /metrics-errors", "/metrics-errors", "metrics", "application/json", success},
		{"GET /experiments.bundle.js", "/experiments.bundle.js", "experiment", "javascript", ""},
		{"POST /navigation-timing", "/navigation-timing", "metrics", "application/json", "{}"},
		{"POST /nimbus-experiments", "/nimbus-experiments", "experiment", "application/json", `{"Features":{},"Enrollments":[],"features":{},"nimbusUserId":""}`},
	} {
		before := caddy.Metric("requests_total", "route", c.route, "class", c.class, "decision", "block", "reason", "preference")
		a := send(t, behind, addr, c.request, `{}`, out)
		if a.collected() || a.status != http.StatusOK || a.body != c.answer || !strings.Contains(a.header.Get("Content-Type"), c.kind) {
			t.Errorf("%s: collected %v, answered %d %q %q", c.request, a.collected(), a.status, a.header.Get("Content-Type"), a.body)
		}
		counted := caddy.Metric("requests_total", "route", c.route, "class", c.class, "decision", "block", "reason", "preference")
		if counted != before+1 {
			t.Errorf("%s: counted %v times", c.request, counted-before)
		}
		if a := send(t, behind, addr, c.request, `{}`, in); !a.collected() {
			t.Errorf("%s of an account that allows did not reach the application", c.request)
		}
		if method, _, _ := strings.Cut(c.request, " "); method != http.MethodPost && a.header.Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: Cache-Control is %q", c.request, a.header.Get("Cache-Control"))
		}
	}

	// What is collected on a gated GET route is nobody else's either.
	for _, request := range []string{"GET /metrics-errors", "GET /experiments.bundle.js"} {
		a := send(t, behind, addr, request, "", in)
		if got := a.header.Values("Cache-Control"); len(got) != 1 || got[0] != "private, no-store" {
			t.Errorf("%s, collected: Cache-Control is %q", request, got)
		}
	}
}

// Whatever Express, or something in front of it, may take for the same path is
// gated; its neighbours are not. Sent raw, because a client tidies paths up.
func TestSpellings(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out := testcaddy.Session(profile.account(optOut))

	for _, c := range []struct {
		request string
		gated   bool
	}{
		{"POST /metrics", true},
		{"POST /METRICS", true},
		{"POST /Metrics", true},
		{"POST /metrics/", true},
		{"POST /METRICS/", true},
		{"POST //metrics", true},
		{"POST ///metrics", true},
		{"POST //metrics//", true},
		{"POST /./metrics", true},
		{"POST /a/../metrics", true},
		{"POST /../metrics", true},
		{"POST /%6detrics", true},
		{"POST /%6Detrics", true},
		{"POST /%4detrics", true},
		{"POST /metrics?x=1", true},
		{"POST /metrics/?x=1", true},
		{"POST /metrics?", true},
		{"POST http://" + addr + "/metrics", true},
		{"GET /metrics-errors?sentry_version=4", true},
		{"HEAD /Metrics-Errors/", true},
		{"POST /metrics%2Derrors", true},
		{"GET /experiments.bundle.js", true},
		{"GET /Experiments.Bundle.JS", true},
		{"POST /nimbus-experiments/", true},

		{"GET /metrics-flow", false},
		{"GET /metrics-flow?event_type=engage&uid=" + testcaddy.NewUID(t), false},
		{"POST /metrics-flow", false},
		{"POST /metricsx", false},
		{"POST /xmetrics", false},
		{"POST /v1/metrics", false},
		{"POST /metrics/x", false},
		{"POST /metric", false},
		{"OPTIONS /metrics", false},
		{"OPTIONS /metrics-errors", false},
		{"GET /metrics", false},
		{"HEAD /metrics", false},
		{"PUT /metrics", false},
		{"PUT /metrics-errors", false},
		{"POST /experiments.bundle.js", false},
		{"GET /nimbus-experiments", false},
		{"POST /_/csp-violation", false},
		{"POST /", false},
	} {
		id := fmt.Sprintf("spelling%d", serial.Add(1))
		method, target, _ := strings.Cut(c.request, " ")
		raw := speak(t, addr, method+" "+target+" HTTP/1.1\r\nHost: "+addr+"\r\nX-Request-Id: "+id+
			"\r\nCookie: session="+out+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		response, _ := readAnswer(t, raw, method)
		passed := behind.byID(id)
		if c.gated && (passed != nil || response.StatusCode != http.StatusOK) {
			t.Errorf("%s passed the gate: %s", c.request, response.Status)
		}
		if !c.gated && passed == nil {
			t.Errorf("%s, which is no metrics request, was answered %s and did not reach the application", c.request, response.Status)
		}
		if !c.gated && passed != nil && passed.method != method {
			t.Errorf("%s arrived as %s", c.request, passed.method)
		}
	}
}

// Without a preset: exact paths first, then the longest prefix; OPTIONS passes.
func TestOwnRoutes(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate(
		"route POST /t/* {\nanswer 201\n}",
		"route POST /t/deep/* {\nanswer 202\n}",
		"route POST /t/deep/exact {\nanswer 203 text/plain exactly\n}",
		"route PUT,DELETE /t/deep/exact {\nanswer 200\n}",
		testcaddy.SessionJWT(), profile.block(patient),
	), testcaddy.ProxyTo(behind.addr())))
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))

	for _, c := range []struct {
		request string
		status  int
		route   string
	}{
		{"POST /t/x", 201, "/t/*"},
		{"POST /t/x/y/z", 201, "/t/*"},
		{"POST /T/X", 201, "/t/*"},
		{"POST /t/deeper", 201, "/t/*"},
		{"POST /t/deep/x", 202, "/t/deep/*"},
		{"POST /t/Deep/x/y", 202, "/t/deep/*"},
		{"POST /t/deep/exact", 203, "/t/deep/exact"},
		{"POST /t/deep/EXACT/", 203, "/t/deep/exact"},
		{"PUT /t/deep/exact", 200, "/t/deep/exact"},
		{"DELETE /t/deep/exact", 200, "/t/deep/exact"},
	} {
		before := caddy.Metric("requests_total", "route", c.route, "decision", "block")
		a := send(t, behind, addr, c.request, "", out)
		if a.collected() || a.status != c.status {
			t.Errorf("%s: collected %v, answered %d; want %d", c.request, a.collected(), a.status, c.status)
		}
		if got := caddy.Metric("requests_total", "route", c.route, "decision", "block"); got != before+1 {
			t.Errorf("%s was not counted for %s", c.request, c.route)
		}
	}
	for _, request := range []string{"GET /t/deep/exact", "OPTIONS /t/deep/exact", "POST /tx", "POST /api/beacon"} {
		if a := send(t, behind, addr, request, "", out); !a.collected() {
			t.Errorf("%s is no gated route, and did not reach the application", request)
		}
	}
}

// What the gate decided, for what comes after it in the same site. Before it, the
// matcher is false.
func TestPlaceholdersAndMatcher(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr,
		"@out metrics_optout",
		"route {",
		"request_header @out X-Early yes",
		testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)),
		"request_header @out X-Out yes",
		`request_header X-Decided "{http.metrics_gate.decision} {http.metrics_gate.reason}"`,
		testcaddy.ProxyTo(behind.addr()),
		"}"))

	for _, c := range []struct {
		name, request string
		preference    preference
		headers       []string
		decided, out  string
	}{
		{"allowed beacon", "POST /metrics-errors", allow, nil, "collect explicit_allow", ""},
		{"beacon without a choice", "POST /metrics-errors", unset, nil, "collect default", ""},
		{"allowed page", "GET /signin", allow, []string{"Accept: text/html"}, "collect explicit_allow", ""},
		{"opted-out page", "GET /signin", optOut, []string{"Accept: text/html"}, "block preference", "yes"},
		{"page with a signal", "GET /signin", unset, []string{"Accept: text/html", "Metrics-Optout: 1"}, "block signal", "yes"},
	} {
		token := testcaddy.Cookie(testcaddy.Session(profile.account(c.preference)))
		_ = send(t, behind, addr, "POST /metrics", "{}", token) // a page uses what is known
		a := send(t, behind, addr, c.request, "{}", append(c.headers, token)...)
		if !a.collected() {
			t.Errorf("%s did not reach the application", c.name)
			continue
		}
		got := a.passed().header
		if got.Get("X-Decided") != c.decided || got.Get("X-Out") != c.out || got.Get("X-Early") != "" {
			t.Errorf("%s: decided %q, matcher %q, before the gate %q; want %q, %q", c.name,
				got.Get("X-Decided"), got.Get("X-Out"), got.Get("X-Early"), c.decided, c.out)
		}
	}
}

// A WebSocket is opened by GET over HTTP/1.1 and by CONNECT over HTTP/3, of which
// Caddy makes a GET for the application.
func TestWebSockets(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	certificate, key := certificateOf(t, "localhost")
	_, port, _ := strings.Cut(addr, ":")
	testcaddy.Start(t, "https://localhost:"+port+" {\nbind 127.0.0.1\ntls "+certificate+" "+key+"\n"+
		testcaddy.Gate("route GET /socket", testcaddy.SessionJWT(), profile.block(patient))+"\n"+testcaddy.ProxyTo(behind.addr())+"\n}\n")
	for choice, want := range map[preference]string{optOut: "", allow: "GET /socket collect"} {
		for method, protocol := range map[string]string{"GET": "HTTP/1.1", "CONNECT": "HTTP/3.0"} {
			id := fmt.Sprintf("socket%d", serial.Add(1))
			r, err := http.NewRequest(method, "https://localhost:"+port+"/socket", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Cookie", strings.TrimPrefix(testcaddy.Cookie(testcaddy.Session(profile.account(choice))), "Cookie: "))
			r.Header.Set("X-Request-ID", id)
			r.Header.Set("Sec-WebSocket-Version", "13")
			if method == "CONNECT" {
				r.Proto = "websocket"
			} else {
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Upgrade", "websocket")
			}
			response, err := clientOf(t, protocol).Transport.RoundTrip(r)
			if err != nil {
				t.Fatalf("%s: %v", protocol, err)
			}
			_ = response.Body.Close()
			got := ""
			if passed := behind.byID(id); passed != nil {
				got = fmt.Sprintf("%s %s %s", passed.method, passed.uri, passed.header.Get("Metrics-Gate-Decision"))
			}
			if got != want {
				t.Errorf("preference %s, %s over %s: the application got %q, want %q", choice, method, protocol, got, want)
			}
		}
	}
}
