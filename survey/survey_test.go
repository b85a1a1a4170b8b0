package survey_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/survey"
)

// oneRoute is an edge that gates POST /metrics, and serves one host.
type oneRoute struct{}

func (oneRoute) Serves(host, _ string) bool { return host == "app.example.org" }

func (oneRoute) Gates(_, _, method string, u *url.URL) (string, bool) {
	if method == "POST" && u.Path == "/metrics" {
		return "/metrics", true
	}
	return "", false
}

// read surveys recordings.
func read(t *testing.T, recordings ...string) (survey.Report, survey.Counts) {
	t.Helper()
	s := survey.Survey{Edge: oneRoute{}}
	var all survey.Counts
	for _, recording := range recordings {
		counts, err := survey.Read(strings.NewReader(recording), s.Add)
		if err != nil {
			t.Fatal(err)
		}
		all.Requests += counts.Requests
		all.Unread += counts.Unread
	}
	return s.Report(), all
}

// table is a report, a line each.
func table(report survey.Report) (lines []string) {
	for _, f := range report.Findings {
		lines = append(lines, fmt.Sprintf("%s %s %s%s ×%d %d %s %s", f.Standing, f.Method, f.Host, f.Path, f.Requests, f.Status, f.Preset, strings.Join(f.Why, ",")))
	}
	return lines
}

func packed(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return out.String()
}

// The same in each format: two beacons that a gate has, one that passes, one of
// an application that is known, and ordinary requests.
func TestFormats(t *testing.T) {
	t.Parallel()
	const caddy = `{"level":"info","ts":1,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"192.0.2.7","method":"POST","host":"app.example.org:443","uri":"/metrics","headers":{"Sec-Fetch-Mode":["no-cors"]}},"bytes_read":210,"size":16,"status":200}
{"level":"info","ts":1,"logger":"tls","msg":"cleaning storage unit"}
{"request":{"method":"POST","host":"app.example.org","uri":"/metrics"},"bytes_read":210,"size":16,"status":200}
{"request":{"method":"POST","host":"app.example.org","uri":"/api/track?u=8191"},"bytes_read":90,"size":0,"status":204}
{"request":{"method":"POST","host":"app.example.org","uri":"/in/i/v0/e/?ip=1"},"bytes_read":900,"size":12,"status":200}
{"request":{"method":"GET","host":"app.example.org","uri":"/settings","headers":{"Sec-Fetch-Dest":["document"]}},"size":7000,"status":200}
{"request":{"method":"POST","host":"app.example.org","uri":"/api/login"},"bytes_read":40,"size":11,"status":200}
{"level":"error","msg":"dial tcp","request":{"method":"POST","host":"app.example.org","uri":"/metrics"}}
{"request":
`
	const combined = `192.0.2.7 - ann [27/Nov/2026:10:00:00 +0000] "POST /metrics HTTP/1.1" 200 16 "https://app.example.org/" "Mozilla/5.0"
app.example.org:443 192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] "POST /metrics HTTP/2.0" 200 16 "-" "says \"hello\""
2001:db8::1 - - [27/Nov/2026:10:00:00 +0000] "POST /api/track?u=8191 HTTP/1.1" 204 -
192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] "POST http://app.example.org/in/i/v0/e/?ip=1 HTTP/1.1" 200 12 "-" "-"
192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] "GET /settings HTTP/1.1" 200 7000 "-" "-"
192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] "POST /api/login HTTP/1.1" 200 11 "-" "-"
192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] "\x16\x03\x01" 400 157 "-" "-"
what is this
`
	const har = `{
  "log": {"version": "1.2", "creator": {"name": "x", "entries": [1]}, "pages": [{"id": "page_1"}], "entries": [
    {"request": {"method": "GET", "url": "https://app.example.org/settings", "headers": [{"name": "Sec-Fetch-Dest", "value": "document"}], "bodySize": 0}, "response": {"status": 200, "content": {"size": 7000}}, "_resourceType": "document"},
    {"request": {"method": "POST", "url": "https://app.example.org/metrics", "headers": [], "bodySize": 210}, "response": {"status": 200, "content": {"size": 16}}, "_resourceType": "ping"},
    {"request": {"method": "POST", "url": "https://app.example.org/metrics", "headers": [], "bodySize": 210}, "response": {"status": 200, "content": {"size": 16}}, "_resourceType": "fetch"},
    {"request": {"method": "POST", "url": "https://app.example.org/api/track?u=8191", "headers": [], "bodySize": 90}, "response": {"status": 204, "content": {"size": 0}}},
    {"request": {"method": "POST", "url": "https://app.example.org/in/i/v0/e/?ip=1", "headers": [], "bodySize": 900}, "response": {"status": 200, "content": {"size": 12}}},
    {"request": {"method": "POST", "url": "https://app.example.org/api/login", "headers": [], "bodySize": 40}, "response": {"status": 200, "content": {"size": 11}}},
    {"request": {"method": "GET", "url": "data:image/png;base64,iVBO", "headers": []}, "response": {"status": 200, "content": {}}},
    {"request": {"method": 7}}
  ]}
}`
	passing := []string{
		"passes POST /api/track ×1 204  path,tiny",
		"passes POST /in/i/v0/e ×1 200 posthog sdk,path,tiny",
	}
	for name, c := range map[string]struct {
		recording string
		beacon    string // what shows that the browser sent one
		counts    survey.Counts
	}{
		"Caddy":    {caddy, "beacon,", survey.Counts{Requests: 6, Unread: 1}},
		"combined": {combined, "", survey.Counts{Requests: 6, Unread: 1}},
		"HAR":      {har, "beacon,", survey.Counts{Requests: 6, Unread: 1}},
		"packed":   {packed(caddy), "beacon,", survey.Counts{Requests: 6, Unread: 1}},
		"a BOM":    {"\xef\xbb\xbf" + caddy, "beacon,", survey.Counts{Requests: 6, Unread: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, counts := read(t, c.recording)
			want := append(append([]string{}, passing...), "gated POST /metrics ×2 200  "+c.beacon+"path,tiny")
			if name == "combined" { // which does not say what was sent
				want[2] = "gated POST /metrics ×2 200  path,tiny"
			}
			if diff := cmp.Diff(want, table(report)); diff != "" || counts != c.counts {
				t.Errorf("%+v; findings (-want +got)\n%s", counts, diff)
			}
			if diff := cmp.Diff([]string{"preset posthog /in", "route POST /api/track"}, report.Lines); diff != "" {
				t.Errorf("lines (-want +got)\n%s", diff)
			}
		})
	}
}

