package token

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/metricsgate/metricsgate/internal/generations"
)

// memory remembers verdicts by the digests of their tokens, a bounded number of
// them. Who asks for one while it moves may miss it: see Introspector.learn.
type memory struct {
	*generations.Cache[Digest, *verdict, *verdicts]
}

func newMemory(entries int) memory {
	return memory{generations.New(entries, func() [2]*verdicts {
		return [2]*verdicts{{byToken: map[Digest]*verdict{}}, {byToken: map[Digest]*verdict{}}}
	})}
}

// shard is told by a part of the digest, which is as good as random.
func (m memory) shard(key Digest) *generations.Shard[Digest, *verdict, *verdicts] {
	return m.Shard(binary.LittleEndian.Uint64(key[:8]))
}

// get returns the verdict about a token that can be used at the time now. One
// that cannot is not kept for having been asked for.
func (m memory) get(key Digest, now time.Time) (*verdict, bool) {
	shard := m.shard(key)
	young, old := shard.Generations()
	if found, ok := young.Get(key); ok {
		return found, now.Before(found.until)
	}
	found, ok := old.Get(key)
	if !ok || !now.Before(found.until) {
		return nil, false
	}
	shard.Use(key)
	return found, true
}

func (m memory) put(key Digest, v *verdict) { m.shard(key).Put(key, v) }

// verdicts are a generation of them.
type verdicts struct {
	mu      sync.RWMutex // of byToken, which only one writes at a time
	byToken map[Digest]*verdict
	_       [96]byte // as in a shard, keeps locks out of one cache line
}

func (v *verdicts) Get(key Digest) (*verdict, bool) {
	v.mu.RLock()
	found, ok := v.byToken[key]
	v.mu.RUnlock()
	return found, ok
}

func (v *verdicts) Set(key Digest, found *verdict) {
	v.mu.Lock()
	v.byToken[key] = found
	v.mu.Unlock()
}

func (v *verdicts) Delete(key Digest) {
	v.mu.Lock()
	delete(v.byToken, key)
	v.mu.Unlock()
}

func (v *verdicts) Clear() {
	v.mu.Lock()
	v.byToken = map[Digest]*verdict{}
	v.mu.Unlock()
}

func (v *verdicts) Len() int { return len(v.byToken) }
