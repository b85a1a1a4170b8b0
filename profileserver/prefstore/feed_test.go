package prefstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tmaxmax/go-sse"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// journal stands for a store: it numbers the changes, and tells of each
// account the latest state.
type journal struct {
	mu      sync.Mutex
	changes []Change // the n-th has the id n
	latest  map[string]int64
	reads   int
	broken  error
}

// write records a change of an account, or that it is deleted, without
// telling the feed.
func (j *journal) write(uid string, deleted bool) Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := Change{ID: int64(len(j.changes)) + 1, UID: uid, Deleted: deleted, Preference: policy.Unset}
	if !deleted {
		u.Preference, u.Source, u.Changed = policy.OptedOut, SourceUser, time.UnixMilli(u.ID)
	}
	j.changes = append(j.changes, u)
	if j.latest == nil {
		j.latest = make(map[string]int64)
	}
	j.latest[uid] = u.ID
	return u
}

func (j *journal) read(_ context.Context, after int64, limit int) (rows []Change, _ error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reads++
	for _, u := range j.changes[after:] {
		if j.latest[u.UID] == u.ID && !u.Deleted {
			rows = append(rows, u)
		}
		if len(rows) == limit {
			break
		}
	}
	return rows, j.broken
}

func (j *journal) head() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return int64(len(j.changes))
}

// startFeed returns a feed that begins behind so many changes, each of an
// account of its own.
func startFeed(t require, before int) (*journal, *Feed) {
	t.Helper()
	j := &journal{}
	for n := range before {
		j.write(fmt.Sprint("early", n), false)
	}
	f := NewFeed(j.read)
	f.Begin(j.head(), 0)
	return j, f
}

// require is what *testing.T and *rapid.T have in common.
type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func follow(t require, f *Feed, after int64) *Follower {
	t.Helper()
	c, err := f.Follow(after)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// told is an event that a follower got.
type told struct {
	Type string
	ID   int64
}

// parse reads events as another implementation of them does.
func parse(t require, text []byte) (all []told) {
	t.Helper()
	for e, err := range sse.Read(bytes.NewReader(text), nil) {
		if err != nil {
			t.Fatal(err)
		}
		id, err := strconv.ParseInt(e.LastEventID, 10, 64)
		if err != nil {
			t.Fatalf("event without an id: %q", text)
		}
		all = append(all, told{e.Type, id})
	}
	return all
}

// impatient is a context that ends as soon as somebody waits for it.
type impatient struct {
	context.Context
	waited bool
}

func (c *impatient) Done() <-chan struct{} {
	c.waited = true
	done := make(chan struct{})
	close(done)
	return done
}

func (c *impatient) Err() error {
	if c.waited {
		return context.Canceled
	}
	return nil
}

// drain returns what a follower is told until it would have to wait, and the
// error that ended it, if one did.
func drain(t require, c *Follower) (all []told, err error) {
	t.Helper()
	for {
		text, err := c.Next(&impatient{Context: context.Background()})
		switch {
		case errors.Is(err, context.Canceled):
			return all, nil
		case err != nil:
			return all, err
		}
		all = append(all, parse(t, text)...)
	}
}

func TestChangesAreEncodedAsEvents(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 13, 0, 0, 5e6, time.FixedZone("", 3600))
	for name, test := range map[string]struct {
		change Change
		want   string
	}{
		"opted out": {Change{ID: 42, UID: "a1", Preference: policy.OptedOut, Changed: at, Source: SourceBrowser},
			"event: change\nid: 42\ndata: {\"uid\":\"a1\",\"metrics_optout\":true,\"source\":\"browser\",\"changed\":\"2026-11-24T12:00:00.005Z\"}\n\n"},
		"unset": {Change{ID: 43, UID: "a1", Preference: policy.Unset, Changed: at.Truncate(time.Second), Source: SourceAdmin},
			"event: change\nid: 43\ndata: {\"uid\":\"a1\",\"metrics_optout\":null,\"source\":\"admin\",\"changed\":\"2026-11-24T12:00:00.000Z\"}\n\n"},
		"deleted": {Change{ID: 44, UID: "a1", Preference: policy.Unset, Deleted: true},
			"event: delete\nid: 44\ndata: {\"uid\":\"a1\"}\n\n"},
		"a name with a line end in it": {Change{ID: 45, UID: "a\r\n\u2028b", Deleted: true},
			"event: delete\nid: 45\ndata: {\"uid\":\"a\\r\\n\\u2028b\"}\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := encode(test.change)
			if diff := cmp.Diff(test.want, string(text)); diff != "" {
				t.Error(diff)
			}
			if cap(text) > len(text) {
				t.Error("what is appended to it is written to what others read")
			}
		})
	}
}

