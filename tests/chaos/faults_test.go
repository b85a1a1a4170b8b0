package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// fault is something that goes wrong, and ends.
type fault struct {
	kind  string
	of    string // nothing else goes wrong with it at the same time; everything, or a part of the fleet
	begin func(c *chaos, rng *rand.Rand) (end func())
}

// deck deals faults by chance, each as often as any other.
type deck struct {
	rng     *rand.Rand
	left    []fault
	through bool // each was there
}

// draw takes a few faults of different parts of the fleet.
func (d *deck) draw(n int) (drawn []fault) {
	if len(d.left) == 0 {
		d.left = faults()
		d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	d.left = slices.DeleteFunc(d.left, func(f fault) bool {
		if len(drawn) == n || slices.ContainsFunc(drawn, func(other fault) bool { return other.of == f.of || other.of == everything }) ||
			f.of == everything && len(drawn) > 0 {
			return false
		}
		drawn = append(drawn, f)
		return true
	})
	d.through = d.through || len(d.left) == 0
	return drawn
}

func nothing() {}

// everything is what a fault is of beside which there is no other.
const everything = "everything"

// fast is by how much a clock is ahead. A token that reliers use lives for an hour.
const fast = 45 * time.Minute

// inARow is how many reloads make what one of them leaves behind more than a process
// may have grown by.
const inARow = moreGoroutines + 5

// faults are all kinds, each of one part of the fleet: which, chance says.
func faults() (all []fault) {
	one := func(kind, of string, begin func(c *chaos, rng *rand.Rand) func()) {
		all = append(all, fault{kind, of, begin})
	}
	for kind, end := range map[string]func(*process){"killed": func(p *process) { p.Kill() }, "restarted": func(p *process) { p.Stop() }} {
		one("edge "+kind, "edge", func(c *chaos, rng *rand.Rand) func() {
			e := pick(rng, c.fleet.edges[:])
			c.down(e, end)
			return func() { c.up(e, 0) }
		})
		one("profile server "+kind, "server", func(c *chaos, rng *rand.Rand) func() {
			i := rng.IntN(len(c.fleet.servers))
			end(c.fleet.servers[i].process)
			return func() { c.fleet.startServer(i, 0) }
		})
	}
	for kind, change := range map[string]func(*settings){
		"reload of the same":        func(*settings) {},
		"reload of another":         func(s *settings) { s.comment++ },
		"reload with another cache": func(s *settings) { s.entries++ },
		"mint key changed": func(s *settings) {
			s.mintKey = map[string]string{"ec.key": "ed.key", "ed.key": "ec.key"}[s.mintKey]
		},
		"session key changed": func(s *settings) {
			last := len(s.sessionKeys) - 1
			s.sessionKeys = append([]string{s.sessionKeys[last]}, s.sessionKeys[:last]...)
		},
	} {
		one(kind, "edge", func(c *chaos, rng *rand.Rand) func() {
			e := pick(rng, c.fleet.edges[:])
			change(&e.settings)
			c.reload(e)
			return nothing
		})
	}
	one("reloads in a row", "edge", func(c *chaos, rng *rand.Rand) func() {
		e := pick(rng, c.fleet.edges[:])
		for i := range inARow {
			if e.settings.comment++; i%2 == 0 {
				e.settings.entries++ // so that nothing is taken over
			}
			c.reload(e)
		}
		return nothing
	})
	for i, broken := range []func(sites string) string{
		func(sites string) string { return strings.Replace(sites, "handshake", "handshake off", 1) },
		func(sites string) string { return strings.Replace(sites, "ec.key", "no.key", 1) + "\n}" },
		func(sites string) string { return strings.Replace(sites, "max_age", "max_rage", 1) },
		// Caddy finds out when it listens, after the gate has begun.
		func(sites string) string { return sites + "\nhttp://192.0.2.1:1 {\nbind 192.0.2.1\n}" },
	} {
		one(fmt.Sprint("reload of what is broken, ", i), "edge", func(c *chaos, rng *rand.Rand) func() {
			e := pick(rng, c.fleet.edges[:])
			c.disturbed(e, func() {
				if e.process.Reload(broken(strings.Join(c.fleet.edgeSites(e, e.process.number), "\n"))) == nil {
					c.violation("%v takes a broken configuration", e)
				}
			})
			return nothing
		})
	}
	for how, state := range map[string]state{"cut": cut, "stalled": stalled} {
		links := map[string]func(c *chaos, rng *rand.Rand) *link{
			"profile servers": func(c *chaos, rng *rand.Rand) *link { return pick(rng, c.fleet.edges[:]).toProfile },
			"database":        func(c *chaos, rng *rand.Rand) *link { return pick(rng, c.fleet.servers[:]).toStore },
			"key set":         func(c *chaos, _ *rand.Rand) *link { return c.fleet.toKeys },
		}
		for what, link := range links {
			one("way to the "+what+" "+how, "to the "+what, func(c *chaos, rng *rand.Rand) func() {
				l := link(c, rng)
				l.set(state)
				return func() { l.set(well) }
			})
		}
		one("way to the application "+how, "to the application", func(c *chaos, rng *rand.Rand) func() {
			e := pick(rng, c.fleet.edges[:])
			e.process.cutOff.Store(true)
			e.toApp.set(state)
			return func() {
				e.process.cutOff.Store(true) // it may be another by now
				e.toApp.set(well)
			}
		})
	}
	for kind, end := range map[string]func(*fleet){
		"database stopped": func(f *fleet) { f.database.Stop() },
		"database crashed": func(f *fleet) { f.database.Kill() },
	} {
		one(kind, "to the database", func(c *chaos, _ *rand.Rand) func() {
			end(c.fleet)
			return c.fleet.database.Restart
		})
	}
	one("pooler restarted", "to the database", func(c *chaos, _ *rand.Rand) func() {
		c.fleet.pooler.Restart(c.fleet.dsn)
		return nothing
	})
	one("pooler crashed", "to the database", func(c *chaos, _ *rand.Rand) func() {
		c.fleet.pooler.Crash()
		return nothing
	})
	one("disk full", "to the database", func(c *chaos, _ *rand.Rand) func() {
		c.fleet.database.Execute(`CREATE OR REPLACE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$`)
		on := func(do string) {
			for _, table := range []string{"preference", "feed", "health"} {
				c.fleet.database.Execute(fmt.Sprintf(do, "metrics_gate."+table))
			}
		}
		on(`CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON %s EXECUTE FUNCTION public.full_disk()`)
		return func() { on(`DROP TRIGGER full_disk ON %s`) }
	})
	one("session's key changed", "key set", func(c *chaos, rng *rand.Rand) func() {
		c.fleet.keys.rotate(rng.IntN(2) == 0)
		if rng.IntN(2) == 0 {
			return nothing // the edges find out, within half a minute
		}
		return func() {
			for _, e := range c.fleet.edges {
				if e.current.Load() != nil {
					c.reload(e) // which has the keys fetched anew
				}
			}
		}
	})
	// A gate that is new to a server which refuses it takes that for one without a
	// feed, and asks again after minutes; so nothing else happens meanwhile.
	one("profile server's clock ahead", everything, func(c *chaos, rng *rand.Rand) func() {
		i := rng.IntN(len(c.fleet.servers))
		restart := func(ahead time.Duration) {
			c.fleet.servers[i].process.Kill()
			c.fleet.startServer(i, ahead)
		}
		restart(fast)
		return func() { restart(0) }
	})
	one("edge's clock ahead", everything, func(c *chaos, rng *rand.Rand) func() {
		e := pick(rng, c.fleet.edges[:])
		restart := func(ahead time.Duration) {
			c.down(e, func(p *process) { p.Kill() })
			c.up(e, ahead)
		}
		restart(fast)
		return func() { restart(0) }
	})
	slices.SortFunc(all, func(a, b fault) int { return strings.Compare(a.kind, b.kind) }) // maps have no order
	return all
}

// down ends an edge's process.
func (c *chaos) down(e *edge, end func(*process)) {
	e.disturb()
	e.current.Store(nil)
	end(e.process)
	c.renew(e)
}

// up starts another, whose clock is ahead by some time.
func (c *chaos) up(e *edge, ahead time.Duration) {
	c.fleet.startEdge(e, ahead)
	c.processes.Store(e.process.number, e.process)
	c.renew(e)
	e.settle()
}

// renew has all who speak with an edge begin with new connections.
func (c *chaos) renew(e *edge) {
	for _, s := range slices.Concat(c.senders, c.probes) {
		if s.edge == e {
			s.client.renew()
		}
	}
}

// reload gives an edge its configuration.
func (c *chaos) reload(e *edge) {
	c.disturbed(e, func() {
		if err := e.process.Reload(c.fleet.edgeSites(e, e.process.number)...); err != nil {
			c.violation("%v refuses a configuration: %v", e, err)
		}
	})
}

// disturbed does what may cost requests their connection.
func (c *chaos) disturbed(e *edge, do func()) {
	e.disturb()
	do()
	e.settle()
}
