package profileclient

import (
	"hash/maphash"
	"strings"
	"sync"
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
	// time that the answer surely speaks of.
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
)

// fresh says whether the entry may still be used without asking.
func (e entry) fresh(now instant) bool {
	return e.preference != policy.Unknown && e.fetched >= e.changed && now < e.expires
}

// ageing says whether the entry is in the last fifth of its life.
func (e entry) ageing(now instant) bool {
	return now >= e.expires-(e.expires-e.fetched)/5
}

// cache holds entries by uid: never more than it was made for, each found and
// stored in constant time, without a goroutine.
//
// go-cache has no bound, one lock, and Get hides what has expired, while an
// opt-out is still wanted then. So it is used without expiration and without
// its janitor; entries carry their own times; and there are shards, each of
// two generations. When the young generation is full it becomes the old one,
// and the old one is dropped as a whole. What is used meanwhile moves into
// the young one, and so stays.
type cache struct {
	seed   maphash.Seed
	shards []shard
}

// shard is read without a lock of its own; go-cache has one. Who reads while an
// entry moves from one generation to the other may miss it, and asks the
// profile server once more.
type shard struct {
	young, old atomic.Pointer[generation]

	// forgotten is the last change that a dropped generation knew of. Any
	// account may have been the one that changed then.
	forgotten atomic.Int64

	mu   sync.Mutex // held by who writes
	room int        // entries in one generation
}

type generation struct {
	*gocache.Cache
	changed instant // the last change that an entry knows of
}

func newGeneration() *generation {
	return &generation{Cache: gocache.New(gocache.NoExpiration, 0)}
}

// newCache makes a cache of at most entries, and at least two.
func newCache(entries int) *cache {
	shards, room := generations.Split(entries)
	c := &cache{maphash.MakeSeed(), make([]shard, shards)}
	for i := range c.shards {
		c.shards[i].room = room
		c.shards[i].young.Store(newGeneration())
		c.shards[i].old.Store(newGeneration())
	}
	return c
}

func (c *cache) shard(uid string) *shard {
	return &c.shards[generations.Shard(maphash.String(c.seed, uid), len(c.shards))]
}

// get returns what is known of the account, and counts as a use of it.
func (c *cache) get(uid string) entry {
	s := c.shard(uid)
	found := s.young.Load().get(uid)
	if found != nil || s.old.Load().get(uid) == nil {
		return s.known(found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.use(uid)
}

// update changes what is known of the account. What change is given is what
// get would return; it reports whether the result is to be kept.
func (c *cache) update(uid string, change func(*entry) bool) bool {
	s := c.shard(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.use(uid)
	if !change(&e) {
		return false
	}
	s.store(uid, e)
	return true
}

// put stores an answer, unless the account has changed since the answer was
// asked for, or a newer answer is there.
func (c *cache) put(uid string, answer entry) bool {
	return c.update(uid, func(e *entry) bool {
		if answer.fetched < max(e.changed, e.fetched) {
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
	s := c.shard(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range []*generation{s.young.Load(), s.old.Load()} {
		if found := g.get(uid); found != nil {
			e := *found
			change(&e)
			g.Set(uid, &e, gocache.NoExpiration)
			return
		}
	}
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

// len returns the number of entries.
func (c *cache) len() int {
	entries := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		entries += s.young.Load().ItemCount() + s.old.Load().ItemCount()
		s.mu.Unlock()
	}
	return entries
}

// use reads an entry and moves it into the young generation.
func (s *shard) use(uid string) entry {
	found := s.young.Load().get(uid)
	if found == nil {
		if found = s.old.Load().get(uid); found != nil {
			s.store(uid, *found)
		}
	}
	return s.known(found)
}

// known is an entry, or nil, with the last change that may have been its.
func (s *shard) known(found *entry) (e entry) {
	if found != nil {
		e = *found
	}
	e.changed = max(e.changed, instant(s.forgotten.Load()))
	return e
}

func (s *shard) store(uid string, e entry) {
	young, old := s.young.Load(), s.old.Load()
	if _, found := young.Get(uid); !found && young.ItemCount() >= s.room {
		s.forgotten.Store(max(s.forgotten.Load(), int64(old.changed)))
		young, old = newGeneration(), young
		s.old.Store(old)
		s.young.Store(young)
	}
	// The uid may be part of something larger that must not live on with it.
	young.Set(strings.Clone(uid), &e, gocache.NoExpiration)
	young.changed = max(young.changed, e.changed)
	old.Delete(uid)
}

// get returns an entry, which is never changed, or nil.
func (g *generation) get(uid string) *entry {
	value, found := g.Get(uid)
	if !found {
		return nil
	}
	return value.(*entry)
}
