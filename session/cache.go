package session

import (
	"encoding/binary"
	"strings"
	"sync"

	"github.com/metricsgate/metricsgate/internal/generations"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// tokenCache remembers tokens that verified, and what they say. It is bounded.
// A token that is looked for while it moves may be missed, and is verified anew.
//
// Only tokens that verified are stored. So whoever sends garbage displaces
// nobody.
//
// Keys are digests, so that no credential lies in memory for longer than its
// request. Neither keys nor entries hold pointers: with a million of them it
// is the garbage collector, not the lookup, that would cost.
type tokenCache struct {
	*generations.Cache[halves, verified, *generation]
}

// halves are those of a token's digest.
type halves struct{ one, other uint64 }

func halvesOf(key *token.Digest) halves {
	return halves{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}
}

// verified is what is known of a token that verified.
type verified struct {
	uid    string
	until  int64 // Unix seconds up to which the token need not be verified again
	issued int64 // iat in Unix seconds; that of the zero time where there is none
	// hasClaim and claim are as in Subject.
	hasClaim bool
	claim    policy.Preference
}

// newTokenCache returns a cache of at most so many entries (and at least two).
func newTokenCache(entries int) tokenCache {
	return tokenCache{generations.New(entries, func() [2]*generation { return [2]*generation{newGeneration(), newGeneration()} })}
}

// get returns what is known of the token at the time now, in Unix seconds. What
// no longer holds is not kept for having been asked for.
func (c tokenCache) get(digest *token.Digest, now int64) (verified, bool) {
	key := halvesOf(digest)
	shard := c.Shard(key.one) // which is as good as random
	young, old := shard.Generations()
	if found, ok := young.Get(key); ok {
		return found, now < found.until
	}
	found, ok := old.Get(key)
	if !ok || now >= found.until {
		return verified{}, false
	}
	shard.Use(key)
	return found, true
}

// put stores a token that verified.
func (c tokenCache) put(digest *token.Digest, v verified) {
	key := halvesOf(digest)
	c.Shard(key.one).Put(key, v)
}

// generation holds entries and, in one string, the account ids that they
// point into. That text only grows, so that a part of it that was handed out
// stays what it is, even when the generation itself is gone.
//
// Entries are found by half of a digest, for which Go has a faster map, and
// hold the other half. Of two tokens with the same half, which nobody can look
// for, the later one is remembered.
type generation struct {
	mu      sync.RWMutex // of what follows, which only one writes at a time
	entries map[uint64]entry
	uids    strings.Builder
	_       [64]byte // as in a shard, keeps locks out of one cache line
}

// entry is a verified without its string: uid is where it lies.
type entry struct {
	half          uint64
	until, issued int64
	uidStart      uint32
	uidBytes      uint8
	hasClaim      bool
	claim         policy.Preference
}

func newGeneration() *generation { return &generation{entries: map[uint64]entry{}} }

func (g *generation) Get(key halves) (verified, bool) {
	g.mu.RLock()
	e, ok := g.entries[key.one]
	// String does not copy: a Builder never changes what it has written.
	uids := g.uids.String()
	g.mu.RUnlock()
	if !ok || e.half != key.other {
		return verified{}, false
	}
	uid := uids[e.uidStart:][:e.uidBytes]
	return verified{uid: uid, until: e.until, issued: e.issued, hasClaim: e.hasClaim, claim: e.claim}, true
}

func (g *generation) Set(key halves, v verified) {
	g.mu.Lock()
	defer g.mu.Unlock()
	start := g.uids.Len()
	if e, ok := g.entries[key.one]; ok && g.uids.String()[e.uidStart:][:e.uidBytes] == v.uid {
		// Were it written again, a token in use would fill the memory.
		start = int(e.uidStart)
	} else {
		g.uids.WriteString(v.uid)
	}
	g.entries[key.one] = entry{
		half:     key.other,
		until:    v.until,
		issued:   v.issued,
		uidStart: uint32(start),     //nolint:gosec // 255 bytes for each entry of one shard
		uidBytes: uint8(len(v.uid)), //nolint:gosec // at most 255, see policy.IsUID
		hasClaim: v.hasClaim,
		claim:    v.claim,
	}
}

func (g *generation) Delete(key halves) {
	g.mu.Lock()
	delete(g.entries, key.one)
	g.mu.Unlock()
}

func (g *generation) Clear() {
	g.mu.Lock()
	g.entries, g.uids = map[uint64]entry{}, strings.Builder{}
	g.mu.Unlock()
}

func (g *generation) Len() int { return len(g.entries) }
