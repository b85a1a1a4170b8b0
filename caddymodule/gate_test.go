package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

const (
	optedOutUID = "0b5e1ed0000000000000000000000001"
	allowedUID  = "a110ed00000000000000000000000002"
	unsetUID    = "00000000000000000000000000000003"
)

// profiles is a profile server that knows three accounts. It answers
// <server>/<uid>.
func profiles(tb testing.TB) *httptest.Server {
	tb.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		preference, known := map[string]string{
			"/" + optedOutUID: "true", "/" + allowedUID: "false", "/" + unsetUID: "null",
		}[r.URL.Path]
		if !known {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"metrics_optout":%s}`, preference)
	}))
	tb.Cleanup(server.Close)
	return server
}

// newGate parses, provisions and validates a gate; %s in the text is the
// profile server's address.
func newGate(tb testing.TB, text string) *Gate {
	tb.Helper()
	gate, err := tryGate(tb, text)
	if err != nil {
		tb.Fatal(err)
	}
	return gate
}

func tryGate(tb testing.TB, text string) (*Gate, error) {
	tb.Helper()
	gate := new(Gate)
	if err := gate.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		return nil, err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	// As Caddy does: what fails on the way is cleaned up.
	err := gate.Provision(ctx)
	if err == nil {
		err = gate.Validate()
	}
	if err != nil {
		return nil, errors.Join(err, gate.Cleanup())
	}
	tb.Cleanup(func() {
		if err := gate.Cleanup(); err != nil {
			tb.Error(err)
		}
	})
	return gate, nil
}

// fxaGate is a gate with the preset, a session cookie, names in bodies, and
// more options.
func fxaGate(tb testing.TB, mode string, options ...string) *Gate {
	return newGate(tb, `metrics_gate `+mode+` {
		preset fxa
		session jwt {
			cookie session
			secret {file.testdata/keys/shared.secret}
			issuer id
			audience web
		}
		profile `+profiles(tb).URL+`/{uid} {
			auth bearer {file.testdata/keys/shared.secret}
			timeout 5s
		}
		`+strings.Join(options, "\n")+`
	}`)
}

// sessionOf returns a session cookie of the account.
func sessionOf(tb testing.TB, uid string) string {
	tb.Helper()
	minter, err := token.NewMinter(token.MinterConfig{
		Key: []byte(strings.TrimSpace(readKey(tb, "shared.secret"))), ClientID: "test", Issuer: "id", Audience: "web", Lifetime: time.Hour,
	})
	if err != nil {
		tb.Fatal(err)
	}
	minted, err := minter.Mint(uid, "", "", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return "session=" + minted
}

// request is a request as Caddy hands it to a handler.
func request(method, target, body string, header map[string]string) (*http.Request, *httptest.ResponseRecorder) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil), w
}

// upstream is an application that remembers what it got.
type upstream struct {
	requests atomic.Int64
	outcome  []string
	body     string
	reply    func(w http.ResponseWriter, r *http.Request) error
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	u.requests.Add(1)
	u.outcome = append([]string(nil), r.Header[outcomeHeader]...)
	body, _ := io.ReadAll(r.Body)
	u.body = string(body)
	if u.reply != nil {
		return u.reply(w, r)
	}
	w.Header().Set("X-Upstream", "1")
	_, err := io.WriteString(w, "from the upstream")
	return err
}

func TestGatedPaths(t *testing.T) {
	t.Parallel()
	gate := newGate(t, `metrics_gate {
		route POST /metrics
		route GET,HEAD,POST /metrics-errors
		route POST /api/* {
			answer 200
		}
		route POST /api/events/* {
			answer 202
		}
		route POST /api/events/one {
			answer 203
		}
		route GET / {
			answer 201
		}
		route HEAD /only-head {
			answer 205
		}
		route GET /both {
			answer 207
		}
		route HEAD /both {
			answer 206
		}
	}`)
	for _, test := range []struct {
		method, path string
		status       int // of the route's answer; 0: not gated
	}{
		{"POST", "/metrics", 204},
		{"POST", "/METRICS", 204},
		{"POST", "/Metrics/", 204},
		{"POST", "//metrics", 204},
		{"POST", "/./metrics", 204},
		{"POST", "/a/../metrics", 204},
		{"POST", "/metrics//", 204},
		{"POST", "/metrics/.", 204},
		{"GET", "/metrics", 0},
		{"OPTIONS", "/metrics", 0},
		{"PUT", "/metrics", 0},
		{"post", "/metrics", 0},
		{"POST", "/metricsx", 0},
		{"POST", "/metrics/x", 0},
		{"POST", "/metrics-flow", 0},
		{"POST", "/v1/metrics", 0},
		{"POST", "/metrics;a", 0},
		{"POST", "metrics", 0},
		{"POST", "", 0},
		{"POST", "*", 0},
		{"HEAD", "/metrics-errors", 204},
		{"GET", "/metrics-errors/", 204},
		{"POST", "/api/x", 200},
		{"POST", "/API/x/y", 200},
		{"POST", "/api/", 200},
		{"POST", "/api", 0},
		{"POST", "/api/events/two", 202},
		{"POST", "/api/Events/one/", 203},
		{"POST", "/api/events/../x", 200},
		{"POST", "/api//events/one", 203}, // the exact route, when cleaned
		{"POST", "/api/x/../events/one", 203},
		{"POST", "/api/../x", 200}, // below /api, as it came
		{"POST", "//api/.", 200},
		{"POST", "/x/../api/.", 200},
		{"HEAD", "/only-head", 205},
		{"HEAD", "/both", 206},
		{"GET", "/both", 207},
		{"POST", "/api/.", 200},
		{"POST", "/x/../api/y", 200},
		{"GET", "/", 201},
		{"GET", "//", 201},
		{"GET", "", 201},
		{"HEAD", "/", 201},
	} {
		status := 0
		if route := gate.routes.match(test.method, test.path); route != nil {
			status = route.answer.status
		}
		if status != test.status {
			t.Errorf("%s %s: route %d, want %d", test.method, test.path, status, test.status)
		}
	}
}

func TestOwnRouteTakesThePlaceOfThePresets(t *testing.T) {
	t.Parallel()
	gate := newGate(t, `metrics_gate {
		preset fxa
		route POST /metrics-errors {
			answer 418
		}
		session user {http.auth.user.id}
		profile http://localhost/{uid} {
			auth bearer {file.testdata/keys/shared.secret}
		}
	}`)
	if got := gate.routes.match("POST", "/metrics-errors").answer.status; got != 418 {
		t.Errorf("POST /metrics-errors answers %d, not the own route's 418", got)
	}
	if got := gate.routes.match("GET", "/metrics-errors").answer.status; got != 200 {
		t.Errorf("GET /metrics-errors answers %d, not the preset's 200", got)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, method string
		header       map[string]string
		page         bool
	}{
		{"navigation", "GET", map[string]string{"Sec-Fetch-Dest": "document"}, true},
		{"frame", "GET", map[string]string{"Sec-Fetch-Dest": "iframe"}, true},
		{"old frame", "HEAD", map[string]string{"Sec-Fetch-Dest": "frame"}, true},
		{"script", "GET", map[string]string{"Sec-Fetch-Dest": "script", "Accept": "text/html"}, false},
		{"old browser", "GET", map[string]string{"Accept": "text/html,application/xhtml+xml;q=0.9"}, true},
		{"curl", "GET", map[string]string{"Accept": "*/*"}, false},
		{"nothing", "GET", nil, false},
		{"form", "POST", map[string]string{"Sec-Fetch-Dest": "document"}, false},
	} {
		r, _ := request(test.method, "/signin", "", test.header)
		if got := isPage(r); got != test.page {
			t.Errorf("%s: a page: %v, want %v", test.name, got, test.page)
		}
	}
}

