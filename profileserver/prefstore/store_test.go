package prefstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
	"github.com/metricsgate/metricsgate/policy"
)

// place is where a store is kept, for any number of instances.
type place struct {
	driver, dsn string
	// open opens an instance whose clock is off by so much, where it has one.
	open func(t testing.TB, clockError time.Duration) Store
	// nextDay has midnight pass.
	nextDay func(t *testing.T)
}

// inEachStore runs a test against each kind of store.
func inEachStore(t *testing.T, test func(t *testing.T, p *place)) {
	t.Helper()
	for name, newPlace := range map[string]func(testing.TB) *place{"SQLite": sqlitePlace, "PostgreSQL": postgresPlace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t))
		})
	}
}

func sqlitePlace(t testing.TB) *place {
	path := t.TempDir() + "/profile.db"
	p := &place{driver: "sqlite", dsn: path}
	var passed atomic.Int64
	p.open = func(t testing.TB, clockError time.Duration) Store {
		t.Helper()
		store, err := openSQLite(path, func() time.Time {
			return time.Now().Add(clockError + time.Duration(passed.Load()))
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		return store
	}
	p.nextDay = func(*testing.T) { passed.Add(int64(24 * time.Hour)) }
	return p
}

func postgresPlace(t testing.TB) *place {
	dsn := testpostgres.Database(t)
	p := &place{driver: "pgx", dsn: dsn + "&search_path=metrics_gate"}
	p.open = func(t testing.TB, _ time.Duration) Store { // the time is the database's
		t.Helper()
		return openPostgres(t, dsn)
	}
	p.nextDay = func(t *testing.T) {
		t.Helper()
		p.execute(t, `UPDATE counted SET day = day - 1`)
		p.execute(t, `UPDATE daily SET day = day - 1`)
	}
	return p
}

// openPostgres opens a store and waits until it hears of changes.
func openPostgres(t testing.TB, dsn string) *Postgres {
	t.Helper()
	store, err := OpenPostgres(dsn, func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	until(t, "the store hears of changes", func() bool {
		_, err := store.Follow(-1)
		return err == nil
	})
	return store
}

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// execute runs SQL past the stores.
func (p *place) execute(t testing.TB, query string) {
	t.Helper()
	db, err := sql.Open(p.driver, p.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), query); err != nil {
		t.Fatal(err)
	}
}

// number returns what a query for one number finds.
func (p *place) number(t testing.TB, query string) (n int) {
	t.Helper()
	db, err := sql.Open(p.driver, p.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(context.Background(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// mustSet records a choice and returns what is held then.
func mustSet(t testing.TB, store Store, uid string, c Choice) Record {
	t.Helper()
	if c.Source == "" {
		c.Source = SourceUser
	}
	if _, came, err := store.Set(context.Background(), uid, c); err != nil || came != Changed {
		t.Fatalf("%v, %v", came, err)
	}
	return mustGet(t, store, uid)
}

func mustGet(t testing.TB, store Store, uid string) Record {
	t.Helper()
	held, err := store.Get(context.Background(), uid)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// only returns rows as Import takes them.
func only(rows ...Row) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

// TestOfWritersWithOneTagOneWins has writers at several instances who all saw
// the same state.
func TestOfWritersWithOneTagOneWins(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		instances := []Store{p.open(t, 0), p.open(t, 0), p.open(t, -time.Hour)}
		to := policy.OptedOut
		for range 20 {
			tag := mustGet(t, instances[0], "u").ETag()
			var won atomic.Int32
			var all sync.WaitGroup
			for _, store := range instances {
				for range 2 {
					all.Go(func() {
						_, came, err := store.Set(t.Context(), "u", Choice{Preference: to, Source: SourceUser, OnlyIf: func(held string) bool { return held == tag }})
						if err != nil {
							t.Error(err)
						}
						if came == Changed {
							won.Add(1)
						}
					})
				}
			}
			all.Wait()
			if won.Load() != 1 {
				t.Fatalf("%d won", won.Load())
			}
			to = policy.OptedOut + policy.Allowed - to
		}
	})
}

// TestContendingInstances counts the changes that instances make to one
// account under each other's hands.
func TestContendingInstances(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		won := make([]int, 3)
		var all sync.WaitGroup
		for i := range won {
			store := p.open(t, 0)
			all.Go(func() {
				var err error
				if won[i], err = contend(store); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if head := p.number(t, `SELECT head FROM feed`); head != won[0]+won[1]+won[2] {
			t.Errorf("%d changes, told %v", head, won)
		}
	})
}

// TestADeletedAccountStaysDeleted deletes an account between the look and the
// conditional write of somebody else, at another instance.
func TestADeletedAccountStaysDeleted(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		here, there := p.open(t, 0), p.open(t, 0)
		for _, chosen := range []policy.Preference{policy.OptedOut, policy.Unset} {
			mustSet(t, here, "u", Choice{Preference: policy.Allowed})
			tags := []string{mustSet(t, here, "u", Choice{Preference: chosen}).ETag(), mustGet(t, there, "never").ETag()}
			if came, err := there.Delete(t.Context(), "u", ""); err != nil || came != Changed {
				t.Fatalf("%v, %v", came, err)
			}
			for _, tag := range tags {
				_, came, err := here.Set(t.Context(), "u", Choice{Preference: policy.OptedOut, Source: SourceBrowser, OnlyIf: func(held string) bool { return held == tag }})
				if err != nil || came != Refused {
					t.Errorf("%v, %v", came, err)
				}
			}
			if held := mustGet(t, here, "u"); held.Preference != policy.Unset || held.Source != "" {
				t.Errorf("held: %v", held)
			}
			late := Choice{Preference: policy.OptedOut, Source: SourceUser, Made: time.Now().Add(-time.Minute), Event: "late"}
			if _, came, err := here.Set(t.Context(), "u", late); err != nil || came != Unchanged {
				t.Errorf("an event from before: %v, %v", came, err)
			}
			old := Row{"u", policy.OptedOut, time.Now().Add(-time.Minute), SourceUser}
			if done, err := here.Import(t.Context(), only(old), nil); err != nil || done.Changed != 0 {
				t.Errorf("a row from before: %v, %v", done, err)
			}
			for _, table := range []string{"preference", "counted"} {
				if n := p.number(t, `SELECT count(*) FROM `+table); n != 0 {
					t.Errorf("%d rows in %s", n, table)
				}
			}
		}
		if came, err := here.Delete(t.Context(), "u", ""); err != nil || came != Unchanged {
			t.Errorf("once more: %v, %v", came, err)
		}
	})
}

// TestWhatWasRememberedIsKeyed brings a store up to date whose hashes were not
// keyed: what they remember stays remembered, and two stores name one state by
// different tags.
func TestWhatWasRememberedIsKeyed(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		kind, hash, older := "sqlite", `X'%x'`, 3
		begin, end := "", `; PRAGMA user_version = 3`
		if p.driver == "pgx" {
			kind, hash, older = "postgres", `'\x%x'`, 2
			begin = `CREATE SCHEMA metrics_gate; CREATE TABLE metrics_gate.migration (level integer PRIMARY KEY, applied timestamptz DEFAULT now());`
			end = `INSERT INTO metrics_gate.migration (level) VALUES (1), (2)`
		}
		migrations, err := pendingMigrations(kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		text := begin
		for _, m := range migrations[:older] {
			text += m.text
		}
		p.execute(t, text+end)
		remembered := func(id string) string { return fmt.Sprintf(hash, sha256.Sum256([]byte(id))) }
		now := time.Now().UnixMilli()
		p.execute(t, fmt.Sprintf(`INSERT INTO deleted (uid_hash, at) VALUES (%s, %d)`, remembered("gone"), now))
		p.execute(t, fmt.Sprintf(`INSERT INTO event (jti_hash, seen) VALUES (%s, %d)`, remembered("seen"), now))

		store := p.open(t, 0)
		late := Choice{Preference: policy.OptedOut, Source: SourceUser, Made: time.UnixMilli(now - 1), Event: "late"}
		if _, came, err := store.Set(t.Context(), "gone", late); err != nil || came != Unchanged {
			t.Errorf("of a deleted account: %v, %v", came, err)
		}
		again := Choice{Preference: policy.OptedOut, Source: SourceUser, Event: "seen"}
		if _, came, err := store.Set(t.Context(), "u", again); err != nil || came != Unchanged {
			t.Errorf("an event that was seen: %v, %v", came, err)
		}
		other := sqlitePlace(t).open(t, 0)
		if one, two := mustGet(t, store, "nobody").ETag(), mustGet(t, other, "nobody").ETag(); one == two {
			t.Errorf("two stores name a state %s", one)
		}
	})
}

func TestEventsThatComeLateOrTwice(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		made := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
		event := func(to policy.Preference, after time.Duration, jti string, want Result, held policy.Preference, changed time.Time) {
			t.Helper()
			_, came, err := store.Set(t.Context(), "u", Choice{Preference: to, Source: SourceUser, Made: made.Add(after), Event: jti})
			if err != nil || came != want {
				t.Errorf("%s: %v, %v, want %v", jti, came, err, want)
			}
			if got := mustGet(t, store, "u"); got.Preference != held || got.changed != changed.UnixMilli() {
				t.Errorf("%s: held %v, want %v at %d", jti, got, held, changed.UnixMilli())
			}
		}
		at := func(minutes int) time.Time { return made.Add(time.Duration(minutes) * time.Minute) }
		event(policy.OptedOut, 10*time.Minute, "first", Changed, policy.OptedOut, at(10))
		event(policy.Allowed, 5*time.Minute, "older", Unchanged, policy.OptedOut, at(10))
		event(policy.Allowed, 10*time.Minute, "as old", Unchanged, policy.OptedOut, at(10))
		event(policy.Allowed, 11*time.Minute, "later", Changed, policy.Allowed, at(11))
		event(policy.OptedOut, 12*time.Minute, "first", Unchanged, policy.Allowed, at(11)) // replayed
		event(policy.Allowed, 20*time.Minute, "the same choice, later", Unchanged, policy.Allowed, at(11))
		event(policy.OptedOut, 15*time.Minute, "what was chosen in between", Unchanged, policy.Allowed, at(11))

		// One from a clock that is ahead counts as now, so that the user can
		// still change their mind.
		ahead := Choice{Preference: policy.OptedOut, Made: time.Now().Add(time.Hour), Event: "ahead"}
		if held := mustSet(t, store, "u", ahead); held.changed > time.Now().UnixMilli() {
			t.Errorf("at %d, which is to come", held.changed)
		}
		if came, err := store.Delete(t.Context(), "u", "gone"); err != nil || came != Changed {
			t.Errorf("%v, %v", came, err)
		}
		mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
		if came, err := store.Delete(t.Context(), "u", "gone"); err != nil || came != Unchanged {
			t.Errorf("a deletion, replayed: %v, %v", came, err)
		}
	})
}

// TestClocksAnHourApart has one user change their mind at instances that
// disagree about the time: the last word is the last.
func TestClocksAnHourApart(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		fast, slow := p.open(t, time.Hour), p.open(t, 0)
		before := int64(0)
		for _, c := range []struct {
			at Store
			to policy.Preference
		}{{fast, policy.OptedOut}, {slow, policy.Allowed}, {fast, policy.Unset}, {slow, policy.OptedOut}} {
			held := mustSet(t, c.at, "u", Choice{Preference: c.to})
			if held.Preference != c.to || held.changed <= before {
				t.Errorf("%v after %d", held, before)
			}
			before = held.changed
		}
	})
}

