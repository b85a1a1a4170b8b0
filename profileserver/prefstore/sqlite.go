package prefstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"modernc.org/sqlite" // and the driver of that name

	"github.com/metricsgate/metricsgate/policy"
)

// SQLite keeps preferences in one file, which several instances, of one
// process or of several on one machine, may have open at once.
type SQLite struct {
	dsn  string
	now  func() time.Time
	feed *Feed

	// open guards closed, and is held for reading by whoever uses db, so that
	// Close waits for them.
	open   sync.RWMutex
	closed bool
	db     *sqliteDB

	// writing is held by who writes, and by who tells the feed.
	writing writeLock
	written proof

	stop  context.CancelFunc
	owned sync.WaitGroup // the goroutines that stop ends
}

// sqliteDB is the file, opened. What every request asks is prepared, which
// takes less than half the time.
type sqliteDB struct {
	*sql.DB
	find *sql.Stmt
}

// What keys hashes is read with what they are for: an empty store takes over that
// of the one whose content is moved to it.
const findSQLite = `
	SELECT head, key, coalesce(deleted.at, 0), preference, changed, said - span, said, source
	FROM feed CROSS JOIN secret LEFT JOIN preference ON uid = ?
		LEFT JOIN deleted ON uid_hash = metrics_gate_sha256(key, ?)`

// Nothing is acknowledged before it is on the disk (synchronous FULL: with
// NORMAL, a power cut in WAL mode undoes the last commits, and an opt-out may
// not be undone). A transaction takes the write lock at its start, since one
// that reads first and then finds a newer state cannot wait: it fails. Who
// finds the file locked by another instance waits up to 5 s, as patience has
// it.
const dsnParameters = "?_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL&_txlock=immediate&_pragma=secure_delete(1)"

// maxConnections bounds the readers. A read takes microseconds; what they
// wait for is the processor.
const maxConnections = 8

// pollEvery is how often the store looks for changes that other instances made
// in the file, who cannot tell.
const pollEvery = time.Second

// OpenSQLite opens the store in this file. It makes the file, and its folder,
// where there is none, readable for nobody else, and brings an older file up
// to date.
func OpenSQLite(path string, health func(error)) (*SQLite, error) {
	s, err := openSQLite(path, time.Now, health)
	if known, ok := errors.AsType[*HealthError](troubled(err)); ok {
		return nil, fmt.Errorf("preference store %s: %w", path, known)
	}
	if err != nil {
		return nil, fmt.Errorf("preference store %s: %w; name a file that this process may write, in a folder on a local disk", path, err)
	}
	return s, nil
}

func openSQLite(path string, now func() time.Time, health func(error)) (*SQLite, error) {
	path, err := filepath.Abs(path) // a name like :memory: is a file's as well
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	s := &SQLite{dsn: (&url.URL{Scheme: "file", Path: path}).String() + dsnParameters, now: now, writing: make(writeLock, 1),
		written: proof{turn: make(chan struct{}, 1)}}
	s.feed = NewFeed(s.changes)
	if s.db, err = connect(s.dsn); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	_, head, err := s.db.lookUp(ctx, s.db.find, "")
	if err != nil {
		stop()
		return nil, errors.Join(err, s.db.Close())
	}
	s.feed.Begin(head, 0)
	s.owned.Go(func() { s.poll(ctx) })
	if health == nil {
		health = func(error) {}
	}
	s.owned.Go(func() { keepTidy(ctx, s.tidy, health) })
	return s, nil
}

func connect(dsn string) (*sqliteDB, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	// SQLite does not wait while others turn a new file into one with a WAL,
	// or an old one back: two who both read it wait for neither.
	prepared, err := backoff.Retry(context.Background(), func() (*sqliteDB, error) {
		prepared, err := prepare(context.Background(), db)
		if said := (*sqlite.Error)(nil); errors.As(err, &said) && said.Code()&0xff == sqliteBusy {
			return nil, err
		}
		if err != nil {
			return nil, backoff.Permanent(err)
		}
		return prepared, nil
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 5 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 100 * time.Millisecond,
	}), backoff.WithMaxElapsedTime(patience))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return prepared, nil
}

