package prefstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
	"github.com/metricsgate/metricsgate/policy"
)

// TestWhatWasAnsweredSurvivesACrash has the server crash and come back in the
// middle of a thousand writes at two instances.
func TestWhatWasAnsweredSurvivesACrash(t *testing.T) {
	t.Parallel()
	cluster := testpostgres.Start(t)
	instances := []*Postgres{openPostgres(t, cluster.DSN), openPostgres(t, cluster.DSN)}
	const writes = 1000
	var answered, lost sync.Map
	var next, done atomic.Int64
	var all sync.WaitGroup
	crash := make(chan struct{})
	for i := range 4 {
		store := instances[i%2]
		all.Go(func() {
			for n := next.Add(1); n <= writes; n = next.Add(1) {
				uid := fmt.Sprint(n)
				_, came, err := store.Set(t.Context(), uid, Choice{Preference: policy.OptedOut, Source: SourceUser})
				switch {
				case err != nil:
					lost.Store(uid, true)
				case came == Changed:
					answered.Store(uid, true)
				default:
					t.Errorf("%s: %v", uid, came)
				}
				if done.Add(1) == 300 {
					close(crash)
				}
			}
		})
	}
	<-crash
	cluster.Kill()
	cluster.Restart()
	all.Wait()

	kept, failed := 0, 0
	lost.Range(func(any, any) bool { failed++; return true })
	until(t, "the store works again", func() bool { return instances[0].Ping(t.Context()) == nil })
	answered.Range(func(uid, _ any) bool {
		kept++
		if held := mustGet(t, instances[0], uid.(string)); held.Preference != policy.OptedOut {
			t.Errorf("%s was answered, and is lost", uid)
		}
		return true
	})
	if failed == 0 || kept < 300 || kept+failed != writes {
		t.Errorf("%d were answered and %d failed", kept, failed)
	}
	until(t, "it takes writes again", func() bool {
		_, _, err := instances[1].Set(t.Context(), "after", Choice{Preference: policy.OptedOut, Source: SourceUser})
		return err == nil
	})
}

// reports collects what a store says of its health.
type reports chan error