func TestDailyCountsAUserOnceADay(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		optOut := func(uid string) {
			t.Helper()
			mustSet(t, store, uid, Choice{Preference: policy.OptedOut})
		}
		optOut("a")
		mustSet(t, store, "a", Choice{Preference: policy.Allowed})
		optOut("a")
		optOut("b")
		mustSet(t, store, "c", Choice{Preference: policy.Allowed})
		mustSet(t, store, "d", Choice{Preference: policy.OptedOut, Made: time.Now().AddDate(0, 0, -30), Event: "late"})
		if _, err := store.Import(t.Context(), only(Row{UID: "e", Preference: policy.OptedOut}), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Delete(t.Context(), "b", ""); err != nil {
			t.Fatal(err)
		}

		p.nextDay(t)
		mustSet(t, store, "a", Choice{Preference: policy.Allowed})
		optOut("a")
		optOut("f")
		if err := store.(interface{ tidy(context.Context) error }).tidy(t.Context()); err != nil {
			t.Error(err)
		}
		if n := p.number(t, `SELECT count(*) FROM counted`); n != 2 {
			t.Errorf("%d are remembered, want the two of today", n)
		}
		mustSet(t, store, "f", Choice{Preference: policy.Allowed})
		optOut("f")

		now := time.Now()
		counts, err := store.Daily(t.Context(), now.AddDate(0, 0, -2), now.AddDate(0, 0, 2))
		if err != nil || len(counts) != 2 {
			t.Fatalf("%v, %v", counts, err)
		}
		if users := []int64{counts[0].Users, counts[1].Users}; !slices.Equal(users, []int64{3, 2}) {
			t.Errorf("%v users, want 3 and 2", users)
		}
		first, notDay := time.Parse(time.DateOnly, counts[0].Day)
		if notDay != nil || counts[1].Day != day(first.Add(24*time.Hour)) {
			t.Errorf("days %v", counts)
		}
		if one, err := store.Daily(t.Context(), first, first); err != nil || !cmp.Equal(one, counts[:1]) {
			t.Errorf("one day: %v, %v", one, err)
		}
		if none, err := store.Daily(t.Context(), now.AddDate(0, 0, -9), now.AddDate(0, 0, -8)); err != nil || len(none) != 0 {
			t.Errorf("days of which nothing is known: %v, %v", none, err)
		}
	})
}

