package profileclient_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// teller is a profile server without a network that has a change feed. Its
// accounts are those of its memory.
type teller struct {
	*memory

	feed    sync.Mutex           // guards what follows
	changed map[string]time.Time // Last-Modified of answers, by uid
	exact   map[string]time.Time // Metrics-Optout-Changed of answers, by uid
	// status and kind are what a follower is answered with, if not with a
	// stream; away says that it gets no connection, hang no answer.
	status     int
	kind       string
	away, hang bool
	silent     bool // a stream does not begin with an id
	mute       bool // it says nothing by itself
	asked      []asked
	streams    []*io.PipeWriter
}

// asked is how a follower came.
type asked struct {
	at          time.Time
	lastEventID string
}

func (t *teller) RoundTrip(r *http.Request) (*http.Response, error) {
	claims := jwt.MapClaims{}
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, _, err := jwt.NewParser().ParseUnverified(raw, claims); err != nil {
		return nil, err
	}
	subject, _ := claims["sub"].(string)
	if r.URL.Path == "/v1/changes" {
		return t.follow(r)
	}
	r = r.Clone(r.Context())
	r.URL.RawQuery = url.Values{"uid": {subject}}.Encode()
	response, err := t.memory.RoundTrip(r)
	t.feed.Lock()
	defer t.feed.Unlock()
	if changed, known := t.changed[subject]; known && err == nil {
		response.Header.Set("Last-Modified", changed.UTC().Format(http.TimeFormat))
		response.Header.Set("Metrics-Optout-Source", "user")
	}
	if exact, known := t.exact[subject]; known && err == nil {
		response.Header.Set("Metrics-Optout-Changed", exact.UTC().Format("2006-01-02T15:04:05.000Z"))
		response.Header.Set("Metrics-Optout-Source", "user")
	}
	return response, err
}

func (t *teller) follow(r *http.Request) (*http.Response, error) {
	t.feed.Lock()
	defer t.feed.Unlock()
	t.asked = append(t.asked, asked{time.Now(), r.Header.Get("Last-Event-ID")})
	switch {
	case t.hang:
		t.feed.Unlock()
		<-r.Context().Done()
		t.feed.Lock()
		return nil, r.Context().Err()
	case t.away:
		return nil, io.ErrUnexpectedEOF
	case t.status != 0 || t.kind != "":
		reply := httptest.NewRecorder()
		reply.Header().Set("Content-Type", t.kind)
		reply.WriteHeader(max(200, t.status))
		return reply.Result(), nil
	}
	body, stream := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = body.CloseWithError(r.Context().Err()) })
	t.streams = append(t.streams, stream)
	greeting, mute := "retry: 1000\nid: 40\n\n", t.mute
	if t.silent {
		greeting = ":\n\n"
	}
	go func() {
		for text := greeting; !mute; text = ":\n\n" {
			if _, err := io.WriteString(stream, text); err != nil {
				return
			}
			select {
			case <-time.After(15 * time.Second):
			case <-r.Context().Done():
				return
			}
		}
	}()
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"text/event-stream"}},
		Body:       body,
	}, nil
}

// hold has the profile server hold a preference of accounts.
func (t *teller) hold(preference string, uids ...string) {
	t.set(func(m *memory) {
		for _, uid := range uids {
			m.preferences[uid] = preference
		}
	})
}

// answer changes how followers are answered from now on.
func (t *teller) answer(change func(t *teller)) {
	t.feed.Lock()
	defer t.feed.Unlock()
	change(t)
}

// tell sends text on the connection there is, and lets it be read.
func (t *teller) tell(text string) {
	t.feed.Lock()
	stream := t.streams[len(t.streams)-1]
	t.feed.Unlock()
	_, _ = io.WriteString(stream, text)
	synctest.Wait()
}

// breakOff ends the connection there is, as a server does that stops.
func (t *teller) breakOff() {
	t.feed.Lock()
	_ = t.streams[len(t.streams)-1].Close()
	t.feed.Unlock()
	synctest.Wait()
}

func (t *teller) follows() []asked {
	t.feed.Lock()
	defer t.feed.Unlock()
	return slices.Clone(t.asked)
}

