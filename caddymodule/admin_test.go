package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/gate"
)

// adminAPI answers as Caddy's admin API does.
func adminAPI(admin *Admin) func(method, path string) (status int, body string) {
	mux := http.NewServeMux()
	for _, route := range admin.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if failed, ok := errors.AsType[caddy.APIError](route.Handler.ServeHTTP(w, r)); ok {
				http.Error(w, failed.Err.Error(), failed.HTTPStatus)
			}
		})
	}
	return func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
}

// TestStatusBeforeAnythingRuns: Caddy has its admin API answer before it has
// provisioned what the configuration holds, which in this process it never does.
func TestStatusBeforeAnythingRuns(t *testing.T) {
	status, body := adminAPI(Admin{}.CaddyModule().New().(*Admin))("GET", "/metrics_gate/status")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "still being loaded") || strings.Contains(body, "holds neither") {
		t.Errorf("%d %s", status, body)
	}
}

// TestTracesOverTheAdminAPI: opened with POST, read with GET, by any gate of the
// process, and refused with words.
func TestTracesOverTheAdminAPI(t *testing.T) {
	ask := adminAPI(Admin{}.CaddyModule().New().(*Admin))
	status, body := ask("POST", TracesPath)
	var opened OpenedTrace
	if err := json.Unmarshal([]byte(body), &opened); err != nil || status != http.StatusCreated || len(opened.Nonce) < 20 {
		t.Fatal(status, body, err)
	}
	if status, body := ask("GET", TracesPath+"/"+opened.Nonce); status != http.StatusOK || body != "[]\n" {
		t.Errorf("before a request there is %d %q", status, body)
	}
	module := fxaGate(t, "", "label edge")
	for _, cookie := range []string{"session=f0rged", sessionOf(t, optedOutUID)} {
		r, w := request("POST", "/metrics", `{"uid":"`+optedOutUID+`"}`, map[string]string{gate.TraceHeader: opened.Nonce, "Cookie": cookie})
		if err := module.ServeHTTP(w, r, cheapUpstream); err != nil {
			t.Fatal(err)
		}
	}
	status, body = ask("GET", TracesPath+"/"+opened.Nonce)
	var written []gate.Trace
	if err := json.Unmarshal([]byte(body), &written); err != nil || status != http.StatusOK || len(written) != 2 {
		t.Fatal(status, body, err)
	}
	if written[0].Gate != "edge" || written[0].Reason != "unverified_session" || written[1].Reason != "preference" || written[1].Credentials[0].Kind != "jwt" {
		t.Error(body)
	}
	for _, needle := range []string{optedOutUID, "f0rged", "eyJ"} {
		if strings.Contains(body, needle) {
			t.Errorf("it tells %q: %s", needle, body)
		}
	}

	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", TracesPath, http.StatusMethodNotAllowed, "POST"},
		{"POST", TracesPath + "/" + opened.Nonce, http.StatusMethodNotAllowed, "GET"},
		{"GET", TracesPath + "/nosuch", http.StatusNotFound, "no such trace"},
		{"GET", TracesPath + "/", http.StatusNotFound, "no such trace"},
	} {
		if status, body := ask(c.method, c.path); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
	full := adminAPI(&Admin{traces: new(gate.Traces)}) // so that other tests find room
	for range gate.MaxTraces + 1 {
		status, body = full("POST", TracesPath)
	}
	if status != http.StatusTooManyRequests || !strings.Contains(body, "a minute") {
		t.Errorf("one too many: %d %s", status, body)
	}
}
