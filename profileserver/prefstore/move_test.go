package prefstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// bothWays runs a test with stores to move from and to.
func bothWays(t *testing.T, test func(t *testing.T, from, to *place)) {
	t.Helper()
	t.Run("SQLite to PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, sqlitePlace(t), postgresPlace(t))
	})
	t.Run("PostgreSQL to SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, postgresPlace(t), sqlitePlace(t))
	})
}

func mustMove(t testing.TB, from, to Store) (Moved, Comparison) {
	t.Helper()
	done, found, err := Move(t.Context(), from, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	return done, found
}

func mustDaily(t testing.TB, s Store) (users int64) {
	t.Helper()
	counts, err := s.Daily(t.Context(), time.Now().AddDate(0, 0, -9), time.Now().AddDate(0, 0, 2))
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range counts {
		users += count.Users
	}
	return users
}

func TestMove(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		from, to := here.open(t, 0), there.open(t, 0)
		server := there.open(t, 0) // which has the empty store open all the while
		mustSet(t, from, "yesterday", Choice{Preference: policy.OptedOut, Source: SourceUser})
		here.nextDay(t)
		accounts := map[string]Record{}
		for _, c := range []struct {
			uid string
			Choice
		}{
			{"out", Choice{Preference: policy.OptedOut, Source: SourceUser}},
			{"browser", Choice{Preference: policy.OptedOut, Source: SourceBrowser}},
			{"allowed", Choice{Preference: policy.Allowed, Source: SourceAdmin}},
			{"event", Choice{Preference: policy.OptedOut, Source: SourceUser, Made: time.Now().Truncate(time.Second).Add(-time.Second), Within: time.Second, Event: "1"}},
			{"back", Choice{Preference: policy.OptedOut}},
			{"back", Choice{Preference: policy.Unset, Source: SourceUser}},
			{"gone", Choice{Preference: policy.OptedOut}},
		} {
			accounts[c.uid] = mustSet(t, from, c.uid, c.Choice)
		}
		delete(accounts, "gone")
		if _, err := from.Delete(t.Context(), "gone", "2"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			done, found := mustMove(t, from, to)
			if done.Accounts != 6 || found.Missing+found.Newer+found.Own > 0 || found.Same != 6 || found.OtherSecret || found.From != found.To {
				t.Fatalf("%+v, %+v", done, found)
			}
			if found.From.Users != 6 || mustDaily(t, to) != 6 { // of two days
				t.Errorf("%d users are counted, %d were", mustDaily(t, to), found.From.Users)
			}
		}
		for uid, want := range accounts {
			if got := mustGet(t, server, uid); got != want {
				t.Errorf("%s: %v, want %v", uid, got, want)
			}
		}
		if got, want := mustGet(t, server, "gone").ETag(), mustGet(t, from, "gone").ETag(); got != want {
			t.Errorf("who is gone has the tag %s, not %s", got, want)
		}
		// What was known there is known here.
		for jti, uid := range map[string]string{"1": "event", "2": "gone", "3": "gone"} {
			c := Choice{Preference: policy.Allowed, Source: SourceUser, Event: jti, Made: time.UnixMilli(mustGet(t, from, "gone").deleted - 1)}
			if jti == "1" {
				c.Made = time.Now()
			}
			if _, came, err := server.Set(t.Context(), uid, c); err != nil || came != Unchanged {
				t.Errorf("event %s: %v, %v", jti, came, err)
			}
		}
		// Whoever was counted today is not counted again.
		mustSet(t, server, "out", Choice{Preference: policy.Allowed})
		mustSet(t, server, "out", Choice{Preference: policy.OptedOut})
		if n := mustDaily(t, server); n != 6 {
			t.Errorf("%d users are counted", n)
		}
	})
}

