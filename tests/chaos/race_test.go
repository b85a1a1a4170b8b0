//go:build race

package chaos

// minutes is how long the race detector sees it, at least.
const minutes = 0.5
