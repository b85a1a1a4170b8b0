package gate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/session"
)

// TestWarnings plays windows of ten minutes. The gate has two routes of its own
// and two of a preset, and one kind of session.
func TestWarnings(t *testing.T) {
	t.Parallel()
	type counts struct {
		pages            int
		anonymous, known [4]int // by route
		outcomes         map[session.Outcome]int
	}
	busy := [4]int{200, 200, 200, 0} // of a preset, an application need not have all
	healthy := counts{pages: 500, known: busy, outcomes: map[session.Outcome]int{session.Verified: 600}}
	const route, other, preset = 0, 1, 2
	for name, c := range map[string]struct {
		windows []counts
		want    []Warning
	}{
		"all is well":      {[]counts{healthy, healthy}, nil},
		"nothing comes":    {[]counts{{}, {}, {}}, nil},
		"too little comes": {[]counts{{pages: 99, anonymous: [4]int{20, 20, 20, 20}, outcomes: map[session.Outcome]int{session.UnknownKey: 99}}}, nil},
		"a cookie is renamed, and named as before again": {
			[]counts{healthy, {pages: 500, anonymous: busy}, {pages: 500, anonymous: busy}, healthy},
			[]Warning{{Trouble: NobodyRecognised, Requests: 600}, {Trouble: NobodyRecognised, Ended: true, Requests: 600}},
		},
		"a night in between, and it goes on": {
			[]counts{{anonymous: busy}, {}, {anonymous: busy}},
			[]Warning{{Trouble: NobodyRecognised, Requests: 600}},
		},
		"one route without the credential": {
			[]counts{{pages: 500, anonymous: [4]int{0, 150}, known: [4]int{200, 0, 200}}, healthy},
			[]Warning{{Trouble: NobodyRecognisedOnRoute, Route: other, Requests: 150}, {Trouble: NobodyRecognisedOnRoute, Ended: true, Route: other, Requests: 200}},
		},
		"a route past the edge": {
			[]counts{{pages: 500, known: [4]int{0, 200, 200}}, healthy},
			[]Warning{{Trouble: RouteSilent, Route: route, Requests: 500}, {Trouble: RouteSilent, Ended: true, Route: route, Requests: 500}},
		},
		"all of a preset past the edge": {
			[]counts{{pages: 500, known: [4]int{200, 200}}},
			[]Warning{{Trouble: RouteSilent, Route: preset, Requests: 500}},
		},
		"a key is rotated": {
			[]counts{
				{known: busy, outcomes: map[session.Outcome]int{session.Verified: 90, session.UnknownKey: 300, session.Malformed: 20, session.Absent: 900, session.Expired: 900}},
				healthy,
			},
			[]Warning{
				{Trouble: SessionsFail, Outcome: session.UnknownKey, Requests: 320},
				{Trouble: SessionsFail, Ended: true, Outcome: session.Malformed},
			},
		},
		"everybody's key is rotated, and the names are right": {
			[]counts{{anonymous: busy, outcomes: map[session.Outcome]int{session.BadSignature: 500, session.Absent: 100}}},
			[]Warning{{Trouble: SessionsFail, Outcome: session.BadSignature, Requests: 500}},
		},
		"a cookie is renamed, and junk comes by its old name": {
			[]counts{{anonymous: [4]int{900, 900}, outcomes: map[session.Outcome]int{session.Malformed: 150, session.Absent: 1650}}},
			[]Warning{{Trouble: SessionsFail, Outcome: session.Malformed, Requests: 150}, {Trouble: NobodyRecognised, Requests: 1800}},
		},
		"some junk beside what verifies": {
			[]counts{{known: busy, outcomes: map[session.Outcome]int{session.Verified: 301, session.BadSignature: 300}}}, nil,
		},
		"everybody has expired": {
			[]counts{{known: busy, outcomes: map[session.Outcome]int{session.Expired: 300, session.Absent: 300}}, healthy},
			[]Warning{
				{Trouble: EverybodyExpired, Outcome: session.Expired, Requests: 300},
				{Trouble: EverybodyExpired, Ended: true, Outcome: session.Expired},
			},
		},
		"two accounts at once have verified": {
			[]counts{{known: busy, outcomes: map[session.Outcome]int{session.Conflicting: 300, session.BadSignature: 200}}}, nil,
		},
	} {
		var told []Warning
		now := time.Unix(1_800_000_000, 0)
		w := newWatch(now, 4, 2, 1, func(warning Warning) { told = append(told, warning) })
		for _, window := range c.windows {
			for i := range 4 {
				for n := range window.anonymous[i] + window.known[i] {
					w.gated(now, i, n >= window.anonymous[i])
				}
			}
			for range window.pages {
				w.page(now)
			}
			for outcome, n := range window.outcomes {
				for range n {
					w.session(0, outcome)
				}
			}
			now = now.Add(10 * time.Minute)
			w.turn(now.Add(-time.Nanosecond))
			w.turn(now)
		}
		if diff := cmp.Diff(c.want, told); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
		open := 0
		for _, warning := range told {
			if open++; warning.Ended {
				open -= 2
			}
		}
		if seen := w.seen(); len(seen.Warnings) != open {
			t.Errorf("%s: open is %v", name, seen.Warnings)
		}
	}
}

// Where nobody is recognised, or all have expired, a thousand requests say so before
// the window ends, and say why where they can.
func TestWarningsBeforeTheWindowEnds(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[session.Outcome]Warning{
		session.Absent:      {Trouble: NobodyRecognised, Requests: 1000},
		session.WrongIssuer: {Trouble: SessionsFail, Outcome: session.WrongIssuer, Requests: 1000},
		session.Expired:     {Trouble: EverybodyExpired, Outcome: session.Expired, Requests: 1000},
	} {
		var told []Warning
		now := time.Unix(1_800_000_000, 0)
		w := newWatch(now, 1, 1, 1, func(warning Warning) { told = append(told, warning) })
		for range 999 {
			w.session(0, outcome)
			w.gated(now, 0, outcome == session.Expired) // whose account it names
		}
		if len(told) > 0 {
			t.Errorf("%v: told too soon: %v", outcome, told)
		}
		for range 2000 {
			w.session(0, outcome)
			w.gated(now, 0, outcome == session.Expired)
		}
		if diff := cmp.Diff([]Warning{want}, told); diff != "" {
			t.Errorf("%v (-want +got)\n%s", outcome, diff)
		}
	}
}

// What a gate has seen counts on through windows, and a warning is as old as
// when it was told first, and as the last window shows it.
func TestSeen(t *testing.T) {
	t.Parallel()
	began := time.Unix(1_800_000_000, 0)
	w := newWatch(began, 2, 2, 1, func(Warning) {})
	for minute := range 30 {
		now := began.Add(time.Duration(minute) * time.Minute)
		w.page(now)
		for range 20 {
			w.gated(now, 1, false)
			w.session(0, session.Outcome(minute/10)) // another one in each window
		}
	}
	want := Seen{
		Since: began, Pages: 30, Requests: []int64{0, 600},
		Warnings: []Open{{Warning{Trouble: NobodyRecognised, Requests: 200}, began.Add(10 * time.Minute)}},
		Window:   began.Add(10 * time.Minute), Sessions: make([][session.OutcomeCount]int64, 1),
	}
	want.Sessions[0][1], want.Sessions[0][2] = 200, 200
	if diff := cmp.Diff(want, w.seen()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
