package prefstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

func (s *SQLite) origin(ctx context.Context) (o origin, err error) {
	err = s.use(func(db *sqliteDB) error {
		var key []byte
		err := db.QueryRowContext(ctx, `SELECT id, key, head FROM origin, secret, feed`).Scan(&o.id, &key, &o.head)
		copy(o.secret[:], key)
		return err
	})
	return o, troubled(err)
}

// Count returns of how many accounts something is held.
func (s *SQLite) Count(ctx context.Context) (n int64, err error) {
	err = s.use(func(db *sqliteDB) error {
		return db.QueryRowContext(ctx, `SELECT count(*) FROM preference`).Scan(&n)
	})
	return n, troubled(err)
}

// entryColumns are what scanEntry reads.
const entryColumns = `preference, changed, said - span, said, source, coalesce(deleted.at, 0)`

// scanEntry reads what is held of an account, which may be nothing.
func scanEntry(scan func(...any) error, first ...any) (r Record, err error) {
	var (
		optedOut          *bool
		changed, from, to *int64
		source            *string
	)
	if err := scan(append(first, &optedOut, &changed, &from, &to, &source, &r.deleted)...); err != nil {
		return Record{}, err
	}
	r.Preference = preferenceOf(optedOut)
	if changed != nil {
		r.Source, r.changed, r.said = *source, *changed, span{*from, *to}
	}
	return r, nil
}

func (s *SQLite) entries(ctx context.Context, after string) (page []entry, err error) {
	err = s.use(func(db *sqliteDB) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			var e entry
			e.Record, err = scanEntry(rows.Scan, &e.uid)
			page = append(page, e)
			return err
		}, `SELECT uid, `+entryColumns+` FROM preference CROSS JOIN secret
			LEFT JOIN deleted ON uid_hash = metrics_gate_sha256(key, metrics_gate_sha256(x'', CAST(uid AS BLOB)))
			WHERE uid > ? ORDER BY uid LIMIT ?`, after, movedPage)
	})
	return page, troubled(err)
}

func (s *SQLite) deletions(ctx context.Context, uids []string) (known []deletion, err error) {
	o, err := s.origin(ctx)
	if err != nil {
		return nil, err
	}
	err = s.use(func(db *sqliteDB) error {
		find, err := db.PrepareContext(ctx, `SELECT at FROM deleted WHERE uid_hash = ?`)
		if err != nil {
			return err
		}
		defer func() { _ = find.Close() }()
		for _, uid := range uids {
			d := deletion{uid: uid}
			err := find.QueryRowContext(ctx, o.secret.hash(uid)).Scan(&d.at)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			known = append(known, d)
		}
		return nil
	})
	return known, troubled(err)
}

func (s *SQLite) hashes(ctx context.Context, table hashTable, after []byte) (page []hashed, err error) {
	if after == nil {
		after = []byte{} // NULL is before nothing
	}
	err = s.use(func(db *sqliteDB) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			var h hashed
			err := rows.Scan(&h.hash, &h.at)
			page = append(page, h)
			return err
		}, fmt.Sprintf(`SELECT %[2]s, %[3]s FROM %[1]s WHERE %[2]s > ? ORDER BY %[2]s LIMIT ?`, table.name, table.hash, table.at), after, movedPage)
	})
	return page, troubled(err)
}

func (s *SQLite) days(ctx context.Context) (map[dayOf]dayCount, error) {
	days := map[dayOf]dayCount{}
	err := s.use(func(db *sqliteDB) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			var id []byte
			var day string
			var count dayCount
			err := rows.Scan(&id, &day, &count.users, &count.twice)
			days[dayOf{string(id), day}] = count
			return err
		}, `SELECT origin, day, sum(users), sum(twice) FROM (
				SELECT id AS origin, day, users, 0 AS twice FROM daily, origin UNION ALL SELECT origin, day, users, twice FROM daily_moved
			) GROUP BY origin, day`)
	})
	return days, troubled(err)
}

func (s *SQLite) users(ctx context.Context, after string) (page []countedUser, err error) {
	err = s.use(func(db *sqliteDB) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			var u countedUser
			err := rows.Scan(&u.uid, &u.day, &u.origin)
			page = append(page, u)
			return err
		}, `SELECT uid, day, coalesce(counted.origin, id) FROM counted, origin WHERE uid > ? ORDER BY uid LIMIT ?`, after, movedPage)
	})
	return page, troubled(err)
}

func (s *SQLite) prepare(ctx context.Context, key secret, head int64) error {
	return s.write(ctx, func(tx transaction) ([]Change, error) {
		if _, err := tx.ExecContext(ctx, `
			UPDATE secret SET key = ? WHERE NOT EXISTS (SELECT 1 FROM preference)
				AND NOT EXISTS (SELECT 1 FROM deleted) AND NOT EXISTS (SELECT 1 FROM event)`, key[:]); err != nil {
			return nil, err
		}
		_, err := tx.ExecContext(ctx, `UPDATE feed SET head = ?1 WHERE head < ?1 - ?2`, head, leeway)
		return nil, err
	})
}

// standing reads what is held of an account, with its deletion in any case.
func (tx transaction) standing(ctx context.Context, find *sql.Stmt, uid string) (Record, error) {
	sum := sha256.Sum256([]byte(uid))
	return scanEntry(find.QueryRowContext(ctx, uid, sum[:]).Scan)
}

const standingSQLite = `
	SELECT ` + entryColumns + ` FROM secret LEFT JOIN preference ON uid = ?
		LEFT JOIN deleted ON uid_hash = metrics_gate_sha256(key, ?)`

