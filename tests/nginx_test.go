package tests

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/spellings"
)

// nginxInFront is nginx in front of an application, and a Caddy with a gate
// beside it, both as docs/applications.md has them.
type nginxInFront struct {
	addr      string
	accessLog string
	caddy     *testcaddy.Server
}

// The one Caddyfile with a server in front of it, its global options and its
// site, and the configuration of nginx.
var (
	caddyBehind = regexp.MustCompile("(?s)```caddyfile\n\\{\n(.*?)\n\\}\n\n(http://:8088 \\{.*?)```")
	nginxConfig = regexp.MustCompile("(?s)```nginx\n(.*?)```")
)

// The gated paths of the documented configuration, and how nginx is reached.
const (
	documentedPaths = "ingest|monitoring"
	documentedTLS   = "listen 443 ssl;"
)

func documented(t *testing.T, what *regexp.Regexp) []string {
	t.Helper()
	match := what.FindStringSubmatch(string(testcaddy.Must(os.ReadFile("../docs/applications.md"))))
	if match == nil {
		t.Fatalf("docs/applications.md has nothing like %s", what)
	}
	return match[1:]
}

// startNginx starts both in front of the application; what
// goes through the gate are these paths, and its site is the documented one as
// gate changes it. Without a certificate nginx is spoken to in plain HTTP.
func startNginx(t *testing.T, application, paths string, gate func(documented string) string, certificate ...string) *nginxInFront {
	t.Helper()
	n := &nginxInFront{addr: testcaddy.FreeAddr(t)}
	gateAddr := testcaddy.FreeAddr(t)
	_, gatePort, _ := net.SplitHostPort(gateAddr)
	behind := documented(t, caddyBehind)
	site := strings.NewReplacer(
		":8088", ":"+gatePort,
		"reverse_proxy app:3000", "reverse_proxy "+application+" {\nheader_up X-Through-The-Gate 1\n}",
	).Replace(gate(behind[1]))
	n.caddy = testcaddy.StartWith(t, behind[0], site)

	folder := t.TempDir()
	n.accessLog = filepath.Join(folder, "access.log")
	config := documented(t, nginxConfig)[0]
	replace := []string{"app:3000", application, "127.0.0.1:8088", gateAddr, documentedPaths, paths}
	if len(certificate) > 0 {
		replace = append(replace, documentedTLS, "listen "+n.addr+" ssl;",
			"/etc/ssl/app.example.org.pem", certificate[0], "/etc/ssl/app.example.org.key", certificate[1])
	} else {
		config = regexp.MustCompile(`(?m)^\tssl_.*\n`).ReplaceAllString(config, "")
		replace = append(replace, documentedTLS, "listen "+n.addr+";")
	}
	var temporary strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "%s_temp_path %s;\n", kind, filepath.Join(folder, kind))
	}
	config = "daemon off;\nmaster_process off;\npid " + filepath.Join(folder, "pid") + ";\nevents {}\nhttp {\n" +
		temporary.String() + "access_log " + n.accessLog + ";\nclient_max_body_size 8m;\n" + strings.NewReplacer(replace...).Replace(config) + "}\n"
	file := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // where Debian has it, and not everybody's PATH
	}
	cmd := exec.Command(program, "-p", folder, "-c", file, "-e", filepath.Join(folder, "error.log"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; run tests/setup.sh, or make test, which does", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx said %s%s", &said, testcaddy.Must(os.ReadFile(filepath.Join(folder, "error.log"))))
		}
	})
	testcaddy.Until(t, "nginx to listen", func() bool {
		connection, err := net.Dial("tcp", n.addr)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	return n
}

// TestNginxInFront sends what is gated through the gate, and nothing else, as
// docs/applications.md has it.
func TestNginxInFront(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	certificate, key := certificateOf(t, "app.example.org")
	n := startNginx(t, behind.addr(), documentedPaths, func(site string) string {
		return withBlock(withBlock(site, "session", testcaddy.SessionJWT()), "profile", profile.block(patient, "not_found null"))
	}, certificate, key)
	out, in := testcaddy.Cookie(testcaddy.Session(profile.account(optOut))), testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	_, port, _ := net.SplitHostPort(n.addr)
	host := "app.example.org:" + port
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, n.addr)
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	// ask sends a request with its path as it is written.
	ask := func(request string, body []byte, headers ...string) (status int, header http.Header, got, id string) {
		t.Helper()
		method, target, _ := strings.Cut(request, " ")
		r := testcaddy.Must(http.NewRequest(method, "https://"+host, bytes.NewReader(body)))
		r.URL.Opaque = target
		if strings.HasPrefix(target, "//") { // which would be taken for a host
			r.URL.Opaque = "//" + host + target
		}
		id = fmt.Sprintf("n%d", serial.Add(1))
		r.Header.Set("X-Request-ID", id)
		for _, line := range headers {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Add(name, value)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		defer response.Body.Close()
		return response.StatusCode, response.Header, string(testcaddy.Must(io.ReadAll(response.Body))), id
	}
	arrived := func(id string) *received {
		t.Helper()
		behind.log.Wait(t, "the request to arrive", func([]received) bool { return behind.byID(id) != nil })
		return behind.byID(id)
	}

	// Whoever opted out is stopped, however the path is written, and gets the
	// answer of a success.
	for _, target := range []string{
		"/ingest/e", "/ingest/e/?ip=0&_=1", "/Ingest/E", "/INGEST/i/v0/e", "//ingest/e", "/x/../ingest/e", "/ingest//e", "/%69ngest/%65",
		"/ingest;a=b/e", "/x%2f..%2fingest/e", "/x/..;/ingest/e", "//host/ingest/e", `/x\..\ingest/e`, "/ingest/e/../e", "/monitoring", "/Monitoring/", "/monitoring?x", "/%6donitoring/../monitoring",
	} {
		status, _, got, id := ask("POST "+target, []byte("{}"), out)
		if want := map[bool]string{true: "{}", false: `{"status":1}`}[strings.Contains(strings.ToLower(target), "monitoring")]; status != http.StatusOK || got != want {
			t.Errorf("%s of somebody who opted out: %d %q", target, status, got)
		}
		if behind.byID(id) != nil {
			t.Errorf("%s of somebody who opted out arrived", target)
		}
	}

	// What is collected arrives as it was sent.
	random := make([]byte, 600<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	body := []byte(gzipped(fmt.Sprintf(`{"batch":[{"properties":{"$snapshot":%q}}]}`, base64.StdEncoding.EncodeToString(random))))
	for _, target := range []string{"/ingest/s/?compression=gzip-js&ver=1%2e2", "//x/../ingest/./s?a=b"} {
		_, _, _, id := ask("POST "+target, body, in, "Content-Type: text/plain", "X-Own: kept", "X-Forwarded-For: 203.0.113.9", "Metrics-Gate-Decision: forged")
		got := arrived(id)
		if got.uri != target || !bytes.Equal(got.body, body) || got.err != nil {
			t.Errorf("%s arrives as %s with %d bytes, %v", target, got.uri, len(got.body), got.err)
		}
		for name, want := range map[string]string{
			"Cookie": strings.TrimPrefix(in, "Cookie: "), "Content-Type": "text/plain", "X-Own": "kept",
			"X-Forwarded-Proto": "https", "X-Forwarded-Host": host, "X-Through-The-Gate": "1", "Metrics-Gate-Decision": "collect",
		} {
			if values := got.header[name]; !slices.Equal(values, []string{want}) {
				t.Errorf("%s: the application reads %s: %q, want %q", target, name, values, want)
			}
		}
		if from := got.header.Get("X-Forwarded-For"); !strings.HasPrefix(from, "127.0.0.1") {
			t.Errorf("%s: the visitor's address is %s", target, from)
		}
	}

	// Everything else goes to the application itself, without a forged outcome.
	for _, request := range []string{"GET /signin", "GET /asset.js", "POST /api/beacon", "GET /ingestion", "GET /metrics-gate/", "GET /page?next=/ingest/e", "GET /caf%c3%a9/a%20b;c//d.js"} {
		_, _, _, id := ask(request, nil, out, "Accept: text/html", "Metrics-Gate-Decision: forged")
		got := arrived(id)
		if outcomes(got) != nil || got.header.Get("X-Through-The-Gate") != "" || got.header.Get("Cookie") == "" || got.header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s arrives with %v", request, got.header)
		}
	}

	// The gate's own addresses know the site by its name and scheme: without Fetch
	// metadata, Origin has to match.
	status, header, _, _ := ask("POST /.well-known/metrics-gate/signal", []byte(`{"metrics_optout":true}`), "Content-Type: application/json", "Origin: https://"+host)
	if cookie := header.Get("Set-Cookie"); status != http.StatusNoContent || !strings.HasPrefix(cookie, "metrics_optout=1;") {
		t.Errorf("the script's report: %d, cookie %q", status, cookie)
	}
	status, _, got, _ := ask("GET /.well-known/metrics-gate/status", nil, out, "Sec-Fetch-Site: same-origin")
	if status != http.StatusOK || !strings.Contains(got, `"metrics_optout":true`) {
		t.Errorf("the status: %d %q", status, got)
	}

	// nginx keeps no line of what is gated, and where the gate cannot be reached
	// nothing goes around it.
	n.caddy.Stop()
	status, _, _, id := ask("POST /ingest/e", []byte("{}"), in)
	if status != http.StatusBadGateway || behind.byID(id) != nil {
		t.Errorf("without the gate: %d, arrived %v", status, behind.byID(id) != nil)
	}
	lines := string(testcaddy.Must(os.ReadFile(n.accessLog)))
	if !strings.Contains(lines, "GET /signin") || strings.Contains(lines, " /ingest/") || strings.Contains(lines, "well-known") {
		t.Errorf("nginx's access log has\n%s", lines)
	}
}

// No real server's handler for a gated route runs behind nginx for somebody who
// opted out, however the request is written.
func TestRealServersBehindNginx(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("spellings")
	if err != nil {
		t.Fatal(err)
	}
	profile := newProfile(t)
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	for _, server := range spellings.Servers {
		if server.Name != "express5" && server.Name != "node" {
			continue
		}
		running := startRealServer(t, folder, server)
		n := startNginx(t, running.addr, `beacon|pixel\.gif|patch|a|t|api`, func(string) string {
			return "http://:8088 {\n" + testcaddy.Gate(spellings.Caddyfile(), testcaddy.SessionJWT(), profile.block(patient)) + "\nreverse_proxy app:3000\n}"
		})
		holdsSpellings(t, server, n.addr, in, out)
	}
}
