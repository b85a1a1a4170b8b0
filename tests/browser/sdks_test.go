package browser_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/sdks"
)

// A request is one that a page sent, or that the collector got.
type request struct {
	host, method, path string
	text               string // all that it says, decoded
	cookie             bool   // it carries the session
	status             int    // what it got
}

// A measured is a site with all SDKs on it, each at a host of its own for each
// way that it is tried in, such as posthog-blocked.localhost: so no two share
// cookies, and all run side by side.
type measured struct {
	t         testing.TB
	port      string
	caddy     *testcaddy.Server
	profile   *tap
	gates     map[string]string // by the way, where it differs
	bundles   string
	collector *httptest.Server
	sent      testcaddy.Ledger[request]
	arrived   testcaddy.Ledger[request]
}

func newMeasured(t testing.TB) *measured {
	t.Helper()
	m := &measured{t: t, profile: newTap(t), bundles: sdks.Bundle(t)}
	m.collector = httptest.NewServer(http.HandlerFunc(m.collect))
	t.Cleanup(m.collector.Close)
	var presets []string
	for _, sdk := range sdks.All {
		presets = append(presets, sdk.Gate)
	}
	m.gates = map[string]string{"": testcaddy.FreeAddr(t)}
	proxy := testcaddy.ProxyTo(m.collector.Listener.Addr().String())
	options := append(presets, testcaddy.SessionJWT(), m.profile.block())
	m.caddy = testcaddy.Start(t, testcaddy.Site(m.gates[""], testcaddy.Gate(options...), proxy), m.profile.site(t))

	front := httptest.NewUnstartedServer(m.front())
	front.EnableHTTP2 = true
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // browsers give up connections that they open in advance
	front.StartTLS()
	t.Cleanup(front.Close)
	_, m.port, _ = net.SplitHostPort(front.Listener.Addr().String())
	return m
}

// front is what the browsers speak to. It keeps what they send, and hands it on
// to the gate.
func (m *measured) front() http.Handler {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	m.t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: m.gate(r.In.Host)})
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if dest := r.Header.Get("Sec-Fetch-Dest"); dest == "document" || dest == "script" || r.URL.Path == "/favicon.ico" {
			proxy.ServeHTTP(w, r)
			return
		}
		seen, kept := read(r), &keptStatus{ResponseWriter: w, status: http.StatusOK}
		proxy.ServeHTTP(kept, r)
		seen.status = kept.status
		m.sent.Add(seen)
	})
}

func (m *measured) gate(host string) string {
	name, _, _ := strings.Cut(host, ".")
	_, way, _ := strings.Cut(name, "-")
	if way == "ungated" {
		return m.collector.Listener.Addr().String()
	}
	if gate, ok := m.gates[way]; ok {
		return gate
	}
	return m.gates[""]
}

// read reads a request, and leaves its body as it was.
func read(r *http.Request) request {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if zipped, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		body, _ = io.ReadAll(zipped)
	}
	text := string(body)
	if form, err := url.ParseQuery(text); err == nil {
		text += fmt.Sprint(form)
		if data, err := base64.StdEncoding.DecodeString(form.Get("data")); err == nil {
			text += string(data)
		}
	}
	_, err := r.Cookie(testcaddy.SessionCookie)
	return request{host: r.Host, method: r.Method, path: r.URL.Path, text: r.URL.RawQuery + " " + text, cookie: err == nil}
}

