package profileclient_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	mint := profileclient.Mint(minter(t, longSecret))
	nobody, err := token.NewMinter(token.MinterConfig{Key: []byte(longSecret), Lifetime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config profileclient.Config
		says   string
	}{
		"no URL":             {profileclient.Config{Auth: mint}, "url: it must start with https://"},
		"no scheme":          {profileclient.Config{URL: "profile.example.org/v1", Auth: mint}, "url: it must start with https://"},
		"other scheme":       {profileclient.Config{URL: "ftp://profile.example.org", Auth: mint}, "url: ftp:// is no way"},
		"http":               {profileclient.Config{URL: "http://example.org/", Auth: mint}, "or allow_http"},
		"not a URL":          {profileclient.Config{URL: "http://a:b:c/", Auth: mint}, "url: it is not a URL"},
		"password":           {profileclient.Config{URL: "https://user:hunter2@example.org/", Auth: mint}, "url: it holds a user name"},
		"unreadable secret":  {profileclient.Config{URL: "https://user:hunter2@exa mple.org/", Auth: mint}, "url: it is not a URL"},
		"fragment":           {profileclient.Config{URL: "https://example.org/#v1", Auth: mint}, "url: it holds a fragment"},
		"uid in host":        {profileclient.Config{URL: "https://{uid}.example.org/", Auth: mint}, "url: it is not a URL"},
		"no auth":            {profileclient.Config{URL: "https://example.org"}, "auth: there is no credential"},
		"empty bearer":       {profileclient.Config{URL: "https://example.org/{uid}", Auth: profileclient.Bearer("")}, "auth: there is no credential"},
		"bearer with break":  {profileclient.Config{URL: "https://example.org/{uid}", Auth: profileclient.Bearer("hunter2\n")}, "auth: the bearer token holds a line break"},
		"bearer without uid": {profileclient.Config{URL: "https://example.org/", Auth: profileclient.Bearer("hunter2")}, "auth: a bearer token does not say"},
		"timeout":            {profileclient.Config{URL: "https://example.org/", Auth: mint, Timeout: -1}, "timeout: it is negative"},
		"max age":            {profileclient.Config{URL: "https://example.org/", Auth: mint, MaxAge: -1}, "max_age: it is negative"},
		"entries":            {profileclient.Config{URL: "https://example.org/", Auth: mint, MaxEntries: -1}, "max_entries: it is negative"},
		"concurrency":        {profileclient.Config{URL: "https://example.org/", Auth: mint, Concurrency: -1}, "concurrency: it is negative"},
		"follow by bearer":   {profileclient.Config{URL: "https://example.org/{uid}", Auth: profileclient.Bearer("hunter2"), Follow: true}, "follow: the change feed"},
		"follow by forward":  {profileclient.Config{URL: "https://example.org/", Auth: profileclient.Forward(), Follow: true}, "follow: the change feed"},
		"follow each":        {profileclient.Config{URL: "https://example.org/{uid}", Auth: mint, Follow: true}, "follow: the change feed"},
		"follow as nobody":   {profileclient.Config{URL: "https://example.org/", Auth: profileclient.Mint(nobody), Follow: true}, "follow: the change feed"},
		"fxa by mint":        {profileclient.Config{URL: "https://example.org/", Auth: mint, API: profileclient.FxA}, "auth: the API of Firefox Accounts"},
		"fxa with uid":       {profileclient.Config{URL: "https://example.org/{uid}", Auth: profileclient.Forward(), API: profileclient.FxA}, "url: the API of Firefox Accounts"},
		"fxa with field":     {profileclient.Config{URL: "https://example.org/", Auth: profileclient.Forward(), API: profileclient.FxA, Field: "x"}, "field: the API of Firefox Accounts"},
		"fxa, inverted":      {profileclient.Config{URL: "https://example.org/", Auth: profileclient.Forward(), API: profileclient.FxA, Inverted: true}, "field: the API of Firefox Accounts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := profileclient.New(test.config)
			if err == nil {
				client.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("the error does not say %q: %v", test.says, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

// TestFreshness follows one answer through its life: used without asking,
// refreshed once in its last fifth, and never used past MaxAge.
func TestFreshness(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "false"
		expect(t, "cold", b.lookup("ann"), policy.Allowed)
		pass(38 * time.Second) // the earliest last fifth begins at 0.8 * 0.8 * 60s
		b.server.set(func(m *memory) { m.preferences["ann"] = "true" })
		expect(t, "warm", b.lookup("ann"), policy.Allowed)
		synctest.Wait()
		expect(t, "requests while warm", b.server.readCount(), 1)
		pass(22 * time.Second)
		expect(t, "due", b.lookup("ann"), policy.OptedOut)
		expect(t, "requests when due", b.server.readCount(), 2)
	})
}

// TestRefreshOnce: however many ask in the last fifth of an answer's life,
// there is one request, they do not wait for it, and if it fails there is no
// other before the answer is due.
func TestRefreshOnce(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"answered": false, "failed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				b.lookup("ann")
				b.server.set(func(m *memory) {
					m.delay = 100 * time.Millisecond
					if fails {
						m.status = http.StatusInternalServerError
					}
				})
				// The life is 48 to 60 seconds, so at some point of these steps
				// its last fifth begins.
				for b.server.readCount() == 1 {
					pass(10 * time.Millisecond)
					before := time.Now()
					for range 100 {
						expect(t, "while warm", b.lookup("ann"), policy.Unset)
						expect(t, "while warm, from the cache", b.Cached(profileclient.Account{UID: "ann"}, time.Now()), policy.Unset)
					}
					expect(t, "time waited", time.Since(before), 0)
					synctest.Wait()
				}
				for range 100 {
					pass(50 * time.Millisecond)
					b.lookup("ann")
				}
				expect(t, "requests", b.server.readCount(), 2)
			})
		})
	}
}

