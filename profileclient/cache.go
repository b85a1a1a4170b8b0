package profileclient

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	gocache "github.com/patrickmn/go-cache"

	"github.com/metricsgate/metricsgate/internal/generations"
	"github.com/metricsgate/metricsgate/policy"
)

// instant is a reading of a Client's own clock. It is monotonic, so that no
// step of the wall clock makes an answer live longer than it may. Zero is
// before everything that can happen to an account.
type instant int64

// century keeps the instants of tokens that were issued long before the
// Client was made above zero.
const century = 100 * 365 * 24 * time.Hour

// entry is what is known of one account. The zero entry knows nothing. It holds
// no pointers: with ten thousand accounts cached, the collector's way through
// them took more than all that the gate does for a request.
type entry struct {
	// fetched is when the request for this answer began, which is the latest
	// time that the answer surely speaks of. Of what the server took, or told
	// on its feed, it is when that was heard: what was asked for before counts
	// as older.
	fetched instant
	// expires is when the answer is no longer to be used.
	expires instant
	// changed is when the account last changed, as far as that is known. What
	// was fetched before counts as due.
	changed instant
	// version is the server's own time of the preference's last change, in
	// milliseconds, or less where it did not tell that exactly. It grows with
	// every change of an account.
	version int64
	// etag is the number of the server's version of a preference that is null,
	// for the write-back; 0 where there is none.
	etag uint64

	preference policy.Preference
	marks      mark
}

// mark says what was begun because of an entry, so that it begins once.
type mark uint8

const (
	refreshing mark = 1 << iota
	writtenBack
	// notFound: the server knows of no such account, which says something of
	// one that is only named, and nothing of one that is proven.
	notFound
	// byFeed: the change feed said so, and nobody was asked.
	byFeed
)

// fresh says whether the entry may still be used without asking.
func (e entry) fresh(now instant) bool {
	return e.preference != policy.Unknown && e.fetched >= e.changed && now < e.expires
}

// ageing says whether the entry is in the last fifth of its life.
func (e entry) ageing(now instant) bool {
	return now >= e.expires-(e.expires-e.fetched)/5
}

// cache holds entries by uid, never more than it was made for.
//
// go-cache has no bound, one lock, and Get hides what has expired, while an
// opt-out is still wanted then. So it is what holds a generation, without
// expiration and without its janitor; entries carry their own times, and are
// never changed, since who reads them holds no lock.
type cache struct {
	*generations.Cache[string, *entry, *generation]
	seed maphash.Seed
}

type shard = generations.Shard[string, *entry, *generation]

// newCache makes a cache of at most entries, and at least two.
func newCache(entries int) *cache {
	return &cache{generations.New(entries, func() [2]*generation {
		forgotten := new(atomic.Int64)
		return [2]*generation{newGeneration(forgotten), newGeneration(forgotten)}
	}), maphash.MakeSeed()}
}

func (c *cache) shard(uid string) *shard { return c.Shard(maphash.String(c.seed, uid)) }

// get returns what is known of the account, and counts as a use of it. Where an
// entry is missed because it moves, the profile server is asked once more.
func (c *cache) get(uid string) entry {
	s := c.shard(uid)
	young, old := s.Generations()
	found, held := young.Get(uid)
	if !held {
		if found, held = old.Get(uid); held {
			s.Use(uid)
		}
	}
	return young.known(found)
}

// update changes what is known of the account. What change is given is what
// get would return; it reports whether the result is to be kept.
func (c *cache) update(uid string, change func(*entry) bool) bool {
	s := c.shard(uid)
	young, _ := s.Generations()
	return s.Update(uid, func(found **entry) bool {
		e := young.known(*found)
		*found = &e
		return change(&e)
	})
}

// put stores an answer, unless the account has changed since the answer was
// asked for, or a newer answer is there. Where the clock cannot tell which is
// newer, an opt-out stays.
func (c *cache) put(uid string, answer entry) bool {
	return c.update(uid, func(e *entry) bool {
		optedOut := e.preference == policy.OptedOut && answer.fetched < e.expires
		if answer.fetched < max(e.changed, e.fetched) || answer.fetched == e.fetched && optedOut {
			return false
		}
		answer.changed = e.changed
		*e = answer
		return true
	})
}

// amend changes what is known of the account where it stands, if anything is
// known. It is no use of the account.
func (c *cache) amend(uid string, change func(*entry)) {
	c.shard(uid).Amend(uid, func(found **entry) {
		e := **found
		*found = &e
		change(&e)
	})
}

// mark says whether the caller is the first to begin what the mark stands for
// because of the answer that was fetched at an instant.
func (c *cache) mark(uid string, fetched instant, m mark) bool {
	return c.update(uid, func(e *entry) bool {
		first := e.fetched == fetched && e.marks&m == 0
		e.marks |= m
		return first
	})
}

// generation holds entries, of which none is nil.
type generation struct {
	cache   *gocache.Cache
	changed instant // the last change that an entry knows of

	// forgotten is the last change that a generation knew of which the shard has
	// dropped. Any account may have been the one that changed then.
	forgotten *atomic.Int64
}

func newGeneration(forgotten *atomic.Int64) *generation {
	return &generation{cache: gocache.New(gocache.NoExpiration, 0), forgotten: forgotten}
}

// Get returns an entry, which is never changed, or nil.
func (g *generation) Get(uid string) (*entry, bool) {
	value, found := g.cache.Get(uid)
	if !found {
		return nil, false
	}
	return value.(*entry), true
}

// known is an entry, or nil, with the last change that may have been its.
func (g *generation) known(found *entry) (e entry) {
	if found != nil {
		e = *found
	}
	e.changed = max(e.changed, instant(g.forgotten.Load()))
	return e
}

// Set stores an entry. The uid may be part of something larger that must not
// live on with it.
func (g *generation) Set(uid string, e *entry) {
	g.cache.Set(strings.Clone(uid), e, gocache.NoExpiration)
	g.changed = max(g.changed, e.changed)
}

func (g *generation) Delete(uid string) { g.cache.Delete(uid) }

func (g *generation) Clear() {
	g.forgotten.Store(max(g.forgotten.Load(), int64(g.changed)))
	g.changed = 0
	g.cache.Flush()
}

func (g *generation) Len() int { return g.cache.ItemCount() }
