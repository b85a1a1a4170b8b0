package profileserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// Store keeps preferences: a SQLite file on one machine, or a PostgreSQL
// database that several instances share. Both say the same about everything:
// one suite of tests runs against either.
type Store interface {
	// get returns what is held of an account.
	get(ctx context.Context, uid string) (record, error)

	// set records a change, and returns what is held then and what came of it.
	// Between the question whether its conditions hold and the write nobody
	// else writes.
	set(ctx context.Context, uid string, c change) (record, result, error)

	// remove forgets an account: its preference, and that it was counted
	// today. That it did is known by a hash of the uid for some days: whoever
	// saw the account before sees another ETag after, and events from before
	// change nothing, so that what is under way does not bring it back. The
	// event is the jti of the security event that asks for it, or empty.
	remove(ctx context.Context, uid, event string) (result, error)

	// Ping reports whether preferences can be read, which is what a heartbeat
	// asks.
	Ping(ctx context.Context) error

	// Level returns the level to which this version brings the store: the
	// number of its migrations.
	Level() int

	// follow begins to tell changes: those after the one with this id, or
	// with a negative one those from now on.
	follow(after int64) (*follower, error)

	// Daily returns how many users recorded an opt-out on the days (UTC) from
	// the one to the other, both included. A user counts once a day. Days on
	// which nobody did are left out.
	Daily(ctx context.Context, from, to time.Time) ([]DailyCount, error)

	// Import records rows, the newer of two choices of an account winning,
	// and calls progress after every batch that is safely stored. It stops at
	// the first error of rows, with what came before it stored.
	Import(ctx context.Context, rows iter.Seq2[Row, error], progress func(Imported)) (Imported, error)

	// Export returns all rows, in the order of their accounts, as they were
	// at one moment.
	Export(ctx context.Context) iter.Seq2[Row, error]

	// Close lets go of the store. Requests that a reload has left in flight
	// still work, or fail with an error.
	Close()
}

// change is a preference to be recorded.
type change struct {
	preference policy.Preference
	source     string // one of those below

	// made is when the user made the choice, where that was elsewhere and
	// before: a choice that was recorded since stays. A time that is still to
	// come counts as now. Zero is now, by the store's own clock.
	made time.Time

	// holds says whether the change is still wanted, given the tag of what is
	// held now. It is nil where it always is.
	holds func(etag string) bool

	// event is the jti of the security event that this change comes from, or
	// empty. An event that was seen before changes nothing.
	event string
}

// decide says what comes of the change where this is held of the account at
// the time now, by the store's clock, and what is held of it then.
func (c change) decide(held record, now int64) (record, result) {
	if c.holds != nil && !c.holds(held.etag()) {
		return held, setRefused
	}
	said := now
	if !c.made.IsZero() {
		if said = c.made.UnixMilli(); said <= max(held.said, held.deleted) {
			return held, setUnchanged
		}
		said = min(said, now)
	}
	// Two changes never share a time, even within one millisecond or under a
	// clock that was set back: the tag depends on it.
	changed := max(said, held.changed+1)
	said = max(said, held.said)
	if held.preference != c.preference {
		return record{preference: c.preference, changed: changed, said: max(said, changed), source: c.source}, setChanged
	}
	if held.source != "" {
		// What was chosen in between, and arrives after, is not the last word.
		held.said = said
	}
	return held, setUnchanged
}

// result says what came of a change.
type result uint8

const (
	// setUnchanged: it was so already, or is older than what is held, or is
	// an event that was seen before.
	setUnchanged result = iota
	// setChanged: it is recorded, and safely on the disk.
	setChanged
	// setRefused: its condition did not hold.
	setRefused
)

// DailyCount is the number of users who recorded an opt-out on a day.
type DailyCount struct {
	Day   time.Time // midnight, UTC
	Users int64
}

// Row is an account's preference for import and export.
type Row struct {
	UID        string
	Preference policy.Preference
	// Changed is when the choice was made. Zero, on import: now.
	Changed time.Time
	// Source is user, browser or admin. Empty, on import: admin.
	Source string
}

// Imported counts the rows of an import.
type Imported struct {
	Read    int64 // rows read
	Changed int64 // of them, those that changed what was held
}