func prepare(ctx context.Context, db *sql.DB) (prepared *sqliteDB, err error) {
	if err := migrateSQLite(ctx, db); err != nil {
		return nil, err
	}
	prepared = &sqliteDB{DB: db}
	prepared.find, err = db.PrepareContext(ctx, findSQLite)
	return prepared, err
}

// Statements key hashes, for which SQLite has no function.
func init() {
	sqlite.MustRegisterDeterministicScalarFunction("metrics_gate_sha256", 2,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			key, _ := args[0].([]byte)
			text, _ := args[1].([]byte)
			sum := sha256.Sum256(append(slices.Clone(key), text...))
			return sum[:], nil
		})
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

// migrateSQLite runs the migrations that the file has not seen, in the order
// of their names: the n-th brings it to level n, which is kept in
// user_version. It is one transaction, and the level is read inside it once
// more, so that of two instances that open a file at once one migrates and the
// other finds it done, and one that dies half-way leaves nothing.
func migrateSQLite(ctx context.Context, db *sql.DB) error {
	var level int
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&level); err != nil {
		return err
	}
	if pending, err := pendingMigrations("sqlite", level); err != nil || len(pending) == 0 {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing

	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&level); err != nil {
		return err
	}
	pending, err := pendingMigrations("sqlite", level)
	if err != nil {
		return err
	}
	for _, m := range pending {
		if _, err := tx.ExecContext(ctx, m.text+fmt.Sprintf(`; PRAGMA user_version = %d`, m.level)); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return tx.Commit()
}

// Close lets go of the file, as soon as the queries under way have ended. A
// reload leaves requests behind that have not come to their query yet; those
// still work, each with a connection of its own that ends with it.
func (s *SQLite) Close() {
	s.stop()
	s.owned.Wait()
	s.feed.Interrupt()
	s.open.Lock()
	defer s.open.Unlock()
	s.closed = true
	_ = s.db.Close() // what is committed is on the disk: nothing is left to lose
}

