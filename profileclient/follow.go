package profileclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/tmaxmax/go-sse"

	"github.com/metricsgate/metricsgate/internal/health"
	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

const (
	// quietLimit is how long nothing may come before the connection counts as
	// dead.
	quietLimit = 3 * optoutapi.FeedKeepalive

	// steady is how long a connection has to last for the next one to be tried
	// at once.
	steady = 5 * time.Second

	// refusedPause is how rarely a server is asked again that never had a feed,
	// or none for this credential. One that had, is being configured.
	refusedPause = 5 * time.Minute

	// maxEvent bounds one event. A change takes a few hundred bytes, six
	// times that where its uid is all escapes.
	maxEvent = 16 << 10

	// maxComment bounds what is looked at of a comment. No id is as long.
	maxComment = 64
)

// feed is the change feed of the profile server: server-sent events, one for
// every change, on one connection for as long as it holds
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). What the
// cache holds of an account is then never older than the way from the server
// to here.
//
// Changes that are made while there is no connection are told afterwards,
// since the server is asked for all that came after the last one heard. Until
// then an answer is used for Config.MaxAge, as without a feed. What counts as
// due, and is asked for again when it is needed, depends on what can have been
// missed:
//
//   - At the first connection, everything that was fetched before: nobody told
//     of the changes since.
//   - After a reset, everything as well: the server does not know the changes
//     that were heard last, so it cannot tell what came after them. Equally
//     where there was a connection and no event on it had an id.
//   - After any other reconnection, what was fetched since the last byte that
//     was heard before. It was true then; whether the changes that are told
//     again are older or newer than it, nobody here can say. What was fetched
//     earlier is brought up to date by what is told. Only deletions may be
//     missed, which a server does not keep; MaxAge bounds them.
//   - A lookup that was under way when the connection came belongs to the time
//     before, as its answer is of when it began.
//   - Where the server says that it has told a change that did not come, on a
//     connection that seems well, everything. The client then gives the connection
//     up, and asks for what it missed.
type feed struct {
	heard     atomic.Int64 // the instant of the last byte
	whole     atomic.Int64 // the instant at which all was told that there was
	proven    atomic.Bool  // the server says when all was told
	refused   atomic.Bool  // the server has none, or none for this credential
	connected atomic.Bool  // there is a connection now
	health    *health.Health
	missed    missed

	// What follows belongs to the goroutine that follows.

	known  bool    // there was a connection once
	cursor int64   // the id of the last event, or -1
	lost   instant // of the last byte on the connection before this one
}

// missed is when changes may have been missed: what was fetched then counts as
// due. These are instants: everything before floor, and one gap.
type missed struct{ floor, from, until atomic.Int64 }

func (m *missed) holds(at instant) bool {
	return int64(at) < m.floor.Load() || int64(at) < m.until.Load() && int64(at) >= m.from.Load()
}

// all makes everything count that was fetched before now.
func (m *missed) all(now instant) { m.floor.Store(int64(now)) }

// since makes count what was fetched from an instant until now. The gap before
// is kept as long as there can be answers from then that are not too old
// anyway; what lies between the two then counts, too.
func (m *missed) since(from, now, maxAge instant) {
	if instant(m.until.Load()) > now-maxAge {
		from = min(from, instant(m.from.Load()))
	}
	m.until.Store(int64(now))
	m.from.Store(int64(from))
}

// Following says whether the client follows the change feed, or is about to:
// not where Config.Follow is off or the server refuses it.
func (c *Client) Following() bool { return c.follows && !c.feed.refused.Load() }

// FeedAge returns how old a change can be that was not told on the feed: the time
// since the server last said, as it does every 15 seconds, that all was told, and
// all had come. Of a server that never says so, it is the time since it said
// anything. Before that, it is the time since New.
func (c *Client) FeedAge(now time.Time) time.Duration {
	if !c.feed.proven.Load() {
		return c.silence(now)
	}
	return time.Duration(int64(c.instant(now)) - c.feed.whole.Load())
}

// silence returns how long nothing was heard from the change feed.
func (c *Client) silence(now time.Time) time.Duration {
	return time.Duration(int64(c.instant(now)) - c.feed.heard.Load())
}

// follow keeps a connection to the change feed until Close.
//
// There is a pause before the first connection, too: the profile server may
// start together with this client, and whoever only checks a configuration
// has closed the client by then.
func (c *Client) follow() {
	pause := backoff.ExponentialBackOff{
		InitialInterval:     500 * time.Millisecond,
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         30 * time.Second,
	}
	for wait := pause.NextBackOff(); c.rest(wait); {
		began := time.Now()
		outcome, err := c.listen()
		if c.closing.Err() != nil {
			return
		}
		// A connection that breaks again and again must not make everything
		// due every second; a server that is reloaded some times in a row
		// must not be left for half a minute.
		if outcome == FeedConnected && time.Since(began) > steady {
			pause.Reset()
		}
		wait = pause.NextBackOff()
		if c.feed.refused.Load() {
			wait = refusedPause + rand.N(refusedPause/5) //nolint:gosec // it only spreads load
		}
		// A server that restarts is no news.
		if err != nil && (outcome == FeedRefused || errors.Is(err, errDeaf) || c.silence(time.Now()) >= quietLimit) {
			c.feed.health.Failed(fmt.Errorf("change feed: %w", err))
		}
	}
}

