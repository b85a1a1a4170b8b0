package testpostgres

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Bouncer is a PgBouncer in front of a server. Where it ends by itself it is started
// again, as a service manager does: before 1.21 it ends where the server tells a
// connection something by itself, such as a notice, of which a statement is being
// cancelled (https://github.com/pgbouncer/pgbouncer/issues/822).
type Bouncer struct {
	// DSN is the URL of the database through it.
	DSN string

	mode string

	mu      sync.Mutex // held while it is started or ended
	keepers sync.WaitGroup
	server
}

// Pooler starts PgBouncer in front of the server of a database's URL, in this
// mode ("transaction", say). It ends with the test.
func Pooler(t testing.TB, dsn, mode string) *Bouncer {
	t.Helper()
	b := &Bouncer{mode: mode, server: server{t: t, folder: newFolder(t)}}
	t.Cleanup(b.remove)
	through, query := b.parse(dsn)
	query.Set("host", b.folder)
	query.Set("port", "6432")
	through.RawQuery = query.Encode()
	b.DSN = through.String()
	b.Restart(dsn)
	return b
}

// Restart has it end all connections and start again, in front of the server of this
// URL, which may be another one.
func (b *Bouncer) Restart(dsn string) {
	b.t.Helper()
	_, behind := b.parse(dsn)
	config := filepath.Join(b.folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = %s
max_client_conn = 200
`, behind.Get("host"), b.folder, b.mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	binary := program(b.t, "pgbouncer")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(syscall.SIGTERM)
	if err := b.keep(binary, config); err != nil {
		b.t.Fatal(err)
	}
}

// keep starts it, and again where it ends by itself.
func (b *Bouncer) keep(binary, config string) error {
	if err := b.start(command(binary, config), "process up"); err != nil {
		return err
	}
	ended := b.ended
	b.keepers.Go(func() {
		<-ended
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.ended != ended {
			return // somebody ended it
		}
		b.t.Log("PgBouncer ended by itself, and is started again")
		if err := b.keep(binary, config); err != nil {
			b.t.Error(err)
		}
	})
	return nil
}

// Stop has it end all connections and stop.
func (b *Bouncer) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(syscall.SIGTERM)
}

// Crash has it end at once, by itself as it were.
func (b *Bouncer) Crash() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.process.Kill()
}

func (b *Bouncer) remove() {
	b.Stop()
	b.keepers.Wait()
	b.server.remove()
}

func (b *Bouncer) parse(dsn string) (*url.URL, url.Values) {
	b.t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	return u, u.Query()
}
