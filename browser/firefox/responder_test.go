package firefox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/browser/firefox"
)

// What the files do in a real Firefox is tested in tests/browser.
func TestGenerate(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "responder")
	origins := []string{"https://Accounts.example.org/", "https://accounts.example.org", "http://localhost:8080"}
	for range 2 { // the second time finds what the first has written
		paths, err := firefox.Generate(folder, origins)
		if err != nil || len(paths) != 2 {
			t.Fatalf("%q, %v", paths, err)
		}
	}
	for file, want := range map[string]string{
		"firefox.cfg":                 `const origins = ["https://accounts.example.org","http://localhost:8080"];`,
		"defaults/pref/autoconfig.js": `pref("general.config.filename", "firefox.cfg");`,
	} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "//") {
			t.Errorf("Firefox skips the first line of %s, which is no comment", file)
		}
		if !strings.Contains(string(text), want) || strings.Contains(string(text), "\r") {
			t.Errorf("%s has no %s:\n%s", file, want, text)
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	for name, origins := range map[string][]string{
		"nobody":     nil,
		"everybody":  {"https://*.example.org"},
		"no origin":  {"accounts.example.org"},
		"a page":     {"https://accounts.example.org/signin"},
		"JavaScript": {`https://a"];alert(1);["`},
	} {
		folder := filepath.Join(t.TempDir(), "responder")
		if _, err := firefox.Generate(folder, origins); err == nil || !strings.Contains(err.Error(), "--origin") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(folder); err == nil {
			t.Errorf("%s: files are written all the same", name)
		}
	}
}

func TestGenerateLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"firefox.cfg", "defaults/pref/autoconfig.js"} {
		folder := t.TempDir()
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("// ours"), 0o600); err != nil {
			t.Fatal(err)
		}
		paths, err := firefox.Generate(folder, []string{"https://accounts.example.org"})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if text, _ := os.ReadFile(path); string(text) != "// ours" {
			t.Errorf("%s is overwritten: %s", name, text)
		}
		if len(paths) > 0 {
			t.Errorf("%s: %q is written all the same", name, paths)
		}
	}
}
