package tests

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A hostile connection writes what it likes, and reads what it can.
type hostile struct {
	t testing.TB
	net.Conn
	answers *bufio.Reader
}

func dial(t testing.TB, addr string) *hostile {
	t.Helper()
	connection, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(testcaddy.Patience))
	return &hostile{t, connection, bufio.NewReader(connection)}
}

// begin sends a request's head.
func (h *hostile) begin(id, addr string, headers ...string) {
	h.t.Helper()
	head := "POST /metrics HTTP/1.1\r\nHost: " + addr + "\r\nX-Request-Id: " + id + "\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n"
	if _, err := io.WriteString(h, head); err != nil {
		h.t.Fatal(err)
	}
}

// answer is the first thing that the server says, interim answers included.
func (h *hostile) answer() (status int, body string) {
	h.t.Helper()
	line, err := h.answers.Peek(len("HTTP/1.1 200"))
	if err != nil {
		h.t.Fatalf("no answer: %v", err)
	}
	if _, err := fmt.Sscanf(string(line), "HTTP/1.1 %d", &status); err != nil {
		h.t.Fatalf("%q is no answer", line)
	}
	if status < 200 {
		return status, ""
	}
	response, err := http.ReadResponse(h.answers, &http.Request{Method: http.MethodPost})
	if err != nil {
		h.t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return status, string(got)
}

// A body that is not needed is not read; one that is needed is read so far and
// no further. The answer comes either way, and the server stays up.
func TestBodiesNotRead(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)
	outCookie, inCookie := testcaddy.Cookie(testcaddy.Session(out)), testcaddy.Cookie(testcaddy.Session(in))

	for _, c := range []struct {
		name    string
		headers []string
	}{
		{"100 MB, announced, of an opted-out user", []string{outCookie, "Content-Length: 104857600"}},
		{"100 MB, announced, with the browser's signal", []string{"Cookie: metrics_optout=true", "Content-Length: 104857600"}},
		{"100 MB, announced, of an unverifiable session", []string{testcaddy.Cookie("garbage"), "Content-Length: 104857600"}},
		{"100 MB, announced, that may name somebody", []string{"Content-Length: 104857600"}},
		{"100 MB, announced, that may name somebody else", []string{inCookie, "Content-Length: 104857600"}},
		{"Expect: 100-continue, of an opted-out user", []string{outCookie, "Content-Length: 300", "Expect: 100-continue"}},
		{"Expect: 100-continue, with the browser's signal", []string{"Metrics-Optout: 1", "Content-Length: 300", "Expect: 100-continue"}},
		{"Expect: 100-continue, chunked", []string{outCookie, "Transfer-Encoding: chunked", "Expect: 100-continue"}},
		{"Expect: 100-continue, 100 MB that may name somebody", []string{"Content-Length: 104857600", "Expect: 100-continue"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := fmt.Sprintf("unread%d", serial.Add(1))
			h := dial(t, addr)
			h.begin(id, addr, c.headers...) // and not a byte of the body
			if status, body := h.answer(); status != http.StatusOK || body != success {
				t.Errorf("answered %d %q", status, body)
			}
			if behind.byID(id) != nil {
				t.Error("it reached the application")
			}
		})
	}
}

// Where the body is needed, the browser is told to send it.
func TestExpectAndGet(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	for choice, want := range map[preference]bool{allow: true, optOut: false} {
		body, id := flushOf(t, profile.account(choice)), fmt.Sprintf("expect%d", serial.Add(1))
		h := dial(t, addr)
		h.begin(id, addr, fmt.Sprintf("Content-Length: %d", len(body)), "Expect: 100-continue")
		if status, _ := h.answer(); status != http.StatusContinue {
			t.Fatalf("a body that is needed: %d instead of 100", status)
		}
		if _, err := io.WriteString(h, body); err != nil {
			t.Fatal(err)
		}
		if response, err := http.ReadResponse(h.answers, nil); err != nil || response.StatusCode != http.StatusContinue {
			t.Fatalf("%v, %v", response, err)
		}
		if status, got := h.answer(); status != http.StatusOK || got != success {
			t.Errorf("answered %d %q", status, got)
		}
		testcaddy.Settle(addr, time.Now())
		if got := behind.byID(id); (got != nil) != want || (want && string(got.body) != body) {
			t.Errorf("preference %s: reached the application: %v", choice, got != nil)
		}
	}
}

// A body without end is answered while it is still being sent.
func TestEndlessBodies(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	in := profile.account(allow)
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", 4096, strings.Repeat(" ", 4096))

	for _, c := range []struct {
		name, first string
		headers     []string
	}{
		{"opted out", "{", []string{testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))}},
		{"naming somebody, some time", `{"uid":"` + in + `",`, nil},
		{"naming somebody, some time, from an allowed session", `{`, []string{testcaddy.Cookie(testcaddy.Session(in))}},
		{"inflating without end", "", []string{"Content-Encoding: gzip"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := fmt.Sprintf("endless%d", serial.Add(1))
			h := dial(t, addr)
			h.begin(id, addr, append(c.headers, "Transfer-Encoding: chunked")...)
			sending := make(chan struct{})
			go func() {
				defer close(sending)
				if c.first != "" {
					_, _ = fmt.Fprintf(h, "%x\r\n%s\r\n", len(c.first), c.first)
				}
				for {
					if _, err := h.Write(chunk); err != nil {
						return // the server has had enough, or the test
					}
				}
			}()
			if status, body := h.answer(); status != http.StatusOK || body != success {
				t.Errorf("answered %d %q", status, body)
			}
			if behind.byID(id) != nil {
				t.Error("it reached the application")
			}
			h.Close()
			<-sending
		})
	}
	if a := send(t, behind, addr, "POST /metrics", flushOf(t, in)); !a.collected() {
		t.Error("the server is no longer what it was")
	}
}

