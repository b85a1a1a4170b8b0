package prefstore

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// pooler knows whether something stands between the store and its database that
// hands connections of its own from one client to the next, such as PgBouncer.
type pooler struct {
	there atomic.Pointer[bool] // nil until it is known
}

// adapt makes a connection's configuration fit for what stands in between. A
// statement that is prepared by name stays with one connection of a pooler in
// transaction mode, and is unknown on the next. It connects once to find out.
func (p *pooler) adapt(ctx context.Context, config *pgx.ConnConfig) error {
	if config.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return nil // the operator knows
	}
	there := p.there.Load()
	if there == nil {
		found, err := findPooler(ctx, config.Copy())
		if err != nil {
			return err
		}
		there = &found
		p.there.Store(there)
	}
	if *there {
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return nil
}

// findPooler reports whether the number by which the connection is to be cancelled
// is another than that of the process that serves it: a pooler makes one up. A
// pooler in statement mode fails it, since choices need transactions.
func findPooler(ctx context.Context, config *pgx.ConnConfig) (found bool, err error) {
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer closeConn(conn)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var pid uint32
		err := tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid)
		found = pid != conn.PgConn().PID()
		return err
	})
	return found, err
}