// Ten changes were before the feed began, and five since.
func TestFollowersBeginWhereTheyEnded(t *testing.T) {
	t.Parallel()
	rows := func(from, to int64) (all []told) {
		for id := from; id <= to; id++ {
			all = append(all, told{"change", id})
		}
		return all
	}
	for name, test := range map[string]struct {
		after    int64
		greeting string
		want     []told
		reads    int
	}{
		"from now on":        {-1, "retry: 1000\nid: 15\n\n", nil, 0},
		"nothing missed":     {15, "retry: 1000\nid: 15\n\n", nil, 0},
		"within memory":      {12, "retry: 1000\nid: 12\n\n", rows(13, 15), 0},
		"all of memory":      {10, "retry: 1000\nid: 10\n\n", rows(11, 15), 0},
		"beyond memory":      {7, "retry: 1000\nid: 7\n\n", rows(8, 15), 1},
		"from the beginning": {0, "retry: 1000\nid: 0\n\n", rows(1, 15), 1},
		"unknown":            {16, "retry: 1000\nevent: reset\nid: 15\ndata: {}\n\n", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, f := startFeed(t, 10)
			for n := range 5 {
				f.Publish(j.write(fmt.Sprint("late", n), false))
			}
			c := follow(t, f, test.after)
			greeting, err := c.Next(t.Context())
			if err != nil || string(greeting) != test.greeting {
				t.Errorf("greeting %q, %v; want %q", greeting, err, test.greeting)
			}
			if early := c.Heartbeat(); len(test.want) > 0 && early != nil {
				t.Errorf("%q is said where there are changes to tell", early)
			}
			for range 2 { // a change that comes later is told as well
				got, err := drain(t, c)
				if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
					t.Error(err, diff)
				}
				if said, want := c.Heartbeat(), fmt.Sprintf(": head %d\n\n", f.head()); string(said) != want {
					t.Errorf("all was told, and it says %q; want %q", said, want)
				}
				if j.reads != test.reads {
					t.Errorf("%d reads of the store; want %d", j.reads, test.reads)
				}
				f.Publish(j.write("early0", true))
				test.want = []told{{"delete", 16}}
			}
		})
	}
}

