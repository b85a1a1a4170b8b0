package session

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

func numberedKey(n int) *token.Digest {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	key := token.Digest(sum[:])
	return &key
}

// TestCacheAgainstModel plays puts and gets against a map. The cache may
// forget, but never something that was used among the last few, and what it
// returns is what was put.
func TestCacheAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(0, 12).Draw(t, "size")
		cache := newTokenCache(size)
		model := map[int]verified{}
		var used []int // the most recent in the end
		now := int64(1_000)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				n := rapid.IntRange(0, 20).Draw(t, "token")
				v, known := model[n]
				if !known { // a token says what it says
					v = verified{
						uid:    rapid.StringN(1, 8, 255).Draw(t, "uid"),
						issued: rapid.Int64Range(-10, 10).Draw(t, "issued"),
						claim:  policy.Preference(rapid.IntRange(0, 3).Draw(t, "claim")),
					}
				}
				v.until = now + rapid.Int64Range(1, 20).Draw(t, "life")
				model[n] = v
				cache.put(numberedKey(n), v)
				used = append(used, n)
			},
			"get": func(t *rapid.T) {
				n := rapid.IntRange(0, 20).Draw(t, "token")
				want, known := model[n]
				got, ok := cache.get(numberedKey(n), now)
				fresh := known && want.until > now
				switch {
				case ok && (!fresh || got != want):
					t.Fatalf("token %d gives %+v at %d, want %+v", n, got, now, want)
				case !ok && fresh && recent(used, max(1, size/2), n):
					t.Fatalf("token %d is forgotten, after %v", n, used)
				case ok:
					used = append(used, n)
				}
			},
			"wait": func(t *rapid.T) { now += rapid.Int64Range(0, 5).Draw(t, "seconds") },
			"": func(t *rapid.T) {
				if n := cache.Len(); n > max(2, size) {
					t.Fatalf("%d entries in a cache of %d", n, size)
				}
			},
		})
	})
}

// recent says whether n is among the last so many different tokens of used.
func recent(used []int, distinct, n int) bool {
	seen := map[int]bool{}
	for _, each := range slices.Backward(used) {
		if seen[each] = true; len(seen) > distinct {
			return false
		}
		if each == n {
			return true
		}
	}
	return false
}

func TestCacheIsBoundedAtEverySize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 100, 127, 128, 1_000, 10_000} {
		cache := newTokenCache(size)
		for n := range 3 * size {
			cache.put(numberedKey(n), verified{uid: "u", until: 2})
		}
		if n := cache.Len(); n > max(2, size) || n < size/4 {
			t.Errorf("a cache of %d holds %d", size, n)
		}
	}
}

func TestTokensThatMoveOverAreCountedOnce(t *testing.T) {
	t.Parallel()
	cache := newTokenCache(4) // two generations of two
	for n := range 3 {
		cache.put(numberedKey(n), verified{uid: "u", until: 2})
	}
	if _, ok := cache.get(numberedKey(0), 1); !ok || cache.Len() != 3 {
		t.Errorf("found is %v, among %d", ok, cache.Len())
	}
}

func TestUnknownTokensAreNotFoundAtAnyTime(t *testing.T) {
	t.Parallel()
	for _, now := range []int64{-1, 0, 1} {
		if v, ok := newTokenCache(2).get(numberedKey(0), now); ok {
			t.Errorf("%+v is found at %d", v, now)
		}
	}
}

// TestUseDoesNotFillTheMemory verifies the same few tokens again and again,
// as a site with few users does for months.
func TestUseDoesNotFillTheMemory(t *testing.T) {
	t.Parallel()
	tokens := newGeneration()
	for round := range int64(1_000) {
		for n := range 10 {
			tokens.Set(halvesOf(numberedKey(n)), verified{uid: strings.Repeat("u", 32), until: round})
		}
	}
	if written := tokens.uids.Len(); written != 10*32 {
		t.Errorf("%d bytes of account ids for 10 tokens of 32", written)
	}
}

// TestATokenThatChangesHands: whoever is asked about an opaque token may name
// another account than the last time.
func TestATokenThatChangesHands(t *testing.T) {
	t.Parallel()
	cache := newTokenCache(100)
	for _, uid := range []string{"alice", "bob", "alice"} {
		cache.put(numberedKey(0), verified{uid: uid, until: 2})
		if got, _ := cache.get(numberedKey(0), 1); got.uid != uid {
			t.Errorf("%q is found for %q", got.uid, uid)
		}
	}
}

func TestHandedOutIDsStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	cache := newTokenCache(2)
	held := map[string]string{}
	for n := range 2_000 {
		uid := fmt.Sprintf("account %d", n)
		cache.put(numberedKey(n), verified{uid: uid, until: 2})
		got, _ := cache.get(numberedKey(n), 1)
		held[uid] = got.uid
	}
	runtime.GC()
	for want, got := range held {
		if got != want {
			t.Errorf("%q became %q", want, got)
		}
	}
}

func TestCacheIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	cache := newTokenCache(200)
	var wg sync.WaitGroup
	for worker := range uint64(4) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(worker, 0))
			for range 5_000 {
				n := random.IntN(300)
				uid := fmt.Sprint(n)
				if got, ok := cache.get(numberedKey(n), 1); ok && got.uid != uid {
					t.Errorf("%q is found for %q", got.uid, uid)
				}
				cache.put(numberedKey(n), verified{uid: uid, until: 2})
				cache.Len()
			}
		})
	}
	wg.Wait()
}

// BenchmarkCollection is what the garbage collector pays for a full cache.
func BenchmarkCollection(b *testing.B) {
	for _, size := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("tokens=%d", size), func(b *testing.B) {
			cache := newTokenCache(2 * size)
			for n := range size {
				cache.put(numberedKey(n), verified{uid: "7d2f4c1ab09e4e53a6c8d1f20b3e9a64", until: 2})
			}
			for b.Loop() {
				runtime.GC()
			}
			runtime.KeepAlive(cache)
		})
	}
}
