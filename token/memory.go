package token

import (
	"sync"
	"time"
)

// memory remembers verdicts by the digests of their tokens. It is bounded,
// every operation takes constant time, and it needs no goroutine: when the
// young generation is full it becomes the old one, which drops the one
// before. A verdict that is still in use moves over when it is next asked for.
type memory struct {
	mu         sync.RWMutex
	young, old map[Digest]verdict
	capacity   int // of each generation
}

func newMemory(entries int) *memory {
	return &memory{young: map[Digest]verdict{}, capacity: max(1, entries/2)}
}

// get returns the verdict about a token that can be used at the time now.
func (m *memory) get(key Digest, now time.Time) (verdict, bool) {
	m.mu.RLock()
	found, ok := m.young[key]
	aging := false
	if !ok {
		found, aging = m.old[key]
	}
	m.mu.RUnlock()
	if !ok && !aging || !now.Before(found.until) {
		return verdict{}, false
	}
	if aging {
		m.put(key, found)
	}
	return found, true
}

func (m *memory) put(key Digest, v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.young[key]; !ok && len(m.young) >= m.capacity {
		m.old, m.young = m.young, make(map[Digest]verdict)
	}
	delete(m.old, key)
	m.young[key] = v
}
