package browser_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// clean holds that a page is unharmed: its own script ran, no policy was
// violated, its console is empty, and the gate left one frozen object.
func (s *site) clean(browser driver) {
	s.t.Helper()
	var state struct {
		Ready, Frozen bool
		Violations    []string
		Globals       []string
	}
	// An empty frame has what the browser itself brings.
	browser.eval(&state, `(() => {
		const frame = document.body.appendChild(document.createElement("iframe"));
		const known = new Set([...Object.getOwnPropertyNames(frame.contentWindow), "0", "sent", "violations", "log", "flush", "ready"]);
		frame.remove();
		return {
			ready: window.ready === true, violations,
			frozen: Object.isFrozen(window.metricsGate),
			globals: Object.getOwnPropertyNames(window).filter((name) => !known.has(name)),
		};
	})()`)
	if !state.Ready || !state.Frozen || len(state.Violations) > 0 || strings.Join(state.Globals, " ") != "metricsGate" {
		s.t.Errorf("the page is not as it was: %+v", state)
	}
	if console := browser.console(s.origin); len(console) > 0 {
		s.t.Errorf("the console has %q", console)
	}
}

// Scenario 1: who switched telemetry off in Firefox need not say it again.
func TestFirefoxOptedOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	f.navigate(s.origin)
	s.reported(f)
	if got := f.cookie("metrics_optout"); got != "1" {
		t.Errorf("the cookie is %q", got)
	}
	s.blocks(f, "signal")
	s.clean(f)

	// The next page need not ask again, and its beacons are blocked from the
	// first one on.
	f.navigate(s.origin + "/settings")
	s.blocks(f, "signal")
	if n := f.probes(); n != 1 {
		t.Errorf("Firefox was asked %d times", n)
	}
	if got := s.app.bodies(); len(got) > 0 {
		t.Errorf("the application got %q", got)
	}
	if last := s.app.pages.All()[1].Get("Metrics-Gate-Decision"); last != "block" {
		t.Errorf("the application was told %q", last)
	}
}

// Scenario 2: who did not is measured as before.
func TestFirefoxNoObjection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		unset bool
	}{{"true", false}, {"unset", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake(patient))
			f := respondingFirefox(t, noObjectionFirefox, s.origin)
			if c.unset {
				// Debian's Firefox has a default of its own, which is false.
				f.privileged(nil, `Services.prefs.clearUserPref(arguments[0]); Services.prefs.getDefaultBranch("").deleteBranch(arguments[0]);`, uploadEnabled)
			}
			var kind int
			f.privileged(&kind, `return Services.prefs.getPrefType(arguments[0]);`, uploadEnabled)
			if (kind == 0) != c.unset { // nsIPrefBranch.PREF_INVALID
				t.Fatalf("the preference has type %d", kind)
			}
			f.navigate(s.origin)
			s.reported(f)
			if got := f.cookie("metrics_optout"); got != "0" {
				t.Errorf("the cookie is %q", got)
			}
			s.collects(f, "default")
			s.clean(f)
		})
	}
}

// Scenario 3: the browser's opt-out becomes the account's, once, and holds in
// another browser that says nothing.
func TestWriteBackAndAnotherBrowser(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	uid := testcaddy.NewUID(t)
	s.signIn(f, uid)
	s.reported(f)
	s.profile.asked.Wait(t, "the write", func([]string) bool { return s.profile.writes() > 0 })
	testcaddy.Until(t, "the write to be counted", func() bool { return s.caddy.Metric("write_backs_total", "outcome", "written") == 1 })
	if got := s.profile.holds(t, uid); got != "true" {
		t.Errorf("the store holds %s", got)
	}
	s.blocks(f, "preference")
	for range 3 {
		f.navigate(s.origin + "/settings")
		s.blocks(f, "preference")
	}

	c := newChromium(t)
	s.signIn(c, uid)
	s.blocks(c, "preference")
	s.caddy.Stop() // which joins every write that is under way
	if n := s.profile.writes(); n != 1 {
		t.Errorf("written %d times", n)
	}
	if got := s.app.bodies(); len(got) > 0 {
		t.Errorf("the application got %q", got)
	}
}

// Who opted out in Firefox before signing in has it recorded as they sign in.
func TestWriteBackAtSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	f.navigate(s.origin)
	s.reported(f)
	uid := testcaddy.NewUID(t)
	s.signIn(f, uid)
	s.profile.asked.Wait(t, "the write", func([]string) bool { return s.profile.writes() > 0 })
	testcaddy.Until(t, "the store to hold it", func() bool { return s.profile.holds(t, uid) == "true" })
	s.blocks(f, "preference")
}