// TestRealServers reads what nginx 1.22 and Apache 2.4 of Debian wrote of the same
// requests, with their own formats; Apache's counts the headers of answers. Of 23
// beacons none is missed, and of 48 other requests none is accused.
func TestRealServers(t *testing.T) {
	t.Parallel()
	want := []string{
		"passes POST /metrics ×5 200  path,tiny",
		"passes GET /pixel.gif ×4 200  path,tiny",
		"passes POST /api/track ×3 204  path,tiny",
		"passes POST /in/i/v0/e ×3 200 posthog sdk,path,tiny",
		"passes GET /g/collect ×2 204 ga4 sdk,path,tiny",
		"passes POST /matomo.php ×2 204 matomo sdk,path,tiny",
		"passes POST /submit/*/*/*/* ×2 200 glean sdk,tiny",
		"passes POST /u/*/beacon ×2 204  path,tiny",
	}
	for _, name := range []string{"nginx.log", "apache.log", "apache_vhost.log"} {
		log, err := os.Open("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = log.Close() }()
		var s survey.Survey
		counts, err := survey.Read(log, s.Add)
		if err != nil || counts.Requests != 71 || counts.Unread != 0 {
			t.Errorf("%s: %+v, error %v", name, counts, err)
		}
		if diff := cmp.Diff(want, table(s.Report())); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestRealSDKs reads what twelve SDKs and web-vitals sent from Chromium past a
// Caddy, as tests/sdks runs them. All 128 requests of theirs that measure or ask
// for experiments are found, and none of the 128 others: pages, scripts, settings.
// The same lines in the combined format, which say less, miss none either.
func TestRealSDKs(t *testing.T) {
	t.Parallel()
	log, err := os.ReadFile("testdata/sdks.log")
	if err != nil {
		t.Fatal(err)
	}
	report, counts := read(t, string(log))
	want := []string{
		"passes POST /countly/i ×15 200 countly sdk,path,tiny",
		"passes POST /vitals ×15 200  beacon,path,tiny",
		"passes POST /ph/e ×12 200 posthog sdk,path,tiny",
		"passes POST /plausible/api/event ×12 202 plausible sdk,path,tiny",
		"passes POST /mixpanel/track ×8 200 mixpanel sdk,path,tiny",
		"passes POST /ahoy/events ×6 200 ahoy sdk,beacon,path,tiny",
		"passes POST /amplitude/2/httpapi ×6 200 amplitude sdk,tiny",
		"passes POST /matomo/matomo.php ×6 204 matomo sdk,path,tiny",
		"passes POST /rudder/v1/* ×6 200 segment sdk,path,tiny",
		"passes POST /segment/v1/t ×6 200 segment sdk,path,tiny",
		"passes POST /snowplow/com.snowplowanalytics.snowplow/tp2 ×6 200 snowplow sdk,tiny",
		"passes POST /submit/*/*/*/* ×6 200 glean sdk,beacon,tiny",
		"passes POST /tunnel ×6 200 sentry sdk,path,tiny",
		"passes POST /ahoy/visits ×3 200 ahoy sdk,tiny",
		"passes GET /amplitude/sdk/v2/vardata ×3 200 amplitude sdk,tiny",
		"passes GET /mixpanel/flags ×3 200 mixpanel sdk",
		"passes GET /ph/api/web_experiments ×3 200 posthog sdk",
		"passes POST /ph/flags ×3 200 posthog sdk",
		"passes POST /segment/v1/m ×3 200 segment sdk,path,tiny",
	}
	if diff := cmp.Diff(want, table(report)); diff != "" || counts != (survey.Counts{Requests: 256}) {
		t.Errorf("%+v (-want +got)\n%s", counts, diff)
	}
	var combined strings.Builder
	if _, err := survey.Read(bytes.NewReader(log), func(r *survey.Request) {
		fmt.Fprintf(&combined, "a - - [x] \"%s %s?%s HTTP/1.1\" %d %d\n", r.Method, r.Path, r.Query, r.Status, r.Received)
	}); err != nil {
		t.Fatal(err)
	}
	less, _ := read(t, combined.String())
	found := 0
	for _, f := range less.Findings {
		found += f.Requests
	}
	if found != 128 || len(less.Findings) != len(want) {
		t.Errorf("combined: %d requests found: %q", found, table(less))
	}
}

// What is no recording says so, and a file that breaks off is read to there.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text     string
		requests int
		is       error
	}{
		"a photograph":           {"\xff\xd8\xff\xe0 what\nis\nthis", 0, survey.ErrFormat},
		"a HAR without entries":  {`{"log":{"version":"1.2"}}`, 0, survey.ErrFormat},
		"a HAR of another kind":  {`{"log":{"entries":{}}}`, 0, survey.ErrFormat},
		"a HAR that breaks off":  {`{"log":{"entries":[{"request":{"method":"GET","url":"https://x/"}},{"req`, 1, io.ErrUnexpectedEOF},
		"gzip that breaks off":   {packed(strings.Repeat("a - - [x] \"GET /a?b HTTP/1.1\" 200 1\n", 9))[:40], 0, io.ErrUnexpectedEOF},
		"nothing":                {"", 0, nil},
		"a line without an end":  {`a - - [x] "GET /a HTTP/1.1" 200 1`, 1, nil},
		"a line beyond measure":  {strings.Repeat("x", 1<<20) + "\n" + `a - - [x] "GET /a HTTP/1.1" 200 1`, 1, nil},
		"messages, no requests":  {`{"level":"info","msg":"serving initial configuration"}`, 0, nil},
		"a time without its end": {`a - - [x "GET /a HTTP/1.1" 200 1`, 0, survey.ErrFormat},
	} {
		counts, err := survey.Read(strings.NewReader(c.text), func(*survey.Request) {})
		if !errors.Is(err, c.is) || counts.Requests != c.requests {
			t.Errorf("%s: %+v, %v", name, counts, err)
		}
	}
}

// What does not measure anybody is not accused, and what does is found by each
// of its signs.
func TestJudging(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		`"POST /collect HTTP/1.1" 204 0`:                             true,
		`"GET /pixel.gif?e=1 HTTP/1.1" 200 43`:                       true,
		`"POST /submit/app/baseline/1/7e3c8b1e-2f6a HTTP/1.1" 200 2`: true,
		`"PUT /rum HTTP/1.1" 202 0`:                                  true,
		`"GET /metrics HTTP/1.1" 200 48231`:                          false, // Prometheus
		`"GET /events?since=1 HTTP/1.1" 200 9000`:                    false, // a calendar
		`"POST /api/cart HTTP/1.1" 204 0`:                            false,
		`"POST /api/logout HTTP/1.1" 200 2`:                          false,
		`"GET /ping?x=1 HTTP/1.1" 200 4`:                             false, // health
		`"OPTIONS /collect HTTP/1.1" 204 0`:                          false,
		`"POST /collect HTTP/1.1" 404 0`:                             false, // a scanner
		`"POST /track HTTP/1.1" 200 5000`:                            false, // where is my parcel
		`"DELETE /track/7 HTTP/1.1" 204 0`:                           false,
		`"GET /track.png HTTP/1.1" 200 43`:                           false,
	} {
		report, _ := read(t, "a - - [x] "+line)
		if got := len(report.Findings) == 1; got != want {
			t.Errorf("%s: found %v", line, got)
		}
	}
	for name, request := range map[string]*survey.Request{
		"sendBeacon":            {Method: "POST", Path: "/x", Status: 200, Sent: 9, Received: 900, Header: headers("Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: empty")},
		"<a ping>":              {Method: "POST", Path: "/x", Status: 200, Header: headers("Content-Type: text/ping")},
		"a host that is known":  {Method: "GET", Host: "eu.i.posthog.com", Path: "/x", Status: 200, Elsewhere: true},
		"a host that says so":   {Method: "POST", Host: "telemetry.example", Path: "/x", Status: 204, Sent: 9, Elsewhere: true},
		"another in HAR's word": {Method: "POST", Path: "/x", Ping: true},
		"a header":              {Method: "POST", Path: "/api/send", Status: 200, Received: 400, Header: headers("X-Umami-Cache: x")},
		"parameters":            {Method: "GET", Path: "/x", Query: "idsite=1&rec=1", Status: 200, Received: 900},
	} {
		var s survey.Survey
		if s.Add(request); len(s.Report().Findings) != 1 {
			t.Errorf("%s was not found", name)
		}
	}
	for name, request := range map[string]*survey.Request{
		"a security report":           {Method: "POST", Path: "/collect", Status: 204, Header: headers("Sec-Fetch-Mode: no-cors", "Content-Type: application/csp-report")},
		"a host that only ends alike": {Method: "GET", Host: "evil-i.posthog.com.example", Path: "/x", Status: 200, Elsewhere: true},
		"an SDK that is loaded":       {Method: "GET", Host: "eu.i.posthog.com", Path: "/array.js", Status: 200, Elsewhere: true},
		"a withdrawal":                {Method: "POST", Path: "/submit/app/deletion-request/1/7e3c8b1e", Status: 200},
		"a server's events":           {Method: "POST", Path: "/slack/events", Status: 200, Header: headers("User-Agent: Slackbot 1.0")},
		"the choice itself":           {Method: "POST", Path: "/v1/metrics_optout", Status: 200, Received: 2},
		"the gate's own":              {Method: "POST", Path: "/.well-known/metrics-gate/signal", Status: 204, Header: headers("Sec-Fetch-Mode: no-cors")},
		"leaving":                     {Method: "POST", Path: "/logout", Status: 204, Header: headers("Sec-Fetch-Mode: no-cors")},
	} {
		var s survey.Survey
		if s.Add(request); len(s.Report().Findings) != 0 {
			t.Errorf("%s was accused", name)
		}
	}
}

