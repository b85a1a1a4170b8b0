package tests

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Today's FxA as the source: its profile says metricsEnabled, which tells who
// opted out and cannot tell who allowed. It is asked with the session's own
// token, and never written to.
func TestFxAProfile(t *testing.T) {
	t.Parallel()
	behind, oauth := newContentServer(t), newOAuthServer(t)
	var asked testcaddy.Ledger[string]
	profiles := map[string]string{} // by token; complete before anybody asks
	fxa := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(r.Method + " " + r.URL.Path)
		body, ok := profiles[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		if !ok || r.URL.Path != "/v1/profile" {
			reply(w, 401, jsonKind, `{"code":401,"errno":100}`)
			return
		}
		w.Header().Set("ETag", `"0123456789abcdef"`)
		reply(w, 200, jsonKind, body)
	}))
	t.Cleanup(fxa.Close)
	site := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(site, testcaddy.Gate("preset fxa", "session "+oauth.fxaTokens("header Authorization Bearer"),
		"profile "+fxa.URL+"/v1 {\napi fxa\nauth forward\n"+patient+"\n}"), testcaddy.ProxyTo(behind.addr())))
	type expected struct{ name, profile, silent, signal string }
	cases := map[string]expected{}
	for _, c := range []expected{
		{"opted out", `{"email":"a@example.org","metricsEnabled":false}`, "block", "block"},
		{"enabled, which is no consent", `{"email":"a@example.org","metricsEnabled":true}`, "collect", "block"},
		{"absent", `{"email":"a@example.org"}`, "block", "block"},
		{"a word", `{"metricsEnabled":"true"}`, "block", "block"},
		{"null", `{"metricsEnabled":null}`, "block", "block"},
		{"no profile", "", "block", "block"},
	} {
		token := oauth.issue(t, testcaddy.NewUID(t), testcaddy.TrustedRelier, "profile")
		cases[token] = c
		if c.profile != "" {
			profiles[token] = c.profile
		}
	}
	for token, c := range cases {
		if a := send(t, behind, site, "POST /metrics", "{}", "Authorization: Bearer "+token); a.decision() != c.silent {
			t.Errorf("%s: %s, want %s", c.name, a.decision(), c.silent)
		}
		if a := send(t, behind, site, "POST /metrics", "{}", "Authorization: Bearer "+token, "Metrics-Optout: 1"); a.decision() != c.signal {
			t.Errorf("%s, with a signal: %s, want %s", c.name, a.decision(), c.signal)
		}
		// Whom a body only names cannot be asked about.
		if a := send(t, behind, site, "POST /metrics", flushOf(t, testcaddy.NewUID(t)), "Authorization: Bearer "+token); a.collected() {
			t.Errorf("%s: a beacon that names somebody else is collected", c.name)
		}
	}
	for _, request := range asked.All() {
		if request != "GET /v1/profile" {
			t.Errorf("FxA was asked %s", request)
		}
	}
}
