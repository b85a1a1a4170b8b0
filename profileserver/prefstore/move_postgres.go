package prefstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/metricsgate/metricsgate/policy"
)

func (p *Postgres) origin(ctx context.Context) (o origin, err error) {
	err = within(ctx, func(ctx context.Context) error {
		var key []byte
		err := p.pool.QueryRow(ctx, `SELECT id, key, head FROM metrics_gate.origin, metrics_gate.secret, metrics_gate.feed`).Scan(&o.id, &key, &o.head)
		copy(o.secret[:], key)
		return err
	})
	return o, err
}

// Count returns of how many accounts something is held.
func (p *Postgres) Count(ctx context.Context) (n int64, err error) {
	// Which takes its time where there are many.
	err = p.pool.QueryRow(ctx, `SELECT count(*) FROM metrics_gate.preference`).Scan(&n)
	return n, discreet(err)
}

// readPage returns what a query finds.
func readPage[T any](ctx context.Context, p *Postgres, scan pgx.RowToFunc[T], query string, args ...any) (page []T, err error) {
	err = within(ctx, func(ctx context.Context) error {
		rows, err := p.pool.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, scan)
		return err
	})
	return page, err
}

func scanUIDEntry(row pgx.CollectableRow) (e entry, err error) {
	var uid []byte
	e.Record, err = scanEntry(row.Scan, &uid)
	e.uid = string(uid)
	return e, err
}

func (p *Postgres) entries(ctx context.Context, after string) ([]entry, error) {
	return readPage(ctx, p, scanUIDEntry, `
		SELECT uid, `+entryColumns+` FROM metrics_gate.preference CROSS JOIN metrics_gate.secret
			LEFT JOIN metrics_gate.deleted ON uid_hash = sha256(key || sha256(uid))
		WHERE uid > $1 ORDER BY uid LIMIT $2`, []byte(after), movedPage)
}

func (p *Postgres) deletions(ctx context.Context, uids []string) ([]deletion, error) {
	return readPage(ctx, p, func(row pgx.CollectableRow) (d deletion, err error) {
		var uid []byte
		err = row.Scan(&uid, &d.at)
		d.uid = string(uid)
		return d, err
	}, `
		SELECT uid, at FROM unnest($1::bytea[]) AS asked (uid) CROSS JOIN metrics_gate.secret
			JOIN metrics_gate.deleted ON uid_hash = sha256(key || sha256(uid))`, asBytes(uids))
}

func asBytes(uids []string) [][]byte {
	all := make([][]byte, len(uids))
	for i, uid := range uids {
		all[i] = []byte(uid)
	}
	return all
}

func (p *Postgres) hashes(ctx context.Context, table hashTable, after []byte) ([]hashed, error) {
	if after == nil {
		after = []byte{} // NULL is before nothing
	}
	return readPage(ctx, p, func(row pgx.CollectableRow) (h hashed, err error) {
		err = row.Scan(&h.hash, &h.at)
		return h, err
	}, fmt.Sprintf(`SELECT %[2]s, %[3]s FROM metrics_gate.%[1]s WHERE %[2]s > $1 ORDER BY %[2]s LIMIT $2`, table.name, table.hash, table.at), after, movedPage)
}

func (p *Postgres) days(ctx context.Context) (map[dayOf]dayCount, error) {
	days := map[dayOf]dayCount{}
	_, err := readPage(ctx, p, func(row pgx.CollectableRow) (struct{}, error) {
		var id []byte
		var day string
		var count dayCount
		err := row.Scan(&id, &day, &count.users, &count.twice)
		days[dayOf{string(id), day}] = count
		return struct{}{}, err
	}, `
		SELECT origin, to_char(day, 'YYYY-MM-DD'), sum(users)::bigint, sum(twice)::bigint FROM (
			SELECT id AS origin, day, users, 0 AS twice FROM metrics_gate.daily, metrics_gate.origin
			UNION ALL SELECT origin, day, users, twice FROM metrics_gate.daily_moved
		) AS all_of GROUP BY origin, day`)
	return days, err
}

