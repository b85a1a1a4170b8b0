// Package generations is a cache that never holds more than it was made for:
// each entry is found and stored in constant time, and it needs no goroutine.
//
// It is split into shards, each of two generations. When the young generation
// is full it becomes the old one, and the old one is dropped as a whole. What
// is used meanwhile moves into the young one, and so stays: half of what a
// cache may hold is surely kept, and that is what was used last.
//
// What an entry is, and what holds the entries of a generation, is for who uses
// the cache to say. So is the way of a hit, which looks by itself:
//
//	shard := cache.Shard(hash)
//	young, old := shard.Generations()
//	entry, found := young.Get(key)
//	if !found {
//		if entry, found = old.Get(key); found {
//			shard.Use(key)
//		}
//	}
//
// Were that in here, both would be calls through Go's dictionaries of generic
// types, and a hit would take half as long again.
package generations

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Generation holds entries. It is read at any time, also while it is written;
// no two of its other methods run at once.
type Generation[K, V any] interface {
	// Get returns an entry, or the zero value.
	Get(key K) (V, bool)
	// Set stores an entry. The key may be part of something larger, which must
	// not live on with it.
	Set(key K, entry V)
	// Delete drops an entry, if there is one.
	Delete(key K)
	// Clear drops all entries.
	Clear()
	// Len returns the number of entries.
	Len() int
}

// Cache is safe for concurrent use.
type Cache[K, V any, G Generation[K, V]] struct {
	shards []Shard[K, V, G]
}

// Shard is the part of a Cache that holds some of the keys.
type Shard[K, V any, G Generation[K, V]] struct {
	generations [2]G
	young       atomic.Uint32 // which of them is the young one
	room        int           // entries of one generation

	mu sync.Mutex // held by who writes
	// The padding keeps the shards' locks out of one cache line, and out of the
	// pair of lines that processors fetch at once (compare sync.Pool).
	_ [88]byte
}

// New makes a cache of at most so many entries, and at least two. It gets the
// two generations of each shard from pair.
func New[K, V any, G Generation[K, V]](entries int, pair func() [2]G) *Cache[K, V, G] {
	shards, room := split(entries)
	c := &Cache[K, V, G]{make([]Shard[K, V, G], shards)}
	for i := range c.shards {
		c.shards[i].generations, c.shards[i].room = pair(), room
	}
	return c
}

// maxRoom is what one table of Go's maps holds: seven eighths of 1,024 slots
// (internal/runtime/maps). A map that outgrows it splits into tables that are
// half empty, at about the same time in all shards, since keys spread evenly.
// With a million users that was a fifth of all memory.
const maxRoom = 1024 * 7 / 8

// split says into how many shards a cache of so many entries is split, and how
// many of them each of the two generations of a shard has room for. There is at
// least one, and room for one.
func split(entries int) (shards, room int) {
	shards = max(1, (entries+2*maxRoom-1)/(2*maxRoom))
	return shards, max(1, entries/(2*shards))
}

// Shard returns the shard of the keys with this hash, which has to spread them
// evenly.
func (c *Cache[K, V, G]) Shard(hash uint64) *Shard[K, V, G] {
	index, _ := bits.Mul64(hash, uint64(len(c.shards)))
	return &c.shards[index]
}

// Len returns the number of entries.
func (c *Cache[K, V, G]) Len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += s.generations[0].Len() + s.generations[1].Len()
		s.mu.Unlock()
	}
	return n
}

// Generations returns the two generations, to look for a key in the young one
// and then in the old one. Who looks while an entry moves may miss it.
func (s *Shard[K, V, G]) Generations() (young, old G) {
	index := s.young.Load() & 1
	return s.generations[index], s.generations[1-index]
}

// Use moves an entry that is still wanted into the young generation.
func (s *Shard[K, V, G]) Use(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(key)
}

// Put stores an entry.
func (s *Shard[K, V, G]) Put(key K, entry V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key, entry)
}

// Update is a use of an entry that may change it. What change is given is the
// zero value where there is no entry. Update returns what change returns, which
// is whether the result is to be stored.
func (s *Shard[K, V, G]) Update(key K, change func(*V) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.use(key)
	if !change(&entry) {
		return false
	}
	s.put(key, entry)
	return true
}

// Amend changes an entry where it stands, if there is one. It is no use of it.
func (s *Shard[K, V, G]) Amend(key K, change func(*V)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, generation := range s.generations {
		if entry, found := generation.Get(key); found {
			change(&entry)
			generation.Set(key, entry)
			return
		}
	}
}

func (s *Shard[K, V, G]) use(key K) V {
	young, old := s.Generations()
	entry, found := young.Get(key)
	if found {
		return entry
	}
	if entry, found = old.Get(key); found {
		s.put(key, entry)
	}
	return entry
}

func (s *Shard[K, V, G]) put(key K, entry V) {
	young, old := s.Generations()
	if young.Len() >= s.room {
		if _, found := young.Get(key); !found {
			old.Clear()
			s.young.Store(1 - s.young.Load())
			young, old = old, young
		}
	}
	young.Set(key, entry)
	old.Delete(key)
}
