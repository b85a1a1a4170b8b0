package gate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// brokenUID is an account about which the profile server fails.
const brokenUID = "00000000000000000000000000000005"

// headerSession is a session in the header Authorization.
func headerSession(tb testing.TB) session.Source {
	tb.Helper()
	verifier, err := token.NewVerifier(token.Config{Secret: []byte(secret), Issuers: []string{"id"}, Audiences: []string{"web"}})
	if err != nil {
		tb.Fatal(err)
	}
	source := session.NewBearer(verifier, session.BearerConfig{Header: "Authorization"})
	tb.Cleanup(source.Close)
	return source
}

// subjects are the headers of requests that prove, name or hide an account in
// every way there is: by a cookie, and by a bearer token beside it.
func subjects(tb testing.TB) map[string][]string {
	tb.Helper()
	cookies := map[string]string{"nobody": "", "forged": "session=forged"}
	for name, uid := range map[string]string{"opted out": optedOutUID, "allowed": allowedUID, "unset": unsetUID, "unknown": brokenUID} {
		cookies[name] = sessionOf(tb, uid)
		cookies["expired, "+name] = expiredSessionOf(tb, uid)
	}
	all := map[string][]string{}
	for first, cookie := range cookies {
		for second, bearer := range cookies {
			all[first+" and "+second] = []string{
				"Cookie: " + cookie,
				"Authorization: Bearer " + strings.TrimPrefix(bearer, "session="),
			}
		}
	}
	return all
}

// TestNothingSaidContradictsWhatIsDone sends every kind of subject with every
// signal through gates with every rule, and holds what the status and the
// preference page say of it, and what a page is told, against what becomes of a
// beacon. An account that is not proven may decide over a beacon, and is told
// to nobody: then neither says that anything is, or is not, measured.
func TestNothingSaidContradictsWhatIsDone(t *testing.T) {
	t.Parallel()
	config := handshakeConfig(t, Handshake{})
	config.Sessions = append(config.Sessions, headerSession(t))
	config.Signal.GPC = true
	config.WriteBack = false
	config.ExperimentParams = []string{"forceExperiment"} // has pages wait as beacons do

	signals := map[string][]string{
		"nothing":      nil,
		"opted out":    {"Metrics-Optout: 1"},
		"no objection": {"Metrics-Optout: 0"},
		"GPC":          {"Sec-GPC: 1"},
		"probing":      {"User-Agent: " + firefoxAgent},
	}
	actions := []policy.Action{policy.Block, policy.Collect}
	undecided := 0
	for _, onUnknown := range actions {
		for _, onUnset := range actions {
			config.Rules = &policy.Rules{OnUnknown: onUnknown, OnUnset: onUnset}
			g := newGate(t, config)
			for who, credentials := range subjects(t) {
				for said, signal := range signals {
					name := fmt.Sprintf("%s, %s, on_unknown %v, on_unset %v", who, said, onUnknown, onUnset)
					headers := append(append([]string{sameOrigin}, credentials...), signal...)
					_, passed := ask(t, g, "POST /metrics", "", "", headers...)
					done := policy.Block
					if passed != nil {
						done = policy.Collect
					}

					_, page := ask(t, g, "GET /", "", "<head></head>", append(headers, "Sec-Fetch-Dest: document")...)
					// Of an account that is only named, a page is told nothing.
					if told := page.Header.Get(OutcomeHeader); told != done.String() && !strings.Contains(who, "expired") {
						t.Errorf("%s: a beacon is decided as %v, and a page as %s", name, done, told)
					}

					w, _ := ask(t, g, "GET /.well-known/metrics-gate/status", "", "", headers...)
					status, _, _ := strings.Cut(strings.TrimPrefix(w.Body.String(), `{"metrics_optout":`), ",")
					if says := map[string]policy.Action{"true": policy.Block, "false": policy.Collect}; status != "null" && says[status] != done {
						t.Errorf("%s: a beacon is decided as %v, and the status is %s", name, done, status)
					}

					w, _ = ask(t, g, "GET /.well-known/metrics-gate/preference", "", "", headers...)
					var verdicts []string
					for text, says := range map[string]policy.Action{">You are measured.<": policy.Collect, ">You are not measured.<": policy.Block} {
						if strings.Contains(w.Body.String(), text) {
							if verdicts = append(verdicts, text); says != done {
								t.Errorf("%s: a beacon is decided as %v, and the preference page says %q", name, done, text)
							}
						}
					}
					if strings.Contains(w.Body.String(), ">That depends on an account whose sign-in has expired.<") {
						verdicts = append(verdicts, "depends")
						undecided++
						if status != "null" || !strings.Contains(who, "expired") {
							t.Errorf("%s: the preference page leaves it open, and the status is %s", name, status)
						}
					}
					if w.Code != http.StatusOK || len(verdicts) != 1 {
						t.Errorf("%s: the preference page answers %d and says %q", name, w.Code, verdicts)
					}
				}
			}
		}
	}
	if undecided == 0 {
		t.Error("nothing was ever left open: the test looks at nothing")
	}
}

