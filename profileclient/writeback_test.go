package profileclient_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

func (b bench) writeBack(uid string) {
	b.WriteBack(profileclient.Account{UID: uid}, time.Now())
}

// TestWriteBack is the way of one opt-out into a profile that holds null:
// once, with the version that was seen, and cached from then on.
func TestWriteBack(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		expect(t, "before", b.lookup("ann"), policy.Unset)
		before := time.Now()
		for range 100 {
			b.writeBack("ann")
		}
		expect(t, "time waited", time.Since(before), 0)
		pass(time.Second)
		expect(t, "after", b.lookup("ann"), policy.OptedOut)
		expect(t, "lookups", b.server.readCount(), 1)
		expect(t, "written", b.counts.write("written"), 1)
		writes := b.server.written()
		if len(writes) != 1 {
			t.Fatalf("writes: %v", writes)
		}
		expect(t, "body", writes[0].body, `{"metrics_optout":true}`)
		expect(t, "If-Match", writes[0].ifMatch, `"null"`)
	})
}

// TestWriteBackInverted: in a field that says allowed, opted out is false.
func TestWriteBackInverted(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.Inverted = true }
	virtual(t, configure, func(t *testing.T, b bench) {
		b.lookup("ann")
		b.writeBack("ann")
		synctest.Wait()
		expect(t, "body", b.server.written()[0].body, `{"metrics_optout":false}`)
		expect(t, "after", b.lookup("ann"), policy.OptedOut)
	})
}

// TestWriteBackOutcomes: what ends a write-back, and what is counted.
func TestWriteBackOutcomes(t *testing.T) {
	t.Parallel()
	claim := func(age time.Duration) profileclient.Account {
		return profileclient.Account{UID: "ann", HasClaim: true, Claim: policy.Unset, ClaimedAt: time.Now().Add(-age)}
	}
	for name, test := range map[string]struct {
		run             func(t *testing.T, b bench)
		outcome         string
		after           policy.Preference
		lookups, writes int
	}{
		"a claim is looked up first": {func(_ *testing.T, b bench) {
			b.WriteBack(claim(0), time.Now())
		}, "written", policy.OptedOut, 1, 1},
		"a newer claim needs a newer version": {func(_ *testing.T, b bench) {
			b.lookup("ann")
			pass(2 * time.Second)
			b.WriteBack(claim(time.Second), time.Now())
		}, "written", policy.OptedOut, 2, 1},
		"an older claim does not": {func(_ *testing.T, b bench) {
			b.lookup("ann")
			pass(2 * time.Second)
			b.WriteBack(claim(time.Minute), time.Now())
		}, "written", policy.OptedOut, 1, 1},
		"the profile holds what the claim does not know": {func(_ *testing.T, b bench) {
			b.server.preferences["ann"] = "false"
			b.WriteBack(claim(0), time.Now())
		}, "unneeded", policy.Allowed, 1, 0},
		"nothing is cached": {func(_ *testing.T, b bench) {
			b.writeBack("ann")
		}, "written", policy.OptedOut, 1, 1},
		"no version": {func(_ *testing.T, b bench) {
			b.server.noETag = true
			b.lookup("ann")
			for range 100 {
				b.writeBack("ann")
				synctest.Wait()
			}
		}, "no_etag", policy.Unset, 1, 0},
		"the user chose meanwhile": {func(_ *testing.T, b bench) {
			b.lookup("ann")
			b.server.set(func(m *memory) { m.preferences["ann"] = "false" })
			pass(time.Second)
			b.writeBack("ann")
		}, "conflict", policy.Allowed, 2, 1},
		"refused": {func(_ *testing.T, b bench) {
			b.server.writeStatus = http.StatusForbidden
			b.lookup("ann")
			for range 100 {
				b.writeBack("ann")
				synctest.Wait()
			}
		}, "failed", policy.Unset, 1, 1},
		"redirected": {func(_ *testing.T, b bench) {
			b.server.writeStatus = http.StatusTemporaryRedirect
			b.lookup("ann")
			b.writeBack("ann")
		}, "failed", policy.Unset, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				test.run(t, b)
				synctest.Wait()
				expect(t, test.outcome, b.counts.write(test.outcome), 1)
				expect(t, "kinds of outcome", len(b.counts.writes), 1)
				expect(t, "lookups", b.server.readCount(), test.lookups)
				expect(t, "writes", len(b.server.written()), test.writes)
				expect(t, "preference afterwards", b.lookup("ann"), test.after)
				expect(t, "lookups afterwards", b.server.readCount(), test.lookups)
			})
		})
	}
}

