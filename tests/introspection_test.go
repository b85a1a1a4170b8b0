package tests

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// anyClient takes the tokens of every client of these tests.
const anyClient = "client " + testcaddy.TrustedRelier + " " + testcaddy.UntrustedOther + " " + operator

// fxaTokens and rfcTokens are how the OAuth server is asked, with time for a
// slow machine.
func (o *oauthServer) fxaTokens(options ...string) string {
	return "introspect " + o.URL + "/v1/verify {\n" + strings.Join(append(options, patient), "\n") + "\n}"
}

func (o *oauthServer) rfcTokens(options ...string) string {
	return "introspect " + o.URL + "/v1/introspect {\nbearer " + introspectionBearer + "\n" + strings.Join(append(options, patient), "\n") + "\n}"
}

// FxA's opaque access tokens read and write a preference at the profile server,
// beside tokens that verify by themselves. That a token does not hold is told
// apart from that nobody could be asked.
func TestOpaqueTokens(t *testing.T) {
	t.Parallel()
	for manner, tokens := range map[string]func(*oauthServer, ...string) string{"FxA": (*oauthServer).fxaTokens, "RFC 7662": (*oauthServer).rfcTokens} {
		t.Run(manner, func(t *testing.T) {
			t.Parallel()
			oauth := newOAuthServer(t)
			addr := testcaddy.FreeAddr(t)
			testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), "tokens "+tokens(oauth, anyClient))))
			uid := testcaddy.NewUID(t)
			reading := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile", "https://identity.mozilla.com/apps/oldsync")
			writing := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile:write")
			for range 3 {
				if status, _, body := testcaddy.Ask(t, addr, http.MethodPost, writing, `{"metrics_optout":true}`); status != http.StatusOK || body != "{}" {
					t.Errorf("POST: %d %q", status, body)
				}
				if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, ""); status != http.StatusOK || body != `{"metrics_optout":true}` {
					t.Errorf("GET: %d %q", status, body)
				}
			}
			for _, token := range []string{reading, writing} {
				if n := oauth.times(token); n != 1 {
					t.Errorf("a token was asked about %d times", n)
				}
			}
			holds(t, addr, uid, optOut, "with a token that verifies by itself")

			forged := testcaddy.NewUID(t) + testcaddy.NewUID(t)
			fresh := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile")
			for _, c := range []struct {
				name, method, token string
				status, errno       int
			}{
				{"a token that nobody issued", "GET", forged, 401, 100},
				{"reading does not write", "POST", reading, 403, 999},
				{"another area", "GET", oauth.issue(t, uid, testcaddy.TrustedRelier, "profile:email"), 403, 999},
				{"an untrusted relier", "GET", oauth.issue(t, uid, testcaddy.UntrustedOther, "profile"), 403, 999},
				{"a JWT of others", "GET", testcaddy.Session(uid), 401, 100},
			} {
				refused(t, addr, c.name, c.method, c.token, c.status, c.errno)
			}

			oauth.down.Store(true)
			refused(t, addr, "nobody can be asked", "GET", fresh, 503, 104)
			refused(t, addr, "nobody can be asked about a forged one", "POST", testcaddy.NewUID(t)+testcaddy.NewUID(t), 503, 104)
			if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, reading, ""); status != http.StatusOK || body != `{"metrics_optout":true}` {
				t.Errorf("a token that was verified a moment ago: %d %q", status, body)
			}
			holds(t, addr, uid, optOut, "while nobody can be asked about opaque tokens")
			oauth.down.Store(false)
			if status, _, _ := testcaddy.Ask(t, addr, http.MethodGet, fresh, ""); status != http.StatusOK {
				t.Errorf("the OAuth server is back, and its token gets %d", status)
			}
		})
	}
}

// refused tells whether a request gets the status and the errno.
func refused(t *testing.T, addr, name, method, token string, status, errno int) {
	t.Helper()
	body := map[string]string{http.MethodPost: `{"metrics_optout":false}`}[method]
	got, _, said := testcaddy.Ask(t, addr, method, token, body)
	if want := fmt.Sprintf(`{"code":%d,"errno":%d,`, status, errno); got != status || !strings.HasPrefix(said, want) || strings.Contains(said, token) {
		t.Errorf("%s: %d %q, want %s", name, got, said, want)
	}
}

