package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/token"
)

// tracedConfig is severalConfig with names, traces and more routes.
func tracedConfig(tb testing.TB) Config {
	config := severalConfig(tb, 5*time.Second)
	config.Label, config.SessionKinds, config.Traces = "edge", []string{"jwt", "second", "introspect"}, new(Traces)
	config.Signal = Signal{GPC: true}
	config.Presets = nil
	config.Routes = []Route{
		{Methods: []string{"POST"}, Path: "/metrics"},
		{Methods: []string{"POST"}, Path: "/named/*", Names: namesUID},
		{Methods: []string{"GET"}, Path: "/flags", Class: ClassExperiment, Answer: &Answer{Status: 200}},
	}
	return config
}

// tracedBy sends a request with a nonce and returns what was written down for it.
func tracedBy(tb testing.TB, g *Gate, method, path, body string, header map[string]string) []Trace {
	tb.Helper()
	nonce, err := g.traces.Open()
	if err != nil {
		tb.Fatal(err)
	}
	r, w := request(method, path, body, header)
	r.Header.Set(TraceHeader, nonce)
	app := new(upstream)
	if err := serve(tb, g, w, r, app); err != nil {
		tb.Fatal(err)
	}
	if app.traced != nil {
		tb.Errorf("the application reads %q", app.traced)
	}
	written, _ := g.traces.Written(nonce)
	return written
}

// shortly is a trace in one line.
func shortly(t Trace) string {
	words := []string{t.Gate, t.Mode, t.Kind + " " + t.Route + " " + t.Class}
	for _, c := range t.Credentials {
		if c.Outcome != "absent" {
			words = append(words, c.Kind+": "+c.Outcome)
		}
	}
	words = append(words, t.Session)
	for _, p := range t.Preferences {
		words = append(words, fmt.Sprintf("%s %s by %s, %s", p.Of, p.Preference, p.From, p.Then))
	}
	words = append(words, strings.TrimSpace(t.Signal+" "+strings.Join(t.SignalFrom, ", ")))
	if t.Row != nil {
		words = append(words, strings.Join([]string{t.Row.Session, t.Row.Preference, t.Row.Signal, t.Row.Decision, t.Row.Reason}, "/"))
	}
	if t.ByName {
		words = append(words, "by name")
	}
	return strings.Join(append(words, strings.TrimSpace(t.Decision+" "+t.Reason), t.Doubt, strings.TrimSpace(t.Reply+" "+t.Upstream)), " | ")
}