func TestAnOpenStoreIsKeptTidy(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		p.open(t, 0).Close()
		bytes := map[string]string{"sqlite": "X'%02d'", "pgx": `'\x%02d'`}[p.driver]
		for i, age := range []time.Duration{rememberedFor - time.Hour, rememberedFor + time.Hour} {
			p.execute(t, fmt.Sprintf(`INSERT INTO event (jti_hash, seen) VALUES (`+bytes+`, %d)`, i, time.Now().Add(-age).UnixMilli()))
		}
		p.execute(t, `INSERT INTO counted (uid, day) VALUES ('yesterday', '`+day(time.Now().AddDate(0, 0, -1))+`')`)
		p.open(t, 0)
		until(t, "what is old is gone", func() bool {
			return p.number(t, `SELECT (SELECT count(*) FROM counted) + (SELECT count(*) FROM event)`) == 1
		})
	})
}

// TestAnyUID has accounts whose names are bytes of any kind.
func TestAnyUID(t *testing.T) {
	t.Parallel()
	all := make([]byte, 255)
	for i := range all {
		all[i] = byte(i)
	}
	uids := []string{string(all), strings.Repeat("\xff", 255), strings.Repeat("ü", 127), "'; DROP TABLE preference; --", "a\x00b", "a\x00c", "%", "_", " ", "A", "a", "0001", "1"}
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		for i, uid := range uids {
			mustSet(t, store, uid, Choice{Preference: policy.OptedOut})
			if i%2 == 0 {
				mustSet(t, store, uid, Choice{Preference: policy.Allowed})
			}
		}
		want := slices.Sorted(slices.Values(uids))
		var got []string
		for row, err := range store.Export(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, row.UID)
			i := slices.Index(uids, row.UID)
			if opted := row.Preference == policy.OptedOut; opted == (i%2 == 0) {
				t.Errorf("%q: %v", row.UID, row.Preference)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, uid := range uids {
			if came, err := store.Delete(t.Context(), uid, ""); err != nil || came != Changed {
				t.Errorf("%q: %v, %v", uid, came, err)
			}
		}
	})
}