func TestOutcomeHeader(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	for _, test := range []struct {
		name, method, path string
		header             map[string]string
		want               string
	}{
		{"anonymous page", "GET", "/", map[string]string{"Sec-Fetch-Dest": "document"}, "collect"},
		{"opted out by signal", "GET", "/", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "metrics_optout=true"}, "block"},
		{"forged session", "GET", "/", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "session=forged"}, "block"},
		{"not a page", "GET", "/logo.svg", map[string]string{"Sec-Fetch-Dest": "image"}, ""},
		{"essential request", "GET", "/metrics-flow", nil, ""},
		{"collected", "POST", "/metrics", nil, "collect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			app := new(upstream)
			r, w := request(test.method, test.path, "", test.header)
			r.Header.Set(outcomeHeader, "forged by the client")
			if err := gate.ServeHTTP(w, r, app); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(app.outcome, ","); got != test.want {
				t.Errorf("the application reads %q, want %q", got, test.want)
			}
			if left := r.Header[outcomeHeader]; left != nil {
				t.Errorf("the header is left behind: %q", left)
			}
		})
	}
}

// TestClientCannotHideTheOutcome: a header that the client calls one of its
// connection's own is taken out by every proxy.
func TestClientCannotHideTheOutcome(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	for sent, want := range map[string]string{
		"close, metrics-gate-DECISION": "",
		"keep-alive":                   "keep-alive",
	} {
		app := &upstream{reply: func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("X-Connection", r.Header.Get("Connection"))
			return nil
		}}
		r, w := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Connection": sent})
		if err := gate.ServeHTTP(w, r, app); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("X-Connection"); got != want || len(app.outcome) != 1 {
			t.Errorf("%s: the application gets Connection %q and the outcome %q", sent, got, app.outcome)
		}
	}
}