// TestNobodyHidesBehindAnother sends the credentials of several accounts at
// once, junk beside them, and bodies that cannot be read, also where on_unknown
// collects: what a sender can bring about never lets a beacon of an account
// through that opted out.
func TestNobodyHidesBehindAnother(t *testing.T) {
	t.Parallel()
	config := fxaConfig(t)
	config.Sessions = append(config.Sessions, headerSession(t))
	g := map[policy.Action]*Gate{}
	for _, onUnknown := range []policy.Action{policy.Block, policy.Collect} {
		config.Rules = &policy.Rules{OnUnknown: onUnknown, OnUnset: policy.Collect}
		g[onUnknown] = newGate(t, config)
	}
	out, allows, unset, broken := sessionOf(t, optedOutUID), sessionOf(t, allowedUID), sessionOf(t, unsetUID), sessionOf(t, brokenUID)
	bearer := func(session string) string { return "Bearer " + strings.TrimPrefix(session, "session=") }
	long := "session=" + strings.Repeat("x", token.MaxTokenBytes+1)
	for _, c := range []struct {
		name, cookie, bearer, body string
		block, collect             string // the decision and its reason where on_unknown says so
	}{
		{"an expired cookie, a bearer that opted out", expiredSessionOf(t, unsetUID), bearer(out), "", "block preference", "block preference"},
		{"allows, a bearer that opted out", allows, bearer(out), "", "block preference", "block preference"},
		{"opted out, a bearer that allows", out, bearer(allows), "", "block preference", "block preference"},
		{"two cookies", allows + "; " + out, "", "", "block preference", "block preference"},
		{"junk in front", "session=junk; " + out, "", "", "block preference", "block preference"},
		{"junk in front of one that allows", "session=junk; " + allows, "", "", "collect explicit_allow", "collect explicit_allow"},
		{"two that allow", allows + "; " + unset, "", "", "collect explicit_allow", "collect explicit_allow"},
		{"one that could not be learnt", allows + "; " + broken, "", "", "block unknown", "collect explicit_allow"},
		{"junk alone", "session=junk", "", "", "block unverified_session", "collect unverified_session"},
		{"too long alone", long, "", "", "block unverified_session", "block unverified_session"},
		{"too long beside one that allows", allows + "; " + long, "", "", "block unknown", "block unknown"},
		{"five", "session=1; session=2; session=3; session=4; " + out, "", "", "block unverified_session", "block unverified_session"},
		{"a body that cannot be read", "", "", `{"uid":`, "block unknown", "block unknown"},
		{"a name of another type", "", "", `{"uid":[]}`, "block unknown", "block unknown"},
		{"a body that is too long", allows, "", "{}" + strings.Repeat(" ", 256<<10), "block unknown", "block unknown"},
		{"a name that could not be learnt", "", "", `{"uid":"` + brokenUID + `"}`, "block unknown", "collect unknown"},
		{"a second name", "", "", `{"uid":"` + allowedUID + `","data":{"uid":"` + optedOutUID + `"}}`, "block preference", "block preference"},
		{"a second name behind one that could not be learnt", "", "", `{"uid":"` + brokenUID + `","data":{"uid":"` + optedOutUID + `"}}`, "block unknown", "block preference"},
		{"several texts", "", "", `{"uid":"` + allowedUID + `"}` + "\n" + `{"uid":"` + optedOutUID + `"}`, "block preference", "block preference"},
		{"names of nobody", "", "", `{"uid":"none","data":{"uid":null}}`, "collect default", "collect default"},
		{"one of the proven is named", unset + "; " + allows, "", `{"uid":"` + allowedUID + `"}`, "collect default", "collect default"},
	} {
		for onUnknown, want := range map[policy.Action]string{policy.Block: c.block, policy.Collect: c.collect} {
			r, w := request("POST", "/metrics", c.body, map[string]string{"Cookie": c.cookie, "Authorization": c.bearer})
			d := g[onUnknown].engine.Gated(r, g[onUnknown].routes.match("POST", "/metrics"), nil).decision
			if got := d.Action.String() + " " + d.Reason.String(); got != want {
				t.Errorf("%s, on_unknown %v: %s, want %s", c.name, onUnknown, got, want)
			}
			app := new(upstream)
			r, _ = request("POST", "/metrics", c.body, map[string]string{"Cookie": c.cookie, "Authorization": c.bearer})
			err := g[onUnknown].ServeHTTP(w, r, app)
			wait(t, g[onUnknown])
			if err != nil || (app.requests.Load() == 1) != strings.HasPrefix(want, "collect") {
				t.Errorf("%s, on_unknown %v: %d beacons arrived, error %v", c.name, onUnknown, app.requests.Load(), err)
			}
		}
	}
}

