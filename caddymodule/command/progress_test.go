package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		terminal bool
		want     string
	}{
		{"elsewhere", false, " 25 %: b, 5 rows/s, 6s left\nd, 10 rows/s\nall, 11 rows/s\n"},
		{"on a terminal", true, "\r 10 %: a, 10 rows/s, 9s left\x1b[K\r 25 %: b, 5 rows/s, 6s left\x1b[K\r 25 %: c, 5 rows/s, 7s left\x1b[K\rd, 10 rows/s\x1b[K\r\x1b[Kall, 11 rows/s\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told bytes.Buffer
				p := newProgress(&told, "rows")
				p.terminal = test.terminal
				p.show("at once", 1, 0.1)
				<-time.After(time.Second)
				p.show("a", 10, 0.1)
				<-time.After(time.Second)
				p.show("b", 10, 0.25)
				<-time.After(redrawPause)
				p.show("c", 11, 0.25)
				<-time.After(linePause - redrawPause)
				p.show("d", 40, 0)
				p.end("all", 44)
				if told.String() != test.want {
					t.Errorf("told %q", &told)
				}
			})
		})
	}
}

// TestMeter: of a file it is known how much was read, and reading ends with the
// context, also where nothing comes.
func TestMeter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rows.csv")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m := newMeter(t.Context(), file)
	defer m.Close()
	if _, err := io.ReadFull(m, make([]byte, 4)); err != nil || m.share() != 0.4 {
		t.Errorf("%v, %v", err, m.share())
	}
	if rest, err := io.ReadAll(m); err != nil || string(rest) != "456789" || m.share() != 1 {
		t.Errorf("%q, %v, %v", rest, err, m.share())
	}
	ctx, stop := context.WithCancel(t.Context())
	silent, writer := io.Pipe()
	defer writer.Close()
	m = newMeter(ctx, silent)
	defer m.Close()
	stop()
	if _, err := m.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || m.share() != 0 {
		t.Errorf("%v, %v", err, m.share())
	}
}

func TestMoveCommand(t *testing.T) {
	t.Parallel()
	from, to := newStoreFile(t, storedRows), filepath.Join(t.TempDir(), "new.db")
	move := func() (out, told string, err error) {
		return runApart(preferencesCommand(), "", "move", "--from", from, "--to", to)
	}
	if _, _, err := move(); err == nil || !strings.HasPrefix(err.Error(), "--to: there is no file ") {
		t.Errorf("to nothing: %v", err)
	}
	if out, err := run(migrateCommand(), "--store", to); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"3 of 3 accounts read, 3 changed in --to", "3 of 3 accounts read, 0 changed in --to"} {
		out, told, err := move()
		if err != nil || !strings.HasPrefix(told, want) || !strings.HasSuffix(out, "Of 3 accounts 3 are the same; of 0 --to holds what is newer, and 0 it holds alone.\n") {
			t.Errorf("%v, %q\n%s", err, told, out)
		}
	}
	if out, _, err := runApart(preferencesCommand(), "", "export", "--store", to); err != nil || out != storedRows {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := runApart(preferencesCommand(), "", "move", "--from", to, "--to", to); err == nil || !strings.Contains(err.Error(), "the same store") {
		t.Errorf("to itself: %v", err)
	}
}
