package prefstore

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/metricsgate/metricsgate/policy"
)

// Postgres keeps preferences in a PostgreSQL database, which any number of
// instances share. All of its tables are in the schema metrics_gate.
type Postgres struct {
	pool   *pgxpool.Pool
	feed   *Feed
	health func(error)
	begin  string // a transaction that writes
	pooler pooler

	hearing  hearing
	tellDeaf sync.Once

	// writing lets one writer of this instance through; the database does so
	// among instances.
	writing writeLock
	written proof

	stop  context.CancelFunc
	owned sync.WaitGroup // the goroutines that stop ends
}

// channel is where the instances tell one another of changes.
const channel = "metrics_gate_changes"

// askEvery is how often the database is asked whether there are changes of which
// no notice came, and answerWithin how long it may take for that: a connection
// that hangs is noticed within the two.
const (
	askEvery     = time.Second
	answerWithin = 3 * time.Second
)

// apart is how far the numbers of the changes lie apart that two servers of one
// database counted: further than the one may be behind that takes over.
const apart = 1_000_000_000

// OpenPostgres opens the store in the database of this URL, or of this
// connection string in PostgreSQL's other form. It does not wait for the
// server: that is connected to, and the database brought up to date, in the
// background; until then requests fail. The function health, unless nil, is
// told when that failed, or when the connection is lost that changes are
// learnt by, and with nil when it is there again.
func OpenPostgres(dsn string, health func(error)) (*Postgres, error) {
	config, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	if health == nil {
		health = func(error) {}
	}
	p := &Postgres{health: health, begin: beginning(config), writing: make(writeLock, 1), stop: stop, written: proof{turn: make(chan struct{}, 1)}}
	p.feed = NewFeed(p.changes)
	config.BeforeConnect = p.pooler.adapt
	if p.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		stop()
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	p.owned.Go(func() { p.listen(ctx) })
	p.owned.Go(func() { keepTidy(ctx, p.tidy, health) })
	return p, nil
}

// parseDSN reads a connection string. What pgx says of one that it cannot read
// may repeat parts of it, and so the password.
func parseDSN(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		reason := "the connection string cannot be read"
		if file := (*fs.PathError)(nil); errors.As(err, &file) {
			reason = file.Error()
		}
		return nil, fmt.Errorf("PostgreSQL: %s; write postgres://user:password@host:5432/database?sslmode=verify-full, with special characters of the password percent-encoded", reason)
	}
	if timeout := &config.ConnConfig.ConnectTimeout; *timeout == 0 || *timeout > patience {
		*timeout = patience
	}
	return config, nil
}

// connectAndMigrate brings the database of this connection string up to date,
// and changes nothing where it is.
func connectAndMigrate(ctx context.Context, dsn string) error {
	config, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	if err := new(pooler).adapt(ctx, config.ConnConfig); err != nil {
		return discreet(err)
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return discreet(err)
	}
	defer closeConn(conn)
	return discreet(migratePostgres(ctx, conn))
}

// migrationLock is the number of the lock that one who migrates holds.
const migrationLock = 0x6d657472696373 // "metrics"