// Scenario 4: an explicit choice in the account wins over the browser's.
func TestExplicitAllow(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	uid := testcaddy.NewUID(t)
	s.profile.choose(t, uid, "false")
	s.signIn(f, uid)
	s.reported(f)
	s.collects(f, "explicit_allow")
	f.navigate(s.origin + "/settings")
	s.collects(f, "explicit_allow")
	s.caddy.Stop()
	if n := s.profile.writes(); n != 0 {
		t.Errorf("written %d times", n)
	}
	if got := s.profile.asked.All(); len(got) == 0 {
		t.Error("the profile server was never asked")
	}
}

// Scenario 5: a browser that does not answer leaves the page unharmed, and the
// default applies.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) driver{
		"Firefox without a responder": func(t testing.TB) driver { return newFirefox(t, optedOutFirefox) },
		"Chromium":                    func(t testing.TB) driver { return newChromium(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake("timeout 500ms"))
			browser := start(t)
			browser.navigate(s.origin)
			s.reported(browser)
			if got := browser.cookie("metrics_optout"); got != "none" {
				t.Errorf("the cookie is %q", got)
			}
			s.collects(browser, "default")
			s.clean(browser)
		})
	}
}

// Scenario 6: what Firefox sends before it has answered is blocked, whatever
// it answers, and what it sends with a page's last breath as well.
func TestBeaconsBeforeTheOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		preferences   map[string]any
		blocks, value string
	}{
		{"opted out", optedOutFirefox, "signal", "1"},
		{"no objection", noObjectionFirefox, "", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake(patient))
			f := respondingFirefox(t, c.preferences, s.origin)
			f.hold()
			f.navigate(s.origin)
			s.blocks(f, "probing")

			// The content server's own pattern: blur, and unload.
			f.eval(nil, `(log("blurred"), dispatchEvent(new Event("blur")))`)
			testcaddy.Until(t, "the beacon on blur", func() bool { return s.decided("block", "probing") == 2 })
			f.eval(nil, `log("left")`)
			f.navigate(s.origin + "/settings")
			testcaddy.Until(t, "the beacon on unload", func() bool { return s.decided("block", "probing") == 3 })

			f.release()
			s.reported(f)
			if got := f.cookie("metrics_optout"); got != c.value {
				t.Errorf("the cookie is %q", got)
			}
			if c.blocks != "" {
				s.blocks(f, c.blocks)
				return
			}
			if got := s.app.bodies(); len(got) > 0 {
				t.Errorf("the application got %q", got)
			}
			s.collects(f, "default")

			// Only a browser's first page is so: the next one's beacons pass
			// from its first moment on.
			f.navigate(s.origin + "/?flush=0")
			testcaddy.Until(t, "the beacon of the next page", func() bool { return s.decided("collect", "default") == 2 })
		})
	}
}

// Scenario 8: policies that have no room for anything but the site's own files.
func TestStrictPolicy(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{
		strictPolicy,
		"default-src 'none'; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'",
	} {
		t.Run(strings.Fields(policy)[1], func(t *testing.T) {
			t.Parallel()
			app := newApplication(t)
			app.policy = policy
			s := newSiteWith(t, app, handshake("timeout 2s"))
			f := respondingFirefox(t, optedOutFirefox, s.origin)
			for value, browser := range map[string]driver{"1": f, "none": newChromium(t)} {
				browser.navigate(s.origin)
				s.reported(browser)
				if got := browser.cookie("metrics_optout"); got != value {
					t.Errorf("the cookie is %q, not %s", got, value)
				}
				var violations []string
				browser.eval(&violations, `violations.filter((what) => !what.includes("favicon"))`)
				if len(violations) > 0 {
					t.Errorf("%T: violated %q", browser, violations)
				}
			}
			s.blocks(f, "signal")
		})
	}
}

// Scenario 9: Global Privacy Control, sent by Firefox itself, counts where it
// is named, and is never written into an account.
func TestGlobalPrivacyControl(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, signal string
		blocks       bool
	}{
		{"configured", "signal {\ngpc\n}", true},
		{"not configured", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.signal, handshake(patient))
			f := respondingFirefox(t, map[string]any{uploadEnabled: true, "privacy.globalprivacycontrol.enabled": true}, s.origin)
			check := func() {
				t.Helper()
				if c.blocks {
					s.blocks(f, "signal")
				} else {
					s.collects(f, "default")
				}
			}
			f.navigate(s.origin)
			s.reported(f)
			if got := s.app.pages.All()[0].Get("Sec-GPC"); got != "1" {
				t.Fatalf("Firefox sent Sec-GPC %q", got)
			}
			check()
			uid := testcaddy.NewUID(t)
			s.signIn(f, uid)
			check()
			f.navigate(s.origin + "/settings")
			check()
			s.caddy.Stop()
			if n := s.profile.writes(); n != 0 {
				t.Errorf("written %d times", n)
			}
		})
	}
}

