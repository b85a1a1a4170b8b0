// Package generations says how a cache is split into shards, each with
// two generations: when the young one is full it becomes the old one, and the
// old one is dropped as a whole.
package generations

import "math/bits"

// maxRoom is what one table of Go's maps holds: seven eighths of 1,024 slots
// (internal/runtime/maps). A map that outgrows it splits into tables that are
// half empty, at about the same time in all shards, since keys spread evenly.
// With a million users that was a fifth of all memory.
const maxRoom = 1024 * 7 / 8

// Split says into how many shards a cache of so many entries is split, and how
// many of them each of the two generations of a shard has room for. There is at
// least one, and room for one.
func Split(entries int) (shards, room int) {
	shards = max(1, (entries+2*maxRoom-1)/(2*maxRoom))
	return shards, max(1, entries/(2*shards))
}

// Shard says in which of so many shards a key with this hash is.
func Shard(hash uint64, shards int) int {
	high, _ := bits.Mul64(hash, uint64(shards)) //nolint:gosec // never negative
	return int(high)                            //nolint:gosec // less than shards
}