// update is one change as the feed tells it.
type update struct {
	id         int64 // grows by one with every change of the store
	uid        string
	preference policy.Preference // Unset where deleted
	changed    time.Time
	source     string
	deleted    bool
}

// postgresName is how a PostgreSQL connection string begins, in either of its
// two forms. No path to a file does.
var postgresName = regexp.MustCompile(`(?i)^\s*(postgres(ql)?://|[a-z_]+\s*=)`)

// IsPostgres says whether a store's name is a PostgreSQL connection string, and
// not the path of a SQLite file.
func IsPostgres(name string) bool { return postgresName.MatchString(name) }

// OpenStore opens the store that a command's user names: a PostgreSQL database
// by its connection string, or else a SQLite file by its path. The database
// answers, and is up to date, when OpenStore returns.
func OpenStore(ctx context.Context, name string) (Store, error) {
	if !IsPostgres(name) {
		s, err := OpenSQLite(name, nil)
		if err != nil {
			return nil, err // and no Store that holds a nil
		}
		return s, nil
	}
	if err := Migrate(ctx, name); err != nil {
		return nil, err
	}
	p, err := OpenPostgres(name, nil)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// patience is how long a request waits for its turn, and for a database that
// does not answer, before it fails.
const patience = 5 * time.Second

// turn, of capacity one, lets one writer of an instance through at a time: a
// store knows only one, and the others would wait on connections that readers
// could use.
type turn chan struct{}

var errBusy = errors.New("others were writing all the time; see who keeps the database locked")

func (t turn) take(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errBusy)
	defer cancel()
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) give() { <-t }

// tell publishes a change that is safely stored. Those before it that another
// instance made are told first; where they cannot be read, the feed has its
// followers read them.
func tell(ctx context.Context, f *feed, u update) {
	if u.id > f.head()+1 {
		_ = f.advance(context.WithoutCancel(ctx), u.id-1)
	}
	f.publish(u)
}

// rememberedFor is how long the hashes of events and of deleted accounts are
// kept. FxA delivers an event again for hours, not for days.
const rememberedFor = 7 * 24 * time.Hour

// hash is what is kept of an event that was seen, and of an account that was
// deleted.
func hash(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	return sum[:]
}

// day names the day (UTC) of a time, as it is stored.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// keepTidy calls tidy at once and then every minute, until ctx ends. Of
// failures in a row the third is told: who was counted yesterday counts for
// nothing, but must not be kept.
func keepTidy(ctx context.Context, tidy func(context.Context) error, failed func(error)) {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for failures := 0; ; {
		if err := tidy(ctx); err == nil {
			failures = 0
		} else if failures++; failures == 3 && ctx.Err() == nil {
			failed(fmt.Errorf("what is kept for some days only cannot be deleted: %w", err))
		}
		select {
		case <-minute.C:
		case <-ctx.Done():
			return
		}
	}
}

// importBatch is how many rows are stored at once: enough that the disk is not
// waited for with each, and few enough that writers in between hardly wait.
const importBatch = 1000

// importRows gathers rows into batches and has each stored. Of several rows of
// an account in a batch the newest is in it alone; without a time, that is the
// last.
func importRows(ctx context.Context, rows iter.Seq2[Row, error], store func(context.Context, []Row) (changed int64, err error), progress func(Imported)) (done Imported, err error) {
	batch := make([]Row, 0, importBatch)
	index := make(map[string]int, importBatch) // into batch, by account
	read := int64(0)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		changed, err := store(ctx, batch)
		if err != nil {
			return err
		}
		done.Read, done.Changed = read, done.Changed+changed
		batch = batch[:0]
		clear(index)
		if progress != nil {
			progress(done)
		}
		return nil
	}
	for row, err := range rows {
		if err != nil {
			err = errors.Join(err, flush())
			return done, err
		}
		read++
		if row.Source == "" {
			row.Source = optoutapi.SourceAdmin
		}
		if i, twice := index[row.UID]; !twice {
			index[row.UID] = len(batch)
			batch = append(batch, row)
		} else if row.Changed.IsZero() || !batch[i].Changed.IsZero() && row.Changed.After(batch[i].Changed) {
			batch[i] = row
		}
		if len(batch) == importBatch {
			if err := flush(); err != nil {
				return done, err
			}
		}
	}
	err = flush()
	return done, err
}
