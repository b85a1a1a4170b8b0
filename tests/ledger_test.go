package tests

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for something that must happen. It is no
// measure of speed: what happens at all happens long before.
const patience = 30 * time.Second

// A ledger is what came in, in order: log lines, requests, writes. A test waits
// for an entry rather than for a time to pass.
type ledger[T any] struct {
	mu    sync.Mutex
	items []T
	grew  chan struct{} // closed and replaced with every entry
}

func (l *ledger[T]) add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items = append(l.items, item)
	if l.grew != nil {
		close(l.grew)
		l.grew = nil
	}
}

func (l *ledger[T]) all() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items)
}

// where is the entries that match.
func (l *ledger[T]) where(match func(T) bool) []T {
	return slices.DeleteFunc(l.all(), func(item T) bool { return !match(item) })
}

// wait returns the entries as soon as enough says that it has seen enough.
func (l *ledger[T]) wait(t testing.TB, what string, enough func([]T) bool) []T {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		items := slices.Clone(l.items)
		if l.grew == nil {
			l.grew = make(chan struct{})
		}
		grew := l.grew
		l.mu.Unlock()
		if enough(items) {
			return items
		}
		select {
		case <-grew:
		case <-deadline:
			t.Fatalf("waited in vain for %s; have %d entries", what, len(items))
		}
	}
}

// await receives from a channel, and fails the test when nothing comes.
func await[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case item := <-from:
		return item
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// until asks again and again. What it asks takes its time, so it needs no pause.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
