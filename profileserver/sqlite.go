package profileserver

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/metricsgate/metricsgate/policy"
)

// SQLite keeps preferences in one file, which several instances, of one
// process or of several on one machine, may have open at once.
type SQLite struct {
	dsn string

	// open guards closed, and is held for reading by whoever uses db, so that
	// Close waits for them.
	open   sync.RWMutex
	closed bool
	db     *sql.DB

	// writing lets one writer of this instance through at a time: SQLite
	// knows only one, and the others would poll for their turn, each on a
	// connection that a reader could use.
	writing sync.Mutex
}

// Nothing is acknowledged before it is on the disk (synchronous FULL: with
// NORMAL, a power cut in WAL mode undoes the last commits, and an opt-out may
// not be undone). A transaction takes the write lock at its start, since one
// that reads first and then finds a newer state cannot wait: it fails. Who
// finds the file locked by another instance waits up to 5 s.
const settings = "?_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL&_txlock=immediate"

// maxConnections bounds the readers. A read takes microseconds; what they
// wait for is the processor.
const maxConnections = 8

// OpenSQLite opens the store in this file. It makes the file, and its folder,
// where there is none, readable for nobody else, and brings an older file up
// to date.
func OpenSQLite(path string) (*SQLite, error) {
	s, err := openSQLite(path)
	if err != nil {
		return nil, fmt.Errorf("preference store %s: %w; name a file that this process may write, in a folder on a local disk", path, err)
	}
	return s, nil
}

func openSQLite(path string) (*SQLite, error) {
	path, err := filepath.Abs(path) // a name like :memory: is a file's as well
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	s := &SQLite{dsn: (&url.URL{Scheme: "file", Path: path}).String() + settings}
	if s.db, err = connect(s.dsn); err != nil {
		return nil, err
	}
	if err := migrate(context.Background(), s.db); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

func connect(dsn string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	return db, nil
}

var creating sync.Mutex

// create makes the file if there is none, so that it, and the files that
// SQLite keeps beside it and gives the same mode, are readable for nobody
// else. It never opens a file that exists, and lets nobody open the new one
// before it is closed: closing any descriptor of a file drops all locks that
// the process holds on it (sqlite.org/howtocorrupt.html, 2.2).
func create(path string) error {
	creating.Lock()
	defer creating.Unlock()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

//go:embed migrations/*.sql
var migrations embed.FS

// migrate runs the migrations that the file has not seen, in the order of
// their names: the n-th brings it to level n, which is kept in user_version.
// It is one transaction, and the level is read inside it, so that of two
// instances that open a file at once one migrates and the other finds it
// done, and one that dies half-way leaves nothing.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing

	var level int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&level); err != nil {
		return err
	}
	switch {
	case level == len(files):
		return nil
	case level > len(files):
		return fmt.Errorf("it was written by a newer version (level %d, this one knows %d)", level, len(files))
	}
	for _, file := range files[level:] {
		text, err := migrations.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, len(files))); err != nil {
		return err
	}
	return tx.Commit()
}

// Close lets go of the file, as soon as the queries under way have ended. A
// reload leaves requests behind that have not come to their query yet; those
// still work, each with a connection of its own that ends with it.
func (s *SQLite) Close() {
	s.open.Lock()
	defer s.open.Unlock()
	s.closed = true
	_ = s.db.Close() // what is committed is on the disk: nothing is left to lose
}

// use calls f with a database that stays open until f returns.
func (s *SQLite) use(f func(*sql.DB) error) error {
	s.open.RLock()
	defer s.open.RUnlock()
	if !s.closed {
		return f(s.db)
	}
	db, err := connect(s.dsn)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// get returns what the store holds of the account.
func (s *SQLite) get(ctx context.Context, uid string) (held record, err error) {
	err = s.use(func(db *sql.DB) error {
		held, err = find(ctx, db, uid)
		return err
	})
	return held, err
}

// set records a change, if holds says yes to the tag of what the account
// holds now, and reports whether it did. Between the question and the write
// nobody else writes, in this instance or another. To set what is set already
// changes nothing, the time included.
func (s *SQLite) set(ctx context.Context, uid string, c change, holds func(etag string) bool) (held bool, err error) {
	err = s.use(func(db *sql.DB) error {
		s.writing.Lock()
		defer s.writing.Unlock()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after a commit it does nothing

		before, err := find(ctx, tx, uid)
		if err != nil {
			return err
		}
		if held = holds(before.etag()); !held || before.preference == c.preference {
			return nil
		}
		// Two changes never share a time, even within one millisecond or under
		// a clock that was set back: the tag depends on it.
		changed := max(c.at.UnixMilli(), before.changed+1)
		optedOut := sql.NullBool{Bool: c.preference == policy.OptedOut, Valid: c.preference != policy.Unset}
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO preference (uid, preference, changed, source) VALUES (?, ?, ?, ?)
			ON CONFLICT (uid) DO UPDATE SET
				preference = excluded.preference, changed = excluded.changed, source = excluded.source`,
			uid, optedOut, changed, c.source); err != nil {
			return err
		}
		return tx.Commit()
	})
	return held && err == nil, err
}

// ping reports whether the preferences can be read.
func (s *SQLite) ping(ctx context.Context) error {
	_, err := s.get(ctx, "")
	return err
}

// querier is a database, or a transaction in it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func find(ctx context.Context, q querier, uid string) (record, error) {
	var optedOut sql.NullBool
	held := record{preference: policy.Unset}
	err := q.QueryRowContext(ctx, `SELECT preference, changed, source FROM preference WHERE uid = ?`, uid).
		Scan(&optedOut, &held.changed, &held.source)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return record{}, err
	}
	if optedOut.Valid {
		held.preference = policy.Allowed
		if optedOut.Bool {
			held.preference = policy.OptedOut
		}
	}
	return held, nil
}