func (p *Postgres) users(ctx context.Context, after string) ([]countedUser, error) {
	return readPage(ctx, p, func(row pgx.CollectableRow) (u countedUser, err error) {
		var uid []byte
		err = row.Scan(&uid, &u.day, &u.origin)
		u.uid = string(uid)
		return u, err
	}, `
		SELECT uid, to_char(day, 'YYYY-MM-DD'), coalesce(c.origin, id) FROM metrics_gate.counted AS c, metrics_gate.origin
		WHERE uid > $1 ORDER BY uid LIMIT $2`, []byte(after), movedPage)
}

func (p *Postgres) prepare(ctx context.Context, key secret, head int64) error {
	return p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, _ Record, at moment) error {
		if _, err := tx.Exec(ctx, `
			UPDATE metrics_gate.secret SET key = $1 WHERE NOT EXISTS (SELECT FROM metrics_gate.preference)
				AND NOT EXISTS (SELECT FROM metrics_gate.deleted) AND NOT EXISTS (SELECT FROM metrics_gate.event)`, key[:]); err != nil {
			return err
		}
		if at.head >= head-leeway {
			return nil
		}
		return advance(ctx, tx, &pgx.Batch{}, head)
	})
}

// advance ends a transaction after which the last change has this number.
func advance(ctx context.Context, tx pgx.Tx, statements *pgx.Batch, head int64) error {
	statements.Queue(`UPDATE metrics_gate.feed SET head = $1`, head)
	return finish(ctx, tx, statements, notice{ID: head})
}

// standing reads what is held of these accounts, which may be nothing, with their
// deletions in any case.
func standing(ctx context.Context, tx pgx.Tx, uids [][]byte) ([]entry, error) {
	rows, err := tx.Query(ctx, `
		SELECT asked.uid, `+entryColumns+` FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (uid, n)
			CROSS JOIN metrics_gate.secret
			LEFT JOIN metrics_gate.preference AS p ON p.uid = asked.uid
			LEFT JOIN metrics_gate.deleted ON uid_hash = sha256(key || sha256(asked.uid))
		ORDER BY n`, uids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanUIDEntry)
}

func (p *Postgres) merge(ctx context.Context, entries []entry) (changed int64, err error) {
	err = p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, _ Record, at moment) error {
		held, err := standing(ctx, tx, asBytes(uidsOf(entries)))
		if err != nil {
			return err
		}
		var (
			uids                  [][]byte
			preferences           []*bool
			changes, saids, spans []int64
			sources               []string
		)
		for i, e := range entries {
			after := held[i].merge(e.Record)
			if after == held[i].Record {
				continue
			}
			uids, preferences, sources = append(uids, []byte(e.uid)), append(preferences, optedOut(after.Preference)), append(sources, after.Source)
			changes, saids, spans = append(changes, after.changed), append(saids, after.said.to), append(spans, after.said.length())
		}
		if changed = int64(len(uids)); changed == 0 {
			return nil
		}
		statements := &pgx.Batch{}
		statements.Queue(`
			INSERT INTO metrics_gate.preference (uid, preference, changed, said, span, source, seq)
			SELECT uid, preference, changed, said, span, source, $7 + n
			FROM unnest($1::bytea[], $2::boolean[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) WITH ORDINALITY
				AS row (uid, preference, changed, said, span, source, n)
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = excluded.changed,
				said = excluded.said, span = excluded.span, source = excluded.source, seq = excluded.seq`,
			uids, preferences, changes, saids, spans, sources, at.head)
		return advance(ctx, tx, statements, at.head+changed)
	})
	return changed, err
}

