package chaos

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// arrives is told of all that reaches an application.
func (c *chaos) arrives(e *edge, a *arrival) {
	if a.mark == 0 {
		return // it was sent to the site without a gate
	}
	found, known := c.requests.Load(a.mark)
	if !known {
		c.violation("%v: %s arrives that nobody waits for any more", e, a.target)
		return
	}
	r := found.(*request)
	s := &sender{edge: e, client: &client{protocol: r.protocol}}
	if n := r.arrivals.Add(1); n > 1 && r.route.method == http.MethodPost {
		c.fail(s, r, r.began, "it arrives %d times", n)
	}
	if r.judged.verdict == never && r.judged.holds(c.fleet.keys, a.process) {
		c.fail(s, r, r.began, "it arrives, with the decision %q", a.decision)
	}
	if want := map[bool]string{true: "collect"}[r.route.class != ""]; a.decision != want && r.route.kind != "page" {
		c.fail(s, r, r.began, "it arrives with the decision %q", a.decision)
	}
	if !bytes.Equal(a.body, r.body) {
		c.fail(s, r, r.began, "it arrives with the body %q, and was sent with %q", a.body, r.body)
	}
	c.counts.add("arrived", r.judged.verdict.String())
	if r.route.counted() {
		if p, found := c.processes.Load(a.process); found {
			p.(*process).tally.arrived.Add(1)
		}
	}
}

// calm is a moment in which nothing is wrong and nobody sends: everything has to
// have recovered, and the counts have to fit.
func (c *chaos) calm(s *speaker, feed bool) {
	if feed {
		c.isTold()
	}
	c.holdsChoices()
	c.isWritten(s)
	for _, s := range slices.Concat(c.senders, c.probes) {
		s.client.renew()
	}
	for _, e := range c.fleet.edges {
		c.balances(e)
	}
	for _, e := range c.fleet.edges {
		c.hasNotGrown(e.String(), e.process)
	}
	for _, s := range c.fleet.servers {
		c.hasNotGrown("profile server "+s.addr, s.process)
	}
	c.requests.Clear()
}

// recovers waits until an edge does its work again, while the load is on: who
// allowed, and nobody, are measured, and it knows the keys of today.
func (c *chaos) recovers(p *sender) {
	rotations := c.fleet.keys.count()
	for _, want := range []struct {
		what        string
		credentials []credential
	}{
		{"nobody's", nil},
		{"an allowing account's", []credential{{kind: signed, account: c.allowing()}}},
	} {
		var sent []*request
		testcaddy.Until(c.t, want.what+" beacon to arrive at "+p.edge.String(), func() bool {
			r := &request{credentials: want.credentials}
			c.beacon(p, r)
			sent = append(sent, r)
			c.pause(p.rng, between, 10*between)
			return c.t.Failed() || slices.ContainsFunc(sent, func(r *request) bool { return r.arrivals.Load() > 0 })
		})
	}
	p.edge.sure.Store(rotations)
}

// beacon sends one that names nobody.
func (c *chaos) beacon(p *sender, r *request) *answer {
	r.route, r.signal, r.body = &routes[0], &signals[0], []byte(plainBody)
	return c.dispatch(p, r)
}

// arrivesNow sends a beacon, and says whether it arrived. It is for a time without
// other load.
func (c *chaos) arrivesNow(p *sender, r *request) bool {
	if c.beacon(p, r) == nil {
		return false
	}
	testcaddy.Until(c.t, "what is on its way to arrive", func() bool { return p.edge.process.Metric("detached_requests") == 0 })
	return r.arrivals.Load() > 0
}

