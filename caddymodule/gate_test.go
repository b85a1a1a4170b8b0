package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"maps"
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
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/gate"
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
	module, err := tryGate(tb, text)
	if err != nil {
		tb.Fatal(err)
	}
	return module
}

func tryGate(tb testing.TB, text string) (*Gate, error) {
	tb.Helper()
	module := new(Gate)
	if err := module.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		return nil, err
	}
	// As Caddy does: what fails on the way is cleaned up.
	err := module.Provision(adapttest.Context(tb))
	if err == nil {
		err = module.Validate()
	}
	if err != nil {
		return nil, errors.Join(err, module.Cleanup())
	}
	tb.Cleanup(func() {
		if err := module.Cleanup(); err != nil {
			tb.Error(err)
		}
	})
	return module, nil
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
	u.outcome = append([]string(nil), r.Header[gate.OutcomeHeader]...)
	body, _ := io.ReadAll(r.Body)
	u.body = string(body)
	if u.reply != nil {
		return u.reply(w, r)
	}
	w.Header().Set("X-Upstream", "1")
	_, err := io.WriteString(w, "from the upstream")
	return err
}

func readKey(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile("testdata/keys/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestShadowChangesNothing(t *testing.T) {
	t.Parallel()
	module := fxaGate(t, "shadow")
	before := testutil.ToFloat64(requestsTotal.WithLabelValues("/metrics", "metrics", "block", "preference", "shown", "shadow", "default"))
	app := new(upstream)
	r, w := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, map[string]string{gate.OutcomeHeader: "collect"})
	if err := module.ServeHTTP(w, r, app); err != nil {
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
	if after := testutil.ToFloat64(requestsTotal.WithLabelValues("/metrics", "metrics", "block", "preference", "shown", "shadow", "default")); after != before+1 {
		t.Errorf("the headline counter went from %v to %v", before, after)
	}
}

// TestRepliesAreCounted: every gated request counts once, by what its client got.
func TestRepliesAreCounted(t *testing.T) {
	t.Parallel()
	const fromElsewhere, optedOut = "Sec-Fetch-Site: cross-site", "Cookie: metrics_optout=1"
	for _, test := range []struct {
		mode, options string
		headers       []string
		decision      string
		reply, body   string
	}{
		{"enforce", "", nil, "collect", "shown", "from the upstream"},
		{"enforce", "", []string{fromElsewhere}, "collect", "hidden", ""},
		{"enforce", "", []string{optedOut}, "block", "blocked", ""},
		{"enforce", "", []string{optedOut, fromElsewhere}, "block", "blocked", ""},
		{"enforce", "reply hide", nil, "collect", "hidden", ""},
		{"enforce", "reply show", []string{fromElsewhere}, "collect", "shown", "from the upstream"},
		{"shadow", "", nil, "collect", "shown", "from the upstream"},
		{"shadow", "reply hide", nil, "collect", "shown", "from the upstream"},
		{"shadow", "", []string{optedOut, fromElsewhere}, "block", "shown", "from the upstream"},
	} {
		name := fmt.Sprintf("%s, %q, %q", test.mode, test.options, test.headers)
		module := newGate(t, "metrics_gate "+test.mode+" {\nlabel replies\nroute POST /replied\n"+test.options+"\n}")
		counted := func() map[string]float64 {
			all := map[string]float64{}
			for _, decision := range []string{"block", "collect"} {
				for _, reply := range []string{"shown", "hidden", "blocked"} {
					for _, reason := range []string{"default", "signal"} {
						all[decision+" "+reply] += testutil.ToFloat64(requestsTotal.WithLabelValues("/replied", "metrics", decision, reason, reply, test.mode, "replies"))
					}
				}
			}
			return all
		}
		want := counted()
		want[test.decision+" "+test.reply]++
		r, w := request("POST", "/replied", "", headerOf(test.headers))
		if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
		if got := counted(); !maps.Equal(got, want) {
			t.Errorf("%s: counted %v, want %v", name, got, want)
		}
		if got := w.Body.String(); got != test.body {
			t.Errorf("%s: the client got %q", name, got)
		}
	}
}

func TestPlaceholdersMatcherAndLog(t *testing.T) {
	t.Parallel()
	module := fxaGate(t, "")
	for _, test := range []struct {
		cookie, decision, reason string
	}{
		{"metrics_optout=1", "block", "signal"},
		{"metrics_optout=0", "collect", "default"},
	} {
		r, w := request("POST", "/metrics", "", map[string]string{"Cookie": test.cookie})
		if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
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
	module := fxaGate(t, "")
	core, logs := observer.New(zap.WarnLevel)
	module.logger = zap.New(core)
	for range 3000 {
		r, w := request("POST", "/metrics", "", map[string]string{"Cookie": "sesion=misspelt"})
		if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
	}
	if got := logs.Len(); got != 1 {
		t.Fatalf("%d warnings", got)
	}
	if text := fmt.Sprint(logs.All()[0].ContextMap()); !strings.Contains(text, "cookie session") || !strings.Contains(text, "body uid") {
		t.Errorf("the warning does not say what was looked for: %s", text)
	}
}