func TestImport(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		at := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
		chosen := mustSet(t, store, "chosen", Choice{Preference: policy.Allowed})
		rows := []Row{
			{"new", policy.OptedOut, at(10), SourceBrowser},
			{"new", policy.Allowed, at(9), SourceUser}, // an older one of the same account
			{"null", policy.Unset, at(10), SourceUser},
			{"chosen", policy.OptedOut, at(11), SourceUser}, // older than what is held
			{"ahead", policy.OptedOut, time.Now().Add(time.Hour), SourceUser},
			{"now", policy.Allowed, at(12), ""},
			{"now", policy.OptedOut, time.Time{}, ""},
		}
		var last Imported
		began := time.Now()
		done, err := store.Import(t.Context(), only(rows...), func(i Imported) { last = i })
		if want := (Imported{Read: 7, Changed: 4}); err != nil || done != want || last != want {
			t.Fatalf("%v, %v; progress %v", done, err, last)
		}
		for uid, want := range map[string]Record{
			"new":    {Preference: policy.OptedOut, changed: 10, said: span{10, 10}, Source: SourceBrowser},
			"null":   {Preference: policy.Unset, changed: 10, said: span{10, 10}, Source: SourceUser},
			"chosen": chosen,
		} {
			want.secret = chosen.secret
			if held := mustGet(t, store, uid); held != want {
				t.Errorf("%s: %v, want %v", uid, held, want)
			}
		}
		for uid, source := range map[string]string{"ahead": SourceUser, "now": SourceAdmin} {
			held := mustGet(t, store, uid)
			if held.Preference != policy.OptedOut || held.Source != source || held.changed < began.UnixMilli() || held.changed > time.Now().UnixMilli() {
				t.Errorf("%s: %v", uid, held)
			}
		}
		if again, err := store.Import(t.Context(), only(rows[:4]...), nil); err != nil || again != (Imported{Read: 4}) {
			t.Errorf("once more: %v, %v", again, err)
		}
		later := Row{"new", policy.Allowed, at(13), SourceUser}
		if again, err := store.Import(t.Context(), only(later), nil); err != nil || again != (Imported{Read: 1, Changed: 1}) {
			t.Errorf("a later choice: %v, %v", again, err)
		}
		if n := p.number(t, `SELECT count(*) FROM daily`); n != 1 && n != 0 {
			t.Errorf("an import counts: %d", n)
		}
	})
}