func TestTraces(t *testing.T) {
	t.Parallel()
	g := newGate(t, tracedConfig(t))
	out, allows, unset, unknown := accountOf("out", 1), accountOf("allows", 2), accountOf("unset", 3), accountOf("unknown", 4)
	const metrics = "edge | enforce | gated /metrics metrics | "
	for _, c := range []struct {
		name, method, path, body string
		header                   map[string]string
		want                     string
	}{
		{"opted out", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, out)},
			metrics + "jwt: verified | verified | proven true by lookup, block | unread | verified/true/any/block/preference | block preference | none | blocked"},
		{"opted out, once more", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, out)},
			metrics + "jwt: verified | verified | proven true by cache, block | unread | verified/true/any/block/preference | block preference | none | blocked"},
		{"allowed", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, allows)},
			metrics + "jwt: verified | verified | proven false by lookup, collect | unread | verified/false/any/collect/explicit_allow | collect explicit_allow | none | shown"},
		{"no choice, and a signal", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, unset), "Sec-GPC": "1"},
			metrics + "jwt: verified | verified | proven null by lookup, block | unrecorded header Sec-GPC | verified/null/opted out/block/signal | block signal | none | blocked"},
		{"not learnt", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, unknown)},
			metrics + "jwt: verified | verified | proven unknown by none, block | none | verified/unknown/otherwise/by on_unknown/unknown | block unknown | ours | blocked"},
		{"forged", "POST", "/metrics", "", map[string]string{"Cookie": "session=f0rged"},
			metrics + "jwt: malformed | unverifiable | none | unverifiable/–/otherwise/by on_unknown/unverified_session | block unverified_session | ours | blocked"},
		{"nobody", "POST", "/metrics", "", map[string]string{"Cookie": "metrics_optout=0"},
			metrics + "none | no_objection cookie metrics_optout | none, or expired/–/otherwise/by on_unset/default | collect default | none | shown"},
		{"from elsewhere", "POST", "/metrics", "", map[string]string{"Sec-Fetch-Site": "cross-site"},
			metrics + "none | none | none, or expired/–/otherwise/by on_unset/default | collect default | none | hidden 2xx"},
		{"two accounts", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, allows), "Authorization": "Bearer " + strings.TrimPrefix(sessionOf(t, out), "session=")},
			metrics + "jwt: verified | jwt: conflicting | verified | proven false by cache, collect | also_proven true by cache, block | unread | verified/false/any/collect/explicit_allow | block preference | none | blocked"},
		{"one that nobody could be asked about", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, allows) + "; opaque=" + strings.Repeat("a", 64)},
			metrics + "jwt: verified | introspect: keys_unavailable | verified | proven false by cache, collect | unasked_credential unknown by none, block | none | verified/false/any/collect/explicit_allow | block unknown | ours | blocked"},
		{"one that is too long", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, allows) + "; second=" + strings.Repeat("a", token.MaxTokenBytes+1)},
			metrics + "jwt: verified | second: too_long | verified | proven false by cache, collect | hiding_credential hidden by none, block | none | verified/false/any/collect/explicit_allow | block unknown | sender | blocked"},
		{"one that nobody could be asked about, and a signal", "POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, allows) + "; opaque=" + strings.Repeat("a", 64), "Sec-GPC": "1"},
			metrics + "jwt: verified | introspect: keys_unavailable | verified | proven false by cache, collect | unasked_credential unknown by none, block | unrecorded header Sec-GPC | verified/false/any/collect/explicit_allow | block signal | none | blocked"},
		{"by name", "POST", "/named/x", `{"uid":"` + out + `"}`, nil,
			"edge | enforce | gated /named/* metrics | none | named true by cache, block | none | none, or expired/–/otherwise/by on_unset/default | by name | block preference | none | blocked"},
		{"named, and not opted out", "POST", "/named/x", `{"uid":"` + unset + `"}`, nil,
			"edge | enforce | gated /named/* metrics | none | named null by cache, collect | none | none, or expired/–/otherwise/by on_unset/default | collect default | none | hidden 2xx"},
		{"names that cannot be read", "POST", "/named/x", `{"uid":`, nil,
			"edge | enforce | gated /named/* metrics | none | unread_names hidden by none, block | none | none, or expired/–/otherwise/by on_unset/default | by name | block unknown | sender | blocked"},
		{"an experiment", "GET", "/flags", "", map[string]string{"Cookie": sessionOf(t, allows)},
			"edge | enforce | gated /flags experiment | jwt: verified | verified | proven false by cache, collect | unread | verified/false/any/collect/explicit_allow | collect explicit_allow | none | shown"},
		{"a page", "GET", "/page", "", map[string]string{"Accept": "text/html", "Cookie": sessionOf(t, out)},
			"edge | enforce | page   | jwt: verified | verified | proven true by cache, block | unread | verified/true/any/block/preference | block preference | none | shown"},
		{"neither", "GET", "/asset.js", "", map[string]string{"Cookie": sessionOf(t, out)}, "edge | enforce | untouched   |  |  |  |  | shown"},
	} {
		got := tracedBy(t, g, c.method, c.path, c.body, c.header)
		if len(got) != 1 {
			t.Errorf("%s: %d traces", c.name, len(got))
			continue
		}
		if diff := cmp.Diff(c.want, shortly(got[0])); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
		text, _ := json.Marshal(got)
		for _, needle := range []string{out, allows, unset, unknown, "f0rged", "eyJ"} {
			if strings.Contains(string(text), needle) {
				t.Errorf("%s: the trace holds %q: %s", c.name, needle, text)
			}
		}
	}
}

// TestAgeOfTracedPreferences: how old what was cached is, is told by the
// client's own clock.
func TestAgeOfTracedPreferences(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t, tracedConfig(t))
		header := map[string]string{"Cookie": sessionOf(t, accountOf("out", 1))}
		for _, want := range []float64{0, 20, 40} {
			got := tracedBy(t, g, "POST", "/metrics", "", header)[0].Preferences[0]
			if got.AgeSeconds != want {
				t.Errorf("%v seconds old, want %v", got.AgeSeconds, want)
			}
			<-time.After(20 * time.Second)
		}
	})
}

// TestEveryGateTraces: gates that stand one behind the other each write down what
// they decide, also where the first one hands on after its answer, and the
// application never sees the nonce.
func TestEveryGateTraces(t *testing.T) {
	t.Parallel()
	first, second := tracedConfig(t), tracedConfig(t)
	second.Label, second.Shadow, second.Traces = "inner", true, first.Traces
	outer, inner := newGate(t, first), newGate(t, second)
	for reply, site := range map[string]string{TraceShown: "same-origin", TraceHidden: "cross-site"} {
		nonce, _ := first.Traces.Open()
		r, w := request("POST", "/metrics", "", map[string]string{TraceHeader: nonce, "Sec-Fetch-Site": site})
		app := new(upstream)
		if err := serve(t, outer, w, r, NextFunc(func(w http.ResponseWriter, r *http.Request) error { return inner.ServeHTTP(w, r, app) })); err != nil {
			t.Fatal(err)
		}
		got, _ := first.Traces.Written(nonce)
		if app.requests.Load() != 1 || app.traced != nil || len(got) != 2 {
			t.Fatalf("%s: %d traces, and the application reads %q", reply, len(got), app.traced)
		}
		if got[0].Gate != "edge" || got[0].Reply != reply || got[1].Gate != "inner" || got[1].Mode != "shadow" || got[1].Reply != TraceShown {
			t.Errorf("%s: %+v", reply, got)
		}
	}
}