// What an account went through meanwhile is not told, and neither is what is
// in memory told from the rows: those do not know what was deleted.
func TestStoreTellsTheLatestStateUpToWhatIsInMemory(t *testing.T) {
	t.Parallel()
	j, f := startFeed(t, 2*pageSize) // the accounts early0 and so on
	j.write("early5", false)
	j.write("early6", true)
	f.Begin(j.head(), 0)
	f.Publish(j.write("early7", false))
	f.Publish(j.write("early8", true))

	var want []told
	for id := int64(1); id <= 2*pageSize; id++ {
		if id < 6 || id > 9 {
			want = append(want, told{"change", id})
		}
	}
	head := f.head()
	want = append(want, told{"change", head - 3}, told{"change", head - 1}, told{"delete", head})
	for n := range int64(2 * pageSize) { // to read more than is wanted
		f.Publish(j.write(fmt.Sprint("late", n), false))
		want = append(want, told{"change", head + 1 + n})
	}

	c := follow(t, f, 0)
	c.greeting = nil
	got, err := drain(t, c)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// A follower that is behind where the last change left no row is told all that there
// is to tell: what is said to be the last is what it was told last.
func TestHeartbeatOfWhatLeftNoRow(t *testing.T) {
	t.Parallel()
	j, f := startFeed(t, 3)
	j.write("early2", true)
	f.Begin(j.head(), 0)
	c := follow(t, f, 1)
	c.greeting = nil
	got, err := drain(t, c)
	if diff := cmp.Diff([]told{{"change", 2}}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if said := string(c.Heartbeat()); said != ": head 2\n\n" {
		t.Errorf("%q", said)
	}
	f.Interrupt()
	if said := c.Heartbeat(); said != nil {
		t.Errorf("%q while the store does not learn of changes", said)
	}
}

func TestStoreThatFailsEndsThoseWhoReadIt(t *testing.T) {
	t.Parallel()
	j, f := startFeed(t, 1)
	j.broken = errors.New("broken")
	behind, live := follow(t, f, 0), follow(t, f, 1)
	if _, err := drain(t, behind); !errors.Is(err, j.broken) {
		t.Error("the follower that is behind got", err)
	}
	if _, err := drain(t, live); err != nil {
		t.Error("the one that is not got", err)
	}
	j.write("a", false)
	if err := f.Advance(t.Context(), 2); !errors.Is(err, j.broken) {
		t.Error("the store got", err)
	}
}

func TestChangesByOthersAreReadAndTold(t *testing.T) {
	t.Parallel()
	j, f := startFeed(t, 3)
	c := follow(t, f, -1)
	c.greeting = nil
	for n := range 2*pageSize + 5 {
		j.write(fmt.Sprint("other", n%(pageSize+5)), false) // each twice
	}
	head := j.head()
	j.write(j.changes[head-1].UID, true) // so that the last one left no row
	for n := range pageSize {            // to read more than is wanted
		j.write(fmt.Sprint("late", n), false)
	}
	if err := f.Advance(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if f.head() != head {
		t.Errorf("the feed knows changes up to %d; want %d", f.head(), head)
	}
	var want []told
	for id := int64(3 + pageSize + 1); id <= head; id++ {
		if j.latest[j.changes[id-1].UID] == id {
			want = append(want, told{"change", id})
		}
	}
	f.Publish(j.changes[head])
	f.Publish(j.changes[head+1])
	want = append(want, told{"delete", head + 1}, told{"change", head + 2})
	got, err := drain(t, c)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestSlowFollowersAreDropped(t *testing.T) {
	t.Parallel()
	j, f := startFeed(t, 0)
	quick, slow, behind := follow(t, f, 0), follow(t, f, 0), follow(t, f, 0)
	slow.greeting, behind.greeting, behind.behind = nil, nil, true
	var got []told
	for n := range maxRecent {
		f.Publish(j.write(fmt.Sprint("account", n), false))
		if n%100 == 0 {
			some, err := drain(t, quick)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, some...)
		}
	}
	if text, err := slow.Next(t.Context()); err != nil || len(text) > maxBatch {
		t.Errorf("the slow follower got %d bytes, %v, while all is in memory", len(text), err)
	}
	f.Publish(j.write("one too many", false))
	if all, err := drain(t, slow); !errors.Is(err, ErrTooSlow) || len(all) > 0 {
		t.Errorf("the slow follower got %d more, %v; want it dropped", len(all), err)
	}
	some, err := drain(t, quick)
	if got = append(got, some...); err != nil || len(got) != 1+maxRecent+1 {
		t.Errorf("the quick follower got %d, %v; want a greeting and all", len(got), err)
	}
	// Half of what is in memory is always there.
	if c := follow(t, f, f.head()-maxRecent/2-1); c.behind {
		t.Error("the last few thousand changes have to be read from the store")
	}
	// Who reads the store is not overtaken, until it comes to what is in memory.
	if all, err := drain(t, behind); err != nil || len(all) != maxRecent+1 {
		t.Errorf("the follower that reads the store got %d, %v; want all", len(all), err)
	}
	for range maxRecent {
		f.Publish(j.write("many more", false))
	}
	if all, err := drain(t, behind); !errors.Is(err, ErrTooSlow) || len(all) > 0 {
		t.Errorf("the follower that did got %d more, %v; want it dropped", len(all), err)
	}
}

func TestInterruptionEndsAllWhoFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, f := startFeed(t, 3)
		refused := func(what string) {
			if _, err := f.Follow(-1); !errors.Is(err, ErrFeedAway) {
				t.Errorf("%s: %v; want %v", what, err, ErrFeedAway)
			}
		}
		ended := make(chan error)
		for range 3 {
			c := follow(t, f, -1)
			c.greeting = nil
			go func() {
				_, err := c.Next(t.Context())
				ended <- err
			}()
		}
		synctest.Wait()
		f.Interrupt()
		for range 3 {
			if err := <-ended; !errors.Is(err, ErrFeedAway) {
				t.Errorf("a follower ended with %v; want %v", err, ErrFeedAway)
			}
		}
		refused("while it is away")

		// Nothing was missed: what is in memory still holds.
		f.Publish(j.write("a", false))
		f.Begin(4, 0)
		before := follow(t, f, 3)
		if got, err := drain(t, before); err != nil || len(got) != 2 || j.reads != 0 {
			t.Errorf("after an interruption that missed nothing: %v, %v, %d reads", got, err, j.reads)
		}
		f.Begin(4, 0)
		if _, err := drain(t, before); err != nil {
			t.Error("to begin again ended a follower:", err)
		}

		// Something was missed: it is in the store alone.
		j.write("b", false)
		f.Interrupt()
		f.Begin(5, 0)
		if got, err := drain(t, follow(t, f, 4)); err != nil || len(got) != 2 || j.reads != 1 {
			t.Errorf("after an interruption that missed a change: %v, %v, %d reads", got, err, j.reads)
		}

		// A change that was published with a gap before it is one that somebody
		// missed, too.
		live := follow(t, f, -1)
		j.write("c", false)
		f.Publish(j.write("d", false))
		if _, err := drain(t, live); !errors.Is(err, ErrFeedAway) {
			t.Errorf("a gap: %v; want %v", err, ErrFeedAway)
		}
		if got, err := drain(t, follow(t, f, 5)); err != nil || len(got) != 3 {
			t.Errorf("after a gap: %v, %v", got, err)
		}
		f.Interrupt()
		refused("when it is closed")
	})
	refuse := NewFeed(nil)
	if _, err := refuse.Follow(0); !errors.Is(err, ErrFeedAway) {
		t.Error("before it began:", err)
	}
}