func (p *Postgres) forget(ctx context.Context, deletions []deletion) (changed int64, err error) {
	if len(deletions) == 0 {
		return 0, nil
	}
	uids := make([][]byte, len(deletions))
	for i, d := range deletions {
		uids[i] = []byte(d.uid)
	}
	err = p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, nobody Record, at moment) error {
		held, err := standing(ctx, tx, uids)
		if err != nil {
			return err
		}
		statements := &pgx.Batch{}
		head := at.head
		for i, d := range deletions {
			if held[i].forgotten(d.at) {
				changed++
				head++
				statements.Queue(`DELETE FROM metrics_gate.preference WHERE uid = $1`, uids[i])
				statements.Queue(`DELETE FROM metrics_gate.counted WHERE uid = $1`, uids[i])
				if err := notify(statements, notice{ID: head, UID: uids[i], Preference: policy.Unset, Deleted: true}); err != nil {
					return err
				}
			}
			queueHash(statements, deletedTable, hashed{nobody.secret.hash(d.uid), d.at})
		}
		statements.Queue(`UPDATE metrics_gate.feed SET head = $1`, head)
		return tx.SendBatch(ctx, statements).Close()
	})
	return changed, err
}

func queueHash(statements *pgx.Batch, table hashTable, h hashed) {
	statements.Queue(fmt.Sprintf(`
		INSERT INTO metrics_gate.%[1]s AS t (%[2]s, %[3]s) VALUES ($1, $2)
		ON CONFLICT (%[2]s) DO UPDATE SET %[3]s = greatest(t.%[3]s, excluded.%[3]s)`, table.name, table.hash, table.at), h.hash, h.at)
}

// add sends statements in a transaction of their own.
func (p *Postgres) add(ctx context.Context, queue func(statements *pgx.Batch, at moment)) error {
	return p.write(ctx, "", func(ctx context.Context, tx pgx.Tx, _ Record, at moment) error {
		statements := &pgx.Batch{}
		queue(statements, at)
		return tx.SendBatch(ctx, statements).Close()
	})
}

func (p *Postgres) remember(ctx context.Context, table hashTable, page []hashed) error {
	return p.add(ctx, func(statements *pgx.Batch, _ moment) {
		for _, h := range page {
			queueHash(statements, table, h)
		}
	})
}

func (p *Postgres) addDays(ctx context.Context, days map[dayOf]dayCount) error {
	return p.add(ctx, func(statements *pgx.Batch, _ moment) {
		for of, count := range days {
			statements.Queue(`
				INSERT INTO metrics_gate.daily_moved AS d (origin, day, users, twice)
				SELECT $1, $2, $3, $4 FROM metrics_gate.origin WHERE id <> $1
				ON CONFLICT (origin, day) DO UPDATE SET users = greatest(d.users, excluded.users), twice = greatest(d.twice, excluded.twice)`,
				[]byte(of.origin), of.day, count.users, count.twice)
		}
	})
}

// addUsers takes over who is counted: whom two stores counted on one day counts
// once too often. Who was deleted here is not kept.
func (p *Postgres) addUsers(ctx context.Context, users []countedUser) error {
	return p.add(ctx, func(statements *pgx.Batch, at moment) {
		for _, u := range users {
			if u.day < day(time.UnixMilli(at.now).Add(-24*time.Hour)) { // and is of no use
				continue
			}
			statements.Queue(`
				INSERT INTO metrics_gate.daily_moved AS d (origin, day, users, twice)
				SELECT id, day, 0, 1 FROM metrics_gate.counted AS c, metrics_gate.origin
				WHERE uid = $1 AND day = $2 AND coalesce(c.origin, id) <> $3
				ON CONFLICT (origin, day) DO UPDATE SET twice = d.twice + 1`, []byte(u.uid), u.day, u.origin)
			statements.Queue(`
				INSERT INTO metrics_gate.counted AS c (uid, day, origin)
				SELECT uid, $2, $3 FROM metrics_gate.preference WHERE uid = $1
				ON CONFLICT (uid) DO UPDATE SET day = excluded.day, origin = excluded.origin WHERE c.day <= excluded.day`, []byte(u.uid), u.day, u.origin)
		}
	})
}
