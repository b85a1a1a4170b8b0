package session

import (
	"encoding/binary"
	"strings"
	"sync"
	"unsafe"

	"github.com/metricsgate/metricsgate/internal/generations"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// tokenCache remembers tokens that verified, and what they say. It is
// bounded, every operation takes constant time, and it needs no goroutine:
// each shard has two generations, and when the young one is full it becomes
// the old one, which drops the one before. A token that is still in use moves
// over to the young one when it is next asked for.
//
// Only tokens that verified are stored. So whoever sends garbage pays for
// each verification and displaces nobody.
//
// Keys are digests, so that no credential lies in memory for longer than its
// request. Neither keys nor entries hold pointers: with a million of them it
// is the garbage collector, not the lookup, that would cost.
type tokenCache struct {
	shards []tokenShard
}

// tokenShard has a lock of its own, so that requests rarely meet; readers
// never exclude each other.
type tokenShard struct {
	shard
	// The padding keeps the locks of neighbours out of one cache line, and out
	// of the pair of lines that processors fetch at once (compare sync.Pool).
	_ [128 - unsafe.Sizeof(shard{})%128]byte
}

type shard struct {
	mu         sync.RWMutex
	young, old *generation
	room       int // entries of each generation
}

// generation holds entries and, in one string, the account ids that they
// point into. That text only grows, so that a part of it that was handed out
// stays what it is, even when the generation itself is gone.
//
// Entries are found by half of a digest, for which Go has a faster map, and
// hold the other half. Of two tokens with the same half, which nobody can look
// for, the later one is remembered.
type generation struct {
	entries map[uint64]entry
	uids    strings.Builder
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
func newTokenCache(entries int) *tokenCache {
	shards, room := generations.Split(entries)
	c := &tokenCache{shards: make([]tokenShard, shards)}
	for i := range c.shards {
		c.shards[i].young, c.shards[i].old = newGeneration(), newGeneration()
		c.shards[i].room = room
	}
	return c
}

func newGeneration() *generation { return &generation{entries: map[uint64]entry{}} }

// get returns what is known of the token at the time now, in Unix seconds.
func (c *tokenCache) get(key *token.Digest, now int64) (verified, bool) {
	s := c.shardOf(key)
	s.mu.RLock()
	found, ok := s.young.get(key)
	aging := false
	if !ok {
		found, aging = s.old.get(key)
	}
	s.mu.RUnlock()
	if !ok && !aging || found.until <= now {
		return verified{}, false
	}
	if aging {
		s.put(key, found)
	}
	return found, true
}

// put stores a token that verified.
func (c *tokenCache) put(key *token.Digest, v verified) { c.shardOf(key).put(key, v) }

// shardOf picks by a part of the digest, which is as good as random.
func (c *tokenCache) shardOf(key *token.Digest) *shard {
	half, _ := halves(key)
	return &c.shards[generations.Shard(half, len(c.shards))].shard
}

func halves(key *token.Digest) (one, other uint64) {
	return binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])
}

// len returns the number of entries, those included whose time has passed
// and that were not displaced yet.
func (c *tokenCache) len() (n int) {
	for i := range c.shards {
		s := &c.shards[i].shard
		s.mu.RLock()
		n += len(s.young.entries) + len(s.old.entries)
		s.mu.RUnlock()
	}
	return n
}

func (s *shard) put(key *token.Digest, v verified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	half, _ := halves(key)
	delete(s.old.entries, half)
	if _, ok := s.young.entries[half]; !ok && len(s.young.entries) >= s.room {
		s.old, s.young = s.young, newGeneration()
	}
	s.young.put(key, v)
}

func (g *generation) get(key *token.Digest) (verified, bool) {
	half, other := halves(key)
	e, ok := g.entries[half]
	if !ok || e.half != other {
		return verified{}, false
	}
	// String does not copy: a Builder never changes what it has written.
	uid := g.uids.String()[e.uidStart:][:e.uidBytes]
	return verified{uid: uid, until: e.until, issued: e.issued, hasClaim: e.hasClaim, claim: e.claim}, true
}

func (g *generation) put(key *token.Digest, v verified) {
	half, other := halves(key)
	start := g.uids.Len()
	if known, ok := g.get(key); ok && known.uid == v.uid {
		// Were it written again, a token in use would fill the memory.
		start = int(g.entries[half].uidStart)
	} else {
		g.uids.WriteString(v.uid)
	}
	g.entries[half] = entry{
		half:     other,
		until:    v.until,
		issued:   v.issued,
		uidStart: uint32(start),     //nolint:gosec // 255 bytes for each entry of one shard
		uidBytes: uint8(len(v.uid)), //nolint:gosec // at most 255, see token.IsUID
		hasClaim: v.hasClaim,
		claim:    v.claim,
	}
}
