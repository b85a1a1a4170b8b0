// Package profileclient asks the profile server for the preference of
// accounts, metrics_optout, and remembers the answers.
//
// It is made for the path of a request: a fresh answer costs no allocation, a
// lookup is shared by all who wait for it and bounded in time and number, and
// whatever goes wrong the preference is policy.Unknown, never an error that a
// caller could mistake for a choice. What a preference means for a request is
// not decided here but in package policy, and nothing here knows Caddy, so that
// any Go program can use it:
//
//	client, err := profileclient.New(profileclient.Config{
//		URL:  "https://profile.example.org/v1",
//		Auth: profileclient.Mint(minter),
//	})
//	…
//	defer client.Close()
//	preference := client.Lookup(ctx, profileclient.Account{UID: uid}, time.Now())
package profileclient

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/metricsgate/metricsgate/internal/health"
	"github.com/metricsgate/metricsgate/policy"
)

// Account is whom a lookup is about, and what their credential says.
type Account struct {
	// UID is the account's id. An account without one is not asked about.
	UID string

	// Token is the account's own credential, which Forward sends.
	Token string

	// HasClaim says that the credential carries a preference, Claim, issued
	// at ClaimedAt. It counts like an answer fetched then: for MaxAge, and
	// only while nothing newer is known. A claim without a time is ignored.
	HasClaim  bool
	Claim     policy.Preference
	ClaimedAt time.Time
}

// Client asks one profile server. It is safe for concurrent use.
type Client struct {
	address   address
	api       API
	field     string
	inverted  bool
	auth      Auth
	timeout   time.Duration
	maxAge    time.Duration
	transport http.RoundTripper
	pool      *http.Transport // transport, if it is the Client's own
	observer  Observer
	health    *health.Health
	start     time.Time
	follows   bool
	feed      feed

	proven, named             *cache
	etags                     *etags
	lookups, namedLookups     singleflight.Group
	reads                     singleflight.Group
	slots, namedSlots, writes slots
	pending                   pending
	flights, queue            flights // of requests, and of names that wait for a slot

	closing context.Context // ends with Close
	close   context.CancelFunc
	mu      sync.Mutex // guards what may be added to work
	work    sync.WaitGroup

	notFoundIsUnset bool
}

// New checks config and makes a Client. It waits for no network. Close the Client
// when it is no longer needed.
func New(config Config) (*Client, error) {
	target, err := config.validate()
	if err != nil {
		return nil, err
	}
	config = config.complete()
	provenEntries, namedEntries, namedSlots := config.shares()
	c := &Client{
		address:    target,
		api:        config.API,
		field:      config.Field,
		inverted:   config.Inverted,
		auth:       config.Auth,
		timeout:    config.Timeout,
		maxAge:     config.MaxAge,
		transport:  config.Transport,
		observer:   config.Observer,
		health:     health.New(calm, config.Observer.Health),
		start:      time.Now(),
		follows:    config.Follow,
		feed:       feed{health: health.New(calm, config.Observer.FeedHealth)},
		proven:     newCache(provenEntries),
		named:      newCache(namedEntries),
		etags:      newETags(config.MaxEntries),
		slots:      make(slots, config.Concurrency),
		namedSlots: make(slots, namedSlots),
		writes:     make(slots, max(1, config.Concurrency/4)),

		notFoundIsUnset: config.NotFoundIsUnset,
	}
	c.closing, c.close = context.WithCancel(context.Background())
	if c.transport == nil {
		c.pool = newTransport(config.Concurrency)
		c.transport = c.pool
	}
	if c.follows {
		c.feed.cursor = -1
		c.feed.heard.Store(int64(c.instant(c.start)))
		c.work.Go(c.follow)
	}
	return c, nil
}

// newTransport makes a pool of connections for one server. Dialling may take
// longer than a lookup waits: the connection then serves a later one.
func newTransport(concurrency int) *http.Transport {
	const dialling = 3 * time.Second
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialling}).DialContext,
		TLSHandshakeTimeout:    dialling,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    concurrency,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxBody,
		DisableCompression:     true, // answers are a few bytes
	}
}

