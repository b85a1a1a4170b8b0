package prefstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// movable is what Move asks of a store. Of what is read in pages, a page holds
// what comes after something, in the order of its bytes, movedPage of them at
// most.
type movable interface {
	// origin says which store this is.
	origin(ctx context.Context) (origin, error)
	// entries returns accounts of which something is held.
	entries(ctx context.Context, after string) ([]entry, error)
	// deletions returns when those of these accounts were deleted that are known
	// to be.
	deletions(ctx context.Context, uids []string) ([]deletion, error)
	// hashes returns what a table holds.
	hashes(ctx context.Context, table hashTable, after []byte) ([]hashed, error)
	// days returns what was counted on all days, by who counted it.
	days(ctx context.Context) (map[dayOf]dayCount, error)
	// users returns the users who are counted on a day that is not over.
	users(ctx context.Context, after string) ([]countedUser, error)

	// prepare has the store number its changes from this on, but for the leeway,
	// and take over a secret if it holds nothing yet that depends on its own.
	prepare(ctx context.Context, key secret, head int64) error
	// merge takes over what Record.merge says, and returns how many accounts it
	// changed.
	merge(ctx context.Context, entries []entry) (changed int64, err error)
	// forget takes over deletions, and returns how many accounts it changed.
	forget(ctx context.Context, deletions []deletion) (changed int64, err error)
	// remember takes over hashes; of one that is there the later time stays.
	remember(ctx context.Context, table hashTable, page []hashed) error
	// addDays takes over what others counted.
	addDays(ctx context.Context, days map[dayOf]dayCount) error
	// addUsers takes over who is counted.
	addUsers(ctx context.Context, users []countedUser) error
}

// movedPage is how much is read, and written, at once.
const movedPage = importBatch

// The numbers of a store's changes are ahead of those of one that is moved to it,
// by more than that one makes until nobody writes to it any more. So whoever
// followed it, and comes with the number of the last change it was told, is told
// all that is new to it.
const (
	ahead  = 1 << 32
	leeway = ahead / 2
)

type origin struct {
	id     []byte
	secret secret
	head   int64
}

// entry is what is held of an account.
type entry struct {
	uid string
	Record
}

type deletion struct {
	uid string
	at  int64
}

// hashTable names a table of hashes, its column of these, and that of the times.
type hashTable struct{ name, hash, at string }

var (
	deletedTable = hashTable{"deleted", "uid_hash", "at"}
	eventTable   = hashTable{"event", "jti_hash", "seen"}
)

type hashed struct {
	hash []byte
	at   int64
}

// dayOf is a day of the store with this id.
type dayOf struct{ origin, day string }

type dayCount struct{ users, twice int64 }

type countedUser struct {
	uid, day string
	origin   []byte
}

// merge returns what is to be held of an account of which this is held, and
// something else in a store that is moved here: the rules are those of
// Choice.decide. What was deleted here since stays so.
func (r Record) merge(moved Record) Record {
	after := moved
	after.deleted, after.secret = r.deleted, r.secret
	switch {
	case moved.said.from <= r.deleted:
		return r
	case r.Source == "":
		return after
	case r.Preference == moved.Preference:
		after.said = r.said.orLater(moved.said)
		if r.changed >= moved.changed {
			after.changed, after.Source = r.changed, r.Source
		}
		return after
	case moved.said.to < r.said.from || moved.said.from <= r.said.to && measured(r.Preference) < measured(moved.Preference):
		return r
	}
	after.changed = max(moved.changed, r.changed+1)
	return after
}

// forgotten says whether a deletion that another store knows has an account
// forgotten of which this is held.
func (r Record) forgotten(at int64) bool {
	return r.Source != "" && at >= r.said.from
}

// Moved says how far Move is.
type Moved struct {
	Accounts int64 // that were read
	Of       int64 // accounts, at the beginning
	Changed  int64 // accounts that changed where they were moved to, or were deleted there
}

