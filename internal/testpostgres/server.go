package testpostgres

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// server is a program that serves on a socket in a folder of its own.
type server struct {
	t       testing.TB
	folder  string
	process *os.Process
	ended   chan struct{} // closed when the process has
}

// start starts the program, and returns when it says in its log that it is ready.
func (s *server) start(command *exec.Cmd, readyWords string) error {
	log, err := command.StderrPipe()
	if err != nil {
		return err
	}
	ready, ended := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(ended)
		// The program is told to end when the thread that started it does, so
		// that none is left where the tests are killed. The thread must
		// therefore be there as long as the program.
		runtime.LockOSThread()
		endWithThread(command)
		if err := command.Start(); err != nil {
			ready <- err
			return
		}
		s.process = command.Process
		var said bytes.Buffer
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			fmt.Fprintln(&said, lines.Text())
			if strings.Contains(lines.Text(), readyWords) {
				ready <- nil
				break
			}
		}
		_, _ = io.Copy(io.Discard, log) // or the program would wait for a reader
		ready <- fmt.Errorf("%s ended: %w: %s", command.Path, command.Wait(), &said)
	}()
	if err := <-ready; err != nil {
		return err
	}
	s.ended = ended
	return nil
}

func (s *server) end(how syscall.Signal) {
	if s.ended == nil {
		return
	}
	_ = s.process.Signal(how) // it may have ended by itself
	<-s.ended
	s.ended = nil
}

func (s *server) remove() {
	s.end(syscall.SIGQUIT)
	if err := os.RemoveAll(s.folder); err != nil {
		s.t.Error(err)
	}
}