// TestErrorPagesKnowTheOutcome: when a handler fails, what handle_errors asks
// in its place sees the header too.
func TestErrorPagesKnowTheOutcome(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	app := &upstream{reply: func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(http.StatusBadGateway, io.EOF) }}
	r, w := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "metrics_optout=1"})
	if err := gate.ServeHTTP(w, r, app); err == nil {
		t.Fatal("the error is lost")
	}
	if got := r.Header.Get(outcomeHeader); got != "block" {
		t.Errorf("handle_errors reads %q", got)
	}
}

// TestUpstreamErrorsAreNotQuoted: an upstream that breaks HTTP is quoted in
// the error, and it may say what it was sent.
func TestUpstreamErrorsAreNotQuoted(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	core, logs := observer.New(zap.DebugLevel)
	gate.logger = zap.New(core)
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, failure := range []error{errors.New(`malformed header "` + allowedUID + `"`), refused} {
		app := &upstream{reply: func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("round trip: %w", failure))
		}}
		r, w := request("POST", "/metrics", `{"uid":"`+allowedUID+`"}`, nil)
		if err := gate.ServeHTTP(w, r, app); err != nil {
			t.Fatal(err)
		}
	}
	if logs.Len() != 2 {
		t.Fatalf("%d lines", logs.Len())
	}
	for _, line := range logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, allowedUID) {
			t.Errorf("the log quotes the upstream: %s", text)
		}
	}
	if text := fmt.Sprint(logs.All()[1].ContextMap()); !strings.Contains(text, "connection refused") {
		t.Errorf("the log does not say what is wrong with the network: %s", text)
	}
}

// TestGoneClientLeavesNoTrace: Caddy logs the requests of handlers that fail,
// with their addresses.
func TestGoneClientLeavesNoTrace(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	r, _ := request("POST", "/metrics", "", map[string]string{"Cookie": "metrics_optout=1"})
	if err := gate.ServeHTTP(goneClient{http.Header{}}, r, new(upstream)); err != nil {
		t.Errorf("the gate fails with %v", err)
	}
}

type goneClient struct{ header http.Header }

func (g goneClient) Header() http.Header     { return g.header }
func (goneClient) WriteHeader(int)           {}
func (goneClient) Write([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestBlockedAndCollectedLookTheSame sends beacons that name an opted-out and
// an allowed account, in front of upstreams that behave as badly as they
// can, and compares every byte of the answers.
func TestBlockedAndCollectedLookTheSame(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	for name, reply := range map[string]func(http.ResponseWriter, *http.Request) error{
		"success": nil,
		"refusal": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Set-Cookie", "seen=1")
			w.WriteHeader(http.StatusBadRequest)
			return nil
		},
		"error":   func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(http.StatusBadGateway, io.EOF) },
		"nothing": func(http.ResponseWriter, *http.Request) error { return nil },
		"abort":   func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
		"early hints": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
			return http.NewResponseController(w).Flush()
		},
		"upgrade": func(w http.ResponseWriter, _ *http.Request) error {
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Error("the upstream could take over the client's connection")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := &upstream{reply: reply}
			var answers []string
			for _, uid := range []string{optedOutUID, allowedUID, unsetUID, "none"} {
				for _, body := range []string{`{"uid":"` + uid + `"}`, `{"uid":"` + uid + `","broken":`} {
					r, w := request("POST", "/metrics", body, nil)
					if err := gate.ServeHTTP(w, r, app); err != nil {
						t.Fatal(err)
					}
					answers = append(answers, fmt.Sprint(w.Code, w.Header(), w.Body))
				}
			}
			for _, answer := range answers[1:] {
				if answer != answers[0] {
					t.Errorf("answers differ:\n%s\n%s", answers[0], answer)
				}
			}
			if got := app.requests.Load(); got != 3 {
				t.Errorf("the upstream got %d beacons, want those that name the allowed, the undecided and nobody", got)
			}
		})
	}
}