// rest waits, and reports false after Close.
func (c *Client) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.closing.Done():
		return false
	}
}

// listen connects to the feed and takes what it tells until the connection
// ends. It returns how the connection began, and why it ended, or never came
// about. It takes no slot of those that lookups have.
func (c *Client) listen() (FeedOutcome, error) {
	ctx, cancel := context.WithCancel(c.closing)
	defer cancel()
	idle := time.AfterFunc(quietLimit, cancel)
	defer idle.Stop()

	response, outcome, err := c.connect(ctx)
	if c.closing.Err() == nil {
		c.feed.refused.Store(outcome == FeedRefused && !c.feed.known)
		c.observer.FeedConnect(outcome)
	}
	if err != nil {
		return outcome, err
	}
	defer func() { _ = response.Body.Close() }()
	c.feed.known = true
	c.feed.connected.Store(true)
	defer c.feed.connected.Store(false)

	body := &hearing{Reader: response.Body, heard: func() {
		idle.Reset(quietLimit)
		c.feed.heard.Store(int64(c.instant(time.Now())))
		if !c.feed.proven.Load() {
			c.feed.health.Answered()
		}
	}, head: -1, toldUpTo: c.toldUpTo, onlyThere: func() { c.feed.proven.Store(false) }}
	first := true
	for event, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: maxEvent}) {
		if err != nil {
			return outcome, cut(ctx, err)
		}
		if first {
			c.resume()
			first = false
			defer func() { c.feed.lost = instant(c.feed.heard.Load()) }()
		}
		c.take(event)
	}
	return outcome, nil
}

// cut says why the feed broke off.
func cut(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errDeaf):
		return err
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("one of its events has more than %d KiB; check the URL", maxEvent>>10)
	case ctx.Err() != nil:
		return fmt.Errorf("nothing arrived for %v; check that no proxy in front of it holds events back", quietLimit)
	}
	return broken(ctx, err, quietLimit).cause
}

// errDeaf says that changes do not come on a connection that seems well.
var errDeaf = errors.New("the server says that it has told changes that did not arrive; " +
	"check that nothing in between takes events out of the stream, and that it is one server that answers")

// toldUpTo takes that the server has told all changes, the one with this id last.
func (c *Client) toldUpTo(id int64) error {
	c.feed.proven.Store(true)
	now := c.instant(time.Now())
	if id > c.feed.cursor {
		c.feed.missed.all(now)
		return errDeaf
	}
	c.feed.whole.Store(int64(now))
	c.feed.health.Answered()
	return nil
}

// hearing is a stream that says when something comes, its end included, and what
// its comments say to have been told. Those are no events, and whoever reads events
// passes them over; it looks at each when all events before it were read.
type hearing struct {
	io.Reader
	heard     func()
	toldUpTo  func(id int64) error
	onlyThere func() // a comment says nothing but that the server is there

	line []byte // the beginning of the one that is coming
	head int64  // that was said since the last Read, or -1
}

func (h *hearing) Read(p []byte) (int, error) {
	// Whoever reads more has taken all that came until now.
	if h.head >= 0 {
		if err := h.toldUpTo(h.head); err != nil {
			return 0, err
		}
		h.head = -1
	}
	n, err := h.Reader.Read(p)
	if n > 0 || errors.Is(err, io.EOF) {
		h.heard()
	}
	for _, b := range p[:n] {
		if b != '\n' && b != '\r' {
			if len(h.line) < maxComment {
				h.line = append(h.line, b)
			}
			continue
		}
		if id, ok := bytes.CutPrefix(h.line, []byte(optoutapi.FeedHead)); ok {
			if id, err := strconv.ParseUint(string(id), 10, 63); err == nil {
				h.head = int64(id)
			}
		} else if string(h.line) == ":" {
			h.onlyThere()
		}
		h.line = h.line[:0]
	}
	return n, err
}

// connect asks for the changes that come after the last one heard.
func (c *Client) connect(ctx context.Context) (*http.Response, FeedOutcome, error) {
	credential, err := c.auth.minter.Mint(c.auth.minter.ClientID(), optoutapi.ChangesScope, "", time.Now())
	if err != nil {
		return nil, FeedRefused, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address.changes, nil)
	if err != nil {
		return nil, FeedRefused, err
	}
	request.Header.Set("Authorization", "Bearer "+credential)
	request.Header.Set("Accept", optoutapi.FeedMediaType)
	request.Header.Set("User-Agent", "metrics-gate")
	if c.feed.cursor >= 0 {
		request.Header.Set("Last-Event-ID", strconv.FormatInt(c.feed.cursor, 10))
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, FeedUnreachable, broken(ctx, err, quietLimit).cause
	}
	outcome, err := greets(response)
	if err != nil {
		discard(response)
		return nil, outcome, err
	}
	return response, outcome, nil
}

