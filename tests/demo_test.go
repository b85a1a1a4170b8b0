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
	site := copyDemo(t, s.Dir)
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

	var problems string
	page.run(chromedp.Text("#trouble", &problems, chromedp.AtLeast(0)))
	if problems != "" {
		t.Errorf("the page says %q", problems)
	}
}

// copyDemo copies what make run needs into a folder, with ports of its own in
// place of the ones that are written in the example, and returns the gate's
// address.
func copyDemo(t *testing.T, dir string) (site string) {
	t.Helper()
	var ports []string
	for _, port := range []string{"8080", "8081", "8082", "2019"} {
		_, own, _ := strings.Cut(testcaddy.FreeAddr(t), ":")
		ports = append(ports, port, own)
	}
	replace := strings.NewReplacer(ports...)
	for _, file := range []string{
		"Caddyfile.example", "examples/run.sh", "examples/demo.caddyfile",
		"examples/keys/session.secret", "examples/keys/gate.secret",
		"examples/page/index.html", "examples/page/page.css", "examples/page/page.js", "examples/page/icon.svg",
	} {
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(file, "/page/") {
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
	return "localhost:" + ports[1]
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
