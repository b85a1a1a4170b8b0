package profileclient_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// TestFeedThatTellsAgainAndStalls: what was true once is told when it is no
// more. The feed was cut while somebody allowed and then opted out; it comes
// back, tells of the former, and stalls.
func TestFeedThatTellsAgainAndStalls(t *testing.T) {
	t.Parallel()
	const maxAge = 10 * time.Second
	configure := func(c *profileclient.Config) { c.MaxAge = maxAge }
	connected(t, configure, func(t *testing.T, f following) {
		uids := []string{"proven", "named"}
		ask := map[string]func() policy.Preference{
			"proven": func() policy.Preference { return f.lookup("proven") },
			"named":  func() policy.Preference { return f.lookupNamed("named") },
		}
		for _, uid := range uids {
			expect(t, uid+", before", ask[uid](), policy.Unset)
		}
		f.teller.answer(func(t *teller) { t.mute = true })
		f.teller.breakOff()
		f.teller.hold("true", uids...)
		optedOut := time.Now()
		pass(2 * time.Second)
		f.teller.tell("id: 40\n\n" + told(41, "proven", "false", 1) + told(42, "named", "false", 1) + "event: change\nid: 43\nda")
		for time.Since(optedOut) < time.Minute {
			for _, uid := range uids {
				got := ask[uid]()
				if got != policy.OptedOut && (got == policy.Allowed || time.Since(optedOut) > maxAge) {
					t.Fatalf("%s is %v, %v after the opt-out", uid, got, time.Since(optedOut))
				}
			}
			pass(100 * time.Millisecond)
		}
	})
}

// TestOptOutThatIsTold decides from then on, for whoever is proven or only
// named: whatever is cached of the account, and for those, too, who wait
// already for what a slow profile server saw before, or for a slot.
func TestOptOutThatIsTold(t *testing.T) {
	t.Parallel()
	asks := map[string]func(f following) policy.Preference{
		"proven": func(f following) policy.Preference { return f.lookup("ann") },
		"named":  func(f following) policy.Preference { return f.lookupNamed("ann") },
	}
	const forever = time.Hour
	for name, test := range map[string]struct {
		cached func(f following)
		delay  time.Duration // of the server's answers from then on
		noSlot bool          // for names
	}{
		"not cached":                        {cached: func(following) {}, delay: time.Second},
		"not cached, no answer":             {cached: func(following) {}, delay: forever},
		"not cached, no slot":               {cached: func(following) {}, delay: time.Second, noSlot: true},
		"not cached, no slot in time":       {cached: func(following) {}, delay: forever, noSlot: true},
		"cached, proven":                    {cached: func(f following) { f.lookup("ann") }, delay: time.Second},
		"cached, named":                     {cached: func(f following) { f.lookupNamed("ann") }, delay: time.Second},
		"cached, both":                      {cached: cachedTwice, delay: time.Second},
		"due, proven":                       {cached: func(f following) { f.lookup("ann"); pass(time.Hour) }, delay: time.Second},
		"due, named":                        {cached: func(f following) { f.lookupNamed("ann"); pass(time.Hour) }, delay: time.Second},
		"due, both":                         {cached: func(f following) { cachedTwice(f); f.Invalidate("ann") }, delay: time.Second},
		"due, both, no answer":              {cached: func(f following) { cachedTwice(f); f.Invalidate("ann") }, delay: forever},
		"due, named, no slot":               {cached: func(f following) { f.lookupNamed("ann"); pass(time.Hour) }, delay: time.Second, noSlot: true},
		"in the last fifth of its life":     {cached: func(f following) { f.lookupNamed("ann"); pass(47 * time.Second) }, delay: time.Second},
		"in the last fifth, proven as well": {cached: func(f following) { cachedTwice(f); pass(47 * time.Second) }, delay: time.Second},
	} {
		for first, waits := range asks {
			for second, comes := range asks {
				t.Run(fmt.Sprintf("%s/%s, then %s", name, first, second), func(t *testing.T) {
					t.Parallel()
					configure := func(c *profileclient.Config) { c.Timeout, c.Concurrency = 3*time.Second, 2 }
					connected(t, configure, func(t *testing.T, f following) {
						f.teller.hold("false", "ann")
						test.cached(f)
						f.teller.set(func(m *memory) { m.delay = test.delay })
						if test.noSlot {
							go f.lookupNamed("zoe")
							synctest.Wait()
						}
						var told sync.Mutex
						waited := make(chan policy.Preference, 1)
						go func() {
							got := waits(f)
							if told.TryLock() {
								got = policy.OptedOut // nobody had been told yet
								told.Unlock()
							}
							waited <- got
						}()
						pass(300 * time.Millisecond)
						f.teller.hold("true", "ann")
						told.Lock()
						f.teller.tell(optOut(41, "ann"))
						began := time.Now()
						expect(t, "who comes now", comes(f), policy.OptedOut)
						expect(t, "after", time.Since(began), 0)
						expect(t, "who waited", <-waited, policy.OptedOut)
						pass(10 * time.Second)
						f.teller.set(func(m *memory) { m.delay = 0 })
						expect(t, "later", comes(f), policy.OptedOut)
					})
				})
			}
		}
	}
}

// cachedTwice has both caches know ann.
func cachedTwice(f following) {
	f.lookup("ann")
	pass(time.Hour)
	f.lookupNamed("ann")
}

func optOut(id int, uid string) string { return told(id, uid, "true", 30) }