// knowledge is what somebody knows who followed.
type knowledge struct {
	last int64
	of   map[int64]bool // the ids told
}

func (k *knowledge) learn(t require, all []told) {
	t.Helper()
	for _, e := range all {
		switch {
		case e.Type == "": // a greeting
			if e.ID != k.last {
				t.Fatalf("follows from %d; knew %d", e.ID, k.last)
			}
		case e.ID <= k.last:
			t.Fatalf("told %d after %d", e.ID, k.last)
		default:
			k.last, k.of[e.ID] = e.ID, true
		}
	}
}

// covers fails unless all of j since the beginning is known: the latest state
// of every account.
func (k *knowledge) covers(t require, j *journal) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range j.latest {
		if !j.changes[id-1].Deleted && !k.of[id] {
			t.Fatalf("was never told of the change %d", id)
		}
	}
}

// Whatever happens to the feed and in whatever order, each follower is told
// the latest state of every account, and nothing twice.
func TestNothingIsMissedAndNothingToldTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		j, f := startFeed(t, rapid.IntRange(0, 600).Draw(t, "before"))
		f.limit = rapid.IntRange(2, 20).Draw(t, "limit")
		k := &knowledge{of: make(map[int64]bool)}
		c := follow(t, f, 0)

		write := func() Change {
			return j.write(fmt.Sprint("early", rapid.IntRange(0, 700).Draw(t, "account")), rapid.IntRange(0, 9).Draw(t, "delete") == 0)
		}
		catchUp := func() {
			for {
				all, err := drain(t, c)
				k.learn(t, all)
				if err == nil {
					break
				}
				c = follow(t, f, k.last)
			}
			k.covers(t, j)
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(*rapid.T) { f.Publish(write()) },
			"by others": func(t *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(t, "changes") {
					write()
				}
				if err := f.Advance(context.Background(), j.head()); err != nil {
					t.Fatal(err)
				}
			},
			"what was told": func(t *rapid.T) {
				if told := f.head(); told > 0 {
					f.Publish(j.changes[rapid.Int64Range(0, told-1).Draw(t, "which")])
				}
			},
			"a gap": func(*rapid.T) { write(); f.Publish(write()) },
			"many": func(*rapid.T) {
				for n := range f.limit {
					f.Publish(j.write(fmt.Sprint("early", n), false))
				}
			},
			"interruption": func(t *rapid.T) {
				f.Interrupt()
				for range rapid.IntRange(0, 2).Draw(t, "missed") {
					write()
				}
				f.Begin(j.head(), 0)
			},
			"come back": func(*rapid.T) { c = follow(t, f, k.last) },
			"read some": func(t *rapid.T) {
				text, err := c.Next(&impatient{Context: context.Background()})
				k.learn(t, parse(t, text))
				if err != nil && !errors.Is(err, context.Canceled) {
					c = follow(t, f, k.last)
				}
			},
			"": func(*rapid.T) {},
		})
		catchUp()
	})
}

