package testpostgres

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Bouncer is a PgBouncer in front of a server.
type Bouncer struct {
	// DSN is the URL of the database through it.
	DSN string

	mode string
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
	b.Stop()
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
	b.start(command(program(b.t, "pgbouncer"), config), "process up")
}

// Stop has it end all connections and stop.
func (b *Bouncer) Stop() { b.end(syscall.SIGTERM) }

// Ended says whether it has ended by itself.
func (b *Bouncer) Ended() bool {
	select {
	case <-b.ended:
		return true
	default:
		return false
	}
}

func (b *Bouncer) parse(dsn string) (*url.URL, url.Values) {
	b.t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	return u, u.Query()
}
