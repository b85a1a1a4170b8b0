package metricsgate_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// citedFunc is a file and a function in it: `gate/engine.go` `decide`.
	citedFunc = regexp.MustCompile("`([a-z_/]+\\.go)` `(\\w+)`")
	citedFile = regexp.MustCompile("`([a-z_/]+\\.(?:go|md|sh))`")
	citedTest = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

// TestArchitectureNamesWhatIsThere follows every file, function and test that
// ARCHITECTURE.md names.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	text := read(t, "ARCHITECTURE.md")
	for _, cited := range citedFile.FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(cited[1]); err != nil {
			t.Error(err)
		}
	}
	cites := citedFunc.FindAllStringSubmatch(text, -1)
	if len(cites) < 20 {
		t.Fatalf("only %d functions are cited", len(cites))
	}
	for _, cited := range cites {
		source, err := os.ReadFile(cited[1])
		if err != nil {
			continue // told above
		}
		if !regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?` + cited[2] + `[\[(]`).Match(source) {
			t.Errorf("there is no function %s in %s", cited[2], cited[1])
		}
	}
	tests, err := filepath.Glob("*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range citedTest.FindAllString(text, -1) {
		if !slices.ContainsFunc(tests, func(file string) bool { return strings.Contains(read(t, file), "func "+name+"(") }) {
			t.Errorf("there is no %s", name)
		}
	}
}
