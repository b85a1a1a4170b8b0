//go:build !race

package chaos

// minutes is how long CI runs it, at least.
const minutes = 2.0
