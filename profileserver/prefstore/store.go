// Package prefstore keeps the preference metrics_optout of accounts: in a SQLite
// file on one machine, or in a PostgreSQL database that several instances share.
// It tells all who follow it every change, counts who opted out on a day, and
// moves preferences in and out as CSV. What accounts hold, and what becomes of
// choices that come late, twice or at once, it decides for both databases alike.
//
// It does not ask who may read or write: it knows neither HTTP nor tokens, which
// are for package profileserver. And it is no place for anything else about a
// user: all it holds of an account is the choice, when it was made, and whether
// the user, a browser or an operator made it.
//
// A Go program opens a store by the name that an operator writes:
//
//	store, err := prefstore.Open(ctx, "/var/lib/metrics-gate/profile.db") // or postgres://…
//	…
//	defer store.Close()
//	_, _, err = store.Set(ctx, uid, prefstore.Choice{Preference: policy.OptedOut, Source: prefstore.SourceUser})
//	…
//	held, err := store.Get(ctx, uid)
//	…
//	if held.Preference == policy.OptedOut {
package prefstore

import (
	"context"
	"iter"
	"regexp"
	"time"
)

// Store keeps preferences: a SQLite file on one machine, or a PostgreSQL
// database that several instances share. Both say the same about everything:
// one suite of tests runs against either.
//
// Another kind stands in a file of its own, beside sqlite.go and postgres.go. It
// asks Choice.decide, tells its Feed and takes rows from importRows, as they do;
// Open knows its name, and inEachStore has the suite run against it.
type Store interface {
	// Move brings what it holds to another store.
	movable

	// Get returns what is held of an account: policy.Unset of one that nobody
	// wrote anything of.
	Get(ctx context.Context, uid string) (Record, error)

	// Set records a choice, and returns what is held then and what came of it.
	// To set what is set already changes nothing. Between the question whether
	// the choice is still wanted and the write nobody else writes.
	Set(ctx context.Context, uid string, c Choice) (Record, Result, error)

	// Delete forgets an account: its preference, and that it was counted
	// today. That it did is known by a hash of the uid for some days: whoever
	// saw the account before sees another ETag after, and events from before
	// change nothing, so that what is under way does not bring it back. The
	// event is the jti of the security event that asks for it, or empty.
	Delete(ctx context.Context, uid, event string) (Result, error)

	// Ping reports whether preferences can be written, which is what a heartbeat
	// asks: by what became of the last write, or, where none was for some seconds,
	// by one of a row of the store's own.
	Ping(ctx context.Context) error

	// Notified reports whether the store learns of changes as they are made. If
	// not, it asks for them every second.
	Notified() bool

	// Level returns the level to which this version brings the store: the
	// number of its migrations.
	Level() int

	// Follow begins to tell changes: those after the one with this id, or
	// with a negative one those from now on. It is ErrFeedAway while the store
	// does not learn of changes.
	Follow(after int64) (*Follower, error)

	// Daily returns how many users recorded an opt-out on the days (UTC) from
	// the one to the other, both included. A user counts once a day. Days on
	// which nobody did are left out; DailyCounts has them.
	Daily(ctx context.Context, from, to time.Time) ([]DailyCount, error)

	// Import records rows, the newer of two choices of an account winning,
	// and calls progress after every batch that is safely stored. It stops at
	// the first error of rows, and when ctx ends, with what came before it stored.
	Import(ctx context.Context, rows iter.Seq2[Row, error], progress func(Imported)) (Imported, error)

	// Count returns of how many accounts something is held.
	Count(ctx context.Context) (int64, error)

	// Export returns all rows, in the order of their accounts, as they were
	// at one moment.
	Export(ctx context.Context) iter.Seq2[Row, error]

	// Close lets go of the store. Requests that a reload has left in flight
	// still work, or fail with an error.
	Close()
}

// postgresName is how a PostgreSQL connection string begins, in either of its
// two forms. No path to a file does.
var postgresName = regexp.MustCompile(`(?i)^\s*(postgres(ql)?://|[a-z_]+\s*=)`)

// IsPostgres says whether a store's name is a PostgreSQL connection string, and
// not the path of a SQLite file.
func IsPostgres(name string) bool { return postgresName.MatchString(name) }

// Open opens the store of this name: a PostgreSQL database by its connection
// string, or else a SQLite file by its path, which is made where there is none.
// The database answers, and is up to date, when Open returns. Close the store
// when it is no longer needed.
func Open(ctx context.Context, name string) (Store, error) {
	if !IsPostgres(name) {
		s, err := OpenSQLite(name, nil)
		if err != nil {
			return nil, err // and no Store that holds a nil
		}
		return s, nil
	}
	if err := connectAndMigrate(ctx, name); err != nil {
		return nil, err
	}
	p, err := OpenPostgres(name, nil)
	if err != nil {
		return nil, err
	}
	return p, nil
}