// isTold waits until the gates that depend on the feed have been told everything,
// and holds them to it. They are told in order: an account opts out that they know
// without a choice, and when that acts, all before it was told. A gate may not be
// told of the first account, but ask about it, since it has just been connected.
func (c *chaos) isTold() {
	var began time.Time
	for range 2 {
		a := c.newAccount(turning)
		beacon := func(p *sender) bool {
			return c.arrivesNow(p, &request{feed: true, credentials: []credential{{kind: signed, account: a}}})
		}
		for _, p := range c.probes {
			testcaddy.Until(c.t, "an account without a choice to be measured at "+p.edge.String(), func() bool { return c.t.Failed() || beacon(p) })
		}
		began = time.Now()
		c.chooses(a, optOut)
		for _, p := range c.probes {
			testcaddy.Until(c.t, "an opt-out to be told to "+p.edge.String(), func() bool { return c.t.Failed() || !beacon(p) })
		}
	}
	for _, p := range c.probes {
		p.edge.whole.Store(&began)
		for _, a := range c.turning {
			if saved, trying := a.standing(); saved != optOut && trying == "" {
				testcaddy.Until(c.t, a.String()+" to be measured at "+p.edge.String(), func() bool {
					return c.t.Failed() || c.arrivesNow(p, &request{feed: true, credentials: []credential{{kind: signed, account: a}}})
				})
			} else {
				c.arrivesNow(p, &request{feed: true, credentials: []credential{{kind: signed, account: a}}})
			}
		}
		c.counts.add("feed", "all told")
	}
}

// allowing is some account that allows.
func (c *chaos) allowing() *account {
	return c.accounts[slices.IndexFunc(c.accounts, func(a *account) bool { return a.subject == allows })]
}

// holdsChoices holds what both profile servers say of all accounts against what
// was acknowledged.
func (c *chaos) holdsChoices() {
	for _, s := range c.fleet.servers {
		for _, a := range c.accounts {
			if a.subject == spoken {
				continue
			}
			saved, trying := a.standing()
			var held choice
			testcaddy.Until(c.t, "a profile server to answer", func() bool { held = c.held(s, a); return held != "" })
			if held != saved && held != trying {
				c.violation("profile server %s holds %s of %v", s.addr, held, a)
			}
			c.counts.add("choice", "found again")
		}
	}
}

// isWritten waits until a browser's opt-out is in its account's profile, where
// the edge still runs that was told of it.
func (c *chaos) isWritten(s *speaker) {
	if s.told == nil || c.fleet.edges[0].process != s.told && c.fleet.edges[1].process != s.told {
		return
	}
	testcaddy.Until(c.t, "a browser's opt-out to be written into the profile", func() bool { return c.held(c.fleet.servers[0], s.account) == optOut })
	c.counts.add("choice", "written back")
}

// counted says whether the balance is about requests of a route: it leaves out
// those whose metrics count other methods as well.
func (r *route) counted() bool {
	return r.class != "" && r.method == http.MethodPost && r.target != "/metrics-errors"
}

// balances holds what an edge's process has counted against what was sent to it,
// what was answered and what arrived.
func (c *chaos) balances(e *edge) {
	p := e.process
	answered, unsure := float64(p.tally.answered.Load()), float64(p.tally.unsure.Load())
	sum := func(labels ...string) (n float64) {
		for i := range routes {
			if routes[i].counted() {
				n += p.Metric("requests_total", append(labels, "route", routes[i].target)...)
			}
		}
		return n
	}
	var all, collected, dropped, arrived float64
	testcaddy.Until(c.t, e.String()+" to have handed on everything", func() bool {
		if p.Metric("detached_requests") != 0 {
			return false
		}
		all, collected = sum(), sum("decision", "collect")
		dropped, arrived = p.Metric("upstream_total", "class", "dropped"), float64(p.tally.arrived.Load())
		return true
	})
	if all < answered || all > answered+unsure {
		c.violation("%v has counted %v requests; %v were answered, and of %v nobody knows", e, all, answered, unsure)
	}
	if lost := collected - arrived; lost < 0 || lost > dropped+unsure && !p.cutOff.Load() {
		c.violation("%v has counted %v collected requests, of which %v arrived and %v were dropped; of %v nobody knows", e, collected, arrived, dropped, unsure)
	}
	for _, sample := range p.Samples() {
		if sample.Name == "caddy_metrics_gate_requests_total" && sample.Value > 0 {
			c.counts.add("reason", sample.Labels["decision"]+" "+sample.Labels["reason"])
		}
	}
}

// How much more a process may hold than when it was first quiet. A cache fills.
const (
	moreGoroutines = 15
	moreHandles    = 20
	moreHeap       = 32 << 20
)

