package profileclient_test

import (
	"context"
	"io"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// warm is a bench whose cache holds accounts with fresh answers.
func warm(tb testing.TB, accounts int) (bench, []profileclient.Account) {
	b := newBench(tb, func(c *profileclient.Config) { c.MaxAge = 24 * time.Hour })
	tb.Cleanup(b.Close)
	known := make([]profileclient.Account, accounts)
	for i := range known {
		known[i].UID = strconv.Itoa(i)
		b.lookup(known[i].UID)
	}
	return b, known
}

// TestFreshHitAllocatesNothing holds what the package promises.
func TestFreshHitAllocatesNothing(t *testing.T) {
	b, known := warm(t, 1)
	account, ctx, now := known[0], context.Background(), time.Now()
	claiming := account
	claiming.HasClaim, claiming.Claim, claiming.ClaimedAt = true, policy.OptedOut, now.Add(time.Hour)
	for name, ask := range map[string]func() policy.Preference{
		"Lookup":              func() policy.Preference { return b.Lookup(ctx, account, now) },
		"Lookup with a claim": func() policy.Preference { return b.Lookup(ctx, claiming, now) },
		"Cached":              func() policy.Preference { return b.Cached(account, now) },
		"LookupNamed":         func() policy.Preference { return b.LookupNamed(ctx, account.UID, now, time.Second) },
	} {
		if ask() == policy.Unknown {
			t.Errorf("%s: no fresh hit", name)
		}
		if allocations := testing.AllocsPerRun(1000, func() { ask() }); allocations != 0 {
			t.Errorf("%s: %v allocations", name, allocations)
		}
	}
	if b.server.readCount() != 1 {
		t.Errorf("%d lookups", b.server.readCount())
	}
}

func BenchmarkHit(b *testing.B) {
	for _, accounts := range []int{1, 40_000} {
		b.Run(strconv.Itoa(accounts), func(b *testing.B) {
			client, known := warm(b, accounts)
			ctx, now := context.Background(), time.Now()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				client.Lookup(ctx, known[i], now)
				if i++; i == len(known) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkHitParallel(b *testing.B) {
	client, known := warm(b, 40_000)
	ctx, now := context.Background(), time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			client.Lookup(ctx, known[i%len(known)], now)
		}
	})
}

// BenchmarkMiss looks up one account after the other, with a server that
// takes no time.
func BenchmarkMiss(b *testing.B) {
	client := newBench(b, nil)
	b.Cleanup(client.Close)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		client.lookup(strconv.Itoa(i))
		i++
	}
}

// BenchmarkRefresh is a hit in the last fifth of an answer's life together
// with the lookup that it starts, which a request would not wait for.
func BenchmarkRefresh(b *testing.B) {
	const accounts = 10_000
	ended := make(chan struct{}, accounts)
	client := newBench(b, func(c *profileclient.Config) {
		c.MaxAge = 24 * time.Hour
		c.Observer.Lookup = func(profileclient.LookupOutcome, time.Duration) { ended <- struct{}{} }
	})
	b.Cleanup(client.Close)
	known := make([]profileclient.Account, accounts)
	for i := range known {
		known[i].UID = strconv.Itoa(i)
		client.lookup(known[i].UID)
		<-ended
	}
	// Every answer is then in its last fifth, 19.2 hours of the 24 being over,
	// but for the few whose life was shortened to the utmost and is over.
	const late = 24*time.Hour*4/5 + time.Minute
	ctx, i := context.Background(), 0
	b.ReportAllocs()
	for b.Loop() {
		client.Lookup(ctx, known[i%accounts], time.Now().Add(late))
		<-ended
		i++
	}
}

// BenchmarkEvent tells of one account after the other, of which the cache
// knows all or, as in an import, none.
func BenchmarkEvent(b *testing.B) {
	for name, from := range map[string]int{"known": 0, "unknown": 40_000} {
		b.Run(name, func(b *testing.B) {
			teller, events := &teller{silent: true}, make(chan struct{}, 1024)
			bench := newBench(b, func(c *profileclient.Config) {
				teller.memory = c.Transport.(*memory)
				c.URL, c.Auth, c.Transport = "https://profile.test/v1", profileclient.Mint(minter(b, longSecret)), teller
				c.Follow = true
				c.Observer.FeedEvent = func(profileclient.FeedEvent) { events <- struct{}{} }
			})
			b.Cleanup(bench.Close)
			for i := range 40_000 {
				bench.lookup(strconv.Itoa(i))
			}
			for len(teller.follows()) == 0 {
				runtime.Gosched()
			}
			texts := make([]string, 40_000)
			for i := range texts {
				texts[i] = told(i, strconv.Itoa(from+i), "true", 0)
			}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				_, _ = io.WriteString(teller.streams[0], texts[i%len(texts)])
				<-events
				i++
			}
		})
	}
}
