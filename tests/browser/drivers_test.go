package browser_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The drivers themselves: what these tests build on must not be what is wrong.
func TestDrivers(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		http.SetCookie(w, &http.Cookie{Name: "hidden", Value: "seen", HttpOnly: true})
		_, _ = io.WriteString(w, `<!DOCTYPE html><title>Plain</title><input id="a"><input id="b"><script>
			console.error("on purpose");
			window.answers = [];
			addEventListener("WebChannelMessageToContent", (event) => window.answers.push(JSON.stringify(event.detail)));
			window.probe = (id) => dispatchEvent(new CustomEvent("WebChannelMessageToChrome", {
				detail: JSON.stringify({ id: "metrics_optout", message: { command: "metrics_optout:probe", messageId: id, data: {} } })
			}));
		</script>`)
	}))
	t.Cleanup(plain.Close)
	origin := strings.Replace(plain.URL, "127.0.0.1", "localhost", 1)
	f := newFirefox(t, optedOutFirefox)
	for name, browser := range map[string]driver{"Firefox": f, "Chromium": newChromium(t)} {
		browser.navigate(origin)
		var title string
		browser.eval(&title, "document.title")
		browser.press("Tab", "Space", "Space")
		browser.wait(name+" to type", `document.activeElement.value === "  "`)
		if cookie := browser.cookie("hidden"); title != "Plain" || cookie != "seen" {
			t.Errorf("%s has title %q, cookie %q", name, title, cookie)
		}
		if console := browser.console(origin); !strings.Contains(strings.Join(console, "\n"), "on purpose") {
			t.Errorf("%s: the console is missing: %q", name, console)
		}
		if png := browser.screenshot(); !strings.HasPrefix(string(png), "\x89PNG") {
			t.Errorf("%s: no screenshot", name)
		}
	}
	f.eval(nil, `probe("first")`)
	f.wait("an error", `answers.length === 1 && answers[0].includes("No Such Channel")`)
	f.respond(origin)
	f.eval(nil, `probe("second")`)
	f.wait("an answer", `answers.length === 2 && answers[1].includes("metrics_optout\":true") && answers[1].includes("second")`)
	f.hold()
	f.eval(nil, `probe("third")`)
	f.release()
	f.wait("a later answer", `answers.length === 3`)
	if n := f.probes(); n != 2 {
		t.Errorf("Firefox got %d probes", n)
	}
}