// told is an event about a change that was made at a second of a minute.
func told(id int, uid, preference string, second float64) string {
	at := noon.Add(time.Duration(second * float64(time.Second)))
	return fmt.Sprintf("event: change\nid: %d\ndata: {\"uid\":%q,\"metrics_optout\":%s,\"source\":\"user\",\"changed\":%q}\n\n",
		id, uid, preference, at.Format("2006-01-02T15:04:05.000Z"))
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// following is a bench whose server has a change feed.
type following struct {
	bench
	teller *teller
}

// unfollowed is one whose client has not asked for the feed yet.
func unfollowed(t *testing.T, configure func(*profileclient.Config), test func(t *testing.T, f following)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		teller := &teller{changed: map[string]time.Time{}, exact: map[string]time.Time{}}
		b := newBench(t, func(config *profileclient.Config) {
			teller.memory = config.Transport.(*memory)
			config.URL = "https://profile.test/v1"
			config.Auth = profileclient.Mint(minter(t, longSecret))
			config.Transport = teller
			config.Follow = true
			if configure != nil {
				configure(config)
			}
		})
		defer b.Close()
		test(t, following{b, teller})
	})
}

// connected is one whose client follows.
func connected(t *testing.T, configure func(*profileclient.Config), test func(t *testing.T, f following)) {
	t.Helper()
	unfollowed(t, configure, func(t *testing.T, f following) {
		pass(time.Second)
		if len(f.teller.follows()) != 1 {
			t.Fatalf("a second after New the feed was asked for %d times", len(f.teller.follows()))
		}
		test(t, f)
	})
}

// TestChangeActsAtOnce: an opt-out of an account that is cached decides from
// when the feed tells of it, without a lookup. After any other change the next
// lookup asks, once.
func TestChangeActsAtOnce(t *testing.T) {
	t.Parallel()
	inverted := func(c *profileclient.Config) { c.Field, c.Inverted = "metrics_optout", true }
	for name, test := range map[string]struct {
		configure  func(*profileclient.Config)
		held, told string
		now        string // what the server holds
		want       policy.Preference
		lookups    int
	}{
		"an opt-out":               {nil, "false", "true", "true", policy.OptedOut, 2},
		"a choice to allow":        {nil, "true", "false", "false", policy.Allowed, 4},
		"a choice taken back":      {nil, "true", "null", "null", policy.Unset, 4},
		"a choice that is no more": {nil, "null", "false", "true", policy.OptedOut, 4},
		"where true means allow":   {inverted, "true", "true", "false", policy.OptedOut, 2},
		"where false means allow":  {inverted, "false", "false", "true", policy.Allowed, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connected(t, test.configure, func(t *testing.T, f following) {
				f.teller.hold(test.held, "ann", "bob")
				if before := f.lookup("ann"); before == test.want || f.lookupNamed("bob") != before {
					t.Fatalf("before the change: %v", before)
				}
				pass(10 * time.Second)
				f.teller.hold(test.now, "ann", "bob")
				f.teller.tell(told(41, "ann", test.told, 0) + told(42, "bob", test.told, 0))
				expect(t, "proven", f.lookup("ann"), test.want)
				expect(t, "named", f.lookupNamed("bob"), test.want)
				expect(t, "cached", f.Cached(profileclient.Account{UID: "ann"}, time.Now()), test.want)
				expect(t, "lookups", f.server.readCount(), test.lookups)
				expect(t, "events", f.counts.event("change"), 2)
				// It is known since then, and so used for MaxAge.
				pass(45 * time.Second)
				expect(t, "55 s after the first lookup", f.Cached(profileclient.Account{UID: "ann"}, time.Now()), test.want)
			})
		})
	}
}

// TestDeletedAccount is looked up anew, and nothing of it is used until then.
func TestDeletedAccount(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.teller.hold("true", "ann")
		f.lookup("ann")
		f.teller.set(func(m *memory) { m.status = http.StatusInternalServerError })
		f.teller.tell("event: delete\nid: 41\ndata: {\"uid\":\"ann\"}\n\n")
		expect(t, "while the server fails", f.lookup("ann"), policy.Unknown)
		f.teller.set(func(m *memory) { m.status = 0; delete(m.preferences, "ann") })
		expect(t, "after", f.lookup("ann"), policy.Unset)
		expect(t, "events", f.counts.event("delete"), 1)
	})
}