func TestAnImportThatFailsKeepsWhatCameBefore(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		broken := errors.New("line 1502: no")
		steps := 0
		done, err := store.Import(t.Context(), func(yield func(Row, error) bool) {
			for i := range 1500 {
				if !yield(Row{UID: fmt.Sprint(i), Preference: policy.OptedOut}, nil) {
					return
				}
			}
			yield(Row{}, broken)
		}, func(Imported) { steps++ })
		if !errors.Is(err, broken) || done != (Imported{1500, 1500}) || steps != 2 {
			t.Errorf("%v, %v, in %d steps", done, err, steps)
		}
		if n := p.number(t, `SELECT count(*) FROM preference`); n != 1500 {
			t.Errorf("%d rows", n)
		}
	})
}

// TestImportAndExportNeedLittleMemory moves 100,000 rows from one store into
// another. It is not parallel, since it measures the memory of all.
func TestImportAndExportNeedLittleMemory(t *testing.T) {
	for name, newPlace := range map[string]func(testing.TB) *place{"SQLite": sqlitePlace, "PostgreSQL": postgresPlace} {
		t.Run(name, func(t *testing.T) {
			const total = 100_000
			store := newPlace(t).open(t, 0)
			inUse := func() int64 {
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				return int64(stats.HeapAlloc)
			}
			before, most := inUse(), int64(0)
			rows := func(yield func(Row, error) bool) {
				for i := range total {
					row := Row{fmt.Sprintf("%032x", i), policy.OptedOut, time.UnixMilli(int64(i)).UTC(), SourceUser}
					if !yield(row, nil) {
						return
					}
				}
			}
			done, err := store.Import(t.Context(), rows, func(i Imported) {
				if i.Read%20_000 == 0 {
					most = max(most, inUse()-before)
				}
			})
			if err != nil || done != (Imported{total, total}) {
				t.Fatalf("%v, %v", done, err)
			}
			sink := &countingWriter{every: func() { most = max(most, inUse()-before) }}
			if n, err := WriteCSV(sink, store.Export(t.Context())); err != nil || n != total {
				t.Fatalf("%d rows, %v", n, err)
			}
			if most > 4<<20 {
				t.Errorf("%d bytes", most)
			}
		})
	}
}

