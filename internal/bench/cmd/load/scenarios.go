package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/result"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// scenario is one kind of load, and who gets it.
type scenario struct {
	result.Scenario
	contenders []string
	requests   func(*rig) ([][]byte, error) // of users whom the caches know; nil for newcomers
	fresh      bool                         // that they are made anew for every round
	rate       int                          // a second; 0: as fast as they are answered
	loads      [][]byte
	members    []*contender // those that take part
	kept       []load       // by member, with its connections
}

// warmUsers are those whom every cache knows.
const warmUsers = 10_000

var gates = []string{"caddy bare again", "caddy forward_auth", ownGate, "nginx lua", "haproxy jwt"}

func withBare(names []string) []string {
	return append([]string{bareCaddy, bareNginx, bareHAProxy}, names...)
}

func scenarios(warm int) []*scenario {
	known := users{0, warm}
	kind := func(name string, mode result.Mode, connections int, contenders []string, about string, requests func() [][]byte) *scenario {
		s := &scenario{Scenario: result.Scenario{Name: name, About: about, Mode: mode, Connections: connections}, contenders: contenders}
		if requests != nil {
			s.requests = func(*rig) ([][]byte, error) { return requests(), nil }
		}
		return s
	}
	collected := func() [][]byte { return known.of(others, beacon) }
	// An own session is verified for ten minutes only, so each round has its own.
	own := kind("own-session", result.Pair, 16, []string{"caddy bare again", "metrics_gate own session"},
		"beacons of 2 KB that are collected; the account is proven by the gate's own session", nil)
	own.requests, own.fresh = func(r *rig) ([][]byte, error) { return r.ownSessions(known) }, true
	// Where the client has its answer before the application has the request, nothing
	// holds back a client that asks as fast as it is answered.
	named := kind("body", result.Pair, 16, []string{"caddy bare again", "caddy bare, request_buffers", "metrics_gate names", "metrics_gate names, request_buffers"},
		fmt.Sprintf("%d beacons of 2 KB a second whose body names the account; the application's reply is discarded", handedOnRate),
		func() [][]byte { return known.of(others, naming) })
	batches := kind("batch", result.Pair, 16, []string{"caddy bare again", "metrics_gate batch"},
		fmt.Sprintf("%d batches a second of %d events, 30 KB and compressed by gzip, of which each names the account; the application's reply is discarded", handedOnRate, stub.BatchEvents),
		func() [][]byte { return known.of(others, batch) })
	named.rate, batches.rate = handedOnRate, handedOnRate
	return []*scenario{
		kind("collected", result.Pair, 16, gates, "beacons of 2 KB that are collected", collected),
		own,
		kind("second-credential", result.Pair, 16, []string{"caddy bare again", ownGate}, "the same with a second session cookie, whose token another secret signed",
			func() [][]byte { return known.of(others, second) }),
		named,
		batches,
		kind("answer", result.Answer, 1, []string{bareCaddy, "caddy bare again", "metrics_gate names", "metrics_gate names, request_buffers"},
			fmt.Sprintf("the same, one after the other, with an application that takes %v", applicationDelay),
			func() [][]byte { return known.of(others, naming) }),
		kind("page", result.Pair, 16, []string{"caddy bare again", "metrics_gate inject off", "metrics_gate handshake"},
			"pages of 8 KB, into which the handshake puts its script",
			func() [][]byte { return known.of(anybody, page) }),
		kind("page-config", result.Pair, 16, []string{"caddy bare again", "metrics_gate handshake"},
			"pages of 30 KB of browsers that opted out, in whose configuration what measures is switched off",
			func() [][]byte { return known.of(anybody, settingsPage) }),
		kind("other", result.Pair, 16, gates, "requests that are neither gated nor pages",
			func() [][]byte { return known.of(anybody, script) }),
		kind("blocked", result.Solo, 32, append(withBare(gates), "caddy respond"), "beacons of 2 KB that are blocked; bare proxies pass them on",
			func() [][]byte { return known.of(optedOut, beacon) }),
		kind("settings", result.Settings, 64, settingNames(), "beacons of 2 KB that are collected by the gate with a setting more", collected),
		kind("collected-solo", result.Solo, 32, withBare(gates), "beacons of 2 KB that are collected", collected),
		kind("rate", result.Rate, 32, withBare(gates), fmt.Sprintf("%d requests a second: half beacons, a tenth reports of errors, the rest not gated", fixedRate),
			func() [][]byte { return known.of(anybody, mix) }),
		kind("first-touch", result.FirstTouch, result.FirstTouchConnections, withBare(gates),
			fmt.Sprintf("the first beacon of each of %d users, with a profile server that takes %v", warm, profileDelay), nil),
	}
}

