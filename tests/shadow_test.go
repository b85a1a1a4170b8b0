package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Shadow looks up, decides and counts, and is not to be noticed otherwise.
func TestShadow(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, "metrics_gate shadow {\npreset fxa\nblock_with reject\n"+testcaddy.SessionJWT()+"\n"+profile.block(patient)+"\n}", testcaddy.ProxyTo(behind.addr())))

	// It says at start what that means.
	caddy.Logged("http.handlers.metrics_gate", `"level":"warn"`, "shadow", "measured")

	out, in, none := profile.account(optOut), profile.account(allow), profile.account(unset)
	for _, c := range []struct {
		name, request, body, decision, reason string
		headers                               []string
	}{
		{"opted out", "POST /metrics", fixture(t, "legacy_2015"), "block", "preference", []string{testcaddy.Cookie(testcaddy.Session(out))}},
		{"opted out by name", "POST /metrics", flushOf(t, out), "block", "preference", nil},
		{"signal", "POST /metrics", fixture(t, "anonymous"), "block", "signal", []string{"Metrics-Optout: 1"}},
		{"no choice, signal", "POST /metrics", fixture(t, "anonymous"), "block", "signal", []string{testcaddy.Cookie(testcaddy.Session(none)), "Cookie: metrics_optout=true"}},
		{"unknown", "POST /metrics", "{}", "block", "unknown", []string{testcaddy.Cookie(testcaddy.Session(profile.account(unknown)))}},
		{"unverifiable", "POST /metrics", "{}", "block", "unverified_session", []string{testcaddy.Cookie("garbage")}},
		{"allowed", "POST /metrics", flushOf(t, in), "collect", "explicit_allow", []string{testcaddy.Cookie(testcaddy.Session(in))}},
		{"anonymous", "POST /metrics", fixture(t, "anonymous"), "collect", "default", nil},
		{"error report", "GET /metrics-errors", "", "block", "preference", []string{testcaddy.Cookie(testcaddy.Session(out))}},
		{"experiment", "GET /experiments.bundle.js", "", "block", "preference", []string{testcaddy.Cookie(testcaddy.Session(out))}},
		{"experiment, Nimbus", "POST /nimbus-experiments", "{}", "block", "preference", []string{testcaddy.Cookie(testcaddy.Session(out))}},
	} {
		labels := []string{"mode", "shadow", "decision", c.decision, "reason", c.reason}
		before := caddy.Metric("requests_total", labels...)
		plain := send(t, behind, behind.addr(), c.request, c.body) // without a gate
		a := send(t, behind, addr, c.request, c.body, append(c.headers, "Metrics-Gate-Decision: forged")...)
		if !a.collected() || string(a.passed().body) != c.body {
			t.Errorf("%s did not reach the application whole", c.name)
			continue
		}
		if got := outcomes(a.passed()); got != nil {
			t.Errorf("%s: the application was told %q", c.name, got)
		}
		if a.status != plain.status || a.body != plain.body || a.header.Get("ETag") != plain.header.Get("ETag") {
			t.Errorf("%s: %d %q, without a gate %d %q", c.name, a.status, a.body, plain.status, plain.body)
		}
		if got := caddy.Metric("requests_total", labels...) - before; got != 1 {
			t.Errorf("%s: counted %v times as %s, %s", c.name, got, c.decision, c.reason)
		}
	}
	if got := caddy.Metric("requests_total", "mode", "enforce"); got != 0 {
		t.Errorf("%v requests were counted as enforced", got)
	}

	want := fmt.Sprintf("%v requests would have been blocked", caddy.Metric("requests_total", "mode", "shadow", "decision", "block"))
	if text, _ := statusOf(t, caddy); !strings.Contains(text, want) {
		t.Errorf("status does not say that %s\n%s", want, text)
	}

	// Pages pass without the outcome, and nothing was written.
	a := send(t, behind, addr, "GET /signin", "", testcaddy.Cookie(testcaddy.Session(none)), "Cookie: metrics_optout=true", "Accept: text/html")
	if got := outcomes(a.passed()); got != nil || a.body != page || a.header.Get("Set-Cookie") != "" {
		t.Errorf("a page: %d %q, told %q", a.status, a.body, got)
	}
	caddy.Stop()
	if writes := profile.asked.Where(func(a profileAsked) bool { return a.method == http.MethodPost }); len(writes) != 0 {
		t.Errorf("shadow wrote %d times", len(writes))
	}
}
