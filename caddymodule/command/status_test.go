package command

import (
	"net/http"
	"net/http/httptest"
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
		{"nothing comes, since nothing can", "WRONG  gate a: none comes\n\ngate a", status.Status{
			Gates: []status.Gate{{Label: "a", Mode: caddymodule.ModeEnforce, Since: now}}, Wrong: []status.Problem{{Where: "gate a", What: "none comes", Requests: []string{"POST /beacon"}}},
		}},
		{"shadow, and something wrong", "WRONG  gate a: it fails\n" + note, status.Status{Gates: []status.Gate{enforces, shadows}, Wrong: []status.Problem{{Where: "gate a", What: "it fails"}}}},
	} {
		var out strings.Builder
		printStatus(&out, &c.status, now)
		if strings.Contains(out.String(), "not one page") {
			t.Errorf("%s: it notes what is not so or has been explained\n%s", c.name, out.String())
		}
		if !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%s: it begins\n%s", c.name, out.String())
		}
	}
}

// TestAdminAPIAsItIsWritten: a URL and a port alone are taken for what they mean, and
// what is no admin API is called so.
func TestAdminAPIAsItIsWritten(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"localhost:27060": "localhost:27060", "http://localhost:27060": "localhost:27060", "http://localhost:27060/": "localhost:27060",
		"27060": "localhost:27060", "unix//run/caddy.sock": "unix//run/caddy.sock", "": defaultAdmin(),
	} {
		if got := adminAPI(written).address(); got != want {
			t.Errorf("%q is %q, want %q", written, got, want)
		}
	}
	site := func(code int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte("<html>"))
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	for _, c := range []struct{ args, want string }{
		{"--address " + site(200), "it is a site, and not the admin API"},
		{"--address " + site(404), "a 404 is a site, a profile server, or a Caddy without Metrics Gate"},
		{"27060", "caddy metrics-gate status --address localhost:27060"},
	} {
		if _, err := run(statusCommand(), strings.Fields(c.args)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.args, err, c.want)
		}
	}
}