// migratePostgres runs the migrations that the database has not seen, all in
// one transaction, under a lock, so that of instances that start at once one
// migrates and the others find it done.
func migratePostgres(ctx context.Context, conn *pgx.Conn) error {
	const count = `SELECT count(*) FROM metrics_gate.migration`
	var level int
	err := conn.QueryRow(ctx, count).Scan(&level)
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) && (said.Code == undefinedTable || said.Code == undefinedSchema) {
		err = nil
	}
	if err != nil {
		return err
	}
	if pending, err := pendingMigrations("postgres", level); err != nil || len(pending) == 0 {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			CREATE SCHEMA IF NOT EXISTS metrics_gate;
			CREATE TABLE IF NOT EXISTS metrics_gate.migration (
				level   integer     NOT NULL PRIMARY KEY,
				applied timestamptz NOT NULL DEFAULT now()
			)`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, count).Scan(&level); err != nil {
			return err
		}
		pending, err := pendingMigrations("postgres", level)
		if err != nil {
			return err
		}
		for _, m := range pending {
			if _, err := tx.Exec(ctx, m.text); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			if _, err := tx.Exec(ctx, `INSERT INTO metrics_gate.migration (level) VALUES ($1)`, m.level); err != nil {
				return err
			}
		}
		return nil
	})
}

// discreet returns an error that names nobody: the details of one from the
// server can hold a row, and so a uid.
func discreet(err error) error {
	if err == nil {
		return nil
	}
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) {
		said.Detail, said.Where, said.InternalQuery = "", "", ""
	}
	return fmt.Errorf("PostgreSQL: %w", troubled(err))
}

// within calls f with a context that ends before a request's caller gives up,
// be the server dead.
func within(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return discreet(f(ctx))
}

// closeConn says goodbye to a server that may be gone.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server forgets it all the same
}

// Close lets go of the database, as soon as the queries under way have ended.
// Requests that come to theirs later fail.
func (p *Postgres) Close() {
	p.stop()
	p.owned.Wait()
	p.feed.Interrupt()
	p.pool.Close()
}

// listen learns of the changes that all instances make, this one included, and
// tells them to the feed, until ctx ends. While it cannot, nobody may follow:
// a change that goes untold is one that a gate misses.
func (p *Postgres) listen(ctx context.Context) {
	pause := backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
	}
	failing := false
	for {
		err := p.hearAll(ctx, func() {
			pause.Reset()
			if failing {
				failing = false
				p.health(nil)
			}
		})
		p.feed.Interrupt()
		if ctx.Err() != nil {
			return
		}
		if !failing {
			failing = true
			p.health(discreet(err))
		}
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

// hearAll connects, brings the database up to date, and listens until that
// fails. It calls begun when it hears.
func (p *Postgres) hearAll(ctx context.Context, begun func()) error {
	config := p.pool.Config().ConnConfig
	if err := p.pooler.adapt(ctx, config); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if err := migratePostgres(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	origin, err := originOf(ctx, conn)
	if err != nil {
		return err
	}
	// Changes after this one are heard.
	head, err := headOf(ctx, conn, origin)
	if err != nil {
		return err
	}
	p.feed.Begin(head, origin)
	begun()
	for missed := false; ; {
		notified, err := p.tellFor(ctx, conn, askEvery)
		if err != nil {
			return err
		}
		p.hearing.judge(notified, missed)
		if p.hearing.deaf.Load() {
			p.tellDeaf.Do(func() { p.health(ErrNotNotified) })
		}
		head, err := headOf(ctx, conn, origin)
		if err != nil {
			return err
		}
		if head < p.feed.head() {
			return errSetBack
		}
		missed = head > p.feed.head()
		if err := p.feed.Advance(ctx, head); err != nil {
			return err
		}
	}
}

// ErrNotNotified is what a store's health is told, once, where a database does
// not notify it of changes. It goes on by asking.
var ErrNotNotified = errors.New("PostgreSQL's notices do not arrive, as behind a pooler in transaction mode: changes are asked for every second instead; " +
	"name the database itself in the DSN, or a pool in session mode, to have them told at once")

// Notified reports whether the store is notified of changes as they are made. If
// not, it asks for them every second.
func (p *Postgres) Notified() bool { return !p.hearing.deaf.Load() }

// hearing tells whether notices arrive.
type hearing struct {
	deaf   atomic.Bool
	inTurn int // seconds in which notices came, since one in which they should have
}

// notByChance is how many of those seconds it takes to be no longer deaf. Behind a
// pooler in transaction mode some notices do arrive: while it asks, the connection
// that listens is served by one that others listened by.
const notByChance = 60

// judge learns whether any notice came in the last second, and whether one was missed
// before: a change was there already, of which none had come. One that was missed and
// does not come in another second either is lost, as a pooler loses them, which gives
// the connection that listens to others.
func (h *hearing) judge(notified, missed bool) {
	switch {
	case notified:
		if h.inTurn++; h.inTurn == notByChance {
			h.deaf.Store(false)
		}
	case missed:
		h.inTurn = 0
		h.deaf.Store(true)
	}
}

// tellFor tells the feed what notices say, for so long, and reports whether any
// came.
func (p *Postgres) tellFor(ctx context.Context, conn *pgx.Conn, long time.Duration) (notified bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	for {
		heard, err := conn.WaitForNotification(waiting)
		if err != nil {
			if conn.IsClosed() || ctx.Err() != nil {
				return notified, err
			}
			return notified, nil
		}
		notified = true
		var n notice
		if err := json.Unmarshal([]byte(heard.Payload), &n); err != nil {
			return notified, err
		}
		if n.UID != nil {
			p.feed.tell(ctx, n.update())
		} else if err := p.feed.Advance(ctx, n.ID); err != nil {
			return notified, err
		}
	}
}

// originOf returns the number from which on the server counts the changes. Where
// another one counted before, as after a failover or a restart, it begins anew, far
// from there: the other may have told changes that this one never received, or lost
// in a crash, and whoever was told them must learn of it.
func originOf(ctx context.Context, conn *pgx.Conn) (origin int64, err error) {
	var counts bool
	err = conn.QueryRow(ctx, `SELECT origin, server = pg_postmaster_start_time() FROM metrics_gate.feed`).Scan(&origin, &counts)
	if err != nil || counts {
		return origin, err
	}
	if _, err := conn.Exec(ctx, `
		UPDATE metrics_gate.feed SET server = pg_postmaster_start_time(), origin = head + $1, head = head + $1
		WHERE server <> pg_postmaster_start_time()`, int64(apart)); err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT origin FROM metrics_gate.feed`).Scan(&origin)
	return origin, err
}