func headers(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Set(name, value)
	}
	return h
}

// What most requests of a kind are decides, not a single one: an empty list is
// as short as an answer to a beacon, and what is half written is saved with one.
func TestMostOfAKind(t *testing.T) {
	t.Parallel()
	fetched, sent := headers("Sec-Fetch-Mode: cors"), headers("Sec-Fetch-Mode: no-cors")
	for _, c := range []struct {
		name     string
		requests []survey.Request
		found    int
	}{
		{"lists, of which one is empty", []survey.Request{
			{Method: "POST", Path: "/api/events", Status: 200, Sent: 9, Received: 2}, {Method: "POST", Path: "/api/events", Status: 200, Sent: 9, Received: 900},
			{Method: "POST", Path: "/api/events", Status: 200, Sent: 9, Received: 700},
		}, 0},
		{"beacons, of which some fail", []survey.Request{
			{Method: "POST", Path: "/api/events", Status: 500, Sent: 9, Received: 900}, {Method: "POST", Path: "/api/events", Status: 200, Sent: 9, Received: 2},
			{Method: "POST", Path: "/api/events", Status: 502, Sent: 9, Received: 700},
		}, 3},
		{"a text that is saved, and once more as the page closes", []survey.Request{
			{Method: "POST", Path: "/api/texts", Status: 200, Header: fetched}, {Method: "POST", Path: "/api/texts", Status: 200, Header: fetched},
			{Method: "POST", Path: "/api/texts", Status: 200, Header: sent},
		}, 0},
		{"umami, whose first beacon does not say so", []survey.Request{
			{Method: "POST", Path: "/api/send", Status: 200, Received: 400}, {Method: "POST", Path: "/api/send", Status: 200, Header: headers("X-Umami-Cache: x")},
		}, 2},
	} {
		var s survey.Survey
		for i := range c.requests {
			s.Add(&c.requests[i])
		}
		found := 0
		for _, f := range s.Report().Findings {
			found += f.Requests
		}
		if found != c.found {
			t.Errorf("%s: %d of %d found, want %d", c.name, found, len(c.requests), c.found)
		}
	}
}

