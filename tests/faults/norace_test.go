//go:build !race

package faults

// enough is what CI sends.
const enough = 200_000
