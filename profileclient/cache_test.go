package profileclient

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// TestCacheModel drives the cache and a map without a bound by the same
// random steps. Whatever the cache still has is what the map has; nothing
// that the map knows to have changed ever counts as fresh; the bound holds;
// and what was used is there until a generation of others has been used.
func TestCacheModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.IntRange(2, 12).Draw(t, "entries")
		cache := newCache(entries)
		room := max(1, entries/2)
		model := map[string]entry{}
		usedSince := map[string]map[string]bool{} // the others, by uid
		now := instant(1)

		uids := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("uid", rapid.IntRange(0, 15).Draw(t, "n")) })
		used := func(uid string) {
			for other, since := range usedSince {
				if other != uid {
					since[uid] = true
				}
			}
			usedSince[uid] = map[string]bool{}
		}
		mustHave := func(uid string) bool {
			since, found := usedSince[uid]
			return found && len(since) <= room
		}
		// check compares, and adopts what the cache has forgotten.
		check := func(uid string) entry {
			had := mustHave(uid)
			got, want := cache.get(uid), model[uid]
			if got.changed < want.changed {
				t.Fatalf("%s changed at %d, and the cache says %d", uid, want.changed, got.changed)
			}
			present := got.preference != policy.Unknown || got.fetched != 0
			wanted := want.preference != policy.Unknown || want.fetched != 0
			if had && wanted && !present {
				t.Fatalf("%s was used and is gone", uid)
			}
			if present {
				got.changed = want.changed
				if got != want {
					t.Fatalf("%s: got %+v, want %+v", uid, got, want)
				}
			} else {
				model[uid] = entry{changed: want.changed}
			}
			// The note of a change alone cannot be told from its absence, so
			// it may count as used and nothing is demanded of it.
			if present || want.changed != 0 {
				used(uid)
			} else {
				delete(usedSince, uid)
			}
			return model[uid]
		}

		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				now++
				if got := cache.Len(); got > entries {
					t.Fatalf("%d entries in a cache of %d", got, entries)
				}
			},
			"get": func(t *rapid.T) { check(uids.Draw(t, "uid")) },
			"put": func(t *rapid.T) {
				uid := uids.Draw(t, "uid")
				known := check(uid)
				fetched := instant(rapid.Int64Range(max(1, int64(now)-5), int64(now)).Draw(t, "fetched"))
				answer := entry{
					preference: policy.Preference(rapid.IntRange(1, 3).Draw(t, "preference")),
					fetched:    fetched,
					expires:    fetched + 10,
				}
				kept := cache.put(uid, answer)
				if outdated := fetched < known.changed || fetched < known.fetched; outdated && kept {
					t.Fatalf("an answer of %d was kept over %+v", fetched, known)
				}
				if kept {
					answer.changed = known.changed
					model[uid] = answer
					used(uid)
				}
			},
			"change": func(t *rapid.T) {
				uid := uids.Draw(t, "uid")
				known := check(uid)
				cache.update(uid, func(e *entry) bool {
					e.changed = now
					return true
				})
				known.changed = now
				model[uid] = known
				used(uid)
				if cache.get(uid).fresh(now) && known.fetched < now {
					t.Fatal("what changed is still fresh")
				}
			},
			"mark": func(t *rapid.T) {
				uid := uids.Draw(t, "uid")
				known := check(uid)
				if known.fetched == 0 {
					return
				}
				if first := cache.mark(uid, known.fetched, refreshing); first != (known.marks&refreshing == 0) {
					t.Fatalf("mark says first: %v, of %+v", first, known)
				}
				if cache.mark(uid, known.fetched, refreshing) {
					t.Fatal("the same mark was given twice")
				}
				known.marks |= refreshing
				model[uid] = known
				used(uid)
			},
		})
	})
}