// TestRestart: a thousand users come once a second each, to a client that knows
// none of them, and to a profile server that is busy to the half with keeping
// them known. It is never asked more at once than may be; and once everybody is
// known, nobody is unknown or waits again, though all were asked about within
// the same few seconds.
func TestRestart(t *testing.T) {
	t.Parallel()
	const users, concurrency, delay = 1000, 4, 20 * time.Millisecond // and so 200 lookups/s
	configure := func(c *profileclient.Config) { c.Concurrency = concurrency }
	virtual(t, configure, func(t *testing.T, b bench) {
		b.server.set(func(m *memory) { m.delay = delay })
		var unknown, waited atomic.Int64
		come := func(seconds int) {
			unknown.Store(0)
			waited.Store(0)
			for i := range seconds * users {
				go func() {
					before := time.Now()
					if b.lookup(strconv.Itoa(i%users)) == policy.Unknown {
						unknown.Add(1)
					}
					if time.Since(before) > 0 {
						waited.Add(1)
					}
				}()
				pass(time.Second / users)
			}
		}
		come(8)
		expect(t, "users who are known", b.server.readCount(), users)
		come(150)
		expect(t, "unknown after that", unknown.Load(), 0)
		expect(t, "waiting after that", waited.Load(), 0)
		b.server.set(func(m *memory) {
			expect(t, "at once", m.mostFlying, concurrency)
			if rounds := len(m.reads) / users; rounds < 3 || rounds > 4 {
				t.Errorf("everybody was asked about %d times, of which a life of 48 to 60 s takes 3 to 4", rounds)
			}
		})
	})
}

// TestJitter: whatever MaxAge is, an answer is never used past it, and always
// used for the first 64 % of it (the last fifth of a life that is shortened
// by a fifth).
func TestJitter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		maxAge := time.Duration(rapid.Int64Range(1, int64(48*time.Hour)).Draw(rt, "max age"))
		server := &memory{preferences: map[string]string{}}
		client, err := profileclient.New(profileclient.Config{
			URL:       "https://profile.test/?uid={uid}",
			Auth:      profileclient.Bearer("secret"),
			MaxAge:    maxAge,
			Transport: server,
		})
		if err != nil {
			rt.Fatal(err)
		}
		defer client.Close()
		before := time.Now()
		client.Lookup(context.Background(), profileclient.Account{UID: "ann"}, before)
		after := time.Now()

		// Nobody waits: the client believes the time that the caller has read.
		if early := before.Add(maxAge * 64 / 100); early.After(after) {
			client.Lookup(context.Background(), profileclient.Account{UID: "ann"}, early.Add(-1))
			if server.readCount() != 1 {
				rt.Fatalf("asked again within the first 64 %% of %v", maxAge)
			}
		}
		server.set(func(m *memory) { m.status = http.StatusInternalServerError })
		if got := client.Lookup(context.Background(), profileclient.Account{UID: "ann"}, after.Add(maxAge)); got != policy.Unknown {
			rt.Fatalf("still %v after %v", got, maxAge)
		}
	})
}

