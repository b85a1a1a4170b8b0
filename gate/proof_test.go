package gate

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// says is a prover whose proofs say what comes of them, such as "verified <uid>".
type says struct{ ends time.Time }

func (s says) Prove(proof string, _ time.Time) (session.Subject, time.Time, session.Outcome) {
	word, uid, _ := strings.Cut(proof, " ")
	for outcome := range session.OutcomeCount {
		if outcome.String() == word {
			return session.Subject{UID: uid}, s.ends, outcome
		}
	}
	return session.Subject{}, time.Time{}, session.Malformed
}

func ownSession(tb testing.TB) *session.Own {
	tb.Helper()
	own, err := session.NewOwn(session.OwnConfig{Prover: says{}, Keys: [][]byte{[]byte(secret)}, Block: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	return own
}

// proofConfig is a gate whose pages prove their account, in front of the three
// accounts of profiles.
func proofConfig(tb testing.TB) Config {
	return proofConfigFor(tb, clientOf(tb, profiles(tb).URL, 5*time.Second))
}

func proofConfigFor(tb testing.TB, client *profileclient.Client) Config {
	return Config{
		Presets:   []UsedPreset{{Name: "fxa"}},
		Own:       ownSession(tb),
		Proof:     &browser.Proof{LocalStorage: "token"},
		Profile:   client,
		WriteBack: true,
		Handshake: new(Handshake),
	}
}

// visitor is a browser: it keeps cookies, and says where its requests come from.
type visitor struct {
	tb      testing.TB
	g       *Gate
	cookies map[string]string
	agent   string
}

func visit(tb testing.TB, g *Gate) *visitor {
	return &visitor{tb: tb, g: g, cookies: map[string]string{}}
}

// send sends a request, with a status and a body for the reply.
func (v *visitor) send(line, body string, headers ...string) (status int, reply string, passed bool) {
	v.tb.Helper()
	headers = append(headers, sameOrigin, "Content-Type: application/json", "User-Agent: "+v.agent)
	var pairs []string
	for name, value := range v.cookies {
		pairs = append(pairs, name+"="+value)
	}
	if len(pairs) > 0 {
		headers = append(headers, "Cookie: "+strings.Join(pairs, "; "))
	}
	w, got := ask(v.tb, v.g, line, body, "<head></head>", headers...)
	for _, cookie := range w.Result().Cookies() {
		if cookie.MaxAge < 0 {
			delete(v.cookies, cookie.Name)
		} else {
			v.cookies[cookie.Name] = cookie.Value
		}
	}
	return w.Code, strings.TrimSpace(w.Body.String()), got != nil
}

// report sends a report of the handshake's script, and returns the status and
// what the script is told.
func (v *visitor) report(body string) string {
	v.tb.Helper()
	status, reply, passed := v.send("POST /.well-known/metrics-gate/signal", body)
	if passed {
		v.tb.Error("a report reached the application")
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, reply))
}

// proves reports a proof, with what is said besides.
func (v *visitor) proves(proof, besides string) string {
	v.tb.Helper()
	return v.report(`{"proof":` + proof + besides + `}`)
}

// status is what the site's own pages are told.
func (v *visitor) status() string {
	v.tb.Helper()
	_, reply, _ := v.send("GET /.well-known/metrics-gate/status", "")
	return reply
}

// measured says whether the application gets a beacon that names nobody.
func (v *visitor) measured() bool {
	v.tb.Helper()
	_, _, passed := v.send("POST /metrics-errors", `{"project":"metrics-errors"}`)
	return passed
}

const again = `200 {"again":true}`

// TestProofs goes through what pages say of who is signed in, and what follows
// for a beacon that says nothing of it.
func TestProofs(t *testing.T) {
	t.Parallel()
	const unknown, signedOut = `{"metrics_optout":null,"source":"unknown"}`, `{"metrics_optout":false,"source":"default"}`
	const allowed, optedOut = `{"metrics_optout":false,"source":"preference"}`, `{"metrics_optout":true,"source":"preference"}`
	verified := func(uid string) string { return `"verified ` + uid + `"` }
	for name, test := range map[string]struct {
		proofs  []string // each with what the script is told
		told    []string
		status  string
		measure bool
	}{
		"nothing said":                  {nil, nil, unknown, false},
		"opted out":                     {[]string{verified(optedOutUID)}, []string{"204"}, optedOut, false},
		"allowed":                       {[]string{verified(allowedUID)}, []string{"204"}, allowed, true},
		"no choice":                     {[]string{verified(unsetUID)}, []string{"204"}, signedOut, true},
		"nobody":                        {[]string{"null"}, []string{"204"}, signedOut, true},
		"whose preference is not known": {[]string{verified("unknown")}, []string{"204"}, unknown, false},
		"refused":                       {[]string{`"bad_signature"`}, []string{again}, unknown, false},
		"expired":                       {[]string{`"expired"`}, []string{again}, unknown, false},
		"not to be asked about":         {[]string{`"keys_unavailable"`}, []string{again}, unknown, false},
		"too long":                      {[]string{`"` + strings.Repeat("x", 9000) + `"`}, []string{again}, unknown, false},
		"far too long":                  {[]string{`"` + strings.Repeat("x", 17000) + `"`}, []string{"413"}, unknown, false},
		"no text":                       {[]string{"1", `""`, "{}", "true"}, []string{"400", "400", "400", "400"}, unknown, false},
		"a refusal ends":                {[]string{verified(allowedUID), `"bad_signature"`}, []string{"204", again}, unknown, false},
		"a failure to ask ends nothing": {[]string{verified(allowedUID), `"keys_unavailable"`}, []string{"204", again}, allowed, true},
		"nor does one for want of time": {[]string{verified(allowedUID), `"too_many"`}, []string{"204", again}, allowed, true},
		"nor after nobody":              {[]string{"null", `"keys_unavailable"`}, []string{"204", again}, signedOut, true},
		"signed out":                    {[]string{verified(allowedUID), "null"}, []string{"204", "204"}, signedOut, true},
		"another account":               {[]string{verified(optedOutUID), verified(allowedUID)}, []string{"204", "204"}, allowed, true},
		"the other way round":           {[]string{verified(allowedUID), verified(optedOutUID)}, []string{"204", "204"}, optedOut, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := visit(t, newGate(t, proofConfig(t)))
			for i, proof := range test.proofs {
				if got := v.proves(proof, ""); !strings.HasPrefix(got, test.told[i]) {
					t.Errorf("%.40s: the script is told %q, want %s", proof, got, test.told[i])
				}
			}
			if got := v.status(); got != test.status {
				t.Errorf("status %s, want %s", got, test.status)
			}
			if got := v.measured(); got != test.measure {
				t.Errorf("measured: %t, want %t", got, test.measure)
			}
		})
	}
}

