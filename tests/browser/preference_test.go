package browser_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

const preferencePage = "/.well-known/metrics-gate/preference"

// shoot keeps a screenshot of the page for somebody to look at, where the
// environment says where to.
func shoot(t testing.TB, browser driver, name string) {
	t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	engine := strings.TrimPrefix(fmt.Sprintf("%T", browser), "*browser_test.")
	if err := os.WriteFile(filepath.Join(dir, name+"-"+engine+".png"), browser.screenshot(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tabTo presses Tab until the focus is on what the selector says.
func tabTo(t testing.TB, browser driver, selector string) {
	t.Helper()
	for range 20 {
		var there bool
		browser.eval(&there, fmt.Sprintf("document.activeElement !== null && document.activeElement.matches(%q)", selector))
		if there {
			return
		}
		browser.press("Tab")
	}
	t.Fatalf("%T: the keyboard does not get to %s", browser, selector)
}

// choose picks one of the three choices and sends it, with the keyboard alone.
func choose(t testing.TB, browser driver, choice string) {
	t.Helper()
	tabTo(t, browser, "input[type=radio]")
	for range 3 {
		var picked bool
		browser.eval(&picked, fmt.Sprintf("document.activeElement.value === %q && document.activeElement.checked", choice))
		if picked {
			break
		}
		browser.press("ArrowDown")
	}
	// Where only one of a group can have the focus by Tab, an arrow picks; the
	// one that has the focus and is not picked is picked with Space.
	var picked bool
	browser.eval(&picked, fmt.Sprintf("document.activeElement.value === %q && document.activeElement.checked", choice))
	if !picked {
		browser.press("Space")
	}
	send(t, browser, "button[type=submit], button:not([type])")
}

// send presses a button, and waits for the page that comes of it.
func send(t testing.TB, browser driver, button string) {
	t.Helper()
	tabTo(t, browser, button)
	browser.eval(nil, `(document.documentElement.lang = "old", 0)`)
	browser.press("Enter")
	browser.wait("the answer", `document.readyState === "complete" && document.documentElement.lang !== "old"`)
}

// says is what the page tells of the result: the role of the message, and its text.
func says(browser driver) (role, text string) {
	var told []string
	browser.eval(&told, `[...document.querySelectorAll("[role=status], [role=alert]")].map((element) => element.getAttribute("role") + " " + element.innerText.trim())`)
	role, text, _ = strings.Cut(strings.Join(told, "\n"), " ")
	return role, text
}

// Scenario 10: the page on which people choose, by keyboard and without
// JavaScript, in both browsers.
func TestPreferencePage(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) driver{
		"Firefox": func(t testing.TB) driver {
			return newFirefox(t, map[string]any{uploadEnabled: true, "javascript.enabled": false, "intl.accept_languages": "en-US, en"})
		},
		"Chromium": func(t testing.TB) driver {
			c := newChromium(t)
			c.withoutScripts()
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake("site_name \"Example Accounts\""))
			browser := start(t)
			open := func() {
				t.Helper()
				browser.navigate(s.origin + preferencePage)
			}
			told := func(role string) {
				t.Helper()
				if got, text := says(browser); got != role || text == "" {
					t.Errorf("the page says %s %q, not a %s", got, text, role)
				}
			}

			// Nobody signed in: this browser, and its undoing.
			open()
			var title, heading string
			browser.eval(&title, "document.title")
			browser.eval(&heading, `[...document.querySelectorAll("h1")].map((h) => h.innerText).join("|")`)
			if !strings.Contains(title+heading, "Example Accounts") || heading == "" || strings.Contains(heading, "|") {
				t.Errorf("the page is called %q, %q", title, heading)
			}
			shoot(t, browser, "anonymous")
			send(t, browser, "button")
			if got := browser.cookie("metrics_optout"); got != "true" {
				t.Errorf("the cookie is %q", got)
			}
			told("status")
			shoot(t, browser, "anonymous-opted-out")
			send(t, browser, "button")
			if got := browser.cookie("metrics_optout"); got != "" {
				t.Errorf("undone, the cookie is %q", got)
			}
			told("status")

			// Signed in: three choices of equal weight.
			uid := testcaddy.NewUID(t)
			signIn := func() {
				t.Helper()
				browser.navigate(s.origin + "/signin?token=" + testcaddy.Session(uid))
			}
			signIn()
			open()
			shoot(t, browser, "signed-in")
			var values []string
			browser.eval(&values, `[...document.querySelectorAll("input[type=radio]")].map((input) => input.value)`)
			if len(values) != 3 {
				t.Errorf("the page offers %q", values)
			}
			for _, c := range []struct{ choice, held, decision, reason string }{
				{"optout", "true", "block", "preference"},
				{"allow", "false", "collect", "explicit_allow"},
				{"follow", "null", "collect", "default"},
				{"optout", "true", "block", "preference"},
			} {
				choose(t, browser, c.choice)
				told("status")
				if got := s.profile.holds(t, uid); got != c.held {
					t.Errorf("%s: the store holds %s", c.choice, got)
				}
				before := s.decided(c.decision, c.reason)
				s.post(testcaddy.Cookie(testcaddy.Session(uid)))
				if s.decided(c.decision, c.reason) != before+1 {
					t.Errorf("%s: the next request was not decided by it", c.choice)
				}
				shoot(t, browser, "saved-"+c.choice)
			}

			// A conflict is a question, with two answers.
			for answer, held := range map[string]string{"get": "false", "post": "true"} {
				s.profile.choose(t, uid, "null")
				open()
				s.profile.choose(t, uid, "false")
				choose(t, browser, "optout")
				told("alert")
				if got := s.profile.holds(t, uid); got != "false" {
					t.Errorf("in a conflict, the store holds %s", got)
				}
				shoot(t, browser, "conflict")
				send(t, browser, "[role=alert] form[method="+answer+"] button")
				if got := s.profile.holds(t, uid); got != held {
					t.Errorf("after the answer to a conflict, the store holds %s", got)
				}
			}
			s.profile.choose(t, uid, "true")

			// A profile server that fails is "not saved", never "saved".
			open()
			s.profile.fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			choose(t, browser, "allow")
			told("alert")
			if _, text := says(browser); !strings.Contains(strings.ToLower(text), "not saved") {
				t.Errorf("the page says %q", text)
			}
			shoot(t, browser, "not-saved")
			open()
			shoot(t, browser, "not-known")
			s.profile.fail(nil)
			if got := s.profile.holds(t, uid); got != "true" {
				t.Errorf("the store holds %s", got)
			}
			open()
			for _, width := range []int{320, 1024} {
				browser.resize(width, 800)
				var overflow bool
				browser.eval(&overflow, `document.documentElement.scrollWidth > document.documentElement.clientWidth`)
				if overflow {
					t.Errorf("at %d pixels the page is wider than the window", width)
				}
				shoot(t, browser, fmt.Sprintf("width-%d", width))
			}
		})
	}
}

