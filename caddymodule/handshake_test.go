package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// handshakeGate is a gate with the handshake, in front of the three accounts
// of profiles.
func handshakeGate(tb testing.TB, options string) *Gate {
	return fxaGate(tb, "", "write_back on", "handshake {\n"+options+"\n}")
}

// ask sends a request through the gate, with headers as "Name: value", and
// returns the reply and what the application saw of it, if it did.
func ask(tb testing.TB, module *Gate, line, body, page string, headers ...string) (*httptest.ResponseRecorder, *http.Request) {
	tb.Helper()
	method, target, _ := strings.Cut(line, " ")
	r, w := request(method, target, body, headerOf(headers))
	var passed *http.Request
	err := module.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		passed = r.Clone(r.Context())
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("ETag", `"1"`)
		_, err := w.Write([]byte(page))
		return err
	}))
	if err != nil {
		tb.Fatal(err)
	}
	return w, passed
}

// headerOf reads headers that are written as "Name: value".
func headerOf(lines []string) map[string]string {
	header := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		header[name] = value
	}
	return header
}

const sameOrigin = "Sec-Fetch-Site: same-origin"
