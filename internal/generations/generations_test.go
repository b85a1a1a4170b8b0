package generations_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/internal/generations"
)

// TestSplit: there is never room for more than was asked for, nor for much
// less, and no generation outgrows one table of a map.
func TestSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.IntRange(2, 100_000_000).Draw(t, "entries")
		shards, room := generations.Split(entries)
		if all := shards * 2 * room; all > entries || all < entries-2*shards || room < 1 || room > 896 {
			t.Fatalf("%d shards of twice %d for %d entries", shards, room, entries)
		}
	})
	for _, entries := range []int{-1, 0, 1} {
		if shards, room := generations.Split(entries); shards != 1 || room != 1 {
			t.Errorf("%d entries: %d shards of twice %d", entries, shards, room)
		}
	}
}

// TestShard: equal parts of all hashes go to each shard.
func TestShard(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2, 3, 56, 1397} {
		for i := range shards {
			middle := uint64((float64(i) + 0.5) / float64(shards) * math.MaxUint64)
			if got := generations.Shard(middle, shards); got != i {
				t.Errorf("%d of %d: %d", i, shards, got)
			}
		}
		if got := generations.Shard(math.MaxUint64, shards); got != shards-1 {
			t.Errorf("the last of %d: %d", shards, got)
		}
	}
}
