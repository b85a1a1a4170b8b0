package profileserver

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

func always(string) bool { return true }

// execute runs SQL on a file past the store.
func execute(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

// number returns what a query for one number finds.
func number(t *testing.T, path, query string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenMakesAPrivateFile(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "new", "er")
	path := filepath.Join(folder, "a?b#c%41 d.db")
	store := openStore(t, path)
	if _, err := store.set(t.Context(), "u", change{policy.OptedOut, "user", time.Now()}, always); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{folder: 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != want {
			t.Errorf("%s is %v, want %v", name, info.Mode().Perm(), want)
		}
	}
}

func TestAFileOfThatName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ":memory:")
	first, second := openStore(t, path), openStore(t, path)
	if _, err := first.set(t.Context(), "u", change{policy.OptedOut, "user", time.Now()}, always); err != nil {
		t.Fatal(err)
	}
	if held, err := second.get(t.Context(), "u"); err != nil || held.preference != policy.OptedOut {
		t.Errorf("%v, %v", held, err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "user_version": "1"} {
		var got string
		if err := store.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string) string
		want    string
	}{
		{"a folder", func(*testing.T, string) string { return "" }, "unable to open database file"},
		{"a folder that is a file", func(t *testing.T, path string) string {
			writeFile(t, path, "")
			return filepath.Join("profile.db", "profile.db")
		}, "not a directory"},
		{"something else", func(t *testing.T, path string) string {
			writeFile(t, path, strings.Repeat("this is no database. ", 100))
			return "profile.db"
		}, "file is not a database"},
		{"a newer version", func(t *testing.T, path string) string {
			execute(t, path, `PRAGMA user_version = 99`)
			return "profile.db"
		}, "it was written by a newer version (level 99, this one knows 1)"},
		{"a table of that name", func(t *testing.T, path string) string {
			execute(t, path, `CREATE TABLE preference (x)`)
			return "profile.db"
		}, "migrations/001_preference.sql: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			path := filepath.Join(folder, test.prepare(t, filepath.Join(folder, "profile.db")))
			store, err := OpenSQLite(path)
			if err == nil {
				store.Close()
				t.Fatal("opened")
			}
			for _, want := range []string{path, test.want, "name a file that this process may write"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAFailedMigrationLeavesNothing has the migration fail, and then lets it
// work.
func TestAFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	path := database(t)
	execute(t, path, `CREATE TABLE preference (x)`)
	if _, err := OpenSQLite(path); err == nil {
		t.Fatal("opened")
	}
	if level := number(t, path, `PRAGMA user_version`); level != 0 {
		t.Errorf("level %d", level)
	}
	execute(t, path, `DROP TABLE preference`)
	openStore(t, path)
}

func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	path := database(t)
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			store, err := OpenSQLite(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer store.Close()
			if _, err := store.get(t.Context(), "u"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestProcesses has processes open a new file at once and change one account
// under each other's hands: as many changes happen as writers were told.
func TestProcesses(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := database(t)
	won := make([]int, 3)
	var all sync.WaitGroup
	for i := range won {
		all.Go(func() {
			var complaint bytes.Buffer
			child := exec.CommandContext(t.Context(), self)
			child.Env = append(os.Environ(), childStore+"="+path)
			child.Stderr = &complaint
			out, err := child.Output()
			if err != nil {
				t.Errorf("%v: %s", err, complaint.String())
				return
			}
			if won[i], err = strconv.Atoi(string(out)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	// Every change is made at the same time, so each moves it on by one.
	if changed := number(t, path, `SELECT changed FROM preference WHERE uid = 'contended'`); changed != won[0]+won[1]+won[2] {
		t.Errorf("%d changes, told %v", changed, won)
	}
}

// TestStoreAgainstModel makes changes in any order, over two handles on one
// file, under any clock, and holds the store against a map.
func TestStoreAgainstModel(t *testing.T) {
	t.Parallel()
	path := database(t)
	handle := rapid.SampledFrom([]*SQLite{openStore(t, path), openStore(t, path)})
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		names := []string{fmt.Sprint("a", runs), fmt.Sprint("b", runs)} // of this run alone
		ctx := context.Background()
		model := map[string]record{}
		tags := map[string]map[string]record{}
		uids := rapid.SampledFrom(names)
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				uid := uids.Draw(rt, "uid")
				before, known := model[uid]
				if !known {
					before = record{preference: policy.Unset}
				}
				to := rapid.SampledFrom([]policy.Preference{policy.Unset, policy.Allowed, policy.OptedOut}).Draw(rt, "to")
				at := rapid.Int64Range(0, 5).Draw(rt, "at")
				source := rapid.SampledFrom([]string{"user", "browser"}).Draw(rt, "source")
				allow := rapid.Bool().Draw(rt, "allow")
				held, err := handle.Draw(rt, "handle").set(ctx, uid, change{to, source, time.UnixMilli(at)}, func(tag string) bool {
					if tag != before.etag() {
						rt.Errorf("asked with %s, want %s", tag, before.etag())
					}
					return allow
				})
				if err != nil || held != allow {
					rt.Fatalf("%t, %v", held, err)
				}
				if allow && to != before.preference {
					model[uid] = record{to, max(at, before.changed+1), source}
				}
			},
			"": func(rt *rapid.T) {
				for _, uid := range names {
					want, known := model[uid]
					if !known {
						want = record{preference: policy.Unset}
					}
					got, err := handle.Draw(rt, "handle").get(ctx, uid)
					if err != nil || got != want {
						rt.Fatalf("%s: %v, %v, want %v", uid, got, err, want)
					}
					if tags[uid] == nil {
						tags[uid] = map[string]record{}
					}
					if state, seen := tags[uid][got.etag()]; seen && state != got {
						rt.Fatalf("%s names %v and %v", got.etag(), state, got)
					}
					tags[uid][got.etag()] = got
				}
			},
		})
	})
}

// TestWritersThatWaitTakeNoConnection has one writer at work and more behind
// it than there are connections.
func TestWritersThatWaitTakeNoConnection(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	var all sync.WaitGroup
	write := func(begun func()) {
		if _, err := store.set(t.Context(), "u", change{policy.OptedOut, "user", time.Now()}, func(string) bool {
			begun()
			return true
		}); err != nil {
			t.Error(err)
		}
	}
	working, finish := make(chan struct{}), make(chan struct{})
	all.Go(func() {
		write(func() {
			close(working)
			<-finish
		})
	})
	<-working
	defer all.Wait()
	defer close(finish)
	for range 4 * maxConnections {
		all.Go(func() { write(func() {}) })
	}
	for range 100 {
		if held, err := store.get(t.Context(), "u"); err != nil || held.preference != policy.Unset {
			t.Errorf("while a writer works: %v, %v", held, err)
		}
		if busy := store.db.Stats().InUse; busy != 1 {
			t.Fatalf("%d connections in use", busy)
		}
	}
}

// TestTagsAreFixed pins what a tag is: clients hold them over an update.
func TestTagsAreFixed(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, r := range []record{{policy.Unset, 0, ""}, {policy.OptedOut, 1, "user"}, {policy.OptedOut, 2, "browser"}, {policy.Allowed, 2, "user"}} {
		got[fmt.Sprint(r.preference, r.changed)] = r.etag()
	}
	want := map[string]string{
		"null 0":  `"15001825877b5fc214f35449c37c455b"`,
		"true 1":  `"f2cae22fcfdf3d8a1631f7ef960c7041"`,
		"true 2":  `"c49c965a67ec57a7d41aa4651bb647d0"`,
		"false 2": `"a9f8230b51912fe75f8016d1edaf7033"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCloseLetsStragglersFinish(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	write := func(p policy.Preference) {
		t.Helper()
		if held, err := store.set(t.Context(), "u", change{p, "user", time.Now()}, always); err != nil || !held {
			t.Errorf("%t, %v", held, err)
		}
	}
	write(policy.OptedOut)

	closed := make(chan struct{})
	err := store.use(func(db *sql.DB) error {
		go func() {
			defer close(closed)
			store.Close()
		}()
		for store.open.TryRLock() { // until Close waits for this very function
			store.open.RUnlock()
			runtime.Gosched()
		}
		held, err := find(t.Context(), db, "u")
		if held.preference != policy.OptedOut {
			t.Errorf("under way: %v", held)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	<-closed

	write(policy.Allowed)
	if held, err := store.get(t.Context(), "u"); err != nil || held.preference != policy.Allowed {
		t.Errorf("after Close: %v, %v", held, err)
	}
	store.Close() // once more is harmless
}
