package browser_test

import "os/exec"

func ownGroup(*exec.Cmd) {}

func endGroup(browser *exec.Cmd) { _ = browser.Process.Kill() }