// TestOlderEventChangesNothing: neither one that is older than an answer, nor
// one that is older than another event.
func TestOlderEventChangesNothing(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.teller.hold("true", "ann")
		f.teller.answer(func(t *teller) { t.changed["ann"] = noon.Add(10 * time.Second) })
		f.lookup("ann")
		f.teller.tell(told(41, "ann", "false", 9.999))
		expect(t, "older than the answer", f.lookup("ann"), policy.OptedOut)
		expect(t, "lookups", f.server.readCount(), 1)
		f.teller.hold("false", "ann")
		f.teller.answer(func(t *teller) { t.exact["ann"] = noon.Add(10500 * time.Millisecond) })
		f.teller.tell(told(42, "ann", "false", 10.5))
		expect(t, "newer than the answer", f.lookup("ann"), policy.Allowed)
		f.teller.tell(told(43, "ann", "true", 10.499))
		expect(t, "older than the event", f.lookup("ann"), policy.Allowed)
		f.teller.tell(told(44, "ann", "false", 10.5))
		expect(t, "told again", f.lookup("ann"), policy.Allowed)
		expect(t, "lookups", f.server.readCount(), 2)
	})
}

// TestEventDuringLookup: what a lookup found that began before an event is not
// kept, whether or not the account was cached; what one found that began after
// it is.
func TestEventDuringLookup(t *testing.T) {
	t.Parallel()
	asks := map[string]func(f following) policy.Preference{
		"proven": func(f following) policy.Preference { return f.lookup("ann") },
		"named":  func(f following) policy.Preference { return f.lookupNamed("ann") },
		"read": func(f following) policy.Preference {
			held, _ := f.Read(context.Background(), profileclient.Account{UID: "ann"})
			return held.Preference
		},
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connected(t, nil, func(t *testing.T, f following) {
				f.teller.hold("false", "ann")
				f.teller.set(func(m *memory) { m.delay = 100 * time.Millisecond })
				go ask(f)
				pass(50 * time.Millisecond)
				f.teller.hold("true", "ann")
				f.teller.tell(told(41, "ann", "true", 0))
				expect(t, "before the lookup has ended", f.lookup("ann"), policy.OptedOut)
				pass(time.Second)
				expect(t, "after it has", f.lookup("ann"), policy.OptedOut)

				go ask(f)
				pass(50 * time.Millisecond)
				f.teller.tell("event: delete\nid: 42\ndata: {\"uid\":\"ann\"}\n\n")
				f.teller.set(func(m *memory) { delete(m.preferences, "ann") })
				pass(time.Second)
				expect(t, "after a deletion", f.lookup("ann"), policy.Unset)
			})
		})
		t.Run(name+" after it", func(t *testing.T) {
			t.Parallel()
			connected(t, nil, func(t *testing.T, f following) {
				f.teller.tell(told(41, "ann", "true", 0))
				f.teller.hold("false", "ann")
				expect(t, "asked", ask(f), policy.Allowed)
				expect(t, "asked again", f.lookupNamed("ann"), policy.Allowed)
				expect(t, "lookups", f.server.readCount(), 1)
			})
		})
	}
}

// TestEventDuringWrite: whether the server took the gate's write before or
// after the change that it tells of meanwhile, only the server knows.
func TestEventDuringWrite(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.lookup("ann")
		f.teller.set(func(m *memory) { m.delay = 100 * time.Millisecond })
		f.WriteBack(profileclient.Account{UID: "ann"}, time.Now())
		pass(50 * time.Millisecond)
		f.teller.hold("false", "ann")
		f.teller.tell(told(41, "ann", "true", 1) + told(42, "ann", "false", 2))
		pass(time.Second)
		expect(t, "written", f.counts.write("written"), 1)
		expect(t, "the user's own choice", f.lookup("ann"), policy.Allowed)
	})
}

// TestEventFromBeforeAWrite: what the gate wrote is newer than what it knew
// when it did.
func TestEventFromBeforeAWrite(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.lookup("ann")
		f.teller.tell(told(41, "ann", "false", 1))
		if err := f.Choose(context.Background(), profileclient.Account{UID: "ann"}, policy.OptedOut, ""); err != nil {
			t.Fatal(err)
		}
		f.teller.tell(told(40, "ann", "null", 0.5))
		expect(t, "ann", f.lookup("ann"), policy.OptedOut)
	})
}

// TestNullThatIsTold has no ETag, so it is asked for, and the answer is written
// back to.
func TestNullThatIsTold(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.teller.hold("false", "ann")
		f.lookup("ann")
		f.teller.hold("null", "ann")
		f.teller.tell(told(41, "ann", "null", 0))
		f.WriteBack(profileclient.Account{UID: "ann"}, time.Now())
		pass(time.Second)
		expect(t, "lookups", f.server.readCount(), 2)
		expect(t, "written", f.counts.write("written"), 1)
		expect(t, "If-Match", f.teller.written()[0].ifMatch, `"null"`)
	})
}

