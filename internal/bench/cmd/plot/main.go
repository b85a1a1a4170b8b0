// Command plot writes the tables of docs/performance.md and docs/measurements.md,
// between their markers, and the plots beside them, from what make bench, make bench-load and make
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
	tables := map[string]string{"targets": targets(steps, load, memory), "ratios": ratios(steps, load), "steps": steps.markdown(), "cold": steps.cold()}
	for _, file := range []*result.File{load, memory} {
		for _, s := range file.Scenarios {
			tables[s.Name] = s.Markdown() + fmt.Sprintf("\n*%s: %s, %d connections. %s, %s; `%s`; %d rounds of %v s: median (least–greatest).*\n",
				s.Mode, s.About, s.Connections, file.Date, file.Machine, file.Command, file.Rounds, file.Seconds)
		}
	}
	var texts []string
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(docs, page))
		if err != nil {
			return err
		}
		texts = append(texts, string(text))
	}
	if err := fill(texts, tables); err != nil {
		return err
	}
	for i, page := range pages {
		if err := os.WriteFile(filepath.Join(docs, page), []byte(texts[i]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages are what is read in three minutes, and everything else.
var pages = []string{"performance.md", "measurements.md"}

// fill puts each table between its markers, on whichever page they are. Every marker
// has to have a table, and every table a marker.
func fill(texts []string, tables map[string]string) error {
	places := 0
	for _, text := range texts {
		places += strings.Count(text, "<!-- begin ")
	}
	for name, table := range tables {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
		filled := false
		for i, text := range texts {
			before, rest, found := strings.Cut(text, begin)
			_, after, closed := strings.Cut(rest, end)
			if found && closed {
				texts[i], filled = before+begin+table+end+after, true
			}
		}
		if !filled {
			return fmt.Errorf("no page has a place for %s; write %s%s", name, begin, end)
		}
	}
	if places != len(tables) {
		return fmt.Errorf("the pages have %d places for %d tables", places, len(tables))
	}
	return nil
}
