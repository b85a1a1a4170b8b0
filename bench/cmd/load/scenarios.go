package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/metricsgate/metricsgate/bench/result"
)

// scenario is one kind of load, and who gets it.
type scenario struct {
	result.Scenario
	contenders []string
	requests   func() [][]byte // of users whom the caches know; nil for newcomers
	loads      [][]byte
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
		return &scenario{result.Scenario{Name: name, About: about, Mode: mode, Connections: connections}, contenders, requests, nil}
	}
	collected := func() [][]byte { return known.of(others, beacon) }
	return []*scenario{
		kind("collected", result.Pair, 16, gates, "beacons of 2 KB that are collected", collected),
		kind("body", result.Pair, 16, []string{"caddy bare again", "caddy bare, request_buffers", "metrics_gate body_uid", "metrics_gate body_uid, request_buffers"},
			"beacons of 2 KB whose body names the account; the application's reply is discarded",
			func() [][]byte { return known.of(others, naming) }),
		kind("page", result.Pair, 16, []string{"caddy bare again", "metrics_gate inject off", "metrics_gate handshake"},
			"pages of 8 KB, into which the handshake puts its script",
			func() [][]byte { return known.of(anybody, page) }),
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

const (
	fixedRate    = 1000
	profileDelay = time.Duration(result.ProfileDelay * float64(time.Second))
)

// measure is one round of one contender.
func (r *rig) measure(s *scenario, c *contender, round int) result.Sample {
	under := loadOf(c.addr, s.Connections, s.loads)
	switch s.Mode {
	case result.Pair, result.Settings:
		bare := r.contender(c.bare)
		var other result.Sample
		sample := r.observed(c, func() result.Sample {
			var both sync.WaitGroup
			both.Go(func() {
				other = r.observed(bare, func() result.Sample { return loadOf(bare.addr, s.Connections, s.loads).closed(r.seconds) })
			})
			own := under.closed(r.seconds)
			both.Wait()
			return own
		})
		sample.BareCPU = other.CPU
		sample.Failed += other.Failed
		return sample
	case result.Solo:
		under.closed(r.seconds / 4) // wakes what has been idle
		return r.observed(c, func() result.Sample { return under.closed(r.seconds) })
	case result.FirstTouch:
		r.delayProfiles(profileDelay)
		defer r.delayProfiles(0)
		under = loadOf(c.addr, s.Connections, newcomers(round, r.warm).of(anybody, beacon))
		return r.observed(c, under.once)
	default:
		under.rate(fixedRate, r.seconds/4)
		return r.observed(c, func() result.Sample { return under.rate(fixedRate, r.seconds) })
	}
}

// observed adds to a sample what the contender used and passed on meanwhile.
func (r *rig) observed(c *contender, measure func() result.Sample) result.Sample {
	beacons, lookups, used := r.count(r.upstream), r.count(r.profile), c.cpu()
	sample := measure()
	sample.CPU = float64((c.cpu() - used).Nanoseconds()) / 1e3 / float64(sample.Requests)
	sample.Passed = float64(r.count(r.upstream)-beacons) / float64(sample.Requests)
	sample.Lookups = r.count(r.profile) - lookups
	return sample
}