// countingWriter calls every with each mebibyte.
type countingWriter struct {
	every   func()
	written int
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if (w.written+len(p))>>20 > w.written>>20 {
		w.every()
	}
	w.written += len(p)
	return len(p), nil
}

// TestAnExportIsOfOneMoment changes what is still to be read.
func TestAnExportIsOfOneMoment(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store, other := p.open(t, 0), p.open(t, 0)
		rows := map[string]policy.Preference{}
		var all []Row
		for i := range 3000 {
			uid := fmt.Sprintf("%04d", i)
			rows[uid] = policy.OptedOut
			all = append(all, Row{uid, policy.OptedOut, time.UnixMilli(1).UTC(), SourceUser})
		}
		if _, err := store.Import(t.Context(), only(all...), nil); err != nil {
			t.Fatal(err)
		}
		got := map[string]policy.Preference{}
		for row, err := range store.Export(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				mustSet(t, other, "2999", Choice{Preference: policy.Allowed})
				mustSet(t, other, "9999", Choice{Preference: policy.OptedOut})
				if _, err := other.Delete(t.Context(), "1500", ""); err != nil {
					t.Fatal(err)
				}
			}
			got[row.UID] = row.Preference
		}
		if !maps.Equal(got, rows) {
			t.Errorf("%d rows, and 2999 is %v", len(got), got["2999"])
		}
		for range store.Export(t.Context()) {
			break // whoever has seen enough holds nothing up
		}
	})
}

// TestWhatIsExportedCanBeImported moves rows from one kind of store into
// another, by way of CSV.
func TestWhatIsExportedCanBeImported(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		from, to := p.open(t, 0), sqlitePlace(t).open(t, 0)
		for i, uid := range []string{"plain", "with, comma", `with "quotes"`, "ümläut", "=1+1"} {
			mustSet(t, from, uid, Choice{Preference: policy.OptedOut, Source: []string{SourceUser, SourceBrowser, SourceAdmin}[i%3]})
		}
		mustSet(t, from, "plain", Choice{Preference: policy.Unset})
		text := new(bytes.Buffer)
		if _, err := WriteCSV(text, from.Export(t.Context())); err != nil {
			t.Fatal(err)
		}
		if done, err := to.Import(t.Context(), ReadCSV(bytes.NewReader(text.Bytes())), nil); err != nil || done != (Imported{5, 5}) {
			t.Errorf("%v, %v", done, err)
		}
		again := new(bytes.Buffer)
		if _, err := WriteCSV(again, to.Export(t.Context())); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text.String(), again.String()); diff != "" {
			t.Errorf("(-exported +imported and exported):\n%s", diff)
		}
		if done, err := from.Import(t.Context(), ReadCSV(text), nil); err != nil || done != (Imported{Read: 5}) {
			t.Errorf("where it came from: %v, %v", done, err)
		}
	})
}

