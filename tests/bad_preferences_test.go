package tests

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An account's id is any text of up to 255 bytes, and is kept apart from its
// like: in the store, on the feed, in a file, and in an address.
func TestOddAccounts(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, named string) {
		behind := newContentServer(t)
		addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
		caddy := testcaddy.Start(t,
			testcaddy.Site(addr, profileServer(configured)),
			testcaddy.Site(site, testcaddy.Gate("route POST /metrics", testcaddy.SessionJWT(), profileAt(addr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())))
		ready(t, addr)
		follows(t, caddy, addr)
		listener := followChanges(t, addr, "")
		decision := func(uid string) string {
			return send(t, behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision()
		}
		odd := []string{
			"ann", "Ann", "ann ", " ann", "änn", "a\u0308nn", "%61nn", "ann/", "ann/../bob", "../bob", "?ann#", `"ann"`, `'; DROP TABLE preference; --`, `\`, "%", "_",
			"<script>", ",", "null", "0", "{uid}", "{env.PATH}", "\u2028\u2029", "\u202enna", "\U0001f9c2", strings.Repeat("ä", 127) + "a", strings.Repeat("\U0001f9c2", 63) + "abc", strings.Repeat("x", 254) + "\"",
		}
		for _, uid := range odd {
			if got := decision(uid); got != "collect" {
				t.Errorf("%q, not heard of yet: %s", uid, got)
			}
			choose(t, addr, uid, optOut)
			testcaddy.Until(t, "an opt-out to act", func() bool { return decision(uid) == "block" })
			holds(t, addr, uid, optOut, uid)
		}
		heard := listener.Wait(t, "all to be told", func(all []told) bool { return len(all) >= 1+len(odd) })
		for i, uid := range odd {
			if got := heard[i+1].uid(); got != uid {
				t.Errorf("the feed tells of %q, not %q", got, uid)
			}
		}
		if got := metricsGate(t, "preferences", "export", "--store", named); strings.Count(got, ",true,") != len(odd) {
			t.Errorf("exported, with one account for each test:\n%s", got)
		}
		for i, uid := range odd {
			status, _, body := testcaddy.AskFor(t, addr, "DELETE /v1/account/"+url.PathEscape(uid), operatorToken(addr), "")
			if status != http.StatusOK || body != "{}" {
				t.Errorf("DELETE %q: %d %q", uid, status, body)
			}
			holds(t, addr, uid, unset, uid)
			if i+1 < len(odd) {
				holds(t, addr, odd[i+1], optOut, "after another was deleted")
			}
		}

		for name, uid := range map[string]string{
			"empty": "", "256 bytes": strings.Repeat("x", 256), "a NUL": "a\x00nn", "a line": "ann\nbob", "an escape": "\x1b[2J", "broken UTF-8": "ann\xff",
		} {
			for _, method := range []string{"GET", "POST"} {
				refused(t, addr, name, method, testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier), 401, 100)
			}
			if status, _, _ := testcaddy.AskFor(t, addr, "DELETE /v1/account/"+url.PathEscape(uid), operatorToken(addr), ""); status != http.StatusBadRequest {
				t.Errorf("DELETE of %s: %d", name, status)
			}
			if got := decision(uid); got != "block" {
				t.Errorf("a session of %s: %s", name, got)
			}
		}
	})
}

// What is no preference is refused in the words of the old server, and changes
// nothing.
func TestBadPreferences(t *testing.T) {
	t.Parallel()
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+t.TempDir()+"/profile.db", "standalone")))
	uid := testcaddy.NewUID(t)
	choose(t, addr, uid, optOut)
	token := testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier)
	const parameter = `"error":"Bad Request","message":"Invalid request parameter","validation":{"source":"payload","keys":["metrics_optout"]}}`
	for _, c := range []struct {
		name, body, kind string
		status, errno    int
		rest             string
	}{
		{"a word", `{"metrics_optout":"true"}`, "", 400, 101, parameter},
		{"a number", `{"metrics_optout":1}`, "", 400, 101, parameter},
		{"a list", `{"metrics_optout":[true]}`, "", 400, 101, parameter},
		{"an object", `{"metrics_optout":{}}`, "", 400, 101, parameter},
		{"another letter case", `{"Metrics_optout":true}`, "", 400, 101, parameter},
		{"one key more", `{"metrics_optout":false,"uid":"x"}`, "", 400, 101, parameter},
		{"no key", `{}`, "", 400, 101, parameter},
		{"no object", `true`, "", 400, 101, parameter},
		{"nothing", ``, "", 400, 101, parameter},
		{"a form", `metrics_optout=true`, "application/x-www-form-urlencoded", 400, 101, parameter},
		{"text", `{"metrics_optout":false}`, "text/plain", 400, 101, parameter},
		{"broken", `{"metrics_optout":fals`, "", 400, 999, `"error":"Bad Request","message":"Invalid request payload JSON format"}`},
		{"two", `{"metrics_optout":false}{}`, "", 400, 999, ""},
		{"an image", `{"metrics_optout":false}`, "image/png", 415, 999, ""},
		{"a megabyte", `{"metrics_optout":false` + strings.Repeat(" ", 1<<20) + `}`, "", 413, 999, ""},
	} {
		headers := []string{}
		if c.kind != "" {
			headers = append(headers, "Content-Type: "+c.kind)
		}
		status, _, body := testcaddy.Ask(t, addr, http.MethodPost, token, c.body, headers...)
		if want := fmt.Sprintf(`{"code":%d,"errno":%d,%s`, c.status, c.errno, c.rest); status != c.status || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %q, want %s", c.name, status, body, want)
		}
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		if status, _, body := testcaddy.Ask(t, addr, method, token, `{"metrics_optout":false}`); status != http.StatusNotFound || body != `{"code":404,"errno":999,"error":"Not Found","message":"Not Found"}` {
			t.Errorf("%s: %d %q", method, status, body)
		}
	}
	holds(t, addr, uid, optOut, "after what is no preference")

	// As the old server reads JSON, the last of two keys counts.
	if status, _, body := testcaddy.Ask(t, addr, http.MethodPost, token, `{"metrics_optout":true,"metrics_optout":false}`); status != http.StatusOK {
		t.Errorf("a key that is there twice: %d %q", status, body)
	}
	holds(t, addr, uid, allow, "a key that is there twice")
}

// Preconditions hold to the letter: strong tags, lists, and the star.
func TestConditions(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, _ string) {
		addr := testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, profileServer(configured)))
		ready(t, addr)
		uid := testcaddy.NewUID(t)
		token := testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier)
		_, absent := chosen(t, addr, uid)
		choose(t, addr, uid, allow)
		_, tag := chosen(t, addr, uid)
		for _, c := range []struct {
			method, condition string
			status            int
		}{
			{"GET", "If-None-Match: " + tag, 304},
			{"HEAD", "If-None-Match: " + tag, 304},
			{"GET", "If-None-Match: W/" + tag, 304}, // RFC 9110, 13.1.2: compared weakly
			{"GET", `If-None-Match: "x", ` + tag, 304},
			{"GET", "If-None-Match: *", 304},
			{"GET", "If-None-Match: " + absent, 200},
			{"HEAD", "If-None-Match: " + absent, 200},
			{"GET", "If-Match: " + tag, 200},
			{"GET", "If-Match: " + absent, 412},
			{"POST", "If-Match: " + absent, 412},
			{"POST", "If-Match: W/" + tag, 412}, // 13.1.1: compared strongly
			{"POST", "If-None-Match: " + tag, 412},
			{"POST", "If-None-Match: *", 412},
			{"POST", "If-Match: *", 200}, // changes nothing, so the tag stays
			{"POST", `If-Match: "x", ` + tag, 200},
			{"POST", "If-None-Match: " + absent, 200},
		} {
			body := map[string]string{http.MethodPost: `{"metrics_optout":false}`}[c.method]
			if status, _, said := testcaddy.Ask(t, addr, c.method, token, body, c.condition); status != c.status {
				t.Errorf("%s with %s: %d %q, want %d", c.method, c.condition, status, said, c.status)
			}
		}
		if _, now := chosen(t, addr, uid); now != tag {
			t.Error("what changed nothing changed the tag")
		}

		// A write-back that was under way when the account was deleted.
		forgetAccount(t, addr, uid)
		for _, seen := range []string{tag, absent} {
			if status, _, _ := testcaddy.Ask(t, addr, http.MethodPost, token, `{"metrics_optout":true}`, "If-Match: "+seen); status != http.StatusPreconditionFailed {
				t.Errorf("a write on what was seen before the account was deleted: %d", status)
			}
		}
		holds(t, addr, uid, unset, "after the account was deleted")
	})
}

// Ten thousand tokens that somebody made up are refused, each by itself, while
// others are served.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+t.TempDir()+"/profile.db")))
	uid := testcaddy.NewUID(t)
	choose(t, addr, uid, optOut)
	good := strings.Split(testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier), ".")
	forgers := []func() string{
		func() string { return good[0] + "." + good[1] + "." + b64(testcaddy.NewUID(t)+testcaddy.NewUID(t)) },
		func() string { return good[0] + "." + b64(`{"sub":"`+testcaddy.NewUID(t)+`"}`) + "." + good[2] },
		func() string {
			return testcaddy.Sign(jwt.SigningMethodHS256, []byte(testcaddy.SessionSecret), nil, testcaddy.Claims(uid, map[string]any{"scope": "profile:write", "client_id": testcaddy.TrustedRelier}))
		},
		func() string { return testcaddy.NewUID(t) },
		func() string { return b64(`{"alg":"none"}`) + "." + good[1] + "." },
	}
	flood(t, 10_000, 16, func(i int) error {
		method := []string{"GET", "POST"}[i%2]
		body := []string{"", `{"metrics_optout":false}`}[i%2]
		status, _, said, err := testcaddy.TryAskFor(addr, method+" /v1/metrics_optout", forgers[i%len(forgers)](), body)
		if err == nil && (status != http.StatusUnauthorized || !strings.HasPrefix(said, `{"code":401,"errno":100,`)) {
			err = fmt.Errorf("a forged token got %d %q", status, said)
		}
		return err
	}, func() { holds(t, addr, uid, optOut, "beside forged tokens") })
	holds(t, addr, uid, optOut, "after forged tokens")
	if n := caddy.ProfileServerMetric("requests_total", "endpoint", "metrics_optout", "code", "401"); n != 10_000 {
		t.Errorf("%v refusals are counted", n)
	}
}
