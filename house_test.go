package metricsgate_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTheHouseNamesEveryFolder holds CONTRIBUTING's table of folders against the tree.
func TestTheHouseNamesEveryFolder(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(read(t, ".gitignore"))
	var folders []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && !strings.HasPrefix(name, ".") && !slices.Contains(ignored, "/"+name+"/") {
			folders = append(folders, name)
		}
	}
	_, house, _ := strings.Cut(read(t, "CONTRIBUTING.md"), "\n## The house\n")
	house, _, _ = strings.Cut(house, "\n## ")
	var named []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^/`]+)").FindAllStringSubmatch(house, -1) {
		named = append(named, row[1])
	}
	slices.Sort(named)
	if diff := cmp.Diff(folders, named); diff != "" {
		t.Errorf("the table under \"The house\" differs from the tree (-tree +CONTRIBUTING):\n%s", diff)
	}
}
