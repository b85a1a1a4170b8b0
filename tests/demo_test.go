package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// TestDemo does in Chromium what the README promises a newcomer: it starts the
// example as make run does, in a copy whose ports nobody else uses, signs in,
// opts out, and watches where real beacons end.
func TestDemo(t *testing.T) {
	t.Parallel()
	page := newTab(t)
	s := testcaddy.New(t)
	site, shop := copyDemo(t, s.Dir)
	s.Run(exec.Command("./examples/run.sh"))

	page.run(
		chromedp.Navigate("http://"+site+"/"),
		chromedp.WaitReady(`input[name=who][value=ann]`),
		chromedp.Click(`input[name=who][value=ann]`),
		chromedp.Poll(`!document.getElementById("preference").disabled`, nil),
		chromedp.Click(`input[name=preference][value=true]`),
		chromedp.Poll(`document.getElementById("preference-hint").textContent.includes("metrics_optout is true")`, nil),
	)
	page.sends(4, map[string]string{
		"Metrics beacon": "block|not received",
		"Error report":   "block|not received",
		"Experiments":    "block|not received",
		"Sign-in flow":   "not gated|received",
	})

	page.keepScreenshot()

	// Ben made no choice, but his browser's user did: that is blocked, and
	// recorded in his profile.
	page.run(
		chromedp.Click(`input[name=who][value=ben]`),
		chromedp.Poll(`!document.getElementById("preference").disabled && document.querySelector("input[name=preference][value=null]").checked`, nil),
	)
	page.sends(8, map[string]string{
		"Metrics beacon": "collect|received",
		"Error report":   "collect|received",
		"Experiments":    "collect|received",
		"Sign-in flow":   "not gated|received",
	})
	page.run(chromedp.Click(`input[name=signal][value=true]`))
	page.sends(12, map[string]string{
		"Metrics beacon": "block|not received",
		"Error report":   "block|not received",
		"Experiments":    "block|not received",
		"Sign-in flow":   "not gated|received",
	})
	page.run(chromedp.Poll(`document.querySelector("input[name=preference][value=true]").checked`, nil))

	// The shop knows Ben, whose opt-out is in his profile now: what its SDKs send
	// as the page begins, and with every click, is stopped. When he allows, it
	// arrives at once.
	page.run(chromedp.Navigate("http://"+shop+"/"), chromedp.WaitReady("button[data-event]"))
	page.shows(map[string]string{
		"Plausible: pageview": "block|not received",
		"umami: pageview":     "block|not received",
		"umami: identify":     "block|not received",
		"Ahoy: visit":         "block|not received",
	})
	page.run(chromedp.Click(`button[data-event="Look at a teapot"]`))
	page.shows(map[string]string{
		"Plausible: Look at a teapot": "block|not received",
		"umami: Look at a teapot":     "block|not received",
		"Ahoy: Look at a teapot":      "block|not received",
	})
	page.run(
		chromedp.Click(`input[name=preference][value=false]`),
		chromedp.Poll(`document.getElementById("preference-hint").textContent.includes("metrics_optout is false")`, nil),
		chromedp.Click(`button[data-event="Buy it"]`),
	)
	page.shows(map[string]string{
		"Plausible: Buy it": "collect|received",
		"umami: Buy it":     "collect|received",
		"Ahoy: Buy it":      "collect|received",
	})

	// Of somebody who is only named, umami's beacons are stopped: the others name
	// nobody. The browser's own signal would stop all.
	page.run(
		chromedp.Click(`input[name=signal][value=""]`),
		chromedp.Click(`input[name=who][value=named]`),
		chromedp.Poll(`document.getElementById("preference").disabled`, nil),
		chromedp.Click(`button[data-event="Put it into the basket"]`),
	)
	page.shows(map[string]string{
		"Plausible: Put it into the basket": "collect|received",
		"umami: Put it into the basket":     "block|not received",
		"Ahoy: Put it into the basket":      "collect|received",
	})

	var problems string
	page.run(chromedp.Text("#trouble", &problems, chromedp.AtLeast(0)))
	if problems != "" {
		t.Errorf("the page says %q", problems)
	}
}