// TestStale: past its life an opt-out is used while the server fails, and
// nothing that allowed is; as soon as the server answers, its answer is.
func TestStale(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preference string
		fresh      policy.Preference
		stale      policy.Preference
	}{
		{"true", policy.OptedOut, policy.OptedOut},
		{"false", policy.Allowed, policy.Unknown},
		{"null", policy.Unset, policy.Unknown},
	} {
		t.Run(test.preference, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				account := profileclient.Account{UID: "ann"}
				b.server.preferences["ann"] = test.preference
				expect(t, "fresh", b.lookup("ann"), test.fresh)
				pass(time.Minute)
				expect(t, "past its life, server not known to fail", b.Cached(account, time.Now()), policy.Unknown)
				pass(time.Minute)
				b.server.set(func(m *memory) { m.status = http.StatusServiceUnavailable })
				expect(t, "past its life", b.lookup("ann"), test.stale)
				expect(t, "past its life, named", b.lookupNamed("ann"), test.stale)
				expect(t, "past its life, from the cache", b.Cached(account, time.Now()), test.stale)
				pass(24 * time.Hour)
				expect(t, "a day later", b.lookup("ann"), test.stale)
				b.server.set(func(m *memory) { m.status, m.preferences["ann"] = 0, "false" })
				expect(t, "recovered", b.lookup("ann"), policy.Allowed)
			})
		})
	}
}

// TestCachedNeverWaits: a page gets what is known, and warms the cache for
// the beacon that follows.
func TestCachedNeverWaits(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "true"
		b.server.delay = 100 * time.Millisecond
		before := time.Now()
		for range 100 {
			expect(t, "cold", b.Cached(profileclient.Account{UID: "ann"}, time.Now()), policy.Unknown)
		}
		expect(t, "time waited", time.Since(before), 0)
		pass(100 * time.Millisecond)
		expect(t, "warm", b.Cached(profileclient.Account{UID: "ann"}, time.Now()), policy.OptedOut)
		expect(t, "beacon", b.lookup("ann"), policy.OptedOut)
		expect(t, "requests", b.server.readCount(), 1)
		verified, named := b.Entries()
		expect(t, "verified entries", verified, 1)
		expect(t, "named entries", named, 0)
	})
}

// TestOneRequest: ten thousand who ask for one cold account share a request,
// also those who come when it has just ended.
func TestOneRequest(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"slow server": 100 * time.Millisecond, "quick server": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				b.server.delay = delay
				b.server.preferences["ann"] = "true"
				var wrong atomic.Int64
				var callers sync.WaitGroup
				for i := range 10_000 {
					callers.Go(func() {
						ask := b.lookup
						if i%2 == 1 {
							ask = b.lookupNamed
						}
						if ask("ann") != policy.OptedOut {
							wrong.Add(1)
						}
					})
				}
				callers.Wait()
				expect(t, "wrong answers", wrong.Load(), 0)
				expect(t, "requests", b.server.readCount(), 1)
				expect(t, "lookups counted", b.counts.lookup("ok"), 1)
			})
		})
	}
}

// TestFirstCallerLeaves: the others get their answer when the caller that
// started the lookup has gone away.
func TestFirstCallerLeaves(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		b.server.preferences["ann"] = "false"
		ctx, leave := context.WithCancel(context.Background())
		first, second := make(chan policy.Preference, 1), make(chan policy.Preference, 1)
		go func() { first <- b.Lookup(ctx, profileclient.Account{UID: "ann"}, time.Now()) }()
		synctest.Wait()
		go func() { second <- b.lookup("ann") }()
		synctest.Wait()
		leave()
		expect(t, "who left", <-first, policy.Unknown)
		expect(t, "who stayed", <-second, policy.Allowed)
		expect(t, "requests", b.server.readCount(), 1)
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = time.Hour
		before := time.Now()
		expect(t, "slow", b.lookup("ann"), policy.Unknown)
		expect(t, "time waited", time.Since(before), 300*time.Millisecond)
		expect(t, "timeouts counted", b.counts.lookup("timeout"), 1)
	})
}

