package prefstore

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
	"github.com/metricsgate/metricsgate/policy"
)

// stateOf is what the store says is wrong, to who writes and to who asks.
func stateOf(t *testing.T, store Store) string {
	t.Helper()
	_, _, err := store.Set(context.Background(), "u", Choice{Preference: policy.Allowed})
	if asked := store.Ping(context.Background()); asked == nil || err == nil || asked.Error() != err.Error() {
		t.Errorf("said %v to who asks, %v to who writes", asked, err)
	}
	known := (*HealthError)(nil)
	if !errors.As(err, &known) {
		t.Fatalf("%v says nothing of what to do", err)
	}
	if !strings.Contains(err.Error(), known.Advice) {
		t.Errorf("the advice is not in %v", err)
	}
	return known.State
}

// TestADatabaseThatTakesNoTLS is told from one that is not there.
func TestADatabaseThatTakesNoTLS(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(conn, make([]byte, 8)) // the request for TLS
			_, _ = conn.Write([]byte("N"))
			_ = conn.Close()
		}
	}()
	_, err = Open(context.Background(), "postgres://gate:s3cr3t@"+listener.Addr().String()+"/x?sslmode=require")
	known := (*HealthError)(nil)
	if !errors.As(err, &known) || known.State != "the database server takes no TLS" || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("error %v", err)
	}
}

// TestALockThatIsHeld has somebody else keep the lock that writers need: the store
// can be read, and says that it cannot be written, and why.
func TestALockThatIsHeld(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		ctx := context.Background()
		db, err := sql.Open(p.driver, p.dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		hold := `PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE`
		if p.driver == "pgx" {
			hold = `BEGIN; SELECT FROM metrics_gate.feed FOR UPDATE`
		}
		if _, err := conn.ExecContext(ctx, hold); err != nil {
			t.Fatal(err)
		}
		if state := stateOf(t, store); !strings.Contains(state, "locked") {
			t.Errorf("said to be: %s", state)
		}
		if _, err := store.Get(ctx, "u"); err != nil {
			t.Errorf("reading: %v", err)
		}
		if _, err := conn.ExecContext(ctx, `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
		mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
		if err := store.Ping(ctx); err != nil {
			t.Errorf("after a write that worked: %v", err)
		}
	})
}

// TestAStoreThatOnlyReads is a file that may not be written, and a database that
// says so of itself, as a standby does.
func TestAStoreThatOnlyReads(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		p := postgresPlace(t)
		p.open(t, 0).Close()
		p.execute(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
		store := p.open(t, 0)
		if state := stateOf(t, store); state != "the database only reads" {
			t.Errorf("said to be: %s", state)
		}
		if _, err := store.Get(ctx, "u"); err != nil {
			t.Errorf("reading: %v", err)
		}
	})
	t.Run("PostgreSQL, for this role", func(t *testing.T) {
		t.Parallel()
		dsn := testpostgres.Database(t)
		openPostgres(t, dsn).Close()
		store := openPostgres(t, dsn+"&role=pg_read_all_data")
		if state := stateOf(t, store); state != "the database's role may not do this" {
			t.Errorf("said to be: %s", state)
		}
		if _, err := store.Get(ctx, "u"); err != nil {
			t.Errorf("reading: %v", err)
		}
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		// Root may write every file, so it is the connection that may not.
		store := openStore(t, database(t))
		store.db.SetMaxOpenConns(1)
		if _, err := store.db.ExecContext(ctx, `PRAGMA query_only = on`); err != nil {
			t.Fatal(err)
		}
		if state := stateOf(t, store); state != "the file cannot be written" {
			t.Errorf("said to be: %s", state)
		}
	})
}
