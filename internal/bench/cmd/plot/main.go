// Command plot writes the tables of docs/performance.md, between their markers,
// and the plots beside it, from what make bench, make bench-load and make
// bench-memory left in internal/bench/results.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

func main() {
	if err := run("internal/bench/results", "docs"); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(results, docs string) error {
	steps, err := readSteps(filepath.Join(results, "bench.txt"))
	if err != nil {
		return fmt.Errorf("run make bench first: %w", err)
	}
	load, err := result.Read(filepath.Join(results, "load.json"))
	if err != nil {
		return fmt.Errorf("run make bench-load first: %w", err)
	}
	memory, err := result.Read(filepath.Join(results, "memory.json"))
	if err != nil {
		return fmt.Errorf("run make bench-memory first: %w", err)
	}
	for name, svg := range plots(steps, load, memory) {
		if err := os.WriteFile(filepath.Join(docs, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	page := filepath.Join(docs, "performance.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	tables := map[string]string{"steps": steps.markdown(), "cold": steps.cold(), "targets": targets(steps, load, memory)}
	for _, file := range []*result.File{load, memory} {
		for _, s := range file.Scenarios {
			tables[s.Name] = s.Markdown() + fmt.Sprintf("\n*%s: %s, %d connections. %s, %s; `%s`; %d rounds of %v s: median (least–greatest).*\n",
				s.Mode, s.About, s.Connections, file.Date, file.Machine, file.Command, file.Rounds, file.Seconds)
		}
	}
	filled, err := fill(string(text), tables)
	if err != nil {
		return err
	}
	return os.WriteFile(page, []byte(filled), 0o644)
}

// fill puts each table between its markers. Every marker has to have a table,
// and every table a marker.
func fill(text string, tables map[string]string) (string, error) {
	for name, table := range tables {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return "", fmt.Errorf("the page has no place for %s; write %s%s", name, begin, end)
		}
		text = before + begin + table + end + after
	}
	if want, have := len(tables), strings.Count(text, "<!-- begin "); want != have {
		return "", fmt.Errorf("the page has %d places for %d tables", have, want)
	}
	return text, nil
}