// A small body that inflates to 100 MB is a name that could not be learnt.
func TestBombs(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	in := profile.account(allow)

	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, _ = io.WriteString(w, `{"uid":"`+in+`","pad":"`)
	megabyte := bytes.Repeat([]byte("x"), 1<<20)
	for range 100 {
		_, _ = w.Write(megabyte)
	}
	_, _ = io.WriteString(w, `"}`)
	_ = w.Close()
	if bomb.Len() > 128<<10 {
		t.Fatalf("the bomb has %d bytes, and would not be read at all", bomb.Len())
	}
	twice := gzipped(bomb.String())
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"gzip":                       {bomb.String(), []string{"Content-Encoding: gzip"}},
		"gzip, from a verified user": {bomb.String(), []string{"Content-Encoding: gzip", testcaddy.Cookie(testcaddy.Session(in))}},
		"gzip in gzip":               {twice, []string{"Content-Encoding: gzip, gzip"}},
		"gzip in two ways":           {twice, []string{"Content-Encoding: gzip", "Content-Encoding: gzip"}},
		"deep JSON":                  {strings.Repeat("[", 100_000), nil},
		"deep JSON in an object":     {`{"a":` + strings.Repeat(`{"a":`, 20_000), nil},
	} {
		before := caddy.Metric("requests_total", "decision", "block", "reason", "unknown")
		a := send(t, behind, addr, "POST /metrics", c.body, c.headers...)
		if a.collected() || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: collected %v, answered %d %q", name, a.collected(), a.status, a.body)
		}
		if got := caddy.Metric("requests_total", "decision", "block", "reason", "unknown") - before; got != 1 {
			t.Errorf("%s: counted %v times as unknown", name, got)
		}
	}
	if a := send(t, behind, addr, "POST /metrics", flushOf(t, in)); !a.collected() {
		t.Error("the server is no longer what it was")
	}
}

// What a sender can do to a body so that its name cannot be read blocks, also
// with on_unknown collect.
func TestBodiesThatCannotBeReadAlwaysBlock(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", "on_unknown collect", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	big := `{"broker":"web","pad":"` + strings.Repeat("0123456789", 100_000) + `"}`
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"1 MB":                  {big, nil},
		"1 MB as gzip":          {gzipped(big), []string{"Content-Encoding: gzip"}},
		"not gzip":              {big[:1000], []string{"Content-Encoding: gzip"}},
		"broken JSON":           {big[:1000], nil},
		"unknown coding":        {big[:1000], []string{"Content-Encoding: br"}},
		"of a user that allows": {big[:1000], []string{in}},
		"UTF-7":                 {`{"broker":"web"}`, []string{"Content-Type: application/json; charset=utf-7"}},
		"a name that is a list": {`{"uid":["none"]}`, nil},
	} {
		if a := send(t, behind, addr, "POST /metrics", c.body, c.headers...); a.collected() || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: collected %v, answered %d %q", name, a.collected(), a.status, a.body)
		}
	}

	// The same without an announced length.
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, big); w.Close() }()
	request, _ := http.NewRequest(http.MethodPost, "http://"+addr+"/metrics", r)
	request.Header.Set("X-Request-ID", "piped")
	response, err := testcaddy.Client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if behind.byID("piped") != nil {
		t.Error("a chunked body of 1 MB arrived")
	}
}

// What a client writes behind a body cannot tell the application what was
// decided; other trailers go on.
func TestTrailers(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("route POST /api/beacon", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	for _, path := range []string{"/api/beacon", "/api/data", "/metrics"} {
		for _, name := range []string{"Metrics-Gate-Decision", "metrics-gate-decision", "Metrics_Gate_Decision", "Metrics.Gate-Decision", "Metrics-Gate-Trace", "Metrics_Gate-Trace"} {
			for _, announced := range []string{"X-Checksum", "X-Checksum, " + name} {
				id := fmt.Sprintf("trailer%d", serial.Add(1))
				speak(t, addr, "POST "+path+" HTTP/1.1\r\nHost: gate.test\r\nX-Request-ID: "+id+"\r\nTransfer-Encoding: chunked\r\nTrailer: "+announced+
					"\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\nX-Checksum: 1\r\n"+name+": collect\r\n\r\n")
				testcaddy.Settle(addr, time.Now())
				got := behind.byID(id)
				if got == nil {
					t.Fatalf("%s, announced %s: it did not arrive", path, announced)
				}
				if want := (http.Header{"X-Checksum": {"1"}}); !cmp.Equal(got.trailer, want) {
					t.Errorf("%s, announced %s: the application got the trailers %v, want %v", path, announced, got.trailer, want)
				}
			}
		}
	}
}
