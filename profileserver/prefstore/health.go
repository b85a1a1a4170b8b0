package prefstore

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// HealthError is why a store fails, where it is known what is to be done about it.
type HealthError struct {
	// State names what is wrong, the same for every request that fails of it.
	State string
	// Advice is what to do.
	Advice string
	// Err is what the database said.
	Err error
}

func (t *HealthError) Error() string { return t.State + "; " + t.Advice + ": " + t.Err.Error() }

func (t *HealthError) Unwrap() error { return t.Err }

// The results of SQLite that an operator can do something about
// (sqlite.org/rescode.html). Their kinds are told apart by higher bits.
const (
	sqliteBusy     = 5
	sqliteReadOnly = 8
	sqliteIOError  = 10
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteNotADB   = 26
)

var sqliteTroubles = map[int]HealthError{
	sqliteBusy: {State: "another process keeps the file locked",
		Advice: "find out which holds it open (fuser, lsof), such as a shell of sqlite3 in a transaction, and end it"},
	sqliteReadOnly: {State: "the file cannot be written",
		Advice: "let the user that runs Caddy write it and its folder, and see whether the file system is mounted read-only"},
	sqliteIOError: {State: "the disk fails", Advice: "see what the system's log says of it, and have a backup at hand"},
	sqliteFull:    {State: "the disk is full", Advice: "make room on it; nothing is lost that was acknowledged"},
	sqliteCantOpen: {State: "the file cannot be opened",
		Advice: "see whether it and its folder are still there, whether it is a file, and whether the user that runs Caddy may enter the folder"},
	sqliteNotADB: {State: "the file is no SQLite database", Advice: "name the file that store sqlite has in the Caddyfile, or a new one"},
}

// PostgreSQL's error codes (its manual, appendix A).
const (
	undefinedTable   = "42P01"
	undefinedSchema  = "3F000"
	notPermitted     = "42501"
	diskFull         = "53100"
	readOnly         = "25006"
	lockNotAvailable = "55P03"
	cannotConnectNow = "57P03"
	tooMany          = "53300"
)

var postgresTroubles = map[string]HealthError{
	diskFull: {State: "the database server's disk is full", Advice: "make room on it; nothing is lost that was acknowledged"},
	readOnly: {State: "the database only reads",
		Advice: "it is a standby in recovery, or default_transaction_read_only is on: name the primary in the DSN, or all servers with target_session_attrs=read-write"},
	lockNotAvailable: {State: "another transaction keeps the store locked",
		Advice: "find it by SELECT pg_blocking_pids(pid), * FROM pg_stat_activity, and end it"},
	cannotConnectNow: {State: "the database server is starting or stopping", Advice: "wait for it, or see what its log says"},
	notPermitted: {State: "the database's role may not do this",
		Advice: "run caddy metrics-gate migrate as a role that may create the schema metrics_gate, and grant this one its usage and SELECT, INSERT, UPDATE, DELETE on all its tables"},
	tooMany: {State: "the database takes no more connections", Advice: "raise max_connections, or put pool_max_conns into the DSN"},
}

// troubled returns an error as HealthError, where it is known as one.
func troubled(err error) error {
	var known HealthError
	if said := (*sqlite.Error)(nil); errors.As(err, &said) {
		known = sqliteTroubles[said.Code()&0xff]
	}
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) {
		known = postgresTroubles[said.Code]
		if strings.Contains(said.Message, "statement pooling mode") { // PgBouncer's code is of any protocol error
			known = HealthError{State: "the pooler in front of the database is in statement mode, in which there are no transactions",
				Advice: "write pool_mode = transaction or session for this database"}
		}
	}
	if said := (*pgconn.ConnectError)(nil); known.State == "" && errors.As(err, &said) {
		known = unconnected(said)
	}
	if errors.Is(err, errBusy) {
		known = HealthError{State: "another process or a long transaction keeps the store locked", Advice: "find out which, and end it"}
	}
	if known.State == "" {
		return err
	}
	known.Err = err
	return &known
}

// unconnected is why there is no connection to PostgreSQL, where it is known what is to
// be done about it.
func unconnected(err *pgconn.ConnectError) HealthError {
	if strings.Contains(err.Error(), "server refused TLS connection") { // which has no type
		return HealthError{State: "the database server takes no TLS",
			Advice: "switch it on there (ssl = on), or write sslmode=disable into the DSN where nobody else is on the way"}
	}
	if network, ok := errors.AsType[*net.OpError](err); ok && network.Op == "dial" {
		return HealthError{State: "the database server cannot be reached",
			Advice: "see whether it runs, and whether host and port of the DSN lead to it from this machine"}
	}
	return HealthError{}
}

// provenFor is how long a write that succeeded, or one that failed, says whether
// the store can be written.
const provenFor = 5 * time.Second

// proof remembers whether a store could be written a moment ago. Every write
// tells it; who asks when none did has one made.
type proof struct {
	mu   sync.Mutex // of the rest
	at   time.Time
	err  error
	turn chan struct{} // of capacity one: held by who has a write made
}

// tell takes what became of a write.
func (p *proof) tell(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.err = time.Now(), err
}

func (p *proof) known() (known bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.at) < provenFor, p.err
}

// ask says whether the store can be written, by a write where nobody knows.
func (p *proof) ask(ctx context.Context, write func(context.Context) error) error {
	if known, err := p.known(); known {
		return err
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	if known, err := p.known(); known {
		return err
	}
	return write(ctx)
}