// rewrite calls change with the statement by which to ask for what is held, and
// tells the changes that it returns.
func (s *SQLite) rewrite(ctx context.Context, change func(tx transaction, find *sql.Stmt, head int64) ([]Change, error)) (changed int64, err error) {
	err = s.write(ctx, func(tx transaction) (updates []Change, err error) {
		_, head, err := tx.db.lookUp(ctx, tx.find, "")
		if err != nil {
			return nil, err
		}
		find, err := tx.PrepareContext(ctx, standingSQLite)
		if err != nil {
			return nil, err
		}
		defer func() { _ = find.Close() }()
		if updates, err = change(tx, find, head); err != nil {
			return nil, err
		}
		changed = int64(len(updates))
		_, err = tx.ExecContext(ctx, `UPDATE feed SET head = ?`, head+changed)
		return updates, err
	})
	return changed, err
}

func (s *SQLite) merge(ctx context.Context, entries []entry) (int64, error) {
	return s.rewrite(ctx, func(tx transaction, find *sql.Stmt, head int64) (updates []Change, err error) {
		upsert, err := tx.PrepareContext(ctx, `
			INSERT INTO preference (uid, preference, changed, said, span, source, seq) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (uid) DO UPDATE SET preference = excluded.preference, changed = excluded.changed,
				said = excluded.said, span = excluded.span, source = excluded.source, seq = excluded.seq`)
		if err != nil {
			return nil, err
		}
		defer func() { _ = upsert.Close() }()
		for _, e := range entries {
			before, err := tx.standing(ctx, find, e.uid)
			if err != nil {
				return nil, err
			}
			after := before.merge(e.Record)
			if after == before {
				continue
			}
			head++
			if _, err := upsert.ExecContext(ctx, e.uid, optedOut(after.Preference), after.changed, after.said.to, after.said.length(), after.Source, head); err != nil {
				return nil, err
			}
			updates = append(updates, after.update(head, e.uid))
		}
		return updates, nil
	})
}

func (s *SQLite) forget(ctx context.Context, deletions []deletion) (int64, error) {
	if len(deletions) == 0 {
		return 0, nil
	}
	return s.rewrite(ctx, func(tx transaction, find *sql.Stmt, head int64) (updates []Change, err error) {
		nobody, _, err := tx.db.lookUp(ctx, tx.find, "")
		if err != nil {
			return nil, err
		}
		for _, d := range deletions {
			held, err := tx.standing(ctx, find, d.uid)
			if err != nil {
				return nil, err
			}
			if held.forgotten(d.at) {
				for _, table := range []string{`DELETE FROM preference WHERE uid = ?`, `DELETE FROM counted WHERE uid = ?`} {
					if _, err := tx.ExecContext(ctx, table, d.uid); err != nil {
						return nil, err
					}
				}
				head++
				updates = append(updates, Change{ID: head, UID: d.uid, Preference: policy.Unset, Deleted: true})
			}
			if err := tx.remember(ctx, deletedTable, hashed{nobody.secret.hash(d.uid), d.at}); err != nil {
				return nil, err
			}
		}
		return updates, nil
	})
}

func (tx transaction) remember(ctx context.Context, table hashTable, h hashed) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`
		INSERT INTO %[1]s (%[2]s, %[3]s) VALUES (?, ?)
		ON CONFLICT (%[2]s) DO UPDATE SET %[3]s = max(%[3]s, excluded.%[3]s)`, table.name, table.hash, table.at), h.hash, h.at)
	return err
}

func (s *SQLite) remember(ctx context.Context, table hashTable, page []hashed) error {
	return s.write(ctx, func(tx transaction) ([]Change, error) {
		for _, h := range page {
			if err := tx.remember(ctx, table, h); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

func (s *SQLite) addDays(ctx context.Context, days map[dayOf]dayCount) error {
	return s.write(ctx, func(tx transaction) ([]Change, error) {
		for at, count := range days {
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO daily_moved (origin, day, users, twice) SELECT ?1, ?2, ?3, ?4 WHERE ?1 <> (SELECT id FROM origin)
				ON CONFLICT (origin, day) DO UPDATE SET users = max(users, excluded.users), twice = max(twice, excluded.twice)`,
				[]byte(at.origin), at.day, count.users, count.twice); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

func (s *SQLite) addUsers(ctx context.Context, users []countedUser) error {
	return s.write(ctx, func(tx transaction) ([]Change, error) {
		for _, u := range users {
			if err := tx.addUser(ctx, u); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

// addUser takes over who is counted: whom two stores counted on one day counts
// once too often. Who was deleted here is not kept.
func (tx transaction) addUser(ctx context.Context, u countedUser) error {
	if u.day < day(tx.now.Add(-24*time.Hour)) { // and is of no use
		return nil
	}
	if _, err := tx.ExecContext(ctx, `
		INSERT INTO daily_moved (origin, day, users, twice)
		SELECT id, ?2, 0, 1 FROM counted, origin WHERE uid = ?1 AND day = ?2 AND coalesce(counted.origin, id) <> ?3
		ON CONFLICT (origin, day) DO UPDATE SET twice = twice + 1`, u.uid, u.day, u.origin); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO counted (uid, day, origin) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM preference WHERE uid = ?1)
		ON CONFLICT (uid) DO UPDATE SET day = excluded.day, origin = excluded.origin WHERE day <= excluded.day`, u.uid, u.day, u.origin)
	return err
}
