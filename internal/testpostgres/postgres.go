// Package testpostgres starts real PostgreSQL servers for tests, each in a folder
// of its own and reached by a socket in it, so that there is no port to be
// found free. Nothing is left of them when the tests that use them have ended.
package testpostgres

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Cluster is a PostgreSQL server.
type Cluster struct {
	// DSN is the URL of an empty database, for its superuser.
	DSN string

	server
}

// inUse is what the tests of this process share, while there are any.
var inUse struct {
	sync.Mutex
	tests     int
	template  string   // the folder of a server that never ran
	cluster   *Cluster // of all tests that do not ask for their own
	databases int      // made in it so far
}

// Database returns the URL of a new, empty database, on a server that other
// tests of this process use as well. It is there until the test ends.
func Database(t testing.TB) string {
	t.Helper()
	inUse.Lock()
	defer inUse.Unlock()
	share(t)
	if inUse.cluster == nil {
		inUse.cluster = newCluster(t)
	}
	conn, err := pgx.Connect(context.Background(), inUse.cluster.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	inUse.databases++
	name := fmt.Sprint("test", inUse.databases)
	if _, err := conn.Exec(context.Background(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return inUse.cluster.url(name)
}

// Start starts a server for this test alone, which may stop it and start it
// again. It ends with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	inUse.Lock()
	defer inUse.Unlock()
	share(t)
	c := newCluster(t)
	t.Cleanup(c.remove)
	return c
}

// share counts the test among those that use servers. The first makes the
// template, which takes initdb seconds; with the last, all is removed. With
// -short the test is left out.
func share(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs PostgreSQL")
	}
	inUse.tests++
	t.Cleanup(func() {
		inUse.Lock()
		defer inUse.Unlock()
		if inUse.tests--; inUse.tests > 0 {
			return
		}
		if inUse.cluster != nil {
			inUse.cluster.remove()
			inUse.cluster = nil
		}
		if err := os.RemoveAll(inUse.template); err != nil {
			t.Error(err)
		}
		inUse.template = ""
	})
	if inUse.template == "" {
		inUse.template = newFolder(t)
		run(t, program(t, "initdb"), "--pgdata="+filepath.Join(inUse.template, "data"),
			"--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	}
}

func newCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{server: server{t: t, folder: newFolder(t)}}
	c.DSN = c.url("postgres")
	run(t, "cp", "-R", filepath.Join(inUse.template, "data"), c.folder)
	c.Restart()
	return c
}

func (c *Cluster) url(database string) string {
	return "postgres:///" + database + "?user=postgres&host=" + url.QueryEscape(c.folder)
}

// Standby starts a server that replicates this one as it changes, and answers those
// who only read. It ends with the test.
func (c *Cluster) Standby() *Cluster {
	c.t.Helper()
	s := &Cluster{server: server{t: c.t, folder: newFolder(c.t)}}
	s.DSN = s.url("postgres")
	c.t.Cleanup(s.remove)
	run(c.t, program(c.t, "pg_basebackup"), "--host="+c.folder, "--username=postgres", "--pgdata="+filepath.Join(s.folder, "data"),
		"--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	s.Restart()
	return s
}

// Execute runs statements as the superuser.
func (c *Cluster) Execute(statements ...string) {
	c.t.Helper()
	conn, err := pgx.Connect(context.Background(), c.DSN)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			c.t.Fatal(err)
		}
	}
}

// WaitForStandbys has the server acknowledge nothing from now on that a standby has
// not written, and returns when that holds.
func (c *Cluster) WaitForStandbys() {
	c.t.Helper()
	c.Execute(`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`)
	conn, err := pgx.Connect(context.Background(), c.DSN)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	const patience = 6000 // hundredths of a second
	for range patience {
		var waits bool
		if err := conn.QueryRow(context.Background(),
			`SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync') FROM pg_sleep(0.01)`).Scan(&waits); err != nil {
			c.t.Fatal(err)
		}
		if waits {
			return
		}
	}
	c.t.Fatal("no standby is waited for")
}

// Promote has a standby become a server that is written to, which it is when
// Promote returns.
func (c *Cluster) Promote() { c.t.Helper(); c.Execute(`SELECT pg_promote()`) }

// Either returns the connection string for whichever of two servers fits the
// session, "read-write" say, and for the database of that name.
func Either(database, session string, a, b *Cluster) string {
	return "postgres:///" + database + "?user=postgres&host=" + url.QueryEscape(a.folder+","+b.folder) + "&target_session_attrs=" + session
}

// Restart starts the server, after it was stopped if it runs, and returns when
// it accepts connections.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.Stop()
	if err := c.start(command(program(c.t, "postgres"), "-D", filepath.Join(c.folder, "data"), "-k", c.folder,
		"-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "lc_messages=C"), "ready to accept"); err != nil {
		c.t.Fatal(err)
	}
}

// Stop has the server end all sessions and stop, as an administrator would.
func (c *Cluster) Stop() { c.end(syscall.SIGINT) }

// Kill has all of the server's processes end at once, as in a crash: it
// recovers from its log at the next start.
func (c *Cluster) Kill() { c.end(syscall.SIGQUIT) }

// newFolder makes a folder for whom the server runs as. It is short, since a
// socket's path must be, and not the test's own, which only its user may enter.
func newFolder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "pg-")
	if err != nil {
		t.Fatal(err)
	}
	if err := handOver(folder); err != nil {
		t.Fatal(err)
	}
	return folder
}

// command prepares a program as the user whom the server runs as. PostgreSQL
// refuses to run as root.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = os.TempDir() // where that user may be
	runAsOwner(c)
	return c
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// program finds one of PostgreSQL's programs, which Debian keeps out of the
// PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	system, _ := filepath.Glob("/usr/sbin/" + name)
	if found = append(found, system...); len(found) == 0 {
		t.Fatalf("there is no %s in the PATH, in /usr/lib/postgresql or in /usr/sbin; tests/setup.sh installs it", name)
	}
	return found[len(found)-1]
}
