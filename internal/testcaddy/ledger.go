package testcaddy

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for something that must happen. It is no
// measure of speed: what happens at all happens long before.
const Patience = 60 * time.Second

// Ledger is what came in, in order: log lines, requests, writes. A test waits
// for an entry rather than for a time to pass.
type Ledger[T any] struct {
	mu    sync.Mutex
	items []T
	grew  chan struct{} // closed and replaced with every entry
}

// Add adds an entry.
func (l *Ledger[T]) Add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items = append(l.items, item)
	if l.grew != nil {
		close(l.grew)
		l.grew = nil
	}
}

// All is the entries so far.
func (l *Ledger[T]) All() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items)
}

// Where is the entries that match.
func (l *Ledger[T]) Where(match func(T) bool) []T {
	return slices.DeleteFunc(l.All(), func(item T) bool { return !match(item) })
}

// Wait returns the entries as soon as enough says that it has seen enough.
func (l *Ledger[T]) Wait(t testing.TB, what string, enough func([]T) bool) []T {
	t.Helper()
	deadline := time.After(Patience)
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

// Await receives from a channel, and fails the test when nothing comes.
func Await[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case item := <-from:
		return item
	case <-time.After(Patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// Until asks again and again. What it asks takes its time, so it needs no pause.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