// TestImport tells of a hundred times as many accounts as the cache holds.
// None is taken in, so none is displaced; and that all who are there are told
// of displaces nobody either.
func TestImport(t *testing.T) {
	t.Parallel()
	const entries = 1000
	connected(t, func(c *profileclient.Config) { c.MaxEntries = entries }, func(t *testing.T, f following) {
		for i := range entries / 3 {
			f.lookup(fmt.Sprint(i))
		}
		before, _ := f.Entries()
		var events strings.Builder
		for i := range 100 * entries {
			events.WriteString(told(41+i, fmt.Sprint("new", i), "true", 0))
			if i < entries/3 {
				events.WriteString(told(41+i, fmt.Sprint(i), "true", 0))
			}
		}
		f.teller.tell(events.String())
		proven, named := f.Entries()
		expect(t, "proven", proven, before)
		expect(t, "named", named, 0)
		for i := range entries / 3 {
			if got := f.lookup(fmt.Sprint(i)); got != policy.OptedOut {
				t.Fatalf("%d is %v", i, got)
			}
		}
		expect(t, "lookups", f.server.readCount(), entries/3)
	})
}

// TestWhatIsDue goes through the times at which an answer can have been
// fetched, and the ways in which a connection comes.
func TestWhatIsDue(t *testing.T) {
	t.Parallel()
	const before, heard, lost, back = "before", "while connected", "after the last byte", "after the reconnection"
	for name, test := range map[string]struct {
		greeting string
		silent   bool // neither connection tells an id
		due      []string
	}{
		"going on":                           {"id: 41\n\n", false, []string{lost}},
		"a change that was missed, at once":  {told(42, "zoe", "true", 0), false, []string{lost}},
		"a reset":                            {"event: reset\nid: 7\ndata: {}\n\n", false, []string{before, heard, lost}},
		"a server that never told where":     {"event: news\n\n", true, []string{before, heard, lost}},
		"nothing but heartbeats, and no end": {":\n\n", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unfollowed(t, func(c *profileclient.Config) { c.MaxAge = time.Hour }, func(t *testing.T, f following) {
				fetch := func(uid string) {
					f.teller.hold("true", uid)
					f.lookup(uid)
				}
				f.teller.answer(func(t *teller) { t.silent, t.mute = true, true })
				fetch("at the start")
				pass(time.Second)
				greeting := "id: 41\n\n"
				if test.silent {
					greeting = "event: news\n\n"
				}
				fetch(before)
				pass(time.Second)
				f.teller.tell(greeting)
				expect(t, "before the first connection", f.isDue("at the start"), true)
				expect(t, "before the first event", f.isDue(before), true)
				fetch(before)
				pass(10 * time.Second)
				fetch(heard)
				pass(time.Second)
				f.teller.tell(":\n\n")
				pass(time.Second)
				fetch(lost) // the connection is dead, and nobody knows it yet
				pass(45 * time.Second)
				if n := len(f.teller.follows()); n != 2 {
					t.Fatalf("%d connections", n)
				}
				for _, uid := range []string{before, heard, lost} {
					expect(t, uid+", before anything is told again", f.isDue(uid), false)
				}
				f.teller.tell(test.greeting)
				fetch(back)
				for _, uid := range []string{before, heard, lost, back} {
					expect(t, uid, f.isDue(uid), slices.Contains(test.due, uid))
				}
			})
		})
	}
}

// isDue says whether an opt-out in the cache is asked for again, and holds
// that it is used all the same while the server fails.
func (f following) isDue(uid string) bool {
	f.teller.set(func(m *memory) { m.status = http.StatusInternalServerError })
	defer f.teller.set(func(m *memory) { m.status = 0 })
	asked := f.server.readCount()
	if got := f.lookup(uid); got != policy.OptedOut {
		panic(fmt.Sprintf("%s is %v", uid, got))
	}
	return f.server.readCount() > asked
}

// TestTwoGaps: what was fetched while the feed was away is due for as long as
// it could be used, whatever comes in between.
func TestTwoGaps(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		f.teller.hold("true", "ann", "bob", "cid")
		f.lookup("ann")
		for _, uid := range []string{"bob", "cid"} {
			pass(time.Second)
			f.teller.breakOff()
			f.lookup(uid)
			pass(5 * time.Second)
		}
		expect(t, "from before both", f.isDue("ann"), false)
		expect(t, "from the first", f.isDue("bob"), true)
		expect(t, "from the second", f.isDue("cid"), true)
	})
}

