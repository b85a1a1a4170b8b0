//go:build race

package faults

// enough is what the race detector sees: with it a request costs eight times as
// much, and what it finds it finds in few.
const enough = 10_000