// Move brings what a store holds to another one: preferences with their times and
// sources, who was deleted, which events were seen, and how many users opted out
// on each day. It takes over the secret as well if the other store is empty, so
// that ETags stay as they are. Where both hold something of an account, what is
// newer stays; of what nobody can order, what measures less.
//
// Servers may use either store. What changes meanwhile may be left out: move once
// more when nobody writes to the first one any more. Nothing counts twice by that,
// and neither does it after an interruption. Move calls progress, unless nil,
// after every batch that is safely stored. If ctx ends, what it did so far stays.
// At the end it compares what both hold.
func Move(ctx context.Context, from, to Store, progress func(Moved)) (done Moved, found Comparison, err error) {
	if progress == nil {
		progress = func(Moved) {}
	}
	before, _, err := origins(ctx, from, to)
	if err != nil {
		return done, found, err
	}
	if done, err = move(ctx, from, to, before, progress); err != nil {
		return done, found, err
	}
	if found, err = compare(ctx, from, to); err != nil {
		return done, found, err
	}
	after, err := from.origin(ctx)
	found.Changed = after.head != before.head
	return done, found, err
}

func move(ctx context.Context, from, to Store, source origin, progress func(Moved)) (done Moved, err error) {
	if done.Of, err = from.Count(ctx); err != nil {
		return done, inSource(err)
	}
	// A batch that has begun is stored, so that what is reported is all there is.
	storing := context.WithoutCancel(ctx)
	if err := to.prepare(storing, source.secret, source.head+ahead); err != nil {
		return done, inTarget(err)
	}
	target, err := to.origin(ctx)
	if err != nil {
		return done, inTarget(err)
	}
	// Deletions come first: who came back after one is not to be forgotten again.
	for page, err := range pages(ctx, to.entries, entryKey) {
		if err != nil {
			return done, inTarget(err)
		}
		known, err := from.deletions(ctx, uidsOf(page))
		if err != nil {
			return done, inSource(err)
		}
		changed, err := to.forget(storing, known)
		if err != nil {
			return done, inTarget(err)
		}
		done.Changed += changed
	}
	if source.secret == target.secret {
		if err := moveHashes(ctx, from, to, deletedTable); err != nil {
			return done, err
		}
	}
	for page, err := range pages(ctx, from.entries, entryKey) {
		if err != nil {
			return done, inSource(err)
		}
		changed, err := to.merge(storing, page)
		if err != nil {
			return done, inTarget(err)
		}
		done.Accounts += int64(len(page))
		done.Changed += changed
		progress(done)
	}
	// An event that is known to have been seen must have had its effect.
	if source.secret == target.secret {
		if err := moveHashes(ctx, from, to, eventTable); err != nil {
			return done, err
		}
	}
	for page, err := range pages(ctx, from.users, func(u countedUser) string { return u.uid }) {
		if err != nil {
			return done, inSource(err)
		}
		if err := to.addUsers(storing, page); err != nil {
			return done, inTarget(err)
		}
	}
	days, err := from.days(ctx)
	if err != nil {
		return done, inSource(err)
	}
	if err := to.addDays(storing, days); err != nil {
		return done, inTarget(err)
	}
	return done, nil
}

// inSource and inTarget say which of the two stores an error is of: "the disk is full"
// is said of the one as of the other.
func inSource(err error) error { return fmt.Errorf("in the store that is moved: %w", err) }

func inTarget(err error) error { return fmt.Errorf("in the store that it is moved to: %w", err) }

func moveHashes(ctx context.Context, from, to Store, table hashTable) error {
	read := func(ctx context.Context, after []byte) ([]hashed, error) { return from.hashes(ctx, table, after) }
	for page, err := range pages(ctx, read, hashKey) {
		if err != nil {
			return inSource(err)
		}
		if err := to.remember(context.WithoutCancel(ctx), table, page); err != nil {
			return inTarget(err)
		}
	}
	return nil
}

