// Package adapttest holds Caddyfiles against goldens, for the tests of modules.
package adapttest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the goldens anew")

const ruler = "\n----------\n"

// Run holds every Caddyfile in testdata/adapt against what stands below its
// ruler: the JSON that it adapts to, or the error that refuses it, be it the
// parser's or that of caddy validate. With -update it writes that anew.
func Run(t *testing.T) {
	t.Helper()
	goldens, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, golden := range goldens {
		t.Run(strings.TrimSuffix(filepath.Base(golden), ".caddyfiletest"), func(t *testing.T) {
			text, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			config, want, _ := strings.Cut(string(text), ruler)
			// The goldens keep their database in a place that a test must not
			// write to.
			const folder = "/var/lib/metrics-gate"
			local := t.TempDir()
			got := strings.ReplaceAll(adaptAndValidate(t, strings.ReplaceAll(config, folder, local)), local, folder)
			if *update {
				if err := os.WriteFile(golden, []byte(config+ruler+got+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.TrimSpace(want), got); diff != "" {
				t.Errorf("(-want +got; write anew with -update)\n%s", diff)
			}
			// The name of a golden promises what it shows.
			if refused := !strings.HasPrefix(got, "{"); refused != strings.HasPrefix(filepath.Base(golden), "refused_") {
				t.Errorf("refused: %v, which is not what the file's name says", refused)
			}
			if strings.HasPrefix(filepath.Base(golden), "accepted_") {
				if formatted := caddyfile.Format([]byte(config + "\n")); string(formatted) != config+"\n" {
					t.Errorf("caddy fmt would change it to\n%s", formatted)
				}
			}
		})
	}
}

func adaptAndValidate(t *testing.T, config string) string {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config+"\n"), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error()
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Errorf("warning: %v", warning)
		}
	}
	var parsed caddy.Config
	if err := json.Unmarshal(adapted, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := Validate(&parsed); err != nil {
		return "caddy validate: " + err.Error()
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return indented.String()
}
