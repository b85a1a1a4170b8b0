package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Of an opted-out user nothing is kept: not in the application's log, not in
// the access log, not in Caddy's own, not in a counter, not in what the admin
// API shows. Nor are secrets, of anybody.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, bearer, down := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	logged := "log {\noutput file " + accessLog + "\n}"
	named := "\nroute POST /api/beacon\nnames {\nbody uid\n}"
	caddy := testcaddy.StartWith(t, "debug", // Caddy at its most talkative
		testcaddy.Site(addr, logged, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block("timeout 500ms")), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(bearer, logged, testcaddy.Gate(named, testcaddy.SessionJWT(), profile.bearerBlock("timeout 500ms")), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(down, logged, testcaddy.Gate(named, testcaddy.SessionJWT(), "profile http://"+testcaddy.FreeAddr(t)+"/users/{uid}/privacy {\nauth bearer "+bearerToken+"\n}"), testcaddy.ProxyTo(behind.addr())),
	)
	allowed := profile.account(allow)
	if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(allowed))); !a.collected() {
		t.Fatal("not collected")
	}
	passed := len(behind.log.All())

	// Everything that an opted-out user can send, in every way that it is known
	// of them; also while the profile server fails, and in ways that fail.
	out, silent := profile.account(optOut), profile.account(unset)
	good, old := testcaddy.Session(out), testcaddy.Session(out, testcaddy.Expired)
	unverifiable := testcaddy.Session(out, map[string]any{"aud": "mobile"})
	flush := strings.ReplaceAll(flushOf(t, out), "https://www.example.org/start", "https://needle.example.org/")
	needles := map[string]string{
		"uid": out, "silent uid": silent, "token": good, "token's claims": strings.Split(good, ".")[1], "token's signature": strings.Split(good, ".")[2],
		"expired token": old, "unverifiable token": unverifiable, "silent token": testcaddy.Session(silent),
		"garbage": "g4rb4ge-cookie", "payload": "needle.example.org", "unique user id": "8f14e45f-ceea-4e6a-9b0d-52a7c01d5e11",
		"broken payload": "br0ken-p4yload", "query": "qu3ry-needle", "session secret": testcaddy.SessionSecret, "gate's secret": testcaddy.GateSecret, "bearer token": bearerToken,
	}
	var nonce string
	everything := func() {
		nonce = openTrace(t, caddy)
		for _, site := range []string{addr, bearer, down} {
			path := "POST /api/beacon"
			if site == addr {
				path = "POST /metrics?q=qu3ry-needle"
			}
			type sent struct {
				body    string
				headers []string
			}
			all := []sent{
				{flush, []string{testcaddy.Cookie(good)}},
				{flush, nil},
				{"{}", []string{testcaddy.Cookie(good)}},
				{"{}", []string{testcaddy.Cookie(old)}},
				{"{}", []string{testcaddy.Cookie(unverifiable)}},
				{"{}", []string{testcaddy.Cookie("g4rb4ge-cookie")}},
				{"{}", []string{testcaddy.Cookie("g4rb4ge-cookie.a.b")}},
				{"{}", []string{testcaddy.Cookie(good), testcaddy.Cookie("g4rb4ge-cookie")}},
				{"{}", []string{testcaddy.Cookie(testcaddy.Session(silent)), "Metrics-Optout: 1"}},
				{`{"uid":"` + out + `","br0ken-p4yload`, nil},
				{`{"uid":["br0ken-p4yload"]}`, nil},
				{flush, []string{"Content-Encoding: gzip"}},
				{flush, []string{"Metrics-Optout: 1"}},
			}
			if site != addr { // of which the preset knows that this is no account
				all = append(all, sent{`{"uid":"br0ken-p4yload` + strings.Repeat("x", 300) + `"}`, nil})
			}
			for _, c := range all {
				if a := send(t, behind, site, path, c.body, append(c.headers, "Metrics-Gate-Trace: "+nonce)...); a.collected() {
					t.Errorf("%q passed", c.headers)
				}
			}
		}
		for _, request := range []string{"GET /metrics-errors?sentry_data=qu3ry-needle", "POST /metrics-errors", "GET /experiments.bundle.js", "POST /nimbus-experiments"} {
			if a := send(t, behind, addr, request, "", testcaddy.Cookie(good)); a.collected() {
				t.Errorf("%s passed", request)
			}
		}
	}
	everything()
	profile.awaitAsked(silent, http.MethodPost, 1)
	for _, name := range []string{"500", "HTML", "closes half-way", "a word for a boolean"} {
		profile.failWith(faults[name])
		// These are not known yet, so the fault is met.
		uid := profile.account(optOut)
		needles["uid, "+name], needles["token, "+name] = uid, testcaddy.Session(uid)
		for _, site := range []string{addr, bearer} {
			for _, path := range []string{"POST /metrics", "POST /api/beacon"} {
				if (site == addr) == (path == "POST /metrics") {
					_ = send(t, behind, site, path, "{}", testcaddy.Cookie(testcaddy.Session(uid)))
					_ = send(t, behind, site, path, `{"uid":"`+uid+`"}`)
				}
			}
		}
		profile.failWith(nil)
	}
	everything()

	if got := behind.log.All(); len(got) != passed {
		t.Errorf("%d requests of theirs reached the application", len(got)-passed)
	}
	metrics, config := caddy.AdminGet("/metrics"), caddy.AdminGet("/config/")
	traces, texts := written(t, caddy, nonce)
	if len(traces) < 20 {
		t.Errorf("only %d requests are traced", len(traces))
	}
	caddy.Logged(`"msg":"decided"`, `"outcome":"wrong_audience"`)
	// One line of the access log is of the allowed user, and comes last.
	if a := send(t, behind, addr, "POST /metrics?last", "{}", testcaddy.Cookie(testcaddy.Session(allowed))); !a.collected() {
		t.Error("an allowed user is no longer collected")
	}
	caddy.Stop()
	access := string(testcaddy.Must(os.ReadFile(accessLog)))
	places := map[string]string{
		"the access log": access, "Caddy's log": strings.Join(caddy.Log.All(), "\n"), "the metrics": metrics, "the traces": texts, "the admin API's config": config,
	}
	for place, content := range places {
		for what, needle := range needles {
			if what == "bearer token" && place == "the admin API's config" {
				continue // this test wrote it into the Caddyfile as it is
			}
			if i := strings.Index(content, needle); i >= 0 {
				t.Errorf("%s has the %s: …%s…", place, what, content[max(0, i-300):min(len(content), i+100)])
			}
		}
	}
	if n := strings.Count(access, "\n"); n != 2 || !strings.Contains(access, "/metrics?last") {
		t.Errorf("the access log has %d lines, and should have the two of the allowed user:\n%.3000s", n, access)
	}
}

