package tests

import (
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// The steps of docs/guides.md, Keys: after each of them everybody is decided by
// what their account prefers, whatever key is behind it.
func TestKeysAreExchanged(t *testing.T) {
	t.Parallel()

	t.Run("what signs sessions", func(t *testing.T) {
		t.Parallel()
		behind, profile := newContentServer(t), newProfile(t)
		block := func(secret string) string {
			return "session jwt {\ncookie session\nsecret " + testcaddy.FromFile(secret) + "\nissuer " + testcaddy.SessionIssuer + "\naudience web\n}"
		}
		addr := testcaddy.FreeAddr(t)
		with := func(secrets ...string) string {
			options := []string{"preset fxa", profile.block(patient)}
			for _, secret := range secrets {
				options = append(options, block(secret))
			}
			return testcaddy.Site(addr, testcaddy.Gate(options...), testcaddy.ProxyTo(behind.addr()))
		}
		signed := func(secret, uid string) string {
			return testcaddy.Cookie(testcaddy.Sign(jwt.SigningMethodHS256, []byte(secret), nil, testcaddy.Claims(uid)))
		}
		caddy := testcaddy.Start(t, with("session.secret"))
		for _, step := range []struct {
			site string
			good []string
		}{
			{with("session.secret"), []string{testcaddy.SessionSecret}},
			{with("session.secret", "second.secret"), []string{testcaddy.SessionSecret, testcaddy.SecondSecret}},
			{with("second.secret"), []string{testcaddy.SecondSecret}},
		} {
			if err := caddy.Reload(step.site); err != nil {
				t.Fatal(err)
			}
			for _, secret := range step.good {
				for _, choice := range []preference{optOut, allow} {
					want := map[preference]string{optOut: "block", allow: "collect"}[choice]
					if got := send(t, behind, addr, "POST /metrics", "{}", signed(secret, profile.account(choice))).decision(); got != want {
						t.Errorf("%s: %s, want %s", choice, got, want)
					}
				}
			}
		}
		if got := send(t, behind, addr, "POST /metrics", "{}", signed(testcaddy.SessionSecret, profile.account(allow))).decision(); got != "block" {
			t.Errorf("a session of the old secret: %s", got)
		}
	})

	t.Run("what the gate signs with", func(t *testing.T) {
		t.Parallel()
		behind := newContentServer(t)
		addr, profileAddr, store := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), "sqlite "+t.TempDir()+"/profile.db"
		server := func(keys ...string) string {
			tokens := "tokens jwt {\nissuer metrics-gate\naudience the-gates\n"
			for _, key := range keys {
				tokens += "key " + testcaddy.FromFile(key+".pub") + "\n"
			}
			return testcaddy.Site(profileAddr, profileServer(store, tokens+"}"))
		}
		gate := func(key string) string {
			return testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(),
				"profile http://"+profileAddr+"/v1 {\nauth mint {\nkey "+testcaddy.FromFile(key+".key")+"\naudience the-gates\n}\nfollow off\n"+patient+"\n}"), testcaddy.ProxyTo(behind.addr()))
		}
		asked, asking := testcaddy.Start(t, server("ed")), testcaddy.Start(t, gate("ed"))
		ready(t, profileAddr)
		for _, step := range []struct{ server, gate string }{
			{server("ed"), gate("ed")},
			{server("ed", "rsa"), gate("ed")},
			{server("ed", "rsa"), gate("rsa")},
			{server("rsa"), gate("rsa")},
		} {
			if err := asked.Reload(step.server); err != nil {
				t.Fatal(err)
			}
			if err := asking.Reload(step.gate); err != nil {
				t.Fatal(err)
			}
			for choice, want := range map[preference]string{optOut: "block", allow: "collect"} {
				uid := testcaddy.NewUID(t) // of whom nothing is cached
				choose(t, profileAddr, uid, choice)
				if got := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision(); got != want {
					t.Errorf("%s: %s, want %s", choice, got, want)
				}
			}
		}
		if failed := asking.Metric("profile_lookups_total") - asking.Metric("profile_lookups_total", "outcome", "ok"); failed != 0 {
			t.Errorf("%v lookups failed", failed)
		}
	})

	t.Run("what seals own sessions", func(t *testing.T) {
		t.Parallel()
		behind, profile, auth := newContentServer(t), newProfile(t), newAuthServer(t)
		addrs := [2]string{testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)}
		site := func(addr string, keys ...string) string {
			for i, key := range keys {
				keys[i] = testcaddy.FromFile(key + ".secret")
			}
			return testcaddy.Site(addr, testcaddy.Gate("preset fxa", auth.block("timeout 20s"), "session_key "+strings.Join(keys, " "),
				profile.block(patient, "max_age 10m"), "handshake"), testcaddy.ProxyTo(behind.addr()))
		}
		var edges [2]*testcaddy.Server
		for i, addr := range addrs {
			edges[i] = testcaddy.Start(t, site(addr, "session"))
		}
		out := profile.account(optOut)
		proven := func(at string) (cookie string) {
			v := newBrowser(t, behind, at)
			if status := v.proves(auth.signIn(t, out)); status != 204 {
				t.Fatalf("a proof is answered with %d", status)
			}
			return v.cookies["__Host-metrics_gate"]
		}
		// At each moment one edge may be a step ahead of the other, and a cookie is
		// from any of them.
		for _, step := range [][]string{{"session", "second"}, {"second", "session"}} {
			cookies := []string{proven(addrs[0]), proven(addrs[1])}
			for i, addr := range addrs {
				if err := edges[i].Reload(site(addr, append([]string{}, step...)...)); err != nil {
					t.Fatal(err)
				}
				cookies = append(cookies, proven(addr))
				for _, at := range addrs {
					for n, cookie := range cookies {
						v := newBrowser(t, behind, at)
						v.cookies["__Host-metrics_gate"] = cookie
						if got := strings.TrimSpace(v.send("GET /.well-known/metrics-gate/status", "").body); got != `{"metrics_optout":true,"source":"preference"}` {
							t.Errorf("with %s first at edge %d, cookie %d: %s", step[0], i, n, got)
						}
					}
				}
			}
		}
	})
}
