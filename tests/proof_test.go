package tests

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An authServer stands in for FxA's auth server since May 2026.
type authServer struct {
	*httptest.Server
	mu       sync.Mutex
	sessions map[string]string // uid, by what stands in Authorization
	asked    atomic.Int64
	instead  atomic.Pointer[http.HandlerFunc] // of an answer that makes sense
}

const publicAuth = "https://auth.example.org/v1"

func newAuthServer(t testing.TB) *authServer {
	a := &authServer{sessions: map[string]string{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	if instead := a.instead.Load(); instead != nil {
		(*instead)(w, r)
		return
	}
	a.mu.Lock()
	uid, known := a.sessions[r.Header.Get("Authorization")]
	a.mu.Unlock()
	switch {
	case r.Method+" "+r.Host+r.URL.Path != "GET auth.example.org/v1/session/status":
		http.NotFound(w, r)
	case !known:
		reply(w, http.StatusUnauthorized, "application/json", `{"code":401,"errno":110,"error":"Unauthorized"}`)
	default:
		reply(w, http.StatusOK, "application/json", `{"state":"verified","uid":"`+uid+`","details":{"accountEmailVerified":true}}`)
	}
}

// signIn makes a session of the account, and returns what its page hands over.
func (a *authServer) signIn(t testing.TB, uid string) (authorization string) {
	token := testcaddy.Must(hex.DecodeString(testcaddy.NewUID(t) + testcaddy.NewUID(t)))
	derived := testcaddy.Must(hkdf.Key(sha256.New, token, nil, "identity.mozilla.com/picl/v1/sessionToken", 32))
	authorization = "Bearer fxs_" + hex.EncodeToString(derived)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions[authorization] = uid
	return authorization
}

func (a *authServer) revoke(authorization string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, authorization)
}

func (a *authServer) answers(instead http.HandlerFunc) {
	if instead == nil {
		a.instead.Store(nil)
		return
	}
	a.instead.Store(&instead)
}

// block is the session block that asks it.
func (a *authServer) block(options ...string) string {
	return "session fxa " + publicAuth + " {\ndial " + a.URL + "/v1\n" + strings.Join(options, "\n") + "\n}"
}

// A person has a browser, with a page of one origin: it keeps cookies and says
// where its requests come from.
type person struct {
	t       testing.TB
	behind  *contentServer
	addr    string
	cookies map[string]string
}

func newBrowser(t testing.TB, behind *contentServer, addr string) *person {
	return &person{t: t, behind: behind, addr: addr, cookies: map[string]string{}}
}

func (v *person) send(request, body string, headers ...string) answer {
	v.t.Helper()
	headers = append(headers, "Sec-Fetch-Site: same-origin")
	for name, value := range v.cookies {
		headers = append(headers, "Cookie: "+name+"="+value)
	}
	a := send(v.t, v.behind, v.addr, request, body, headers...)
	for _, cookie := range (&http.Response{Header: a.header}).Cookies() {
		if cookie.MaxAge < 0 {
			delete(v.cookies, cookie.Name)
		} else {
			v.cookies[cookie.Name] = cookie.Value
		}
	}
	return a
}

// report is what the script sends and hears: a body, and a status.
func (v *person) report(body string) int {
	v.t.Helper()
	a := v.send("POST /.well-known/metrics-gate/signal", body, "Content-Type: application/json")
	if a.collected() {
		v.t.Error("a report reached the application")
	}
	return a.status
}

func (v *person) proves(authorization string) int {
	v.t.Helper()
	return v.report(fmt.Sprintf(`{"answered":false,"proof":%q}`, authorization))
}

// leaves is which of all that a signed-in page sends reaches the application,
// though nothing of it names anybody.
func (v *person) leaves() string {
	v.t.Helper()
	var arrived []string
	for _, request := range []struct{ line, body string }{
		{"POST /metrics", fixture(v.t, "signed_in_settings")},
		{"POST /metrics-errors", fixture(v.t, "error_report")},
		{"GET /metrics-errors", ""},
		{"GET /experiments.bundle.js", ""},
		{"POST /nimbus-experiments", "{}"},
		{"POST /navigation-timing", `{"navigationStart":1}`},
	} {
		if v.send(request.line, request.body).collected() {
			arrived = append(arrived, request.line)
		}
	}
	return strings.Join(arrived, ", ")
}

const everything = "POST /metrics, POST /metrics-errors, GET /metrics-errors, GET /experiments.bundle.js, POST /nimbus-experiments, POST /navigation-timing"

// The page of somebody who opted out in their account proves it, and nothing that
// it sends arrives: from its first beacon on, at every edge, after a restart, and
// after sign-out.
func TestPagesProve(t *testing.T) {
	t.Parallel()
	behind, profile, auth := newContentServer(t), newProfile(t), newAuthServer(t)
	addr, second, other, shadowed := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	gate := func(mode string, options ...string) string {
		return "metrics_gate " + mode + " {\npreset fxa\n" + auth.block("timeout 20s") + "\n" + profile.block(patient, "max_age 10m") + "\nhandshake\n" +
			strings.Join(options, "\n") + "\n}"
	}
	sites := []string{
		testcaddy.Site(addr, gate("enforce"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(shadowed, gate("shadow"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(other, gate("enforce", "session_key "+testcaddy.FromFile("second.secret")), testcaddy.ProxyTo(behind.addr())),
	}
	caddy := testcaddy.Start(t, sites...)
	testcaddy.Start(t, testcaddy.Site(second, gate("enforce"), testcaddy.ProxyTo(behind.addr())))

	out, in, silent := profile.account(optOut), profile.account(allow), profile.account(unset)
	v := newBrowser(t, behind, addr)
	if got := v.leaves(); got != "" {
		t.Errorf("before the page has said anything: %s", got)
	}
	page := v.send("GET /settings", "", "Sec-Fetch-Dest: document").body
	if !strings.Contains(page, `data-proof="{&#34;fxa&#34;:true}"`) || !strings.Contains(page, "data-report") {
		t.Errorf("the page is %s", page)
	}
	proof := auth.signIn(t, out)
	if status := v.proves(proof); status != http.StatusNoContent {
		t.Fatalf("the proof is answered with %d", status)
	}
	if got := v.leaves(); got != "" {
		t.Errorf("opted out: %s", got)
	}
	own := v.cookies["__Host-metrics_gate"]
	elsewhere := func(addr, cookie string) string {
		w := newBrowser(t, behind, addr)
		w.cookies["__Host-metrics_gate"] = cookie
		return w.send("GET /.well-known/metrics-gate/status", "").body
	}
	const proven, unknown = `{"metrics_optout":true,"source":"preference"}`, `{"metrics_optout":null,"source":"unknown"}`
	for _, c := range []struct{ name, addr, cookie, want string }{
		{"this edge", addr, own, proven},
		{"another one", second, own, proven},
		{"one with another key", other, own, unknown},
		{"changed", addr, own[:20] + strings.Map(func(c rune) rune { return c ^ 1 }, own[20:21]) + own[21:], unknown},
		{"cut off", addr, own[:len(own)-4], unknown},
		{"made up", addr, strings.Repeat("A", len(own)), unknown},
	} {
		if got := strings.TrimSpace(elsewhere(c.addr, c.cookie)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if n := caddy.Metric("cache_entries", "cache", "own_sessions"); n < 1 {
		t.Errorf("%v own sessions are counted as remembered", n)
	}
	caddy.Stop()
	testcaddy.Start(t, sites...)
	if got := strings.TrimSpace(elsewhere(addr, own)); got != proven {
		t.Errorf("after a restart: %s", got)
	}

	// Signed out, the browser stays blocked; with all of its cookies cleared, it is
	// somebody of whom nothing is known yet.
	if v.report(`{"answered":false,"proof":null}`); v.leaves() != "" || v.cookies["metrics_optout"] != "account" {
		t.Errorf("signed out, with the cookies %v: %s", v.cookies, v.leaves())
	}
	clear(v.cookies)
	if got := v.leaves(); got != "" {
		t.Errorf("without cookies: %s", got)
	}
	if v.report(`{"answered":false,"proof":null}`); v.leaves() != everything {
		t.Errorf("nobody: %s", v.leaves())
	}

	// Two accounts one after the other, a browser that opted out, and one account
	// that takes its choice.
	if v.proves(auth.signIn(t, in)); v.leaves() != everything {
		t.Errorf("allowed: %s", v.leaves())
	}
	if v.report(`{"metrics_optout":true}`); v.leaves() != everything {
		t.Errorf("allowed, in a browser that opted out: %s", v.leaves())
	}
	if v.report(fmt.Sprintf(`{"metrics_optout":true,"proof":%q}`, auth.signIn(t, silent))); v.leaves() != "" {
		t.Errorf("no choice, in a browser that opted out: %s", v.leaves())
	}
	profile.awaitAsked(silent, http.MethodPost, 1)
	w := newBrowser(t, behind, second)
	if w.proves(auth.signIn(t, silent)); w.leaves() != "" {
		t.Errorf("written back, in another browser at another edge: %s", w.leaves())
	}

	// Shadow sees whom it would have blocked, and changes nothing else.
	s := newBrowser(t, behind, shadowed)
	if s.proves(auth.signIn(t, out)); s.leaves() != everything || s.cookies["metrics_optout"] != "" || s.cookies["__Host-metrics_gate"] == "" {
		t.Errorf("shadow, with the cookies %v: %s", s.cookies, s.leaves())
	}
}

// What the auth server says of a proof, and what it does not.
func TestAuthServersThatFail(t *testing.T) {
	t.Parallel()
	behind, profile, auth := newContentServer(t), newProfile(t), newAuthServer(t)
	addr := testcaddy.FreeAddr(t)
	site := func(timeout string) string {
		return testcaddy.Site(addr, testcaddy.Gate("preset fxa", auth.block("timeout "+timeout), profile.block(patient, "max_age 10m"), "handshake"), testcaddy.ProxyTo(behind.addr()))
	}
	caddy := testcaddy.Start(t, site("20s"))
	in := profile.account(allow)
	v, proof := newBrowser(t, behind, addr), auth.signIn(t, in)
	if status := v.proves(proof); status != http.StatusNoContent || v.leaves() != everything {
		t.Fatalf("answered with %d; left %s", status, v.leaves())
	}
	for name, instead := range map[string]http.HandlerFunc{
		"503":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"429":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"a page":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"nobody's":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"state":"verified"}`) },
		"a redirect":    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"breaks off":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"another's uid": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"uid":7}`) },
	} {
		auth.answers(instead)
		fresh := newBrowser(t, behind, addr)
		for _, who := range []*person{v, fresh} {
			if status := who.proves(auth.signIn(t, in)); status != http.StatusOK {
				t.Errorf("%s: answered with %d", name, status)
			}
		}
		if got := v.leaves(); got != everything {
			t.Errorf("%s ends a session that was proven: %s", name, got)
		}
		if got := fresh.leaves(); got != "" {
			t.Errorf("%s proves something: %s", name, got)
		}
	}
	auth.answers(nil)
	auth.revoke(proof)
	testcaddy.Until(t, "the auth server's last word to be forgotten", func() bool { return v.proves(proof) == http.StatusOK && v.cookies["__Host-metrics_gate"] == "" })
	if got := v.leaves(); got != "" {
		t.Errorf("a revoked session: %s", got)
	}

	// One that hangs is not waited for, and nothing but the report waits for it.
	if err := caddy.Reload(site("100ms")); err != nil {
		t.Fatal(err)
	}
	auth.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if status := v.proves(auth.signIn(t, in)); status != http.StatusOK {
		t.Errorf("one that hangs: answered with %d", status)
	}
	for outcome, least := range map[string]float64{"verified": 1, "keys_unavailable": 14, "bad_signature": 1} {
		if n := caddy.Metric("sessions_total", "kind", "fxa", "outcome", outcome); n < least {
			t.Errorf("%v proofs are counted as %s, want %v", n, outcome, least)
		}
	}
}

// An application that keeps its token in the browser's storage sends beacons
// without it, and is asked about each proof by the means of its own block.
func TestTokensInStorage(t *testing.T) {
	t.Parallel()
	behind, profile, oauth := newContentServer(t), newProfile(t), newOAuthServer(t)
	jwt, opaque := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	testcaddy.Start(t,
		testcaddy.Site(jwt, testcaddy.Gate("preset fxa", "session jwt {\ncookie session\nsecret "+testcaddy.FromFile("session.secret")+
			"\nissuer "+testcaddy.SessionIssuer+"\naudience web\nlocal_storage oidc.user access_token\n}", profile.block(patient), "handshake"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(opaque, testcaddy.Gate("preset fxa", "session introspect "+oauth.URL+"/v1/verify {\nclient "+testcaddy.TrustedRelier+
			"\ntimeout 20s\nsession_storage token\n}", profile.block(patient), "handshake"), testcaddy.ProxyTo(behind.addr())),
	)
	out, in := profile.account(optOut), profile.account(allow)
	tokens := map[string]func(string) string{
		jwt:    func(uid string) string { return testcaddy.Session(uid) },
		opaque: func(uid string) string { return oauth.issue(t, uid, testcaddy.TrustedRelier, "profile") },
	}
	places := map[string]string{
		jwt:    `data-proof="{&#34;local_storage&#34;:&#34;oidc.user&#34;,&#34;path&#34;:&#34;access_token&#34;}"`,
		opaque: `data-proof="{&#34;session_storage&#34;:&#34;token&#34;}"`,
	}
	for addr, token := range tokens {
		v := newBrowser(t, behind, addr)
		if page := v.send("GET /settings", "", "Sec-Fetch-Dest: document").body; !strings.Contains(page, places[addr]) {
			t.Errorf("the page is %s", page)
		}
		if v.proves("Bearer " + token(out)); v.leaves() != "" {
			t.Errorf("opted out: %s", v.leaves())
		}
		w := newBrowser(t, behind, addr)
		if w.proves("Bearer " + token(in)); w.leaves() != everything {
			t.Errorf("allowed: %s", w.leaves())
		}
		if w.proves("Bearer " + token(in) + "x"); w.leaves() != "" || w.cookies["__Host-metrics_gate"] != "" {
			t.Errorf("forged: %s", w.leaves())
		}
		if w.proves(token(in)); w.leaves() != "" {
			t.Errorf("without its scheme: %s", w.leaves())
		}
	}
	old := newBrowser(t, behind, jwt)
	if old.proves("Bearer " + testcaddy.Session(in, testcaddy.Expired)); old.leaves() != "" {
		t.Errorf("expired: %s", old.leaves())
	}
}

// Neither a credential, nor what was derived from it, nor the account is in
// anything that is written down or shown.
func TestProofsAreNotKept(t *testing.T) {
	t.Parallel()
	behind, profile, auth := newContentServer(t), newProfile(t), newAuthServer(t)
	addr := testcaddy.FreeAddr(t)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	caddy := testcaddy.StartWith(t, "debug", testcaddy.Site(addr, "log {\noutput file "+accessLog+"\n}",
		testcaddy.Gate("preset fxa", auth.block("timeout 20s"), "session_key "+testcaddy.FromFile("second.secret"), profile.block(patient), "handshake"), testcaddy.ProxyTo(behind.addr())))
	out := profile.account(optOut)
	v, proof := newBrowser(t, behind, addr), auth.signIn(t, out)
	_, id, _ := strings.Cut(proof, "fxs_")
	v.proves(proof)
	own := v.cookies["__Host-metrics_gate"]
	if own == "" || strings.Contains(own, out) {
		t.Fatalf("the cookie is %q", own)
	}
	v.leaves()
	v.send("GET /settings", "", "Sec-Fetch-Dest: document")
	auth.answers(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusInternalServerError, "text/plain", "the session "+id+" of "+out+" broke")
	})
	v.proves(auth.signIn(t, out))
	v.proves(proof + "\x00")
	auth.answers(nil)
	metrics, config := caddy.AdminGet("/metrics"), caddy.AdminGet("/config/")
	caddy.Stop()
	written, err := os.ReadFile(accessLog)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"the access log": string(written), "Caddy's log": caddy.Logged(), "the metrics": metrics, "the configuration": config}
	for _, request := range behind.log.All() {
		places["the application"] += fmt.Sprint(request.header.Clone(), string(request.body), request.uri) + "\n"
	}
	for where, text := range places {
		for name, needle := range map[string]string{"account": out, "derived id": id, "key": testcaddy.SecondSecret} {
			if strings.Contains(text, needle) {
				t.Errorf("the %s is in %s", name, where)
			}
		}
		if where != "the application" && strings.Contains(text, own) {
			t.Errorf("the own session is in %s", where)
		}
	}
}
