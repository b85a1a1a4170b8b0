package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A reload with slow requests open loses none, wherever they are: 100 wait for
// the profile server, 100 for the application. What was cached stays cached.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	config := func(generation int) string {
		return testcaddy.Site(addr, fmt.Sprintf("header X-Generation %d", generation),
			testcaddy.Gate("preset fxa", "reply show", testcaddy.SessionJWT(), profile.block(patient, "concurrency 300")), testcaddy.ProxyTo(behind.addr()))
	}
	caddy := testcaddy.Start(t, config(0))
	warm, warmOut := profile.account(allow), profile.account(optOut)
	warmed := func() {
		t.Helper()
		if !send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(warm))).collected() || send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(warmOut))).collected() {
			t.Error("a preference is no longer what it was")
		}
	}
	warmed()

	const each = 100
	var senders sync.WaitGroup
	var ended testcaddy.Ledger[answer]
	open := func(token string, want bool) {
		senders.Go(func() {
			a, err := trySend(behind, addr, "POST /metrics", `{"broker":"web","events":[]}`, testcaddy.Cookie(token))
			switch {
			case err != nil:
				t.Errorf("lost: %v", err)
			case a.status != http.StatusOK || a.body != success || a.collected() != want:
				t.Errorf("answered %d %q, collected %v; want %v", a.status, a.body, a.collected(), want)
			}
			ended.Add(a)
		})
	}

	// These wait in the application …
	hold := make(chan struct{})
	behind.hold.Store(&hold)
	before := len(behind.log.All())
	for range each {
		open(testcaddy.Session(warm), true)
	}
	behind.log.Wait(t, "the application to have them", func(all []received) bool { return len(all) >= before+each })
	// … and these for the profile server.
	release := profile.stall()
	asked := len(profile.asked.All())
	for i := range each {
		choice := []preference{allow, optOut}[i%2]
		open(testcaddy.Session(profile.account(choice)), choice == allow)
	}
	profile.asked.Wait(t, "the profile server to have them", func(all []profileAsked) bool { return len(all) >= asked+each })

	for generation := 1; generation <= 3; generation++ {
		if err := caddy.Reload(config(generation)); err != nil {
			t.Fatal(err)
		}
		// The new config is in force, beside what the old ones still have open.
		if send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(warmOut))).collected() {
			t.Error("a beacon passed during the reload")
		}
	}
	if n := len(ended.All()); n != 0 {
		t.Errorf("%d requests ended during the reload", n)
	}
	release()
	behind.hold.Store(nil)
	close(hold)
	senders.Wait()

	warmed()
	for _, uid := range []string{warm, warmOut} {
		if n := profile.lookups(uid); n != 1 {
			t.Errorf("a warm entry was looked up %d times", n)
		}
	}
	if a := send(t, behind, addr, "GET /asset.js", ""); a.header.Get("X-Generation") != "3" {
		t.Errorf("the config in force is the one of generation %q", a.header.Get("X-Generation"))
	}
}

