package caddymodule

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

// cheapUpstream is an application that costs nothing, so that what is
// measured is the gate.
var cheapUpstream = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// decisionCases are the ways through the gate whose cost is promised.
func decisionCases(tb testing.TB) (*Gate, map[string]*http.Request) {
	tb.Helper()
	gate := newGate(tb, `metrics_gate {
		route POST /metrics
		session jwt {
			cookie session
			secret {file.testdata/keys/shared.secret}
			issuer id
			audience web
		}
		profile `+profiles(tb).URL+`/{uid} {
			auth bearer {file.testdata/keys/shared.secret}
			timeout 5s
			max_age 1h
		}
	}`)
	cases := map[string]*http.Request{}
	add := func(name, method, path string, header map[string]string, want policy.Action) {
		r, w := request(method, path, "", header)
		if err := gate.ServeHTTP(w, r, cheapUpstream); err != nil { // warms the caches
			tb.Fatal(err)
		}
		if route := gate.routes.match(method, path); route != nil {
			if got := gate.decideGated(r, route).Action; got != want {
				tb.Fatalf("%s: %v, want %v", name, got, want)
			}
		}
		cases[name] = r
	}
	add("not gated", "GET", "/static/bundle.js", map[string]string{"Sec-Fetch-Dest": "script"}, policy.Collect)
	add("cached collect", "POST", "/metrics", map[string]string{"Cookie": "lang=en; " + sessionOf(tb, allowedUID)}, policy.Collect)
	add("cached block", "POST", "/metrics", map[string]string{"Cookie": "lang=en; " + sessionOf(tb, optedOutUID)}, policy.Block)
	add("anonymous signal", "POST", "/metrics", map[string]string{"Cookie": "lang=en; metrics_optout=true"}, policy.Block)
	return gate, cases
}

// TestServingDoesNotAllocate allows an answer one allocation: the value of its
// Cache-Control, which is no constant that all share, since handlers around
// the gate may write into it.
func TestServingDoesNotAllocate(t *testing.T) {
	gate, cases := decisionCases(t)
	w := &discardingWriter{header: http.Header{}}
	for name, r := range cases {
		allocations := testing.AllocsPerRun(1000, func() {
			clear(w.header)
			if err := gate.ServeHTTP(w, r, cheapUpstream); err != nil {
				t.Fatal(err)
			}
		})
		allowed := 0.0
		if gate.routes.match(r.Method, r.URL.Path) != nil && w.header["Cache-Control"] != nil {
			allowed = 1
		}
		if allocations > allowed && !raceEnabled {
			t.Errorf("%s: %v allocations, %v are allowed", name, allocations, allowed)
		}
	}
}

// BenchmarkServeHTTP is the whole way through the gate, by kind of request;
// bare is the same without a gate, so what the gate adds is the difference.
func BenchmarkServeHTTP(b *testing.B) {
	gate, cases := decisionCases(b)
	serve := func(name string, r *http.Request, handler caddyhttp.Handler) {
		b.Run(name, func(b *testing.B) {
			w := &discardingWriter{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				if err := handler.ServeHTTP(w, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	serve("bare", cases["not gated"], cheapUpstream)
	for name, r := range cases {
		serve(name, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return gate.ServeHTTP(w, r, cheapUpstream)
		}))
	}
}

// BenchmarkCachedDecision is the decision by itself, from the request to the
// rule that applies: who it is, what they prefer, what the rules say. As in
// BenchmarkVerify, the clock has been read before.
func BenchmarkCachedDecision(b *testing.B) {
	gate, cases := decisionCases(b)
	r := cases["cached block"]
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		subject := gate.sessions.Find(r, now, gate.countSession)
		preference := gate.preference(subject, func(account profileclient.Account) policy.Preference {
			return gate.profile.Lookup(r.Context(), account, now)
		})
		if gate.decideSession(r, subject, preference, now).Action != policy.Block {
			b.Fatal("collected")
		}
	}
}

// BenchmarkVerify is what a cached decision saves, for the ratio of the two
// within one run: verifying the HS256 token of the same request.
func BenchmarkVerify(b *testing.B) {
	gate, cases := decisionCases(b)
	r := cases["cached collect"]
	now := time.Now()
	configured := gate.Sessions[0].JWT
	verifier := newVerifier(b, configured)
	cookie, _ := r.Cookie("session")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verifier.Verify(cookie.Value, now); err != nil {
			b.Fatal(err)
		}
	}
}

func newVerifier(tb testing.TB, configured *SessionJWT) *token.Verifier {
	tb.Helper()
	config, err := configured.tokenConfig(caddy.NewReplacer())
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := token.NewVerifier(config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(verifier.Close)
	return verifier
}

// BenchmarkPage is what a page of 32 KiB costs on its way through the gate, as
// it comes from a proxy (in writes of 32 KiB): with the script put into it, and
// in the same run without.
func BenchmarkPage(b *testing.B) {
	page := []byte("<!doctype html><html><head><meta charset=utf-8><title>x</title></head><body>" + strings.Repeat("<p>word</p>", 3<<10))
	upstream := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header()["Content-Type"] = []string{"text/html; charset=utf-8"}
		_, err := w.Write(page)
		return err
	})
	for _, inject := range []string{"off", "on"} {
		b.Run("inject="+inject, func(b *testing.B) {
			gate := handshakeGate(b, "inject "+inject)
			r, _ := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "metrics_optout=0"})
			w := &discardingWriter{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				if err := gate.ServeHTTP(w, r, upstream); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discardingWriter struct{ header http.Header }

func (w *discardingWriter) Header() http.Header         { return w.header }
func (w *discardingWriter) WriteHeader(int)             {}
func (w *discardingWriter) Write(p []byte) (int, error) { return len(p), nil }
