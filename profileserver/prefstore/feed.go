package prefstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

const (
	// maxRecent bounds the changes that a feed holds in memory, for those who
	// are behind or come back after a moment. It is some seconds of a busy
	// store, in less than two megabytes.
	maxRecent = 8192

	// maxBatch bounds, in bytes, what a follower that is behind gets at once.
	// It is as much as net/http gathers for one write to the connection.
	maxBatch = 4 << 10

	// pageSize is how many rows are read from the store at once.
	pageSize = 256
)

var (
	// ErrFeedAway says that the store does not learn of changes at the moment.
	// Whoever follows is to come back.
	ErrFeedAway = errors.New("changes cannot be told at the moment")

	// ErrTooSlow says that a follower has not read in time what is no longer
	// in memory. It may come back, and is told from the store what it missed.
	ErrTooSlow = errors.New("the follower is too slow")
)

// Change is one change of a store, as its feed tells it.
type Change struct {
	// ID is the change's number: that of the change before, and one.
	ID  int64
	UID string
	// Preference is what the account holds now: policy.Unset where Deleted.
	Preference policy.Preference
	Changed    time.Time
	// Source is SourceUser, SourceBrowser or SourceAdmin.
	Source string
	// Deleted says that the account was deleted. Of when and by whom nothing is
	// told then.
	Deleted bool
}

// Feed tells followers the changes of one store, in their order. Nobody waits
// for a follower: a change is encoded once, into the bytes that all of them
// send, and each reads the recent ones at its own pace. Who is overtaken is
// dropped, and when it comes back it is told from the store what it missed:
// the latest state of each account that changed since.
//
// It belongs to the store, which calls Begin, Publish, Advance and Interrupt, one
// at a time. Everybody else has it by Store.Follow.
type Feed struct {
	read func(ctx context.Context, after int64, limit int) ([]Change, error)

	// mu is held for reading by followers: they are thousands, and wake at
	// the same moment.
	mu   sync.RWMutex
	away bool
	// run counts how often all who followed were sent away.
	run int
	// recent are all changes with an id greater than since. Ids are missing
	// where the feed learnt of a change from the store's rows, and by then
	// the account had changed again. Of limit, which is maxRecent outside
	// tests, at least half are there.
	recent []event
	limit  int
	since  int64
	// origin is where the numbers of the changes begin: who names an earlier one
	// followed a store that may have had others.
	origin int64
	// last is the id of the store's last change.
	last int64
	// wake is closed when any of the above has changed.
	wake chan struct{}
}

// event is a change as it is sent. Nobody writes to its text again.
type event struct {
	id   int64
	text []byte
}

// NewFeed makes a feed that lets nobody follow until it begins. It reads from the
// store the rows, up to so many, whose last change has an id greater than after,
// in the order of these ids.
func NewFeed(read func(ctx context.Context, after int64, limit int) ([]Change, error)) *Feed {
	return &Feed{read: read, away: true, limit: maxRecent, wake: make(chan struct{})}
}

// Begin lets followers in; head is the id of the store's last change, and origin
// that from which on its ids are sure to be those of its changes. After an
// interruption the feed goes on where it was, if nothing was missed.
func (f *Feed) Begin(head, origin int64) {
	f.change(func() {
		f.away, f.origin = false, origin
		if f.last != head {
			f.restart(head)
		}
	})
}

// Publish tells a change. What was told before is not told again. Where there
// are changes between the last one and this, it is for the store to Advance
// first; if it does not, all followers must read them from the store.
func (f *Feed) Publish(u Change) {
	e := event{u.ID, encode(u)}
	f.change(func() {
		if e.id > f.last+1 {
			f.restart(e.id - 1)
		}
		f.add(e)
	})
}

// tell publishes a change that is safely stored. Those before it that another
// instance made are told first; where they cannot be read, the feed has its
// followers read them.
func (f *Feed) tell(ctx context.Context, c Change) {
	if c.ID > f.head()+1 {
		_ = f.Advance(context.WithoutCancel(ctx), c.ID-1)
	}
	f.Publish(c)
}

// Advance tells changes that nobody published, up to the one with the id head,
// by the rows that they left in the store.
func (f *Feed) Advance(ctx context.Context, head int64) error {
	for last := f.head(); last < head; last = f.head() {
		rows, err := f.read(ctx, last, pageSize)
		if err != nil {
			return err
		}
		f.change(func() {
			for _, row := range rows {
				if row.ID > head {
					break // it is still to be published
				}
				f.add(event{row.ID, encode(row)})
			}
			if len(rows) < pageSize || rows[len(rows)-1].ID > head {
				f.last = max(f.last, head)
			}
		})
	}
	return nil
}

// head returns the id of the last change.
func (f *Feed) head() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.last
}

// Interrupt ends all followers, and lets nobody in until the feed begins
// again: the store does not learn of changes.
func (f *Feed) Interrupt() {
	f.change(func() {
		f.away = true
		f.run++
	})
}

// change changes the feed, and then wakes the followers. The store does not
// wait until each of thousands is awake: it has a writer waiting.
func (f *Feed) change(apply func()) {
	f.mu.Lock()
	apply()
	wake := f.wake
	f.wake = make(chan struct{})
	f.mu.Unlock()
	go close(wake)
}

// restart forgets what is recent, since changes up to head were missed, and
// ends all followers.
func (f *Feed) restart(head int64) {
	clear(f.recent)
	f.recent, f.since, f.last = f.recent[:0], head, head
	f.run++
}