// TestDemoTwice starts the example a second time. Linux would let both listen, and
// what a page sends would end at either.
func TestDemoTwice(t *testing.T) {
	t.Parallel()
	s := testcaddy.New(t)
	copyDemo(t, s.Dir)
	s.Run(exec.Command("./examples/run.sh"))

	again := exec.CommandContext(t.Context(), "./examples/run.sh")
	again.Dir = s.Dir
	out, err := again.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "a Caddy runs here already") {
		t.Errorf("%v\n%s", err, out)
	}
}

// copyDemo copies what make run needs into a folder, with ports of its own in
// place of the ones that are written in the example, and returns the gates'
// addresses.
func copyDemo(t *testing.T, dir string) (site, shop string) {
	t.Helper()
	var ports []string
	for _, port := range []string{"8080", "8081", "8082", "8083", "8084", "2019"} {
		_, own, _ := strings.Cut(testcaddy.FreeAddr(t), ":")
		ports = append(ports, port, own)
	}
	replace := strings.NewReplacer(ports...)
	files := []string{"Caddyfile.example", "examples/run.sh", "examples/demo.caddyfile", "examples/keys/session.secret", "examples/keys/gate.secret"}
	for _, pattern := range []string{"../examples/page/*.*", "../examples/page/sdk/*"} {
		for _, file := range testcaddy.Must(filepath.Glob(pattern)) {
			files = append(files, strings.TrimPrefix(file, "../"))
		}
	}
	for _, file := range files {
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(file, "/sdk/") {
			text = []byte(replace.Replace(string(text)))
		}
		target := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(testcaddy.Binary, filepath.Join(dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	return "localhost:" + ports[1], "localhost:" + ports[7]
}

// tab is one of a real Chromium.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func newTab(t *testing.T) *tab {
	t.Helper()
	return &tab{t, testcaddy.Chromium(t)}
}

func (p *tab) run(actions ...chromedp.Action) {
	p.t.Helper()
	if err := chromedp.Run(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// keepScreenshot writes what the page looks like to where the environment says:
// make screenshots makes that of README.
func (p *tab) keepScreenshot() {
	p.t.Helper()
	file := os.Getenv("DEMO_SCREENSHOT")
	if file == "" {
		return
	}
	var png []byte
	// New rows appear by and by.
	p.run(chromedp.EmulateViewport(1100, 700), chromedp.Poll(`document.getAnimations().length === 0`, nil), chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(file, png, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// shows waits until the page says of these requests what became of them.
func (p *tab) shows(want map[string]string) {
	p.t.Helper()
	for name, fate := range want {
		var got string
		p.run(
			chromedp.Poll(fmt.Sprintf(`(() => {
				const row = [...document.querySelectorAll("#rows tr:not(.empty)")].find((row) => row.cells[0].firstChild.textContent === %q);
				return row && !row.querySelector(".waiting") && [...row.querySelectorAll(".badge")].map((badge) => badge.textContent).join("|");
			})()`, name), &got),
		)
		if got != fate {
			p.t.Errorf("the page shows %q of %q, want %q", got, name, fate)
		}
	}
}

// sends presses "Send all four", waits until the page shows so many rows that
// say what became of their requests, and reads the newest four.
func (p *tab) sends(rows int, want map[string]string) {
	p.t.Helper()
	var newest [][]string
	p.run(
		chromedp.Click(`button[data-send="metrics errors experiments flow"]`),
		chromedp.Poll(fmt.Sprintf(`(() => {
			const rows = [...document.querySelectorAll("#rows tr:not(.empty)")];
			return rows.length >= %d && !rows.some((row) => row.querySelector(".waiting"));
		})()`, rows), nil),
		chromedp.Evaluate(`[...document.querySelectorAll("#rows tr")].slice(0, 4).map(
			(row) => [row.cells[0].firstChild.textContent, ...[...row.querySelectorAll(".badge")].map((badge) => badge.textContent)])`, &newest),
	)
	for _, row := range newest {
		if len(row) != 3 || want[row[0]] != row[1]+"|"+row[2] {
			p.t.Errorf("the page shows %q, want %q", row, want[row[0]])
		}
	}
	if len(newest) != len(want) {
		p.t.Errorf("the page shows %d rows", len(newest))
	}
}
