package profileclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/metricsgate/metricsgate/policy"
)

const (
	// maxPending bounds the write-backs that are on their way or wait for
	// another try. The browser says it again at its next page.
	maxPending = 1024
	// writeTime bounds how long one write-back is tried, and firstPause is about
	// how long after the first try the second comes.
	writeTime  = 5 * time.Minute
	firstPause = 500 * time.Millisecond
)

// WriteBack records in the profile of an account, which must be proven, that
// its browser opted out, if the profile holds no choice. It returns at once.
//
// The write is conditional on the version that held no choice, so that it
// never overwrites what the user chose meanwhile. Where no version is known, as
// of an account that is not cached or of a claim, the profile is looked up
// first, by the lookup that is in flight if there is one; what it says decides
// whether anything is written. For one answer of the profile server there
// is one write-back however often this is called, and one at a time for one
// account. What fails is tried again for some minutes, in memory.
//
// Where the API is only read, nothing happens.
func (c *Client) WriteBack(a Account, now time.Time) {
	if c.api == FxA {
		return
	}
	known := c.known(a, now, false)
	if known.marks&writtenBack != 0 && c.fresh(known.entry, c.instant(now)) {
		return
	}
	// The account outlives the request, of which its strings may be parts.
	a.UID, a.Token = strings.Clone(a.UID), strings.Clone(a.Token)
	added, full := c.pending.add(a.UID)
	switch {
	case full:
		c.observer.WriteBack(WriteDropped)
	case !added:
	case !c.begin():
		c.pending.remove(a.UID)
		c.observer.WriteBack(WriteDropped)
	default:
		go func() {
			defer c.work.Done()
			// The lookup of who asks now has failed as well, or will.
			if !c.fresh(known.entry, c.instant(now)) && c.health.Failing() {
				c.rest(firstPause)
			}
			// Only an answer of the server shows the version, and a claim
			// makes every older one due.
			outcome := c.writeBack(a, known.fetched)
			c.pending.remove(a.UID)
			c.observer.WriteBack(outcome)
		}()
	}
}

var errTryAgain = errors.New("the profile server did not take the write-back")

// writeBack tries until the write-back has ended one way or another. Only
// answers that were asked for since an instant count.
func (c *Client) writeBack(a Account, since instant) WriteOutcome {
	var etag string // of the lookup that saw null, also for later tries
	try := func() (WriteOutcome, error) {
		if etag == "" {
			seen := c.see(a, since)
			switch {
			case seen.preference == policy.Unknown:
				return WriteFailed, errTryAgain
			case seen.preference != policy.Unset:
				return WriteUnneeded, nil
			}
			seen.in.mark(a.UID, seen.fetched, writtenBack)
			if etag = c.etags.text(seen.etag); etag == "" {
				return WriteNoETag, nil
			}
		}
		return c.write(a, etag)
	}
	outcome, err := backoff.Retry(c.closing, try, backoff.WithMaxElapsedTime(writeTime), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval:     firstPause,
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         time.Minute,
	}))
	if err != nil && c.closing.Err() != nil {
		return WriteDropped
	}
	return outcome
}

// see returns a fresh answer of the profile server that was asked for since
// an instant: the cached one or, after a lookup, a new one. It is unknown
// where there is none.
func (c *Client) see(a Account, since instant) knowledge {
	account := Account{UID: a.UID} // without the claim
	usable := func(known knowledge) bool {
		return known.fetched >= since && c.fresh(known.entry, c.instant(time.Now()))
	}
	known := c.known(account, time.Now(), false)
	if !usable(known) {
		c.ask(c.closing, a, false, max(since, known.fetched))
		if known = c.known(account, time.Now(), false); !usable(known) {
			return knowledge{}
		}
	}
	return known
}

// write sends the opt-out once. An error means that it is worth another try,
// unless it is permanent.
func (c *Client) write(a Account, etag string) (WriteOutcome, error) {
	if !c.writes.wait(c.closing) {
		return WriteDropped, errTryAgain
	}
	defer c.writes.give()
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	request, err := c.saveRequest(ctx, a, writing, policy.OptedOut, etag)
	if err != nil {
		return WriteFailed, backoff.Permanent(err) // another try would fail alike
	}
	status, err := c.save(request, a.UID, policy.OptedOut)
	switch {
	case err != nil:
		return WriteFailed, errTryAgain
	case status == http.StatusOK:
		return Written, nil
	case status == http.StatusPreconditionFailed:
		c.Invalidate(a.UID)
		c.prefetch(a, false, 0)
		return WriteConflict, nil
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		return WriteFailed, errTryAgain
	default:
		return WriteFailed, nil
	}
}

// saveRequest makes the request that writes a preference, where etag is given only
// if it is still the server's version.
func (c *Client) saveRequest(ctx context.Context, a Account, aim purpose, preference policy.Preference, etag string) (*http.Request, error) {
	body, err := json.Marshal(map[string]policy.Preference{c.field: c.invert(preference)})
	if err != nil {
		return nil, err
	}
	request, err := c.request(ctx, http.MethodPost, a, aim, bytes.NewReader(body), time.Now())
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if etag != "" {
		request.Header.Set("If-Match", etag)
	}
	return request, nil
}

// save sends the request that writes an account's preference once, and returns
// the status of the reply: 200 for all that say it is saved. What the server
// took decides from then on.
func (c *Client) save(request *http.Request, uid string, preference policy.Preference) (int, error) {
	defer c.flights.board(uid)()
	began := c.instant(time.Now())
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return 0, broken(request.Context(), err, c.timeout).cause
	}
	defer discard(response)
	if status := response.StatusCode; status != http.StatusOK && status != http.StatusNoContent {
		return status, nil
	}
	changed := exactly(response.Header)
	c.change(uid, func(e *entry, now instant) {
		// Of two writes at once nobody here knows which the server took last.
		if e.changed < began {
			version := e.version // the new one is greater
			*e = c.chosen(preference, began, now)
			e.version = max(version, changed.UnixMilli())
		}
		e.changed = now
	})
	return http.StatusOK, nil
}

// pending holds the accounts that a write-back is under way for.
type pending struct {
	mu   sync.Mutex
	uids map[string]struct{}
}

func (p *pending) add(uid string) (added, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, found := p.uids[uid]; found {
		return false, false
	}
	if len(p.uids) >= maxPending {
		return false, true
	}
	if p.uids == nil {
		p.uids = make(map[string]struct{})
	}
	p.uids[uid] = struct{}{}
	return true, false
}

func (p *pending) remove(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.uids, uid)
}