// use calls f with a database that stays open until f returns.
func (s *SQLite) use(f func(*sqliteDB) error) error {
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

// lookUp reads what is held of an account, and the number of the last change of
// any: both as they were at one moment.
func (db *sqliteDB) lookUp(ctx context.Context, find *sql.Stmt, uid string) (held Record, head int64, err error) {
	var (
		optedOut *bool
		changed  *int64
		from, to *int64
		source   *string
		key      []byte
	)
	sum := sha256.Sum256([]byte(uid))
	if err := find.QueryRowContext(ctx, uid, sum[:]).Scan(&head, &key, &held.deleted, &optedOut, &changed, &from, &to, &source); err != nil {
		return Record{}, 0, err
	}
	held.Preference = preferenceOf(optedOut)
	if changed != nil {
		held.Source, held.changed, held.said = *source, *changed, span{*from, *to}
	}
	copy(held.secret[:], key)
	return held, head, nil
}

// Get returns what the store holds of the account.
func (s *SQLite) Get(ctx context.Context, uid string) (held Record, err error) {
	err = s.use(func(db *sqliteDB) error {
		held, _, err = db.lookUp(ctx, db.find, uid)
		return err
	})
	return held, troubled(err)
}

// Ping reports whether preferences can be written.
func (s *SQLite) Ping(ctx context.Context) error {
	return s.written.ask(ctx, func(ctx context.Context) error {
		return s.write(ctx, func(tx transaction) ([]Change, error) {
			_, err := tx.ExecContext(ctx, `UPDATE health SET at = ?`, tx.now.UnixMilli())
			return nil, err
		})
	})
}

// Notified reports that the store learns of changes as they are made: those of
// other processes are asked for, which is all that there is for a file.
func (s *SQLite) Notified() bool { return true }

// Level returns the level of an up-to-date store.
func (s *SQLite) Level() int { return level("sqlite") }

// transaction is what a writer has: a transaction that holds the write lock.
type transaction struct {
	*sql.Tx
	db   *sqliteDB
	find *sql.Stmt
	now  time.Time
}

// write calls f with a transaction that nobody else writes beside, and tells
// the changes that f returns when they are safely stored.
func (s *SQLite) write(ctx context.Context, f func(tx transaction) ([]Change, error)) error {
	if err := s.writing.lock(ctx); err != nil {
		return troubled(err)
	}
	defer s.writing.unlock()
	var updates []Change
	err := s.use(func(db *sqliteDB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after a commit it does nothing

		updates, err = f(transaction{tx, db, tx.StmtContext(ctx, db.find), s.now()})
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err = troubled(err); ctx.Err() == nil { // or it is the caller who did not wait
		s.written.tell(err)
	}
	if err != nil {
		return err
	}
	// Not while the database is in use: to tell may need it as well, and Close
	// may come in between.
	for _, u := range updates {
		s.feed.tell(ctx, u)
	}
	return nil
}

// did runs a statement and reports whether it changed a row.
func (tx transaction) did(ctx context.Context, query string, args ...any) (bool, error) {
	done, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	rows, err := done.RowsAffected()
	return rows > 0, err
}

// sees remembers an event and reports whether it is new. None is.
func (tx transaction) sees(ctx context.Context, event string, held Record) (bool, error) {
	if event == "" {
		return true, nil
	}
	return tx.did(ctx, `INSERT INTO event (jti_hash, seen) VALUES (?, ?) ON CONFLICT DO NOTHING`,
		held.secret.hash(event), tx.now.UnixMilli())
}

// count counts an account that opted out among today's, unless it is.
func (tx transaction) count(ctx context.Context, uid string) error {
	today := day(tx.now)
	first, err := tx.did(ctx, `
		INSERT INTO counted (uid, day) VALUES (?, ?)
		ON CONFLICT (uid) DO UPDATE SET day = excluded.day, origin = NULL WHERE day < excluded.day`, uid, today)
	if err != nil || !first {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO daily (day, users) VALUES (?, 1)
		ON CONFLICT (day) DO UPDATE SET users = users + 1`, today)
	return err
}

// Set records a choice. To set what is set already changes nothing.
func (s *SQLite) Set(ctx context.Context, uid string, c Choice) (after Record, came Result, err error) {
	if c, err = c.complete(); err != nil {
		return Record{}, Unchanged, err
	}
	err = s.write(ctx, func(tx transaction) ([]Change, error) {
		before, head, err := tx.db.lookUp(ctx, tx.find, uid)
		if err != nil {
			return nil, err
		}
		if fresh, err := tx.sees(ctx, c.Event, before); err != nil || !fresh {
			return nil, err
		}
		if after, came = c.decide(before, tx.now.UnixMilli()); came != Changed {
			if after.said != before.said {
				_, err = tx.ExecContext(ctx, `UPDATE preference SET said = ?, span = ? WHERE uid = ?`, after.said.to, after.said.length(), uid)
			}
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO preference (uid, preference, changed, said, span, source, seq) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = excluded.changed,
				said = excluded.said, span = excluded.span, source = excluded.source, seq = excluded.seq`,
			uid, optedOut(after.Preference), after.changed, after.said.to, after.said.length(), after.Source, head+1); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE feed SET head = ?`, head+1); err != nil {
			return nil, err
		}
		if after.Preference == policy.OptedOut {
			if err := tx.count(ctx, uid); err != nil {
				return nil, err
			}
		}
		return []Change{after.update(head+1, uid)}, nil
	})
	return after, came, err
}

// Delete forgets an account.
func (s *SQLite) Delete(ctx context.Context, uid, event string) (came Result, err error) {
	err = s.write(ctx, func(tx transaction) ([]Change, error) {
		held, head, err := tx.db.lookUp(ctx, tx.find, uid)
		if err != nil {
			return nil, err
		}
		if fresh, err := tx.sees(ctx, event, held); err != nil || !fresh {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM counted WHERE uid = ?`, uid); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO deleted (uid_hash, at) VALUES (?, ?)
			ON CONFLICT (uid_hash) DO UPDATE SET at = max(at + 1, excluded.at)`, held.secret.hash(uid), tx.now.UnixMilli()); err != nil {
			return nil, err
		}
		if held.Source == "" { // there is no row
			return nil, nil
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM preference WHERE uid = ?`, uid); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE feed SET head = ?`, head+1); err != nil {
			return nil, err
		}
		came = Changed
		return []Change{{ID: head + 1, UID: uid, Preference: policy.Unset, Deleted: true}}, nil
	})
	return came, err
}

// Follow begins to tell changes.
func (s *SQLite) Follow(after int64) (*Follower, error) {
	return s.feed.Follow(after)
}

// querier is the database, or a transaction of it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each calls scan with every row of a query.
func each(ctx context.Context, db querier, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // what went wrong, Err says
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// changes reads the rows that changed after the change with this number.
func (s *SQLite) changes(ctx context.Context, after int64, limit int) (found []Change, err error) {
	err = s.use(func(db *sqliteDB) error {
		found, err = changesSQLite(ctx, db, after, limit)
		return err
	})
	return found, err
}

func changesSQLite(ctx context.Context, db querier, after int64, limit int) (found []Change, err error) {
	err = each(ctx, db, func(rows *sql.Rows) error {
		var (
			id       int64
			uid      string
			r        Record
			optedOut *bool
		)
		if err := rows.Scan(&id, &uid, &optedOut, &r.changed, &r.Source); err != nil {
			return err
		}
		r.Preference = preferenceOf(optedOut)
		found = append(found, r.update(id, uid))
		return nil
	}, `SELECT seq, uid, preference, changed, source FROM preference WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
	return found, err
}

// poll looks for changes that other instances made, until ctx ends.
func (s *SQLite) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for away := false; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.writing.lock(ctx) != nil {
			continue
		}
		_, head, err := s.db.lookUp(ctx, s.db.find, "")
		if err == nil {
			err = s.feed.Advance(ctx, head)
		}
		switch {
		case err != nil:
			away = true
			s.feed.Interrupt()
		case away:
			away = false
			s.feed.Begin(head, 0)
		}
		s.writing.unlock()
	}
}