// An opaque token in a cookie or a header is a session; one that does not hold
// is unverifiable, and so is any while nobody can be asked.
func TestIntrospectedSessions(t *testing.T) {
	t.Parallel()
	behind, profile, oauth := newContentServer(t), newProfile(t), newOAuthServer(t)
	blocking, collecting := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	sessions := "session " + oauth.fxaTokens("cookie sid") + "\nsession " + oauth.rfcTokens("header Authorization Bearer")
	caddy := testcaddy.Start(t,
		testcaddy.Site(blocking, testcaddy.Gate("preset fxa", sessions, profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(collecting, testcaddy.Gate("preset fxa", "on_unknown collect", sessions, profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)
	headers := []string{"Cookie: sid=", "Authorization: Bearer "}
	issue := func(uid string) string { return oauth.issue(t, uid, testcaddy.TrustedRelier, "profile") }
	check := func(name, token, reason, block, collect string) {
		t.Helper()
		for _, header := range headers {
			for site, want := range map[string]string{blocking: block, collecting: collect} {
				counted := caddy.Metric("requests_total", "decision", want, "reason", reason)
				if a := send(t, behind, site, "POST /metrics", "{}", header+token); a.decision() != want || a.status != http.StatusOK {
					t.Errorf("%s as %s…: %s, want %s; answered %d", name, header, a.decision(), want, a.status)
				}
				if n := caddy.Metric("requests_total", "decision", want, "reason", reason) - counted; n != 1 {
					t.Errorf("%s as %s…: counted %v times as %s", name, header, n, reason)
				}
			}
		}
	}
	good, fresh := issue(in), issue(in)
	check("opted out", issue(out), "preference", "block", "block")
	check("allowed", good, "explicit_allow", "collect", "collect")
	check("no choice", issue(profile.account(unset)), "default", "collect", "collect")
	check("forged", testcaddy.NewUID(t)+testcaddy.NewUID(t), "unverified_session", "block", "collect")
	check("no account", issue(""), "unverified_session", "block", "collect")
	if n := oauth.times(good); n != 2 {
		t.Errorf("a token was asked about %d times in two manners", n)
	}
	// One that is allowed beside one that is opted out.
	if a := send(t, behind, blocking, "POST /metrics", "{}", headers[0]+good, headers[1]+issue(out)); a.collected() {
		t.Error("an opt-out hides behind another session")
	}

	oauth.down.Store(true)
	check("nobody can be asked", fresh, "unverified_session", "block", "collect")
	check("verified a moment ago", good, "explicit_allow", "collect", "collect")
	if caddy.Metric("sessions_total", "outcome", "keys_unavailable") == 0 {
		t.Error("no session is counted as one that nobody could be asked about")
	}
	oauth.down.Store(false)
	check("the OAuth server is back", fresh, "explicit_allow", "collect", "collect")
}

// Ten thousand forged tokens cost a bounded number of questions at a time and
// bounded memory; they displace no token that is good.
func TestForgedOpaqueTokens(t *testing.T) {
	t.Parallel()
	const forged, width, entries = 10_000, 200, 1000
	behind, profile, oauth := newContentServer(t), newProfile(t), newOAuthServer(t)
	site, addr := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(site, testcaddy.Gate("preset fxa", "session "+oauth.fxaTokens("cookie sid", "max_age 1h"), profile.block(patient, fmt.Sprint("max_entries ", entries))), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), "tokens "+oauth.rfcTokens(anyClient, "max_age 1h"))))
	uid := profile.account(allow)
	good := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile")
	holdsStill := func(when string) {
		t.Helper()
		if a := send(t, behind, site, "POST /metrics", "{}", "Cookie: sid="+good); !a.collected() {
			t.Errorf("%s: a good session is not collected", when)
		}
		if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, good, ""); status != http.StatusOK {
			t.Errorf("%s: a good token gets %d %q", when, status, body)
		}
	}
	holdsStill("at first")

	// Forged tokens about which no answer comes: no more than so many are asked
	// about at a time, and the others wait for their turn.
	const atATime = 64
	hold, before := make(chan struct{}), len(oauth.asked.All())
	oauth.hold.Store(&hold)
	var senders sync.WaitGroup
	for range width {
		senders.Go(func() {
			a, err := trySend(behind, site, "POST /metrics", "{}", "Cookie: sid="+testcaddy.NewUID(t)+testcaddy.NewUID(t))
			if err != nil || a.collected() || a.status != http.StatusOK {
				t.Errorf("a forged session: %s, answered %d, %v", a.decision(), a.status, err)
			}
		})
	}
	oauth.asked.Wait(t, "forged tokens to be asked about", func(all []string) bool { return len(all) >= before+atATime })
	for range 20 {
		holdsStill("while forged ones wait")
	}
	if n := len(oauth.asked.All()) - before; n > atATime {
		t.Errorf("%d questions are asked at a time", n)
	}
	oauth.hold.Store(nil)
	close(hold)
	senders.Wait()

	flood(t, forged, 16, func(i int) error {
		token := testcaddy.NewUID(t) + testcaddy.NewUID(t)
		if i%2 == 0 {
			a, err := trySend(behind, site, "POST /metrics", "{}", "Cookie: sid="+token)
			if err == nil && a.collected() {
				err = fmt.Errorf("a forged session was collected")
			}
			return err
		}
		status, _, body, err := testcaddy.TryAskFor(addr, "GET /v1/metrics_optout", token, "")
		if err == nil && status != http.StatusUnauthorized {
			err = fmt.Errorf("a forged token got %d %s", status, body)
		}
		return err
	}, func() {
		for range 20 {
			holdsStill("beside forged ones")
		}
	})
	holdsStill("after forged ones")
	if n := oauth.times(good); n != 2 {
		t.Errorf("a good token was asked about %d times, in two manners", n)
	}
	for _, sample := range caddy.Samples() {
		if sample.Name == "caddy_metrics_gate_cache_entries" && sample.Value > entries {
			t.Errorf("cache %v holds %v entries, of at most %d", sample.Labels, sample.Value, entries)
		}
	}
}