// readIDs reads a follower up to the change with this id, and returns the
// names and the ids of what it was told.
func readIDs(t *testing.T, f *Follower, last int64) (told []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for id := int64(-1); id < last; {
		text, err := f.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", told, err)
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:event: (.*)\n)?id: (.*)$`).FindAllSubmatch(text, -1) {
			if id, err = strconv.ParseInt(string(m[2]), 10, 64); err != nil {
				t.Fatal(err)
			}
			told = append(told, strings.TrimSpace(fmt.Sprintf("%s %d", m[1], id)))
		}
	}
	return told
}

// TestChangesAreToldAtEveryInstance makes changes at one instance and follows
// them there and at another.
func TestChangesAreToldAtEveryInstance(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		here, there := p.open(t, 0), p.open(t, 0)
		followers := map[string]*Follower{}
		for name, store := range map[string]Store{"here": here, "there": there} {
			f, err := store.Follow(-1)
			if err != nil {
				t.Fatal(err)
			}
			followers[name] = f
		}
		mustSet(t, here, "a", Choice{Preference: policy.OptedOut})
		mustSet(t, here, "b", Choice{Preference: policy.OptedOut})
		if _, _, err := here.Set(t.Context(), "b", Choice{Preference: policy.OptedOut, Source: SourceUser}); err != nil { // a repeat
			t.Fatal(err)
		}
		if _, err := here.Delete(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		mustSet(t, here, "c", Choice{Preference: policy.Allowed})
		for name, f := range followers {
			want := []string{"0", "change 1", "change 2", "delete 3", "change 4"}
			told := readIDs(t, f, 4)
			if name == "there" && p.driver == "sqlite" {
				// The other instance finds what is in the file by then. It
				// may have looked before the account was deleted, or after.
				want = []string{"0", "change 2", "change 4"}
				told = slices.DeleteFunc(told, func(s string) bool { return s == "change 1" })
			}
			if diff := cmp.Diff(want, told); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}

		// An import by a third is found in the rows.
		third := p.open(t, 0)
		var rows []Row
		for i := range 600 {
			rows = append(rows, Row{UID: fmt.Sprint(i), Preference: policy.OptedOut})
		}
		if done, err := third.Import(t.Context(), only(rows...), nil); err != nil || done.Changed != 600 {
			t.Fatalf("%v, %v", done, err)
		}
		for name, f := range followers {
			if told := readIDs(t, f, 604); len(told) != 600 {
				t.Errorf("%s was told %d changes", name, len(told))
			}
		}
		late, err := there.Follow(2)
		if err != nil {
			t.Fatal(err)
		}
		if told := readIDs(t, late, 604); told[0] != "2" || len(told) < 602 {
			t.Errorf("who comes late was told %d changes: %v…", len(told), told[0])
		}
	})
}

// TestInstancesStartAtOnce has instances come up together before there is
// anything.
func TestInstancesStartAtOnce(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				store := p.open(t, 0)
				if _, err := store.Get(t.Context(), "u"); err != nil {
					t.Error(err)
				}
				if err := store.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		mustSet(t, p.open(t, 0), "u", Choice{Preference: policy.OptedOut})
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store, err := Open(t.Context(), strings.TrimSuffix(p.dsn, "&search_path=metrics_gate"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
	})
	for _, name := range []string{t.TempDir(), "postgres://somebody:secret@[::1]:1/x", "postgresql://%zz"} {
		if store, err := Open(t.Context(), name); err == nil || store != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, %v", store, err)
		}
	}
}
