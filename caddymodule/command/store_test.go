package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// runApart runs a command and returns what it says on standard output and on
// standard error.
func runApart(cmd *cobra.Command, stdin string, args ...string) (out, told string, err error) {
	var stdout, stderr bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err = cmd.Execute()
	return stdout.String(), stderr.String(), err
}

const storedRows = `uid,preference,changed,source
ann,true,2026-03-24T12:00:00.000Z,user
bob,false,2026-03-24T12:00:00.001Z,browser
cy,null,2026-03-24T12:00:00.002Z,admin
`

func newStoreFile(t *testing.T, rows string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "profile.db")
	if out, err := run(migrateCommand(), "--store", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, told, err := runApart(preferencesCommand(), rows, "import", "--store", file); err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	return file
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "new", "profile.db")
	for range 2 {
		out, err := run(migrateCommand(), "--store", file)
		if err != nil || !strings.Contains(out, "level ") {
			t.Errorf("error %v and\n%s", err, out)
		}
	}
	if err := os.WriteFile(file, []byte("no database at all, and longer than a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(migrateCommand(), "--store", file); err == nil || !strings.HasPrefix(err.Error(), "--store: ") {
		t.Errorf("error %v", err)
	}
}

func TestPreferencesGoThereAndBack(t *testing.T) {
	t.Parallel()
	store := newStoreFile(t, storedRows)
	out, told, err := runApart(preferencesCommand(), "", "export", "--store", store)
	if err != nil || out != storedRows || !strings.Contains(told, "3 rows") {
		t.Errorf("error %v, %q and\n%s", err, told, out)
	}
	// The store by a placeholder, the rows by a file.
	folder := t.TempDir()
	name, rows := filepath.Join(folder, "name"), filepath.Join(folder, "rows.csv")
	for file, text := range map[string]string{name: store + "\n", rows: "preference,uid,changed\nfalse,ann,2026-03-24T13:00:00Z\ntrue,bob,2026-03-24T11:00:00Z\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, told, err = runApart(preferencesCommand(), "", "import", "--store", "{file."+name+"}", "--file", rows)
	if err != nil || !strings.Contains(told, "2 rows read, 1 of them changes, ") {
		t.Errorf("error %v and\n%s", err, told)
	}
	want := strings.Replace(storedRows, "ann,true,2026-03-24T12:00:00.000Z,user", "ann,false,2026-03-24T13:00:00.000Z,admin", 1)
	if out, _, err = runApart(preferencesCommand(), "", "export", "--store", store); err != nil || out != want {
		t.Errorf("error %v and\n%s", err, out)
	}
}

func TestExportedFileIsNobodyElses(t *testing.T) {
	t.Parallel()
	store := newStoreFile(t, storedRows)
	file := filepath.Join(t.TempDir(), "preferences.csv")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	export := func(args ...string) error {
		_, err := run(preferencesCommand(), append([]string{"export", "--store", store, "--file", file}, args...)...)
		return err
	}
	if err := export(); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("error %v, want one that says --force", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file that was there: %v, %q", err, text)
	}
	if err := export("--force"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != storedRows {
		t.Errorf("%v, and\n%s", err, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
}

func TestImportNamesTheLineThatIsWrong(t *testing.T) {
	t.Parallel()
	store := newStoreFile(t, storedRows)
	_, told, err := runApart(preferencesCommand(), "uid,preference\ndan,true\neve,perhaps\n", "import", "--store", store)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"line 3", "preference", "rows stored before that: 1;", "which is safe"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "eve") || !strings.HasPrefix(told, "1 rows read, 1 of them changes, ") {
		t.Errorf("error %v, told %q", err, told)
	}
	if out, _, _ := runApart(preferencesCommand(), "", "export", "--store", store); !strings.Contains(out, "\ndan,true,") {
		t.Errorf("what came before is not stored:\n%s", out)
	}
}

// TestShowAndForget answers somebody who asks what is held of them, and has it
// deleted.
func TestShowAndForget(t *testing.T) {
	t.Parallel()
	const rows = "uid,preference,changed,source\nann,true,2026-01-02T03:04:05.678Z,browser\n-b,false,2026-01-02T03:04:05.678Z,user\n"
	store := newStoreFile(t, rows)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"show", "ann"}, "metrics_optout  true (opted out of metrics)\nchanged         2026-01-02T03:04:05Z\nsource          browser\n"},
		{[]string{"show", "--json", "ann"}, `{"uid":"ann","metrics_optout":true,"changed":"2026-01-02T03:04:05.678Z","source":"browser"}` + "\n"},
		{[]string{"show", "--", "-b"}, "metrics_optout  false (explicitly allowed metrics)\nchanged         2026-01-02T03:04:05Z\nsource          user\n"},
		{[]string{"show", "nobody"}, "metrics_optout  null (no choice)\nNothing is held of this account.\n"},
		{[]string{"forget", "ann"}, "Forgotten. The account counts as one that made no choice: gates collect its beacons, unless on_unset or its browser says otherwise.\n" +
			"Copies that you made (backup, export, PostgreSQL's archives) are yours to delete, and so is its row in what you import.\n"},
		{[]string{"forget", "ann"}, "Nothing was held of this account. What was under way will not bring it back.\n"},
		{[]string{"show", "--json", "ann"}, `{"uid":"ann","metrics_optout":null}` + "\n"},
	} {
		args := append([]string{test.args[0], "--store", store}, test.args[1:]...)
		if out, _, err := runApart(preferencesCommand(), "", args...); err != nil || out != test.want {
			t.Errorf("%v: %v\n%s", test.args, err, out)
		}
	}
	if _, err := run(preferencesCommand(), "show", "--store", store, "a\nb"); err == nil || strings.Contains(err.Error(), "a\nb") {
		t.Errorf("of nobody: %v", err)
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	store := newStoreFile(t, storedRows)
	file := filepath.Join(t.TempDir(), "backup.db")
	if _, err := run(backupCommand(), "--store", store, "--file", file); err != nil {
		t.Fatal(err)
	}
	if out, _, err := runApart(preferencesCommand(), "", "export", "--store", file); err != nil || out != storedRows {
		t.Errorf("the copy holds (error %v)\n%s", err, out)
	}
	if _, err := run(backupCommand(), "--store", store, "--file", file); err == nil || !strings.HasPrefix(err.Error(), "--file: ") {
		t.Errorf("over a file that exists: error %v", err)
	}
	if _, err := run(backupCommand(), "--store", "postgres://gate@127.0.0.1:1/preferences", "--file", file+"2"); err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("of PostgreSQL: error %v", err)
	}
}

