package browser_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A site is the whole of it: Caddy with the gate and the profile server in one
// Caddyfile, and the application's stand-in behind the gate.
type site struct {
	t       testing.TB
	origin  string // as the browsers call it
	addr    string
	app     *application
	caddy   *testcaddy.Server
	profile *tap
}

// newSite starts one. The options are further ones of the gate; the handshake
// has a timeout that no loaded machine exceeds where a browser does answer.
func newSite(t testing.TB, options ...string) *site {
	t.Helper()
	return newSiteWith(t, newApplication(t), options...)
}

func newSiteWith(t testing.TB, app *application, options ...string) *site {
	t.Helper()
	s := &site{t: t, addr: testcaddy.FreeAddr(t), app: app, profile: newTap(t)}
	s.origin = "http://" + strings.Replace(s.addr, "127.0.0.1", "localhost", 1)
	s.caddy = testcaddy.Start(t, testcaddy.Site(s.addr, s.gate(options...), testcaddy.ProxyTo(app.Listener.Addr().String())), s.profile.site(t))
	return s
}

// handshake is the block of most tests.
func handshake(options ...string) string {
	return "handshake {\n" + strings.Join(options, "\n") + "\n}"
}

// patient keeps a slow machine from making a browser's answer none.
const patient = "timeout 20s"

func (s *site) gate(options ...string) string {
	return testcaddy.Gate(append([]string{"preset fxa", testcaddy.SessionJWT(), s.profile.block()}, options...)...)
}

// signIn signs an account in, in a browser.
func (s *site) signIn(browser driver, uid string) {
	s.t.Helper()
	browser.navigate(s.origin + "/signin?token=" + testcaddy.Session(uid))
	browser.wait("to be signed in", `window.ready === true`)
}

// reported waits until the page that a browser shows has reported the outcome.
func (s *site) reported(browser driver) {
	s.t.Helper()
	browser.wait("the outcome to be reported",
		`performance.getEntriesByName(location.origin + "/.well-known/metrics-gate/signal").some((entry) => entry.responseEnd > 0)`)
}

// decided is how many metrics requests had the decision, and with a reason.
func (s *site) decided(decision, reason string) int {
	s.t.Helper()
	labels := []string{"class", "metrics", "decision", decision}
	if reason != "" {
		labels = append(labels, "reason", reason)
	}
	return int(s.caddy.Metric("requests_total", labels...))
}

// beacon has the page send one, and waits until the gate has decided it.
func (s *site) beacon(browser driver) (body string) {
	s.t.Helper()
	before := s.decided("block", "") + s.decided("collect", "")
	browser.eval(&body, `(log("pressed"), flush(), sent.at(-1))`)
	testcaddy.Until(s.t, "the gate to decide the beacon", func() bool { return s.decided("block", "")+s.decided("collect", "") > before })
	return body
}

// blocks holds that a beacon is blocked, for the reason.
func (s *site) blocks(browser driver, reason string) {
	s.t.Helper()
	blocked, passed := s.decided("block", reason), len(s.app.beacons.All())
	s.beacon(browser)
	if s.decided("block", reason) != blocked+1 {
		s.t.Errorf("a beacon was not blocked with reason %s: %s", reason, s.decisions())
	}
	if all := s.app.bodies(); len(all) != passed {
		s.t.Errorf("the application got %q", all[passed:])
	}
}

// collects holds that a beacon goes through byte for byte.
func (s *site) collects(browser driver, reason string) {
	s.t.Helper()
	collected, passed := s.decided("collect", reason), len(s.app.beacons.All())
	body := s.beacon(browser)
	if s.decided("collect", reason) != collected+1 {
		s.t.Errorf("a beacon was not collected with reason %s: %s", reason, s.decisions())
		return
	}
	got := s.app.beacons.Wait(s.t, "the application to have the beacon", func(all []beacon) bool { return len(all) > passed })[passed]
	if got.body != body || got.kind != "text/plain;charset=UTF-8" || got.decision != "collect" {
		s.t.Errorf("the application got %q, %s, %s; sent was %q", got.body, got.kind, got.decision, body)
	}
}

