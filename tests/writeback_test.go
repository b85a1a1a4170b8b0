package tests

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// What the browser said goes into a profile that holds no choice: once, and
// only if it still holds none.
func TestWriteBack(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, off := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	options := []string{"preset fxa", "signal {\ngpc\ndnt\n}", testcaddy.SessionJWT(), profile.block(patient)}
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, testcaddy.Gate(options...), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(off, testcaddy.Gate(append(options, "write_back off")...), testcaddy.ProxyTo(behind.addr())))

	cases := []struct {
		name     string
		site     string
		held     preference
		session  func(uid string) string
		headers  []string
		decision string
		writes   int
	}{
		{"cookie", addr, unset, nil, []string{"Cookie: metrics_optout=true"}, "block", 1},
		{"header", addr, unset, nil, []string{"Metrics-Optout: 1"}, "block", 1},
		{"contradicting cookies", addr, unset, nil, []string{"Cookie: metrics_optout=false; x=y; metrics_optout=1"}, "block", 0},
		{"a header against a cookie", addr, unset, nil, []string{"Cookie: metrics_optout=false", "Metrics-Optout: true"}, "block", 0},
		{"remembered of an account", addr, unset, nil, []string{"Cookie: metrics_optout=account"}, "block", 0},
		{"two accounts", addr, unset, nil, []string{"Cookie: metrics_optout=true", testcaddy.Cookie(testcaddy.Session(profile.account(unset)))}, "block", 0},
		{"cookie beside GPC", addr, unset, nil, []string{"Cookie: metrics_optout=true", "Sec-GPC: 1"}, "block", 1},
		{"GPC", addr, unset, nil, []string{"Sec-GPC: 1"}, "block", 0},
		{"DNT", addr, unset, nil, []string{"DNT: 1"}, "block", 0},
		{"GPC beside no objection", addr, unset, nil, []string{"Sec-GPC: 1", "Metrics-Optout: 0"}, "block", 0},
		{"no objection", addr, unset, nil, []string{"Cookie: metrics_optout=false"}, "collect", 0},
		{"nothing said", addr, unset, nil, nil, "collect", 0},
		{"explicit choice to allow", addr, allow, nil, []string{"Cookie: metrics_optout=true"}, "collect", 0},
		{"opted out already", addr, optOut, nil, []string{"Cookie: metrics_optout=true"}, "block", 0},
		{"could not be learnt", addr, unknown, nil, []string{"Cookie: metrics_optout=true"}, "block", 0},
		{"expired session", addr, unset, func(uid string) string { return testcaddy.Session(uid, testcaddy.Expired) }, []string{"Cookie: metrics_optout=true"}, "block", 0},
		{"write_back off", off, unset, nil, []string{"Cookie: metrics_optout=true"}, "block", 0},
	}
	uids := make([]string, len(cases))
	for i, c := range cases {
		uids[i] = profile.account(c.held)
		token := testcaddy.Session(uids[i])
		if c.session != nil {
			token = c.session(uids[i])
		}
		for range 10 { // beacons come often; the choice is written once
			if a := send(t, behind, c.site, "POST /metrics", "{}", append(c.headers, testcaddy.Cookie(token))...); a.decision() != c.decision {
				t.Errorf("%s: %s, want %s", c.name, a.decision(), c.decision)
			}
		}
	}
	// A name never writes.
	named := profile.account(unset)
	if a := send(t, behind, addr, "POST /metrics", flushOf(t, named), "Cookie: metrics_optout=true"); a.collected() {
		t.Error("the signal was overlooked")
	}

	for i, c := range cases {
		if c.writes > 0 {
			profile.awaitAsked(uids[i], http.MethodPost, c.writes)
		}
	}
	testcaddy.Until(t, "the written ones to be counted", func() bool { return caddy.Metric("write_backs_total", "outcome", "written") == 3 })

	// From then on it is the account's own choice, whatever the browser.
	before := caddy.Metric("requests_total", "reason", "preference")
	if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uids[0]))); a.collected() {
		t.Error("what was written is not what is cached")
	}
	if got := caddy.Metric("requests_total", "reason", "preference") - before; got != 1 {
		t.Error("what was written is not the reason of what follows")
	}

	caddy.Stop() // joins whatever it still has running
	for i, c := range cases {
		posts := profile.about(uids[i], http.MethodPost)
		if len(posts) != c.writes {
			t.Errorf("%s: written %d times, want %d", c.name, len(posts), c.writes)
		}
		for _, post := range posts {
			if post.body != `{"metrics_optout":true}` || !slices.Equal(post.ifMatch, []string{`"v1"`}) {
				t.Errorf("%s: wrote %q if it matches %q", c.name, post.body, post.ifMatch)
			}
		}
		want := c.held
		if c.writes > 0 {
			want = optOut
		}
		if got := profile.get(uids[i]); got != want {
			t.Errorf("%s: the profile holds %s, want %s", c.name, got, want)
		}
		if n := profile.lookups(uids[i]); n > 2 && c.held != unknown {
			t.Errorf("%s: %d lookups", c.name, n)
		}
	}
	if profile.writes(named) != 0 {
		t.Error("a named account was written")
	}
}