// TestCacheBound fills caches of many sizes with ten times what they hold.
func TestCacheBound(t *testing.T) {
	t.Parallel()
	for _, entries := range []int{2, 3, 20, 127, 128, 1000, 5001} {
		cache := newCache(entries)
		for i := range 10 * entries {
			cache.put(fmt.Sprint(i), entry{preference: policy.Allowed, fetched: 1, expires: 2})
			if i%(1+entries/10) == 0 && cache.Len() > entries {
				t.Fatalf("%d entries in a cache of %d", cache.Len(), entries)
			}
		}
		if got := cache.Len(); got > entries || got < entries/3 {
			t.Errorf("a full cache of %d holds %d", entries, got)
		}
	}
}

// TestUsedEntrySurvives pushes strangers by the thousand through a cache in which
// one account is used now and then.
func TestUsedEntrySurvives(t *testing.T) {
	t.Parallel()
	cache := newCache(1000)
	cache.put("used", entry{preference: policy.OptedOut, fetched: 1, expires: 2})
	for i := range 100_000 {
		cache.put(fmt.Sprint(i), entry{preference: policy.Allowed, fetched: 1, expires: 2})
		if i%50 == 0 && cache.get("used").preference != policy.OptedOut {
			t.Fatalf("gone after %d others", i)
		}
	}
}

// TestMovedEntryCountsOnce: what moves into the young generation leaves the
// old one.
func TestMovedEntryCountsOnce(t *testing.T) {
	t.Parallel()
	cache := newCache(4)
	for _, uid := range []string{"ann", "bob", "cid"} {
		cache.put(uid, entry{preference: policy.Allowed, fetched: 1, expires: 2})
	}
	cache.get("ann")
	if cache.Len() != 3 {
		t.Errorf("three accounts are %d entries", cache.Len())
	}
}

// TestForgottenChange: the note that an account changed may be dropped like
// any entry, and what was asked for before must still not be stored.
func TestForgottenChange(t *testing.T) {
	t.Parallel()
	cache := newCache(4)
	cache.update("changed", func(e *entry) bool {
		e.changed = 10
		return true
	})
	for i := range 10 {
		cache.put(fmt.Sprint(i), entry{preference: policy.Allowed, fetched: 20, expires: 30})
	}
	if cache.put("changed", entry{preference: policy.Allowed, fetched: 9, expires: 30}) {
		t.Error("an answer from before the change was stored")
	}
	if !cache.put("changed", entry{preference: policy.OptedOut, fetched: 10, expires: 30}) {
		t.Error("an answer from after the change was refused")
	}
}

// TestCacheConcurrently is for the race detector.
func TestCacheConcurrently(t *testing.T) {
	t.Parallel()
	cache := newCache(300)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 5000 {
				uid := fmt.Sprint((i * (worker + 1)) % 600)
				if cache.get(uid).preference == policy.Unknown {
					cache.put(uid, entry{preference: policy.Unset, fetched: instant(i + 1), expires: instant(i + 9)})
				}
				cache.mark(uid, instant(i), refreshing)
			}
		})
	}
	all.Wait()
	if cache.Len() > 300 {
		t.Errorf("%d entries in a cache of 300", cache.Len())
	}
}

// TestOutcomeNames: every outcome has a label of its own.
func TestOutcomeNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for o := range LookupOutcomeCount {
		if o.String() == "" || seen[o.String()] {
			t.Errorf("lookup outcome %d has the name %q", o, o)
		}
		seen[o.String()] = true
	}
	clear(seen)
	for o := range WriteOutcomeCount {
		if o.String() == "" || seen[o.String()] {
			t.Errorf("write outcome %d has the name %q", o, o)
		}
		seen[o.String()] = true
	}
	clear(seen)
	for o := range FeedOutcomeCount {
		if o.String() == "" || seen[o.String()] {
			t.Errorf("feed outcome %d has the name %q", o, o)
		}
		seen[o.String()] = true
	}
	clear(seen)
	for e := range FeedEventCount {
		if e.String() == "" || seen[e.String()] {
			t.Errorf("feed event %d has the name %q", e, e)
		}
		seen[e.String()] = true
	}
}