// TestMoveSaysWhichStoreFails of the two.
func TestMoveSaysWhichStoreFails(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"in the store that is moved: ", "in the store that it is moved to: the file cannot be written; "} {
		from, to := openStore(t, database(t)), openStore(t, database(t))
		if strings.Contains(broken, "written") {
			to.db.SetMaxOpenConns(1)
			if _, err := to.db.ExecContext(t.Context(), `PRAGMA query_only = on`); err != nil {
				t.Fatal(err)
			}
		} else if err := from.db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Move(t.Context(), from, to, nil); err == nil || !strings.HasPrefix(err.Error(), broken) {
			t.Errorf("error %v, want %q", err, broken)
		}
	}
}

// TestMoveAgain: what is newer stays, what changed meanwhile comes, who was
// deleted goes, and who opted out at both counts once.
func TestMoveAgain(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		from, to := here.open(t, 0), there.open(t, 0)
		for _, uid := range []string{"newer there", "newer here", "deleted here", "deleted there", "back"} {
			mustSet(t, from, uid, Choice{Preference: policy.Allowed, Source: SourceUser})
		}
		mustMove(t, from, to)
		followed, err := to.Follow(-1)
		if err != nil {
			t.Fatal(err)
		}
		head, _ := from.origin(t.Context())
		mustSet(t, from, "newer there", Choice{Preference: policy.OptedOut, Source: SourceUser})
		for _, s := range []Store{from, to} {
			mustSet(t, s, "both", Choice{Preference: policy.OptedOut, Source: SourceUser})
		}
		pass(time.Now().UnixMilli() + 1) // as the clocks of both are one
		mustSet(t, to, "newer there", Choice{Preference: policy.Unset, Source: SourceUser})
		mustSet(t, to, "newer here", Choice{Preference: policy.OptedOut, Source: SourceUser})
		mustSet(t, to, "only there", Choice{Preference: policy.OptedOut, Source: SourceUser})
		pass(time.Now().UnixMilli() + 1)
		mustSet(t, from, "newer here", Choice{Preference: policy.Unset, Source: SourceUser})
		for s, uid := range map[Store]string{from: "deleted here", to: "deleted there"} {
			if _, err := s.Delete(t.Context(), uid, ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := from.Delete(t.Context(), "back", ""); err != nil {
			t.Fatal(err)
		}
		mustSet(t, from, "back", Choice{Preference: policy.OptedOut, Source: SourceUser}) // perhaps within one millisecond
		want := map[string]policy.Preference{
			"newer there": policy.Unset, "newer here": policy.Unset, "both": policy.OptedOut, "only there": policy.OptedOut,
			"deleted here": policy.Unset, "deleted there": policy.Unset, "back": policy.OptedOut,
		}
		for again := range 2 {
			_, found := mustMove(t, from, to)
			if found.Missing > 0 || found.Own != 1 || found.Same+found.Newer != found.From.Accounts() {
				t.Errorf("%+v", found)
			}
			for uid, want := range want {
				if got := mustGet(t, to, uid); got.Preference != want {
					t.Errorf("%s: %v, want %v", uid, got, want)
				}
			}
			// Opted out today: newer there, newer here, both, only there, back.
			if n := mustDaily(t, to); n != 5 {
				t.Errorf("%d users are counted after %d more", n, again+1)
			}
		}
		if got, want := mustGet(t, to, "back").ETag(), mustGet(t, from, "back").ETag(); got != want {
			t.Errorf("the tag is %s, not %s", got, want)
		}
		told := map[string]bool{}
		until(t, "what was moved to be told", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			text, err := followed.Next(ctx)
			for uid := range want {
				told[uid] = told[uid] || strings.Contains(string(text), `"uid":"`+uid+`"`)
			}
			return err == nil && told["newer here"] && told["deleted here"] && told["back"]
		})
		// Who followed the other store is told by the number of what it heard there.
		follower, err := to.Follow(head.head)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for !strings.Contains(text, "newer here") || !strings.Contains(text, "only there") {
			next, err := follower.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			text += string(next)
		}
	})
}