// Lookup returns the preference of an account that is proven, waiting at most
// Config.Timeout for it. It is policy.Unknown where it could not be learnt.
func (c *Client) Lookup(ctx context.Context, a Account, now time.Time) policy.Preference {
	// Nearly every lookup ends here, without what the others need.
	if at := c.instant(now); !a.HasClaim {
		if e := c.proven.get(a.UID); c.fresh(e, at) && !e.ageing(at) {
			return e.preference
		}
	}
	return c.lookup(ctx, a, false, now, c.timeout)
}

// LookupNamed is Lookup for an account that is only named, by anybody. It
// uses what is cached of proven accounts and never displaces it. It waits at
// most as long as is left of the time that a request may take for all that it
// looks up; what is cached costs no timer for that. Where no slot was free in
// that time the preference is policy.Hidden: names by the thousand are how
// somebody would keep one from being looked up.
func (c *Client) LookupNamed(ctx context.Context, uid string, now time.Time, left time.Duration) policy.Preference {
	return c.lookup(ctx, Account{UID: uid}, true, now, left)
}

// Cached returns what is known of an account that is proven, without waiting.
// What is not known is policy.Unknown, and is looked up in the background.
func (c *Client) Cached(a Account, now time.Time) policy.Preference {
	known := c.known(a, now, false)
	if at := c.instant(now); c.fresh(known.entry, at) {
		c.refresh(a, false, known, at)
		return known.preference
	}
	c.prefetch(a, false, known.fetched)
	if c.health.Failing() {
		return known.stale()
	}
	return policy.Unknown
}

// Invalidate says that the account may have changed: what is cached counts as
// due, and so do claims issued, and answers asked for, before now.
func (c *Client) Invalidate(uid string) {
	c.change(uid, func(e *entry, now instant) { e.changed = now })
}

// change records a change of the account in both caches, since a lookup under
// way may fill either, and has nobody who asks from now on join one that began
// before it.
func (c *Client) change(uid string, record func(e *entry, now instant)) {
	now := c.instant(time.Now())
	for _, known := range []*cache{c.proven, c.named} {
		known.update(uid, func(e *entry) bool {
			record(e, now)
			return true
		})
	}
	c.lookups.Forget(uid)
	c.namedLookups.Forget(uid)
	c.reads.Forget(uid)
}

// Entries returns the number of accounts in the cache, and in that of
// accounts which were only named.
func (c *Client) Entries() (verified, named int) { return c.proven.Len(), c.named.Len() }

// Timeout returns how long a lookup may take.
func (c *Client) Timeout() time.Duration { return c.timeout }

// ReadOnly says that the API has no way to write, whatever the credential.
func (c *Client) ReadOnly() bool { return c.api == FxA }

// Close ends the work in the background: none begins any more, the change feed
// is left, write-backs that wait for another try are dropped, and what is on
// its way to the profile server is waited for, which takes at most
// Config.Timeout. Lookup works on, for requests that are still in flight.
func (c *Client) Close() {
	c.mu.Lock()
	c.close()
	c.mu.Unlock()
	c.work.Wait()
	if c.pool != nil {
		c.pool.CloseIdleConnections()
	}
}

// begin registers work that Close waits for. After Close it registers
// nothing and reports false.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Err() != nil {
		return false
	}
	c.work.Add(1)
	return true
}

func (c *Client) instant(t time.Time) instant { return instant(century + t.Sub(c.start)) }

// knowledge is the newest that is known of an account, and the cache that
// holds it, if it is no claim.
type knowledge struct {
	entry
	in *cache
}

