package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// TestSurveyOfTheDemo records the demo page in Chromium, as somebody who allows
// metrics and as somebody who opted out, and surveys the recording: all that the
// preset is there for is found and gated, and nothing else is accused.
func TestSurveyOfTheDemo(t *testing.T) {
	t.Parallel()
	page := newTab(t)
	s := testcaddy.New(t)
	site, _ := copyDemo(t, s.Dir)
	s.Run(exec.Command("./examples/run.sh"))
	recorded := page.record()
	page.run(
		chromedp.Navigate("http://"+site+"/"),
		chromedp.Click(`input[name=who][value=ben]`, chromedp.NodeVisible),
		chromedp.Poll(`!document.getElementById("preference").disabled`, nil),
	)
	page.sends(4, map[string]string{
		"Metrics beacon": "collect|received", "Error report": "collect|received", "Experiments": "collect|received", "Sign-in flow": "not gated|received",
	})
	page.run(
		chromedp.Click(`input[name=preference][value=true]`),
		chromedp.Poll(`document.getElementById("preference-hint").textContent.includes("metrics_optout is true")`, nil),
	)
	page.sends(8, map[string]string{
		"Metrics beacon": "block|not received", "Error report": "block|not received", "Experiments": "block|not received", "Sign-in flow": "not gated|received",
	})

	report := surveyed(t, recorded.file(t), "--config", filepath.Join(s.Dir, "Caddyfile.example"))
	want := []string{
		"gated GET /experiments.bundle.js ×2",
		"gated GET /metrics-errors ×2",
		"gated POST /metrics ×2",
	}
	if diff := cmp.Diff(want, report.findings()); diff != "" || report.Requests < 14 || report.Unread != 0 || len(report.Lines) > 0 {
		t.Errorf("%+v (-want +got)\n%s", report, diff)
	}
}

// TestSurveyOfMixedTraffic has a page in Chromium measure its visitors in each of
// the ways that there are, among ordinary requests, past a Caddy whose gate knows
// one of them. What the browser recorded and what Caddy logged say the same.
func TestSurveyOfMixedTraffic(t *testing.T) {
	t.Parallel()
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(collector.Close)
	app := httptest.NewServer(mixedApplication(collector.URL))
	t.Cleanup(app.Close)
	addr := testcaddy.FreeAddr(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "access.log")
	server := testcaddy.Start(t, testcaddy.Site(addr, "log {\noutput file "+log+"\n}", testcaddy.Gate("route POST /metrics"), testcaddy.ProxyTo(strings.TrimPrefix(app.URL, "http://"))))

	page := newTab(t)
	recorded := page.record()
	page.run(chromedp.Navigate("http://"+addr+"/u/ann@example.org/settings"), chromedp.Poll(`document.title === "done"`, nil))

	passing := []string{
		"passes GET /p.gif ×1",
		"passes POST /b/x ×1",
		"passes POST /click ×1",
		"passes POST /in/i/v0/e ×2",
		"passes POST /track/* ×1",
	}
	gated := "gated POST /metrics ×2"
	elsewhere := []string{"elsewhere POST */collect ×1"}
	config := filepath.Join(server.Dir, "Caddyfile")
	for _, c := range []struct {
		name string
		file func() string
		want []string
	}{
		{"the browser's", func() string { return recorded.file(t) }, slices.Concat(elsewhere, []string{gated}, passing)},
		{"Caddy's", func() string {
			testcaddy.Until(t, "the log to be complete", func() bool {
				text, err := os.ReadFile(log)
				return err == nil && strings.Count(string(text), "\n") >= 16
			})
			return log
		}, append([]string{gated}, passing...)},
	} {
		report := surveyed(t, c.file(), "--config", config)
		if diff := cmp.Diff(c.want, report.findings()); diff != "" {
			t.Errorf("%s recording (-want +got)\n%s", c.name, diff)
		}
		if text := fmt.Sprint(report); strings.Contains(text, "ann") || strings.Contains(text, "8191") {
			t.Errorf("%s recording: somebody is in %s", c.name, text)
		}
	}
}

func mixedApplication(collector string) http.Handler {
	const script = `
	const beacon = (url) => navigator.sendBeacon(url, "x");
	const send = (method, url, type) => fetch(url, { method, body: method === "GET" ? undefined : "{}", headers: type ? { "Content-Type": type } : {} });
	(async () => {
		beacon("/metrics"); await send("POST", "/metrics");
		beacon("/b/x");
		await send("POST", "/in/i/v0/e?ip=1&_=1"); await send("POST", "/in/i/v0/e?ip=1&_=2");
		await send("POST", "/track/ann@example.org?token=8191");
		await new Promise((done) => { const pixel = new Image(); pixel.onload = pixel.onerror = done; pixel.src = "/p.gif?metrics=8191&idsite=1&rec=1"; });
		const link = document.createElement("a"); link.href = "#there"; link.ping = "/click"; link.textContent = "x"; document.body.append(link); link.click();
		beacon("COLLECTOR/collect");
		// What is ordinary:
		await send("POST", "/api/login", "application/json"); await send("POST", "/api/cart", "application/json"); await send("POST", "/graphql", "application/json");
		await send("GET", "/events?since=1"); await send("PUT", "/api/events/42", "application/json"); await send("GET", "/api/users/8191");
		beacon("/logout");
		document.title = "done";
	})();`
	mux := http.NewServeMux()
	for pattern, size := range map[string]int{
		"POST /metrics": 16, "POST /in/i/v0/e": 12, "GET /p.gif": 43, "POST /api/login": 11, "POST /graphql": 900, "GET /events": 900, "GET /api/users/{id}": 400,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) })
	}
	for _, pattern := range []string{"POST /b/x", "POST /click", "POST /track/{whom}", "POST /api/cart", "PUT /api/events/42", "POST /logout"} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	}
	mux.HandleFunc("GET /u/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<!doctype html><title>x</title><link rel=icon href="data:,"><body><script>` + strings.ReplaceAll(script, "COLLECTOR", collector) + `</script>`))
	})
	return mux
}