// collect is the application: it serves the pages, and answers what is sent to
// an SDK's host as the vendor's own servers do.
func (m *measured) collect(w http.ResponseWriter, r *http.Request) {
	if to, ok := strings.CutPrefix(r.URL.Path, "/signin"); ok {
		http.SetCookie(w, &http.Cookie{Name: testcaddy.SessionCookie, Value: r.URL.Query().Get("token"), Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/page/"); ok {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!DOCTYPE html><html data-prefix=%q><title>%s</title><link rel="icon" href="data:,"><body><h1>%[2]s</h1><script src="/bundles/%[2]s.js"></script>`,
			prefixOf(name), name)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/bundles/"); ok {
		script, err := os.ReadFile(filepath.Join(m.bundles, filepath.Base(name)))
		if err != nil {
			m.t.Error(err)
		}
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = w.Write(script)
		return
	}
	m.arrived.Add(read(r))
	for _, answer := range vendors {
		if testcaddy.Must(regexp.MatchString(answer.request, r.Method+" "+r.URL.Path)) {
			if answer.kind != "" {
				w.Header().Set("Content-Type", answer.kind)
			}
			w.WriteHeader(answer.status)
			_, _ = io.WriteString(w, answer.body)
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

func prefixOf(name string) string {
	return sdks.All[slices.IndexFunc(sdks.All, func(sdk sdks.SDK) bool { return sdk.Name == name })].Prefix
}

// A visit is an SDK tried in one way in one browser.
type visit struct {
	*measured
	sdks.SDK
	t       testing.TB
	way     string
	host    string
	browser driver
	uid     string // who is signed in, if anybody
}

// visit opens the page of an SDK, with a session whose account holds a
// preference, or without one, and waits until the SDK has started.
func (m *measured) visit(t testing.TB, browser driver, sdk sdks.SDK, way, preference string) *visit {
	t.Helper()
	v := &visit{measured: m, SDK: sdk, t: t, way: way, host: sdk.Name + "-" + way + ".localhost:" + m.port, browser: browser}
	page := "/page/" + sdk.Name
	if preference != "" {
		v.uid = testcaddy.NewUID(t)
		m.profile.choose(t, v.uid, preference)
		page = "/signin" + page + "?token=" + testcaddy.Session(v.uid)
	}
	browser.navigate("https://" + v.host + page)
	browser.eval(nil, "started")
	return v
}

// pass lets so much of the page's time pass.
func (v *visit) pass(time time.Duration) {
	v.t.Helper()
	v.browser.eval(nil, fmt.Sprintf("pass(%d)", time.Milliseconds()))
}

// track has the SDK track an event, and gives it time to send it.
func (v *visit) track(event string) {
	v.t.Helper()
	v.browser.eval(nil, fmt.Sprintf("void sdk.track(%q)", event))
	v.pass(10 * time.Second)
}

// come is what the page has sent so far, once all of it was answered, and what
// of it arrived.
func (v *visit) come() (sent, arrived []request) {
	v.t.Helper()
	var state struct{ Sent int }
	v.browser.eval(&state, "state()")
	here := func(r request) bool { return r.host == v.host }
	v.sent.Wait(v.t, fmt.Sprintf("%d requests of %s", state.Sent, v.host), func([]request) bool { return len(v.sent.Where(here)) >= state.Sent })
	testcaddy.Settle(v.gate(v.host), time.Now())
	return v.sent.Where(here), v.arrived.Where(here)
}

// The events that a page tracks.
const first, second = "event1x", "event2x"

// end lets a minute pass, in which an SDK would send again what it takes for
// lost, and returns what came of the two events.
func (v *visit) end() sdks.Row {
	v.t.Helper()
	v.pass(time.Minute)
	sent, arrived := v.come()
	row := sdks.Row{SDK: v.Name, Way: v.way, Requests: len(sent)}
	for _, event := range []string{first, second} {
		row.Sent = append(row.Sent, holding(sent, event))
		row.Arrived = append(row.Arrived, holding(arrived, event))
	}
	var state struct{ Complaints []string }
	v.browser.eval(&state, "state()")
	said := slices.DeleteFunc(v.browser.console("https://"+v.host), func(line string) bool { return chatter.MatchString(line) })
	if complaints := append(state.Complaints, said...); len(complaints) > 0 {
		v.t.Errorf("%s: the console has %q", v.host, complaints)
	}
	return row
}

// chatter is what a page says that is no complaint.
var chatter = regexp.MustCompile(`^console\.(log|info|debug)\b`)

// holding is how many requests hold an event.
func holding(requests []request, event string) (n int) {
	for _, r := range requests {
		if strings.Contains(r.text, event) {
			n++
		}
	}
	return n
}

// private holds that nothing of who opted out has arrived but what stays.
func (v *visit) private() {
	v.t.Helper()
	stays := regexp.MustCompile(v.Stays)
	_, arrived := v.come()
	for _, r := range arrived {
		if v.Stays == "" || !stays.MatchString(r.method+" "+r.path) {
			v.t.Errorf("%s: %s %s arrived: %.200q", v.host, r.method, r.path, r.text)
		}
	}
}

// flag holds that an experiment has given the page a variant, or none.
func (v *visit) flag(want string) {
	v.t.Helper()
	if !v.Experiments {
		return
	}
	var got string
	if v.browser.eval(&got, `sdk.flag("exp")`); got != want {
		v.t.Errorf("%s: the experiment is %q; want %q", v.host, got, want)
	}
}

// A way is how an SDK is tried.
type way struct {
	name       string
	preference string // of the session's account; "": nobody is signed in
	sent       []int  // how many requests hold each event
	arrived    []int  // and how many of these arrive
	act        func(v *visit)
}

// twoEvents is what a page does in most ways.
func twoEvents(v *visit) {
	v.track(first)
	v.track(second)
}

// ways are what every test run tries.
var ways = []way{
	{"blocked", "true", []int{1, 1}, []int{0, 0}, func(v *visit) {
		twoEvents(v)
		v.private()
		v.flag("")
	}},
	{"allowed", "false", []int{1, 1}, []int{1, 1}, func(v *visit) {
		twoEvents(v)
		v.flag("test")
	}},
	{"anonymous", "", []int{1, 1}, []int{1, 1}, func(v *visit) {
		twoEvents(v)
		v.flag("test")
	}},
}

// TestSDKs runs the SDKs of others, as npm has them, behind their presets.
func TestSDKs(t *testing.T) {
	t.Parallel()
	m := newMeasured(t)
	c := newChromium(t, chromedp.Flag("ignore-certificate-errors", true))
	for _, sdk := range sdks.All {
		for _, way := range ways {
			t.Run(sdk.Name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				v := m.visit(t, c.tab(t), sdk, way.name, way.preference)
				way.act(v)
				row := v.end()
				if !slices.Equal(row.Sent, way.sent) || !slices.Equal(row.Arrived, way.arrived) {
					t.Errorf("%d and %d requests held the events, %d and %d arrived", row.Sent[0], row.Sent[1], row.Arrived[0], row.Arrived[1])
				}
			})
		}
	}
}
