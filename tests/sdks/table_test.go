package sdks

import (
	"strings"
	"testing"
)

// The table is of the versions that are installed.
func TestTableIsOfTheseVersions(t *testing.T) {
	t.Parallel()
	if want := versions(t); !strings.Contains(table, want) {
		t.Errorf("table.txt is not of these; run make sdks:\n%s", want)
	}
}
