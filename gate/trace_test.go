package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/session"
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
	// What an operator sends says nothing of what pages do.
	seen := g.Seen()
	if came := slices.ContainsFunc(seen.Requests, func(n int64) bool { return n > 0 }); came || seen.Pages > 0 || seen.Sessions[0] != [session.OutcomeCount]int64{} {
		t.Errorf("traced requests are taken for those of pages: %+v", seen)
	}
}

// TestTracesSayWhy: who opened a trace is told what was looked for and what was there,
// and in what a token differs, by names of cookies and the issuer's own words, and by
// nothing that is about a person. A log is told none of it.
func TestTracesSayWhy(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	config := tracedConfig(t)
	config.LookedFor = []string{"cookie session or header Authorization", "cookie second", "cookie opaque"}
	config.Log = zap.New(core)
	g := newGate(t, config)
	uid := accountOf("out", 1)
	with := func(claims jwt.MapClaims) string {
		all := jwt.MapClaims{"sub": uid, "iss": "id", "aud": "web", "exp": time.Now().Add(time.Hour).Unix()}
		maps.Copy(all, claims)
		raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return "session=" + raw
	}
	const absent = "jwt: absent, looked for cookie session or header Authorization; second: absent, looked for cookie second; introspect: absent, looked for cookie opaque"
	rest := "; second: absent, looked for cookie second; introspect: absent, looked for cookie opaque"
	for _, c := range []struct {
		name, path, body, cookie, authorization string
		want                                    string // by regular expression
	}{
		{"a renamed cookie", "/metrics", "", "theme=dark; sid=needle; __Host-next.v2=needle; sid=other-needle", "", absent + "; carried cookie theme, cookie sid, cookie __Host-next.v2"},
		{"names with identifiers", "/metrics", "", "wp-settings-1=needle; AMP_" + uid + "=needle; a%7Cb\x00=1", "Basic needle", absent + `; carried cookie wp-settings-\*, cookie AMP_.*, cookie a%7Cb\*, header Authorization`},
		{"nothing at all", "/metrics", "", "", "", absent},
		{"nobody is named", "/named/x", "{}", "", "", absent + "; names body uid"},
		{"another issuer", "/metrics", "", with(jwt.MapClaims{"iss": "https://login.test"}), "", `jwt: wrong_issuer, its iss is "https://login.test"; accepted is "id"` + rest},
		{"an issuer of one's own", "/metrics", "", with(jwt.MapClaims{"iss": "did:key:" + uid}), "", `jwt: wrong_issuer, its iss is missing; accepted is "id"` + rest},
		{"other audiences", "/metrics", "", with(jwt.MapClaims{"aud": []string{"app", "\x1b[31mred\u202e"}}), "", `jwt: wrong_audience, its aud is "app" or "\\x1b\[31mred\\u202e"; accepted is "web"` + rest},
		{"a long issuer", "/metrics", "", with(jwt.MapClaims{"iss": strings.Repeat("i", 5000)}), "", `jwt: wrong_issuer, its iss is "i{128}\\u2026"; accepted is "id"` + rest},
		{"not yet", "/metrics", "", with(jwt.MapClaims{"nbf": time.Now().Add(2 * time.Hour).Unix(), "iat": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(3 * time.Hour).Unix()}), "",
			`jwt: not_yet_valid, nbf is (2h0m0s|1h59m[0-9]+s) ahead, iat is 1h0m[0-9]+s ago, exp is (3h0m0s|2h59m[0-9]+s) ahead, by this machine's clock` + rest},
		{"never", "/metrics", "", with(jwt.MapClaims{"nbf": time.Now().Add(2 * time.Hour).Unix(), "iat": time.Now().Add(-time.Hour).Unix()}), "",
			`jwt: not_yet_valid, nbf is .* ahead, iat is .* ago, exp is .* ahead, by this machine's clock; nbf is after exp, and no clock can cause that: whoever issues it writes it so` + rest},
		{"born expired", "/metrics", "", with(jwt.MapClaims{"iat": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(-2 * time.Hour).Unix()}), "",
			`jwt: expired, iat is .* ago, exp is .* ago, by this machine's clock; exp is before iat, and no clock can cause that: whoever issues it writes it so` + rest},
		{"expired", "/metrics", "", expiredSessionOf(t, uid), "", `jwt: expired, .*exp is 1h0m[0-9]+s ago, by this machine's clock` + rest},
		{"without an end", "/metrics", "", with(jwt.MapClaims{"exp": nil}), "", `jwt: malformed, its exp is not a number of seconds since 1970` + rest},
		{"without an account", "/metrics", "", with(jwt.MapClaims{"sub": ""}), "", `jwt: malformed, its claim sub names no account: that is a text of 1 to 255 bytes` + rest},
		{"no token", "/metrics", "", "session=needle", "", `jwt: malformed` + rest},
	} {
		header := map[string]string{}
		if c.cookie != "" {
			header["Cookie"] = c.cookie
		}
		if c.authorization != "" {
			header["Authorization"] = c.authorization
		}
		trace := tracedBy(t, g, "POST", c.path, c.body, header)[0]
		var said []string
		for _, credential := range trace.Credentials {
			words := credential.Kind + ": " + credential.Outcome
			if credential.LookedFor != "" {
				words += ", looked for " + credential.LookedFor
			}
			if credential.Detail != "" {
				words += ", " + credential.Detail
			}
			said = append(said, words)
		}
		if trace.Carried != nil {
			said = append(said, "carried "+strings.Join(trace.Carried, ", "))
		}
		if trace.Names != nil {
			said = append(said, "names "+strings.Join(trace.Names, ", "))
		}
		if got := strings.Join(said, "; "); !regexp.MustCompile("^(?:" + c.want + ")$").MatchString(got) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		text, _ := json.Marshal(trace)
		for _, secret := range []string{uid, "needle", "eyJ"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s: the trace holds %q: %s", c.name, secret, text)
			}
		}
	}
	if lines := logs.FilterMessage("decided").All(); len(lines) == 0 {
		t.Error("no decision is logged")
	}
	r, w := request("POST", "/metrics", "", map[string]string{"Cookie": "theme=dark; " + with(jwt.MapClaims{"iss": "https://login.test"})})
	if err := serve(t, g, w, r, new(upstream)); err != nil {
		t.Fatal(err)
	}
	lines := logs.FilterMessage("decided").All()
	if text, _ := json.Marshal(lines[len(lines)-1].ContextMap()); !strings.Contains(string(text), "wrong_issuer") || strings.Contains(string(text), "theme") || strings.Contains(string(text), "login.test") {
		t.Errorf("the log says %s", text)
	}
}

// TestCarriedIsBounded, in number and length, whatever somebody sends.
func TestCarriedIsBounded(t *testing.T) {
	t.Parallel()
	var cookies strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&cookies, "%s%s=v; ", strings.Repeat("x", 300), strings.Repeat("y", i))
	}
	for i := range 100 {
		fmt.Fprintf(&cookies, "z%c%c=v; ", 'a'+i/10, 'a'+i%10)
	}
	got := tracedBy(t, newGate(t, tracedConfig(t)), "POST", "/metrics", "", map[string]string{"Cookie": cookies.String()})[0].Carried
	if len(got) != 32 || len(strings.Join(got, "")) > 32*200 {
		t.Errorf("%d names of %d bytes", len(got), len(strings.Join(got, "")))
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
