package prefstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
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

	"github.com/metricsgate/metricsgate/policy"
)

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
	if _, _, err := store.Set(t.Context(), "u", Choice{Preference: policy.OptedOut, Source: SourceUser}); err != nil {
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
	if _, _, err := first.Set(t.Context(), "u", Choice{Preference: policy.OptedOut, Source: SourceUser}); err != nil {
		t.Fatal(err)
	}
	if held, err := second.Get(t.Context(), "u"); err != nil || held.Preference != policy.OptedOut {
		t.Errorf("%v, %v", held, err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "user_version": fmt.Sprint(level("sqlite"))} {
		var got string
		if err := store.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	const anotherFile = "name a file that this process may write"
	for _, test := range []struct {
		name         string
		prepare      func(t *testing.T, path string) string
		want, advice string
	}{
		{"a folder", func(*testing.T, string) string { return "" }, "unable to open database file", "whether it is a file"},
		{"a folder that is a file", func(t *testing.T, path string) string {
			writeFile(t, path, "")
			return filepath.Join("profile.db", "profile.db")
		}, "not a directory", anotherFile},
		{"something else", func(t *testing.T, path string) string {
			writeFile(t, path, strings.Repeat("this is no database. ", 100))
			return "profile.db"
		}, "file is not a database", "the file is no SQLite database; name the file that store sqlite has in the Caddyfile"},
		{"a newer version", func(t *testing.T, path string) string {
			execute(t, path, `PRAGMA user_version = 99`)
			return "profile.db"
		}, fmt.Sprintf("it was written by a newer version (level 99, this one knows %d)", level("sqlite")), anotherFile},
		{"a table of that name", func(t *testing.T, path string) string {
			execute(t, path, `CREATE TABLE preference (x)`)
			return "profile.db"
		}, "migrations/sqlite/001_preference.sql: ", anotherFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			path := filepath.Join(folder, test.prepare(t, filepath.Join(folder, "profile.db")))
			store, err := OpenSQLite(path, nil)
			if err == nil {
				store.Close()
				t.Fatal("opened")
			}
			for _, want := range []string{path, test.want, test.advice} {
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
	if _, err := OpenSQLite(path, nil); err == nil {
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
			store, err := OpenSQLite(path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer store.Close()
			if _, err := store.Get(t.Context(), "u"); err != nil {
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
	if head := number(t, path, `SELECT head FROM feed`); head != won[0]+won[1]+won[2] {
		t.Errorf("%d changes, told %v", head, won)
	}
}

// TestWritersThatWaitTakeNoConnection has one writer at work and more behind
// it than there are connections.
func TestWritersThatWaitTakeNoConnection(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	var all sync.WaitGroup
	write := func(begun func()) {
		if _, _, err := store.Set(t.Context(), "u", Choice{Preference: policy.OptedOut, Source: SourceUser, OnlyIf: func(string) bool {
			begun()
			return true
		}}); err != nil {
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
		if held, err := store.Get(t.Context(), "u"); err != nil || held.Preference != policy.Unset {
			t.Errorf("while a writer works: %v, %v", held, err)
		}
		if busy := store.db.Stats().InUse; busy > 2 { // the one that writes, and for a moment the store's own tidying
			t.Fatalf("%d connections in use", busy)
		}
	}
}

// TestTagsAreFixed pins what a tag is, here of a store whose secret is zeros:
// clients hold them over an update.
func TestTagsAreFixed(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, r := range []Record{
		{Preference: policy.Unset}, {Preference: policy.OptedOut, Source: "user", changed: 1, said: span{9, 9}},
		{Preference: policy.OptedOut, Source: "browser", changed: 2}, {Preference: policy.Allowed, Source: "user", changed: 2},
		{Preference: policy.Unset, deleted: 7},
	} {
		got[fmt.Sprint(r.Preference, r.changed, r.deleted)] = r.ETag()
	}
	want := map[string]string{
		"null 0 0":  `"f348df9d8806d238731a21cc2ec0b730"`,
		"true 1 0":  `"7056ae6542dc42fd3e694f282a06974d"`,
		"true 2 0":  `"ae9a8cae23cfaf6ecee830d5f3492781"`,
		"false 2 0": `"caef8de841eeb0a0bef20eb68c07387c"`,
		"null 0 7":  `"daf68336ecde840a79e88b1bdccf89ea"`,
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
		if _, held, err := store.Set(t.Context(), "u", Choice{Preference: p, Source: SourceUser}); err != nil || held != Changed {
			t.Errorf("%v, %v", held, err)
		}
	}
	write(policy.OptedOut)

	closed := make(chan struct{})
	err := store.use(func(db *sqliteDB) error {
		go func() {
			defer close(closed)
			store.Close()
		}()
		for store.open.TryRLock() { // until Close waits for this very function
			store.open.RUnlock()
			runtime.Gosched()
		}
		held, _, err := db.lookUp(t.Context(), db.find, "u")
		if held.Preference != policy.OptedOut {
			t.Errorf("under way: %v", held)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	<-closed

	write(policy.Allowed)
	if held, err := store.Get(t.Context(), "u"); err != nil || held.Preference != policy.Allowed {
		t.Errorf("after Close: %v, %v", held, err)
	}
	store.Close() // once more is harmless
}

// TestAnOlderFileIsBroughtUpToDate opens a file of the first version.
func TestAnOlderFileIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	path := database(t)
	first, err := migrations.ReadFile("migrations/sqlite/001_preference.sql")
	if err != nil {
		t.Fatal(err)
	}
	execute(t, path, string(first)+`;
		INSERT INTO preference VALUES ('u', 1, 5, 'browser'), ('v', NULL, 6, 'user');
		PRAGMA user_version = 1`)
	store := openStore(t, path)
	want := Record{Preference: policy.OptedOut, changed: 5, said: span{5, 5}, Source: SourceBrowser, secret: mustGet(t, store, "nobody").secret}
	if held := mustGet(t, store, "u"); held != want {
		t.Errorf("%v, want %v", held, want)
	}
	mustSet(t, store, "v", Choice{Preference: policy.OptedOut})
	f, err := store.Follow(0)
	if err != nil {
		t.Fatal(err)
	}
	if told := readIDs(t, f, 1); len(told) != 2 {
		t.Errorf("told %v", told)
	}
}

// TestBackup makes backups while accounts are written, each as one change: a
// backup holds as many as its head says.
func TestBackup(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	folder := t.TempDir()
	writing, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	begun := make(chan struct{})
	all.Go(func() {
		for i := 0; writing.Err() == nil; i++ {
			if _, _, err := store.Set(t.Context(), fmt.Sprint(i), Choice{Preference: policy.OptedOut, Source: SourceUser}); err != nil {
				t.Error(err)
			}
			if i == 10 {
				close(begun)
			}
		}
	})
	<-begun
	for i := range 3 {
		file := filepath.Join(folder, fmt.Sprint(i, " it's.db"))
		if err := store.Backup(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		head, rows := number(t, file, `SELECT head FROM feed`), number(t, file, `SELECT count(*) FROM preference`)
		if head != rows || head < 10 {
			t.Errorf("%d rows at %d", rows, head)
		}
		if held := mustGet(t, openStore(t, file), "0"); held.Preference != policy.OptedOut {
			t.Errorf("held %v", held)
		}
		if err := store.Backup(t.Context(), file); err == nil || !strings.Contains(err.Error(), "this file exists") {
			t.Errorf("over another: %v", err)
		}
	}
	stop()
	all.Wait()
	nowhere := filepath.Join(folder, "no", "where.db")
	if err := store.Backup(t.Context(), nowhere); err == nil || !strings.Contains(err.Error(), "name a new file") {
		t.Errorf("%v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(folder, "cancelled.db")
	if err := store.Backup(cancelled, file); err == nil {
		t.Error("it was to be cancelled")
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("what failed is left: %v", err)
	}
}

// TestALockedFile has another process hold the write lock for longer than
// anybody waits.
func TestALockedFile(t *testing.T) {
	t.Parallel()
	path := database(t)
	store := openStore(t, path)
	other, err := sql.Open("sqlite", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	lock, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := lock.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, _, err := store.Set(t.Context(), fmt.Sprint(i), Choice{Preference: policy.OptedOut, Source: SourceUser}); err == nil {
				t.Error("written")
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 4*patience {
		t.Errorf("20 writers waited %v", took)
	}
	if held := mustGet(t, store, "0"); held.Preference != policy.Unset {
		t.Errorf("held %v", held)
	}
	if _, err := lock.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	mustSet(t, store, "0", Choice{Preference: policy.OptedOut})
}

// TestCloseBetweenAWriteAndItsTelling: what another instance wrote is read
// before a change is told, and Close waits for everybody who reads.
func TestCloseBetweenAWriteAndItsTelling(t *testing.T) {
	t.Parallel()
	path := database(t)
	other := openStore(t, path)
	var store *SQLite
	closing, tidied := make(chan chan struct{}, 1), make(chan struct{}, 1)
	store, err := openSQLite(path, func() time.Time {
		select {
		case tidied <- struct{}{}: // the store's own first write, when it is opened
		case closed := <-closing: // in the middle of the write
			go func() {
				defer close(closed)
				store.Close()
			}()
			for store.open.TryRLock() { // until it waits
				store.open.RUnlock()
				runtime.Gosched()
			}
		default:
		}
		return time.Now()
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for len(tidied) == 0 {
		runtime.Gosched()
	}
	mustSet(t, other, "x", Choice{Preference: policy.OptedOut})
	if err := store.writing.lock(t.Context()); err != nil { // and so the first has ended
		t.Fatal(err)
	}
	closed := make(chan struct{})
	closing <- closed
	store.writing.unlock()
	mustSet(t, store, "y", Choice{Preference: policy.OptedOut})
	<-closed
}

// TestTidyingDuringAnExport: who reads for long must not have those who tidy
// wait, since nobody can write meanwhile.
func TestTidyingDuringAnExport(t *testing.T) {
	t.Parallel()
	store := openStore(t, database(t))
	for _, uid := range []string{"a", "b"} {
		mustSet(t, store, uid, Choice{Preference: policy.OptedOut})
	}
	for _, err := range store.Export(t.Context()) {
		began := time.Now()
		if err := errors.Join(err, store.tidy(t.Context())); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("it took %v", took)
		}
	}
}

// TestNothingIsLeftInTheFiles deletes an account and looks at the bytes.
func TestNothingIsLeftInTheFiles(t *testing.T) {
	t.Parallel()
	path := database(t)
	store := openStore(t, path)
	uid := func(i int) string { return fmt.Sprintf("somebody-%03d-0123456789abcdef", i) }
	for i := range 50 {
		mustSet(t, store, uid(i), Choice{Preference: policy.OptedOut})
	}
	if came, err := store.Delete(t.Context(), uid(25), ""); err != nil || came != Changed {
		t.Fatalf("%v, %v", came, err)
	}
	if err := store.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, path + "-wal"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(uid(25))) {
			t.Errorf("%s holds the uid", file)
		}
	}
}

func openStore(t *testing.T, path string) *SQLite {
	t.Helper()
	store, err := OpenSQLite(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func database(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "profile.db")
}