// surveyReport is what the command says in JSON.
type surveyReport struct {
	Requests, Unread int
	Findings         []struct {
		Standing, Method, Host, Path string
		Requests                     int
	}
	Lines []string
}

func surveyed(t *testing.T, args ...string) (report surveyReport) {
	t.Helper()
	out, problems, code := testcaddy.Command(t, append([]string{"metrics-gate", "survey", "--json"}, args...)...)
	if code != 0 || json.Unmarshal([]byte(out), &report) != nil {
		t.Fatalf("survey ends with %d: %s%s", code, out, problems)
	}
	return report
}

func (r *surveyReport) findings() (all []string) {
	for _, f := range r.Findings {
		all = append(all, fmt.Sprintf("%s %s %s%s ×%d", f.Standing, f.Method, f.Host, f.Path, f.Requests))
	}
	slices.Sort(all)
	return all
}

// recording is what a tab sends, as its developer tools would save it.
type recording struct {
	mu      sync.Mutex
	order   []network.RequestID
	entries map[network.RequestID]*harEntry
}

type harEntry struct {
	Started  string     `json:"startedDateTime"`
	Time     float64    `json:"time"`
	Type     string     `json:"_resourceType"`
	Request  harMessage `json:"request"`
	Response harMessage `json:"response"`
	Cache    struct{}   `json:"cache"`
	Timings  harTimings `json:"timings"`
}

type harMessage struct {
	Method      string      `json:"method,omitempty"`
	URL         string      `json:"url,omitempty"`
	Status      int64       `json:"status,omitempty"`
	StatusText  string      `json:"statusText"`
	HTTPVersion string      `json:"httpVersion"`
	Headers     []harHeader `json:"headers"`
	Cookies     []struct{}  `json:"cookies"`
	QueryString []struct{}  `json:"queryString,omitempty"`
	Content     *harContent `json:"content,omitempty"`
	HeadersSize int         `json:"headersSize"`
	BodySize    int64       `json:"bodySize"`
}

type (
	harHeader  struct{ Name, Value string }
	harContent struct {
		Size     int64  `json:"size"`
		MimeType string `json:"mimeType"`
	}
	harTimings struct {
		Send, Wait, Receive float64
	}
)

// record notes down what the tab sends from now on.
func (p *tab) record() *recording {
	p.t.Helper()
	r := &recording{entries: map[network.RequestID]*harEntry{}}
	p.run(network.Enable())
	chromedp.ListenTarget(p.ctx, func(event any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch event := event.(type) {
		case *network.EventRequestWillBeSent:
			e := r.entry(event.RequestID)
			e.Started, e.Type = event.WallTime.Time().Format("2006-01-02T15:04:05.000Z07:00"), strings.ToLower(event.Type.String())
			e.Request.Method, e.Request.URL, e.Request.BodySize = event.Request.Method, event.Request.URL, -1
			e.Request.add(event.Request.Headers)
		case *network.EventRequestWillBeSentExtraInfo:
			r.entry(event.RequestID).Request.add(event.Headers)
		case *network.EventResponseReceived:
			e := r.entry(event.RequestID)
			e.Response.Status, e.Response.HTTPVersion = event.Response.Status, event.Response.Protocol
			e.Response.Content.MimeType = event.Response.MimeType
			e.Response.add(event.Response.Headers)
		case *network.EventDataReceived:
			r.entry(event.RequestID).Response.Content.Size += event.DataLength
		}
	})
	return r
}

func (r *recording) entry(id network.RequestID) *harEntry {
	if r.entries[id] == nil {
		r.entries[id] = &harEntry{Response: harMessage{Content: &harContent{}}}
		r.order = append(r.order, id)
	}
	return r.entries[id]
}

func (m *harMessage) add(headers network.Headers) {
	for name, value := range headers {
		m.Headers = append(m.Headers, harHeader{name, fmt.Sprint(value)})
	}
}

// file writes the recording as a HAR file.
func (r *recording) file(t *testing.T) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var entries []*harEntry
	for _, id := range r.order {
		if r.entries[id].Request.URL != "" {
			entries = append(entries, r.entries[id])
		}
	}
	text, err := json.MarshalIndent(map[string]any{"log": map[string]any{
		"version": "1.2", "creator": map[string]string{"name": "a test", "version": "1"}, "pages": []any{}, "entries": entries,
	}}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "recorded.har")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
