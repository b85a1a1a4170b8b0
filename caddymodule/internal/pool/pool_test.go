package pool_test

import (
	"errors"
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
)

// kept is a value that says how often it was closed.
type kept struct{ closed, refreshed int }

func (k *kept) Close() { k.closed++ }

func (k *kept) Refresh() { k.refreshed++ }

func TestSharedUntilNobodyHoldsIt(t *testing.T) {
	t.Parallel()
	values := pool.New[*kept]()
	made := 0
	acquire := func(held *pool.Leases, settings any) *kept {
		t.Helper()
		value, err := values.Acquire(held, settings, func() (*kept, error) {
			made++
			return new(kept), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	var running, loading pool.Leases
	first := acquire(&running, []string{"a", "b"})
	if again := acquire(&loading, []string{"a", "b"}); again != first || running[0] != loading[0] || running[0].References() != 2 {
		t.Errorf("the same settings: %p and %p, held by %d", first, again, running[0].References())
	}
	if first.refreshed != 1 {
		t.Errorf("it was refreshed %d times, want once, when it was taken over", first.refreshed)
	}
	if other := acquire(&loading, []string{"ab"}); other == first || made != 2 {
		t.Errorf("other settings have the same value, %d were made", made)
	}
	count := 0
	values.Each(func(*kept) { count++ })
	if count != 2 {
		t.Errorf("%d values, want 2", count)
	}
	for range 2 { // Caddy may clean up twice
		if err := loading.Release(); err != nil {
			t.Error(err)
		}
	}
	if first.closed != 0 || running[0].References() != 1 {
		t.Errorf("what the running configuration holds was closed %d times, and is held by %d", first.closed, running[0].References())
	}
	if err := running.Release(); err != nil || first.closed != 1 {
		t.Errorf("error %v; closed %d times, want once", err, first.closed)
	}
}

func TestFailureHoldsNothing(t *testing.T) {
	t.Parallel()
	values := pool.New[*kept]()
	var held pool.Leases
	failure := errors.New("no such file")
	if _, err := values.Acquire(&held, "a", func() (*kept, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	if _, err := values.Acquire(&held, make(chan int), func() (*kept, error) { return new(kept), nil }); err == nil {
		t.Error("settings without a JSON form have a key")
	}
	if err := held.Release(); err != nil || len(held) != 0 {
		t.Errorf("error %v, %d leases", err, len(held))
	}
}
