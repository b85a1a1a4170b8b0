//go:build race

package caddymodule

// The race detector allocates on its own account.
const raceEnabled = true