func (f *Feed) add(e event) {
	if e.id <= f.last {
		return
	}
	if half := f.limit / 2; len(f.recent) == f.limit {
		f.since = f.recent[half-1].id
		f.recent = slices.Delete(f.recent, 0, half)
	}
	f.recent = append(f.recent, e)
	f.last = e.id
}

// after returns the text of recent changes after the one with this id, and
// the id of the last of them.
func (f *Feed) after(id int64) (text []byte, last int64) {
	i, found := slices.BinarySearchFunc(f.recent, id, func(e event, id int64) int { return cmp.Compare(e.id, id) })
	if found {
		i++
	}
	last = id
	for _, e := range f.recent[i:] {
		switch {
		case text == nil:
			text = e.text // the same bytes for everybody: few are ever behind
		case len(text)+len(e.text) > maxBatch:
			return text, last
		default:
			text = append(text, e.text...) // a copy, as text has no capacity left
		}
		last = e.id
	}
	return text, last
}

// Follow begins to tell changes: those after the one with this id, or with a
// negative one those from now on. Who names a change that is not there yet, or
// one from before the feed's origin, knows another store, or this one before it was
// set back, and is told to forget what it knows.
func (f *Feed) Follow(after int64) (*Follower, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.away {
		return nil, ErrFeedAway
	}
	stranger := after > f.last || after >= 0 && after < f.origin
	c := &Follower{feed: f, run: f.run, last: after}
	if after < 0 || stranger {
		c.last = f.last
	}
	c.told = c.last
	c.behind = c.last < f.since
	if stranger {
		c.greeting = fmt.Appendf(nil, "%sevent: %s\nid: %d\ndata: {}\n\n", retry, optoutapi.ResetEvent, c.last)
	} else {
		c.greeting = fmt.Appendf(nil, "%sid: %d\n\n", retry, c.last)
	}
	return c, nil
}

// retry tells a follower to come back a second after its stream has ended.
const retry = "retry: 1000\n"

// Follower reads a feed at its own pace. It holds nothing of the feed, so
// there is nothing to give back. It is for one goroutine.
type Follower struct {
	feed     *Feed
	run      int
	greeting []byte // what is to be said first
	last     int64  // the id of the last change that it knows of
	told     int64  // the last id that was said; later changes may have left nothing to tell
	behind   bool   // what comes next is to be read from the store
}

// Next waits for changes and returns them as they are sent: as server-sent
// events, one or several, that docs/openapi.yaml describes. Nobody may write to
// them. A follower that got an error, ErrFeedAway, ErrTooSlow or one of the
// store, gets nothing more, except that it may go on after an error of ctx.
func (c *Follower) Next(ctx context.Context) ([]byte, error) {
	if text := c.greeting; text != nil {
		c.greeting = nil
		return text, nil
	}
	f := c.feed
	for ctx.Err() == nil {
		f.mu.RLock()
		run, since, wake := f.run, f.since, f.wake
		text, last := f.after(c.last)
		f.mu.RUnlock()

		switch {
		case c.run != run:
			return nil, ErrFeedAway
		case c.last >= since:
			c.behind = false
			if text != nil {
				c.last, c.told = last, last
				return text, nil
			}
			select {
			case <-wake:
			case <-ctx.Done():
			}
		case c.behind:
			if text, err := c.readUpTo(ctx, since); err != nil || text != nil {
				return text, err
			}
		default:
			return nil, ErrTooSlow
		}
	}
	return nil, ctx.Err()
}

// Heartbeat returns the comment that says which id was told last, where all changes
// were told; nothing where there are more.
func (c *Follower) Heartbeat() []byte {
	f := c.feed
	f.mu.RLock()
	defer f.mu.RUnlock()
	if text, _ := f.after(c.last); text != nil || c.greeting != nil || c.last < f.since || c.run != f.run {
		return nil
	}
	return fmt.Appendf(nil, "%s%d\n\n", optoutapi.FeedHead, c.told)
}

// readUpTo reads a page of changes from the store: of those up to the one with
// the id since, as the feed knows the later ones, deletions included. A row
// that moves on meanwhile moves beyond since, and is told from there.
func (c *Follower) readUpTo(ctx context.Context, since int64) (text []byte, err error) {
	rows, err := c.feed.read(ctx, c.last, pageSize)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.ID > since {
			break
		}
		text = append(text, encode(row)...)
		c.last, c.told = row.ID, row.ID
	}
	if len(rows) < pageSize || rows[len(rows)-1].ID > since {
		c.last = since
	}
	return text, nil
}

// encode returns a change as a server-sent event, with no capacity left.
func encode(u Change) []byte {
	name := optoutapi.ChangeEvent
	body := struct {
		UID        string            `json:"uid"`
		Preference policy.Preference `json:"metrics_optout,omitzero"`
		Source     string            `json:"source,omitempty"`
		Changed    string            `json:"changed,omitempty"`
	}{u.UID, u.Preference, u.Source, u.Changed.UTC().Format(optoutapi.TimeLayout)}
	if u.Deleted {
		name = optoutapi.DeleteEvent
		body.Preference, body.Source, body.Changed = policy.Unknown, "", ""
	}
	data, _ := json.Marshal(body) // there is a JSON form of all that is stored
	return slices.Clip(fmt.Appendf(nil, "event: %s\nid: %d\ndata: %s\n\n", name, u.ID, data))
}