// One page of a gate that knows nobody yet, and nothing else: it does not wait,
// and the lookup that it started writes when it ends, where the profile holds no
// choice.
func TestColdPageWritesBack(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	answer := profile.stall()
	defer answer()
	holdsNone, holdsAllow := profile.account(unset), profile.account(allow)
	for _, uid := range []string{holdsNone, holdsAllow} {
		if !send(t, behind, addr, "GET /signin", "", testcaddy.Cookie(testcaddy.Session(uid)), "Accept: text/html", "Metrics-Optout: 1").collected() {
			t.Error("a page was blocked")
		}
	}
	answer()
	profile.awaitAsked(holdsNone, http.MethodPost, 1)
	testcaddy.Until(t, "the one to be written and the other not", func() bool {
		return caddy.Metric("write_backs_total", "outcome", "written") == 1 && caddy.Metric("write_backs_total", "outcome", "unneeded") == 1
	})
	caddy.Stop()
	for uid, want := range map[string]preference{holdsNone: optOut, holdsAllow: allow} {
		if got := profile.get(uid); got != want || profile.lookups(uid) != 1 {
			t.Errorf("after %d lookups the profile holds %s, want %s", profile.lookups(uid), got, want)
		}
	}
	if n := profile.writes(holdsNone) + profile.writes(holdsAllow); n != 1 {
		t.Errorf("written %d times", n)
	}
}

// Many beacons at once write once.
func TestWriteBackOnce(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	uid := profile.account(unset)
	flood(t, 100, 20, func(int) error {
		_, err := trySend(behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid)), "Metrics-Optout: true")
		return err
	}, nil)
	profile.awaitAsked(uid, http.MethodPost, 1)
	caddy.Stop()
	if n := profile.writes(uid); n != 1 {
		t.Errorf("100 beacons wrote %d times", n)
	}
}

// The user chose between the lookup and the write: their choice stays, and is
// what counts from then on.
func TestWriteBackLosesToTheUser(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	uid := profile.account(unset)
	token := testcaddy.Cookie(testcaddy.Session(uid))
	if !send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Fatal("not collected")
	}
	profile.set(uid, allow) // elsewhere; the gate still holds null
	if send(t, behind, addr, "POST /metrics", "{}", token, "Metrics-Optout: 1").collected() {
		t.Error("the signal was overlooked")
	}
	profile.awaitAsked(uid, http.MethodPost, 1)
	testcaddy.Until(t, "the conflict to be counted", func() bool { return caddy.Metric("write_backs_total", "outcome", "conflict") == 1 })
	testcaddy.Until(t, "the user's own choice to count", func() bool {
		return send(t, behind, addr, "POST /metrics", "{}", token, "Metrics-Optout: 1").collected()
	})
	caddy.Stop()
	if got := profile.get(uid); got != allow {
		t.Errorf("the user's choice was overwritten with %s", got)
	}
	if n := profile.writes(uid); n != 1 {
		t.Errorf("written %d times", n)
	}
}

// Without an ETag a write could overwrite, so there is none, and a counter tells.
func TestWriteBackNeedsETag(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	profile.noETag.Store(true)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	uid := profile.account(unset)
	for range 5 {
		if send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid)), "Metrics-Optout: 1").collected() {
			t.Error("the signal was overlooked")
		}
	}
	testcaddy.Until(t, "it to be counted", func() bool { return caddy.Metric("write_backs_total", "outcome", "no_etag") > 0 })
	caddy.Stop()
	if n := profile.writes(uid); n != 0 {
		t.Errorf("written %d times without an ETag", n)
	}
}

// A write that fails is tried again, and holds no request meanwhile.
func TestWriteBackIsTriedAgain(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	uid := profile.account(unset)
	token := testcaddy.Cookie(testcaddy.Session(uid))
	if !send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Fatal("not collected")
	}
	profile.failWith(faults["500"])
	if send(t, behind, addr, "POST /metrics", "{}", token, "Metrics-Optout: 1").collected() {
		t.Error("the signal was overlooked")
	}
	profile.awaitAsked(uid, http.MethodPost, 1)
	profile.failWith(nil)
	profile.awaitAsked(uid, http.MethodPost, 2)
	testcaddy.Until(t, "the profile to hold it", func() bool { return profile.get(uid) == optOut })
}

// A preference in the token is no reason to write without looking: the profile
// may hold a choice by now.
func TestWriteBackFromClaim(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", strings.Replace(testcaddy.SessionJWT(), "session jwt {", "session jwt {\noptout_claim metrics_optout", 1), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	null := map[string]any{"metrics_optout": "null"}
	holdsNone, holdsAllow := profile.account(unset), profile.account(allow)
	for _, uid := range []string{holdsNone, holdsAllow} {
		if send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid, null)), "Metrics-Optout: 1").collected() {
			t.Error("the signal was overlooked")
		}
		profile.awaitAsked(uid, http.MethodGet, 1)
	}
	profile.awaitAsked(holdsNone, http.MethodPost, 1)
	testcaddy.Until(t, "it to be counted", func() bool { return caddy.Metric("write_backs_total", "outcome", "unneeded") == 1 })
	caddy.Stop()
	if got := profile.get(holdsNone); got != optOut {
		t.Errorf("a profile without a choice holds %s", got)
	}
	if got := profile.writes(holdsAllow); got != 0 {
		t.Error("an explicit choice was overwritten")
	}
}
