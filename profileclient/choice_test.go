package profileclient_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

var ann = profileclient.Account{UID: "ann"}

func (b bench) read(t *testing.T) profileclient.Held {
	t.Helper()
	held, err := b.Read(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func (b bench) choose(t *testing.T, preference policy.Preference, etag string) error {
	t.Helper()
	return b.Choose(t.Context(), ann, preference, etag)
}

// TestReadAsksAlways: what is shown to people is what the server holds now,
// and whoever looks it up afterwards knows it, too.
func TestReadAsksAlways(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		for i, preference := range []policy.Preference{policy.Unset, policy.OptedOut, policy.Allowed} {
			b.server.preferences["ann"] = preference.String()
			pass(time.Millisecond)
			want := profileclient.Held{Preference: preference, ETag: `"` + preference.String() + `"`}
			if diff := cmp.Diff(want, b.read(t)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			expect(t, "looked up", b.lookup("ann"), preference)
			expect(t, "requests", b.server.readCount(), i+1)
		}
		expect(t, "counted", b.counts.lookup("ok"), 3)
	})
}

// TestReadOrigin: where a preference came from, and when, as far as the
// server says so.
func TestReadOrigin(t *testing.T) {
	t.Parallel()
	const date = "Tue, 24 Nov 2026 10:32:40 GMT"
	when := time.Date(2026, 11, 24, 10, 32, 40, 0, time.UTC)
	for name, test := range map[string]struct {
		source, modified string
		want             profileclient.Held
	}{
		"a browser":             {"browser", date, profileclient.Held{Source: "browser", Changed: when}},
		"the user":              {"user", date, profileclient.Held{Source: "user", Changed: when}},
		"an operator":           {"admin", date, profileclient.Held{Source: "admin", Changed: when}},
		"without a date":        {"browser", "", profileclient.Held{Source: "browser"}},
		"with what is no date":  {"browser", "yesterday", profileclient.Held{Source: "browser"}},
		"of something else":     {"", date, profileclient.Held{}},
		"a word nobody knows":   {"martian", date, profileclient.Held{}},
		"a server of old times": {"", "", profileclient.Held{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, _ := wire(t, func(w http.ResponseWriter, r *http.Request) {
				for name, value := range map[string]string{"Metrics-Optout-Source": test.source, "Last-Modified": test.modified} {
					if value != "" {
						w.Header().Set(name, value)
					}
				}
				answer(200, "application/json", `{"metrics_optout":true}`)(w, r)
			}, nil)
			test.want.Preference = policy.OptedOut
			got, err := client.Read(t.Context(), ann)
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestReadFails: what could not be read is nothing at all, however much the
// cache knows, after the time that one request may take.
func TestReadFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		account profileclient.Account
		fault   func(*memory)
		outcome string
		wait    time.Duration
	}{
		"the server is slow":  {ann, func(m *memory) { m.delay = time.Hour }, "timeout", profileclient.DefaultTimeout},
		"the server fails":    {ann, func(m *memory) { m.status = 500 }, "bad_status", 0},
		"nobody is asked for": {profileclient.Account{}, func(*memory) {}, "no_credential", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				b.server.preferences["ann"] = "true"
				b.lookup("ann")
				b.server.set(test.fault)
				before := time.Now()
				held, err := b.Read(t.Context(), test.account)
				expect(t, "held", held, profileclient.Held{})
				if err == nil || strings.Contains(err.Error(), "ann") {
					t.Errorf("error %v", err)
				}
				expect(t, "time waited", time.Since(before), test.wait)
				expect(t, test.outcome, b.counts.lookup(test.outcome), 1)
				expect(t, "the opt-out holds on", b.lookup("ann"), policy.OptedOut)
			})
		})
	}
}

// TestReadsAreShared: one account takes no more than one of the lookups that
// may be in flight, and does without those that began before a choice.
func TestReadsAreShared(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		var readers sync.WaitGroup
		first, leave := context.WithCancel(t.Context())
		for range 50 {
			readers.Go(func() {
				if held, err := b.Read(first, ann); err != nil || held.Preference != policy.Unset {
					t.Errorf("%v, %v", held, err)
				}
			})
		}
		pass(50 * time.Millisecond)
		leave() // the others still wait
		expect(t, "requests", b.server.readCount(), 1)

		b.server.set(func(m *memory) { m.delay = 0 })
		expect(t, "choosing", b.choose(t, policy.OptedOut, ""), nil)
		expect(t, "read after the choice", b.read(t).Preference, policy.OptedOut)
		readers.Wait()
		expect(t, "looked up after them all", b.lookup("ann"), policy.OptedOut)
		expect(t, "requests", b.server.readCount(), 2)
	})
}