// errSetBack says that the database is another than a moment ago, or an earlier
// state of it.
var errSetBack = errors.New("another database server has taken over, or the database was set back")

// headOf asks for the number of the last change, of the server that counts from
// this origin on.
func headOf(ctx context.Context, conn *pgx.Conn, origin int64) (head int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err = conn.QueryRow(ctx, `SELECT head FROM metrics_gate.feed WHERE origin = $1 AND server = pg_postmaster_start_time()`, origin).Scan(&head)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errSetBack // behind a pooler the connection outlives the server
	}
	return head, err
}

// notice is what instances tell one another: an update, or, without a uid,
// that there are changes up to this number. The uid is bytes, which JSON has
// in base64.
type notice struct {
	ID         int64             `json:"id"`
	UID        []byte            `json:"uid,omitempty"`
	Preference policy.Preference `json:"metrics_optout,omitzero"`
	Changed    int64             `json:"changed,omitempty"`
	Source     string            `json:"source,omitempty"`
	Deleted    bool              `json:"deleted,omitempty"`
}

func noticeOf(u Change) notice {
	return notice{u.ID, []byte(u.UID), u.Preference, u.Changed.UnixMilli(), u.Source, u.Deleted}
}

func (n notice) update() Change {
	r := Record{Preference: n.Preference, changed: n.Changed, Source: n.Source}
	u := r.update(n.ID, string(n.UID))
	u.Deleted = n.Deleted
	return u
}

// moment is what the database says besides a record.
type moment struct {
	head int64 // the number of the last change of any account
	now  int64 // the time, in milliseconds since 1970
}

// find reads what is held of an account. The time is the database's, so that
// it is one for all instances. Of a table that was never analysed PostgreSQL
// expects a thousand rows, for which it would read all of the deleted accounts:
// with LIMIT, it knows that there is one.
const find = `
	SELECT head, clock_timestamp(), key, coalesce(deleted.at, 0), preference, changed, said - span, said, source
	FROM (SELECT head, key FROM metrics_gate.feed, metrics_gate.secret LIMIT 1) AS store
		LEFT JOIN metrics_gate.preference ON uid = $1 LEFT JOIN metrics_gate.deleted ON uid_hash = sha256(key || $2)`

// asked is what find is asked with.
func asked(uid string) []any {
	sum := sha256.Sum256([]byte(uid))
	return []any{[]byte(uid), sum[:]}
}

// found reads what find finds.
func found(row pgx.Row) (held Record, at moment, err error) {
	var (
		now      time.Time
		key      []byte
		optedOut *bool
		changed  *int64
		from, to *int64
		source   *string
	)
	if err := row.Scan(&at.head, &now, &key, &held.deleted, &optedOut, &changed, &from, &to, &source); err != nil {
		return Record{}, moment{}, err
	}
	at.now = now.UnixMilli()
	held.Preference = preferenceOf(optedOut)
	if changed != nil {
		held.Source, held.changed, held.said = *source, *changed, span{*from, *to}
	}
	copy(held.secret[:], key)
	return held, at, nil
}