// tidy drops what is kept for a while only: who was counted on a day that is
// over, and the events of last week.
func (s *SQLite) tidy(ctx context.Context) error {
	err := s.write(ctx, func(tx transaction) ([]Change, error) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM counted WHERE day < ?`, day(tx.now)); err != nil {
			return nil, err
		}
		oldest := tx.now.Add(-rememberedFor).UnixMilli()
		if _, err := tx.ExecContext(ctx, `DELETE FROM deleted WHERE at < ?`, oldest); err != nil {
			return nil, err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM event WHERE seen < ?`, oldest)
		return nil, err
	})
	if err != nil {
		return err
	}
	return s.use(func(db *sqliteDB) error { return db.emptyLog(ctx) })
}

// emptyLog begins the log of writes anew, in which what was deleted still
// stands. Nobody can write while it waits for readers, and an export may read
// for minutes: so it gives up soon, until the next time.
func (db *sqliteDB) emptyLog(ctx context.Context) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // back to the others
	if _, err := conn.ExecContext(ctx, `PRAGMA busy_timeout = 100`); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	_, restored := conn.ExecContext(context.WithoutCancel(ctx), `PRAGMA busy_timeout = 5000`)
	return errors.Join(err, restored)
}

// Daily returns how many users recorded an opt-out, by day.
func (s *SQLite) Daily(ctx context.Context, from, to time.Time) (counts []DailyCount, err error) {
	err = s.use(func(db *sqliteDB) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			var count DailyCount
			err := rows.Scan(&count.Day, &count.Users)
			counts = append(counts, count)
			return err
		}, `
			SELECT day, sum(users) FROM (SELECT day, users FROM daily UNION ALL SELECT day, users - twice FROM daily_moved)
			WHERE day BETWEEN ? AND ? GROUP BY day ORDER BY day`, day(from), day(to))
	})
	return counts, err
}