// Counters add up over two handlers, and go on over three reloads.
func TestMetricsSurviveReloads(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	one, two := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	config := func(generation int) (sites []string) {
		for _, addr := range []string{one, two} {
			sites = append(sites, testcaddy.Site(addr, fmt.Sprintf("header X-Generation %d", generation),
				testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
		}
		return sites
	}
	caddy := testcaddy.Start(t, config(0)...)
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	for generation := range 4 {
		if generation > 0 {
			if err := caddy.Reload(config(generation)...); err != nil {
				t.Fatal(err)
			}
		}
		for _, addr := range []string{one, two} {
			_ = send(t, behind, addr, "POST /metrics", "{}", out)
			_ = send(t, behind, addr, "POST /metrics", "{}")
		}
		want := float64(2 * (generation + 1))
		for _, c := range []struct {
			name   string
			labels []string
			want   float64
		}{
			{"requests_total", []string{"route", "/metrics", "class", "metrics", "decision", "block", "reason", "preference", "mode", "enforce"}, want},
			{"requests_total", []string{"route", "/metrics", "class", "metrics", "decision", "collect", "reason", "default", "mode", "enforce"}, want},
			{"requests_total", nil, 2 * want},
			{"sessions_total", []string{"kind", "jwt", "outcome", "verified"}, want},
			{"sessions_total", []string{"kind", "jwt", "outcome", "absent"}, want},
			{"upstream_total", []string{"class", "4xx"}, want},
			{"profile_lookups_total", []string{"outcome", "ok"}, 1},
			{"profile_lookup_duration_seconds_count", nil, 1},
		} {
			if got := caddy.Metric(c.name, c.labels...); got != c.want {
				t.Errorf("generation %d: %s%v is %v, want %v", generation, c.name, c.labels, got, c.want)
			}
		}
	}
	if got := caddy.Metric("cache_entries"); got < 1 {
		t.Errorf("caches hold %v entries", got)
	}
}

// A reload that fails, at whatever step, leaves the running config whole: it
// decides, answers, counts and remembers as before.
func TestFailedReload(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	good := testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr()))
	caddy := testcaddy.Start(t, good)
	config := caddy.AdminGet("/config/")
	out, in := profile.account(optOut), profile.account(allow)
	works := func(when string) {
		t.Helper()
		if send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(out))).collected() || !send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(in))).collected() {
			t.Errorf("%s: it no longer decides as it did", when)
		}
		if a := send(t, behind, addr, "GET /asset.js", ""); a.status != http.StatusOK {
			t.Errorf("%s: answered %d", when, a.status)
		}
		if got := caddy.AdminGet("/config/"); got != config {
			t.Errorf("%s: another config is in force", when)
		}
		for _, uid := range []string{in, out} {
			if n := profile.lookups(uid); n != 1 {
				t.Errorf("%s: %d lookups of one account", when, n)
			}
		}
	}
	works("at first")

	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("too short"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", testcaddy.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	second := func(options ...string) string {
		return testcaddy.Site(testcaddy.FreeAddr(t), testcaddy.Gate(options...), testcaddy.ProxyTo(behind.addr()))
	}
	for name, sites := range map[string][]string{
		"an unknown word":                       {good, second("preset fxa", "no_such_option", profile.block())},
		"a secret that is too short":            {good, second("preset fxa", "session jwt {\ncookie session\nsecret {file."+short+"}\n}", profile.block())},
		"a secret that is not there":            {good, second("preset fxa", "session jwt {\ncookie session\nsecret {env.NO_SUCH_VARIABLE}\n}", profile.block())},
		"a key that is none":                    {good, second("preset fxa", "session jwt {\ncookie session\nkey {file."+short+"}\n}", profile.block())},
		"a mint key that is too short":          {good, second("preset fxa", "profile http://"+profile.addr+"/v1 {\nauth mint {\nkey {file."+short+"}\n}\n}")},
		"a port that is taken":                  {good, testcaddy.Site(taken.Addr().String(), testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr()))},
		"another handler that fails after ours": {good, testcaddy.Site(testcaddy.FreeAddr(t), testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), "basic_auth {\nbob not-a-hash\n}", testcaddy.ProxyTo(behind.addr()))},
		"a store that cannot be opened":         {good, testcaddy.Site(testcaddy.FreeAddr(t), "profile_server {\nstore sqlite /proc/no/such/profile.db\ntokens jwt {\nsecret "+testcaddy.FromFile("gate.secret")+"\naudience here\n}\ntrusted_client metrics-gate\n}")},
	} {
		for range 3 {
			if err := caddy.Reload(sites...); err == nil {
				t.Fatalf("%s was loaded", name)
			}
		}
		works(name)
	}
	if err := caddy.Reload(good, testcaddy.Site(testcaddy.FreeAddr(t), "respond hello")); err != nil {
		t.Errorf("a good config no longer loads: %v", err)
	}
}

// A reload that changes whom the gate trusts, or whom it asks, starts afresh:
// nothing that was verified or learnt under the old settings counts under the
// new ones.
func TestReloadChangesTrust(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write := func(s string) {
		if err := os.WriteFile(secret, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := func(url string) string {
		return testcaddy.Site(addr, testcaddy.Gate("preset fxa", "session jwt {\ncookie session\nsecret {file."+secret+"}\nissuer "+testcaddy.SessionIssuer+"\naudience web\n}",
			"profile http://"+url+"/v1 {\nauth mint {\nkey "+testcaddy.FromFile("gate.secret")+"\n}\n"+patient+"\n}"), testcaddy.ProxyTo(behind.addr()))
	}
	write(testcaddy.SessionSecret)
	caddy := testcaddy.Start(t, config(profile.addr))
	uid := profile.account(allow)
	token := testcaddy.Cookie(testcaddy.Session(uid))
	if !send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Fatal("not collected")
	}

	// The secret changes; not a letter of the config does.
	write("a new secret, since the old one was seen in a log")
	if err := caddy.Reload(config(profile.addr)); err != nil {
		t.Fatal(err)
	}
	if send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Error("a session counts that only the old secret verifies")
	}
	write(testcaddy.SessionSecret)
	if err := caddy.Reload(config(profile.addr)); err != nil {
		t.Fatal(err)
	}
	if !send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Error("the secret is back, and the session does not count")
	}

	// Another profile server holds another choice.
	other := newProfile(t)
	other.set(uid, optOut)
	if err := caddy.Reload(config(other.addr)); err != nil {
		t.Fatal(err)
	}
	if send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Error("an answer of the old profile server counts for the new one")
	}
}