// TestChoose: what comes of a choice, on the server and for the next lookup,
// which asks only where the profile was not surely written.
func TestChoose(t *testing.T) {
	t.Parallel()
	const stale = `"stale"`
	for name, test := range map[string]struct {
		before  string
		choice  policy.Preference
		etag    string
		status  int // of writes
		err     error
		after   policy.Preference
		lookups int // the one at the start included
	}{
		"opting out":                       {"null", policy.OptedOut, `"null"`, 0, nil, policy.OptedOut, 1},
		"allowing":                         {"true", policy.Allowed, `"true"`, 0, nil, policy.Allowed, 1},
		"taking it back":                   {"true", policy.Unset, `"true"`, 0, nil, policy.Unset, 1},
		"the same again":                   {"true", policy.OptedOut, `"true"`, 0, nil, policy.OptedOut, 1},
		"where there is no version":        {"false", policy.OptedOut, "", 0, nil, policy.OptedOut, 1},
		"changed meanwhile":                {"true", policy.Allowed, stale, 0, profileclient.ErrConflict, policy.OptedOut, 2},
		"changed meanwhile to the same":    {"true", policy.OptedOut, stale, 0, nil, policy.OptedOut, 2},
		"a condition that is always false": {"true", policy.Allowed, "", 412, profileclient.ErrConflict, policy.OptedOut, 2},
		"saved without content":            {"null", policy.OptedOut, `"null"`, 204, nil, policy.OptedOut, 1},
		"refused":                          {"null", policy.OptedOut, `"null"`, 403, profileclient.ErrNotSaved, policy.Unset, 2},
		"redirected":                       {"null", policy.OptedOut, `"null"`, 307, profileclient.ErrNotSaved, policy.Unset, 2},
		"failed":                           {"null", policy.OptedOut, `"null"`, 500, profileclient.ErrNotSaved, policy.Unset, 2},
		"away":                             {"null", policy.OptedOut, `"null"`, 503, profileclient.ErrNotSaved, policy.Unset, 2},
		"nothing that can be chosen":       {"null", policy.Unknown, `"null"`, 0, profileclient.ErrNotSaved, policy.Unset, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, nil, func(t *testing.T, b bench) {
				b.server.preferences["ann"] = test.before
				b.server.writeStatus = test.status
				b.lookup("ann")
				pass(time.Second)
				err := b.choose(t, test.choice, test.etag)
				if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				if err != nil && strings.Contains(err.Error(), "ann") {
					t.Errorf("the error names the account: %v", err)
				}
				expect(t, "looked up", b.lookup("ann"), test.after)
				expect(t, "known without waiting", b.Cached(ann, time.Now()), test.after)
				expect(t, "lookups", b.server.readCount(), test.lookups)
				if test.choice == policy.Unknown {
					expect(t, "writes", len(b.server.written()), 0)
					return
				}
				sent := b.server.written()[0]
				expect(t, "body", sent.body, `{"metrics_optout":`+test.choice.String()+`}`)
				expect(t, "If-Match", sent.ifMatch, test.etag)
			})
		})
	}
}

// TestChooseInverted: in a field that says allowed, opted out is false, and no
// choice is null as everywhere.
func TestChooseInverted(t *testing.T) {
	t.Parallel()
	for preference, want := range map[policy.Preference]string{
		policy.OptedOut: "false", policy.Allowed: "true", policy.Unset: "null",
	} {
		virtual(t, func(c *profileclient.Config) { c.Inverted = true }, func(t *testing.T, b bench) {
			b.server.preferences["ann"] = "null"
			expect(t, "choosing", b.choose(t, preference, ""), nil)
			expect(t, "body", b.server.written()[0].body, `{"metrics_optout":`+want+`}`)
			expect(t, "held", b.read(t).Preference, preference)
		})
	}
}

// TestChooseCredential: a choice goes with the credential that there is, and a
// minted one says that it is the user's own.
func TestChooseCredential(t *testing.T) {
	t.Parallel()
	verifier, err := token.NewVerifier(token.Config{Secret: []byte(longSecret)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	for name, test := range map[string]struct {
		auth profileclient.Auth
		want string
	}{
		"mint":    {profileclient.Mint(minter(t, longSecret)), "ann profile:metrics_optout:write user"},
		"forward": {profileclient.Forward(), "her-own"},
		"bearer":  {profileclient.Bearer("hunter2"), "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := make(chan string, 1)
			client, _ := wire(t, func(_ http.ResponseWriter, r *http.Request) {
				bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				if claims, err := verifier.Verify(bearer, time.Now()); err == nil {
					var said []string
					for _, name := range []string{"sub", "scope", "source"} {
						value, _ := claims.String(name)
						said = append(said, value)
					}
					bearer = strings.Join(said, " ")
				}
				got <- bearer
			}, func(c *profileclient.Config) { c.Auth = test.auth })
			expect(t, "choosing", client.Choose(t.Context(), profileclient.Account{UID: "ann", Token: "her-own"}, policy.Allowed, ""), nil)
			expect(t, "credential", <-got, test.want)
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, func(c *profileclient.Config) { c.Auth = profileclient.Forward() })
		defer b.Close()
		if err := b.choose(t, policy.Allowed, ""); !errors.Is(err, profileclient.ErrNotSaved) {
			t.Errorf("error %v", err)
		}
		expect(t, "writes", len(b.server.written()), 0)
	})
}

// TestChooseUnknown: what is no choice is not sent, and is no lookup that lacks
// a credential.
func TestChooseUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	defer b.Close()
	if err := b.choose(t, policy.Unknown, ""); !errors.Is(err, profileclient.ErrNotSaved) {
		t.Errorf("error %v", err)
	}
	expect(t, "writes", len(b.server.written()), 0)
	expect(t, "lookups without a credential", b.counts.lookup("no_credential"), 0)
}

