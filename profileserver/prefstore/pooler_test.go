package prefstore

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
	"github.com/metricsgate/metricsgate/policy"
)

// TestBehindAPooler has one instance behind PgBouncer in transaction mode, which
// swallows notices, and one at the database itself. Either hears of what the other
// records; the first asks for it, and says so once.
func TestBehindAPooler(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Database(t)
	direct := openPostgres(t, dsn)
	var told atomic.Int32
	pooled, err := OpenPostgres(testpostgres.Pooler(t, dsn, "transaction").DSN, func(err error) {
		if errors.Is(err, ErrNotNotified) {
			told.Add(1)
		} else {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pooled.Close)
	stores, followers := []*Postgres{direct, pooled}, make([]*Follower, 2)
	for i, store := range stores {
		until(t, "the store lets followers in", func() (in bool) {
			followers[i], err = store.Follow(-1)
			return err == nil
		})
	}
	for i := range int64(4) {
		mustSet(t, stores[i%2], "u", Choice{Preference: []policy.Preference{policy.OptedOut, policy.Allowed}[i%2]})
		for _, f := range followers {
			readIDs(t, f, i+1)
		}
	}
	until(t, "the store says that it is not notified", func() bool { return !pooled.Notified() && told.Load() > 0 })
	if err := pooled.Ping(t.Context()); err != nil || !direct.Notified() || told.Load() != 1 {
		t.Errorf("%v; the one at the database is notified: %v; told %d times", err, direct.Notified(), told.Load())
	}
	if _, err := pooled.Import(t.Context(), only(Row{UID: "v", Preference: policy.OptedOut}), nil); err != nil {
		t.Error(err)
	}
	if err := connectAndMigrate(t.Context(), testpostgres.Pooler(t, testpostgres.Database(t), "transaction").DSN); err != nil {
		t.Errorf("migrating: %v", err)
	}
}

// TestSomeNoticesByChance: who is deaf stays so when a notice comes now and then, and
// hears again once they have come for long.
func TestSomeNoticesByChance(t *testing.T) {
	t.Parallel()
	var h hearing
	for second, step := range []struct{ notified, missed, deaf bool }{
		{deaf: false},
		{missed: true, deaf: true},
		{notified: true, deaf: true},
		{notified: true, missed: true, deaf: true},
		{deaf: true},
		{missed: true, deaf: true},
	} {
		if h.judge(step.notified, step.missed); h.deaf.Load() != step.deaf {
			t.Fatalf("in second %d: deaf %t", second, !step.deaf)
		}
	}
	for second := range notByChance {
		h.judge(false, false)
		if h.judge(true, false); h.deaf.Load() != (second < notByChance-1) {
			t.Fatalf("after %d seconds with notices: deaf %t", second+1, h.deaf.Load())
		}
	}
}

// TestAPoolerInStatementMode: it has no transactions, and is refused.
func TestAPoolerInStatementMode(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Pooler(t, testpostgres.Database(t), "statement").DSN
	_, err := Open(t.Context(), dsn)
	known := (*HealthError)(nil)
	if !errors.As(err, &known) || !strings.Contains(known.State, "statement mode") {
		t.Errorf("%v", err)
	}
}