// A report holds nobody's name, address or token.
func TestNoIdentifiers(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	for _, path := range []string{
		"/track/ann", "/u/0b5e1ed0000000000000000000000001/beacon", "/collect/ann@example.org?token=secret", "/pixel.gif/8191",
		"/t/ann/metrics", "/t/ben/metrics", "/t/cid/metrics", "/events/%61nn", "/submit/app/baseline/1/ann", "/i/v0/e?distinct_id=ann",
		"/tenants/2031/telemetry", "/v1/events", "/v2/events", "/api/events",
	} {
		fmt.Fprintf(&log, "192.0.2.7 - ann [x] \"POST %s HTTP/1.1\" 204 0 \"https://app.example.org/ann\" \"Mozilla/5.0 (ann)\"\n", path)
	}
	report, _ := read(t, log.String())
	for _, f := range report.Findings {
		for _, secret := range []string{"ann", "ben", "cid", "0b5e", "example", "secret", "8191", "2031", "%61", "192"} {
			if strings.Contains(fmt.Sprint(f, report.Lines), secret) {
				t.Errorf("%q is in %+v, or the lines", secret, f)
			}
		}
	}
	var paths []string
	for _, f := range report.Findings {
		paths = append(paths, f.Path)
	}
	for _, want := range []string{"/track/*", "/u/*/beacon", "/t/*/metrics", "/submit/*/*/*/*", "/i/v0/e", "/*/events"} {
		if !strings.Contains(strings.Join(paths, " ")+" ", want+" ") {
			t.Errorf("%s is not among %q", want, paths)
		}
	}
}