// decisions is what was counted, for a test's complaint.
func (s *site) decisions() string {
	var lines []string
	for _, sample := range s.caddy.Samples() {
		if sample.Value > 0 && (strings.HasSuffix(sample.Name, "requests_total") || strings.HasSuffix(sample.Name, "signals_total")) {
			lines = append(lines, strings.TrimPrefix(sample.Name, "caddy_metrics_gate_")+asJSON(sample.Labels))
		}
	}
	return strings.Join(lines, "\n")
}

// A tap is what the gate talks to in place of the profile server. It passes
// everything on to the real one, and keeps what was asked for.
type tap struct {
	*httptest.Server
	addr  string // of the real one
	asked testcaddy.Ledger[string]
	fault atomic.Pointer[http.HandlerFunc] // while set, answers in place of the profile server
}

func newTap(t testing.TB) *tap {
	p := &tap{addr: testcaddy.FreeAddr(t)}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.addr})
	transport := &http.Transport{}
	pass.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := p.fault.Load(); fault != nil {
			p.asked.Add(r.Method + " and failed")
			(*fault)(w, r)
			return
		}
		kept := &keptStatus{ResponseWriter: w, status: http.StatusOK}
		pass.ServeHTTP(kept, r)
		p.asked.Add(r.Method + " " + http.StatusText(kept.status))
	}))
	t.Cleanup(p.Close)
	return p
}

type keptStatus struct {
	http.ResponseWriter
	status int
}

// Unwrap lets the feed of changes through as it comes.
func (k *keptStatus) Unwrap() http.ResponseWriter { return k.ResponseWriter }

func (k *keptStatus) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

// site is the real profile server's.
func (p *tap) site(t testing.TB) string {
	return testcaddy.Site(p.addr, `profile_server {
		store sqlite `+filepath.Join(t.TempDir(), "profile.db")+`
		tokens jwt {
			key `+testcaddy.FromFile("ec.pub")+`
			audience `+testcaddy.ProfileAudience+`
		}
		trusted_client metrics-gate `+testcaddy.TrustedRelier+`
		standalone
	}`)
}

// block is the gate's.
func (p *tap) block() string {
	return "profile " + p.URL + "/v1 {\nauth mint {\nkey " + testcaddy.FromFile("ec.key") + "\naudience " + testcaddy.ProfileAudience + "\n}\ntimeout 20s\nmax_age 1h\n}"
}

// fail has the profile server fail, until it is given nil.
func (p *tap) fail(fault http.HandlerFunc) {
	if fault == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&fault)
}

// writes is how many requests to write there were, whatever became of them.
func (p *tap) writes() int {
	return len(p.asked.Where(func(line string) bool { return strings.HasPrefix(line, http.MethodPost) }))
}

// choose is the user choosing, somewhere else.
func (p *tap) choose(t testing.TB, uid, choice string) {
	t.Helper()
	token := testcaddy.RelierToken(p.addr, uid, "profile:metrics_optout:write", testcaddy.TrustedRelier)
	if status, _, body := testcaddy.Ask(t, p.addr, http.MethodPost, token, `{"metrics_optout":`+choice+`}`); status != http.StatusOK {
		t.Fatalf("choosing %s: %d %s", choice, status, body)
	}
}

// holds is what the store holds of an account.
func (p *tap) holds(t testing.TB, uid string) string {
	t.Helper()
	token := testcaddy.RelierToken(p.addr, uid, "profile:metrics_optout", testcaddy.TrustedRelier)
	status, _, body := testcaddy.Ask(t, p.addr, http.MethodGet, token, "")
	if status != http.StatusOK {
		t.Fatalf("reading: %d %s", status, body)
	}
	return strings.TrimSuffix(strings.TrimPrefix(body, `{"metrics_optout":`), "}")
}