// TestResume: a client goes on after the last event that it has heard of,
// deletions and bare ids included.
func TestResume(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]string{
		"":                         "40",
		told(42, "ann", "true", 0): "42",
		"event: delete\nid: 43\ndata: {\"uid\":\"ann\"}\n\n": "43",
		"id: 44\n\n":                              "44",
		"event: reset\nid: 7\ndata: {}\n\n":       "7",
		told(42, "ann", "true", 0) + "id: 43\nev": "42",
		"event: news\nid: 45\ndata: x\n\n":        "45",
		"id: x\n\n":                               "40",
		"id: -1\n\n":                              "40",
		"id: 99999999999999999999\n\n":            "40",
	} {
		connected(t, nil, func(t *testing.T, f following) {
			f.teller.tell(event)
			f.teller.breakOff()
			pass(2 * time.Second)
			asked := f.teller.follows()
			if len(asked) != 2 || asked[0].lastEventID != "" || asked[1].lastEventID != want {
				t.Errorf("after %q the feed was asked for as %+v", event, asked)
			}
		})
	}
}

// TestAsOldAsWhatWasNotTold: of a server that says when it has told all, the age is
// the time since; that something comes is no sign of it.
func TestAsOldAsWhatWasNotTold(t *testing.T) {
	t.Parallel()
	unfollowed(t, nil, func(t *testing.T, f following) {
		f.teller.answer(func(t *teller) { t.mute = true })
		pass(2 * time.Second)
		expect(t, "age before anything was heard", f.FeedAge(time.Now()), 2*time.Second)
		f.teller.tell("id: 7\n\n")
		expect(t, "age of one that may never say it", f.FeedAge(time.Now()), 0)
		f.teller.tell(": he")
		f.teller.tell("ad 7\n\n")
		expect(t, "age", f.FeedAge(time.Now()), 0)
		pass(10 * time.Second)
		f.teller.tell(told(8, "ann", "false", 0))
		expect(t, "age where more may be missing", f.FeedAge(time.Now()), 10*time.Second)
		f.teller.tell(told(9, "ann", "true", 0) + ": head 9\n\n" + told(10, "ann", "false", 1))
		expect(t, "age", f.FeedAge(time.Now()), 0)
		pass(10 * time.Second)
		f.teller.breakOff()
		f.teller.answer(func(t *teller) { t.mute = false })
		pass(2 * time.Second)
		expect(t, "age on a connection that did not say it yet", f.FeedAge(time.Now()), 12*time.Second)
		pass(15 * time.Second)
		expect(t, "age where a server never says it", f.FeedAge(time.Now()) < 2*time.Second, true)
		expect(t, "reports", len(f.counts.feedReports()), 0)
	})
}

// TestDeafFeed: heartbeats come, and the changes that they speak of do not. All that
// is cached counts as due, the client comes back for what it missed, and says so
// once, and once that it is over.
func TestDeafFeed(t *testing.T) {
	t.Parallel()
	unfollowed(t, nil, func(t *testing.T, f following) {
		f.teller.answer(func(t *teller) { t.mute = true })
		f.teller.hold("false", "ann")
		pass(2 * time.Second)
		f.teller.tell("id: 7\n\n: head 7\n\n")
		f.lookup("ann")
		pass(time.Second)
		expect(t, "cached", f.lookup("ann"), policy.Allowed)
		expect(t, "lookups", f.server.readCount(), 1)
		f.teller.hold("true", "ann") // which nobody tells
		pass(14 * time.Second)
		for again := range 3 {
			f.teller.tell(": head 8\n\n")
			expect(t, "what was cached", f.lookup("ann"), policy.OptedOut)
			expect(t, "lookups", f.server.readCount(), 2+again)
			expect(t, "age", f.FeedAge(time.Now()), time.Duration(again+1)*15*time.Second)
			expect(t, "reports", len(f.counts.feedReports()), 1)
			pass(2 * time.Second)
			asked := f.teller.follows()
			expect(t, "connections", len(asked), 2+again)
			expect(t, "asked for", asked[len(asked)-1].lastEventID, "7")
			f.teller.tell("id: 7\n\n")
			pass(13 * time.Second)
		}
		f.teller.tell(told(8, "ann", "true", 0) + ": head 8\n\n")
		reports := f.counts.feedReports()
		if len(reports) != 2 || reports[1] != nil || !strings.Contains(fmt.Sprint(reports[0]), "did not arrive") {
			t.Errorf("reported: %v", reports)
		}
		expect(t, "age", f.FeedAge(time.Now()), 0)
		f.lookup("ann")
		expect(t, "lookups", f.server.readCount(), 4)
	})
}