// make makes the requests.
func (s *scenario) make(r *rig) (err error) {
	if s.requests != nil {
		s.loads, err = s.requests(r)
	}
	return err
}

const (
	fixedRate        = 1000
	handedOnRate     = 2000
	applicationDelay = time.Millisecond
	profileDelay     = time.Duration(result.ProfileDelay * float64(time.Second))
)

// round loads every member once.
func (r *rig) round(ctx context.Context, s *scenario, round int) (samples []result.Sample) {
	if s.Mode == result.Rate {
		return r.inTurn(s.members, s.kept)
	}
	for _, c := range s.members {
		if ctx.Err() == nil {
			samples = append(samples, r.measure(s, c, round))
		}
	}
	return samples
}

// measure is one round of one member.
func (r *rig) measure(s *scenario, c *contender, round int) result.Sample {
	under := loadOf(c.addr, s.Connections, s.loads)
	defer under.close()
	switch s.Mode {
	case result.Pair, result.Settings:
		bare := r.contender(c.bare)
		beside := loadOf(bare.addr, s.Connections, s.loads)
		defer beside.close()
		var other result.Sample
		send := func(l load) answers {
			if s.rate > 0 {
				return l.rate(s.rate, r.seconds)
			}
			return l.closed(r.seconds)
		}
		sample := r.observed(c, func() answers {
			var both sync.WaitGroup
			both.Go(func() { other = r.observed(bare, func() answers { return send(beside) }) })
			own := send(under)
			both.Wait()
			return own
		})
		sample.BareCPU = other.CPU
		sample.Failed += other.Failed
		return sample
	case result.Solo:
		under.closed(r.seconds / 4) // wakes what has been idle
		return r.observed(c, func() answers { return under.closed(r.seconds) })
	case result.Answer:
		delay(r.upstream, applicationDelay)
		defer delay(r.upstream, 0)
		under.closed(r.seconds / 4)
		return r.observed(c, func() answers { return under.closed(r.seconds) })
	default: // first touch
		delay(r.profile, profileDelay)
		defer delay(r.profile, 0)
		first := loadOf(c.addr, s.Connections, newcomers(round, r.warm).of(anybody, beacon))
		defer first.close()
		return r.observed(c, first.once)
	}
}

// inTurn is one round of contenders at a fixed rate.
func (r *rig) inTurn(contenders []*contender, loads []load) []result.Sample {
	const turn = 250 * time.Millisecond
	all, used := make([]answers, len(loads)), make([]time.Duration, len(loads))
	for range max(1, r.seconds/turn) {
		for i, c := range contenders {
			loads[i].rate(fixedRate, min(turn, r.seconds)/5) // wakes what has been idle
			before := c.cpu()
			all[i].add(loads[i].rate(fixedRate, min(turn, r.seconds)))
			used[i] += c.cpu() - before
		}
	}
	var samples []result.Sample
	for i := range all {
		sample := all[i].sample()
		sample.CPU = float64(used[i].Nanoseconds()) / 1e3 / float64(sample.Requests)
		samples = append(samples, sample)
	}
	return samples
}

// observed adds to a sample what the contender used and passed on meanwhile.
func (r *rig) observed(c *contender, measure func() answers) result.Sample {
	beacons, lookups, used := r.count(r.upstream), r.count(r.profile), c.cpu()
	came := measure()
	sample := came.sample()
	sample.CPU = float64((c.cpu() - used).Nanoseconds()) / 1e3 / float64(sample.Requests)
	sample.Passed = float64(r.count(r.upstream)-beacons) / float64(sample.Requests)
	sample.Lookups = r.count(r.profile) - lookups
	return sample
}