// TestBusy: past the bound a lookup is unknown at once, and the slots are
// free again afterwards.
func TestBusy(t *testing.T) {
	t.Parallel()
	virtual(t, func(c *profileclient.Config) { c.Concurrency = 8 }, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		var callers sync.WaitGroup
		for i := range 8 {
			callers.Go(func() { expect(t, "with a slot", b.lookup(fmt.Sprint("ann", i)), policy.Unset) })
		}
		synctest.Wait()
		before := time.Now()
		expect(t, "without a slot", b.lookup("bob"), policy.Unknown)
		expect(t, "time waited", time.Since(before), 0)
		expect(t, "busy counted", b.counts.lookup("busy"), 1)
		callers.Wait()
		expect(t, "afterwards", b.lookup("bob"), policy.Unset)
	})
}

// TestForgedNames: names by the thousand leave proven accounts in the cache
// and half of the slots free.
func TestForgedNames(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.MaxEntries, c.Concurrency, c.MaxAge = 1000, 16, time.Hour }
	virtual(t, configure, func(t *testing.T, b bench) {
		const users = 300
		for i := range users {
			b.server.preferences[fmt.Sprint("user", i)] = "true"
			b.lookup(fmt.Sprint("user", i))
		}
		b.server.set(func(m *memory) { m.delay, m.mostFlying = 10*time.Millisecond, 0 })
		var forgers sync.WaitGroup
		for i := range 5000 {
			forgers.Go(func() {
				b.lookupNamed(fmt.Sprint("forged", i))
			})
		}
		synctest.Wait()
		expect(t, "named lookups in flight", b.server.mostFlying, 8)
		// A proven account gets its slot, and does not share the refusal of a
		// name that was the same.
		expect(t, "a new user meanwhile", b.lookup("forged4999"), policy.Unset)
		forgers.Wait()
		for i := range 5000 {
			b.lookupNamed(fmt.Sprint("one by one", i))
		}

		requests := b.server.readCount()
		for i := range users {
			expect(t, "a user afterwards", b.lookup(fmt.Sprint("user", i)), policy.OptedOut)
		}
		expect(t, "requests for users", b.server.readCount()-requests, 0)
		verified, named := b.Entries()
		expect(t, "verified entries", verified, users+1)
		if named == 0 || named > 500 {
			t.Errorf("named entries: %d in a cache of 500", named)
		}
	})
}

// TestNamesWaitForASlot: a name that finds no slot waits for one, as long as
// its request may wait. Where none came free the preference is hidden, since
// other names may have been sent for that; where the server does not answer it
// is unknown.
func TestNamesWaitForASlot(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.Concurrency = 8 } // four for names
	virtual(t, configure, func(t *testing.T, b bench) {
		b.server.preferences["out"] = "true"
		b.server.delay = 100 * time.Millisecond
		var others sync.WaitGroup
		for i := range 8 {
			others.Go(func() { b.lookupNamed(fmt.Sprint("other", i)) })
		}
		synctest.Wait()
		before := time.Now()
		expect(t, "behind two rounds of others", b.lookupNamed("out"), policy.OptedOut)
		expect(t, "time waited", time.Since(before), 300*time.Millisecond)
		expect(t, "busy counted", b.counts.lookup("busy"), 0)
		others.Wait()

		for i := range 8 {
			others.Go(func() { b.lookupNamed(fmt.Sprint("another", i)) })
		}
		synctest.Wait()
		before = time.Now()
		short := b.LookupNamed(context.Background(), "late", before, 150*time.Millisecond)
		expect(t, "with less time than that", short, policy.Hidden)
		expect(t, "time waited", time.Since(before), 150*time.Millisecond)
		others.Wait()
		pass(time.Second)

		b.server.delay = time.Hour
		expect(t, "a server that does not answer", b.lookupNamed("slow"), policy.Unknown)
		for i := range 4 {
			others.Go(func() { b.lookupNamed(fmt.Sprint("stuck", i)) })
		}
		synctest.Wait()
		// Less time than theirs, or both would end at one instant.
		late := b.LookupNamed(context.Background(), "later", time.Now(), 200*time.Millisecond)
		expect(t, "no slot because of that", late, policy.Hidden)
		expect(t, "a proven account meanwhile", b.lookup("later"), policy.Unknown)
		others.Wait()
		pass(time.Second)
	})
}

