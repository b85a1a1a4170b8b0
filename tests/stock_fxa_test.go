package tests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// The Caddyfile for stock FxA: no session cookie, the account is the
// one that the beacon names, and the store is our own, fed by people's own
// choices with FxA's opaque tokens and by FxA's events. Changes act at the gate
// because it follows them.
func TestStockFxA(t *testing.T) {
	t.Parallel()
	behind, oauth, existing := newContentServer(t), newOAuthServer(t), newExistingProfileServer(t)
	accounts, shadowed, profileAddr := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	stock := func(mode string) string {
		return "metrics_gate " + mode + ` {
			preset fxa
			profile http://` + profileAddr + `/v1 {
				auth mint {
					key ` + testcaddy.FromFile("ec.key") + `
				}
				timeout 20s
				max_age 10m
			}
			handshake
		}`
	}
	caddy := testcaddy.Start(t,
		testcaddy.Site(accounts, stock("enforce"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(shadowed, stock("shadow"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(profileAddr, `profile_server {
			store sqlite `+filepath.Join(t.TempDir(), "profile.db")+`
			tokens jwt {
				key `+testcaddy.FromFile("ec.pub")+`
				issuer metrics-gate `+testcaddy.TrustedRelier+`
				audience http://`+profileAddr+`/v1
			}
			tokens introspect `+oauth.URL+`/v1/verify {
				client `+testcaddy.TrustedRelier+`
				timeout 20s
			}
			trusted_client metrics-gate `+testcaddy.TrustedRelier+`
			events {
				issuer https://accounts.firefox.com/
				jwks   `+oauth.URL+`/v1/jwks
				audience `+eventAudience+`
			}
		}`, testcaddy.ProxyTo(existing.Listener.Addr().String())),
	)
	keysFetched(t, profileAddr)
	follows(t, caddy, profileAddr)

	out, in, silent, told := testcaddy.NewUID(t), testcaddy.NewUID(t), testcaddy.NewUID(t), testcaddy.NewUID(t)
	setting := func(uid string, choice preference) {
		t.Helper()
		token := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile", "profile:write", "clients:write")
		status, _, body := testcaddy.Ask(t, profileAddr, http.MethodPost, token, fmt.Sprintf(`{"metrics_optout":%s}`, choice))
		if status != http.StatusOK || body != "{}" {
			t.Fatalf("POST %s: %d %q", choice, status, body)
		}
	}
	setting(out, optOut)
	setting(in, allow)
	happen(t, profileAddr, "FxA", byRSA(event(t, told, "metrics-opt-out", map[string]any{})))

	for _, c := range []struct {
		name, body, want, reason string
	}{
		{"opted out", flushOf(t, out), "block", "preference"},
		{"opted out by an event", flushOf(t, told), "block", "preference"},
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

	// A change acts, without anything restarted. An opt-out is not even asked
	// about; what allows again is, once, since an event never allows by itself.
	acts := func(uid, what, want string) {
		t.Helper()
		testcaddy.Until(t, what, func() bool {
			return send(t, behind, accounts, "POST /metrics", flushOf(t, uid)).decision() == want
		})
	}
	asked := caddy.Metric("profile_lookups_total")
	setting(in, optOut)
	acts(in, "an opt-out to act", "block")
	happen(t, profileAddr, "FxA", byRSA(event(t, silent, "profile-change", map[string]any{"metricsEnabled": false})))
	acts(silent, "an event to act", "block")
	if now := caddy.Metric("profile_lookups_total"); now != asked {
		t.Errorf("the gate asked %v times about opt-outs that it was told", now-asked)
	}
	happen(t, profileAddr, "RFC 8935", byEC(event(t, silent, "metrics-opt-in", map[string]any{})))
	acts(silent, "an event that allows again to act", "collect")
	if now := caddy.Metric("profile_lookups_total"); now != asked+1 {
		t.Errorf("the gate asked %v times about what allows again, want once", now-asked)
	}
	happen(t, profileAddr, "FxA", byRSA(event(t, told, "delete-user", map[string]any{})))
	acts(told, "a deletion to act", "collect")

	// What is not its own, the profile server passes on.
	if _, _, body := testcaddy.AskFor(t, profileAddr, "GET /v1/display_name", "0123456789abcdef", ""); body != "existing: GET /v1/display_name Bearer 0123456789abcdef " {
		t.Errorf("/v1/display_name was answered %q", body)
	}
}

// Caddyfiles as an operator writes them, letter by letter, are valid.
func TestDesignedCaddyfiles(t *testing.T) {
	t.Parallel()
	local := strings.NewReplacer("/run/secrets/gate", testcaddy.KeyFile("ec"), "/var/lib/metrics-gate", t.TempDir(), "{env.PRIVACY_API_TOKEN}", bearerToken)
	for name, config := range map[string]string{"stock FxA": designedForFxA, "any application": designedForAny} {
		file := filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte(local.Replace(config)), 0o600); err != nil {
			t.Fatal(err)
		}
		if stdout, stderr, code := testcaddy.Command(t, "validate", "--config", file, "--adapter", "caddyfile"); code != 0 {
			t.Errorf("%s: exit %d\n%s%s", name, code, stdout, stderr)
		}
	}
}

const designedForFxA = `
accounts.example.org {
	metrics_gate shadow {
		preset fxa
		profile https://profile.example.org/v1 {
			auth mint {
				key {file./run/secrets/gate.key}
			}
		}
		handshake
	}
	reverse_proxy content-server:3030
}

profile.example.org {
	profile_server {
		store sqlite /var/lib/metrics-gate/profile.db
		tokens jwt {
			key {file./run/secrets/gate.pub}
			issuer metrics-gate
			audience https://profile.example.org/v1
		}
		tokens introspect https://oauth.example.org/v1/verify {
			client 98e6508e88680e1a
		}
		trusted_client metrics-gate 98e6508e88680e1a
		events {
			issuer https://accounts.firefox.com/
			jwks   https://oauth.example.org/v1/jwks
			audience 98e6508e88680e1a
		}
	}
	reverse_proxy profile-server:1111
}
`

const designedForAny = `
app.example.org {
	metrics_gate {
		route POST /api/beacon {
			answer 204
		}
		route GET /flags experiment {
			answer 200 application/json ` + "`{}`" + `
		}
		session jwt {
			cookie   session
			jwks     https://id.example.org/.well-known/jwks.json
			issuer   https://id.example.org
			audience web
		}
		profile https://api.example.org/users/{uid}/privacy {
			field analytics_allowed inverted
			auth bearer {env.PRIVACY_API_TOKEN}
			timeout 300ms
			max_age 1m
			max_entries 100000
		}
	}
	reverse_proxy app:3000
}
`

// The profile server's API, as docs/openapi.yaml has it.
func TestProfileServer(t *testing.T) {
	t.Parallel()
	addr := testcaddy.FreeAddr(t)
	store := filepath.Join(t.TempDir(), "profile.db")
	server := testcaddy.Site(addr, `profile_server {
		store sqlite `+store+`
		tokens jwt {
			key `+testcaddy.FromFile("ec.pub")+`
			audience `+testcaddy.ProfileAudience+`
		}
		trusted_client metrics-gate `+testcaddy.TrustedRelier+`
		standalone
	}`)
	caddy := testcaddy.Start(t, server)
	uid := testcaddy.NewUID(t)
	reading := testcaddy.RelierToken(addr, uid, "profile:metrics_optout", testcaddy.TrustedRelier)
	writing := testcaddy.RelierToken(addr, uid, "profile:metrics_optout:write", testcaddy.TrustedRelier)

	status, header, body := testcaddy.Ask(t, addr, http.MethodGet, reading, "")
	etag := header.Get("ETag")
	if status != http.StatusOK || body != `{"metrics_optout":null}` || !strings.HasPrefix(etag, `"`) {
		t.Errorf("a new account: %d %q, ETag %q", status, body, etag)
	}
	if got := header.Get("Cache-Control"); got != "private, no-cache, no-store, must-revalidate" {
		t.Errorf("Cache-Control is %q", got)
	}
	if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusNotModified || body != "" {
		t.Errorf("If-None-Match: %d %q", status, body)
	}
	if status, _, body := testcaddy.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`, "If-Match: "+etag); status != http.StatusOK || body != "{}" {
		t.Errorf("If-Match that matches: %d %q", status, body)
	}
	if status, _, _ := testcaddy.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":false}`, "If-Match: "+etag); status != http.StatusPreconditionFailed {
		t.Errorf("If-Match of an older state: %d", status)
	}
	if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, "", "If-None-Match: "+etag); status != http.StatusOK || body != `{"metrics_optout":true}` {
		t.Errorf("after the write: %d %q", status, body)
	}

	// Everybody else is refused, and nothing of theirs is taken.
	other := testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, nil, testcaddy.Claims(uid, map[string]any{"client_id": testcaddy.TrustedRelier, "scope": "profile:write"}))
	for _, c := range []struct {
		name, method, token, body string
		status, errno             int
	}{
		{"a key of others", "GET", other, "", 401, 100},
		{"no token at all", "GET", "", "", 401, 100},
		{"garbage", "GET", "not.a.token", "", 401, 100},
		{"another scope", "GET", testcaddy.RelierToken(addr, uid, "profile:email openid", testcaddy.TrustedRelier), "", 403, 999},
		{"a scope that only begins so", "GET", testcaddy.RelierToken(addr, uid, "profilebogey", testcaddy.TrustedRelier), "", 403, 999},
		{"reading does not write", "POST", reading, `{"metrics_optout":false}`, 403, 999},
		{"profile does not write", "POST", testcaddy.RelierToken(addr, uid, "profile", testcaddy.TrustedRelier), `{"metrics_optout":false}`, 403, 999},
		{"an untrusted relier", "GET", testcaddy.RelierToken(addr, uid, "profile:metrics_optout", testcaddy.UntrustedOther), "", 403, 999},
		{"not a boolean", "POST", writing, `{"metrics_optout":"yes"}`, 400, 101},
		{"another key", "POST", writing, `{"metricsOptout":true}`, 400, 101},
		{"broken JSON", "POST", writing, `{"metrics_optout":`, 400, 999},
	} {
		status, _, body := testcaddy.Ask(t, addr, c.method, c.token, c.body)
		want := fmt.Sprintf(`"code":%d,"errno":%d,`, c.status, c.errno)
		if status != c.status || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s; want %s", c.name, status, body, want)
		}
	}
	for _, scope := range []string{"profile", "profile:write", "profile:metrics_optout:write", "openid profile:metrics_optout"} {
		if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, testcaddy.RelierToken(addr, uid, scope, testcaddy.TrustedRelier), ""); status != http.StatusOK || body != `{"metrics_optout":true}` {
			t.Errorf("reading with %q: %d %q", scope, status, body)
		}
	}
	if status, _, body := testcaddy.Ask(t, addr, http.MethodPost, testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier), `{"metrics_optout":null}`); status != http.StatusOK {
		t.Errorf("writing with profile:write: %d %q", status, body)
	}

	// It outlives a reload and a restart.
	if status, _, _ := testcaddy.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`); status != http.StatusOK {
		t.Fatalf("POST true: %d", status)
	}
	if err := caddy.Reload(server, testcaddy.Site(testcaddy.FreeAddr(t), "respond hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a reload: %q", body)
	}
	caddy.Stop()
	testcaddy.Start(t, server)
	if _, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, ""); body != `{"metrics_optout":true}` {
		t.Errorf("after a restart: %q", body)
	}
	for path, want := range map[string]int{"/__lbheartbeat__": 200, "/__heartbeat__": 200, "/__version__": 200, "/v1/elsewhere": 404} {
		response, err := testcaddy.Client.Get("http://" + addr + path)
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