// TestSilence: a connection on which nothing comes for 45 seconds is given up,
// and one that says that it is there is not.
func TestSilence(t *testing.T) {
	t.Parallel()
	unfollowed(t, nil, func(t *testing.T, f following) {
		f.teller.answer(func(t *teller) { t.mute = true })
		pass(time.Second)
		for range 20 {
			f.teller.tell(":\n\n")
			pass(44 * time.Second)
		}
		f.teller.tell(":\n\n")
		expect(t, "connections", len(f.teller.follows()), 1)
		expect(t, "age", f.FeedAge(time.Now()), 0)
		pass(44 * time.Second)
		expect(t, "age", f.FeedAge(time.Now()), 44*time.Second)
		pass(2 * time.Second)
		expect(t, "connections", len(f.teller.follows()), 2)
		expect(t, "reports", len(f.counts.feedReports()), 1)
		expect(t, "follows", f.Following(), true)
	})
}

// TestFeedAway: a client comes back less and less often, says once that the
// feed is away, and once that it is back.
func TestFeedAway(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		away    func(t *teller)
		outcome string
		says    string
	}{
		"no connection": {func(t *teller) { t.away = true }, "unreachable", "the connection broke"},
		"no answer":     {func(t *teller) { t.hang = true }, "unreachable", "no complete answer within 45s"},
		"503":           {func(t *teller) { t.status = http.StatusServiceUnavailable }, "bad_answer", "status 503"},
		"302":           {func(t *teller) { t.status = http.StatusFound }, "bad_answer", "status 302"},
		"a page":        {func(t *teller) { t.kind = "text/html" }, "bad_answer", "not text/event-stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unfollowed(t, nil, func(t *testing.T, f following) {
				f.teller.answer(test.away)
				pass(40 * time.Second)
				expect(t, "reports of a short while", len(f.counts.feedReports()), 0)
				pass(9*time.Minute + 20*time.Second)
				asked := f.teller.follows()
				if n := len(asked); n < 7 || n > 40 {
					t.Errorf("asked for %d times in ten minutes", n)
				}
				for i := 1; i < len(asked); i++ {
					if pause := asked[i].at.Sub(asked[i-1].at); pause < 250*time.Millisecond || pause > 90*time.Second {
						t.Errorf("a pause of %v", pause)
					}
				}
				// The age is about what was heard, not about what was tried.
				expect(t, "age", f.FeedAge(time.Now()), 10*time.Minute)
				expect(t, "follows", f.Following(), true)
				if n := f.counts.connect(test.outcome); n < len(asked)-1 {
					t.Errorf("%d of %d tries are %s", n, len(asked), test.outcome)
				}
				f.teller.answer(func(t *teller) { t.away, t.hang, t.status, t.kind = false, false, 0, "" })
				pass(2 * time.Minute)
				reports := f.counts.feedReports()
				if len(reports) != 2 || reports[1] != nil || !strings.Contains(fmt.Sprint(reports[0]), test.says) {
					t.Errorf("reported: %v", reports)
				}
			})
		})
	}
}

// TestConnectionThatDoesNotLast is not begun again at once for ever.
func TestConnectionThatDoesNotLast(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		for len(f.teller.follows()) < 10 {
			f.teller.breakOff()
			pass(time.Second)
		}
		asked := f.teller.follows()
		if pause := asked[9].at.Sub(asked[8].at); pause < 15*time.Second {
			t.Errorf("after nine connections of a second, a pause of %v", pause)
		}
		pass(time.Minute)
		f.teller.breakOff()
		pass(time.Second)
		expect(t, "a second after one that lasted", len(f.teller.follows()), 11)
	})
}

