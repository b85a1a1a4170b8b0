package tests

import (
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// A fleet is two profile servers on one database and gates that follow them,
// each a process of its own. The gates cache preferences for so long that only
// the feed can be why a change acts.
type fleet struct {
	t       testing.TB
	dsn     string
	behind  *contentServer
	servers [2]*testcaddy.Server
	addrs   [2]string // of the servers
	gates   []*testcaddy.Server
	sites   []string // of the gates
}

// newFleet starts one with a gate for each server that is named by its number.
func newFleet(t testing.TB, gates ...int) *fleet {
	t.Helper()
	f := &fleet{t: t, dsn: testpostgres.Database(t), behind: newContentServer(t)}
	for i := range f.servers {
		f.addrs[i] = testcaddy.FreeAddr(t)
		f.start(i)
	}
	for _, server := range gates {
		site := testcaddy.FreeAddr(t)
		gate := testcaddy.Start(t, testcaddy.Site(site, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(f.addrs[server], "max_age 10m")), testcaddy.ProxyTo(f.behind.addr())))
		f.gates, f.sites = append(f.gates, gate), append(f.sites, site)
	}
	for i, server := range gates {
		follows(t, f.gates[i], f.addrs[server])
	}
	return f
}

// start starts a server, also again after it was stopped.
func (f *fleet) start(i int) {
	f.t.Helper()
	f.servers[i] = testcaddy.Start(f.t, testcaddy.Site(f.addrs[i], profileServer("postgres "+f.dsn)))
	ready(f.t, f.addrs[i])
}

// decisions is what the gates make of an account's beacon, in their order.
func (f *fleet) decisions(uid string) string {
	f.t.Helper()
	var all []string
	for _, site := range f.sites {
		all = append(all, send(f.t, f.behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision())
	}
	return strings.Join(all, " ")
}

// act waits until a change acts at the gates.
func (f *fleet) act(uid, what, want string) {
	f.t.Helper()
	testcaddy.Until(f.t, what, func() bool { return f.decisions(uid) == want })
}

// lookups is how often each gate has asked.
func (f *fleet) lookups() (all []float64) {
	f.t.Helper()
	for _, gate := range f.gates {
		all = append(all, gate.Metric("profile_lookups_total"))
	}
	return all
}

// A change that one instance took is enforced at every gate, whichever instance
// it follows, and nobody asks for an opt-out: it is told. After anything else
// every gate asks once. That goes for an instance, too, that was away meanwhile.
func TestFleet(t *testing.T) {
	t.Parallel()
	const everywhere, nowhere = "block block block", "collect collect collect"
	f := newFleet(t, 0, 1, 1)
	uid, meanwhile, gone := testcaddy.NewUID(t), testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, f.addrs[1], gone, optOut)
	for account, want := range map[string]string{uid: nowhere, meanwhile: nowhere, gone: everywhere} {
		if got := f.decisions(account); got != want {
			t.Fatalf("at first: %s, want %s", got, want)
		}
	}
	asked := f.lookups()

	choose(t, f.addrs[0], uid, optOut)
	f.act(uid, "an opt-out to act at every gate", everywhere)
	if now := f.lookups(); !slices.Equal(now, asked) {
		t.Errorf("the gates asked %v times, and now %v", asked, now)
	}
	choose(t, f.addrs[1], uid, allow)
	f.act(uid, "an explicit choice to allow to act at every gate", nowhere)
	for _, site := range f.sites {
		if a := send(t, f.behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid)), "Metrics-Optout: 1"); !a.collected() {
			t.Error("a gate knows of no explicit choice")
		}
	}
	for i, now := range f.lookups() {
		if now != asked[i]+1 {
			t.Errorf("gate %d asked %v times after a choice to allow", i, now-asked[i])
		}
	}
	forgetAccount(t, f.addrs[0], gone)
	f.act(gone, "a deleted account to be one without a choice", nowhere)
	asked = f.lookups()

	// An instance is away. Its gates go on with what they know, and say for how
	// long they have heard nothing; the others are told as ever.
	age := func(gate int) float64 { return f.gates[gate].Metric("feed_age_seconds") }
	if old := age(1); old > 20 {
		t.Errorf("a feed that is followed is %v s old", old)
	}
	f.servers[1].Stop()
	choose(t, f.addrs[0], uid, optOut)
	choose(t, f.addrs[0], meanwhile, optOut)
	f.act(meanwhile, "the gate that still follows to be told", "block collect collect")
	left := age(1)
	testcaddy.Until(t, "a feed that is away to grow older", func() bool { return age(1) > left+0.5 && age(2) > left+0.5 })
	connects := f.gates[1].Metric("feed_connects_total", "outcome", "connected")
	f.start(1)
	f.act(meanwhile, "the gates to catch up", everywhere)
	f.act(uid, "the gates to catch up", everywhere)
	if now := f.gates[1].Metric("feed_connects_total", "outcome", "connected"); now != connects+1 {
		t.Errorf("a gate connected %v times to catch up", now-connects)
	}
	if old := age(1); old > 20 {
		t.Errorf("a feed that is followed again is %v s old", old)
	}
	if now := f.lookups(); !slices.Equal(now, asked) {
		t.Errorf("the gates asked %v times, and now %v", asked, now)
	}
}

// Instances agree on every answer, to the letter, and of two that write on the
// same tag one wins. A change that was made by a clock which is an hour ahead
// does not stand in the way of the next.
func TestInstancesAgree(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for range 20 {
		uid := testcaddy.NewUID(t)
		_, etag := chosen(t, f.addrs[0], uid)
		if _, other := chosen(t, f.addrs[1], uid); other != etag {
			t.Fatalf("the tags are %s and %s", etag, other)
		}
		statuses := make(chan int, 2*len(f.addrs))
		for _, choice := range []preference{optOut, allow} {
			for _, addr := range f.addrs {
				go func() {
					status, _, _, err := testcaddy.TryAskFor(addr, "POST /v1/metrics_optout", testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier),
						`{"metrics_optout":`+string(choice)+`}`, "If-Match: "+etag)
					if err != nil {
						t.Error(err)
					}
					statuses <- status
				}()
			}
		}
		count := map[int]int{}
		for range cap(statuses) {
			count[testcaddy.Await(t, "an answer", statuses)]++
		}
		if count[200] != 1 || count[412] != 3 {
			t.Errorf("four writers of one tag: %v", count)
		}
		one, tag := chosen(t, f.addrs[0], uid)
		if other, otherTag := chosen(t, f.addrs[1], uid); other != one || otherTag != tag {
			t.Errorf("one says %s %s, the other %s %s", one, tag, other, otherTag)
		}
	}

	ahead := testcaddy.NewUID(t)
	importRows(t, f.dsn, "uid,preference,changed,source\n"+ahead+",true,"+inAnHour()+",user\n")
	for i, choice := range []preference{allow, optOut, unset, allow} {
		choose(t, f.addrs[i%2], ahead, choice)
		for _, addr := range f.addrs {
			holds(t, addr, ahead, choice, "after a clock that was ahead")
		}
	}
}
