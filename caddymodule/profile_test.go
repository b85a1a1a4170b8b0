package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
)

// TestFollowDefault: a gate follows where the profile server can have a feed
// for its credential, unless it is told not to, in shadow mode as well.
func TestFollowDefault(t *testing.T) {
	t.Parallel()
	const mint = "auth mint {\nkey {file.testdata/keys/ed25519.key}\n}\n"
	for _, test := range []struct {
		name, url, options string
		want               bool
	}{
		{"mint", "/v1", mint, true},
		{"mint, on", "/v1", mint + "follow on", true},
		{"mint, off", "/v1", mint + "follow off", false},
		{"mint for each account", "/{uid}", mint, false},
		{"forward", "/v1", "auth forward", false},
		{"bearer", "/{uid}", "auth bearer {file.testdata/keys/shared.secret}", false},
		{"api fxa", "/v1", "api fxa\nauth forward", false},
	} {
		for _, mode := range []string{ModeEnforce, ModeShadow} {
			module := newGate(t, fmt.Sprintf(`metrics_gate %s {
				route POST /beacon
				session jwt {
					secret {file.testdata/keys/shared.secret}
				}
				profile http://127.0.0.1:1%s {
					%s
				}
			}`, mode, test.url, test.options))
			settings := module.options.Profile.settings(false)
			var held pool.Leases
			client, err := module.options.Profile.client(false, &held) // the one that the gate holds
			if err != nil {
				t.Fatal(err)
			}
			if settings.Follow != test.want || client.Following() != test.want {
				t.Errorf("%s, %s: follows: %v, %v, want %v", test.name, mode, settings.Follow, client.Following(), test.want)
			}
			if err := held.Release(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestFeedMetrics scrapes while a gate follows.
func TestFeedMetrics(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "id: 1\n\nevent: delete\nid: 2\ndata: {\"uid\":\"ann\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	registry := prometheus.NewPedanticRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	deletions := feedEventsTotal.WithLabelValues("delete")
	before := testutil.ToFloat64(deletions)
	newGate(t, `metrics_gate {
		preset fxa
		profile `+server.URL+`/v1 {
			auth mint {
				key {file.testdata/keys/ed25519.key}
			}
		}
	}`)
	for testutil.ToFloat64(deletions) == before {
		runtime.Gosched()
	}
	if testutil.ToFloat64(feedConnectsTotal.WithLabelValues("connected")) < 1 {
		t.Error("a connection is not counted")
	}
	if n, err := testutil.GatherAndCount(registry, "caddy_metrics_gate_feed_age_seconds"); n != 1 || err != nil {
		t.Errorf("%d ages, %v", n, err)
	}
}

// TestPreferencePageOfShippedAPI shows the account's choice, and neither
// offers nor takes another one.
func TestPreferencePageOfShippedAPI(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/profile" {
			t.Errorf("asked: %s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"metricsEnabled":false}`)
	}))
	t.Cleanup(server.Close)
	module := newGate(t, `metrics_gate {
		preset fxa
		session jwt {
			cookie session
			secret {file.testdata/keys/shared.secret}
		}
		profile `+server.URL+`/v1 {
			api fxa
			auth forward
			timeout 5s
		}
		handshake
	}`)
	session := "Cookie: " + sessionOf(t, optedOutUID)
	w, _ := ask(t, module, "GET /.well-known/metrics-gate/preference", "", "", sameOrigin, session)
	page := w.Body.String()
	if !strings.Contains(page, "The choice in your account cannot be changed on this page.") || strings.Contains(page, `value="optout"`) {
		t.Errorf("the page offers a choice:\n%s", page)
	}
	if !strings.Contains(page, "You are not measured") {
		t.Errorf("the page does not say what holds:\n%s", page)
	}
	w, _ = ask(t, module, "POST /.well-known/metrics-gate/preference", "choice=allow", "", sameOrigin, session,
		"Content-Type: application/x-www-form-urlencoded")
	if w.Code != http.StatusForbidden {
		t.Errorf("a choice is answered with %d", w.Code)
	}
}