func TestDaily(t *testing.T) {
	t.Parallel()
	store := newStoreFile(t, storedRows)
	for format, want := range map[string]string{
		"table": "         day  users\n  2026-02-28      0\n  2026-03-01      0\n",
		"csv":   "day,users\n2026-02-28,0\n2026-03-01,0\n",
		"json":  `[{"day":"2026-02-28","users":0},{"day":"2026-03-01","users":0}]` + "\n",
	} {
		out, err := run(dailyCommand(), "--store", store, "--from", "2026-02-28", "--to", "2026-03-01", "--format", format)
		if err != nil || out != want {
			t.Errorf("%s: error %v and\n%q", format, err, out)
		}
	}
	out, err := run(dailyCommand(), "--store", store, "--format", "csv")
	if err != nil || strings.Count(out, "\n") != 31 {
		t.Errorf("without days: error %v and\n%s", err, out)
	}
	for args, want := range map[string]string{
		"--from 2026-02-30":                 `--from: "2026-02-30" is not a day`,
		"--to yesterday":                    `--to: "yesterday" is not a day`,
		"--from 2026-03-02 --to 2026-03-01": "--from: 2026-03-02 is after 2026-03-01",
		"--format xml":                      `--format: "xml" is not one of table, csv, json`,
	} {
		if _, err := run(dailyCommand(), append([]string{"--store", store}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

// TestCommandsSayWhichStoreIsWrong runs every command with names that lead
// nowhere. None makes a file, and none shows a password.
func TestCommandsSayWhichStoreIsWrong(t *testing.T) {
	t.Parallel()
	lost := filepath.Join(t.TempDir(), "lost.db")
	for _, test := range []struct {
		args []string
		cmd  func() *cobra.Command
	}{
		{nil, migrateCommand},
		{[]string{"import"}, preferencesCommand},
		{[]string{"export"}, preferencesCommand},
		{[]string{"show", "u"}, preferencesCommand},
		{[]string{"forget", "u"}, preferencesCommand},
		{nil, dailyCommand},
		{[]string{"--file", lost + ".backup"}, backupCommand},
	} {
		for store, want := range map[string]string{
			lost:                              "caddy metrics-gate migrate --store " + lost,
			"{env.METRICS_GATE_TEST_NOT_SET}": "METRICS_GATE_TEST_NOT_SET",
			"postgres://gate:s3cr3t@127.0.0.1:no-port/x": "PostgreSQL",
			"postgres://gate:s3cr3t@127.0.0.1:1/x":       "PostgreSQL: the database server cannot be reached; see whether it runs",
			"host=127.0.0.1 port=1 password=s3cr3t":      "PostgreSQL",
			"postgress://gate:s3cr3t@127.0.0.1/x":        "neither a path",
		} {
			name := fmt.Sprint(test.cmd().Name(), test.args, store)
			if store == lost && test.cmd().Name() == "migrate" || test.cmd().Name() == "backup" && store != lost && !strings.HasPrefix(store, "{") {
				continue // it makes one; it takes none
			}
			_, err := run(test.cmd(), append(test.args, "--store", store)...)
			if err == nil || !strings.HasPrefix(err.Error(), "--store: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			} else if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: the error holds the password: %v", name, err)
			}
			if _, err := os.Stat(lost); err == nil {
				t.Fatalf("%s made a file", name)
			}
		}
	}
}

// TestAFileIsReplacedWhole: what is there stays where what should take its
// place cannot be written.
func TestAFileIsReplacedWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "preferences.csv")
	write := func(text string, failure error) {
		err := writeFile(path, true, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, failure)
		})
		if !errors.Is(err, failure) {
			t.Errorf("error %v, want %v", err, failure)
		}
	}
	write("old", nil)
	write("half of the new", errors.New("the disk is full"))
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, error %v; want one", files, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("it holds %q, error %v", text, err)
	}
}
