//go:build unix

package tests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// A store is moved to another one in the order that docs/scale.md gives, while
// servers run: what was chosen at either meanwhile is there afterwards, with its
// time and source, and whoever opted out is counted once.
func TestMoveWhileServersRun(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, named string) {
		other := filepath.Join(t.TempDir(), "other.db")
		configuredOther := "sqlite " + other
		if !strings.HasPrefix(named, "postgres") {
			other = testpostgres.Database(t)
			configuredOther = "postgres " + other
		}
		before, after := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(before, profileServer(configured)))
		ready(t, before)
		for i := range 20 {
			choose(t, before, fmt.Sprint("user ", i), optOut)
		}
		forgetAccount(t, before, "user 0")
		metricsGate(t, "migrate", "--store", other)
		metricsGate(t, "preferences", "move", "--from", named, "--to", other)
		choose(t, before, "user 1", allow)
		choose(t, before, "late", optOut)
		forgetAccount(t, before, "user 2")

		testcaddy.Start(t, testcaddy.Site(after, profileServer(configuredOther)))
		ready(t, after)
		choose(t, after, "user 3", allow)
		choose(t, after, "user 3", optOut)
		choose(t, after, "late", optOut)
		for range 2 {
			said := metricsGate(t, "preferences", "move", "--from", named, "--to", other)
			if !strings.Contains(said, "Of 19 accounts ") || !strings.Contains(said, "and 0 it holds alone") {
				t.Errorf("move says\n%s", said)
			}
		}
		for uid, want := range map[string]preference{"user 0": unset, "user 1": allow, "user 2": unset, "user 3": optOut, "late": optOut, "user 4": optOut} {
			testcaddy.Until(t, uid+" to be as it was chosen", func() bool {
				held := metricsGate(t, "preferences", "show", "--store", other, "--json", uid)
				return strings.Contains(held, fmt.Sprintf(`"metrics_optout":%v`, want))
			})
			holds(t, after, uid, want, "after the move")
		}
		today := time.Now().UTC().Format(time.DateOnly)
		if got := metricsGate(t, "daily", "--store", other, "--from", today, "--to", today, "--format", "csv"); got != "day,users\n"+today+",21\n" {
			t.Errorf("daily prints\n%s", got)
		}
	})
}

// Ctrl-C ends an import that waits for more, and says what is stored and how to go on.
func TestInterruptedImport(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "profile.db")
	metricsGate(t, "migrate", "--store", store)
	command := exec.Command(testcaddy.Binary, "metrics-gate", "preferences", "import", "--store", store)
	command.Env = testcaddy.Environment(t.TempDir())
	var told bytes.Buffer
	command.Stderr = &told
	rows, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	content, _ := rowsOf(2500) // two batches, and a part
	if _, err := io.WriteString(rows, content); err != nil {
		t.Fatal(err)
	}
	testcaddy.Until(t, "two batches to be stored", func() bool {
		return strings.Count(metricsGate(t, "preferences", "export", "--store", store), "\n") > 2000
	})
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil || command.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	stored := strings.Count(metricsGate(t, "preferences", "export", "--store", store), "\n") - 1
	for _, want := range []string{
		fmt.Sprintf("%d rows read, %[1]d of them changes, ", stored),
		fmt.Sprintf("interrupted: the first %d rows are stored; to go on, import the whole file again", stored),
	} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, &told)
		}
	}
}
