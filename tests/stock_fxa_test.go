package tests

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// relierToken is a token for the profile server, of a client that is not the
// gate, signed with the key that the profile server knows.
func relierToken(addr, uid, scope, client string) string {
	return sign(jwt.SigningMethodES256, ecKey, nil, claims(uid, map[string]any{
		"iss": client, "aud": "http://" + addr + "/v1", "client_id": client, "scope": scope,
	}))
}

// ask speaks to our own profile server.
func ask(t testing.TB, addr, method, token, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+addr+"/v1/metrics_optout", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	response, err := browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, _ := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(got)
}

// The stock FxA Caddyfile of the design, as far as it can be had without its
// handshake, introspection and events: no session cookie, the account is the
// one that the beacon names, and the store is our own.
func TestStockFxA(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	existing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the existing profile server: "+r.URL.Path)
	}))
	t.Cleanup(existing.Close)
	accounts, shadowed, profileAddr := freeAddr(t), freeAddr(t), freeAddr(t)
	stock := func(mode string) string {
		return "metrics_gate " + mode + ` {
			preset fxa
			profile http://` + profileAddr + `/v1 {
				auth mint {
					key ` + fromFile("ec.key") + `
				}
				max_age 1s
			}
		}`
	}
	caddy := start(t,
		site(accounts, stock("enforce"), proxyTo(behind.addr())),
		site(shadowed, stock("shadow"), proxyTo(behind.addr())),
		site(profileAddr, `profile_server {
			store sqlite `+filepath.Join(t.TempDir(), "profile.db")+`
			tokens jwt {
				key `+fromFile("ec.pub")+`
			}
			trusted_client metrics-gate `+trustedRelier+`
		}`, proxyTo(existing.Listener.Addr().String())),
	)

	out, in, silent := newUID(t), newUID(t), newUID(t)
	for uid, choice := range map[string]string{out: "true", in: "false"} {
		token := relierToken(profileAddr, uid, "profile:metrics_optout:write", trustedRelier)
		status, _, body := ask(t, profileAddr, http.MethodPost, token, `{"metrics_optout":`+choice+`}`)
		if status != http.StatusOK || body != "{}" {
			t.Fatalf("POST %s: %d %q", choice, status, body)
		}
	}

	for _, c := range []struct {
		name, body, want, reason string
	}{
		{"opted out", flushOf(t, out), "block", "preference"},
		{"allowed", flushOf(t, in), "collect", "default"},
		{"no choice", flushOf(t, silent), "collect", "default"},
		{"anonymous", fixture(t, "anonymous"), "collect", "default"},
		{"2015", fixture(t, "legacy_2015"), "collect", "default"},
	} {
		labels := func(mode string) []string {
			return []string{"route", "/metrics", "mode", mode, "decision", c.want, "reason", c.reason}
		}
		before, beforeShadow := caddy.metric("requests_total", labels("enforce")...), caddy.metric("requests_total", labels("shadow")...)
		a := send(t, behind, accounts, "POST /metrics", c.body, "Content-Type: text/plain;charset=UTF-8")
		if a.decision() != c.want || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: %s, answered %d %q; want %s", c.name, a.decision(), a.status, a.body, c.want)
		}
		if a := send(t, behind, shadowed, "POST /metrics", c.body); !a.collected() {
			t.Errorf("%s: shadow blocked", c.name)
		}
		if n := caddy.metric("requests_total", labels("enforce")...) - before; n != 1 {
			t.Errorf("%s: counted %v times", c.name, n)
		}
		if n := caddy.metric("requests_total", labels("shadow")...) - beforeShadow; n != 1 {
			t.Errorf("%s: counted %v times in shadow", c.name, n)
		}
	}

	// A change acts within max_age, without anything restarted.
	token := relierToken(profileAddr, in, "profile:metrics_optout:write", trustedRelier)
	if status, _, _ := ask(t, profileAddr, http.MethodPost, token, `{"metrics_optout":true}`); status != http.StatusOK {
		t.Fatalf("POST true: %d", status)
	}
	until(t, "an opt-out to act", func() bool {
		return !send(t, behind, accounts, "POST /metrics", flushOf(t, in)).collected()
	})

	// What is not its own, the profile server passes on.
	response, err := browser.Get("http://" + profileAddr + "/v1/display_name")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); string(body) != "the existing profile server: /v1/display_name" {
		t.Errorf("/v1/display_name was answered %q", body)
	}
}