// TestTheTraceComesBeforeTheAnswer: whoever has the answer can read how it came
// about.
func TestTheTraceComesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	config := tracedConfig(t)
	g := newGate(t, config)
	for name, header := range map[string]map[string]string{"blocked": {"Sec-GPC": "1"}, "hidden": {"Sec-Fetch-Site": "cross-site"}} {
		nonce, _ := config.Traces.Open()
		r, recorder := request("POST", "/metrics", "", header)
		r.Header.Set(TraceHeader, nonce)
		w := &answered{ResponseWriter: recorder}
		w.answer = func() {
			if written, _ := config.Traces.Written(nonce); len(written) != 1 || written[0].Reply != name {
				t.Errorf("%s: as it is answered there is %+v", name, written)
			}
		}
		if err := serve(t, g, w, r, new(upstream)); err != nil || w.answer == nil {
			t.Error(name, err)
		}
	}
}

type answered struct {
	http.ResponseWriter
	answer func()
}

func (a *answered) WriteHeader(status int) {
	a.answer()
	a.ResponseWriter.WriteHeader(status)
}

// TestTracesAreBounded: a hundred are open at once, each for a minute, and each
// takes so many requests. Nonces that are not open write nothing.
func TestTracesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := tracedConfig(t)
		traces, written := config.Traces, 0
		config.Observer.Traced = func() { written++ }
		g := newGate(t, config)
		ask := func(nonce string) {
			r, w := request("POST", "/metrics", "", map[string]string{TraceHeader: nonce})
			if err := serve(t, g, w, r, new(upstream)); err != nil {
				t.Fatal(err)
			}
		}
		nonces := map[string]bool{}
		for range MaxTraces {
			nonce, err := traces.Open()
			if err != nil || nonces[nonce] {
				t.Fatal(nonce, err)
			}
			nonces[nonce] = true
		}
		if _, err := traces.Open(); !errors.Is(err, ErrTooManyTraces) {
			t.Errorf("one more: %v", err)
		}
		for i := range 1000 {
			ask(fmt.Sprint("no such nonce ", i))
		}
		if written != 0 || len(traces.written) != MaxTraces {
			t.Errorf("%d requests with made-up nonces were written down, and there are %d nonces", written, len(traces.written))
		}
		for nonce := range nonces {
			for range maxTraced + 5 {
				ask(nonce)
			}
			if got, _ := traces.Written(nonce); len(got) != maxTraced {
				t.Errorf("%d traces of one nonce", len(got))
			}
			break
		}
		<-time.After(TraceLife)
		synctest.Wait()
		if traces.open.Load() != 0 || len(traces.written) != 0 {
			t.Errorf("after a minute %d are open, and %d are kept", traces.open.Load(), len(traces.written))
		}
		for nonce := range nonces {
			if _, open := traces.Written(nonce); open {
				t.Error("a nonce is still open")
			}
			before := written
			if ask(nonce); written != before {
				t.Error("a closed trace is still written")
			}
		}
		if _, err := traces.Open(); err != nil {
			t.Errorf("there is room again, and %v", err)
		}
	})
}

// TestDecisionsAreLogged at the level debug, one line each, in the words of
// traces.
func TestDecisionsAreLogged(t *testing.T) {
	t.Parallel()
	for level, want := range map[zap.AtomicLevel]int{zap.NewAtomicLevelAt(zap.DebugLevel): 2, zap.NewAtomicLevelAt(zap.InfoLevel): 0} {
		core, logs := observer.New(level)
		config := tracedConfig(t)
		config.Log = zap.New(core)
		g := newGate(t, config)
		out := accountOf("out", 1)
		for _, path := range []string{"/metrics", "/asset.js", "/page"} {
			method, header := "POST", map[string]string{"Cookie": sessionOf(t, out)}
			if path != "/metrics" {
				method, header["Accept"] = "GET", map[string]string{"/page": "text/html"}[path]
			}
			r, w := request(method, path, "", header)
			if err := serve(t, g, w, r, new(upstream)); err != nil {
				t.Fatal(err)
			}
		}
		lines := logs.FilterMessage("decided").All()
		if len(lines) != want {
			t.Fatalf("%v: %d lines, want %d", level, len(lines), want)
		}
		for _, line := range lines {
			trace := line.ContextMap()["trace"].(*Trace)
			if trace.Session != "verified" || trace.Decision != "block" || trace.Reason != "preference" || len(trace.Preferences) != 1 {
				t.Errorf("it says %+v", trace)
			}
			if text, _ := json.Marshal(line.ContextMap()); strings.Contains(string(text), out) || strings.Contains(string(text), "eyJ") {
				t.Errorf("it tells whose it was: %s", text)
			}
		}
	}
}

// TestTraceOfOwnAddresses: what the gate answers by itself is decided by nobody.
func TestTraceOfOwnAddresses(t *testing.T) {
	t.Parallel()
	config := handshakeConfig(t, Handshake{})
	config.Traces = new(Traces)
	got := tracedBy(t, newGate(t, config), "GET", "/.well-known/metrics-gate/status", "", map[string]string{"Sec-Fetch-Site": "same-origin"})
	if len(got) != 1 || got[0].Kind != TraceOwn || got[0].Decision != "" {
		t.Errorf("%+v", got)
	}
}