func origins(ctx context.Context, from, to Store) (source, target origin, err error) {
	if source, err = from.origin(ctx); err != nil {
		return source, target, inSource(err)
	}
	if target, err = to.origin(ctx); err != nil {
		return source, target, inTarget(err)
	}
	if bytes.Equal(source.id, target.id) {
		err = errors.New("both are the same store, or one is a copy of the other's file; name two")
	}
	return source, target, err
}

func entryKey(e entry) string { return e.uid }

func hashKey(h hashed) []byte { return h.hash }

func uidsOf(page []entry) (uids []string) {
	for _, e := range page {
		uids = append(uids, e.uid)
	}
	return uids
}

// pages returns all pages of what is read by its key.
func pages[K any, T any](ctx context.Context, read func(ctx context.Context, after K) ([]T, error), key func(T) K) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		var after K
		for {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			page, err := read(ctx, after)
			if len(page) == 0 && err == nil || !yield(page, err) || err != nil || len(page) < movedPage {
				return
			}
			after = key(page[len(page)-1])
		}
	}
}

// Figures are what one of two stores holds.
type Figures struct {
	OptedOut, Allowed, Unset int64 // accounts, by their preference

	// Digest is of all accounts with their preferences, times and sources, in
	// whatever order. It is keyed by the secret of the store that is moved.
	Digest [sha256.Size]byte

	Deleted, Events int64 // accounts that were deleted, and events that were seen, in the last days
	Days            int64 // on which users were counted
	Users           int64 // who were counted, on all days together
}

// Accounts returns of how many accounts something is held.
func (f Figures) Accounts() int64 { return f.OptedOut + f.Allowed + f.Unset }

func (f *Figures) add(key secret, e entry) {
	switch e.Preference {
	case policy.OptedOut:
		f.OptedOut++
	case policy.Allowed:
		f.Allowed++
	default:
		f.Unset++
	}
	mac := hmac.New(sha256.New, key[:])
	_, _ = fmt.Fprintf(mac, "%q %s %d %d %d %s", e.uid, e.Preference, e.changed, e.said.from, e.said.to, e.Source)
	for i, b := range mac.Sum(nil) {
		f.Digest[i] ^= b
	}
}

// Comparison is what came of a move.
type Comparison struct {
	From, To Figures

	// Same are the accounts of which both hold the same; Newer those of which the
	// store that was moved to holds what is newer, or knows that they were deleted
	// since; and Own those that it alone holds.
	Same, Newer, Own int64

	// Missing are accounts, deletions, events and days that the store holds which
	// is moved, and that are not accounted for where it was moved to. Changed says
	// that it changed meanwhile, which may be why.
	Missing int64
	Changed bool

	// OtherSecret says that the store which was moved to had a secret of its own.
	// So it cannot know by the other's hashes which accounts were deleted and which
	// events were seen there.
	OtherSecret bool
}

func compare(ctx context.Context, from, to Store) (c Comparison, err error) {
	source, target, err := origins(ctx, from, to)
	if err != nil {
		return c, err
	}
	c.OtherSecret = source.secret != target.secret
	if err := c.compareEntries(ctx, from, to, source.secret); err != nil {
		return c, err
	}
	for _, table := range []hashTable{deletedTable, eventTable} {
		if err := c.compareHashes(ctx, from, to, table); err != nil {
			return c, err
		}
	}
	return c, c.compareDays(ctx, from, to, target)
}

func (c *Comparison) compareEntries(ctx context.Context, from, to Store, key secret) error {
	var own []string // accounts that are only in to, of the page
	settle := func() error {
		known, err := from.deletions(ctx, own)
		c.Own += int64(len(own))
		own = own[:0]
		for _, d := range known {
			held, err := to.Get(ctx, d.uid)
			if err != nil {
				return err
			}
			if held.forgotten(d.at) {
				c.Own--
				c.Missing++
			}
		}
		return err
	}
	here, there := pages(ctx, from.entries, entryKey), pages(ctx, to.entries, entryKey)
	err := joined(here, there, func(a, b entry) int { return cmp.Compare(a.uid, b.uid) }, func(a, b *entry) error {
		if a != nil {
			c.From.add(key, *a)
		}
		if b != nil {
			c.To.add(key, *b)
		}
		switch {
		case a == nil:
			if own = append(own, b.uid); len(own) < movedPage {
				return nil
			}
			return settle()
		case b == nil:
			held, err := to.Get(ctx, a.uid) // when it was deleted there
			if err != nil {
				return err
			}
			b = &entry{a.uid, held}
			fallthrough
		default:
			switch after := b.merge(a.Record); {
			case after != b.Record:
				c.Missing++
			case after.Source != "" && after.sameAs(a.Record):
				c.Same++
			default:
				c.Newer++
			}
		}
		return nil
	})
	return errors.Join(err, settle())
}