// TestRefusedIsTriedWithTheNextAnswer: a write that was refused is not sent
// with every beacon, and neither given up for ever.
func TestRefusedIsTriedWithTheNextAnswer(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.writeStatus = http.StatusForbidden
		for range 600 {
			b.lookup("ann")
			b.writeBack("ann")
			pass(time.Second)
		}
		// Ten minutes, each answer living for 38 to 60 seconds.
		if writes := len(b.server.written()); writes < 9 || writes > 17 {
			t.Errorf("%d writes in ten minutes", writes)
		}
		b.server.set(func(m *memory) { m.writeStatus = 0 })
		pass(time.Minute)
		b.lookup("ann")
		b.writeBack("ann")
		synctest.Wait()
		expect(t, "afterwards", b.lookup("ann"), policy.OptedOut)
	})
}

// TestBackoff: a write that fails is tried again at growing distances, one at
// a time, for five minutes at most.
func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				b.server.writeStatus = status
				b.lookup("ann")
				begun := time.Now()
				b.writeBack("ann")
				for b.counts.write("failed") == 0 {
					b.lookup("ann")
					b.writeBack("ann")
					pass(time.Second)
				}
				if took := time.Since(begun); took > 5*time.Minute+time.Second {
					t.Errorf("it was tried for %v", took)
				}

				var last time.Duration
				tries := 0
				for _, w := range b.server.written() {
					at := w.at.Sub(begun)
					if tries > 0 && at-last < 250*time.Millisecond {
						t.Errorf("tries at %v and %v", last, at)
					}
					last = at
					tries++
				}
				// 0.5s, 1s, 2s, … 32s, 60s, 60s …, each less or more by half.
				if tries < 8 || tries > 15 {
					t.Errorf("%d tries in five minutes", tries)
				}
			})
		})
	}
}

// TestRetrySucceeds: the opt-out arrives when the server is back, without the
// browser saying it again.
func TestRetrySucceeds(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.status = http.StatusServiceUnavailable
		// Already the lookup fails, which a claim needs first.
		b.WriteBack(profileclient.Account{
			UID: "ann", HasClaim: true, Claim: policy.Unset, ClaimedAt: time.Now(),
		}, time.Now())
		pass(10 * time.Second)
		b.server.set(func(m *memory) { m.status, m.writeStatus = 0, http.StatusServiceUnavailable })
		pass(time.Minute)
		b.server.set(func(m *memory) { m.writeStatus = 0 })
		pass(2 * time.Minute)
		expect(t, "written", b.counts.write("written"), 1)
		expect(t, "profile", b.server.preferences["ann"], "true")
	})
}

// TestLateChoiceWins: what the user chose while a write-back waited for its
// next try is not overwritten, since every try has the first version.
func TestLateChoiceWins(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.writeStatus = http.StatusServiceUnavailable
		b.lookup("ann")
		b.writeBack("ann")
		pass(100 * time.Second)
		b.server.set(func(m *memory) { m.writeStatus, m.preferences["ann"] = 0, "false" })
		pass(2 * time.Minute)
		expect(t, "conflicts", b.counts.write("conflict"), 1)
		expect(t, "profile", b.server.preferences["ann"], "false")
		for _, w := range b.server.written() {
			expect(t, "If-Match", w.ifMatch, `"null"`)
		}
	})
}

