package metricsgate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/metricsgate/metricsgate"
)

// FuzzCaddyfile feeds the parser whatever may stand in a Caddyfile. It must
// return an error or a configuration and never panic, as parsers of other
// modules have (caddy-security #263).
func FuzzCaddyfile(f *testing.F) {
	var goldens []string
	for _, module := range []string{"caddymodule", "caddymodule/profilemodule"} {
		found, err := filepath.Glob(module + "/testdata/adapt/*.caddyfiletest")
		if err != nil || len(found) == 0 {
			f.Fatal("no seeds of", module, err)
		}
		goldens = append(goldens, found...)
	}
	for _, golden := range goldens {
		text, err := os.ReadFile(golden)
		if err != nil {
			f.Fatal(err)
		}
		config, _, _ := strings.Cut(string(text), "\n----------\n")
		if _, block, found := strings.Cut(config, "{\n"); found {
			f.Add(block)
		}
	}
	f.Fuzz(func(t *testing.T, block string) {
		if strings.Contains(block, "import") || strings.Contains(block, "{$") {
			return // other files and the environment are not ours to read
		}
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://localhost {\n"+block+"\n}\n"), nil)
		if err == nil && len(adapted) == 0 {
			t.Error("neither an error nor a configuration")
		}
	})
}