func (c *chaos) hasNotGrown(name string, p *process) {
	if p.atFirst == nil {
		held := p.Held()
		p.atFirst = &held
		return
	}
	deadline := time.Now().Add(testcaddy.Patience)
	for {
		held, first := p.Held(), p.atFirst
		goroutines, handles, heap := held.Goroutines-first.Goroutines, held.Handles-first.Handles, held.Heap-first.Heap
		if goroutines <= moreGoroutines && handles <= moreHandles && heap <= moreHeap {
			c.counts.add("growth", "looked for")
			return
		}
		if time.Now().After(deadline) {
			c.violation("%s, process %d, holds %d goroutines, %d handles and %d bytes more than when it was first quiet; its goroutines:\n%s",
				name, p.number, goroutines, handles, heap, held.Stacks)
			return
		}
	}
}

// expect says what has to have been there, or the test has looked at nothing.
func (c *chaos) expect() {
	n := &c.counts
	n.expect("protocol", protocols...)
	for i := range routes {
		n.expect("route", routes[i].String())
	}
	n.expect("verdict", may.String(), never.String(), passes.String())
	n.expect("arrived", may.String(), passes.String())
	n.expect("subject", "anonymous")
	for _, s := range []subject{optedOut, allows, unset, turning, spoken, cold} {
		n.expect("subject", s.String())
	}
	for k := signed; k <= junk; k++ {
		n.expect("credential", k.String())
	}
	n.expect("credential", "two")
	for i := range names {
		n.expect("name", names[i].kind)
	}
	for i := range signals[1:] {
		n.expect("signal", signals[1+i].kind)
	}
	n.expect("signal", "report")
	n.expect("request", "proof", "sign-out")
	for _, f := range faults() {
		n.expect("fault", f.kind)
	}
	for _, way := range ways {
		n.expect("choice", way.name)
	}
	n.expect("choice", string(optOut), string(allow), string(none), "found again", "written back")
	n.expect("reason", "block preference", "block signal", "block unknown", "block unverified_session", "collect explicit_allow", "collect default")
	n.expect("growth", "looked for")
	n.expect("feed", "all told")
}

// finish has all choices that are open be acknowledged, looks at everything once
// more, and says what was there.
func (c *chaos) finish() {
	if !c.t.Failed() {
		for _, a := range c.turning {
			if _, trying := a.standing(); trying != "" {
				c.chooses(a, trying)
			}
		}
		c.isTold()
		c.holdsChoices()
	}
	for _, e := range c.fleet.edges {
		e.process.Stop()
	}
	for _, s := range c.fleet.servers {
		s.process.Stop()
	}
	for _, kind := range slices.Sorted(maps.Keys(c.counts.names)) {
		var text []string
		for _, name := range slices.Sorted(maps.Keys(c.counts.names[kind])) {
			n := c.counts.names[kind][name]
			text = append(text, name+" "+strconv.Itoa(n))
			if n == 0 && !c.t.Failed() {
				c.t.Errorf("seed %d: there was no %s %q: the test looked at nothing", c.seed, kind, name)
			}
		}
		c.t.Logf("%s: %s", kind, strings.Join(text, ", "))
	}
}

// explain shows, where something was wrong, what the processes say of it.
func (c *chaos) explain() {
	if !c.t.Failed() {
		return
	}
	for name, p := range map[string]*process{
		"edge 0": c.fleet.edges[0].process, "edge 1": c.fleet.edges[1].process,
		"profile server 0": c.fleet.servers[0].process, "profile server 1": c.fleet.servers[1].process,
	} {
		if p.Ended() {
			continue
		}
		var text strings.Builder
		for _, sample := range p.Samples() {
			if sample.Value != 0 && !strings.Contains(sample.Name, "duration") {
				fmt.Fprintf(&text, "%s %v %v\n", sample.Name, sample.Labels, sample.Value)
			}
		}
		lines := p.Log.Where(func(line string) bool { return !strings.Contains(line, `"level":"info"`) })
		c.t.Logf("%s, process %d:\n%s%s", name, p.number, &text, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}
