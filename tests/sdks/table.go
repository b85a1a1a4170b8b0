package sdks

import (
	_ "embed" // the table
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:embed table.txt
var table string

// Row is what an SDK did when it was tried in one way: how many requests its
// page sent, and of each of two events that it tracked, how many of them held it
// and how many of those arrived.
type Row struct {
	SDK, Way, Browser string
	Requests          int
	Sent, Arrived     [2]int
}

// key is what the row is of; what it says of the events follows the number of
// requests, which depends on how an SDK's timers meet.
func (r Row) key() string { return fmt.Sprintf("%-11s %-9s %-8s", r.SDK, r.Way, r.Browser) }
func (r Row) events() string {
	return fmt.Sprintf("%d %d %d %d", r.Sent[0], r.Sent[1], r.Arrived[0], r.Arrived[1])
}

// InTable says whether the table says the same of the events.
func (r Row) InTable() bool {
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, r.key()); ok {
			fields := strings.Fields(rest)
			return strings.Join(fields[1:], " ") == r.events()
		}
	}
	return false
}

// versions says of each SDK what is installed, a line each.
func versions(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	var project struct{ Dependencies map[string]string }
	if err := json.Unmarshal(text, &project); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, sdk := range All {
		fmt.Fprintf(&lines, "# %s is %s %s\n", sdk.Name, sdk.Package, project.Dependencies[sdk.Package])
	}
	return lines.String()
}

// WriteTable writes the table anew.
func WriteTable(t testing.TB, rows []Row) {
	t.Helper()
	lines := make([]string, len(rows))
	for i, row := range rows {
		lines[i] = fmt.Sprintf("%s %8d   %s\n", row.key(), row.Requests, row.events())
	}
	slices.Sort(lines)
	text := `# What SDKs do that are tried in several ways, by make sdks: how many requests a
# page sends that tracks two events, how many of these hold the first and the
# second one, and how many of those arrive.
` + versions(t) + "# sdk       way       browser  requests   first, second; of these arrived\n" + strings.Join(lines, "")
	if err := os.WriteFile(filepath.Join(folder, "table.txt"), []byte(text), 0o644); err != nil { //nolint:gosec // it is for everybody to read
		t.Fatal(err)
	}
}
