package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// chaos is the test's state.
type chaos struct {
	t     *testing.T
	seed  uint64
	began time.Time
	fleet *fleet

	accounts []*account // of whom requests are, while the load is on
	turning  []*account
	made     int // accounts so far

	senders []*sender
	probes  []*sender // of the test itself, one for each edge

	marks     atomic.Uint64
	requests  sync.Map // by mark
	processes sync.Map // of edges, by number
	tokens    tokens
	owned     sync.Map // own sessions, by account
	golden    sync.Map // answers, by route

	counts counts
	wrong  atomic.Int64
	faulty sync.Map // the faults that last, by kind
}

// minutes is how long CI runs it, at least.
const minutes = 2.0

// TestChaos runs for as many minutes as CHAOS says, and until each fault has been
// there. CHAOS_SEED has the faults and the load of another run come again, as far
// as what runs side by side allows.
func TestChaos(t *testing.T) {
	c := &chaos{t: t, seed: setting(t, "CHAOS_SEED", rand.Uint64()>>1), began: time.Now()}
	length := time.Duration(float64(time.Minute) * setting(t, "CHAOS", minutes))
	t.Logf("seed %d: the same again is CHAOS_SEED=%[1]d make chaos", c.seed)
	c.begin()
	deck := &deck{rng: c.rng("faults")}
	for round := 1; !t.Failed() && (time.Since(c.began) < length || !deck.through); round++ {
		c.round(round, deck)
	}
	c.finish()
}

// setting is a number of the environment.
func setting[T uint64 | float64](t *testing.T, name string, otherwise T) (value T) {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	if _, err := fmt.Sscan(text, &value); err != nil {
		t.Fatalf("%s=%s is not a number", name, text)
	}
	return value
}

// rng is a source of chance for one purpose, the same for the same seed.
func (c *chaos) rng(purpose string) *rand.Rand {
	var second uint64
	for _, b := range []byte(purpose) {
		second = second*257 + uint64(b)
	}
	return rand.New(rand.NewPCG(c.seed, second))
}

// How many accounts there are of each kind.
const each = 8

func (c *chaos) begin() {
	c.counts.names = map[string]map[string]int{}
	c.expect()
	testcaddy.NewClock(c.t).Start().Stop() // which has it be built, before anything is looked at
	c.fleet = newFleet(c.t, c.arrives)
	c.fleet.keys.rotate(true) // so that one is withdrawn
	for _, e := range c.fleet.edges {
		c.processes.Store(e.process.number, e.process)
	}
	c.t.Cleanup(func() {
		for _, s := range slices.Concat(c.senders, c.probes) {
			s.client.close()
		}
	})
	c.t.Cleanup(c.explain)
	for _, e := range c.fleet.edges {
		for _, protocol := range protocols {
			c.senders = append(c.senders, &sender{e, newClient(protocol), c.rng(fmt.Sprint("load", e.number, protocol))})
		}
		c.probes = append(c.probes, &sender{e, newClient("HTTP/2.0"), c.rng(fmt.Sprint("probe", e.number))})
	}
	for _, s := range []subject{optedOut, allows, unset, turning} {
		for range each {
			a := c.newAccount(s)
			c.accounts = append(c.accounts, a)
			if wanted := map[subject]choice{optedOut: optOut, allows: allow}[s]; wanted != "" {
				c.chooses(a, wanted)
			}
			if s == turning {
				c.turning = append(c.turning, a)
			}
		}
	}
	for _, p := range c.probes {
		c.recovers(p)
	}
	for _, a := range c.accounts {
		c.prove(c.probes[0], a)
	}
	c.compareWithBare()
}

func (c *chaos) newAccount(s subject) *account {
	c.made++
	return newAccount(s, c.made)
}

// chooses has a choice be acknowledged, which nothing stands in the way of.
func (c *chaos) chooses(a *account, wanted choice) {
	a.begins(wanted)
	testcaddy.Until(c.t, "a choice to be saved", func() bool { return ways[0].save(c, a, wanted) })
	a.acknowledged(ways[0].name)
}