// TestNothingIsWrittenWithoutAProfile: the rules may ask for it where only the
// token says what its account prefers.
func TestNothingIsWrittenWithoutAProfile(t *testing.T) {
	t.Parallel()
	config := fxaConfig(t)
	config.Sessions = sessions(t, "metrics_optout")
	config.WriteBack = true
	config.Profile = nil // it would panic
	g := newGate(t, config)
	if g.engine.writeBack {
		t.Error("a gate without a profile writes back")
	}
	r, _ := request("POST", "/metrics", "", map[string]string{"Cookie": sessionOf(t, unsetUID), "Metrics-Optout": "1"})
	if v := g.engine.Gated(r, g.routes.match("POST", "/metrics"), nil); !v.decision.WriteBack {
		t.Errorf("decided as %+v", v.decision)
	}
}

// benchmarkDecision measures the decision by itself, from the request to the rule
// that applies, with everything cached: who it is, what they prefer, what the
// rules say. As in BenchmarkVerify, the clock has been read before.
func benchmarkDecision(b *testing.B, g *Gate, cookies string, want policy.Decision) {
	r, w := request("POST", "/metrics", "", map[string]string{"Cookie": cookies})
	if err := g.ServeHTTP(w, r, new(upstream)); err != nil { // warms the caches
		b.Fatal(err)
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if got := g.engine.decide(r, now, question{wait: true}).decision; got.Action != want.Action || got.Reason != want.Reason {
			b.Fatalf("%v, %v", got.Action, got.Reason)
		}
	}
}

func BenchmarkCachedDecision(b *testing.B) {
	benchmarkDecision(b, fxaGate(b), "lang=en; "+sessionOf(b, optedOutUID), policy.Decision{Action: policy.Block, Reason: policy.ReasonPreference})
}

