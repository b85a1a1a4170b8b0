package tests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An existingProfileServer stands in for the profile server that is there
// already. Its profile can be any answer; to the rest it says what it was asked.
type existingProfileServer struct {
	*httptest.Server
	profile atomic.Pointer[http.HandlerFunc]
}

func newExistingProfileServer(t *testing.T) *existingProfileServer {
	e := &existingProfileServer{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if profile := e.profile.Load(); profile != nil && r.URL.Path == "/v1/profile" && r.Method != http.MethodPost {
			(*profile)(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Existing", "yes")
		reply(w, http.StatusTeapot, "text/plain", "existing: "+r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(body))
	}))
	t.Cleanup(e.Close)
	return e
}

// answers has GET /v1/profile answered so.
func (e *existingProfileServer) answers(status int, kind, body string) {
	f := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"0123456789abcdef"`)
		w.Header().Set("Last-Modified", "Wed, 23 Mar 2016 20:54:05 GMT")
		w.Header().Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
		if r.Header.Get("If-None-Match") == `"0123456789abcdef"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		reply(w, status, kind, body)
	})
	e.profile.Store(&f)
}

const jsonKind = "application/json; charset=utf-8"

// The profile of the server behind gets the preference as one more member, for
// tokens that may read it. Whatever else that server answers stays as it is.
func TestProfileIsCompleted(t *testing.T) {
	t.Parallel()
	existing := newExistingProfileServer(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db")), testcaddy.ProxyTo(existing.Listener.Addr().String())))
	out, in, silent := testcaddy.NewUID(t), testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, addr, out, optOut)
	choose(t, addr, in, allow)
	token := func(uid, scope string) string {
		return testcaddy.RelierToken(addr, uid, scope, testcaddy.TrustedRelier)
	}

	const whole = `{"email":"ann@example.org","uid":"7d…","locale":"de","n":12345678901234567890, "amrValues":["pwd"]}`
	added := func(member string) string { return strings.TrimSuffix(whole, "}") + "," + member + "}" }
	for _, c := range []struct {
		name, token  string
		status       int
		kind, behind string
		want         string
	}{
		{"opted out", token(out, "profile"), 200, jsonKind, whole, added(`"metrics_optout":true`)},
		{"allowed", token(in, "profile"), 200, jsonKind, whole, added(`"metrics_optout":false`)},
		{"no choice", token(silent, "profile"), 200, jsonKind, whole, whole},
		{"its own scope", token(out, "profile:email profile:metrics_optout"), 200, jsonKind, whole, added(`"metrics_optout":true`)},
		{"writing reads", token(out, "profile:write"), 200, jsonKind, whole, added(`"metrics_optout":true`)},
		{"another scope", token(out, "profile:email"), 200, jsonKind, whole, whole},
		{"a scope that only begins so", token(out, "profilebogey"), 200, jsonKind, whole, whole},
		{"an untrusted relier", testcaddy.RelierToken(addr, out, "profile", testcaddy.UntrustedOther), 200, jsonKind, whole, whole},
		{"a token of others", "0123456789abcdef", 200, jsonKind, whole, whole},
		{"an empty profile", token(out, "profile"), 200, jsonKind, `{}`, `{"metrics_optout":true}`},
		{"one that has the member already", token(out, "profile"), 200, jsonKind, `{"metrics_optout":false}`, `{"metrics_optout":true}`},
		{"not JSON", token(out, "profile"), 200, "text/html", "<html>welcome to the hotel</html>", "<html>welcome to the hotel</html>"},
		{"JSON that is none", token(out, "profile"), 200, jsonKind, `{"email":`, `{"email":`},
		{"JSON that is no object", token(out, "profile"), 200, jsonKind, `["email"]`, `["email"]`},
		{"two objects", token(out, "profile"), 200, jsonKind, `{}{}`, `{}{}`},
		{"empty", token(out, "profile"), 200, jsonKind, "", ""},
		{"refused", token(out, "profile"), 401, jsonKind, `{"code":401,"errno":100}`, `{"code":401,"errno":100}`},
		{"failed", token(out, "profile"), 500, jsonKind, `{"code":500,"errno":999}`, `{"code":500,"errno":999}`},
	} {
		existing.answers(c.status, c.kind, c.behind)
		status, header, body := testcaddy.AskFor(t, addr, "GET /v1/profile", c.token, "")
		if status != c.status || header.Get("Content-Type") != c.kind || !same(body, c.want) {
			t.Errorf("%s: %d %s %.200q, want %.200q", c.name, status, header.Get("Content-Type"), body, c.want)
		}
	}

	// A profile that the member cannot be put into is none: who reads it would
	// take that for no choice.
	existing.answers(200, jsonKind, `{"x":"`+strings.Repeat("x", 3<<20)+`"}`)
	status, _, body := testcaddy.AskFor(t, addr, "GET /v1/profile", token(out, "profile"), "")
	if status != http.StatusServiceUnavailable || !strings.HasPrefix(body, `{"code":503,"errno":999,`) {
		t.Errorf("an enormous profile: %d %.200q", status, body)
	}

	// The tag is of the whole: it changes with the preference, and holds until.
	existing.answers(200, jsonKind, whole)
	tagOf := func(condition string) (int, string, string) {
		status, header, body := testcaddy.AskFor(t, addr, "GET /v1/profile", token(silent, "profile"), "", "If-None-Match: "+condition)
		return status, header.Get("ETag"), body
	}
	_, first, _ := tagOf(`"none"`)
	if status, tag, body := tagOf(first); status != http.StatusNotModified || tag != first || body != "" {
		t.Errorf("a profile that is known: %d %q, ETag %s", status, body, tag)
	}
	choose(t, addr, silent, optOut)
	status, second, body := tagOf(first)
	if status != http.StatusOK || second == first || !strings.Contains(body, `"metrics_optout":true`) {
		t.Errorf("after a choice: %d %q, ETag %s", status, body, second)
	}
	existing.answers(200, jsonKind, `{"locale":"fr"}`)
	if status, tag, _ := tagOf(second); status != http.StatusOK || tag == second {
		t.Errorf("after the rest changed: %d, ETag %s", status, tag)
	}
	if status, header, body := testcaddy.AskFor(t, addr, "HEAD /v1/profile", token(out, "profile"), ""); status != http.StatusOK || body != "" || header.Get("ETag") == "" {
		t.Errorf("HEAD: %d %q, ETag %q", status, body, header.Get("ETag"))
	}

	// Everything else is none of its business.
	for _, request := range []string{
		"GET /v1/display_name", "POST /v1/display_name", "POST /v1/profile", "GET /v1/profile/", "GET /v1/email?x=%2F", "DELETE /v1/avatar/1", "GET /",
		"GET /__heartbeat__", "GET /__version__", "GET /v1/account/1", "POST /v1/events", "OPTIONS /v1/display_name",
	} {
		sent := map[bool]string{true: `{"displayName":"Ann"}`}[strings.HasPrefix(request, "POST")]
		status, header, body := testcaddy.AskFor(t, addr, request, "0123456789abcdef", sent)
		if want := "existing: " + request + " Bearer 0123456789abcdef " + sent; status != http.StatusTeapot || body != want || header.Get("X-Existing") != "yes" {
			t.Errorf("%s was answered %d %q, want %q", request, status, body, want)
		}
	}
}

// same compares JSON that may have lost its spaces between members.
func same(got, want string) bool {
	squeeze := strings.NewReplacer(", ", ",")
	return squeeze.Replace(got) == squeeze.Replace(want)
}
