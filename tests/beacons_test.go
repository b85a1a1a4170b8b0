package tests

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// fixture is a payload as FxA's pages send it; see testdata.
func fixture(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(content, []byte("\n")))
}

// flushOf is the signed-in user's flush, of the account.
func flushOf(t testing.TB, uid string) string {
	t.Helper()
	const inFixture = "c0ffee00c0ffee00c0ffee00c0ffee00"
	body := fixture(t, "signed_in")
	if !strings.Contains(body, inFixture) {
		t.Fatal("the fixture names another account")
	}
	return strings.ReplaceAll(body, inFixture, uid)
}

// Real payloads, as sendBeacon and as XHR send them: they reach the application
// byte for byte, and do not where the account or the browser opted out.
func TestBeacons(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in, none := profile.account(optOut), profile.account(allow), profile.account(unset)

	for _, c := range []struct {
		name, body string
		headers    []string
		want       string
	}{
		{"anonymous", fixture(t, "anonymous"), nil, "collect"},
		{"anonymous, opted out in the browser", fixture(t, "anonymous"), []string{"Cookie: metrics_optout=true"}, "block"},
		{"anonymous, GPC where GPC does not count", fixture(t, "anonymous"), []string{"Sec-GPC: 1"}, "collect"},
		{"signed in, allowed", flushOf(t, in), nil, "collect"},
		{"signed in, no choice", flushOf(t, none), nil, "collect"},
		{"signed in, opted out", flushOf(t, out), nil, "block"},
		{"signed in, opted out, and a cookie that does not object", flushOf(t, out), []string{"Cookie: metrics_optout=false"}, "block"},
		{"signed in, with an allowed session of another account", flushOf(t, out), []string{testcaddy.Cookie(testcaddy.Session(in))}, "block"},
		{"2015", fixture(t, "legacy_2015"), nil, "collect"},
		{"2015, opted-out session", fixture(t, "legacy_2015"), []string{testcaddy.Cookie(testcaddy.Session(out))}, "block"},
		{"2015, allowed session", fixture(t, "legacy_2015"), []string{testcaddy.Cookie(testcaddy.Session(in))}, "collect"},
		{"2015, expired session of an opted-out account", fixture(t, "legacy_2015"), []string{testcaddy.Cookie(testcaddy.Session(out, testcaddy.Expired))}, "block"},
	} {
		for _, kind := range []string{"application/json", "text/plain;charset=UTF-8"} {
			a := send(t, behind, addr, "POST /metrics", c.body, append([]string{"Content-Type: " + kind}, c.headers...)...)
			if a.decision() != c.want {
				t.Errorf("%s as %s: %s, want %s", c.name, kind, a.decision(), c.want)
			}
			if a.status != http.StatusOK || a.body != success {
				t.Errorf("%s as %s: answered %d %q", c.name, kind, a.status, a.body)
			}
			if a.collected() {
				arrivedWhole(t, c.name+" as "+kind, a, c.body, kind)
			}
		}
	}
}

// arrivedWhole tells whether the application got the very bytes that were sent.
func arrivedWhole(t *testing.T, what string, a answer, body, kind string) {
	t.Helper()
	got := a.passed()
	if string(got.body) != body || got.err != nil {
		t.Errorf("%s: %d bytes sent, %d arrived, %v", what, len(body), len(got.body), got.err)
	}
	if got.header.Get("Content-Type") != kind {
		t.Errorf("%s: arrived as %q", what, got.header.Get("Content-Type"))
	}
	if got.header.Get("Transfer-Encoding") != "" || got.header.Get("Content-Encoding") != "" {
		t.Errorf("%s: arrived encoded", what)
	}
}

// Error reports of both eras: the query of 2015, and the body since 2016.
func TestErrorReports(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := testcaddy.Cookie(testcaddy.Session(profile.account(optOut))), testcaddy.Cookie(testcaddy.Session(profile.account(allow)))

	query := "/metrics-errors?sentry_version=4&sentry_client=raven-js/1.1.18&sentry_key=__API_KEY__&sentry_data=" +
		url.QueryEscape(fixture(t, "sentry_data"))
	if len(query) < 7000 || len(query) > 8000 {
		t.Fatalf("the query has %d bytes; FxA's have 7 to 8 thousand", len(query))
	}
	report := fixture(t, "metrics_errors")
	for _, c := range []struct{ request, body string }{
		{"GET " + query, ""},
		{"HEAD " + query, ""},
		{"POST /metrics-errors?sentry_version=7&service=sync", report},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		want := success
		if method == http.MethodHead {
			want = ""
		}
		for _, headers := range [][]string{nil, {in}} {
			a := send(t, behind, addr, c.request, c.body, append(headers, "Content-Type: application/json")...)
			if !a.collected() {
				t.Errorf("%s with %d sessions did not reach the application", method, len(headers))
				continue
			}
			if a.passed().uri != target || string(a.passed().body) != c.body {
				t.Errorf("%s arrived with a query of %d bytes and a body of %d", method, len(a.passed().uri), len(a.passed().body))
			}
		}
		for _, header := range []string{out, "Cookie: metrics_optout=true", "Metrics-Optout: true"} {
			a := send(t, behind, addr, c.request, c.body, header)
			if a.collected() || a.status != http.StatusOK || a.body != want {
				t.Errorf("%s, opted out: collected %v, answered %d %q", method, a.collected(), a.status, a.body)
			}
		}
	}
}

// A beacon without a body that names, behind a gate that looks at no bodies,
// gets the application's own answer when it is collected.
func TestApplicationsOwnAnswer(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("route POST /metrics {\nanswer 200 application/json `"+success+"`\n}", testcaddy.SessionJWT(), profile.block(patient)),
		testcaddy.ProxyTo(behind.addr())))
	a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(allow))))
	if a.status != http.StatusBadRequest || !strings.Contains(a.body, "validation") || a.header.Get("ETag") == "" {
		t.Errorf("the application's 400 came through as %d %q", a.status, a.body)
	}
	if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))); a.body != success || a.header.Get("ETag") != "" {
		t.Errorf("a blocked beacon was answered %d %q", a.status, a.body)
	}
}
