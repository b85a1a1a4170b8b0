package prefstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// TestMoveAgainstModel has people choose and leave at two stores, of which one is
// moved to the other, and sometimes back, while others write, and sometimes only
// half-way. After one more move, with nobody else there, the last word of
// everybody stands, and everybody who opted out is counted once.
func TestMoveAgainstModel(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		m := &moveModel{
			stores: [2]Store{here.open(t, 0), there.open(t, 0)}, servers: [2]Store{here.open(t, 0), there.open(t, 0)},
			last: map[string]policy.Preference{}, optedOut: map[string]bool{}, began: day(time.Now()),
		}
		mustMove(t, m.stores[0], m.stores[1]) // who begins to write at an empty store has a secret of their own
		passed := 0
		rapid.Check(t, func(rt *rapid.T) {
			if passed == enough {
				return
			}
			m.run++
			for range rapid.IntRange(1, 4).Draw(rt, "steps") {
				m.step(rt)
			}
			m.check(rt)
			passed++
		})
		// There and back, both come to be one.
		mustMove(t, m.stores[1], m.stores[0])
		if _, found := mustMove(t, m.stores[0], m.stores[1]); found.From != found.To {
			t.Errorf("%+v", found)
		}
	})
}

// enough runs: each waits for the disk some hundred times.
const enough = 30

// moveModel knows what people did, at which of the two stores it ever was.
type moveModel struct {
	stores, servers [2]Store // instances of the same two
	run             int
	began           string // the day

	mu       sync.Mutex
	last     map[string]policy.Preference // what everybody last chose
	optedOut map[string]bool              // who ever did
	again    int64                        // how often that was recorded of somebody who had been counted
	left     bool                         // whether anybody was deleted: who comes back counts again
}

func (m *moveModel) step(t *rapid.T) {
	switch rapid.SampledFrom([]string{"act", "act", "move", "break", "beside", "back"}).Draw(t, "step") {
	case "act":
		for _, a := range m.drawActs(t, "a", "b", "c") {
			m.act(t, a)
		}
	case "move":
		m.move(t, m.stores[0], m.stores[1])
	case "back":
		m.move(t, m.stores[1], m.stores[0])
	case "break":
		left := rapid.IntRange(0, 8).Draw(t, "writes")
		to := &breaking{Store: m.stores[1], left: left, after: rapid.Bool().Draw(t, "after")}
		if _, _, err := Move(context.Background(), m.stores[0], to, nil); err != nil && !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	case "beside":
		acts := m.drawActs(t, "d", "e")
		var writer sync.WaitGroup
		writer.Go(func() {
			for _, a := range acts {
				m.act(t, a)
			}
		})
		_, _, err := Move(context.Background(), m.stores[0], m.stores[1], nil)
		writer.Wait()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// movedAct is a choice of somebody at one of the stores, or, where it is unknown,
// that they are deleted there.
type movedAct struct {
	at     int
	uid    string
	choice policy.Preference
}

func (m *moveModel) drawActs(t *rapid.T, names ...string) []movedAct {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) movedAct {
		return movedAct{
			at:     rapid.IntRange(0, 1).Draw(t, "at"),
			uid:    fmt.Sprint(rapid.SampledFrom(names).Draw(t, "uid"), m.run),
			choice: rapid.SampledFrom([]policy.Preference{policy.Unset, policy.Allowed, policy.OptedOut, policy.OptedOut, policy.Unknown}).Draw(t, "choice"),
		}
	}), 1, 5).Draw(t, "acts")
}

// act does it, at a time of its own: nobody can order what happens at two stores in
// one millisecond.
func (m *moveModel) act(t *rapid.T, a movedAct) {
	pass(time.Now().UnixMilli())
	store := m.servers[a.at]
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.choice == policy.Unknown {
		if _, err := store.Delete(context.Background(), a.uid, ""); err != nil {
			t.Fatal(err)
		}
		m.last[a.uid] = policy.Unset
		m.left = true
		return
	}
	after, came, err := store.Set(context.Background(), a.uid, Choice{Preference: a.choice, Source: SourceUser})
	if err != nil {
		t.Fatal(err)
	}
	if after.Source == "" { // no choice is nothing to remember where there was none
		return
	}
	m.last[a.uid] = a.choice
	if came == Changed && a.choice == policy.OptedOut {
		if m.optedOut[a.uid] {
			m.again++
		}
		m.optedOut[a.uid] = true
	}
}

func (m *moveModel) move(t *rapid.T, from, to Store) Comparison {
	_, found, err := Move(context.Background(), from, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if found.Missing > 0 {
		t.Fatalf("%+v", found)
	}
	return found
}

func (m *moveModel) check(t *rapid.T) {
	found := m.move(t, m.stores[0], m.stores[1])
	if found.OtherSecret || found.Same+found.Newer != found.From.Accounts() {
		t.Fatalf("%+v", found)
	}
	for uid, want := range m.last {
		held, err := m.servers[1].Get(context.Background(), uid)
		if err != nil || held.Preference != want {
			t.Fatalf("%s: %v, %v, want %v", uid, held, err, want)
		}
	}
	counts, err := m.servers[1].Daily(context.Background(), time.Now().AddDate(0, 0, -1), time.Now())
	if err != nil || day(time.Now()) != m.began {
		return // midnight has passed
	}
	least, most := int64(len(m.optedOut)), int64(len(m.optedOut))
	if m.left {
		most += m.again
	}
	if len(counts) > 0 && (counts[0].Users < least || counts[0].Users > most) || len(counts) == 0 && least > 0 {
		t.Fatalf("counted %v, want %d to %d", counts, least, most)
	}
}

// breaking is a store that fails after so many writes: before the next, or when
// that is stored and nobody hears of it.
type breaking struct {
	Store
	left  int
	after bool
}

var errBroken = errors.New("broken")

func (b *breaking) write(f func() error) error {
	if b.left--; b.left >= 0 {
		return f()
	}
	if b.after {
		_ = f()
	}
	return errBroken
}

func (b *breaking) prepare(ctx context.Context, key secret, head int64) error {
	return b.write(func() error { return b.Store.prepare(ctx, key, head) })
}

func (b *breaking) merge(ctx context.Context, entries []entry) (changed int64, err error) {
	return changed, b.write(func() (err error) {
		changed, err = b.Store.merge(ctx, entries)
		return err
	})
}

func (b *breaking) forget(ctx context.Context, deletions []deletion) (changed int64, err error) {
	return changed, b.write(func() (err error) {
		changed, err = b.Store.forget(ctx, deletions)
		return err
	})
}

func (b *breaking) remember(ctx context.Context, table hashTable, page []hashed) error {
	return b.write(func() error { return b.Store.remember(ctx, table, page) })
}

func (b *breaking) addDays(ctx context.Context, days map[dayOf]dayCount) error {
	return b.write(func() error { return b.Store.addDays(ctx, days) })
}

func (b *breaking) addUsers(ctx context.Context, users []countedUser) error {
	return b.write(func() error { return b.Store.addUsers(ctx, users) })
}
