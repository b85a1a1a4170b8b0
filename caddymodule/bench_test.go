package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
)

// cheapUpstream is an application that costs nothing, so that what is
// measured is the gate.
var cheapUpstream = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// decisionCases are the ways through the gate whose cost is promised.
func decisionCases(tb testing.TB) (*Gate, map[string]*http.Request) {
	tb.Helper()
	module := newGate(tb, `metrics_gate {
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
		if err := module.ServeHTTP(w, r, cheapUpstream); err != nil { // warms the caches
			tb.Fatal(err)
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if got := repl.ReplaceAll("{http.metrics_gate.decision}", "collect"); got != want.String() {
			tb.Fatalf("%s: %v, want %v", name, got, want)
		}
		cases[name] = r
	}
	add("not gated", "GET", "/static/bundle.js", map[string]string{"Sec-Fetch-Dest": "script"}, policy.Collect)
	add("cached collect", "POST", "/metrics", map[string]string{"Cookie": "lang=en; " + sessionOf(tb, allowedUID)}, policy.Collect)
	add("cached block", "POST", "/metrics", map[string]string{"Cookie": "lang=en; " + sessionOf(tb, optedOutUID)}, policy.Block)
	add("anonymous signal", "POST", "/metrics", map[string]string{"Cookie": "lang=en; metrics_optout=true"}, policy.Block)
	return module, cases
}

// TestServingDoesNotAllocate allows an answer one allocation: the value of its
// Cache-Control, which is no constant that all share, since handlers around
// the gate may write into it.
func TestServingDoesNotAllocate(t *testing.T) {
	module, cases := decisionCases(t)
	w := &discardingWriter{header: http.Header{}}
	for name, r := range cases {
		allocations := testing.AllocsPerRun(1000, func() {
			clear(w.header)
			if err := module.ServeHTTP(w, r, cheapUpstream); err != nil {
				t.Fatal(err)
			}
		})
		allowed := 0.0
		if w.header["Cache-Control"] != nil {
			allowed = 1
		}
		if allocations > allowed && !raceEnabled {
			t.Errorf("%s: %v allocations, %v are allowed", name, allocations, allowed)
		}
	}
}

// TestPresetsCostOthersNothing: with the routes of all presets, what is neither
// gated nor a page passes without an allocation.
func TestPresetsCostOthersNothing(t *testing.T) {
	var presets strings.Builder
	for _, name := range gate.PresetNames() {
		presets.WriteString("preset " + name)
		if name == "countly" || name == "sentry" { // one meets Snowplow's, the other always needs a prefix
			presets.WriteString(" /" + name)
		}
		presets.WriteString("\n")
	}
	module := newGate(t, "metrics_gate {\n"+presets.String()+"}")
	w := &discardingWriter{header: http.Header{}}
	for _, c := range [][2]string{{"GET", "/assets/app.bundle.js"}, {"GET", "/api/users"}, {"POST", "/api/users/7"}, {"HEAD", "/i.png"}} {
		r, _ := request(c[0], c[1], "", map[string]string{"Sec-Fetch-Dest": "empty"})
		passed := 0
		next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { passed++; return nil })
		allocations := testing.AllocsPerRun(100, func() { _ = module.ServeHTTP(w, r, next) })
		if passed != 101 || allocations > 0 && !raceEnabled {
			t.Errorf("%s %s: %d of 101 passed, %v allocations", c[0], c[1], passed, allocations)
		}
	}
}

// BenchmarkServeHTTP is the whole way through the gate, by kind of request;
// bare is the same without a gate, so what the gate adds is the difference.
func BenchmarkServeHTTP(b *testing.B) {
	module, cases := decisionCases(b)
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
			return module.ServeHTTP(w, r, cheapUpstream)
		}))
	}
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
			module := handshakeGate(b, "inject "+inject)
			r, _ := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "metrics_optout=0"})
			w := &discardingWriter{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				if err := module.ServeHTTP(w, r, upstream); err != nil {
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