// TestProvenEverywhere: an account that opted out holds on every route, on pages
// and for experiments, and after the sign-out.
func TestProvenEverywhere(t *testing.T) {
	t.Parallel()
	v := visit(t, newGate(t, proofConfig(t)))
	v.proves(`"verified `+optedOutUID+`"`, `,"probing":true`)
	if got := v.cookies["metrics_optout"]; got != session.Remembered {
		t.Errorf("the report set metrics_optout=%q, want what keeps blocking after sign-out", got)
	}
	check := func(when string) {
		t.Helper()
		for _, line := range []string{"POST /metrics", "POST /metrics-errors", "GET /metrics-errors", "POST /navigation-timing", "GET /experiments.bundle.js", "POST /nimbus-experiments"} {
			if _, _, passed := v.send(line, "{}"); passed {
				t.Errorf("%s: %s reached the application", when, line)
			}
		}
		_, page, _ := v.send("GET /?forceExperiment=x", "", "Sec-Fetch-Dest: document")
		if !strings.Contains(page, `data-strip="forceExperiment forceExperimentGroup"`) {
			t.Errorf("%s: the page is %s", when, page)
		}
	}
	check("signed in")
	v.proves("null", "")
	check("signed out")
	if v.proves(`"verified `+allowedUID+`"`, ""); v.measured() != true || v.cookies["metrics_optout"] != "" {
		t.Errorf("an account that allows: cookie %q", v.cookies["metrics_optout"])
	}
}