func TestCollectedBodyReachesTheUpstreamUnchanged(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	app := new(upstream)
	body := "{ \"events\" : [ ],\n\t\"uid\":\"" + allowedUID + "\" }\n"
	r, w := request("POST", "/metrics", body, map[string]string{"Content-Type": "text/plain;charset=UTF-8"})
	if err := gate.ServeHTTP(w, r, app); err != nil {
		t.Fatal(err)
	}
	if app.body != body {
		t.Errorf("the upstream got %q, not %q", app.body, body)
	}
}

// TestClaimWithoutProfile: where only the token says what its account prefers,
// a claim that is absent means that no choice was made, and one that cannot
// be read is unknown.
func TestClaimWithoutProfile(t *testing.T) {
	t.Parallel()
	gate := newGate(t, `metrics_gate {
		route POST /beacon
		session jwt {
			cookie session
			secret {file.testdata/keys/shared.secret}
			optout_claim metrics_optout
		}
	}`)
	secret := strings.TrimSpace(readKey(t, "shared.secret"))
	for name, test := range map[string]struct {
		claim  any
		reason policy.Reason
	}{
		"opted out":  {true, policy.ReasonPreference},
		"allowed":    {"false", policy.ReasonExplicitAllow},
		"no choice":  {nil, policy.ReasonDefault},
		"absent":     {absent, policy.ReasonDefault},
		"unreadable": {1, policy.ReasonUnknown},
		"misspelt":   {"TRUE", policy.ReasonUnknown},
	} {
		claims := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
		if test.claim != absent {
			claims["metrics_optout"] = test.claim
		}
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it comes out of the cache
			r, _ := request("POST", "/beacon", "", map[string]string{"Cookie": "session=" + signed})
			if got := gate.decideGated(r, gate.routes.match("POST", "/beacon")); got.Reason != test.reason {
				t.Errorf("%s: %v %v, want %v", name, got.Action, got.Reason, test.reason)
			}
		}
	}
}

const absent = "absent"

// TestLookupsShareOneTimeout sends a beacon that proves one account, about
// which the profile server never answers, and names another, about which it
// would answer at once. The first has used the time up, so the request does
// not wait for the second.
func TestLookupsShareOneTimeout(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/"+allowedUID {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"metrics_optout":true}`)
	}))
	t.Cleanup(server.Close)
	gate := newGate(t, `metrics_gate {
		preset fxa
		on_unknown collect
		session jwt {
			cookie session
			secret {file.testdata/keys/shared.secret}
		}
		profile `+server.URL+`/{uid} {
			auth bearer {file.testdata/keys/shared.secret}
			timeout 50ms
		}
	}`)
	decide := func(header map[string]string) policy.Decision {
		r, _ := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, header)
		return gate.decideGated(r, gate.routes.match("POST", "/metrics"))
	}
	if got := decide(map[string]string{"Cookie": sessionOf(t, allowedUID)}); got.Reason != policy.ReasonUnknown {
		t.Errorf("behind a lookup that took all the time the name decides by %v", got.Reason)
	}
	if got := decide(nil); got.Reason != policy.ReasonPreference {
		t.Errorf("by itself the name decides by %v", got.Reason)
	}
}

func readKey(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile("testdata/keys/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestExperimentRoutes(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	app := new(upstream)
	r, w := request("GET", "/experiments.bundle.js", "", map[string]string{"Cookie": sessionOf(t, optedOutUID)})
	if err := gate.ServeHTTP(w, r, app); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || w.Body.Len() != 0 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/javascript") {
		t.Errorf("an opted-out user gets %d %q %v", w.Code, w.Body, w.Header())
	}
	r, w = request("GET", "/experiments.bundle.js", "", map[string]string{"Cookie": sessionOf(t, allowedUID)})
	app.reply = func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Cache-Control", "public, max-age=86400")
		_, err := io.WriteString(w, "able = 1")
		return err
	}
	if err := gate.ServeHTTP(w, r, app); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != "able = 1" || w.Header().Get("Cache-Control") != "private, no-store" {
		t.Errorf("an allowed user gets %q %v", w.Body, w.Header())
	}
}