// TestNamesHideNoOptOut: what opted out is still used while there is no slot.
func TestNamesHideNoOptOut(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.Concurrency = 2 }
	virtual(t, configure, func(t *testing.T, b bench) {
		b.server.preferences["out"] = "true"
		expect(t, "learnt", b.lookupNamed("out"), policy.OptedOut)
		pass(2 * time.Minute) // past its age
		b.server.delay = time.Hour
		var other sync.WaitGroup
		other.Go(func() { b.lookupNamed("other") })
		synctest.Wait()
		expect(t, "without a slot", b.lookupNamed("out"), policy.OptedOut)
		other.Wait()
	})
}

// TestOnlyNamed: where nobody is ever proven, names have all slots and all of
// the cache.
func TestOnlyNamed(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) {
		c.MaxEntries, c.Concurrency, c.MaxAge, c.OnlyNamed = 1000, 16, time.Hour, true
	}
	virtual(t, configure, func(t *testing.T, b bench) {
		b.server.delay = 10 * time.Millisecond
		var names sync.WaitGroup
		for i := range 400 {
			names.Go(func() { expect(t, "a name", b.lookupNamed(fmt.Sprint("name", i)), policy.Unset) })
		}
		names.Wait()
		expect(t, "lookups in flight", b.server.mostFlying, 16)
		for i := range 400 {
			expect(t, "cached", b.lookupNamed(fmt.Sprint("name", i)), policy.Unset)
		}
		expect(t, "requests", b.server.readCount(), 400)
	})
}

// TestNamesShareAnswers: names read what proven accounts have cached, and the
// other way round.
func TestNamesShareAnswers(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"], b.server.preferences["bob"] = "true", "true"
		b.lookup("ann")
		expect(t, "proven first", b.lookupNamed("ann"), policy.OptedOut)
		b.lookupNamed("bob")
		expect(t, "named first", b.lookup("bob"), policy.OptedOut)
		expect(t, "requests", b.server.readCount(), 2)

		pass(time.Second)
		b.server.set(func(m *memory) { m.preferences["bob"] = "false" })
		b.Invalidate("bob")
		expect(t, "named, after a change", b.lookup("bob"), policy.Allowed)
	})
}

// TestNamesDoNotRefresh: in the last fifth of its life, the answer for a
// proven account is left to that account.
func TestNamesDoNotRefresh(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.lookup("ann")
		b.lookupNamed("bob")
		for range 6000 {
			pass(8 * time.Millisecond)
			b.lookupNamed("ann")
			b.lookupNamed("bob")
		}
		// 48 seconds have passed: the shortest life.
		for _, uid := range b.server.reads[2:] {
			expect(t, "who was refreshed", uid, "bob")
		}
	})
}

// TestInvalidate: what is cached counts as due, an opt-out still holds while
// the server fails, and whoever asks from now on does not share a lookup that
// began before.
func TestInvalidate(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "false"
		b.lookup("ann")
		pass(time.Second)
		b.server.set(func(m *memory) { m.preferences["ann"] = "true" })
		b.Invalidate("ann")
		expect(t, "after the change", b.lookup("ann"), policy.OptedOut)

		pass(time.Second)
		b.server.set(func(m *memory) { m.status = http.StatusInternalServerError })
		b.Invalidate("ann")
		expect(t, "while the server fails", b.lookup("ann"), policy.OptedOut)
	})
}

func TestAnswerFromBeforeTheChange(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]bool{"proven": false, "named": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				ask := b.lookup
				if named {
					ask = b.lookupNamed
				}
				b.server.preferences["ann"] = "false"
				b.server.delay = 100 * time.Millisecond
				before := make(chan policy.Preference, 1)
				go func() { before <- ask("ann") }()
				pass(50 * time.Millisecond)
				b.server.set(func(m *memory) { m.preferences["ann"] = "true" })
				b.Invalidate("ann")
				expect(t, "who asked after the change", ask("ann"), policy.OptedOut)
				expect(t, "who asked before it", <-before, policy.Allowed)
				pass(time.Second)
				expect(t, "what is cached", ask("ann"), policy.OptedOut)
				expect(t, "requests", b.server.readCount(), 2)
			})
		})
	}
}

