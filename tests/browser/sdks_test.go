package browser_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"flag"
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

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/metricsgate/metricsgate/gate"
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
	m := &measured{t: t, profile: newTap(t), gates: map[string]string{}, bundles: sdks.Bundle(t)}
	m.collector = httptest.NewServer(http.HandlerFunc(m.collect))
	t.Cleanup(m.collector.Close)
	var presets, plain []string
	for _, sdk := range sdks.All {
		presets = append(presets, sdk.Gate)
		plain = append(plain, withoutAnswers(sdk.Gate)...)
	}
	profile, proxy := m.profile.block(), testcaddy.ProxyTo(m.collector.Listener.Addr().String())
	sites := []string{m.profile.site(t)}
	for way, options := range map[string][]string{
		"":         presets,
		bare:       plain,
		"gpc":      append(slices.Clone(presets), "signal {\ngpc\n}"),
		"signsout": append(slices.Clone(presets), "handshake {\ntimeout 100ms\n}"),
	} {
		m.gates[way] = testcaddy.FreeAddr(t)
		sites = append(sites, testcaddy.Site(m.gates[way], testcaddy.Gate(append(options, testcaddy.SessionJWT(), profile)...), proxy))
	}
	m.caddy = testcaddy.Start(t, sites...)

	front := httptest.NewUnstartedServer(m.front())
	front.EnableHTTP2 = true
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // browsers give up connections that they open in advance
	front.StartTLS()
	t.Cleanup(front.Close)
	_, m.port, _ = net.SplitHostPort(front.Listener.Addr().String())
	return m
}

