package tests

import (
	"net/http"
	"slices"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// outcomes are the values that the application got in the gate's headers, of
// which the outcome is the only one for it, in any spelling that an application
// may take for them.
func outcomes(r *received) (all []string) {
	for name, values := range r.header {
		canonical := []byte(name)
		for i, c := range canonical {
			if c == '_' || c == '.' {
				canonical[i] = '-'
			}
		}
		switch http.CanonicalHeaderKey(string(canonical)) {
		case "Metrics-Gate-Decision", "Metrics-Gate-Trace":
			all = append(all, values...)
		}
	}
	return all
}

// The application learns what was decided of what passes, from the gate alone.
func TestOutcomeHeader(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in, none := testcaddy.Cookie(testcaddy.Session(profile.account(optOut))), testcaddy.Cookie(testcaddy.Session(profile.account(allow))), testcaddy.Cookie(testcaddy.Session(profile.account(unset)))
	for _, token := range []string{out, in, none} {
		_ = send(t, behind, addr, "POST /metrics", "{}", token) // a page uses what is known
	}

	for _, c := range []struct {
		name, request string
		headers       []string
		want          []string
	}{
		{"page, opted out", "GET /signin", []string{out, "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}, []string{"block"}},
		{"page, allowed", "GET /signin", []string{in, "Accept: text/html"}, []string{"collect"}},
		{"page, no choice", "GET /signin", []string{none, "Accept: text/html"}, []string{"collect"}},
		{"page, no choice, with a signal", "GET /signin", []string{none, "Accept: text/html", "Metrics-Optout: 1"}, []string{"block"}},
		{"page, anonymous", "GET /", []string{"Accept: text/html"}, []string{"collect"}},
		{"page, anonymous, with a signal", "GET /", []string{"Accept: text/html", "Cookie: metrics_optout=true"}, []string{"block"}},
		{"page, unverifiable", "GET /", []string{"Accept: text/html", testcaddy.Cookie("garbage")}, []string{"block"}},
		{"page, HEAD", "HEAD /signin", []string{out, "Accept: text/html"}, []string{"block"}},
		{"page that is not there", "GET /nowhere", []string{out, "Accept: text/html"}, []string{"block"}},
		{"document", "GET /signin", []string{out, "Sec-Fetch-Dest: document", "Accept: */*"}, []string{"block"}},
		{"iframe", "GET /signin", []string{out, "Sec-Fetch-Dest: iframe"}, []string{"block"}},
		{"frame", "GET /signin", []string{out, "Sec-Fetch-Dest: frame"}, []string{"block"}},
		{"collected beacon", "POST /metrics", []string{in}, []string{"collect"}},
		{"collected experiment", "GET /experiments.bundle.js", []string{in}, []string{"collect"}},

		{"image that would take HTML", "GET /signin", []string{out, "Sec-Fetch-Dest: image", "Accept: text/html"}, nil},
		{"script", "GET /asset.js", []string{out, "Sec-Fetch-Dest: script", "Accept: */*"}, nil},
		{"no Accept", "GET /signin", []string{out}, nil},
		{"any Accept", "GET /signin", []string{out, "Accept: */*"}, nil},
		{"form", "POST /signin", []string{out, "Accept: text/html", "Sec-Fetch-Dest: document"}, nil},
		{"API", "GET /api/data", []string{out, "Accept: application/json"}, nil},
		{"OPTIONS", "OPTIONS /metrics", []string{out, "Accept: text/html"}, nil},
		{"metrics-flow", "GET /metrics-flow", []string{out, "Sec-Fetch-Dest: empty"}, nil},
	} {
		for _, forged := range [][]string{
			nil,
			{"Metrics-Gate-Decision: forged"},
			{"Metrics-Gate-Decision: forged", "Metrics-Gate-Decision: forged again"},
			{"metrics-gate-decision: forged"},
			{"METRICS-GATE-DECISION: forged"},
			{"Metrics_Gate_Decision: forged"},
			{"metrics_gate_decision: forged"},
			{"Metrics.Gate.Decision: forged"},
			{"Metrics-Gate_Decision: forged", "Metrics_Gate-Decision: forged"},
			{"Metrics-Gate-Trace: forged", "metrics_gate_trace: forged", "Metrics.Gate.Trace: forged"},
		} {
			a := send(t, behind, addr, c.request, "", append(forged, c.headers...)...)
			if !a.collected() {
				t.Errorf("%s did not reach the application", c.name)
			} else if got := outcomes(a.passed()); !slices.Equal(got, c.want) {
				t.Errorf("%s with %q: the application was told %q, want %q", c.name, forged, got, c.want)
			}
		}
	}
}

// Whoever asks for it, a page is the application's own, to the byte.
func TestPagesPassAsTheyAre(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", "block_with reject", "on_unset block", testcaddy.SessionJWT(), profile.block("timeout 100ms")), testcaddy.ProxyTo(behind.addr())))
	for name, headers := range map[string][]string{
		"anonymous":    nil,
		"signal":       {"Metrics-Optout: 1"},
		"opted out":    {testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))},
		"unknown":      {testcaddy.Cookie(testcaddy.Session(profile.account(unknown)))},
		"unverifiable": {testcaddy.Cookie("garbage")},
	} {
		for range 2 {
			a := send(t, behind, addr, "GET /signin", "", append(headers, "Accept: text/html")...)
			if a.status != http.StatusOK || a.body != page || a.header.Get("ETag") != `"page"` || a.header.Get("Set-Cookie") != "" || a.header.Get("Cache-Control") != "" {
				t.Errorf("%s: %d %v %q", name, a.status, a.header, a.body)
			}
			a = send(t, behind, addr, "GET /nowhere", "", append(headers, "Accept: text/html")...)
			if a.status != http.StatusNotFound || a.body == "" {
				t.Errorf("%s: the application's 404 became %d %q", name, a.status, a.body)
			}
		}
	}
}

// A page never waits for the profile server, and warms the beacon that follows.
func TestPageWarmsBeacon(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, lenient := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	testcaddy.Start(t,
		testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(lenient, testcaddy.Gate("preset fxa", "on_unknown collect", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))

	for site, whileUnknown := range map[string]string{addr: "block", lenient: "collect"} {
		uid := profile.account(allow)
		token := testcaddy.Cookie(testcaddy.Session(uid))
		release := profile.stall()
		t.Cleanup(release)
		// The profile server does not answer, and the page is there.
		for range 3 {
			a := send(t, behind, site, "GET /signin", "", token, "Accept: text/html")
			if a.body != page {
				t.Fatalf("answered %d %q", a.status, a.body)
			}
			if got := outcomes(a.passed()); !slices.Equal(got, []string{whileUnknown}) {
				t.Errorf("an unknown preference was told as %q, want %q", got, whileUnknown)
			}
		}
		profile.awaitAsked(uid, http.MethodGet, 1)
		beacon := make(chan answer, 1)
		go func() {
			a, _ := trySend(behind, site, "POST /metrics", "{}", token)
			beacon <- a
		}()
		release()
		if a := testcaddy.Await(t, "the beacon", beacon); !a.collected() {
			t.Error("the beacon of an account that allows was blocked")
		}
		if a := send(t, behind, site, "GET /signin", "", token, "Accept: text/html"); !slices.Equal(outcomes(a.passed()), []string{"collect"}) {
			t.Errorf("a page after the beacon was told %q", outcomes(a.passed()))
		}
		if n := profile.lookups(uid); n != 1 {
			t.Errorf("four pages and a beacon took %d lookups", n)
		}
	}
}

// Requests that are neither gated nor pages cost no lookup.
func TestOthersAreNotDecided(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	token := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	for _, request := range []string{"GET /asset.js", "POST /api/data", "GET /metrics-flow", "OPTIONS /metrics", "PUT /settings"} {
		if a := send(t, behind, addr, request, "", token); !a.collected() {
			t.Errorf("%s did not reach the application", request)
		}
	}
	caddy.Stop()
	if n := len(profile.asked.All()); n != 0 {
		t.Errorf("%d lookups", n)
	}
}