// TestChoiceOutlivesItsCaller: who clicks and closes the page has chosen.
func TestChoiceOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.delay = 100 * time.Millisecond
		ctx, leave := context.WithCancel(t.Context())
		leave()
		expect(t, "choosing", b.Choose(ctx, ann, policy.OptedOut, `"null"`), nil)
		expect(t, "held", b.read(t).Preference, policy.OptedOut)
	})
}

// TestReplyThatGotLost: a choice that was not confirmed is never said to be
// saved. It may be, so the server is asked before anything is decided by it.
func TestReplyThatGotLost(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "false"
		expect(t, "before", b.lookup("ann"), policy.Allowed)
		b.server.set(func(m *memory) { m.delay = time.Hour })
		before := time.Now()
		if err := b.choose(t, policy.OptedOut, `"false"`); !errors.Is(err, profileclient.ErrNotSaved) {
			t.Errorf("error %v", err)
		}
		expect(t, "time waited", time.Since(before), profileclient.DefaultTimeout)
		expect(t, "while nobody knows", b.lookup("ann"), policy.Unknown)
		b.server.set(func(m *memory) { m.delay = 0 })
		expect(t, "afterwards", b.lookup("ann"), policy.OptedOut)
	})
}

// TestChoicesWaitNoLongerThanTheTimeout: write-backs that hang keep a choice
// waiting for its turn, and that counts as time that it takes.
func TestChoicesWaitNoLongerThanTheTimeout(t *testing.T) {
	t.Parallel()
	virtual(t, func(c *profileclient.Config) { c.Concurrency = 4 }, func(t *testing.T, b bench) {
		for _, other := range []string{"bob", "eve"} {
			b.lookup(other)
		}
		b.server.set(func(m *memory) { m.delay = time.Hour })
		for _, other := range []string{"bob", "eve"} {
			b.writeBack(other)
			pass(50 * time.Millisecond)
		}
		before := time.Now()
		if err := b.choose(t, policy.OptedOut, ""); !errors.Is(err, profileclient.ErrNotSaved) {
			t.Errorf("error %v", err)
		}
		expect(t, "time waited", time.Since(before), profileclient.DefaultTimeout)
		expect(t, "writes", len(b.server.written()), 2)
	})
}

// TestChoiceAgainstWriteBack: the browser's opt-out is on its way when the
// user allows. The server took the choice last, so that is what holds, though
// the write-back's reply comes later.
func TestChoiceAgainstWriteBack(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.lookup("ann")
		b.server.set(func(m *memory) { m.delay = 200 * time.Millisecond })
		b.writeBack("ann")
		pass(50 * time.Millisecond)
		b.server.set(func(m *memory) { m.delay = 0 })
		expect(t, "choosing", b.choose(t, policy.Allowed, ""), nil)
		expect(t, "at once", b.lookup("ann"), policy.Allowed)
		pass(time.Second)
		expect(t, "written back before", b.counts.write("written"), 1)
		expect(t, "afterwards", b.lookup("ann"), policy.Allowed)
	})
}

// TestFollowTheBrowserAgain: who takes a choice back in a browser that opted
// out has that browser's word written, but from an answer of the server: of
// what was just saved no version is known, which is no fault of the server.
func TestFollowTheBrowserAgain(t *testing.T) {
	t.Parallel()
	virtual(t, nil, func(t *testing.T, b bench) {
		b.server.preferences["ann"] = "false"
		expect(t, "choosing", b.choose(t, policy.Unset, `"false"`), nil)
		for range 10 {
			b.writeBack("ann")
			synctest.Wait()
		}
		expect(t, "kinds of outcome so far", len(b.counts.writes), 0)
		pass(time.Millisecond)
		expect(t, "read", b.read(t).Preference, policy.Unset)
		b.writeBack("ann")
		synctest.Wait()
		expect(t, "written", b.counts.write("written"), 1)
		expect(t, "afterwards", b.lookup("ann"), policy.OptedOut)
	})
}

// TestChoiceAfterClose: requests that a reload leaves behind still choose.
func TestChoiceAfterClose(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Close()
	expect(t, "choosing", b.choose(t, policy.OptedOut, ""), nil)
	expect(t, "read", b.read(t).Preference, policy.OptedOut)
}
