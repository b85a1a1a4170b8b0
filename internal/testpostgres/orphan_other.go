//go:build !linux

package testpostgres

import "os/exec"

// endWithThread does nothing where the system cannot do it: a server outlives
// tests that are killed.
func endWithThread(*exec.Cmd) {}
