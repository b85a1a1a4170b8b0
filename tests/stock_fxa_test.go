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

	"github.com/metricsgate/metricsgate/tests/rig"
)

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
	accounts, shadowed, profileAddr := rig.FreeAddr(t), rig.FreeAddr(t), rig.FreeAddr(t)
	stock := func(mode string) string {
		return "metrics_gate " + mode + ` {
			preset fxa
			profile http://` + profileAddr + `/v1 {
				auth mint {
					key ` + rig.FromFile("ec.key") + `
				}
				max_age 1s
			}
		}`
	}
	caddy := rig.Start(t,
		rig.Site(accounts, stock("enforce"), rig.ProxyTo(behind.addr())),
		rig.Site(shadowed, stock("shadow"), rig.ProxyTo(behind.addr())),
		rig.Site(profileAddr, `profile_server {
			store sqlite `+filepath.Join(t.TempDir(), "profile.db")+`
			tokens jwt {
				key `+rig.FromFile("ec.pub")+`
			}
			trusted_client metrics-gate `+rig.TrustedRelier+`
		}`, rig.ProxyTo(existing.Listener.Addr().String())),
	)

	out, in, silent := rig.NewUID(t), rig.NewUID(t), rig.NewUID(t)
	for uid, choice := range map[string]string{out: "true", in: "false"} {
		token := rig.RelierToken(profileAddr, uid, "profile:metrics_optout:write", rig.TrustedRelier)
		status, _, body := rig.Ask(t, profileAddr, http.MethodPost, token, `{"metrics_optout":`+choice+`}`)
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
		before, beforeShadow := caddy.Metric("requests_total", labels("enforce")...), caddy.Metric("requests_total", labels("shadow")...)
		a := send(t, behind, accounts, "POST /metrics", c.body, "Content-Type: text/plain;charset=UTF-8")
		if a.decision() != c.want || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: %s, answered %d %q; want %s", c.name, a.decision(), a.status, a.body, c.want)
		}
		if a := send(t, behind, shadowed, "POST /metrics", c.body); !a.collected() {
			t.Errorf("%s: shadow blocked", c.name)
		}
		if n := caddy.Metric("requests_total", labels("enforce")...) - before; n != 1 {
			t.Errorf("%s: counted %v times", c.name, n)
		}
		if n := caddy.Metric("requests_total", labels("shadow")...) - beforeShadow; n != 1 {
			t.Errorf("%s: counted %v times in shadow", c.name, n)
		}
	}

	// A change acts within max_age, without anything restarted.
	token := rig.RelierToken(profileAddr, in, "profile:metrics_optout:write", rig.TrustedRelier)
	if status, _, _ := rig.Ask(t, profileAddr, http.MethodPost, token, `{"metrics_optout":true}`); status != http.StatusOK {
		t.Fatalf("POST true: %d", status)
	}
	rig.Until(t, "an opt-out to act", func() bool {
		return !send(t, behind, accounts, "POST /metrics", flushOf(t, in)).collected()
	})

	// What is not its own, the profile server passes on.
	response, err := rig.Client.Get("http://" + profileAddr + "/v1/display_name")
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
	addr := rig.FreeAddr(t)
	store := filepath.Join(t.TempDir(), "profile.db")
	server := rig.Site(addr, `profile_server {
		store sqlite `+store+`
		tokens jwt {
			key `+rig.FromFile("ec.pub")+`
		}
		trusted_client metrics-gate `+rig.TrustedRelier+`
		standalone
	}`)
	caddy := rig.Start(t, server)
	uid := rig.NewUID(t)
	reading := rig.RelierToken(addr, uid, "profile:metrics_optout", rig.TrustedRelier)
	writing := rig.RelierToken(addr, uid, "profile:metrics_optout:write", rig.TrustedRelier)

	status, header, body := rig.Ask(t, addr, http.MethodGet, reading, "")
	etag := header.Get("ETag")
	if status != http.StatusOK || body != `{"metrics_optout":null}` || !strings.HasPrefix(etag, `"`) {
		t.Errorf("a new account: %d %q, ETag %q", status, body, etag)
	}
	if got := header.Get("Cache-Control"); got != "private, no-cache, no-store, must-revalidate" {
		t.Errorf("Cache-Control is %q", got)
	}
	if status, _, body := rig.Ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusNotModified || body != "" {
		t.Errorf("If-None-Match: %d %q", status, body)
	}
	if status, _, body := rig.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`, "If-Match: "+etag); status != http.StatusOK || body != "{}" {
		t.Errorf("If-Match that matches: %d %q", status, body)
	}
	if status, _, _ := rig.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":false}`, "If-Match: "+etag); status != http.StatusPreconditionFailed {
		t.Errorf("If-Match of an older state: %d", status)
	}
	if status, _, body := rig.Ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusOK || body != `{"metrics_optout":true}` {
		t.Errorf("after the write: %d %q", status, body)
	}

	// Everybody else is refused, and nothing of theirs is taken.
	other := rig.Sign(jwt.SigningMethodRS256, rig.RSAKey, nil, rig.Claims(uid, map[string]any{"client_id": rig.TrustedRelier, "scope": "profile:write"}))
	for _, c := range []struct {
		name, method, token, body string
		status, errno             int
	}{
		{"a key of others", "GET", other, "", 401, 100},
		{"no token at all", "GET", "", "", 401, 100},
		{"garbage", "GET", "not.a.token", "", 401, 100},
		{"another scope", "GET", rig.RelierToken(addr, uid, "profile:email openid", rig.TrustedRelier), "", 403, 999},
		{"a scope that only begins so", "GET", rig.RelierToken(addr, uid, "profilebogey", rig.TrustedRelier), "", 403, 999},
		{"reading does not write", "POST", reading, `{"metrics_optout":false}`, 403, 999},
		{"profile does not write", "POST", rig.RelierToken(addr, uid, "profile", rig.TrustedRelier), `{"metrics_optout":false}`, 403, 999},
		{"an untrusted relier", "GET", rig.RelierToken(addr, uid, "profile:metrics_optout", rig.UntrustedOther), "", 403, 999},
		{"not a boolean", "POST", writing, `{"metrics_optout":"yes"}`, 400, 101},
		{"another key", "POST", writing, `{"metricsOptout":true}`, 400, 101},
		{"broken JSON", "POST", writing, `{"metrics_optout":`, 400, 999},
	} {
		status, _, body := rig.Ask(t, addr, c.method, c.token, c.body)
		want := fmt.Sprintf(`"code":%d,"errno":%d,`, c.status, c.errno)
		if status != c.status || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s; want %s", c.name, status, body, want)
		}
	}
	for _, scope := range []string{"profile", "profile:write", "profile:metrics_optout:write", "openid profile:metrics_optout"} {
		if status, _, body := rig.Ask(t, addr, http.MethodGet, rig.RelierToken(addr, uid, scope, rig.TrustedRelier), ""); status != http.StatusOK || body != `{"metrics_optout":true}` {
			t.Errorf("reading with %q: %d %q", scope, status, body)
		}
	}
	if status, _, body := rig.Ask(t, addr, http.MethodPost, rig.RelierToken(addr, uid, "profile:write", rig.TrustedRelier), `{"metrics_optout":null}`); status != http.StatusOK {
		t.Errorf("writing with profile:write: %d %q", status, body)
	}

	// It outlives a reload and a restart.
	if status, _, _ := rig.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`); status != http.StatusOK {
		t.Fatalf("POST true: %d", status)
	}
	if err := caddy.Reload(server, rig.Site(rig.FreeAddr(t), "respond hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, body := rig.Ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a reload: %q", body)
	}
	caddy.Stop()
	rig.Start(t, server)
	if _, _, body := rig.Ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a restart: %q", body)
	}
	for path, want := range map[string]int{"/__lbheartbeat__": 200, "/__heartbeat__": 200, "/__version__": 200, "/v1/elsewhere": 404} {
		response, err := rig.Client.Get("http://" + addr + path)
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
