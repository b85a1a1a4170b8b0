//go:build unix

package testpostgres

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// handOver gives a folder to whom the server runs as.
func handOver(folder string) error {
	who := owner()
	if who == nil {
		return nil
	}
	return os.Chown(folder, int(who.Uid), int(who.Gid))
}

// runAsOwner has a program run as whom the server runs as.
func runAsOwner(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Credential: owner()}
}

// owner is whom the server runs as: this user, or where that is root the one
// whom Debian's package made, or nobody.
func owner() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if who, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(who.Uid, 10, 32)
			gid, _ := strconv.ParseUint(who.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}