// TestLateAnswer: an answer that comes after the change, with nobody asking
// meanwhile, is not stored either.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "false"
		b.server.delay = 100 * time.Millisecond
		b.Cached(profileclient.Account{UID: "ann"}, time.Now())
		pass(50 * time.Millisecond)
		b.server.set(func(m *memory) { m.preferences["ann"] = "true" })
		b.Invalidate("ann")
		pass(time.Second)
		expect(t, "cached", b.Cached(profileclient.Account{UID: "ann"}, time.Now()), policy.Unknown)
		pass(time.Second)
		expect(t, "asked again", b.Cached(profileclient.Account{UID: "ann"}, time.Now()), policy.OptedOut)
	})
}

// TestClaims: the newest of the claim, the cached answer and the last change
// holds.
func TestClaims(t *testing.T) {
	t.Parallel()
	claim := func(p policy.Preference, age time.Duration) profileclient.Account {
		return profileclient.Account{UID: "ann", HasClaim: true, Claim: p, ClaimedAt: time.Now().Add(-age)}
	}
	for name, test := range map[string]struct {
		run      func(t *testing.T, b bench) policy.Preference
		want     policy.Preference
		requests int
	}{
		"costs no lookup": {func(_ *testing.T, b bench) policy.Preference {
			return b.Lookup(context.Background(), claim(policy.Unset, 59*time.Second), time.Now())
		}, policy.Unset, 0},
		"costs no lookup of a page": {func(_ *testing.T, b bench) policy.Preference {
			return b.Cached(claim(policy.Allowed, 0), time.Now())
		}, policy.Allowed, 0},
		"from before the client was made": {func(_ *testing.T, b bench) policy.Preference {
			return b.Lookup(context.Background(), claim(policy.OptedOut, time.Second), time.Now())
		}, policy.OptedOut, 0},
		"from the future is from now": {func(_ *testing.T, b bench) policy.Preference {
			future := claim(policy.OptedOut, -time.Hour)
			pass(time.Second)
			return b.Lookup(context.Background(), future, time.Now())
		}, policy.OptedOut, 0},
		"from the future is not newer than an answer of now": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			b.lookup("ann")
			return b.Lookup(context.Background(), claim(policy.Allowed, -time.Hour), time.Now())
		}, policy.OptedOut, 1},
		"from the future it allows nothing": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			return b.Lookup(context.Background(), claim(policy.Allowed, -time.Second), time.Now())
		}, policy.OptedOut, 1},
		"past its life": {func(_ *testing.T, b bench) policy.Preference {
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Minute), time.Now())
		}, policy.Unset, 1},
		"past its life, opted out, server fails": {func(_ *testing.T, b bench) policy.Preference {
			b.server.status = http.StatusInternalServerError
			return b.Lookup(context.Background(), claim(policy.OptedOut, time.Hour), time.Now())
		}, policy.OptedOut, 1},
		"past its life, allowed, server fails": {func(_ *testing.T, b bench) policy.Preference {
			b.server.status = http.StatusInternalServerError
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Hour), time.Now())
		}, policy.Unknown, 1},
		"of no known time": {func(_ *testing.T, b bench) policy.Preference {
			return b.Lookup(context.Background(), profileclient.Account{UID: "ann", HasClaim: true, Claim: policy.Allowed}, time.Now())
		}, policy.Unset, 1},
		"older than the cached answer": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			b.lookup("ann")
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Second), time.Now())
		}, policy.OptedOut, 1},
		"newer than the cached answer": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			b.lookup("ann")
			pass(2 * time.Second)
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Second), time.Now())
		}, policy.Allowed, 1},
		"older than the last change": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			b.Invalidate("ann")
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Second), time.Now())
		}, policy.OptedOut, 1},
		"newer than the last change": {func(_ *testing.T, b bench) policy.Preference {
			b.server.preferences["ann"] = "true"
			b.Invalidate("ann")
			pass(2 * time.Second)
			return b.Lookup(context.Background(), claim(policy.Allowed, time.Second), time.Now())
		}, policy.Allowed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				expect(t, "preference", test.run(t, b), test.want)
				expect(t, "requests", b.server.readCount(), test.requests)
			})
		})
	}
}

