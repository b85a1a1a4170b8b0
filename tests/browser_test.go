package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An answer is what came back, and what the application saw, if it did.
type answer struct {
	status int
	header http.Header
	body   string
	sent   *sent
}

// sent is a request that was answered at a time.
type sent struct {
	id, addr string
	answered time.Time
	behind   *contentServer
	got      *received
}

// passed is what the application got of the request, and nil where it got
// nothing. It may come after the answer.
func (a answer) passed() *received {
	s := a.sent
	if s.got == nil {
		s.got = s.behind.byID(s.id)
	}
	if s.got == nil {
		testcaddy.Settle(s.addr, s.answered)
		s.got = s.behind.byID(s.id)
	}
	return s.got
}

// collected tells whether the request reached the application.
func (a answer) collected() bool { return a.passed() != nil }

// decision is blocked or collected, as the rules' table has it.
func (a answer) decision() string {
	if a.collected() {
		return "collect"
	}
	return "block"
}

var serial atomic.Int64

// send sends one request ("POST /metrics") to the gate in front of the content
// server, with headers as "Name: value".
func send(t testing.TB, behind *contentServer, addr, request, body string, headers ...string) answer {
	t.Helper()
	a, err := trySend(behind, addr, request, body, headers...)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return a
}

// trySend is send for goroutines, which may not end the test.
func trySend(behind *contentServer, addr, request, body string, headers ...string) (answer, error) {
	method, target, _ := strings.Cut(request, " ")
	r, err := http.NewRequest(method, "http://"+addr+target, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	id := fmt.Sprintf("r%d", serial.Add(1))
	r.Header.Set("X-Request-ID", id)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header[name] = append(r.Header[name], value) // in the letter case of the test
	}
	response, err := testcaddy.Client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Header, string(got), &sent{id: id, addr: addr, answered: time.Now(), behind: behind}}, nil
}

// speak sends bytes over TCP as they are and returns all the bytes that come
// back until the gate has answered and closes; the request has to say
// Connection: close.
func speak(t testing.TB, addr, request string) string {
	t.Helper()
	connection, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(testcaddy.Patience))
	if _, err := io.WriteString(connection, request); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(connection)
	if err != nil {
		t.Fatalf("%v after %q", err, got)
	}
	return string(got)
}

// readAnswer takes raw bytes apart again.
func readAnswer(t testing.TB, raw, method string) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	return response, string(body)
}

// withoutDate is the answer less the one header that may differ.
func withoutDate(raw string) string {
	var kept bytes.Buffer
	for line := range strings.Lines(raw) {
		if !strings.HasPrefix(line, "Date: ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
