package command

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// written puts a recording into a file.
func written(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func packed(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// logged is a line of nginx's.
func logged(request string, status, size int) string {
	return fmt.Sprintf("192.0.2.7 - - [27/Nov/2026:10:00:00 +0000] %q %d %d \"-\" \"Mozilla/5.0\"\n", request+" HTTP/1.1", status, size)
}

func TestSurvey(t *testing.T) {
	t.Parallel()
	log := written(t, "access.log", logged("POST /in/i/v0/e?ip=1&_=9", 200, 12)+logged("POST /metrics", 200, 16)+logged("POST /metrics", 200, 16)+
		logged("POST /track/ann@example.org", 204, 0)+logged("GET /", 200, 5000)+"what is this\n")
	caddyfile := written(t, "Caddyfile", "app.example.org {\nmetrics_gate {\nroute POST /metrics\nroute POST /in/* {\nanswer 200\n}\n}\nhandle /in/* {\nreverse_proxy :1\n}\n}\n"+
		"other.example.org {\nroute {\nreverse_proxy :1\n}\n}\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{log}, `5 requests, of which 4 look like metrics.
1 lines or entries could not be read.

No gate has a route for these:

  REQUESTS  STATUS  METHOD  PATH        WHY
  2         200     POST    /metrics    its path, tiny answers
  1         200     POST    /in/i/v0/e  posthog: an SDK's, its path, tiny answers
  1         204     POST    /track/*    its path, tiny answers

These lines in metrics_gate would gate what passes:

	preset posthog /in
	route POST /metrics {
		answer 200
	}
	route POST /track/*

There is no gate yet. Begin with metrics_gate shadow, which blocks nothing and counts
what it would block. Besides these lines it has to know who asks and what they prefer:
write session and profile as well, as docs/applications.md shows.
`},
		{[]string{log, "--config", caddyfile}, `5 requests, of which 4 look like metrics.
1 lines or entries could not be read.

No gate has a route for these:

  REQUESTS  STATUS  METHOD  PATH      WHY
  1         204     POST    /track/*  its path, tiny answers

These are gated:

  REQUESTS  STATUS  METHOD  PATH        WHY
  2         200     POST    /metrics    its path, tiny answers; route /metrics
  1         200     POST    /in/i/v0/e  posthog: an SDK's, its path, tiny answers; route /in/*

These lines in metrics_gate would gate what passes:

	route POST /track/*
`},
		{[]string{written(t, "none.log", logged("GET /", 200, 5000))}, "1 requests, of which 0 look like metrics.\n"},
	} {
		out, err := run(surveyCommand(), c.args...)
		if diff := cmp.Diff(c.want, out); err != nil || diff != "" {
			t.Errorf("%q: error %v (-want +got)\n%s", c.args, err, diff)
		}
	}
	cmd := surveyCommand()
	cmd.SetIn(strings.NewReader(logged("POST /metrics", 200, 16)))
	out, err := run(cmd, "-", "--json")
	var report struct {
		Findings []struct{ Standing, Path string }
	}
	if err != nil || json.Unmarshal([]byte(out), &report) != nil || len(report.Findings) != 1 || report.Findings[0].Path != "/metrics" {
		t.Errorf("the standard input as JSON: error %v\n%s", err, out)
	}
}

// TestSurveyOfHostileLogs: what cannot be read is said, and the rest is read.
func TestSurveyOfHostileLogs(t *testing.T) {
	t.Parallel()
	good := logged("POST /metrics", 200, 16)
	for _, c := range []struct{ name, text, want string }{
		{"a line of a megabyte", good + strings.Repeat("x", 1<<20) + "\n" + good, "2 requests, of which 2 look like metrics.\n1 lines"},
		{"a request of a megabyte", good + logged("GET /"+strings.Repeat("x", 1<<20), 200, 1) + good, "2 requests, of which 2 look like metrics.\n1 lines"},
		{"bytes", good + "\x00\xff\xfe\x1b[31m\n" + good, "2 requests, of which 2 look like metrics.\n1 lines"},
		{"broken JSON", good + `{"request":{"method":"POST","uri":` + "\n" + good, "2 requests, of which 2 look like metrics.\n1 lines"},
		{"gzip that breaks off", packed(t, strings.Repeat(good, 9000)+logged("GET /end", 200, 1))[:400], "cannot be read beyond its first"},
		{"a HAR file that breaks off", `{"log":{"entries":[{"request":{"method":"POST","url":"https://a.example/metrics"},"response":{"status":204}},{"req`, "1 requests, of which 1 look like metrics."},
		{"a HAR file that goes on otherwise", `{"log":{"entries":[{"request":{"method":"GET","url":"https://a.example/"}},ann@example.org`, "it is no JSON from byte"},
	} {
		out, err := run(surveyCommand(), written(t, "log", c.text))
		if err != nil || !strings.Contains(out, c.want) || strings.ContainsAny(out, "\x00\x1b") || strings.Contains(out, "ann@") {
			t.Errorf("%s: error %v, want %q\n%s", c.name, err, c.want, out)
		}
	}
	for name, want := range map[string]string{
		written(t, "photograph.jpg", "\xff\xd8\xff\xe0 what\nis\nthis"):         "this is neither Caddy's JSON log",
		filepath.Join(t.TempDir(), "lost.log"):                                  "no such file",
		written(t, "caddy.log", `{"level":"info","ts":1,"msg":"serving"}`+"\n"): "1 lines, and none is a request: Caddy's own log looks like that; give the access log",
		written(t, "empty.log", ""):                                             "no request is in it",
		t.TempDir():                                                             "is a directory",
	} {
		if out, err := run(surveyCommand(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q\n%s", name, err, want, out)
		}
	}
	if _, err := run(surveyCommand(), written(t, "log", good), "--config", written(t, "Caddyfile", ":80 {\n}\n"), "--adapter", "caddyfile"); err == nil || !strings.Contains(err.Error(), "no metrics_gate") {
		t.Errorf("a configuration without a gate: error %v", err)
	}
}

// TestSurveyTellsOfNobody: whatever stands in a log, what is printed holds no
// address, no identifier and no value of a query.
func TestSurveyTellsOfNobody(t *testing.T) {
	t.Parallel()
	secrets := []string{
		"ann@example.org", "ann%40example.org", "0b5e1ed0000000000000000000000001", "7e3c8b1e-2f6a-4b1f-8c11-3d8a5e9d0c55", "192.0.2.77", "2001:db8::7",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl", "4915123456789", "deadbeefcafe", "XkJqZrTvWmAa", "user-8191443",
	}
	var log, har strings.Builder
	for _, secret := range secrets {
		for _, path := range []string{"/metrics/%s", "/u/%s/beacon", "/%s/collect", "/pixel.gif?e=%s", "/in/i/v0/e?ip=1&_=1&token=%s", "/%s/i/v0/e?ip=1&_=2", "/submit/%s/b/1/%[1]s", "/track;s=%s"} {
			fmt.Fprintf(&log, "192.0.2.77 - %s [27/Nov/2026:10:00:00 +0000] \"POST %s HTTP/1.1\" 204 0 \"https://a.example/%[1]s\" \"Mozilla/5.0 (%[1]s)\"\n", secret, fmt.Sprintf(path, secret))
			line, err := json.Marshal(map[string]any{"request": map[string]any{
				"method": "POST", "host": "a.example", "uri": fmt.Sprintf(path, secret), "remote_ip": "192.0.2.77",
				"headers": map[string][]string{"User-Agent": {"Mozilla/5.0 " + secret}, "Ping-To": {secret}},
			}, "status": 204, "size": 0, "bytes_read": 9})
			if err != nil {
				t.Fatal(err)
			}
			log.Write(append(line, '\n'))
			fmt.Fprintf(&har, `,{"request":{"method":%q,"url":"https://%s.telemetry.example%s","headers":[{"name":"X","value":%[1]q}]},"response":{"status":204},"_resourceType":"ping"}`,
				secret, strings.NewReplacer("%", "", "@", "", ":", "", ".", "").Replace(secret), fmt.Sprintf(path, secret))
		}
	}
	recordings := []string{
		written(t, "access.log", log.String()),
		written(t, "a.har", `{"log":{"entries":[{"request":{"method":"GET","url":"https://a.example/"},"response":{"status":200}}`+har.String()+`]}}`),
	}
	for _, args := range [][]string{recordings, append([]string{"--json"}, recordings...)} {
		out, err := run(surveyCommand(), args...)
		if err != nil || !strings.Contains(out, "/submit/*/*/*/*") || !strings.Contains(out, "telemetry.example") {
			t.Errorf("%q: error %v\n%s", args, err, out)
		}
		for _, secret := range append(secrets, "0b5e", "7e3c", "db8", "eyJ", "49151") {
			if strings.Contains(strings.ToLower(out), strings.ToLower(secret)) {
				t.Errorf("%s is in\n%s", secret, out)
			}
		}
	}
}