func TestReject(t *testing.T) {
	t.Parallel()
	gate := newGate(t, `metrics_gate {
		route POST /beacon
		route GET /flags experiment {
			answer 200 application/json {}
		}
		block_with reject
	}`)
	for target, status := range map[string]int{"POST /beacon": 403, "GET /flags": 200} {
		method, path, _ := strings.Cut(target, " ")
		r, w := request(method, path, "", map[string]string{"Metrics-Optout": "1"})
		if err := gate.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
		if w.Code != status || w.Header().Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: %d %v, want %d", target, w.Code, w.Header(), status)
		}
	}
}

func TestShadowChangesNothing(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "shadow")
	before := testutil.ToFloat64(requestsTotal.WithLabelValues("/metrics", "metrics", "block", "preference", "shadow"))
	app := new(upstream)
	r, w := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, map[string]string{outcomeHeader: "collect"})
	if err := gate.ServeHTTP(w, r, app); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != "from the upstream" || app.outcome != nil {
		t.Errorf("shadow mode answers %q and tells the application %q", w.Body, app.outcome)
	}
	if caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar) != nil {
		t.Error("shadow mode takes a line from the access log")
	}
	if (MatchOptOut{}).Match(r) {
		t.Error("the matcher acts in shadow mode")
	}
	if after := testutil.ToFloat64(requestsTotal.WithLabelValues("/metrics", "metrics", "block", "preference", "shadow")); after != before+1 {
		t.Errorf("the headline counter went from %v to %v", before, after)
	}
}

func TestPlaceholdersMatcherAndLog(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	for _, test := range []struct {
		cookie, decision, reason string
	}{
		{"metrics_optout=1", "block", "signal"},
		{"metrics_optout=0", "collect", "default"},
	} {
		r, w := request("POST", "/metrics", "", map[string]string{"Cookie": test.cookie})
		if err := gate.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if got := repl.ReplaceAll("{http.metrics_gate.decision} {http.metrics_gate.reason}", "-"); got != test.decision+" "+test.reason {
			t.Errorf("%s: placeholders %q", test.cookie, got)
		}
		blocked := test.decision == "block"
		if got := (MatchOptOut{}).Match(r); got != blocked {
			t.Errorf("%s: the matcher says %v", test.cookie, got)
		}
		if got := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar) == true; got != blocked {
			t.Errorf("%s: kept out of the access log: %v", test.cookie, got)
		}
	}
	r, _ := request("GET", "/", "", nil)
	if matched, err := (MatchOptOut{}).MatchWithError(r); matched || err != nil {
		t.Errorf("without a gate the matcher says %v, %v", matched, err)
	}
}

func TestSilentGateWarnsOnce(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	core, logs := observer.New(zap.WarnLevel)
	gate.logger = zap.New(core)
	for range 3 * silentRequests {
		r, w := request("POST", "/metrics", "", map[string]string{"Cookie": "sesion=misspelt"})
		if err := gate.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
	}
	if got := logs.Len(); got != 1 {
		t.Fatalf("%d warnings", got)
	}
	if text := fmt.Sprint(logs.All()[0].ContextMap()); !strings.Contains(text, "cookie session") || !strings.Contains(text, "body field uid") {
		t.Errorf("the warning does not say what was looked for: %s", text)
	}
}

func TestHeardGateDoesNotWarn(t *testing.T) {
	t.Parallel()
	gate := fxaGate(t, "")
	core, logs := observer.New(zap.WarnLevel)
	gate.logger = zap.New(core)
	for i := range 2 * silentRequests {
		cookie := "other=1"
		if i == silentRequests/2 {
			cookie = sessionOf(t, allowedUID)
		}
		r, w := request("POST", "/metrics", "", map[string]string{"Cookie": cookie})
		if err := gate.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
	}
	if got := logs.FilterMessageSnippet("no account").Len(); got != 0 {
		t.Errorf("%d warnings although a session was recognised", got)
	}
}
