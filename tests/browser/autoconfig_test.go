package browser_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Scenario 11: the files that a fleet deploys, in a Firefox that was started
// with them.
func TestGeneratedResponder(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	stranger := newSite(t, handshake("timeout 2s"))
	files := filepath.Join(t.TempDir(), "responder")
	if _, problems, code := testcaddy.Command(t, "metrics-gate", "firefox-responder", "--origin", s.origin, "--origin", "https://accounts.example.org", "--out", files); code != 0 {
		t.Fatalf("exit code %d: %s", code, problems)
	}
	f := startFirefox(t, installation(t, files), optedOutFirefox)
	f.navigate(s.origin)
	s.reported(f)
	if got := f.cookie("metrics_optout"); got != "1" {
		t.Errorf("the cookie is %q", got)
	}
	s.blocks(f, "signal")
	s.clean(f)

	// It answers nobody but those it was made for.
	f.navigate(stranger.origin)
	stranger.reported(f)
	if n := stranger.caddy.Metric("signals_total", "outcome", "no_answer"); n != 1 {
		t.Errorf("another origin got an answer: %s", stranger.decisions())
	}

	// And it answers what the user wants now.
	f.privileged(nil, "Services.prefs.setBoolPref(arguments[0], true);", uploadEnabled)
	f.eval(nil, "(localStorage.clear(), sessionStorage.clear())")
	f.navigate(s.origin)
	f.eval(nil, "(localStorage.clear(), sessionStorage.clear())")
	f.navigate(s.origin + "/settings")
	s.reported(f)
	if got := f.cookie("metrics_optout"); got != "0" {
		t.Errorf("after a change the cookie is %q", got)
	}
	s.collects(f, "default")
}

// installation is a folder that stands for the installation of Firefox with
// the files added: links to what is installed, and a copy of the small program
// itself, because Firefox looks beside the file that it really is.
func installation(t testing.TB, files string) (program string) {
	t.Helper()
	real := testcaddy.Must(filepath.EvalSymlinks(testcaddy.Installed(t, "firefox-esr")))
	dir := t.TempDir()
	link := func(from, to string, except ...string) {
		if err := os.MkdirAll(to, 0o700); err != nil {
			t.Fatal(err)
		}
	entries:
		for _, entry := range testcaddy.Must(os.ReadDir(from)) {
			for _, name := range except {
				if entry.Name() == name {
					continue entries
				}
			}
			if err := os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	installed := filepath.Dir(real)
	link(installed, dir, filepath.Base(real), "defaults")
	link(filepath.Join(installed, "defaults"), filepath.Join(dir, "defaults"), "pref")
	link(filepath.Join(installed, "defaults/pref"), filepath.Join(dir, "defaults/pref"))
	for _, name := range []string{"firefox.cfg", "defaults/pref/autoconfig.js"} {
		copyFile(t, filepath.Join(files, name), filepath.Join(dir, name), 0o600)
	}
	program = filepath.Join(dir, filepath.Base(real))
	copyFile(t, real, program, 0o700)
	return program
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	source := testcaddy.Must(os.Open(from))
	defer source.Close()
	target := testcaddy.Must(os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode))
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
}
