package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestOpaqueSession gates an application whose users have opaque tokens, with
// the OAuth and the profile server of Firefox Accounts behind the module. The
// profile server takes the users' own tokens.
func TestOpaqueSession(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	oauth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		uid, known := map[string]string{
			`{"token":"of-the-opted-out"}`: optedOutUID, `{"token":"of-the-allowed"}`: allowedUID,
		}[string(body)]
		if !known {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":400,"errno":108}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"user":%q,"client_id":"98e6508e88680e1a","scope":["profile"]}`, uid)
	}))
	t.Cleanup(oauth.Close)
	profile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.Header.Get("Authorization") {
		case "Bearer of-the-opted-out":
			_, _ = io.WriteString(w, `{"metrics_optout":true}`)
		case "Bearer of-the-allowed":
			_, _ = io.WriteString(w, `{"metrics_optout":false}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(profile.Close)
	module := newGate(t, `metrics_gate {
		route POST /beacon
		session introspect `+oauth.URL+`/v1/verify {
			cookie session
			timeout 30s
		}
		profile `+profile.URL+` {
			auth forward
			timeout 30s
		}
	}`)

	counted := func(outcome string) float64 {
		return testutil.ToFloat64(sessionsTotal.WithLabelValues("introspect", outcome, "default"))
	}
	verified, refused := counted("verified"), counted("bad_signature")
	for _, test := range []struct {
		token, decision, reason string
		asked                   int32
	}{
		{"of-the-opted-out", "block", "preference", 1},
		{"of-the-opted-out", "block", "preference", 1},
		{"of-the-allowed", "collect", "explicit_allow", 2},
		{"forged", "block", "unverified_session", 3},
		{"forged", "block", "unverified_session", 3},
		{"", "collect", "default", 3},
	} {
		r, w := request(http.MethodPost, "/beacon", "{}", map[string]string{"Cookie": "session=" + test.token})
		if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		decision, _ := repl.GetString(decisionPlaceholder)
		reason, _ := repl.GetString(reasonPlaceholder)
		if decision != test.decision || reason != test.reason || asked.Load() != test.asked {
			t.Errorf("%q: %s because of %s, asked %d times; want %+v", test.token, decision, reason, asked.Load(), test)
		}
	}
	if verified, refused := counted("verified")-verified, counted("bad_signature")-refused; verified != 3 || refused != 2 {
		t.Errorf("counted %v verified and %v refused sessions, want 3 and 2", verified, refused)
	}
}
