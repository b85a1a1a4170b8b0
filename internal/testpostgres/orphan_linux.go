package testpostgres

import (
	"os/exec"
	"syscall"
)

// endWithThread has a server end when the thread that starts it does.
func endWithThread(command *exec.Cmd) { command.SysProcAttr.Pdeathsig = syscall.SIGQUIT }