// Scenario 12: after somebody who opted out has signed out, what the
// application still sends is blocked.
func TestLateBeaconAfterSignOut(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB, *site) driver{
		"Firefox":  func(t testing.TB, s *site) driver { return respondingFirefox(t, noObjectionFirefox, s.origin) },
		"Chromium": func(t testing.TB, _ *site) driver { return newChromium(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake("timeout 500ms"))
			browser := start(t, s)
			uid := testcaddy.NewUID(t)
			s.profile.choose(t, uid, "true")
			s.signIn(browser, uid)
			s.blocks(browser, "preference")
			s.reported(browser)
			browser.navigate(s.origin + "/signout")
			s.blocks(browser, "signal")
			// Whatever the handshake says: it has forgotten that it asked.
			browser.eval(nil, `(localStorage.clear(), sessionStorage.clear())`)
			browser.navigate(s.origin + "/settings")
			s.reported(browser)
			s.blocks(browser, "signal")
			if got := browser.cookie("metrics_optout"); got != "account" {
				t.Errorf("the cookie is %q", got)
			}

			// Somebody who explicitly allows ends it.
			other := testcaddy.NewUID(t)
			s.profile.choose(t, other, "false")
			s.signIn(browser, other)
			s.collects(browser, "explicit_allow")
			if got := browser.cookie("metrics_optout"); got == "account" {
				t.Error("the cookie is still there")
			}
		})
	}
}

// Scenario 7: a page in a frame of another site.
func TestFramed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		start  func(testing.TB, *site) driver
		told   string // in the end
		blocks bool
	}{
		"Firefox, opted out": {
			start: func(t testing.TB, s *site) driver { return respondingFirefox(t, optedOutFirefox, s.origin) },
			told:  "true", blocks: true,
		},
		"Firefox, no objection": {
			start: func(t testing.TB, s *site) driver { return respondingFirefox(t, noObjectionFirefox, s.origin) },
			told:  "false",
		},
		"Chromium": {
			start: func(t testing.TB, _ *site) driver { return newChromium(t) },
			told:  "false",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedder, stranger := newEmbedder(t), newEmbedder(t) // on 127.0.0.1, as the site is on localhost
			s := newSite(t, handshake("timeout 2s", "embedder "+embedder))
			browser := c.start(t, s)
			commands := func() (all []string) {
				browser.eval(&all, fmt.Sprintf(`messages.filter((message) => message.origin === %q).map((message) => {
					const { command, data } = JSON.parse(message.data);
					return command + (command === "metrics_optout" ? " " + data.metrics_optout : "");
				})`, s.origin))
				return all
			}

			// The page sends a beacon after a while, at which time it is known
			// what the user wants.
			browser.navigate(embedder)
			browser.eval(nil, fmt.Sprintf("hold(%q)", s.origin+"/?context=iframe&origin="+embedder))
			browser.wait("the page's own message", `messages.some((message) => message.data.includes("loaded"))`)
			if c.told == "false" {
				browser.wait("the correction", `messages.some((message) => message.data === '{"command":"metrics_optout","data":{"metrics_optout":false}}')`)
			}
			testcaddy.Until(t, "the outcome", func() bool { return s.caddy.Metric("signals_total") > 0 })
			got := commands()
			if len(got) < 2 || got[0] != "metrics_optout true" {
				t.Errorf("the embedder was told %q: first of all must come that it is not known", got)
			}
			if c.told == "true" && strings.Contains(strings.Join(got, "\n"), "false") {
				t.Errorf("the embedder was told %q", got)
			}

			// Whatever a frame of the browser sends from now on.
			browser.navigate(embedder)
			browser.eval(nil, fmt.Sprintf("hold(%q)", s.origin+"/?flush=0&context=iframe&origin="+embedder))
			if c.blocks {
				testcaddy.Until(t, "the frame's beacon", func() bool { return s.decided("block", "signal") == 1 })
			} else {
				testcaddy.Until(t, "the frame's beacon", func() bool { return s.decided("collect", "default") == 1 })
			}

			// Somebody else's page is told nothing, whatever it writes into
			// the address. The page's own message is not the gate's to stop.
			for _, claimed := range []string{embedder, stranger, "*", ""} {
				browser.navigate(stranger)
				before := s.decided("block", "") + s.decided("collect", "")
				browser.eval(nil, fmt.Sprintf("hold(%q)", s.origin+"/?flush=0&origin="+claimed))
				testcaddy.Until(t, "the frame's beacon", func() bool { return s.decided("block", "")+s.decided("collect", "") > before })
				for _, command := range commands() {
					if strings.HasPrefix(command, "metrics_optout") {
						t.Errorf("a stranger that says it is %q was told %s", claimed, command)
					}
				}
			}
		})
	}
}
