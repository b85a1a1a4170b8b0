package testcaddy

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy/setclock"
)

// A Clock is one that a test can set, of a Caddy and of the commands that are run
// beside it.
type Clock struct {
	t    testing.TB
	path string
	off  time.Duration
}

// NewClock is one that is right.
func NewClock(t testing.TB) *Clock { return &Clock{t: t, path: filepath.Join(t.TempDir(), "clock")} }

// Start is the function of that name, by this clock.
func (c *Clock) Start(sites ...string) *Server {
	c.t.Helper()
	s := New(c.t)
	s.binary, s.environment = withClock(c.t), []string{setclock.Environment + "=" + c.path}
	s.start(sites)
	return s
}

// Forward has time pass at once, or go back where it is negative. What waits for a
// timer goes on waiting.
func (c *Clock) Forward(by time.Duration) {
	c.t.Helper()
	c.off += by
	written := c.path + ".new"
	err := os.WriteFile(written, []byte(c.off.String()), 0o600)
	if err == nil {
		err = os.Rename(written, c.path) // in one step: Caddy reads it all the time
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

var (
	clocked     sync.Once
	clockBinary string
)

// withClock builds Caddy once more, so that everything in this module that asks
// for the time asks setclock. The product has no place where a clock could be set:
// the compiler is told to read other files instead of those that ask. Go's own
// packages, and those of others, keep the machine's clock.
func withClock(t testing.TB) (binary string) {
	t.Helper()
	clocked.Do(func() {
		asks := regexp.MustCompile(`\btime\.(Now|Since|Until)\b`)
		clause := regexp.MustCompile(`(?m)^package \w+$`)
		dir := filepath.Join(keyDir, "clock")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		root := filepath.Dir(strings.TrimSpace(string(Must(exec.Command("go", "env", "GOMOD").Output()))))
		instead := map[string]string{}
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			name := entry.Name()
			switch {
			case err != nil:
				return err
			case entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "test") || name == "node_modules"):
				return fs.SkipDir
			case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil || !asks.Match(text) {
				return err
			}
			text = asks.ReplaceAll(text, []byte("setclock.$1"))
			at := clause.FindIndex(text)[1]
			changed := string(text[:at]) + `; import "github.com/metricsgate/metricsgate/internal/testcaddy/setclock"` + string(text[at:]) +
				"\nvar _, _ = time.Now, setclock.Now // in case that nothing else needs one of them\n"
			instead[path] = filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, root), string(filepath.Separator), "_"))
			return os.WriteFile(instead[path], []byte(changed), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		overlay := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(overlay, Must(json.Marshal(map[string]any{"Replace": instead})), 0o600); err != nil {
			t.Fatal(err)
		}
		built := filepath.Join(dir, "caddy")
		if said, err := build(built, "-overlay", overlay).CombinedOutput(); err != nil {
			t.Fatalf("building Caddy with a clock: %v\n%s", err, said)
		}
		clockBinary = built
	})
	if clockBinary == "" {
		t.Fatal("there is no Caddy with a clock")
	}
	return clockBinary
}