// What the browser said shows on the page, and where the account's choice
// comes from.
func TestPreferencePageOfTheBrowser(t *testing.T) {
	t.Parallel()
	s := newSite(t, handshake(patient))
	f := respondingFirefox(t, map[string]any{uploadEnabled: false, "intl.accept_languages": "en-US, en", "ui.systemUsesDarkTheme": 1}, s.origin)
	f.navigate(s.origin)
	s.reported(f)
	f.navigate(s.origin + preferencePage)
	shoot(t, f, "dark-anonymous-signal")
	uid := testcaddy.NewUID(t)
	s.signIn(f, uid)
	testcaddy.Until(t, "the store to hold it", func() bool { return s.profile.holds(t, uid) == "true" })
	f.navigate(s.origin + preferencePage)
	var text string
	f.eval(&text, "document.body.innerText")
	if !strings.Contains(text, "set from your browser on") && !strings.Contains(text, "Set from your browser on") {
		t.Errorf("the page does not say where the choice comes from: %q", text)
	}
	shoot(t, f, "dark-signed-in-from-browser")
	s.profile.choose(t, uid, "false")
	f.navigate(s.origin + preferencePage)
	shoot(t, f, "dark-allowed-against-signal")
}

// A framed click must not flip a choice.
func TestPreferencePageInAFrame(t *testing.T) {
	t.Parallel()
	embedder := newEmbedder(t)
	s := newSite(t, handshake("embedder "+embedder))
	f := newFirefox(t, noObjectionFirefox)
	f.navigate(embedder)
	f.eval(nil, fmt.Sprintf("hold(%q)", s.origin+preferencePage))
	f.wait("the frame", `document.querySelector("iframe") !== null`)
	testcaddy.Until(t, "Firefox to refuse it", func() bool {
		var shown string
		f.privileged(&shown, `return gBrowser.selectedBrowser.browsingContext.children.map((frame) => frame.currentWindowGlobal.documentURI.spec).join();`)
		return strings.HasPrefix(shown, "about:neterror?e=cspBlocked") || strings.HasPrefix(shown, "about:neterror?e=xfoBlocked")
	})
}

// post sends a beacon of no browser.
func (s *site) post(headers ...string) {
	s.t.Helper()
	r := testcaddy.Must(http.NewRequest(http.MethodPost, s.origin+"/metrics", strings.NewReader(`{"events":[],"uid":"none"}`)))
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := testcaddy.Client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	response.Body.Close()
}