// sameAs says whether the same is held, in two stores.
func (r Record) sameAs(other Record) bool {
	r.secret, r.deleted = other.secret, other.deleted
	return r == other
}

func (c *Comparison) compareHashes(ctx context.Context, from, to Store, table hashTable) error {
	count := map[hashTable][2]*int64{deletedTable: {&c.From.Deleted, &c.To.Deleted}, eventTable: {&c.From.Events, &c.To.Events}}[table]
	read := func(s Store) iter.Seq2[[]hashed, error] {
		return pages(ctx, func(ctx context.Context, after []byte) ([]hashed, error) { return s.hashes(ctx, table, after) }, hashKey)
	}
	needed := time.Now().Add(-EventsFor).UnixMilli() // older ones may have been dropped
	return joined(read(from), read(to), func(a, b hashed) int { return bytes.Compare(a.hash, b.hash) }, func(a, b *hashed) error {
		if a != nil {
			*count[0]++
		}
		if b != nil {
			*count[1]++
		}
		if a != nil && a.at > needed && !c.OtherSecret && (b == nil || b.at < a.at) {
			c.Missing++
		}
		return nil
	})
}

func (c *Comparison) compareDays(ctx context.Context, from, to Store, target origin) error {
	here, err := from.days(ctx)
	if err != nil {
		return err
	}
	there, err := to.days(ctx)
	if err != nil {
		return err
	}
	for at, count := range here {
		if has := there[at]; at.origin != string(target.id) && (has.users < count.users || has.twice < count.twice) {
			c.Missing++
		}
	}
	c.From.addDays(here)
	c.To.addDays(there)
	return nil
}

func (f *Figures) addDays(days map[dayOf]dayCount) {
	named := map[string]bool{}
	for at, count := range days {
		f.Users += count.users - count.twice
		named[at.day] = true
	}
	f.Days = int64(len(named))
}

// joined calls visit with what two sorted sequences hold, one of them nil where
// only the other holds it.
func joined[T any](a, b iter.Seq2[[]T, error], order func(a, b T) int, visit func(a, b *T) error) error {
	nextA, stopA := iter.Pull2(a)
	defer stopA()
	nextB, stopB := iter.Pull2(b)
	defer stopB()
	var pageA, pageB []T
	var endA, endB bool
	fill := func(page []T, end *bool, next func() ([]T, error, bool)) ([]T, error) {
		for len(page) == 0 && !*end {
			more, err, ok := next()
			if err != nil {
				return nil, err
			}
			page, *end = more, !ok
		}
		return page, nil
	}
	for {
		var err error
		if pageA, err = fill(pageA, &endA, nextA); err != nil {
			return err
		}
		if pageB, err = fill(pageB, &endB, nextB); err != nil {
			return err
		}
		var first, second *T
		switch {
		case len(pageA) == 0 && len(pageB) == 0:
			return nil
		case len(pageB) == 0:
			first = &pageA[0]
		case len(pageA) == 0:
			second = &pageB[0]
		default:
			by := order(pageA[0], pageB[0])
			if by <= 0 {
				first = &pageA[0]
			}
			if by >= 0 {
				second = &pageB[0]
			}
		}
		if err := visit(first, second); err != nil {
			return err
		}
		if first != nil {
			pageA = pageA[1:]
		}
		if second != nil {
			pageB = pageB[1:]
		}
	}
}
