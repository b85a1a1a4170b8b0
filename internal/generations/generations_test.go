package generations

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// numbers is a generation of which a test can say what it holds.
type numbers struct {
	mu      sync.RWMutex
	entries map[uint64]int
}

func (n *numbers) Get(key uint64) (int, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	entry, found := n.entries[key]
	return entry, found
}

func (n *numbers) Set(key uint64, entry int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries[key] = entry
}

func (n *numbers) Delete(key uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.entries, key)
}

func (n *numbers) Clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.entries)
}

func (n *numbers) Len() int { return len(n.entries) }

// cache spreads keys by themselves.
type cache struct {
	*Cache[uint64, int, *numbers]
}

func newCache(entries int) cache {
	return cache{New(entries, func() [2]*numbers {
		return [2]*numbers{{entries: map[uint64]int{}}, {entries: map[uint64]int{}}}
	})}
}

func (c cache) get(key uint64) (int, bool) {
	shard := c.Shard(key)
	young, old := shard.Generations()
	entry, found := young.Get(key)
	if !found {
		if entry, found = old.Get(key); found {
			shard.Use(key)
		}
	}
	return entry, found
}

// TestModel plays everything against a map. The cache may forget, but nothing
// that was used among as many as are surely kept; what it returns is what was
// stored last; and it never holds more than it may.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.IntRange(-1, 12).Draw(t, "entries")
		cache, kept := newCache(entries), max(1, entries/2)
		model := map[uint64]int{}
		var used []uint64 // each once, the most recent in the end
		use := func(key uint64) {
			used = append(slices.DeleteFunc(used, func(other uint64) bool { return other == key }), key)
		}
		surely := func(key uint64) bool { return slices.Contains(used[max(0, len(used)-kept):], key) }
		forget := func(key uint64) {
			delete(model, key)
			used = slices.DeleteFunc(used, func(other uint64) bool { return other == key })
		}
		keys := rapid.Uint64Range(1, 15)
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				switch got, found := cache.get(key); {
				case found && got != model[key]:
					t.Fatalf("%d is %d, and was stored as %d", key, got, model[key])
				case found:
					use(key)
				case surely(key):
					t.Fatalf("%d is forgotten, after %v", key, used)
				default:
					forget(key)
				}
			},
			"put": func(t *rapid.T) {
				key, entry := keys.Draw(t, "key"), rapid.IntRange(1, 100).Draw(t, "entry")
				cache.Shard(key).Put(key, entry)
				model[key] = entry
				use(key)
			},
			"update": func(t *rapid.T) {
				key, entry, store := keys.Draw(t, "key"), rapid.IntRange(1, 100).Draw(t, "entry"), rapid.Bool().Draw(t, "store")
				was := 0
				if stored := cache.Shard(key).Update(key, func(e *int) bool {
					was, *e = *e, entry
					return store
				}); stored != store {
					t.Fatalf("it is stored: %v", stored)
				}
				if was != model[key] && (was != 0 || surely(key)) {
					t.Fatalf("%d is %d, and was stored as %d", key, was, model[key])
				}
				if was == 0 {
					forget(key)
				} else {
					use(key)
				}
				if store {
					model[key] = entry
					use(key)
				}
			},
			"amend": func(t *rapid.T) {
				key, entry := keys.Draw(t, "key"), rapid.IntRange(1, 100).Draw(t, "entry")
				was := 0
				cache.Shard(key).Amend(key, func(e *int) { was, *e = *e, entry })
				switch {
				case was != model[key] && (was != 0 || surely(key)):
					t.Fatalf("%d is %d, and was stored as %d", key, was, model[key])
				case was == 0:
					forget(key)
				default:
					model[key] = entry
				}
			},
			"": func(t *rapid.T) {
				if n := cache.Len(); n > max(2, entries) {
					t.Fatalf("%d entries in a cache of %d", n, entries)
				}
			},
		})
	})
}

// TestBound fills caches of many sizes several times over.
func TestBound(t *testing.T) {
	t.Parallel()
	for _, entries := range []int{1, 2, 3, 100, 1791, 1792, 1793, 10_000} {
		cache := newCache(entries)
		for i := range 3 * entries {
			key := rand.Uint64()
			cache.Shard(key).Put(key, i)
			if i%(1+entries/10) == 0 && cache.Len() > max(2, entries) {
				t.Fatalf("%d entries in a cache of %d", cache.Len(), entries)
			}
		}
		if n := cache.Len(); n > max(2, entries) || n < entries/3 {
			t.Errorf("a full cache of %d holds %d", entries, n)
		}
	}
}

// TestUseMoves: what moves into the young generation leaves the old one.
func TestUseMoves(t *testing.T) {
	t.Parallel()
	cache := newCache(4) // two generations of two
	for key := range uint64(3) {
		cache.Shard(key).Put(key, 0)
	}
	if _, found := cache.get(0); !found || cache.Len() != 3 {
		t.Errorf("found is %v, among %d", found, cache.Len())
	}
}

// TestConcurrently is for the race detector.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	cache := newCache(200)
	var all sync.WaitGroup
	for worker := range uint64(4) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(worker, 0))
			for range 5_000 {
				key := random.Uint64N(300)
				if entry, found := cache.get(key); found && entry != int(key) {
					t.Errorf("%d is found for %d", entry, key)
				}
				shard := cache.Shard(key)
				shard.Put(key, int(key))
				shard.Update(key, func(e *int) bool { *e = int(key); return true })
				shard.Amend(key, func(e *int) { *e = int(key) })
				if n := cache.Len(); n > 200 {
					t.Errorf("%d entries in a cache of 200", n)
				}
			}
		})
	}
	all.Wait()
}

// TestSplit: there is never room for more than was asked for, nor for much
// less, and no generation outgrows one table of a map.
func TestSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.IntRange(2, 100_000_000).Draw(t, "entries")
		shards, room := split(entries)
		if all := shards * 2 * room; all > entries || all < entries-2*shards || room < 1 || room > 896 {
			t.Fatalf("%d shards of twice %d for %d entries", shards, room, entries)
		}
	})
	for _, entries := range []int{-1, 0, 1} {
		if shards, room := split(entries); shards != 1 || room != 1 {
			t.Errorf("%d entries: %d shards of twice %d", entries, shards, room)
		}
	}
}

// TestShard: equal parts of all hashes go to each shard.
func TestShard(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2, 3, 56, 1397} {
		cache := newCache(shards * 2 * maxRoom)
		if len(cache.shards) != shards {
			t.Fatalf("%d shards, and not %d", len(cache.shards), shards)
		}
		for i := range shards {
			middle := uint64((float64(i) + 0.5) / float64(shards) * math.MaxUint64)
			if cache.Shard(middle) != &cache.shards[i] {
				t.Errorf("%d of %d gets another's key", i, shards)
			}
		}
		if cache.Shard(math.MaxUint64) != &cache.shards[shards-1] {
			t.Errorf("the last of %d does not get the last key", shards)
		}
	}
}

// TestShardsAreApart: each has a pair of cache lines for itself.
func TestShardsAreApart(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Shard[uint64, int, *numbers]{}); size%128 != 0 && unsafe.Sizeof(size) == 8 {
		t.Errorf("a shard takes %d bytes", size)
	}
}
