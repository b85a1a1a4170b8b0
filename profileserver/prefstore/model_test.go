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
	if want, known := m.held[uid]; known {
		return want
	}
	return Record{Preference: policy.Unset, deleted: m.deleted[uid]}
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
		if after.said < before.said {
			t.Fatalf("%v after %v", after, before)
		}
		before.said = after.said
		m.held[uid] = before
	default:
		if after.said != after.changed || after.Preference != c.Preference || after.Source != c.Source || after.changed <= before.changed {
			t.Fatalf("%v after %v", after, before)
		}
		m.held[uid] = after
	}
}

func (m *model) event(t *rapid.T) {
	uid, jti := m.drawUID(t), fmt.Sprint(m.run, "-", rapid.IntRange(0, 9).Draw(t, "jti"))
	before := m.expect(uid)
	last := max(before.said, before.deleted, 1)
	pass(last)
	c := Choice{Preference: drawChoice.Draw(t, "to"), Source: SourceUser, Event: jti,
		Made: time.UnixMilli(last + rapid.Int64Range(-1, 1).Draw(t, "later"))}
	_, came, err := m.instance(t).Set(context.Background(), uid, c)
	later := !m.seen[jti] && c.Made.UnixMilli() > max(before.said, before.deleted)
	m.seen[jti] = true
	want := Unchanged
	if later && c.Preference != before.Preference {
		want = Changed
		m.held[uid] = Record{Preference: c.Preference, changed: c.Made.UnixMilli(), said: c.Made.UnixMilli(), Source: SourceUser}
	} else if _, known := m.held[uid]; known && later {
		before.said = c.Made.UnixMilli()
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
	last := max(before.said, m.deleted[uid])
	pass(last)
	row := Row{uid, drawChoice.Draw(t, "to"), time.UnixMilli(last + rapid.Int64Range(0, 1).Draw(t, "later")).UTC(), drawSource.Draw(t, "source")}
	want := Imported{Read: 1}
	if !known && m.deleted[uid] == 0 || row.Changed.UnixMilli() > last {
		want.Changed = 1
		m.held[uid] = Record{Preference: row.Preference, changed: row.Changed.UnixMilli(), said: row.Changed.UnixMilli(), Source: row.Source}
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
		got.Source, got.said = "", 0 // two changes that differ in nothing else are one state
		if state, known := m.tags[got.ETag()]; known && state != got {
			t.Fatalf("%s names %v and %v", got.ETag(), state, got)
		}
		m.tags[got.ETag()] = got
	}
}