// known returns the newest among what is cached, what the account's
// credential claims, and the account's last change. That there is no such
// account counts where it is only named.
func (c *Client) known(a Account, now time.Time, named bool) knowledge {
	at := c.instant(now)
	known := knowledge{c.proven.get(a.UID), c.proven}
	if !c.fresh(known.entry, at) {
		if e := c.named.get(a.UID); e.fetched > known.fetched && (named || e.marks&notFound == 0) {
			e.changed = max(e.changed, known.changed)
			known = knowledge{e, c.named}
		}
	}
	if a.HasClaim && !a.ClaimedAt.IsZero() {
		// The claim's age is a matter of wall clocks. A token from the future
		// is not younger than now, and how old it is nobody knows, so only an
		// opt-out is taken from it.
		age := now.Sub(a.ClaimedAt)
		claimed := at - instant(max(0, age))
		if claimed > known.fetched && (age >= 0 || a.Claim == policy.OptedOut) {
			known = knowledge{entry: entry{
				fetched: claimed, expires: claimed + instant(c.maxAge), changed: known.changed, preference: a.Claim,
			}}
		}
	}
	return known
}

func (c *Client) lookup(ctx context.Context, a Account, named bool, now time.Time, left time.Duration) policy.Preference {
	known := c.known(a, now, named)
	if at := c.instant(now); c.fresh(known.entry, at) {
		c.refresh(a, named, known, at)
		return known.preference
	}
	if left < c.timeout { // which a lookup takes at most by itself
		bounded, cancel := context.WithTimeout(ctx, left)
		defer cancel()
		ctx = bounded
	}
	began := time.Now()
	learnt := c.ask(ctx, a, named, known.fetched)
	// What came out is known by now, unless the account changed meanwhile; that
	// it opted out then stands above an answer from before.
	now = now.Add(time.Since(began))
	known = c.known(a, now, named)
	if c.fresh(known.entry, c.instant(now)) || known.preference == policy.OptedOut {
		return known.preference
	}
	return learnt
}

// stale is what may be used while the profile server fails: an opt-out, and
// nothing that allowed.
func (e entry) stale() policy.Preference {
	if e.preference == policy.OptedOut {
		return policy.OptedOut
	}
	return policy.Unknown
}

// refresh looks up in the background what is in the last fifth of its life,
// once. Where as many lookups as may be are in flight, it leaves that to the
// next request. A name does not do it for a proven account, whose own lookups
// are not limited to half.
func (c *Client) refresh(a Account, named bool, known knowledge, now instant) {
	if !known.ageing(now) || known.marks&refreshing != 0 || known.in == nil || named && known.in != c.named {
		return
	}
	if c.slots.full() || named && c.namedSlots.full() {
		return
	}
	if known.in.mark(a.UID, known.fetched, refreshing) {
		c.prefetch(a, named, known.fetched)
	}
}

// fresh says whether what is known may still be used without asking.
func (c *Client) fresh(e entry, now instant) bool {
	return e.fresh(now) && !c.feed.missed.holds(e.fetched)
}

// answer makes the entry for what the server said to a request.
func (c *Client) answer(preference policy.Preference, fetched instant) entry {
	return entry{
		preference: preference,
		fetched:    fetched,
		expires:    fetched + instant(c.maxAge-rand.N(c.maxAge/5+1)), //nolint:gosec // it only spreads load
	}
}

// chosen makes the entry for a preference that was not fetched: the server
// took it, or told of it, now, and it was true at an instant before. Its ETag
// is not known, so null cannot be written back before the next answer.
func (c *Client) chosen(preference policy.Preference, at, now instant) entry {
	e := c.answer(preference, at)
	e.fetched = now // whoever asked before may have been answered before
	if preference == policy.Unset {
		e.marks = writtenBack
	}
	return e
}

// slots bound what is in flight: one value for each.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// wait takes a slot as soon as one is free. A free one is taken even where the
// context has ended.
func (s slots) wait(ctx context.Context) bool {
	if s.take() {
		return true
	}
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give() { <-s }

func (s slots) full() bool { return len(s) == cap(s) }
