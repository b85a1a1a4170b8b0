//go:build unix

package browser_test

import (
	"os/exec"
	"syscall"
)

// ownGroup has a browser start its processes in a group of their own, so that
// none of them is left.
func ownGroup(browser *exec.Cmd) { browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup ends what is left of a group.
func endGroup(browser *exec.Cmd) { _ = syscall.Kill(-browser.Process.Pid, syscall.SIGKILL) }