// TestPagesRemember: what a page learns of a proven account is kept as what a
// beacon does, and such a page is nobody else's.
func TestPagesRemember(t *testing.T) {
	t.Parallel()
	config := handshakeConfig(t, Handshake{})
	config.Presets = nil // whose pages are nobody else's in any case
	config.Routes = []Route{{Methods: []string{http.MethodPost}, Path: "/metrics"}}
	g := newGate(t, config)
	page := func(uid string) (cookie, control string) {
		w, _ := ask(t, g, "GET /", "", "<head></head>", "Sec-Fetch-Dest: document", "Cookie: "+sessionOf(t, uid)+"; metrics_optout=0")
		return w.Header().Get("Set-Cookie"), w.Header().Get("Cache-Control")
	}
	ask(t, g, "POST /metrics", "{}", "", "Cookie: "+sessionOf(t, optedOutUID)) // has it warm
	if cookie, control := page(optedOutUID); !strings.HasPrefix(cookie, "metrics_optout=account;") || control != "private, no-cache" {
		t.Errorf("opted out: cookie %q, Cache-Control %q", cookie, control)
	}
	ask(t, g, "POST /metrics", "{}", "", "Cookie: "+sessionOf(t, unsetUID))
	if cookie, control := page(unsetUID); cookie != "" || control != "" {
		t.Errorf("no choice: cookie %q, Cache-Control %q", cookie, control)
	}
}

// TestProvenForTenMinutes: then what was revoked can only block, and pages ask
// for a new proof.
func TestProvenForTenMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &slowProfile{preference: "false"}
		client, err := profileclient.New(profileclient.Config{
			URL: "https://profile.test/{uid}", Auth: profileclient.Bearer("x"), Transport: server, MaxAge: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		v := visit(t, newGate(t, proofConfigFor(t, client)))
		asks := func() bool {
			_, page, _ := v.send("GET /", "", "Sec-Fetch-Dest: document")
			if !strings.Contains(page, "data-proof=") {
				t.Errorf("the page is %s", page)
			}
			return strings.Contains(page, "data-report")
		}
		if !asks() {
			t.Error("a page of a browser that said nothing does not ask")
		}
		if v.proves(`"verified `+allowedUID+`"`, `,"metrics_optout":true`) != "204" || !v.measured() || asks() {
			t.Error("an account that allows is not measured, in a browser that opted out")
		}
		<-time.After(10*time.Minute - time.Second)
		if !v.measured() || asks() {
			t.Error("its proof does not hold for ten minutes")
		}
		<-time.After(time.Second)
		if v.measured() || !asks() {
			t.Error("it still allows after ten minutes")
		}
		if got := v.report(`{}`); got != again { // takes the browser's word back
			t.Errorf("the script is told %s", got)
		}
		if !v.measured() {
			t.Error("somebody who allowed is not measured by default")
		}
		server.mu.Lock()
		server.preference = "true"
		server.mu.Unlock()
		<-time.After(2 * time.Minute)
		if v.measured() {
			t.Error("an account that opted out is measured")
		}
		<-time.After(24 * time.Hour)
		if asks(); v.status() != `{"metrics_optout":null,"source":"unknown"}` {
			t.Errorf("after a day the status is %s", v.status())
		}
	})
}

// TestWriteBackWithAProof: what the browser says belongs to the account that its
// page proves, with the same report or one that follows.
func TestWriteBackWithAProof(t *testing.T) {
	t.Parallel()
	const uid = `"verified ` + unsetUID + `"`
	for name, test := range map[string]struct {
		holds   string
		reports []string
		written bool
	}{
		"with the proof":              {"null", []string{`{"metrics_optout":true,"proof":` + uid + `}`}, true},
		"after it":                    {"null", []string{`{"probing":true,"proof":` + uid + `}`, `{"metrics_optout":true}`}, true},
		"signing in later":            {"null", []string{`{"metrics_optout":true,"proof":null}`, `{"metrics_optout":true,"proof":` + uid + `}`}, true},
		"nobody":                      {"null", []string{`{"metrics_optout":true,"proof":null}`}, false},
		"not proven yet":              {"null", []string{`{"metrics_optout":true}`}, false},
		"signed out meanwhile":        {"null", []string{`{"proof":` + uid + `}`, `{"metrics_optout":true,"proof":null}`}, false},
		"refused":                     {"null", []string{`{"proof":` + uid + `}`, `{"metrics_optout":true,"proof":"bad_signature"}`}, false},
		"no objection":                {"null", []string{`{"proof":` + uid + `}`}, false},
		"the browser is still asked":  {"null", []string{`{"probing":true,"proof":` + uid + `}`}, false},
		"an account that allows":      {"false", []string{`{"metrics_optout":true,"proof":` + uid + `}`}, false},
		"an account that opted out":   {"true", []string{`{"metrics_optout":true,"proof":` + uid + `}`}, false},
		"the cookie alone":            {"null", []string{`{"metrics_optout":true,"proof":null}`, `{"probing":true,"proof":` + uid + `}`}, false},
		"could not be asked about it": {"null", []string{`{"metrics_optout":true,"proof":"keys_unavailable"}`}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := &slowProfile{preference: test.holds, delay: 50 * time.Millisecond}
				client, err := profileclient.New(profileclient.Config{
					URL: "https://profile.test/{uid}", Auth: profileclient.Bearer("x"), Transport: server, MaxAge: time.Hour,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				v := visit(t, newGate(t, proofConfigFor(t, client)))
				for _, report := range test.reports {
					v.report(report)
				}
				<-time.After(time.Minute)
				server.mu.Lock()
				defer server.mu.Unlock()
				if written := len(server.writes) > 0; written != test.written {
					t.Errorf("written: %t, want %t", written, test.written)
				}
			})
		})
	}
}