// greets reads how the server answers who wants to follow.
func greets(response *http.Response) (FeedOutcome, error) {
	switch status := response.StatusCode; status {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return FeedRefused, fmt.Errorf("it refuses the credential with status %d; "+
			"have the server trust this client id, compare the clocks of both machines, or do not follow", status)
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return FeedRefused, fmt.Errorf("the server has none and answers with status %d; "+
			"if it never will have one, do not follow", status)
	default:
		return FeedBadAnswer, fmt.Errorf("it answers with status %d, not 200", status)
	}
	if kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err != nil || kind != optoutapi.FeedMediaType {
		return FeedBadAnswer, errors.New("its answer is not " + optoutapi.FeedMediaType + "; " +
			"check the URL: this may be the page of something else")
	}
	return FeedConnected, nil
}

// resume settles what was missed before the connection that has come; see
// feed.
func (c *Client) resume() {
	now := c.instant(time.Now())
	if c.feed.cursor < 0 {
		c.feed.missed.all(now)
		return
	}
	c.feed.missed.since(c.feed.lost, now, instant(c.maxAge))
}

// take does what an event of the feed says. One that cannot be read is
// counted and passed over, as MaxAge bounds what it may have said; one of a
// kind that is not known may come from a newer server.
func (c *Client) take(event sse.Event) {
	kind, ok := FeedChange, true
	switch event.Type {
	case "":
		// Only an id: where the feed is.
	case optoutapi.ChangeEvent, optoutapi.DeleteEvent:
		if event.Type == optoutapi.DeleteEvent {
			kind = FeedDelete
		}
		var told change
		if ok = json.Unmarshal([]byte(event.Data), &told) == nil && told.is(kind); ok {
			c.apply(told)
			c.observer.FeedEvent(kind)
		}
	case optoutapi.ResetEvent:
		c.feed.missed.all(c.instant(time.Now()))
		c.observer.FeedEvent(FeedReset)
	}
	if event.LastEventID != "" {
		id, err := strconv.ParseUint(event.LastEventID, 10, 63)
		if ok = ok && err == nil; err == nil {
			c.feed.cursor = int64(id)
		}
	}
	if !ok {
		c.observer.FeedEvent(FeedMalformed)
	}
}

// change is what an event says of an account.
type change struct {
	UID        string            `json:"uid"`
	Preference policy.Preference `json:"metrics_optout"` // unknown of one that is deleted
	Changed    time.Time         `json:"changed"`
}

// is says whether that is all an event of the kind has to say, and no more.
func (t change) is(kind FeedEvent) bool {
	chosen := t.Preference != policy.Unknown && !t.Changed.IsZero()
	return t.UID != "" && chosen == (kind == FeedChange)
}

// apply takes what is told of an account. That is done where a cache knows the
// account already, and for whom a lookup is under way, whose answer may be
// older, or waits for a slot. Others are not taken in: a million that are
// imported would displace all who are there. And it counts as no use of the
// account, so that it displaces nobody.
//
// When an event comes says nothing of when it was true: the connection may have
// stalled, or be one that tells again what happened while there was none, and
// the account may have changed since. So only an opt-out is taken as it is.
// After anything else the server is asked.
//
// An event may also be older than what is known, where a lookup was faster. The
// server's own time of the change tells, which grows with every change of an
// account.
func (c *Client) apply(told change) {
	version := told.Changed.UnixMilli()
	learn := func(e *entry, now instant) {
		switch {
		case told.Preference == policy.Unknown:
			*e = entry{changed: now}
		case version < e.version, version == e.version && told.Preference == e.preference:
			// It is known.
		case told.Preference == policy.OptedOut:
			*e = c.chosen(policy.OptedOut, now, now)
			e.version = version
			e.marks |= byFeed
		default:
			e.changed, e.expires, e.version = now, now, version
		}
	}
	if c.flights.has(told.UID) || c.queue.has(told.UID) {
		c.change(told.UID, func(e *entry, now instant) {
			learn(e, now)
			e.changed = now
		})
		return
	}
	now := c.instant(time.Now())
	for _, known := range []*cache{c.proven, c.named} {
		known.amend(told.UID, func(e *entry) { learn(e, now) })
	}
}

// flights counts the requests under way by account, so that an event knows
// whose answers may be older than itself.
type flights struct {
	mu   sync.Mutex
	uids map[string]int
}

// board begins a flight, and returns what ends it: after its answer has been
// stored, or an event could come in between.
func (f *flights) board(uid string) (leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.uids == nil {
		f.uids = make(map[string]int)
	}
	f.uids[uid]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.uids[uid]--; f.uids[uid] == 0 {
			delete(f.uids, uid)
		}
	}
}

func (f *flights) has(uid string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uids[uid] > 0
}