// Get returns what is held of an account.
func (p *Postgres) Get(ctx context.Context, uid string) (held Record, err error) {
	err = within(ctx, func(ctx context.Context) error {
		held, _, err = found(p.pool.QueryRow(ctx, find, asked(uid)...))
		return err
	})
	return held, err
}

// Ping reports whether preferences can be written.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.written.ask(ctx, func(ctx context.Context) error {
		return p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, _ Record, at moment) error {
			_, err := tx.Exec(ctx, `UPDATE metrics_gate.health SET at = $1`, at.now)
			return err
		})
	})
}

// Level returns the level of an up-to-date store.
func (p *Postgres) Level() int { return level("postgres") }

// beginning returns what begins a transaction, each statement of which sees what
// was committed before it: find, what was before the lock was had. It sets limits,
// but for those that the connection string sets. A writer that vanishes in the
// middle of a transaction holds up all others until the server gives up on it; and
// whoever waits for one hears that it is the lock, before patience ends. They are
// no parameters of the connection, which a pooler in between may refuse, and may
// not keep.
func beginning(config *pgxpool.Config) string {
	statements := []string{`BEGIN ISOLATION LEVEL READ COMMITTED`}
	for _, limit := range [][2]string{{"idle_in_transaction_session_timeout", "10s"}, {"lock_timeout", "4s"}} {
		if _, set := config.ConnConfig.RuntimeParams[limit[0]]; !set {
			statements = append(statements, fmt.Sprintf(`SET LOCAL %s = '%s'`, limit[0], limit[1]))
		}
	}
	return strings.Join(statements, `; `)
}

// write calls f with a transaction that nobody else writes beside, in which
// what is held of the account, and the moment, were found. Who writes locks
// the one row of the feed first: so numbers come in the order of the commits.
func (p *Postgres) write(ctx context.Context, uid string, f func(ctx context.Context, tx pgx.Tx, held Record, at moment) error) (err error) {
	if err := p.writing.lock(ctx); err != nil {
		return troubled(err)
	}
	defer p.writing.unlock()
	defer func() {
		if ctx.Err() == nil { // or it is the caller who did not wait
			p.written.tell(err)
		}
	}()
	return within(ctx, func(ctx context.Context) error {
		return pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{BeginQuery: p.begin}, func(tx pgx.Tx) (err error) {
			var held Record
			var at moment
			first := &pgx.Batch{}
			first.Queue(`SELECT FROM metrics_gate.feed FOR UPDATE`)
			first.Queue(find, asked(uid)...).QueryRow(func(row pgx.Row) error {
				held, at, err = found(row)
				return err
			})
			if err := tx.SendBatch(ctx, first).Close(); err != nil {
				return err
			}
			return f(ctx, tx, held, at)
		})
	})
}