// A line is only suggested where it takes nothing but beacons: what differs from
// person to person at the end of a path, and stands behind no word of measuring,
// has ordinary requests beside it.
func TestNoVagueLines(t *testing.T) {
	t.Parallel()
	var s survey.Survey
	for _, whom := range []string{"ann", "ben", "cid", "8191"} {
		for _, path := range []string{"/", "/api/", "/collect/", "/in/"} {
			s.Add(&survey.Request{Method: "POST", Path: path + whom, Status: 204, Ping: true})
		}
		s.Add(&survey.Request{Method: "POST", Path: "/t/" + whom + "/b", Status: 204, Ping: true})
	}
	if diff := cmp.Diff([]string{"route POST /collect/*", "route POST /t/*/b"}, s.Report().Lines); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// However long a log, and whatever somebody has put into it, the memory is that
// of a bounded number of kinds.
func TestBounded(t *testing.T) {
	t.Parallel()
	s := survey.Survey{}
	for i := range 50_000 {
		s.Add(&survey.Request{Method: "POST", Path: "/" + word(i) + "/" + word(i/7) + "/collect", Status: 204, Sent: -1, Received: 0})
	}
	report := s.Report()
	if report.Requests != 50_000 || report.Left == 0 || len(report.Findings) > 10_000 {
		t.Errorf("%d requests, %d findings, %d left", report.Requests, len(report.Findings), report.Left)
	}
}

// word makes a different word of letters of each number.
func word(n int) string {
	var b strings.Builder
	for n++; n > 0; n /= 20 {
		b.WriteByte("bcdfghjklmnpqrstvwxz"[n%20])
	}
	return b.String()
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"request":{"method":"POST","host":"a","uri":"/metrics?x"},"status":204}`))
	f.Add([]byte(`a - - [x] "POST /metrics HTTP/1.1" 204 0`))
	f.Add([]byte(`{"log":{"entries":[{"request":{"method":"POST","url":"https://a/collect"},"response":{"status":204}}]}}`))
	f.Fuzz(func(t *testing.T, recording []byte) {
		s := survey.Survey{}
		if _, err := survey.Read(bytes.NewReader(recording), s.Add); err != nil {
			return
		}
		for _, finding := range s.Report().Findings {
			if finding.Requests == 0 || len(finding.Why) == 0 {
				t.Errorf("%+v", finding)
			}
		}
	})
}
