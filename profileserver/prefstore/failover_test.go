package prefstore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
	"github.com/metricsgate/metricsgate/policy"
)

// TestFailover has the primary die in the middle of a thousand writes at two
// instances, and its standby take over, which it was to wait for: whatever was
// acknowledged is there, and counted once.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := testpostgres.Start(t)
	standby := primary.Standby()
	primary.WaitForStandbys()
	dsn := testpostgres.Either("postgres", "read-write", primary, standby)
	instances := []*Postgres{openPostgres(t, dsn), openPostgres(t, dsn)}
	follower, err := instances[1].Follow(-1)
	if err != nil {
		t.Fatal(err)
	}

	const writes, before = 1000, 400
	var next, acknowledged, failed atomic.Int64
	var all sync.WaitGroup
	half := make(chan struct{})
	for i := range 8 {
		store := instances[i%2]
		all.Go(func() {
			for n := next.Add(1); n <= writes; n = next.Add(1) {
				until(t, "a choice is acknowledged", func() bool {
					_, _, err := store.Set(t.Context(), fmt.Sprint(n), Choice{Preference: policy.OptedOut, Source: SourceUser})
					if err != nil {
						failed.Add(1)
					}
					return err == nil
				})
				if acknowledged.Add(1) == before {
					close(half)
				}
			}
		})
	}
	<-half
	primary.Kill()
	standby.Promote()
	all.Wait()
	if failed.Load() == 0 {
		t.Error("the failover came when all was written")
	}
	for n := range writes {
		if held := mustGet(t, instances[n%2], fmt.Sprint(n+1)); held.Preference != policy.OptedOut {
			t.Errorf("%d was acknowledged, and is lost", n+1)
		}
	}
	counts, err := instances[0].Daily(t.Context(), time.Now().Add(-24*time.Hour), time.Now())
	users := int64(0)
	for _, count := range counts {
		users += count.Users
	}
	if err != nil || users != writes {
		t.Errorf("%d users are counted, %v", users, err)
	}

	// Who followed is sent away, and hears that it is another server which counts.
	for err = nil; err == nil; {
		_, err = follower.Next(t.Context())
	}
	if !errors.Is(err, ErrFeedAway) {
		t.Errorf("who followed got %v", err)
	}
	wantReset(t, instances[1], follower.told)
}

// wantReset fails unless who heard of this change last is told to forget what it
// knows, and then of the next.
func wantReset(t *testing.T, store *Postgres, last int64) {
	t.Helper()
	var follower *Follower
	until(t, "the store is followed", func() (there bool) {
		var err error
		follower, err = store.Follow(last)
		return err == nil
	})
	if greeting, err := follower.Next(t.Context()); err != nil || !strings.Contains(string(greeting), "event: reset\n") {
		t.Errorf("who heard of %d last is greeted with %q, %v", last, greeting, err)
	}
	mustSet(t, store, fmt.Sprint("after ", last), Choice{Preference: policy.OptedOut})
	readIDs(t, follower, follower.last+1)
}

// TestFailoverThatLosesChanges is one to a standby that was not waited for: changes
// were acknowledged and told that it never received. Whoever was told them learns of
// it, also when as many others have been made since.
func TestFailoverThatLosesChanges(t *testing.T) {
	t.Parallel()
	primary := testpostgres.Start(t)
	store := openPostgres(t, primary.DSN)
	mustSet(t, store, "kept", Choice{Preference: policy.OptedOut})
	standby := primary.Standby()
	standby.Stop()
	follower, err := store.Follow(1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		mustSet(t, store, fmt.Sprint("lost ", n), Choice{Preference: policy.OptedOut})
	}
	readIDs(t, follower, 4)
	primary.Kill()
	standby.Restart()
	standby.Promote()
	next := openPostgres(t, testpostgres.Either("postgres", "read-write", primary, standby))
	if held := mustGet(t, next, "lost 1"); held.Preference != policy.Unset {
		t.Errorf("%v is held of what the standby cannot know", held)
	}
	for n := range 5 {
		mustSet(t, next, fmt.Sprint("new ", n), Choice{Preference: policy.OptedOut})
	}
	for last := range int64(5) {
		wantReset(t, next, last)
	}
}

// TestAServerTakesOverBehindAPooler: the connection by which the store listens is the
// pooler's, and stays.
func TestAServerTakesOverBehindAPooler(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Database(t)
	store := openPostgres(t, testpostgres.Pooler(t, dsn, "transaction").DSN)
	mustSet(t, store, "u", Choice{Preference: policy.OptedOut})
	follower, err := store.Follow(1)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{driver: "pgx", dsn: dsn + "&search_path=metrics_gate"}
	p.execute(t, `UPDATE feed SET server = server - interval '1 day'`)
	for err == nil {
		_, err = follower.Next(t.Context())
	}
	if !errors.Is(err, ErrFeedAway) {
		t.Errorf("who followed got %v", err)
	}
	wantReset(t, store, 1)
}

// TestReadingFromAStandby: it answers, says that it does not write, and is not
// followed.
func TestReadingFromAStandby(t *testing.T) {
	t.Parallel()
	primary := testpostgres.Start(t)
	writing := openPostgres(t, primary.DSN)
	standby := primary.Standby()
	var told atomic.Pointer[error]
	reading, err := OpenPostgres(testpostgres.Either("postgres", "standby", primary, standby), func(err error) { told.CompareAndSwap(nil, &err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reading.Close)
	mustSet(t, writing, "u", Choice{Preference: policy.OptedOut})
	until(t, "the standby has what the primary has", func() bool {
		held, err := reading.Get(t.Context(), "u")
		return err == nil && held.Preference == policy.OptedOut
	})
	if state := stateOf(t, reading); state != "the database only reads" {
		t.Errorf("said to be: %s", state)
	}
	if _, err := reading.Follow(-1); !errors.Is(err, ErrFeedAway) {
		t.Errorf("who follows gets %v", err)
	}
	until(t, "the store says so", func() bool { return told.Load() != nil })
	if known := (*HealthError)(nil); !errors.As(*told.Load(), &known) || known.State != "the database only reads" {
		t.Errorf("said of itself: %v", *told.Load())
	}
}