// Followers read, leave and come back while changes are published, some from
// so far behind that they have to read the store, and all soon overtaken.
func TestFollowersMissNothingWhileChangesArePublished(t *testing.T) {
	t.Parallel()
	const changes = 10_000
	j, f := startFeed(t, 2000)
	f.limit = 512
	var following sync.WaitGroup
	for i := range 8 {
		following.Go(func() {
			k := &knowledge{last: int64(i * 250), of: make(map[int64]bool)}
			first := k.last
			c := follow(t, f, k.last)
			for n := 1; k.last < 2000+changes; n++ {
				text, err := c.Next(t.Context())
				k.learn(t, parse(t, text))
				if err != nil || n%50 == 0 {
					c = follow(t, f, k.last)
				}
			}
			for id := int64(1); id <= first; id++ {
				k.of[id] = true
			}
			k.covers(t, j)
		})
	}
	for n := range changes {
		f.Publish(j.write(fmt.Sprint("early", n%3000), false))
	}
	following.Wait()
}

// While all is in memory every single change is told, deletions too.
func TestEveryChangeInMemoryIsTold(t *testing.T) {
	t.Parallel()
	const changes = 2000 // fewer than are held in memory
	j, f := startFeed(t, 0)
	var following sync.WaitGroup
	for range 8 {
		following.Go(func() {
			c, last := follow(t, f, 0), int64(0)
			for n := 1; last < changes; n++ {
				text, err := c.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range parse(t, text) {
					if e.Type == "" {
						continue
					}
					if last++; e.ID != last || (e.Type == "delete") != (last%3 == 0) {
						t.Errorf("got %v; want %d", e, last)
						return
					}
				}
				if n%50 == 0 {
					c = follow(t, f, last)
				}
			}
		})
	}
	for n := range changes {
		f.Publish(j.write("a", n%3 == 2))
	}
	following.Wait()
}