// log_blocked on keeps a line of a blocked request, which off does not; what
// passes is logged either way.
func TestLogBlocked(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	for name, c := range map[string]struct {
		option string
		want   []string
	}{
		"default": {"", []string{"/signin", "/metrics?in", "/asset.js"}},
		"off":     {"log_blocked off", []string{"/signin", "/metrics?in", "/asset.js"}},
		"on":      {"log_blocked on", []string{"/metrics?out", "/metrics?signal", "/experiments.bundle.js", "/signin", "/metrics?in", "/asset.js"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := testcaddy.FreeAddr(t)
			accessLog := filepath.Join(t.TempDir(), "access.log")
			caddy := testcaddy.Start(t, testcaddy.Site(addr, "log {\noutput file "+accessLog+"\n}", testcaddy.Gate("preset fxa", c.option, testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
			out, in := testcaddy.Cookie(testcaddy.Session(profile.account(optOut))), testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
			_ = send(t, behind, addr, "POST /metrics?out", "{}", out)
			_ = send(t, behind, addr, "POST /metrics?signal", "{}", "Metrics-Optout: 1")
			_ = send(t, behind, addr, "GET /experiments.bundle.js", "", out)
			_ = send(t, behind, addr, "GET /signin", "", out, "Accept: text/html") // a page is not a blocked request
			_ = send(t, behind, addr, "POST /metrics?in", "{}", in)
			_ = send(t, behind, addr, "GET /asset.js", "", out)
			caddy.Stop()

			var got []string
			for line := range strings.Lines(string(testcaddy.Must(os.ReadFile(accessLog)))) {
				var entry struct {
					Request struct {
						URI string `json:"uri"`
					} `json:"request"`
				}
				if err := json.Unmarshal([]byte(line), &entry); err != nil {
					t.Fatal(err)
				}
				got = append(got, entry.Request.URI)
			}
			if strings.Join(got, " ") != strings.Join(c.want, " ") {
				t.Errorf("the access log has %q, want %q", got, c.want)
			}
		})
	}
}