// TestMoveIntoAStoreOfItsOwn: one that was filled by import keeps its secret, and
// gets what import does not bring.
func TestMoveIntoAStoreOfItsOwn(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		from, to := here.open(t, 0), there.open(t, 0)
		mustSet(t, from, "out", Choice{Preference: policy.OptedOut, Source: SourceUser})
		mustSet(t, from, "gone", Choice{Preference: policy.OptedOut, Source: SourceUser})
		if _, err := to.Import(t.Context(), from.Export(t.Context()), nil); err != nil {
			t.Fatal(err)
		}
		tag := mustGet(t, to, "out").ETag()
		if _, err := from.Delete(t.Context(), "gone", ""); err != nil {
			t.Fatal(err)
		}
		done, found := mustMove(t, from, to)
		if done.Changed != 1 || !found.OtherSecret || found.Missing > 0 || found.Same != 1 || found.Own > 0 {
			t.Errorf("%+v, %+v", done, found)
		}
		if n := mustDaily(t, to); n != 2 {
			t.Errorf("%d users are counted", n)
		}
		if held := mustGet(t, to, "gone"); held.Source != "" || held.deleted == 0 || mustGet(t, to, "out").ETag() != tag {
			t.Errorf("%v", held)
		}
	})
}

// TestMoveByPages moves more than a page, is ended in the middle, and says how far
// it came.
func TestMoveByPages(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		const accounts = 2*movedPage + 1
		from, to := here.open(t, 0), there.open(t, 0)
		if _, err := from.Import(t.Context(), func(yield func(Row, error) bool) {
			for i := range accounts {
				if !yield(Row{UID: fmt.Sprintf("%0255d", i), Preference: policy.OptedOut}, nil) {
					return
				}
			}
		}, nil); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done, _, err := Move(ctx, from, to, func(Moved) { stop() })
		if n, _ := to.Count(t.Context()); !errors.Is(err, context.Canceled) || done != (Moved{movedPage, accounts, movedPage}) || n != movedPage {
			t.Fatalf("%+v, %v, %d accounts", done, err, n)
		}
		done, found := mustMove(t, from, to)
		if done != (Moved{accounts, accounts, accounts - movedPage}) || found.Same != accounts || found.From != found.To {
			t.Errorf("%+v, %+v", done, found)
		}
		if _, _, err := Move(t.Context(), to, there.open(t, 0), nil); err == nil || !strings.Contains(err.Error(), "the same store") {
			t.Errorf("to itself: %v", err)
		}
	})
}

// TestMissingIsFound: what is taken away behind Move's back is told.
func TestMissingIsFound(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, here, there *place) {
		for name, damage := range map[string]string{
			"an account": `DELETE FROM preference WHERE changed > 0`,
			"a time":     `UPDATE preference SET changed = changed - 1`,
			"a choice":   `UPDATE preference SET preference = NULL, said = said - 5, changed = changed - 5`,
			"a deletion": `DELETE FROM deleted WHERE at > 0`,
			"an event":   `DELETE FROM event WHERE seen > 0`,
			"a count":    `UPDATE daily_moved SET users = 0`,
		} {
			from, to := here.open(t, 0), there.open(t, 0)
			mustMove(t, from, to)
			mustSet(t, from, name, Choice{Preference: policy.OptedOut, Source: SourceUser, Event: name})
			mustSet(t, from, "gone "+name, Choice{Preference: policy.OptedOut, Source: SourceUser})
			if _, err := from.Delete(t.Context(), "gone "+name, ""); err != nil {
				t.Fatal(err)
			}
			mustMove(t, from, to)
			there.execute(t, damage)
			if found, err := compare(t.Context(), from, to); err != nil || found.Missing == 0 {
				t.Errorf("%s: %v, %+v", name, err, found)
			}
			if _, found := mustMove(t, from, to); found.Missing > 0 {
				t.Errorf("%s, moved once more: %+v", name, found)
			}
		}
	})
}
