//go:build linux

package metricsgate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseRefuses runs tools/release.sh where it must not build anything.
func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	const script = "tools/release.sh"
	tree := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = tree
		command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
			"GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org")
		out, err := command.CombinedOutput()
		return string(out), err
	}
	git := func(args ...string) {
		if out, err := run("git", args...); err != nil {
			t.Fatalf("git %v: %v, %s", args, err, out)
		}
	}
	refused := func(version, message string) {
		if out, err := run("bash", script, version); err == nil || !strings.Contains(out, message) {
			t.Errorf("%q: %v, %q; want %q", version, err, out, message)
		}
	}
	write := func(path, text string) {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(script, read(t, script))
	write("CHANGELOG.md", "## [1.2.0]\n")
	git("init", "--quiet")

	for _, version := range []string{"", "1.2.0", "v1.2", "v1.02.0", "v1.2.0-01", "v1.2.0+meta", "v1.2.0 "} {
		refused(version, "is not a semantic version; write one such as v0.1.0")
	}
	refused("v1.2.0", "there are changes that no commit holds")
	git("add", "--all")
	git("commit", "--quiet", "--message=first")
	refused("v1.3.0-rc.1", "CHANGELOG.md has no section ## [1.3.0-rc.1]")
	git("tag", "v1.2.0")
	git("commit", "--quiet", "--message=second", "--allow-empty")
	refused("v1.2.0", "the tag v1.2.0 is on ")
}