// TestRefusedFeed: a server that has no feed, or none for this credential, is
// asked rarely, and all else works as without one.
func TestRefusedFeed(t *testing.T) {
	t.Parallel()
	for status, says := range map[int]string{
		401: "refuses the credential", 403: "refuses the credential",
		404: "the server has none", 405: "the server has none", 501: "the server has none",
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			unfollowed(t, nil, func(t *testing.T, f following) {
				f.teller.answer(func(t *teller) { t.status = status })
				f.teller.hold("true", "ann")
				expect(t, "follows", f.Following(), true)
				f.lookup("ann")
				pass(time.Second)
				expect(t, "follows", f.Following(), false)
				expect(t, "cached", f.lookup("ann"), policy.OptedOut)
				expect(t, "lookups", f.server.readCount(), 1)
				pass(time.Hour)
				asked := f.teller.follows()
				if len(asked) < 10 || len(asked) > 13 {
					t.Errorf("asked for %d times in an hour", len(asked))
				}
				reports := f.counts.feedReports()
				if len(reports) != 1 || !strings.Contains(fmt.Sprint(reports[0]), says) || !strings.Contains(fmt.Sprint(reports[0]), fmt.Sprint(status)) {
					t.Errorf("reported: %v", reports)
				}
				expect(t, "refused", f.counts.connect("refused"), len(asked))
				expect(t, "reports of the profile server", len(f.counts.reports()), 0)
				f.teller.answer(func(t *teller) { t.status = 0 })
				pass(6 * time.Minute)
				expect(t, "follows", f.Following(), true)
				expect(t, "reports", len(f.counts.feedReports()), 2)
			})
		})
	}
}

// TestHostileFeed: whatever comes, the client goes on, counts it, and takes
// nothing from it.
func TestHostileFeed(t *testing.T) {
	t.Parallel()
	data := func(json string) string { return "event: change\nid: 41\ndata: " + json + "\n\n" }
	const changed = `"changed":"2026-11-24T12:00:00.000Z"`
	for name, test := range map[string]struct {
		text      string
		malformed int
		breaks    bool
	}{
		"no JSON":               {data(`{`), 1, false},
		"no data":               {"event: change\nid: 41\n\n", 1, false},
		"an array":              {data(`["ann"]`), 1, false},
		"null":                  {data(`null`), 1, false},
		"no uid":                {data(`{"metrics_optout":true,` + changed + `}`), 1, false},
		"an empty uid":          {data(`{"uid":"","metrics_optout":true,` + changed + `}`), 1, false},
		"a number as uid":       {data(`{"uid":1,"metrics_optout":true,` + changed + `}`), 1, false},
		"an object as uid":      {data(`{"uid":{"uid":"ann"},"metrics_optout":true,` + changed + `}`), 1, false},
		"no preference":         {data(`{"uid":"ann",` + changed + `}`), 1, false},
		"a string":              {data(`{"uid":"ann","metrics_optout":"true",` + changed + `}`), 1, false},
		"no time":               {data(`{"uid":"ann","metrics_optout":true}`), 1, false},
		"a time that is none":   {data(`{"uid":"ann","metrics_optout":true,"changed":1}`), 1, false},
		"a deletion of nobody":  {"event: delete\nid: 41\ndata: {}\n\n", 1, false},
		"a deletion and choice": {strings.Replace(data(`{"uid":"ann","metrics_optout":true,`+changed+`}`), "change", "delete", 1), 1, false},
		"an id that is none":    {"id: forty-one\n\n", 1, false},
		"another kind":          {"event: news\ndata: {\"uid\":\"ann\",\"metrics_optout\":true," + changed + "}\n\n", 0, false},
		"no kind":               {"data: {\"uid\":\"ann\",\"metrics_optout\":true," + changed + "}\n\n", 0, false},
		"bytes":                 {"\x00\xff\xfe\x80:\x00\n\r\n\r\r\n\n", 0, false},
		"a long event":          {data(`{"uid":"` + strings.Repeat("x", 64<<10) + `"}`), 0, true},
		"an endless line":       {strings.Repeat("x", 64<<10), 0, true},
		"many lines":            {strings.Repeat("data: x\n", 8<<10), 0, true},
		"nothing but breaks":    {strings.Repeat("\n", 64<<10), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connected(t, nil, func(t *testing.T, f following) {
				f.teller.hold("false", "ann")
				f.lookup("ann")
				f.teller.tell(test.text)
				expect(t, "ann", f.lookup("ann"), policy.Allowed)
				expect(t, "malformed", f.counts.event("malformed"), test.malformed)
				pass(2 * time.Second)
				expect(t, "a new connection", len(f.teller.follows()) == 2, test.breaks)
				f.teller.tell("\n\n" + told(42, "ann", "true", 0))
				expect(t, "ann, by the next event", f.lookup("ann"), policy.OptedOut)
				proven, _ := f.Entries()
				expect(t, "entries", proven, 1)
			})
		})
	}
}