// TestProbingUntilProven: every browser that could say whether somebody is signed
// in, and has not; what sends no Fetch metadata is none that could.
func TestProbingUntilProven(t *testing.T) {
	t.Parallel()
	config := proofConfig(t)
	config.Sessions = sessions(t, "")
	g := newGate(t, config)
	value, _, _ := config.Own.Prove(&http.Request{Host: "example.com"}, "verified "+unsetUID, time.Now())
	own := session.OwnCookie + "=" + value
	for name, test := range map[string]struct {
		headers []string
		want    string
	}{
		"any browser":               {[]string{sameOrigin}, "probing"},
		"of another site":           {[]string{"Sec-Fetch-Site: cross-site"}, "probing"},
		"no browser":                {nil, "default"},
		"an own session":            {[]string{sameOrigin, "Cookie: " + own}, "default"},
		"nobody":                    {[]string{sameOrigin, "Cookie: __Host-metrics_gate=0"}, "default"},
		"junk":                      {[]string{sameOrigin, "Cookie: __Host-metrics_gate=1"}, "probing"},
		"nothing":                   {[]string{sameOrigin, "Cookie: __Host-metrics_gate="}, "probing"},
		"no objection":              {[]string{sameOrigin, "Cookie: metrics_optout=0"}, "probing"},
		"opted out":                 {[]string{sameOrigin, "Cookie: metrics_optout=1"}, "signal"},
		"another session":           {[]string{sameOrigin, "Cookie: " + sessionOf(t, unsetUID)}, "probing"},
		"another one that allows":   {[]string{sameOrigin, "Cookie: " + sessionOf(t, allowedUID)}, "explicit_allow"},
		"another one beside it":     {[]string{sameOrigin, "Cookie: " + own + "; " + sessionOf(t, allowedUID)}, "explicit_allow"},
		"one beside it that opted":  {[]string{sameOrigin, "Cookie: " + own + "; " + sessionOf(t, optedOutUID)}, "preference"},
		"Firefox that said nothing": {[]string{sameOrigin, "Cookie: " + own, "User-Agent: " + firefoxAgent}, "probing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := request(http.MethodPost, "/metrics", `{"uid":"none"}`, headerOf(test.headers))
			if got := g.engine.Gated(r, g.routes.match(http.MethodPost, "/metrics"), nil).decision; got.Reason.String() != test.want {
				t.Errorf("%s, want %s", got.Reason, test.want)
			}
		})
	}
}