// The profile server's API, as the design has it.
func TestProfileServer(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	store := filepath.Join(t.TempDir(), "profile.db")
	server := site(addr, `profile_server {
		store sqlite `+store+`
		tokens jwt {
			key `+fromFile("ec.pub")+`
		}
		trusted_client metrics-gate `+trustedRelier+`
		standalone
	}`)
	caddy := start(t, server)
	uid := newUID(t)
	reading := relierToken(addr, uid, "profile:metrics_optout", trustedRelier)
	writing := relierToken(addr, uid, "profile:metrics_optout:write", trustedRelier)

	status, header, body := ask(t, addr, http.MethodGet, reading, "")
	etag := header.Get("ETag")
	if status != http.StatusOK || body != `{"metrics_optout":null}` || !strings.HasPrefix(etag, `"`) {
		t.Errorf("a new account: %d %q, ETag %q", status, body, etag)
	}
	if got := header.Get("Cache-Control"); got != "private, no-cache, no-store, must-revalidate" {
		t.Errorf("Cache-Control is %q", got)
	}
	if status, _, body := ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusNotModified || body != "" {
		t.Errorf("If-None-Match: %d %q", status, body)
	}
	if status, _, body := ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`, "If-Match: "+etag); status != http.StatusOK || body != "{}" {
		t.Errorf("If-Match that matches: %d %q", status, body)
	}
	if status, _, _ := ask(t, addr, http.MethodPost, writing, `{"metrics_optout":false}`, "If-Match: "+etag); status != http.StatusPreconditionFailed {
		t.Errorf("If-Match of an older state: %d", status)
	}
	if status, _, body := ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusOK || body != `{"metrics_optout":true}` {
		t.Errorf("after the write: %d %q", status, body)
	}

	// Everybody else is refused, and nothing of theirs is taken.
	other := sign(jwt.SigningMethodRS256, rsaKey, nil, claims(uid, map[string]any{"client_id": trustedRelier, "scope": "profile:write"}))
	for _, c := range []struct {
		name, method, token, body string
		status, errno             int
	}{
		{"a key of others", "GET", other, "", 401, 100},
		{"no token at all", "GET", "", "", 401, 100},
		{"garbage", "GET", "not.a.token", "", 401, 100},
		{"another scope", "GET", relierToken(addr, uid, "profile:email openid", trustedRelier), "", 403, 999},
		{"a scope that only begins so", "GET", relierToken(addr, uid, "profilebogey", trustedRelier), "", 403, 999},
		{"reading does not write", "POST", reading, `{"metrics_optout":false}`, 403, 999},
		{"profile does not write", "POST", relierToken(addr, uid, "profile", trustedRelier), `{"metrics_optout":false}`, 403, 999},
		{"an untrusted relier", "GET", relierToken(addr, uid, "profile:metrics_optout", untrustedOther), "", 403, 999},
		{"not a boolean", "POST", writing, `{"metrics_optout":"yes"}`, 400, 101},
		{"another key", "POST", writing, `{"metricsOptout":true}`, 400, 101},
		{"broken JSON", "POST", writing, `{"metrics_optout":`, 400, 999},
	} {
		status, _, body := ask(t, addr, c.method, c.token, c.body)
		want := fmt.Sprintf(`"code":%d,"errno":%d,`, c.status, c.errno)
		if status != c.status || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s; want %s", c.name, status, body, want)
		}
	}
	for _, scope := range []string{"profile", "profile:write", "profile:metrics_optout:write", "openid profile:metrics_optout"} {
		if status, _, body := ask(t, addr, http.MethodGet, relierToken(addr, uid, scope, trustedRelier), ""); status != http.StatusOK || body != `{"metrics_optout":true}` {
			t.Errorf("reading with %q: %d %q", scope, status, body)
		}
	}
	if status, _, body := ask(t, addr, http.MethodPost, relierToken(addr, uid, "profile:write", trustedRelier), `{"metrics_optout":null}`); status != http.StatusOK {
		t.Errorf("writing with profile:write: %d %q", status, body)
	}

	// It outlives a reload and a restart.
	if status, _, _ := ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`); status != http.StatusOK {
		t.Fatalf("POST true: %d", status)
	}
	if err := caddy.reload(server, site(freeAddr(t), "respond hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, body := ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a reload: %q", body)
	}
	caddy.stop()
	start(t, server)
	if _, _, body := ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a restart: %q", body)
	}
	for path, want := range map[string]int{"/__lbheartbeat__": 200, "/__heartbeat__": 200, "/__version__": 200, "/v1/elsewhere": 404} {
		response, err := browser.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != want || (want == 404 && !strings.Contains(string(body), `"errno":999`)) {
			t.Errorf("%s: %d %q", path, response.StatusCode, body)
		}
	}
}