// TestCloseEndsFollowing, at once, whatever the client is at.
func TestCloseEndsFollowing(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(f following){
		"before the first connection": func(following) {},
		"connecting": func(f following) {
			f.teller.answer(func(t *teller) { t.hang = true })
			pass(time.Second)
		},
		"reading": func(following) { pass(time.Second) },
		"in the middle of an event": func(f following) {
			pass(time.Second)
			f.teller.tell("event: change\nid: 41\nda")
		},
		"waiting to come back": func(f following) {
			f.teller.answer(func(t *teller) { t.away = true })
			pass(time.Minute)
		},
		"waiting, refused": func(f following) {
			f.teller.answer(func(t *teller) { t.status = 403 })
			pass(time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unfollowed(t, nil, func(t *testing.T, f following) {
				at(f)
				reported, asked := len(f.counts.feedReports()), len(f.teller.follows())
				began := time.Now()
				f.Close()
				expect(t, "time that it took", time.Since(began), 0)
				pass(time.Hour)
				expect(t, "connections after", len(f.teller.follows()), asked)
				expect(t, "reports after", len(f.counts.feedReports()), reported)
			})
		})
	}
}

// TestFeedOverHTTP follows a server on loopback, by each protocol.
func TestFeedOverHTTP(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			tell := make(chan string)
			asked := make(chan *http.Request, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/base/v1/changes" {
					answer(200, "application/json", `{"metrics_optout":false}`)(w, r)
					return
				}
				asked <- r
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "id: 40\n\n")
				_ = http.NewResponseController(w).Flush()
				for {
					select {
					case text := <-tell:
						_, _ = io.WriteString(w, text)
						_ = http.NewResponseController(w).Flush()
					case <-r.Context().Done():
						return
					}
				}
			}))
			if protocol == "HTTP/2.0" {
				server.EnableHTTP2 = true
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			changes := make(chan struct{}, 8)
			client, err := profileclient.New(profileclient.Config{
				URL:  server.URL + "/base/v1",
				Auth: profileclient.Mint(minter(t, longSecret)), Follow: true,
				Transport: server.Client().Transport, Timeout: 10 * time.Second, Concurrency: 1,
				Observer: profileclient.Observer{FeedEvent: func(profileclient.FeedEvent) { changes <- struct{}{} }},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()

			r := <-asked
			expect(t, "protocol", r.Proto, protocol)
			expect(t, "accepts", r.Header.Get("Accept"), "text/event-stream")
			claims := jwt.MapClaims{}
			raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if _, err := jwt.ParseWithClaims(raw, claims, func(*jwt.Token) (any, error) { return []byte(longSecret), nil }); err != nil {
				t.Error(err)
			}
			expect[any](t, "subject", claims["sub"], "metrics-gate")
			expect[any](t, "client", claims["client_id"], "metrics-gate")
			expect[any](t, "scope", claims["scope"], "metrics_optout:changes")

			lookup := func() policy.Preference {
				return client.Lookup(context.Background(), profileclient.Account{UID: "ann"}, time.Now())
			}
			// The feed takes no slot: there is one, and it is free.
			expect(t, "before", lookup(), policy.Allowed)
			tell <- told(41, "ann", "true", 0)
			<-changes
			expect(t, "after", lookup(), policy.OptedOut)
		})
	}
}

// TestOrderWithinASecond has a server that says to the millisecond when a
// preference changed: what was learnt or chosen here is not undone by an event
// from before, told late.
func TestOrderWithinASecond(t *testing.T) {
	t.Parallel()
	exact := func(f following, second float64) {
		f.teller.answer(func(t *teller) { t.exact["ann"] = noon.Add(time.Duration(second * float64(time.Second))) })
	}
	for name, know := range map[string]func(t *testing.T, f following){
		"learnt": func(_ *testing.T, f following) { f.teller.hold("true", "ann") },
		"chosen": func(t *testing.T, f following) {
			if err := f.Choose(t.Context(), profileclient.Account{UID: "ann"}, policy.OptedOut, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connected(t, nil, func(t *testing.T, f following) {
				exact(f, 10.7)
				know(t, f)
				expect(t, name, f.lookup("ann"), policy.OptedOut)
				f.teller.tell(told(41, "ann", "false", 10.2))
				expect(t, "an event from before", f.lookup("ann"), policy.OptedOut)
				f.teller.hold("false", "ann")
				f.teller.tell(told(42, "ann", "false", 10.701))
				expect(t, "a later one", f.lookup("ann"), policy.Allowed)
			})
		})
	}
}