// round has some faults be there while the load is on, and looks at what came of
// them when they are gone.
func (c *chaos) round(number int, deck *deck) {
	for range 4 {
		a := c.newAccount(cold)
		c.chooses(a, optOut)
		c.accounts = append(c.accounts, a)
	}
	speaker := &speaker{account: c.newAccount(spoken)}
	c.accounts = append(c.accounts, speaker.account)
	stop := make(chan struct{})
	var work sync.WaitGroup
	for _, s := range c.senders {
		work.Go(func() { c.load(s, stop) })
	}
	for i := range choosers {
		rng := c.rng(fmt.Sprint("choices", number, i))
		work.Go(func() { c.choose(rng, i, stop) })
	}
	work.Go(func() { c.speak(c.rng(fmt.Sprint("report", number)), speaker, stop) })

	faults := deck.draw(2 + deck.rng.IntN(2))
	var said []string
	ends := make([]func(), len(faults))
	for i, f := range faults {
		c.pause(deck.rng, 300*time.Millisecond, time.Second)
		said = append(said, fmt.Sprintf("%s at %v", f.kind, c.since()))
		c.faulty.Store(f.kind, true)
		ends[i] = f.begin(c, deck.rng)
		c.counts.add("fault", f.kind)
	}
	c.pause(deck.rng, 500*time.Millisecond, 3*time.Second)
	for i, end := range ends {
		end()
		c.faulty.Delete(faults[i].kind)
		c.pause(deck.rng, 0, 500*time.Millisecond)
	}
	for _, p := range c.probes {
		c.recovers(p)
	}
	c.pause(deck.rng, 500*time.Millisecond, time.Second)
	close(stop)
	work.Wait()
	c.t.Logf("round %d: %s; all well at %v", number, strings.Join(said, ", "), c.since())
	c.calm(speaker, number%3 == 0)
	c.accounts = slices.DeleteFunc(c.accounts, func(a *account) bool { return a.subject == cold || a.subject == spoken })
}

func (c *chaos) since() time.Duration { return time.Since(c.began).Round(time.Millisecond) }

// pause lets the load go on for a while.
func (c *chaos) pause(rng *rand.Rand, least, most time.Duration) {
	<-time.After(least + time.Duration(rng.Int64N(int64(most-least))))
}

// violation is what must not be.
func (c *chaos) violation(format string, args ...any) {
	if c.wrong.Add(1) > 10 {
		return
	}
	var faults []string
	c.faulty.Range(func(kind, _ any) bool { faults = append(faults, kind.(string)); return true })
	c.t.Errorf("seed %d, %v, faults %q: %s", c.seed, c.since(), faults, fmt.Sprintf(format, args...))
}

// fail is a violation by a request.
func (c *chaos) fail(s *sender, r *request, began time.Time, format string, args ...any) {
	c.violation("%v by %s, sent at %v: %v\nthe model: it %v: %s\n%s", s.edge, s.client.protocol, began.Sub(c.began).Round(time.Millisecond),
		r, r.judged.verdict, r.judged.why, fmt.Sprintf(format, args...))
}

// counts is how often things were there, by kind and name.
type counts struct {
	mu    sync.Mutex
	names map[string]map[string]int
}

// expect has names be there at 0, which fails the test if it stays.
func (c *counts) expect(kind string, names ...string) {
	for _, name := range names {
		if c.names[kind] == nil {
			c.names[kind] = map[string]int{}
		}
		c.names[kind][name] = 0
	}
}

func (c *counts) add(kind, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[kind] == nil {
		c.names[kind] = map[string]int{}
	}
	c.names[kind][name]++
}

// request counts what a request is made of.
func (c *counts) request(protocol string, r *request) {
	c.add("protocol", protocol)
	c.add("route", r.route.String())
	c.add("verdict", r.judged.verdict.String())
	switch len(r.credentials) {
	case 0:
		c.add("subject", "anonymous")
	case 1:
	default:
		c.add("credential", "two")
	}
	for _, one := range r.credentials {
		c.add("credential", one.kind.String())
		c.add("subject", one.account.subject.String())
	}
	if r.name != nil {
		c.add("name", r.name.kind)
	}
	if r.signal.kind != "" {
		c.add("signal", r.signal.kind)
	}
}

// tokens are what was signed so far: signing costs time.
type tokens struct{ known sync.Map }

type token struct {
	uid     string
	key     signingKey
	expired bool
}

func (t *tokens) get(wanted token) string {
	if known, found := t.known.Load(wanted); found {
		return known.(string)
	}
	made := wanted.key.sign(wanted.uid, wanted.expired)
	t.known.Store(wanted, made)
	return made
}
