package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

const (
	optedOutUID = "0b5e1ed0000000000000000000000001"
	allowedUID  = "a110ed00000000000000000000000002"
	unsetUID    = "00000000000000000000000000000003"
)

var namesUID = &session.NamesConfig{Body: []string{"uid"}}

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

// secret is what the sessions of these tests are signed with.
const secret = "a shared secret that is long enough for HS256"

// sessions is a session in the cookie session; claim, where it is not empty,
// carries the preference.
func sessions(tb testing.TB, claim string) session.Sources {
	tb.Helper()
	verifier, err := token.NewVerifier(token.Config{Secret: []byte(secret), Issuers: []string{"id"}, Audiences: []string{"web"}})
	if err != nil {
		tb.Fatal(err)
	}
	source := session.NewBearer(verifier, session.BearerConfig{Cookie: "session", OptOutClaim: claim})
	tb.Cleanup(source.Close)
	return session.Sources{source}
}

// clientOf asks the profile server at url about each account at an address of
// its own.
func clientOf(tb testing.TB, url string, timeout time.Duration) *profileclient.Client {
	tb.Helper()
	client, err := profileclient.New(profileclient.Config{
		URL: url + "/{uid}", Auth: profileclient.Bearer("x"), Timeout: timeout, MaxAge: time.Hour,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(client.Close)
	return client
}

func newGate(tb testing.TB, config Config) *Gate {
	tb.Helper()
	g, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// fxaConfig is a gate with the preset, a session cookie and names in bodies, in
// front of the three accounts of profiles.
func fxaConfig(tb testing.TB) Config {
	return Config{
		Presets:  []UsedPreset{{Name: "fxa"}},
		Sessions: sessions(tb, ""),
		Profile:  clientOf(tb, profiles(tb).URL, 5*time.Second),
	}
}

func fxaGate(tb testing.TB) *Gate { return newGate(tb, fxaConfig(tb)) }

// sessionUntil returns a session cookie of the account that ends at that time.
func sessionUntil(tb testing.TB, uid string, end time.Time) string {
	tb.Helper()
	minter, err := token.NewMinter(token.MinterConfig{
		Key: []byte(secret), ClientID: "test", Issuer: "id", Audience: "web", Lifetime: time.Hour,
	})
	if err != nil {
		tb.Fatal(err)
	}
	minted, err := minter.Mint(uid, "", "", end.Add(-time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	return "session=" + minted
}

// sessionOf returns a session cookie of the account that is good for an hour.
func sessionOf(tb testing.TB, uid string) string {
	return sessionUntil(tb, uid, time.Now().Add(time.Hour))
}

// expiredSessionOf returns one that ended an hour ago.
func expiredSessionOf(tb testing.TB, uid string) string {
	return sessionUntil(tb, uid, time.Now().Add(-time.Hour))
}

func request(method, target, body string, header map[string]string) (*http.Request, *httptest.ResponseRecorder) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	return r, httptest.NewRecorder()
}

// upstream is an application that remembers what it got.
type upstream struct {
	requests atomic.Int64
	outcome  []string
	traced   []string
	body     string
	reply    NextFunc
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	u.requests.Add(1)
	u.outcome = append([]string(nil), r.Header[OutcomeHeader]...)
	u.traced = append([]string(nil), r.Header[TraceHeader]...)
	body, _ := io.ReadAll(r.Body)
	u.body = string(body)
	if u.reply != nil {
		return u.reply(w, r)
	}
	w.Header().Set("X-Upstream", "1")
	_, err := io.WriteString(w, "from the upstream")
	return err
}

// serve is ServeHTTP, and waits for what was handed on after its answer.
func serve(tb testing.TB, g *Gate, w http.ResponseWriter, r *http.Request, next Next) error {
	tb.Helper()
	defer wait(tb, g)
	return g.ServeHTTP(w, r, next)
}

func wait(tb testing.TB, g *Gate) {
	tb.Helper()
	if err := g.Wait(tb.Context()); err != nil {
		tb.Error(err)
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
	g := fxaGate(t)
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
			r.Header.Set(OutcomeHeader, "forged by the client")
			r.Header.Set(TraceHeader, "no trace that is open")
			if err := serve(t, g, w, r, app); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(app.outcome, ","); got != test.want {
				t.Errorf("the application reads %q, want %q", got, test.want)
			}
			if left := r.Header[OutcomeHeader]; left != nil {
				t.Errorf("the header is left behind: %q", left)
			}
			if app.traced != nil || r.Header[TraceHeader] != nil {
				t.Errorf("the application reads the nonce %q", app.traced)
			}
		})
	}
}

// TestClientCannotHideTheOutcome: a header that the client calls one of its
// connection's own is taken out by every proxy.
func TestClientCannotHideTheOutcome(t *testing.T) {
	t.Parallel()
	g := fxaGate(t)
	for sent, want := range map[string]string{
		"close, metrics-gate-DECISION": "",
		"keep-alive":                   "keep-alive",
	} {
		app := &upstream{reply: func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("X-Connection", r.Header.Get("Connection"))
			return nil
		}}
		r, w := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Connection": sent})
		if err := serve(t, g, w, r, app); err != nil {
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
	g := fxaGate(t)
	app := &upstream{reply: func(http.ResponseWriter, *http.Request) error { return io.EOF }}
	r, w := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": "metrics_optout=1"})
	if err := serve(t, g, w, r, app); err == nil {
		t.Fatal("the error is lost")
	}
	if got := r.Header.Get(OutcomeHeader); got != "block" {
		t.Errorf("handle_errors reads %q", got)
	}
}

// TestOutcomeOfGatesInARow: any block blocks, whichever gate it is of, and also
// for what an error page asks.
func TestOutcomeOfGatesInARow(t *testing.T) {
	t.Parallel()
	gateBy := func(cookie string, host Host) *Gate {
		return newGate(t, Config{
			Routes: []Route{{Methods: []string{"POST"}, Path: "/" + cookie}},
			Signal: Signal{Cookies: []string{cookie}},
			Host:   host,
		})
	}
	first := gateBy("first", Host{})
	second := gateBy("second", Host{Decided: func(*http.Request) bool { return true }})
	for cookies, want := range map[string]string{
		"":                  "collect",
		"first=1":           "block",
		"second=1":          "block",
		"first=1; second=1": "block",
		"first=1; second=0": "block",
		"first=0; second=1": "block",
	} {
		for _, failure := range []error{nil, io.EOF} {
			app := &upstream{reply: func(http.ResponseWriter, *http.Request) error { return failure }}
			r, w := request("GET", "/", "", map[string]string{"Sec-Fetch-Dest": "document", "Cookie": cookies, OutcomeHeader: "forged"})
			err := first.ServeHTTP(w, r, NextFunc(func(w http.ResponseWriter, r *http.Request) error { return second.ServeHTTP(w, r, app) }))
			if got := strings.Join(app.outcome, ","); got != want {
				t.Errorf("%s: the application reads %q, want %q", cookies, got, want)
			}
			left := ""
			if failure != nil {
				left = want
			}
			if got := r.Header.Get(OutcomeHeader); got != left || !errors.Is(err, failure) {
				t.Errorf("%s, %v: afterwards %q stands there, want %q, and the error is %v", cookies, failure, got, left, err)
			}
		}
	}
}

// TestUpstreamErrorsAreNotQuoted: an upstream that breaks HTTP is quoted in
// the error, and it may say what it was sent.
func TestUpstreamErrorsAreNotQuoted(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	config := fxaConfig(t)
	config.Log = zap.New(core)
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, failure := range []error{errors.New(`malformed header "` + allowedUID + `"`), refused} {
		app := &upstream{reply: func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("round trip: %w", failure)
		}}
		r, w := request("POST", "/metrics", `{"uid":"`+allowedUID+`"}`, nil)
		if err := serve(t, newGate(t, config), w, r, app); err != nil { // each says one line
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

// TestUpstreamFailureIsOneLine: an application that is down fails every request.
func TestUpstreamFailureIsOneLine(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t, Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon", Reply: ReplyHide}}, Log: zap.New(core)})
		send := func(count int, failure error) {
			app := NextFunc(func(http.ResponseWriter, *http.Request) error { return failure })
			for range count {
				r, w := request("POST", "/beacon", "{}", nil)
				if err := serve(t, g, w, r, app); err != nil {
					t.Fatal(err)
				}
			}
		}
		down := errors.New("down")
		send(1, nil)
		send(70, down)
		send(1, nil) // one that is taken is no end of it yet
		send(70, down)
		<-time.After(calm)
		send(3, nil)
		send(1, down)
	})
	var messages []string
	for _, line := range logs.FilterMessageSnippet("collected request").All() {
		messages = append(messages, line.Message)
	}
	const fails, ended = "the upstream failed on a collected request, which was answered all the same", "the upstream takes collected requests again"
	if want := []string{fails, ended, fails}; !slices.Equal(messages, want) {
		t.Errorf("logged %q, want %q", messages, want)
	}
}

// TestGoneClientLeavesNoTrace: Caddy logs the requests of handlers that fail,
// with their addresses.
func TestGoneClientLeavesNoTrace(t *testing.T) {
	t.Parallel()
	g := fxaGate(t)
	r, _ := request("POST", "/metrics", "", map[string]string{"Cookie": "metrics_optout=1"})
	if err := serve(t, g, goneClient{http.Header{}}, r, new(upstream)); err != nil {
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
	g := fxaGate(t)
	for name, reply := range map[string]func(http.ResponseWriter, *http.Request) error{
		"success": nil,
		"refusal": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Set-Cookie", "seen=1")
			w.WriteHeader(http.StatusBadRequest)
			return nil
		},
		"error":   func(http.ResponseWriter, *http.Request) error { return io.EOF },
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
					if err := serve(t, g, w, r, app); err != nil {
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
	g := fxaGate(t)
	app := new(upstream)
	body := "{ \"events\" : [ ],\n\t\"uid\":\"" + allowedUID + "\" }\n"
	r, w := request("POST", "/metrics", body, map[string]string{"Content-Type": "text/plain;charset=UTF-8"})
	if err := serve(t, g, w, r, app); err != nil {
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
	g := newGate(t, Config{
		Routes:   []Route{{Methods: []string{"POST"}, Path: "/beacon"}},
		Sessions: sessions(t, "metrics_optout"),
	})
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
		claims := jwt.MapClaims{"sub": "ann", "iss": "id", "aud": "web", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
		if test.claim != absent {
			claims["metrics_optout"] = test.claim
		}
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it comes out of the cache
			r, _ := request("POST", "/beacon", "", map[string]string{"Cookie": "session=" + signed})
			if got := g.engine.Gated(r, g.routes.match("POST", "/beacon"), nil).decision; got.Reason != test.reason {
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
		if r.URL.Path != "/"+optedOutUID {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"metrics_optout":true}`)
	}))
	t.Cleanup(server.Close)
	config := fxaConfig(t)
	config.Rules = &policy.Rules{OnUnknown: policy.Collect, OnUnset: policy.Collect}
	config.Profile = clientOf(t, server.URL, 2*time.Second) // so long that a busy machine answers in it
	g := newGate(t, config)
	decide := func(header map[string]string) policy.Decision {
		r, _ := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, header)
		return g.engine.Gated(r, g.routes.match("POST", "/metrics"), nil).decision
	}
	if got := decide(map[string]string{"Cookie": sessionOf(t, allowedUID)}); got.Reason != policy.ReasonUnknown {
		t.Errorf("behind a lookup that took all the time the name decides by %v", got.Reason)
	}
	if got := decide(nil); got.Reason != policy.ReasonPreference {
		t.Errorf("by itself the name decides by %v", got.Reason)
	}
	// Whoever names an account that takes all the time hides none by it.
	const never = "0000000000000000000000000000000a"
	r, _ := request("POST", "/metrics", `{"uid":"`+allowedUID+`","data":{"uid":"`+never+`"}}`, nil)
	if got := g.engine.Gated(r, g.routes.match("POST", "/metrics"), nil).decision; got.Action != policy.Block || got.Reason != policy.ReasonUnknown {
		t.Errorf("behind a name that took all the time another decides as %+v", got)
	}
}

func TestExperimentRoutes(t *testing.T) {
	t.Parallel()
	g := fxaGate(t)
	app := new(upstream)
	r, w := request("GET", "/experiments.bundle.js", "", map[string]string{"Cookie": sessionOf(t, optedOutUID)})
	if err := serve(t, g, w, r, app); err != nil {
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
	if err := serve(t, g, w, r, app); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != "able = 1" || w.Header().Get("Cache-Control") != "private, no-store" {
		t.Errorf("an allowed user gets %q %v", w.Body, w.Header())
	}
}

func TestReject(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{
		Routes: []Route{
			{Methods: []string{"POST"}, Path: "/beacon"},
			{Methods: []string{"GET"}, Path: "/flags", Class: ClassExperiment, Answer: &Answer{Status: 200, ContentType: "application/json", Body: "{}"}},
		},
		Reject: true,
	})
	for target, status := range map[string]int{"POST /beacon": 403, "GET /flags": 200} {
		method, path, _ := strings.Cut(target, " ")
		r, w := request(method, path, "", map[string]string{"Metrics-Optout": "1"})
		if err := serve(t, g, w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
		if w.Code != status || w.Header().Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: %d %v, want %d", target, w.Code, w.Header(), status)
		}
	}
}

// TestRejectTellsNoOtherSite: a refusal would tell another site's page that its
// visitor opted out here, where a collected request gets the route's answer.
func TestRejectTellsNoOtherSite(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon"}}, Reject: true})
	for site, want := range map[string]int{"same-origin": http.StatusForbidden, "cross-site": http.StatusNoContent, "same-site": http.StatusNoContent} {
		answers := map[string]string{}
		for _, optOut := range []string{"1", "0"} {
			r, w := request("POST", "/beacon", "", map[string]string{"Metrics-Optout": optOut, "Sec-Fetch-Site": site, "Origin": "https://example.org"})
			if site == "same-origin" {
				r.Header.Del("Origin")
			}
			if err := serve(t, g, w, r, NextFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil {
				t.Fatal(err)
			}
			answers[optOut] = fmt.Sprint(w.Code, w.Header(), w.Body)
			if optOut == "1" && w.Code != want {
				t.Errorf("%s: a blocked one is answered %d, want %d", site, w.Code, want)
			}
		}
		if site != "same-origin" && answers["1"] != answers["0"] {
			t.Errorf("%s: blocked %s, collected %s", site, answers["1"], answers["0"])
		}
	}
}

func TestNobodyIsRecognised(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		known, told int
	}{
		"nobody":                    {-1, 1},
		"somebody, before it tells": {plenty / 2, 0},
		"somebody, too late":        {2 * plenty, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := 0
			config := fxaConfig(t)
			config.Observer.Warn = func(w Warning) {
				if told++; w != (Warning{Trouble: NobodyRecognised, Requests: plenty}) {
					t.Errorf("told %+v", w)
				}
			}
			g := newGate(t, config)
			for i := range 3 * plenty {
				cookie := "sesion=misspelt"
				if i == test.known {
					cookie = sessionOf(t, allowedUID)
				}
				r, w := request("POST", "/metrics", "", map[string]string{"Cookie": cookie})
				if err := serve(t, g, w, r, new(upstream)); err != nil {
					t.Fatal(err)
				}
			}
			if told != test.told {
				t.Errorf("told %d times, want %d", told, test.told)
			}
		})
	}
}

// TestShadowChangesNothing: what would have been done is told to the observer
// and to nobody else.
func TestShadowChangesNothing(t *testing.T) {
	t.Parallel()
	var decided policy.Decision
	config := fxaConfig(t)
	config.Shadow = true
	config.Handshake = &Handshake{}
	config.WriteBack = true
	config.Observer.Decided = func(_ *http.Request, _ int, d policy.Decision, _ bool) { decided = d }
	config.Host.Conceal = func(*http.Request, string) { t.Error("shadow mode takes a line from the access log") }
	g := newGate(t, config)
	app := new(upstream)
	r, w := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, map[string]string{OutcomeHeader: "collect"})
	if err := serve(t, g, w, r, app); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != "from the upstream" || app.outcome != nil || w.Header()["Set-Cookie"] != nil {
		t.Errorf("shadow mode answers %q, %v and tells the application %q", w.Body, w.Header(), app.outcome)
	}
	if decided.Action != policy.Block || decided.Reason != policy.ReasonPreference {
		t.Errorf("the observer is told %+v", decided)
	}
}

// TestClassesOfHiddenReplies: what the application answered is counted by the
// class of its status, that of an error by what the host makes of it.
func TestClassesOfHiddenReplies(t *testing.T) {
	t.Parallel()
	var class string
	config := fxaConfig(t)
	config.Observer.Hidden = func(c string) { class = c }
	config.Host.StatusOf = func(err error) int {
		if errors.Is(err, io.EOF) {
			return http.StatusNotFound
		}
		return http.StatusBadGateway
	}
	g := newGate(t, config)
	status := func(status int) NextFunc {
		return func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(status)
			return nil
		}
	}
	for want, reply := range map[string]NextFunc{
		"2xx":     func(http.ResponseWriter, *http.Request) error { return nil },
		"3xx":     status(304),
		"4xx":     func(http.ResponseWriter, *http.Request) error { return io.EOF },
		"5xx":     func(http.ResponseWriter, *http.Request) error { return io.ErrClosedPipe },
		"aborted": func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
	} {
		r, w := request("POST", "/metrics", "", nil)
		if err := serve(t, g, w, r, &upstream{reply: reply}); err != nil || w.Code != 200 || class != want {
			t.Errorf("%s: counted as %s, answered %d, error %v", want, class, w.Code, err)
		}
	}
}

// TestCollectedRepliesAreKeptByNobody goes through the ways in which a handler
// can begin its reply.
func TestCollectedRepliesAreKeptByNobody(t *testing.T) {
	t.Parallel()
	config := fxaConfig(t)
	config.Routes = []Route{{Methods: []string{"GET"}, Path: "/flags", Class: ClassExperiment}}
	g := newGate(t, config)
	public := func(w http.ResponseWriter) { w.Header().Set("Cache-Control", "public, max-age=86400") }
	for name, reply := range map[string]NextFunc{
		"nothing": func(http.ResponseWriter, *http.Request) error { return nil },
		"status": func(w http.ResponseWriter, _ *http.Request) error {
			public(w)
			w.WriteHeader(http.StatusEarlyHints)
			public(w)
			w.WriteHeader(http.StatusNotModified)
			return nil
		},
		"body": func(w http.ResponseWriter, _ *http.Request) error {
			public(w)
			_, err := io.WriteString(w, "able = 1")
			return err
		},
		"copied": func(w http.ResponseWriter, _ *http.Request) error {
			public(w)
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("able = 1"))
			return err
		},
		"flushed": func(w http.ResponseWriter, _ *http.Request) error {
			public(w)
			return http.NewResponseController(w).Flush()
		},
	} {
		r, w := request("GET", "/flags", "", nil)
		if err := serve(t, g, w, r, &upstream{reply: reply}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		response := w.Result()
		if got := response.Header.Get("Cache-Control"); got != "private, no-store" {
			t.Errorf("%s: Cache-Control %q", name, got)
		}
		_ = response.Body.Close()
	}
	r, w := request("GET", "/flags", "", nil)
	err := serve(t, g, w, r, NextFunc(func(http.ResponseWriter, *http.Request) error { return io.EOF }))
	if got := w.Header().Get("Cache-Control"); !errors.Is(err, io.EOF) || got != "private, no-store" {
		t.Errorf("of what an error page answers: Cache-Control %q, error %v", got, err)
	}
}

// TestHandler is a gate in front of a plain http.Handler.
func TestHandler(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon"}}})
	server := httptest.NewServer(g.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "from the application")
	})))
	t.Cleanup(server.Close)
	for signal, want := range map[string]string{"": "from the application", "1": ""} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/beacon", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Metrics-Optout", signal)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || string(body) != want {
			t.Errorf("signal %q: %q, %v", signal, body, err)
		}
	}
}

func TestRefusedConfigurations(t *testing.T) {
	t.Parallel()
	beacon := []Route{{Methods: []string{"POST"}, Path: "/beacon"}}
	for want, config := range map[string]Config{
		"nothing is gated":                             {},
		"route /x: methods: none given":                {Routes: []Route{{Path: "/x"}}},
		"route x: path: ":                              {Routes: []Route{{Methods: []string{"GET"}, Path: "x"}}},
		"route /x: answer: status 500":                 {Routes: []Route{{Methods: []string{"GET"}, Path: "/x", Answer: &Answer{Status: 500}}}},
		"route /Beacon/: POST /Beacon/ is there twice": {Routes: append(beacon, Route{Methods: []string{"POST"}, Path: "/Beacon/"})},
		"signal: \"a b\" is not the name":              {Routes: beacon, Signal: Signal{Cookies: []string{"a b"}}},
		"handshake: timeout: is negative":              {Routes: beacon, Handshake: &Handshake{Timeout: -1}},
		"handshake: embedder: ":                        {Routes: beacon, Handshake: &Handshake{Embedders: []string{"*"}}},
		"feature_flags: no <meta> is named":            {Routes: beacon, FeatureFlags: []FeatureFlags{{}}},
		"feature_flags: a..b: a part of this key":      {Routes: beacon, FeatureFlags: []FeatureFlags{{Meta: "m", Flags: map[string]json.RawMessage{"a..b": json.RawMessage("1")}}}},
		"feature_flags: m: there is a block":           {Routes: beacon, FeatureFlags: []FeatureFlags{{Meta: "m", Flags: map[string]json.RawMessage{"a": json.RawMessage("1")}}, {Meta: "m", Flags: map[string]json.RawMessage{"b": json.RawMessage("1")}}}},
		"feature_flags: rate: its value is not ":       {Routes: beacon, FeatureFlags: []FeatureFlags{{Meta: "m", Flags: map[string]json.RawMessage{"rate": json.RawMessage("x")}}}},
	} {
		g, err := New(config)
		if err == nil || g != nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