// TestAnswerFromBeforeTheWriteBack: a lookup that saw null does not replace
// what was written while it was on its way, for whoever waited either.
func TestAnswerFromBeforeTheWriteBack(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.lookup("ann")
		b.server.set(func(m *memory) { m.delay = 200 * time.Millisecond })
		// The answer is due, so a lookup sees null ...
		pass(time.Second)
		account := profileclient.Account{UID: "ann"}
		seen := make(chan policy.Preference, 1)
		go func() { seen <- b.Lookup(context.Background(), account, time.Now().Add(time.Minute)) }()
		pass(50 * time.Millisecond)
		// ... and the write-back overtakes it.
		b.server.set(func(m *memory) { m.delay = 0 })
		b.writeBack("ann")
		synctest.Wait()
		expect(t, "written", b.counts.write("written"), 1)
		expect(t, "at once", b.lookup("ann"), policy.OptedOut)
		expect(t, "who waited", <-seen, policy.OptedOut)
		expect(t, "afterwards", b.lookup("ann"), policy.OptedOut)
	})
}

// TestForgottenWriteBack: the same where the cache is so small that what was
// written has been displaced when the late answer comes.
func TestForgottenWriteBack(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.MaxEntries = 20 }
	virtual(t, configure, func(t *testing.T, b bench) {
		b.lookup("ann")
		b.server.set(func(m *memory) { m.delay = 200 * time.Millisecond })
		account := profileclient.Account{UID: "ann"}
		go b.Lookup(context.Background(), account, time.Now().Add(time.Minute))
		pass(50 * time.Millisecond)
		b.server.set(func(m *memory) { m.delay = 0 })
		b.writeBack("ann")
		synctest.Wait()
		expect(t, "written", b.counts.write("written"), 1)
		for i := range 100 {
			b.lookup(fmt.Sprint("bob", i))
		}
		pass(time.Second)
		expect(t, "afterwards", b.lookup("ann"), policy.OptedOut)
	})
}

// TestPendingBound: what is too much is dropped and counted, and what waits
// ends with Close.
func TestPendingBound(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.writeStatus = http.StatusServiceUnavailable
		for i := range 1100 {
			b.lookup(fmt.Sprint("ann", i))
			b.writeBack(fmt.Sprint("ann", i))
		}
		synctest.Wait()
		expect(t, "dropped", b.counts.write("dropped"), 1100-1024)
		before := time.Now()
		b.Close()
		expect(t, "time that Close waited", time.Since(before), 0)
		expect(t, "dropped by Close", b.counts.write("dropped"), 1100)
	})
}

// TestWritesInFlight: write-backs wait for each other rather than for the
// slots of lookups, and Close does not wait for those that have not begun.
func TestWritesInFlight(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.Concurrency = 8 }
	virtual(t, configure, func(t *testing.T, b bench) {
		for i := range 100 {
			b.lookup(fmt.Sprint("ann", i))
		}
		b.server.set(func(m *memory) { m.delay, m.mostFlying = 200*time.Millisecond, 0 })
		for i := range 100 {
			b.writeBack(fmt.Sprint("ann", i))
		}
		synctest.Wait()
		expect(t, "in flight", b.server.mostFlying, 2)
		expect(t, "a lookup meanwhile", b.lookup("bob"), policy.Unset)
		before := time.Now()
		b.Close()
		if waited := time.Since(before); waited > 300*time.Millisecond {
			t.Errorf("Close waited for %v", waited)
		}
		expect(t, "ended", b.counts.write("written")+b.counts.write("dropped"), 100)
	})
}

// TestForwardWritesWithTheOwnToken: the profile server must see the account's
// own credential.
func TestForwardWritesWithTheOwnToken(t *testing.T) {
	t.Parallel()
	configure := func(c *profileclient.Config) { c.Auth = profileclient.Forward() }
	virtual(t, configure, func(t *testing.T, b bench) {
		b.WriteBack(profileclient.Account{UID: "ann", Token: "her own"}, time.Now())
		synctest.Wait()
		expect(t, "token", b.server.written()[0].token, "Bearer her own")
	})
}