func (r reports) expect(t *testing.T, failing bool) {
	t.Helper()
	select {
	case err := <-r:
		if (err != nil) != failing {
			t.Errorf("reported %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("nothing was reported")
	}
}

// TestListeningIsLostAndComesBack stops the server under a store that is
// followed.
func TestListeningIsLostAndComesBack(t *testing.T) {
	t.Parallel()
	cluster := testpostgres.Start(t)
	health := make(reports, 100)
	store, err := OpenPostgres(cluster.DSN, func(err error) { health <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	followed := func(after int64) (f *Follower) {
		t.Helper()
		until(t, "the store is followed", func() bool {
			f, err = store.Follow(after)
			return err == nil
		})
		return f
	}
	f := followed(-1)
	mustSet(t, store, "a", Choice{Preference: policy.OptedOut})
	readIDs(t, f, 1)

	cluster.Stop()
	if _, err := f.Next(t.Context()); !errors.Is(err, ErrFeedAway) {
		t.Errorf("followers get %v", err)
	}
	if _, err := store.Follow(1); !errors.Is(err, ErrFeedAway) {
		t.Errorf("who comes gets %v", err)
	}
	health.expect(t, true)
	for what, ask := range map[string]func() error{
		"get":    func() error { _, err := store.Get(t.Context(), "a"); return err },
		"set":    func() error { _, _, err := store.Set(t.Context(), "a", Choice{Preference: policy.Allowed}); return err },
		"remove": func() error { _, err := store.Delete(t.Context(), "a", ""); return err },
		"ping": func() (err error) {
			until(t, "health to be looked at anew", func() bool { err = store.Ping(t.Context()); return err != nil })
			return err
		},
		"daily": func() error { _, err := store.Daily(t.Context(), time.Now(), time.Now()); return err },
		"import": func() error {
			_, err := store.Import(t.Context(), only(Row{UID: "b", Preference: policy.OptedOut}), nil)
			return err
		},
		"export": func() (err error) {
			for _, err = range store.Export(t.Context()) {
			}
			return err
		},
	} {
		if err := ask(); err == nil || !strings.HasPrefix(err.Error(), "PostgreSQL: ") {
			t.Errorf("%s: %v", what, err)
		}
	}

	cluster.Restart()
	wantReset(t, store, 1) // a crash may have lost what was told
	health.expect(t, false)
}

// TestChangesWhileNobodyListensAreCaughtUpWith cuts the store's connections,
// and makes a change meanwhile.
func TestChangesWhileNobodyListensAreCaughtUpWith(t *testing.T) {
	t.Parallel()
	p := postgresPlace(t)
	store := p.open(t, 0)
	f, err := store.Follow(-1)
	if err != nil {
		t.Fatal(err)
	}
	mustSet(t, store, "a", Choice{Preference: policy.OptedOut})
	readIDs(t, f, 1)
	p.execute(t, `
		BEGIN;
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid();
		UPDATE feed SET head = 2;
		INSERT INTO preference (uid, preference, changed, said, source, seq) VALUES ('unheard', true, 1, 1, 'user', 2);
		COMMIT`)
	var last int64
	for err == nil {
		_, err = f.Next(t.Context())
		last = f.last
	}
	if !errors.Is(err, ErrFeedAway) {
		t.Fatal(err)
	}
	until(t, "the store is followed", func() bool {
		f, err = store.Follow(last)
		return err == nil
	})
	until(t, "no connection is left that is none", func() bool {
		_, _, err := store.Set(t.Context(), "b", Choice{Preference: policy.OptedOut, Source: SourceUser})
		return err == nil
	})
	if told := strings.Join(readIDs(t, f, 3), ", "); told != "1, change 2, change 3" {
		t.Errorf("told %s", told)
	}
}

// TestManyDeletedAccountsAreNotReadThrough has as many deleted as slow down who
// reads them all to find one, in tables of which PostgreSQL has no statistics.
func TestManyDeletedAccountsAreNotReadThrough(t *testing.T) {
	t.Parallel()
	p := postgresPlace(t)
	store := p.open(t, 0)
	p.execute(t, `
		INSERT INTO deleted SELECT sha256(convert_to(n::text, 'UTF8')), n FROM generate_series(1, 50000) AS n;
		ANALYZE deleted`)
	rows, err := store.(*Postgres).pool.Query(t.Context(), `EXPLAIN `+find, asked("u")...)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if plan := strings.Join(steps, "\n"); err != nil || !strings.Contains(plan, "Index Scan using deleted_pkey") {
		t.Errorf("%v\n%s", err, plan)
	}
}

// TestARoleThatMayNotCreateTables has the operator migrate by command.
func TestARoleThatMayNotCreateTables(t *testing.T) {
	t.Parallel()
	cluster := testpostgres.Start(t)
	p := &place{driver: "pgx", dsn: cluster.DSN}
	p.execute(t, `CREATE ROLE server LOGIN`)
	dsn := strings.Replace(cluster.DSN, "user=postgres", "user=server", 1)
	health := make(reports, 100)
	store, err := OpenPostgres(dsn, func(err error) { health <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const advice = "run caddy metrics-gate migrate as a role that may"
	if err := <-health; err == nil || !strings.Contains(err.Error(), advice) {
		t.Errorf("%v", err)
	}
	if err := connectAndMigrate(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), advice) {
		t.Errorf("%v", err)
	}
	if err := connectAndMigrate(t.Context(), cluster.DSN); err != nil {
		t.Fatal(err)
	}
	p.execute(t, `
		GRANT USAGE ON SCHEMA metrics_gate TO server;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA metrics_gate TO server`)
	health.expect(t, false)
	mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
	if _, err := store.Delete(t.Context(), "u", "jti"); err != nil {
		t.Error(err)
	}
	if err := connectAndMigrate(t.Context(), dsn); err != nil {
		t.Errorf("where there is nothing to do: %v", err)
	}
}

func TestMigrateRefusesANewerDatabase(t *testing.T) {
	t.Parallel()
	p := postgresPlace(t)
	p.open(t, 0).Close()
	p.execute(t, `INSERT INTO migration (level) SELECT 90 + n FROM generate_series(1, 8) AS n`)
	want := fmt.Sprintf("it was written by a newer version (level %d, this one knows %d)", level("postgres")+8, level("postgres"))
	if err := connectAndMigrate(t.Context(), p.dsn); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// TestAFailedMigrationOfADatabaseLeavesNothing has the migration fail, and
// then lets it work.
func TestAFailedMigrationOfADatabaseLeavesNothing(t *testing.T) {
	t.Parallel()
	p := postgresPlace(t)
	p.execute(t, `CREATE SCHEMA metrics_gate; CREATE TABLE metrics_gate.event (x int)`)
	if err := connectAndMigrate(t.Context(), p.dsn); err == nil || !strings.Contains(err.Error(), "migrations/postgres/001_preference.sql: ") {
		t.Errorf("%v", err)
	}
	if n := p.number(t, `SELECT count(*) FROM pg_tables WHERE schemaname = 'metrics_gate'`); n != 1 {
		t.Errorf("%d tables", n)
	}
	p.execute(t, `DROP TABLE metrics_gate.event`)
	if err := connectAndMigrate(t.Context(), p.dsn); err != nil {
		t.Error(err)
	}
}

// TestASilentServerIsNotWaitedFor connects to somebody who never answers.
func TestASilentServerIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	store, err := OpenPostgres("postgres://user:secret@"+silent.Addr().String()+"/x?sslmode=disable", nil)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 * maxConnections {
		all.Go(func() {
			if err := store.Ping(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
		all.Go(func() {
			if _, _, err := store.Set(t.Context(), "u", Choice{Preference: policy.OptedOut}); err == nil {
				t.Error("set")
			}
		})
	}
	all.Wait()
	store.Close()
	if took := time.Since(began); took > 4*patience {
		t.Errorf("it took %v", took)
	}
}

func TestErrorsOfTheDatabaseNameNobody(t *testing.T) {
	t.Parallel()
	p := postgresPlace(t)
	store := p.open(t, 0)
	p.execute(t, `ALTER TABLE preference ADD CHECK (length(uid) < 3)`)
	_, _, err := store.Set(t.Context(), "somebody", Choice{Preference: policy.OptedOut, Source: SourceUser})
	said := (*pgconn.PgError)(nil)
	if !errors.As(err, &said) {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v", err, *said); strings.Contains(text, "somebody") || strings.Contains(text, "736f6d65626f6479") {
		t.Error(text)
	}
}

func TestConnectionStrings(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://user:se%cret@host/x",
		"postgres://user:secret@host:port/x",
		"postgres://a@u:sec:secret@h",
		"postgres://user:secret@host/x?sslmode=secret",
		"postgres://user:secret@host/x?pool_max_conns=secret",
		"postgres://user:secret@host/x?connect_timeout=secret",
		"host=host password=secret port=secret",
		"host=host password='secret",
		"secret",
	} {
		for name, try := range map[string]func() error{
			"OpenPostgres": func() error { _, err := OpenPostgres(dsn, nil); return err },
			"Migrate":      func() error { return connectAndMigrate(t.Context(), dsn) },
		} {
			err := try()
			if err == nil || strings.Contains(err.Error(), "cret") || !strings.Contains(err.Error(), "; write postgres://") {
				t.Errorf("%s %s: %v", name, dsn, err)
			}
		}
	}
	_, err := OpenPostgres("postgres://user:secret@host/x?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/ca.pem") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, dsn := range []string{
		"postgres://user:secret@one:5432,two:5432/x",
		"postgresql://[::1]/x?connect_timeout=60&lock_timeout=3s",
		"host=/run/postgresql dbname=x",
	} {
		config, err := parseDSN(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		begin := beginning(config)
		if config.ConnConfig.ConnectTimeout != patience || strings.Contains(begin, "lock_timeout") == strings.Contains(dsn, "lock_timeout") ||
			!strings.Contains(begin, "; SET LOCAL idle_in_transaction_session_timeout = '10s'") {
			t.Errorf("%s: %v, %s", dsn, config.ConnConfig.ConnectTimeout, begin)
		}
	}
}

func TestAClosedDatabaseIsOfNoUse(t *testing.T) {
	t.Parallel()
	store := openPostgres(t, testpostgres.Database(t))
	f, err := store.Follow(-1)
	if err != nil {
		t.Fatal(err)
	}
	readIDs(t, f, 0)
	store.Close()
	if _, err := f.Next(t.Context()); !errors.Is(err, ErrFeedAway) {
		t.Errorf("a follower gets %v", err)
	}
	if err := store.Ping(t.Context()); err == nil {
		t.Error("it answers")
	}
	store.Close() // once more is harmless
}

// TestAnAbandonedWriteHoldsNobodyUp has somebody begin to write, and vanish.
func TestAnAbandonedWriteHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Database(t)
	store := openPostgres(t, dsn)
	ctx := context.Background()
	config, err := parseDSN(dsn + "&idle_in_transaction_session_timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	vanished, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer vanished.Close(ctx)
	if _, err := vanished.Exec(ctx, `BEGIN; SELECT FROM metrics_gate.feed FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
}