// TestShadowProves: shadow mode would see nobody otherwise. Nothing else changes.
func TestShadowProves(t *testing.T) {
	t.Parallel()
	config := proofConfig(t)
	config.Shadow = true
	config.ExperimentParams = []string{"forceExperiment"}
	var mu sync.Mutex
	var reasons []string
	config.Observer.Decided = func(_ *http.Request, _ int, decision policy.Decision, _ bool) {
		mu.Lock()
		defer mu.Unlock()
		reasons = append(reasons, decision.Reason.String())
	}
	v := visit(t, newGate(t, config))
	v.agent = firefoxAgent
	_, page, _ := v.send("GET /?forceExperiment=x", "", "Sec-Fetch-Dest: document")
	if !strings.Contains(page, "data-proof=") || strings.Contains(page, "data-strip") {
		t.Errorf("the page is %s", page)
	}
	if got := v.proves(`"verified `+optedOutUID+`"`, `,"metrics_optout":true`); got != "204" {
		t.Errorf("the script is told %s", got)
	}
	if v.cookies[session.OwnCookie] == "" || len(v.cookies) != 1 {
		t.Errorf("cookies %v, want the own session's alone", v.cookies)
	}
	if !v.measured() {
		t.Error("shadow blocks")
	}
	if got := fmt.Sprint(reasons); got != "[probing preference]" {
		t.Errorf("decided %s", got)
	}
	for _, own := range []string{"status", "preference"} {
		if _, _, passed := v.send("GET /.well-known/metrics-gate/"+own, ""); !passed {
			t.Errorf("%s does not pass", own)
		}
	}
	w, passed := ask(t, v.g, "GET /", "", "<head></head>", "Sec-Fetch-Dest: document", sameOrigin)
	if passed.Header.Get(OutcomeHeader) != "" || w.Header().Get("Set-Cookie") != "" {
		t.Errorf("shadow told the application %v, and the browser %v", passed.Header, w.Header())
	}
}

// TestReportsThatNobodyTakes: a script of an earlier configuration must not hand
// credentials to the application.
func TestReportsThatNobodyTakes(t *testing.T) {
	t.Parallel()
	shadow := handshakeConfig(t, Handshake{})
	shadow.Shadow = true
	for name, config := range map[string]Config{"no handshake": fxaConfig(t), "shadow": shadow} {
		g := newGate(t, config)
		w, passed := ask(t, g, "POST /.well-known/metrics-gate/signal", `{"proof":"Bearer x"}`, "", sameOrigin)
		if w.Code != http.StatusNotFound || passed != nil {
			t.Errorf("%s: status %d, passed on: %t", name, w.Code, passed != nil)
		}
		if _, passed := ask(t, g, "GET /.well-known/metrics-gate/signal", "", ""); passed == nil {
			t.Errorf("%s: what is no report did not pass", name)
		}
	}
	g := handshakeGate(t, Handshake{})
	w, _ := ask(t, g, "POST /.well-known/metrics-gate/signal", `{"proof":"Bearer x"}`, "", sameOrigin, "Content-Type: application/json")
	if cookie := w.Header().Get("Set-Cookie"); w.Code != http.StatusNoContent || !strings.HasPrefix(cookie, "metrics_optout=0;") {
		t.Errorf("a gate that asks for no proof: status %d, cookie %q", w.Code, cookie)
	}
}

// TestProofsFromElsewhere: no other site can have a browser prove anything.
func TestProofsFromElsewhere(t *testing.T) {
	t.Parallel()
	g := newGate(t, proofConfig(t))
	for _, from := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null"} {
		w, passed := ask(t, g, "POST /.well-known/metrics-gate/signal", `{"proof":"verified `+allowedUID+`"}`, "", from, "Content-Type: application/json")
		if w.Code != http.StatusForbidden || passed != nil || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: status %d, %v", from, w.Code, w.Header())
		}
	}
}

// TestOwnCookie holds its attributes, and that a report says as much as it can.
func TestOwnCookie(t *testing.T) {
	t.Parallel()
	g := newGate(t, proofConfig(t))
	for proof, want := range map[string]string{
		"null":                             "__Host-metrics_gate=0; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax",
		`"verified ` + unsetUID + `"`:      "; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax",
		`"bad_signature ` + unsetUID + `"`: "__Host-metrics_gate=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
	} {
		w, _ := ask(t, g, "POST /.well-known/metrics-gate/signal", `{"proof":`+proof+`}`, "", sameOrigin, "Content-Type: application/json")
		own, signal := w.Header().Values("Set-Cookie")[0], w.Header().Values("Set-Cookie")[1]
		if !strings.HasPrefix(own, session.OwnCookie+"=") || !strings.HasSuffix(own, want) || !strings.HasPrefix(signal, "metrics_optout=0;") ||
			w.Header().Get("Cache-Control") != "no-store" || strings.Contains(fmt.Sprint(w.Header(), w.Body), unsetUID) {
			t.Errorf("%s: %v", proof, w.Header())
		}
	}
}

// TestProofsNeedAHandshake: nothing else hands them over.
func TestProofsNeedAHandshake(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"no handshake": func(c *Config) { c.Handshake = nil },
		"no place":     func(c *Config) { c.Proof = nil },
		"no session":   func(c *Config) { c.Own = nil },
	} {
		config := proofConfig(t)
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
