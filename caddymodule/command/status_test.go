package command

import (
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
)

// TestStatusBegins: the first line never says that all is well above a gate that stops
// nothing.
func TestStatusBegins(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 13, 14, 0, 0, time.UTC)
	enforces := status.Gate{Label: "a", Mode: caddymodule.ModeEnforce, Since: now, Pages: 1}
	shadows := status.Gate{Label: "b", Mode: caddymodule.ModeShadow, Since: now.Add(-28 * time.Minute), Pages: 1, WouldBlock: 843}
	note := "NOTE   gate b: it is in shadow mode and stops nothing, for 28 min at least: people who opted out are being measured\n" +
		"       take the word shadow away to stop that; since Caddy was started, 843 requests would have been blocked\n"
	for _, c := range []struct {
		name, want string
		status     status.Status
	}{
		{"all is well", "Nothing is known to be wrong.\n\ngate a", status.Status{Gates: []status.Gate{enforces}}},
		{"shadow", "Nothing is broken, but nothing is stopped by gate b.\n" + note, status.Status{Gates: []status.Gate{enforces, shadows}}},
		{"shadow, and something wrong", "WRONG  gate a: it fails\n" + note, status.Status{Gates: []status.Gate{enforces, shadows}, Wrong: []status.Problem{{Where: "gate a", What: "it fails"}}}},
	} {
		var out strings.Builder
		printStatus(&out, &c.status, now)
		if !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%s: it begins\n%s", c.name, out.String())
		}
	}
}
