package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A collected beacon whose reply is hidden is handed on after its answer: by
// every protocol, beside an access log and handle_errors, over a reload, and to
// the end of the process. Under -race, Caddy itself is built with the detector.
func TestHandedOnAfterTheAnswer(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			behind, profile := newContentServer(t), newProfile(t)
			addr := testcaddy.FreeAddr(t)
			certificate, key := certificateOf(t, "localhost")
			accessLog := filepath.Join(t.TempDir(), "access.log")
			_, port, _ := strings.Cut(addr, ":")
			site := "https://localhost:" + port + ` {
				bind 127.0.0.1
				tls ` + certificate + ` ` + key + `
				log {
					output file ` + accessLog + `
				}
				vars tenant acme
				` + testcaddy.Gate("preset fxa", profile.block(patient)) + `
				reverse_proxy ` + behind.addr() + ` {
					header_up X-Tenant {vars.tenant}
					header_up X-Decided {http.metrics_gate.decision}
					header_up X-Target {http.request.orig_uri}
				}
				handle_errors {
					respond "an error page"
				}
			}
			`
			caddy := testcaddy.Start(t, site)
			client := clientOf(t, protocol)
			beacon := func(body string) {
				t.Helper()
				response, err := client.Post("https://localhost:"+port+"/metrics?x=1", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				answer, err := io.ReadAll(response.Body)
				if err != nil || string(answer) != success || response.Proto != protocol || response.Header.Get("Set-Cookie") != "" {
					t.Errorf("answered %s %q, %v, %v", response.Proto, answer, response.Header, err)
				}
			}

			// While the application holds all of them, clients are answered.
			release := make(chan struct{})
			behind.hold.Store(&release)
			body := flushOf(t, profile.account(allow))
			for range 3 {
				beacon(body)
			}
			behind.log.Wait(t, "all to have reached the application", func(all []received) bool { return len(all) == 3 })
			if n := caddy.Metric("detached_requests"); n != 3 {
				t.Errorf("%v are counted as on their way", n)
			}
			if err := caddy.Reload(strings.Replace(site, "tenant acme", "tenant other", 1)); err != nil {
				t.Fatal(err)
			}
			beacon(body)
			behind.log.Wait(t, "the one after the reload", func(all []received) bool { return len(all) == 4 })
			close(release)
			testcaddy.Until(t, "all to have ended", func() bool { return caddy.Metric("detached_requests") == 0 })
			for i, got := range behind.log.All() {
				tenant := map[bool]string{true: "acme", false: "other"}[i < 3]
				if string(got.body) != body || got.uri != "/metrics?x=1" || got.header.Get("Metrics-Gate-Decision") != "collect" ||
					got.header.Get("X-Tenant") != tenant || got.header.Get("X-Decided") != "collect" || got.header.Get("X-Target") != "/metrics?x=1" {
					t.Errorf("the application got %s %q, %v", got.uri, got.body, got.header)
				}
			}
			if n := caddy.Metric("upstream_total", "class", "2xx"); n != 4 {
				t.Errorf("%v replies are counted as 2xx", n)
			}

			// The end of the process waits for the last one.
			release = make(chan struct{})
			behind.hold.Store(&release)
			beacon(body)
			behind.log.Wait(t, "the last one", func(all []received) bool { return len(all) == 5 })
			go func() {
				caddy.Logged("shutting down")
				close(release)
			}()
			caddy.Stop()
			if n := testcaddy.Must(os.ReadFile(accessLog)); strings.Count(string(n), `"status":200`) != 5 {
				t.Errorf("the access log has\n%s", n)
			}
		})
	}
}

// certificateOf makes a certificate, and returns its file and that of its key.
func certificateOf(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private := testcaddy.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	folder := t.TempDir()
	for file, block := range map[string]*pem.Block{
		"certificate.pem": {Type: "CERTIFICATE", Bytes: testcaddy.Must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))},
		"key.pem":         {Type: "PRIVATE KEY", Bytes: testcaddy.Must(x509.MarshalPKCS8PrivateKey(private))},
	} {
		if err := os.WriteFile(filepath.Join(folder, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(folder, "certificate.pem"), filepath.Join(folder, "key.pem")
}

// clientOf speaks one protocol, and trusts whoever answers on loopback.
func clientOf(t *testing.T, protocol string) *http.Client {
	t.Helper()
	trust := &tls.Config{InsecureSkipVerify: true}
	if protocol == "HTTP/3.0" {
		transport := &http3.Transport{TLSClientConfig: trust}
		t.Cleanup(func() { _ = transport.Close() })
		return &http.Client{Transport: transport}
	}
	transport := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: protocol == "HTTP/2.0"}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// An application that breaks off or is not there fails nobody's beacon, and none
// of it reaches the client or handle_errors.
func TestHiddenFailures(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	broken := testcaddy.FreeAddr(t) // nobody listens
	away, cut := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	cutting := newCuttingServer(t)
	gate := testcaddy.Gate("preset fxa", profile.block(patient))
	errors := "handle_errors {\nrespond \"an error page\"\n}"
	caddy := testcaddy.Start(t,
		testcaddy.Site(away, gate, testcaddy.ProxyTo(broken), errors),
		testcaddy.Site(cut, gate, testcaddy.ProxyTo(cutting), errors),
	)
	body := flushOf(t, profile.account(allow))
	for _, addr := range []string{away, cut} {
		for range 3 {
			if a := send(t, behind, addr, "POST /metrics", body); a.status != http.StatusOK || a.body != success {
				t.Errorf("answered %d %q", a.status, a.body)
			}
		}
	}
	testcaddy.Until(t, "all to be counted", func() bool { return caddy.Metric("upstream_total") == 6 })
	for class, want := range map[string]float64{"5xx": 3, "aborted": 3} {
		if n := caddy.Metric("upstream_total", "class", class); n != want {
			t.Errorf("%v replies are counted as %s, want %v", n, class, want)
		}
	}
	caddy.Logged("the upstream failed on a collected request", `"class":"5xx"`, `"error":"dial tcp `+broken+": ")
}

// newCuttingServer begins its replies and breaks off.
func newCuttingServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
