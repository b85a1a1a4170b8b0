package testpostgres

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Pooler starts PgBouncer in front of the servers of a database's URL, in this
// mode ("transaction", say), and returns the URL of the database through it. It
// ends with the test.
func Pooler(t testing.TB, dsn, mode string) string {
	t.Helper()
	behind, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	folder := newFolder(t)
	config := filepath.Join(folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = %s
max_client_conn = 200
`, behind.Query().Get("host"), folder, mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	command := command(program(t, "pgbouncer"), config)
	log, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // as for the server itself
		endWithThread(command)
		if err := command.Start(); err != nil {
			ready <- err
			return
		}
		var said strings.Builder
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			fmt.Fprintln(&said, lines.Text())
			if strings.Contains(lines.Text(), "process up") {
				ready <- nil
				break
			}
		}
		_, _ = io.Copy(io.Discard, log)
		ready <- fmt.Errorf("pgbouncer ended: %w: %s", command.Wait(), &said)
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		<-ended
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	query := behind.Query()
	query.Set("host", folder)
	query.Set("port", "6432")
	behind.RawQuery = query.Encode()
	return behind.String()
}