// TestHealth: one report for each change of state, not for each request, and
// a server that fails now and then fails.
func TestHealth(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		uid := 0
		ask := func(times int) {
			for range times {
				uid++
				b.lookup(fmt.Sprint("private", uid))
			}
		}
		ask(10)
		expect(t, "reports while well", len(b.counts.reports()), 0)
		b.server.set(func(m *memory) { m.status = http.StatusInternalServerError })
		ask(10)
		for range 10 {
			b.server.set(func(m *memory) { m.status = 0 })
			ask(10)
			b.server.set(func(m *memory) { m.status = http.StatusBadGateway })
			ask(10)
			pass(4 * time.Second)
		}
		reports := b.counts.reports()
		if len(reports) != 1 || reports[0] == nil {
			t.Fatalf("reports while failing: %v", reports)
		}
		if text := reports[0].Error(); !strings.Contains(text, "500") || strings.Contains(text, "private") {
			t.Errorf("the report is %q", text)
		}
		b.server.set(func(m *memory) { m.status = 0 })
		pass(5 * time.Second)
		ask(10)
		reports = b.counts.reports()
		if len(reports) != 2 || reports[1] != nil {
			t.Errorf("reports after recovery: %v", reports)
		}
	})
}

// TestClose: what runs is waited for, nothing begins in the background, and
// requests that are still in flight get their answers.
func TestClose(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		b.Cached(profileclient.Account{UID: "ann"}, time.Now())
		synctest.Wait()
		before := time.Now()
		b.Close()
		expect(t, "time that Close waited", time.Since(before), 100*time.Millisecond)

		b.Cached(profileclient.Account{UID: "bob"}, time.Now())
		b.WriteBack(profileclient.Account{UID: "ann"}, time.Now())
		synctest.Wait()
		expect(t, "requests in the background", b.server.readCount(), 1)
		expect(t, "write-backs dropped", b.counts.write("dropped"), 1)
		expect(t, "in flight", b.lookup("bob"), policy.Unset)
		b.Close()
	})
}

// TestCloseAtOnce closes a client whose background lookup has not begun.
func TestCloseAtOnce(t *testing.T) {
	t.Parallel()
	for range 1000 {
		b := newBench(t, nil)
		b.Cached(profileclient.Account{UID: "ann"}, time.Now())
		b.Close()
	}
}

// TestNoObserver: a client that nobody watches works and fails like any other.
func TestNoObserver(t *testing.T) {
	t.Parallel()
	virtual(t, func(c *profileclient.Config) { c.Observer = profileclient.Observer{} }, func(t *testing.T, b bench) {
		b.server.status = http.StatusInternalServerError
		expect(t, "failing", b.lookup("ann"), policy.Unknown)
		b.WriteBack(profileclient.Account{UID: "ann"}, time.Now())
		pass(time.Hour)
		b.server.set(func(m *memory) { m.status = 0 })
		expect(t, "recovered", b.lookup("ann"), policy.Unset)
	})
}

// TestNobody: an account without an id, or one that a token is missing for,
// is not asked about.
func TestNobody(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		expect(t, "no id", b.lookup(""), policy.Unknown)
		expect(t, "requests", b.server.readCount(), 0)
		expect(t, "counted", b.counts.lookup("no_credential"), 1)
	})
	forward := func(c *profileclient.Config) { c.Auth = profileclient.Forward() }
	virtual(t, forward, func(t *testing.T, b bench) {
		expect(t, "no token", b.lookup("ann"), policy.Unknown)
		expect(t, "named", b.lookupNamed("ann"), policy.Unknown)
		expect(t, "requests", b.server.readCount(), 0)
		expect(t, "counted", b.counts.lookup("no_credential"), 2)
		account := profileclient.Account{UID: "ann", Token: "her own"}
		expect(t, "her own token", b.Lookup(context.Background(), account, time.Now()), policy.Unset)
		expect(t, "named, from the cache", b.lookupNamed("ann"), policy.Unset)

		// Her token being refused says nothing of the server.
		b.server.set(func(m *memory) { m.status = http.StatusUnauthorized })
		pass(time.Minute)
		expect(t, "token refused", b.Lookup(context.Background(), account, time.Now()), policy.Unknown)
		expect(t, "reports", len(b.counts.reports()), 0)
	})
}