// Import records rows.
func (s *SQLite) Import(ctx context.Context, rows iter.Seq2[Row, error], progress func(Imported)) (Imported, error) {
	return importRows(ctx, rows, s.store, progress)
}

// store records a batch of rows.
func (s *SQLite) store(ctx context.Context, batch []Row) (changed int64, err error) {
	err = s.write(ctx, func(tx transaction) ([]Change, error) {
		nobody, head, err := tx.db.lookUp(ctx, tx.find, "")
		if err != nil {
			return nil, err
		}
		upsert, err := tx.PrepareContext(ctx, `
			INSERT INTO preference (uid, preference, changed, said, source, seq)
			SELECT ?1, ?2, ?3, ?3, ?4, ?5
			WHERE NOT EXISTS (SELECT 1 FROM deleted WHERE uid_hash = ?6 AND at >= ?3)
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = max(excluded.changed, preference.changed + 1),
				said = excluded.said, span = 0, source = excluded.source, seq = excluded.seq
			WHERE preference.said < excluded.said
				OR preference.said - preference.span <= excluded.said AND (excluded.preference AND preference.preference IS NOT TRUE
					OR excluded.preference IS NULL AND NOT preference.preference)`)
		if err != nil {
			return nil, err
		}
		defer func() { _ = upsert.Close() }()
		for _, row := range batch {
			at := tx.now.UnixMilli()
			if !row.Changed.IsZero() {
				at = min(at, row.Changed.UnixMilli())
			}
			done, err := upsert.ExecContext(ctx, row.UID, optedOut(row.Preference), at, row.Source, head+changed+1, nobody.secret.hash(row.UID))
			if err != nil {
				return nil, err
			}
			stored, err := done.RowsAffected()
			if err != nil {
				return nil, err
			}
			changed += stored
		}
		if _, err := tx.ExecContext(ctx, `UPDATE feed SET head = ?`, head+changed); err != nil {
			return nil, err
		}
		return changesSQLite(ctx, tx, head, len(batch))
	})
	return changed, err
}

// Export returns all rows. One statement sees one state of the file.
func (s *SQLite) Export(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		err := s.use(func(db *sqliteDB) error {
			return each(ctx, db, func(rows *sql.Rows) error {
				var (
					row      Row
					optedOut *bool
					changed  int64
				)
				if err := rows.Scan(&row.UID, &optedOut, &changed, &row.Source); err != nil {
					return err
				}
				row.Preference, row.Changed = preferenceOf(optedOut), time.UnixMilli(changed).UTC()
				if !yield(row, nil) {
					return errEnough
				}
				return nil
			}, `SELECT uid, preference, changed, source FROM preference ORDER BY uid`)
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Row{}, err)
		}
	}
}

// errEnough ends a query whose rows are no longer wanted.
var errEnough = errors.New("enough")

// Backup writes the store, as it is at one moment, into a new file that nobody
// else can read, while others read and write it.
func (s *SQLite) Backup(ctx context.Context, file string) error {
	err := s.backup(ctx, file)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("backup to %s: this file exists and is left as it is; name a new one", file)
	}
	if err != nil {
		return fmt.Errorf("backup to %s: %w; name a new file, in a folder that this process may write, on a disk with space", file, err)
	}
	return nil
}

func (s *SQLite) backup(ctx context.Context, file string) error {
	// An absolute path is never taken for a URI. SQLite fills an empty file
	// that is there, and would make one that everybody may read.
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	empty, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := empty.Close(); err != nil {
		return err
	}
	err = s.use(func(db *sqliteDB) error {
		_, err := db.ExecContext(ctx, `VACUUM INTO ?`, file)
		return err
	})
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