// BenchmarkOwnDecision is the same by an own session, for the ratio of the two
// within one run.
func BenchmarkOwnDecision(b *testing.B) {
	config := proofConfig(b)
	value, _, _ := config.Own.Prove(httptest.NewRequest(http.MethodPost, "/metrics", nil), "verified "+optedOutUID, time.Now())
	benchmarkDecision(b, newGate(b, config), "lang=en; "+session.OwnCookie+"="+value, policy.Decision{Action: policy.Block, Reason: policy.ReasonPreference})
}

// BenchmarkCachedDecisions is the same of a request with several credentials, of
// as many accounts, none of which opted out, so that all of them are looked at.
func BenchmarkCachedDecisions(b *testing.B) {
	config := fxaConfig(b)
	nobodyChose := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	b.Cleanup(nobodyChose.Close)
	config.Profile = clientOf(b, nobodyChose.URL, 5*time.Second)
	g := newGate(b, config)
	for _, n := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("credentials=%d", n), func(b *testing.B) {
			cookies := []string{"lang=en"}
			for i := range n {
				cookies = append(cookies, sessionOf(b, fmt.Sprintf("%032x", i)))
			}
			benchmarkDecision(b, g, strings.Join(cookies, "; "), policy.Decision{Action: policy.Collect, Reason: policy.ReasonDefault})
		})
	}
}

// BenchmarkDecisionsInTurn is a cached decision ÷ verifying the HS256 token of the
// same request: of one user again and again (one), and of 9,000 in turn (many),
// whose entries have left the processor's caches when they come again. The token
// is verified first, so the request itself is in them, as it is where it has just
// been read. A ratio is the median of those of many short rounds, so that whatever
// disturbs the machine disturbs both sides alike.
func BenchmarkDecisionsInTurn(b *testing.B) {
	const users, round = 9000, 50
	config := fxaConfig(b)
	nobodyChose := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	b.Cleanup(nobodyChose.Close)
	config.Profile = clientOf(b, nobodyChose.URL, 5*time.Second)
	g := newGate(b, config)
	requests := make([]*http.Request, users)
	for i := range requests {
		var w http.ResponseWriter
		requests[i], w = request("POST", "/metrics", "", map[string]string{"Cookie": "lang=en; " + sessionOf(b, fmt.Sprintf("%032x", i))})
		if err := g.ServeHTTP(w, requests[i], new(upstream)); err != nil { // warms the caches
			b.Fatal(err)
		}
	}
	verify, now := verifying(b), time.Now()
	ratio := func(of []*http.Request) float64 {
		began := time.Now()
		for _, r := range of {
			raw, _ := g.engine.sessions[0].Credentials(r)
			verify(raw)
		}
		verified := time.Since(began)
		began = time.Now()
		for _, r := range of {
			if got := g.engine.decide(r, now, question{wait: true}).decision; got.Reason != policy.ReasonDefault {
				b.Fatal(got.Reason)
			}
		}
		return float64(time.Since(began)) / float64(verified)
	}
	same := slices.Repeat(requests[:1], round)
	var one, many []float64
	for b.Loop() {
		for i := 0; i < users; i += round {
			one = append(one, ratio(same))
			many = append(many, ratio(requests[i:i+round]))
		}
	}
	slices.Sort(one)
	slices.Sort(many)
	b.ReportMetric(one[len(one)/2], "one")
	b.ReportMetric(many[len(many)/2], "many")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVerify is what a cached decision saves, for the ratio of the two
// within one run: verifying the HS256 token of the same request.
func BenchmarkVerify(b *testing.B) {
	verify, raw := verifying(b), strings.TrimPrefix(sessionOf(b, allowedUID), "session=")
	b.ReportAllocs()
	for b.Loop() {
		verify(raw)
	}
}

// verifying verifies an HS256 token.
func verifying(b *testing.B) func(raw string) {
	verifier, err := token.NewVerifier(token.Config{Secret: []byte(secret), Issuers: []string{"id"}, Audiences: []string{"web"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(verifier.Close)
	now := time.Now()
	return func(raw string) {
		if _, err := verifier.Verify(raw, now); err != nil {
			b.Fatal(err)
		}
	}
}
