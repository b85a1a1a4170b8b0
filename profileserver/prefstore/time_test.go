package prefstore

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// act is somebody's choice, as it really was, and what a store gets to know of
// it. All times are the true ones, in milliseconds since 1970.
type act struct {
	preference policy.Preference
	at         int64 // when it was made
	arrives    int64 // when the store hears of it
	choice     Choice
}

// span is when the act was made, as far as anybody but its author can know.
func (a act) span() span {
	if a.choice.Made.IsZero() {
		return span{a.arrives, a.arrives}
	}
	return span{a.choice.Made.UnixMilli(), min(a.arrives, a.choice.Made.Add(a.choice.Within-1).UnixMilli())}
}

const (
	second = int64(1000)
	hour   = 3600 * second
	began  = int64(1_800_000_000_000) // some day at noon
)

// spoken is a choice as an event tells of it, from a clock that is off by so much,
// and in the manner of all who tell: whole seconds, fractions, milliseconds.
func spoken(t *rapid.T, preference policy.Preference, at, clockError int64) Choice {
	made := at + clockError
	c := Choice{Preference: preference, Source: SourceUser, Made: time.UnixMilli(made), Within: time.Millisecond}
	switch rapid.SampledFrom([]string{"seconds", "tenths", "milliseconds"}).Draw(t, "counts") {
	case "seconds":
		c.Made, c.Within = time.UnixMilli(made-made%second), time.Second
	case "tenths":
		c.Made, c.Within = time.UnixMilli(made-made%(second/10)), time.Second/10
	}
	return c
}

// drawActs returns what somebody did, one after the other, with at most so long
// in between, on this server's page or elsewhere: then clockError draws by how
// much the clock is off that tells of it, and delay how long that takes.
func drawActs(t *rapid.T, pause int64, clockError, delay func() int64) (acts []act) {
	at := began
	for range rapid.IntRange(1, 8).Draw(t, "acts") {
		// Two things that happen in one millisecond have an order that no clock
		// tells: acts are at even ones.
		at += 2 * rapid.Int64Range(1, pause/2).Draw(t, "pause")
		a := act{preference: rapid.SampledFrom([]policy.Preference{policy.Allowed, policy.OptedOut}).Draw(t, "preference"), at: at, arrives: at}
		a.choice = Choice{Preference: a.preference, Source: SourceUser}
		if rapid.Bool().Draw(t, "elsewhere") {
			a.choice = spoken(t, a.preference, at, clockError())
			a.arrives = at + delay()
		}
		acts = append(acts, a)
	}
	return acts
}

// drawDelay draws how long it takes to tell of an act, up to about so long.
func drawDelay(t *rapid.T, most int64) func() int64 {
	return func() int64 { return 1 + 2*rapid.Int64Range(0, most/2).Draw(t, "delay") }
}

// heldAfter returns what is held after the acts, of which the store hears when they
// arrive, by a clock that is off by so much then.
func heldAfter(acts []act, clockError func(at int64) int64) (held Record) {
	arrived := slices.Clone(acts)
	slices.SortStableFunc(arrived, func(a, b act) int { return int(a.arrives - b.arrives) })
	held.Preference = policy.Unset
	for _, a := range arrived {
		before := held
		held, _ = a.choice.decide(held, a.arrives+clockError(a.arrives))
		if held.Preference != before.Preference && held.changed <= before.changed {
			panic(fmt.Sprintf("%v after %v", held, before))
		}
	}
	return held
}

func right(int64) int64 { return 0 }

// TestTheLastChoiceStands: with clocks that are right, however finely they count
// and however late an act is heard of, what is held is the last one; and where
// nobody can know which of some was the last, that of them which measures least.
func TestTheLastChoiceStands(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		acts := drawActs(t, 3*second, func() int64 { return 0 }, drawDelay(t, 5*second))
		latest := int64(math.MinInt64)
		for _, a := range acts {
			latest = max(latest, a.span().from)
		}
		want := policy.Allowed
		for _, a := range acts {
			if a.span().to >= latest && measured(a.preference) < measured(want) {
				want = a.preference
			}
		}
		if held := heldAfter(acts, right); held.Preference != want {
			t.Fatalf("held %v, want %v", held.Preference, want)
		}
	})
}

// TestAnOptOutIsNotLostToAClock: whichever clock is wrong, an opt-out that was
// the last word stands. A clock that tells of an event is ahead by hours, or the
// store's own is now an hour ahead, now behind.
func TestAnOptOutIsNotLostToAClock(t *testing.T) {
	t.Parallel()
	for name, draw := range map[string]func(t *rapid.T) ([]act, func(int64) int64){
		"a sender's, ahead": func(t *rapid.T) ([]act, func(int64) int64) {
			ahead := rapid.Int64Range(3*second, 24*hour).Draw(t, "ahead")
			return drawActs(t, 2*hour, func() int64 { return ahead }, drawDelay(t, ahead/2-second)), right
		},
		// Events come at once, and never while the store's clock is ahead: of one
		// that says that it is older than a choice here, nobody knows that it is not.
		"the store's own": func(t *rapid.T) ([]act, func(int64) int64) {
			acts := drawActs(t, hour, func() int64 { return 0 }, func() int64 { return 0 })
			errors := map[int64]int64{}
			for _, a := range acts {
				most := 2 * hour
				if !a.choice.Made.IsZero() {
					most = 0
				}
				errors[a.arrives] = rapid.Int64Range(-2*hour, most).Draw(t, "clock")
			}
			return acts, func(at int64) int64 { return errors[at] }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				acts, clockError := draw(t)
				held := heldAfter(acts, clockError)
				if last := acts[len(acts)-1].preference; measured(held.Preference) > measured(last) {
					t.Fatalf("held %v after %v", held, last)
				}
			})
		})
	}
}