// sees remembers an event and reports whether it is new. None is.
func sees(ctx context.Context, tx pgx.Tx, event string, held Record, at moment) (bool, error) {
	if event == "" {
		return true, nil
	}
	done, err := tx.Exec(ctx, `INSERT INTO metrics_gate.event (jti_hash, seen) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		held.secret.hash(event), at.now)
	return done.RowsAffected() > 0, err
}

// finish sends the last statements of a transaction, and the notice that all
// instances get when they are committed, at once.
func finish(ctx context.Context, tx pgx.Tx, statements *pgx.Batch, n notice) error {
	if err := notify(statements, n); err != nil {
		return err
	}
	return tx.SendBatch(ctx, statements).Close()
}

func notify(statements *pgx.Batch, n notice) error {
	text, err := json.Marshal(n)
	if err == nil {
		statements.Queue(`SELECT pg_notify($1, $2)`, channel, string(text))
	}
	return err
}

// Set records a choice. To set what is set already changes nothing.
func (p *Postgres) Set(ctx context.Context, uid string, c Choice) (after Record, came Result, err error) {
	if c, err = c.complete(); err != nil {
		return Record{}, Unchanged, err
	}
	err = p.write(ctx, uid, func(ctx context.Context, tx pgx.Tx, before Record, at moment) error {
		if fresh, err := sees(ctx, tx, c.Event, before, at); err != nil || !fresh {
			return err
		}
		if after, came = c.decide(before, at.now); came != Changed {
			if after.said != before.said {
				_, err := tx.Exec(ctx, `UPDATE metrics_gate.preference SET said = $2, span = $3 WHERE uid = $1`,
					[]byte(uid), after.said.to, after.said.length())
				return err
			}
			return nil
		}
		statements := &pgx.Batch{}
		statements.Queue(`
			INSERT INTO metrics_gate.preference (uid, preference, changed, said, span, source, seq) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = excluded.changed,
				said = excluded.said, span = excluded.span, source = excluded.source, seq = excluded.seq`,
			[]byte(uid), optedOut(after.Preference), after.changed, after.said.to, after.said.length(), after.Source, at.head+1)
		statements.Queue(`UPDATE metrics_gate.feed SET head = $1`, at.head+1)
		if after.Preference == policy.OptedOut {
			statements.Queue(`
				WITH first AS (
					INSERT INTO metrics_gate.counted AS c (uid, day) VALUES ($1, $2)
					ON CONFLICT (uid) DO UPDATE SET day = excluded.day, origin = NULL WHERE c.day < excluded.day RETURNING day
				)
				INSERT INTO metrics_gate.daily AS d (day, users) SELECT day, 1 FROM first
				ON CONFLICT (day) DO UPDATE SET users = d.users + 1`,
				[]byte(uid), day(time.UnixMilli(at.now)))
		}
		return finish(ctx, tx, statements, noticeOf(after.update(at.head+1, uid)))
	})
	return after, came, err
}

// Delete forgets an account.
func (p *Postgres) Delete(ctx context.Context, uid, event string) (came Result, err error) {
	err = p.write(ctx, uid, func(ctx context.Context, tx pgx.Tx, held Record, at moment) error {
		if fresh, err := sees(ctx, tx, event, held, at); err != nil || !fresh {
			return err
		}
		statements := &pgx.Batch{}
		statements.Queue(`DELETE FROM metrics_gate.counted WHERE uid = $1`, []byte(uid))
		statements.Queue(`
			INSERT INTO metrics_gate.deleted AS d (uid_hash, at) VALUES ($1, $2)
			ON CONFLICT (uid_hash) DO UPDATE SET at = greatest(d.at + 1, excluded.at)`, held.secret.hash(uid), at.now)
		if held.Source == "" { // there is no row
			return tx.SendBatch(ctx, statements).Close()
		}
		came = Changed
		statements.Queue(`DELETE FROM metrics_gate.preference WHERE uid = $1`, []byte(uid))
		statements.Queue(`UPDATE metrics_gate.feed SET head = $1`, at.head+1)
		return finish(ctx, tx, statements, notice{ID: at.head + 1, UID: []byte(uid), Preference: policy.Unset, Deleted: true})
	})
	return came, err
}

// Follow begins to tell changes.
func (p *Postgres) Follow(after int64) (*Follower, error) {
	return p.feed.Follow(after)
}

// changes reads the rows that changed after the change with this number.
func (p *Postgres) changes(ctx context.Context, after int64, limit int) (updates []Change, err error) {
	err = within(ctx, func(ctx context.Context) error {
		rows, err := p.pool.Query(ctx, `
			SELECT seq, uid, preference, changed, source FROM metrics_gate.preference
			WHERE seq > $1 ORDER BY seq LIMIT $2`, after, limit)
		if err != nil {
			return err
		}
		updates, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Change, error) {
			var (
				id       int64
				uid      []byte
				optedOut *bool
				r        Record
			)
			err := row.Scan(&id, &uid, &optedOut, &r.changed, &r.Source)
			r.Preference = preferenceOf(optedOut)
			return r.update(id, string(uid)), err
		})
		return err
	})
	return updates, err
}

// tidy drops what is kept for a while only: who was counted on a day that is
// over, and the events of last week.
func (p *Postgres) tidy(ctx context.Context) error {
	return within(ctx, func(ctx context.Context) error {
		_, at, err := found(p.pool.QueryRow(ctx, find, asked("")...))
		if err != nil {
			return err
		}
		now := time.UnixMilli(at.now)
		if _, err := p.pool.Exec(ctx, `DELETE FROM metrics_gate.counted WHERE day < $1`, day(now)); err != nil {
			return err
		}
		oldest := now.Add(-rememberedFor).UnixMilli()
		if _, err := p.pool.Exec(ctx, `DELETE FROM metrics_gate.deleted WHERE at < $1`, oldest); err != nil {
			return err
		}
		_, err = p.pool.Exec(ctx, `DELETE FROM metrics_gate.event WHERE seen < $1`, oldest)
		return err
	})
}

// Daily returns how many users recorded an opt-out, by day.
func (p *Postgres) Daily(ctx context.Context, from, to time.Time) (counts []DailyCount, err error) {
	first := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC) // before it, PostgreSQL writes days in another way
	if to.Before(first) {
		return nil, nil
	}
	if from.Before(first) {
		from = first
	}
	err = within(ctx, func(ctx context.Context) error {
		rows, err := p.pool.Query(ctx, `
			SELECT to_char(day, 'YYYY-MM-DD'), sum(users)::bigint
			FROM (SELECT day, users FROM metrics_gate.daily UNION ALL SELECT day, users - twice FROM metrics_gate.daily_moved) AS all_of
			WHERE day BETWEEN $1 AND $2 GROUP BY day ORDER BY day`, day(from), day(to))
		if err != nil {
			return err
		}
		counts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[DailyCount])
		return err
	})
	return counts, err
}

// Import records rows.
func (p *Postgres) Import(ctx context.Context, rows iter.Seq2[Row, error], progress func(Imported)) (Imported, error) {
	return importRows(ctx, rows, p.store, progress)
}

// store records a batch of rows, whose accounts differ.
func (p *Postgres) store(ctx context.Context, batch []Row) (changed int64, err error) {
	n := len(batch)
	uids, preferences, times, sources := make([][]byte, n), make([]*bool, n), make([]int64, n), make([]string, n)
	for i, row := range batch {
		uids[i], preferences[i], times[i], sources[i] = []byte(row.UID), optedOut(row.Preference), math.MaxInt64, row.Source
		if !row.Changed.IsZero() {
			times[i] = row.Changed.UnixMilli()
		}
	}
	err = p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, _ Record, at moment) error {
		done, err := tx.Exec(ctx, `
			INSERT INTO metrics_gate.preference AS p (uid, preference, changed, said, source, seq)
			SELECT uid, preference, least(changed, $5), least(changed, $5), source, $6 + n
			FROM unnest($1::bytea[], $2::boolean[], $3::bigint[], $4::text[]) WITH ORDINALITY
				AS row (uid, preference, changed, source, n)
			WHERE NOT EXISTS (SELECT FROM metrics_gate.deleted, metrics_gate.secret
				WHERE uid_hash = sha256(key || sha256(uid)) AND at >= least(changed, $5))
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = greatest(excluded.changed, p.changed + 1),
				said = excluded.said, span = 0, source = excluded.source, seq = excluded.seq
			WHERE p.said < excluded.said OR p.said - p.span <= excluded.said AND (excluded.preference AND p.preference IS NOT TRUE
				OR excluded.preference IS NULL AND NOT p.preference)`,
			uids, preferences, times, sources, at.now, at.head)
		if changed = done.RowsAffected(); err != nil || changed == 0 {
			return err
		}
		head := at.head + int64(n)
		statements := &pgx.Batch{}
		statements.Queue(`UPDATE metrics_gate.feed SET head = $1`, head)
		return finish(ctx, tx, statements, notice{ID: head})
	})
	return changed, err
}

// Export returns all rows. One statement sees one state of the database.
func (p *Postgres) Export(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		rows, err := p.pool.Query(ctx, `SELECT uid, preference, changed, source FROM metrics_gate.preference ORDER BY uid`)
		if err != nil {
			yield(Row{}, discreet(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var (
				uid      []byte
				optedOut *bool
				changed  int64
				source   string
			)
			if err := rows.Scan(&uid, &optedOut, &changed, &source); err != nil {
				yield(Row{}, discreet(err))
				return
			}
			preference := preferenceOf(optedOut)
			if !yield(Row{string(uid), preference, time.UnixMilli(changed).UTC(), source}, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Row{}, discreet(err))
		}
	}
}