// withoutAnswers is what an SDK's line stands for, but for what it takes for
// success: its metrics routes answer 204, as routes do by default.
func withoutAnswers(line string) (routes []string) {
	words := append(strings.Fields(line), "")
	preset, ok := gate.PresetNamed(words[1])
	if !ok {
		return []string{line}
	}
	for _, route := range preset.RoutesAt(words[2]) {
		line := "route " + strings.Join(route.Methods, ",") + " " + route.Path + " " + route.Class
		if route.Class == gate.ClassExperiment {
			line += " {\nanswer 200 application/json `" + route.Answer.Body + "`\n}"
		}
		routes = append(routes, line)
	}
	return routes
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
		if dest := r.Header.Get("Sec-Fetch-Dest"); dest == "document" || dest == "script" || strings.HasPrefix(r.URL.Path, "/.well-known/") {
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
	way := strings.Split(host, "-")[1]
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
		http.SetCookie(w, &http.Cookie{Name: testcaddy.SessionCookie, Value: r.URL.Query().Get("token"), Path: "/", Secure: true, SameSite: http.SameSiteLaxMode})
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
	kind    string // of the browser
	host    string
	browser driver
	uid     string // who is signed in, if anybody
}

// visit opens the page of an SDK, with a session whose account holds a
// preference, or without one, and waits until the SDK has started.
func (m *measured) visit(t testing.TB, browser driver, sdk sdks.SDK, way, preference string) *visit {
	t.Helper()
	v := &visit{measured: m, SDK: sdk, t: t, way: way, browser: browser, kind: "Firefox"}
	if _, ok := browser.(*chromium); ok {
		v.kind = "Chromium"
	}
	v.host = strings.ToLower(sdk.Name+"-"+way+"-"+v.kind) + ".localhost:" + m.port
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
	row := sdks.Row{SDK: v.Name, Way: v.way, Browser: v.kind, Requests: len(sent)}
	for i, event := range []string{first, second} {
		row.Sent[i], row.Arrived[i] = holding(sent, event), holding(arrived, event)
	}
	var state struct{ Complaints []string }
	v.browser.eval(&state, "state()")
	said := slices.DeleteFunc(v.browser.console("https://"+v.host), func(line string) bool { return chatter.MatchString(line) })
	if complaints := append(state.Complaints, said...); len(complaints) > 0 && v.way != bare {
		v.t.Errorf("%s: the console has %q", v.host, complaints)
	}
	return row
}

// chatter is what a console has that is no complaint: PostHog tries out with a
// cookie how far up it may go in the name of the host.
var chatter = regexp.MustCompile(`^console\.(log|info|debug)\b|Cookie “dmn_chk_`)

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

// withdraw has Glean's user withdraw what was collected before, and holds that
// this arrives, once, though the account opted out.
func (v *visit) withdraw() {
	v.t.Helper()
	if v.Name != "glean" {
		return
	}
	v.browser.eval(nil, "void sdk.withdraw()")
	v.pass(time.Second)
	if _, arrived := v.come(); len(arrived) != 1 || !strings.Contains(arrived[0].path, "/deletion-request/") {
		v.t.Errorf("%s: %+v arrived", v.host, arrived)
	}
}

// choose has the account choose something else, and waits until the gate knows.
func (v *visit) choose(preference string) {
	v.t.Helper()
	v.profile.choose(v.t, v.uid, preference)
	want := map[string]int{"true": http.StatusNoContent, "false": http.StatusOK}[preference] // of the gate, and of vitals' own server
	testcaddy.Until(v.t, "the gate to know what was chosen", func() bool {
		r := testcaddy.Must(http.NewRequestWithContext(v.t.Context(), http.MethodPost, "http://"+v.gate(v.host)+"/vitals", nil))
		r.Header.Set("Cookie", testcaddy.SessionCookie+"="+testcaddy.Session(v.uid))
		response, err := testcaddy.Client.Do(r)
		if err != nil {
			v.t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode == want
	})
}

// A way is how an SDK is tried.
type way struct {
	name       string
	preference string // of the session's account; "": nobody is signed in
	sent       [2]int // how many requests hold each event
	arrived    [2]int // and how many of these arrive
	act        func(v *visit)
}

// twoEvents is what a page does in most ways.
func twoEvents(v *visit) {
	v.track(first)
	v.track(second)
}

// ways are what every test run tries.
var ways = []way{
	{"blocked", "true", [2]int{1, 1}, [2]int{0, 0}, func(v *visit) {
		twoEvents(v)
		v.private()
		v.flag("")
		v.withdraw()
	}},
	{"allowed", "false", [2]int{1, 1}, [2]int{1, 1}, func(v *visit) {
		twoEvents(v)
		v.flag("test")
	}},
	{"anonymous", "", [2]int{1, 1}, [2]int{1, 1}, func(v *visit) {
		twoEvents(v)
		v.flag("test")
	}},
}

// moreWays are what make sdks tries besides.
var moreWays = []way{
	// Without a gate, which the others are compared with.
	{"ungated", "", [2]int{1, 1}, [2]int{1, 1}, twoEvents},
	// The browser objects, by Sec-GPC.
	{"gpc", "", [2]int{1, 1}, [2]int{0, 0}, func(v *visit) {
		twoEvents(v)
		v.private()
	}},
	// Only the events say who it is, and only once the SDK was told.
	{"named", "", [2]int{1, 1}, [2]int{1, 0}, func(v *visit) {
		uid := testcaddy.NewUID(v.t)
		v.profile.choose(v.t, uid, "true")
		v.track(first)
		v.browser.eval(nil, fmt.Sprintf("void sdk.identify(%q)", uid))
		v.pass(time.Second)
		v.track(second)
	}},
	// The account opts out, or allows, while the page is open.
	{"optsout", "false", [2]int{1, 1}, [2]int{1, 0}, func(v *visit) {
		v.track(first)
		v.choose("true")
		v.track(second)
	}},
	{"allows", "true", [2]int{1, 1}, [2]int{0, 1}, func(v *visit) {
		v.track(first)
		v.choose("false")
		v.track(second)
	}},
	// Who opted out signs out with an event in the queue. With a handshake the gate
	// remembers, from the second page on at the latest.
	{"signsout", "true", [2]int{1, 1}, [2]int{0, 0}, func(v *visit) {
		v.browser.navigate("https://" + v.host + "/page/" + v.Name)
		v.browser.eval(nil, "started")
		testcaddy.Until(v.t, "the gate to remember", func() bool { return v.browser.cookie("metrics_optout") == "account" })
		v.browser.eval(nil, fmt.Sprintf("void sdk.track(%q)", first))
		v.browser.eval(nil, `void (document.cookie = "session=; path=/; max-age=0; secure")`)
		v.browser.eval(nil, "sdk.reset && void sdk.reset()")
		v.pass(10 * time.Second)
		v.track(second)
		v.private()
	}},
	{bare, "true", [2]int{}, [2]int{0, 0}, twoEvents},
}

// bare is the way that shows what the presets' answers are for: with the default
// one, 204, an SDK may send again, keep for later or complain as it likes.
const bare = "bare"

var learnSDKs = flag.Bool("learn-sdks", false, "try all SDKs in every way, and write tests/sdks/table.txt anew")

// inFirefox are tried in Firefox as well.
var inFirefox = []string{"posthog", "segment", "sentry", "snowplow"}

// TestSDKs runs the SDKs of others, as npm has them, behind their presets. Every
// test run has each blocked, allowed and anonymous; make sdks tries them in all
// ways, and writes down what they do.
func TestSDKs(t *testing.T) {
	t.Parallel()
	m := newMeasured(t)
	var rows testcaddy.Ledger[sdks.Row]
	t.Cleanup(func() { // when the pages are gone, and have sent what they send then
		for _, r := range m.arrived.All() {
			if strings.Contains(r.host, "-blocked-") && (strings.Contains(r.text, first) || strings.Contains(r.text, second)) {
				t.Errorf("%s: %s arrived when the page was gone", r.host, r.path)
			}
		}
	})
	try := func(t *testing.T, browser driver, sdk sdks.SDK, way way) {
		t.Helper()
		v := m.visit(t, browser, sdk, way.name, way.preference)
		way.act(v)
		row := v.end()
		if row.Sent != way.sent && way.name != bare || row.Arrived != way.arrived {
			t.Errorf("%d and %d requests held the events, and %d and %d arrived", row.Sent[0], row.Sent[1], row.Arrived[0], row.Arrived[1])
		}
		if rows.Add(row); !*learnSDKs && !row.InTable() {
			t.Errorf("tests/sdks/table.txt has another row; run make sdks")
		}
	}
	tried := ways
	if *learnSDKs {
		tried = append(slices.Clone(ways), moreWays...)
		t.Cleanup(func() { sdks.WriteTable(t, rows.All()) })
		t.Run("Firefox", func(t *testing.T) {
			t.Parallel()
			quiet := newFirefox(t, nil)
			objecting := newFirefox(t, map[string]any{"privacy.globalprivacycontrol.enabled": true, "privacy.globalprivacycontrol.functionality.enabled": true})
			for _, sdk := range sdks.All {
				for _, way := range tried {
					if !slices.Contains(inFirefox, sdk.Name) {
						continue
					}
					t.Run(sdk.Name+"/"+way.name, func(t *testing.T) {
						if way.name == "gpc" {
							try(t, objecting, sdk, way)
							return
						}
						try(t, quiet, sdk, way)
					})
				}
			}
		})
	}
	insecure := chromedp.Flag("ignore-certificate-errors", true)
	shared := newChromium(t, insecure)
	for _, sdk := range sdks.All {
		t.Run(sdk.Name, func(t *testing.T) {
			t.Parallel()
			c := shared
			if *learnSDKs {
				c = newChromium(t, insecure) // each has its time
			}
			for _, way := range tried {
				if way.name == "named" && !sdk.Names {
					continue
				}
				t.Run(way.name, func(t *testing.T) {
					t.Parallel()
					tab := c.tab(t)
					if way.name == "gpc" {
						tab.run(network.SetExtraHTTPHeaders(network.Headers{"Sec-GPC": "1"}))
					}
					try(t, tab, sdk, way)
				})
			}
		})
	}
}
