package prefstore

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// TestStoreAgainstModel makes changes in any order, at two instances, and
// holds the store against a map.
func TestStoreAgainstModel(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		instances := []Store{p.open(t, 0), p.open(t, 0)}
		runs, deleted := 0, map[string]int64{}
		rapid.Check(t, func(rt *rapid.T) {
			runs++
			m := &model{
				instances: instances, run: runs, uids: []string{fmt.Sprint("a", runs), fmt.Sprint("b", runs)},
				held: map[string]Record{}, deleted: deleted, seen: map[string]bool{}, tags: map[string]Record{},
				secret: mustGet(t, instances[0], "nobody").secret,
			}
			rt.Repeat(map[string]func(*rapid.T){
				"set": m.set, "event": m.event, "delete": m.delete, "import": m.importRow, "": m.compare,
			})
		})
	})
}

// model is what the store should hold of the accounts of one run.
type model struct {
	instances []Store
	run       int
	uids      []string // of this run alone

	held    map[string]Record
	deleted map[string]int64 // when each of all runs' accounts was, at last
	seen    map[string]bool  // the events
	secret  secret
	tags    map[string]Record
}

var (
	drawChoice = rapid.SampledFrom([]policy.Preference{policy.Unset, policy.Allowed, policy.OptedOut})
	drawSource = rapid.SampledFrom([]string{SourceUser, SourceBrowser, SourceAdmin})
)

func (m *model) drawUID(t *rapid.T) string { return rapid.SampledFrom(m.uids).Draw(t, "uid") }

// instance is either of them.
func (m *model) instance(t *rapid.T) Store {
	return m.instances[rapid.IntRange(0, 1).Draw(t, "instance")]
}

func (m *model) get(t *rapid.T, uid string) Record {
	got, err := m.instance(t).Get(context.Background(), uid)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (m *model) expect(uid string) Record {
	want, known := m.held[uid]
	if !known {
		want = Record{Preference: policy.Unset}
	}
	want.deleted, want.secret = m.deleted[uid], m.secret
	return want
}

// pass waits until a time, in milliseconds since 1970, is over: one that is
// still to come would count as now.
func pass(at int64) {
	for time.Now().UnixMilli() <= at {
		runtime.Gosched()
	}
}

func (m *model) set(t *rapid.T) {
	uid, allow := m.drawUID(t), rapid.Bool().Draw(t, "allow")
	before := m.expect(uid)
	c := Choice{Preference: drawChoice.Draw(t, "to"), Source: drawSource.Draw(t, "source"), OnlyIf: func(tag string) bool {
		if tag != before.ETag() {
			t.Errorf("asked with %s, want %s", tag, before.ETag())
		}
		return allow
	}}
	_, came, err := m.instance(t).Set(context.Background(), uid, c)
	want := Unchanged
	if !allow {
		want = Refused
	} else if c.Preference != before.Preference {
		want = Changed
	}
	if err != nil || came != want {
		t.Fatalf("%v, %v, want %v", came, err, want)
	}
	after := m.get(t, uid)
	switch {
	case came == Refused || came == Unchanged && before.Source == "":
	case came == Unchanged:
		if after.said.from < before.said.from {
			t.Fatalf("%v after %v", after, before)
		}
		before.said = after.said
		m.held[uid] = before
	default:
		if after.said.from != after.said.to || after.changed < after.said.to || after.Preference != c.Preference || after.Source != c.Source || after.changed <= before.changed {
			t.Fatalf("%v after %v", after, before)
		}
		m.held[uid] = after
	}
}

func (m *model) event(t *rapid.T) {
	uid, jti := m.drawUID(t), fmt.Sprint(m.run, "-", rapid.IntRange(0, 9).Draw(t, "jti"))
	before := m.expect(uid)
	last := max(before.said.to, before.deleted, 1)
	c := Choice{
		Preference: drawChoice.Draw(t, "to"), Source: SourceUser, Event: jti,
		Made:   time.UnixMilli(last + rapid.Int64Range(-3, 1).Draw(t, "later")),
		Within: rapid.SampledFrom([]time.Duration{0, time.Millisecond, 3 * time.Millisecond}).Draw(t, "within"),
	}
	made := span{c.Made.UnixMilli(), c.Made.Add(max(c.Within, time.Millisecond) - time.Millisecond).UnixMilli()}
	pass(max(last, made.to))
	_, came, err := m.instance(t).Set(context.Background(), uid, c)
	counts := !m.seen[jti] && (made.from > before.deleted || before.Source != "") && (made.from > before.said.to ||
		made.to >= before.said.from && measured(c.Preference) <= measured(before.Preference))
	m.seen[jti] = true
	want := Unchanged
	if counts && c.Preference != before.Preference {
		want = Changed
		made = made.after(before.deleted)
		m.held[uid] = Record{Preference: c.Preference, changed: max(made.from, before.changed+1), said: made, Source: SourceUser}
	} else if _, known := m.held[uid]; known && counts {
		before.said = span{max(made.from, before.said.from), max(made.to, before.said.to)}.after(before.deleted)
		m.held[uid] = before
	}
	if err != nil || came != want {
		t.Fatalf("%v, %v, want %v", came, err, want)
	}
}

func (m *model) delete(t *rapid.T) {
	uid := m.drawUID(t)
	want := Unchanged
	if _, known := m.held[uid]; known {
		want = Changed
		delete(m.held, uid)
	}
	if came, err := m.instance(t).Delete(context.Background(), uid, ""); err != nil || came != want {
		t.Fatalf("%v, %v, want %v", came, err, want)
	}
	after := m.get(t, uid)
	if after.deleted <= m.deleted[uid] {
		t.Fatalf("%v, deleted before: %d", after, m.deleted[uid])
	}
	m.deleted[uid] = after.deleted
}

func (m *model) importRow(t *rapid.T) {
	uid := m.drawUID(t)
	before, known := m.held[uid]
	last := max(before.said.to, m.deleted[uid])
	pass(last)
	at := max(0, last+rapid.Int64Range(-2, 1).Draw(t, "later"))
	row := Row{uid, drawChoice.Draw(t, "to"), time.UnixMilli(at).UTC(), drawSource.Draw(t, "source")}
	want := Imported{Read: 1}
	switch {
	case !known && m.deleted[uid] == 0, at > last,
		known && at >= before.said.from && measured(row.Preference) < measured(before.Preference):
		want.Changed = 1
		changed := at
		if known {
			changed = max(at, before.changed+1)
		}
		m.held[uid] = Record{Preference: row.Preference, changed: changed, said: span{at, at}, Source: row.Source}
	}
	if got, err := m.instance(t).Import(context.Background(), only(row), nil); err != nil || got != want {
		t.Fatalf("%v, %v, want %v", got, err, want)
	}
}

// compare holds the store against the model: no tag ever names two states.
func (m *model) compare(t *rapid.T) {
	for _, uid := range m.uids {
		want, got := m.expect(uid), m.get(t, uid)
		if got != want {
			t.Fatalf("%s: %v, want %v", uid, got, want)
		}
		if got.Source != "" {
			got.deleted = 0 // which its tag does not name
		}
		got.Source, got.said = "", span{} // two changes that differ in nothing else are one state
		if state, known := m.tags[got.ETag()]; known && state != got {
			t.Fatalf("%s names %v and %v", got.ETag(), state, got)
		}
		m.tags[got.ETag()] = got
	}
}
