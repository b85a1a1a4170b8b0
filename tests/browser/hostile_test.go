package browser_test

import (
	"fmt"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Another site's page can make a browser send a report, and not have it count.
func TestForgedReport(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) driver{
		"Firefox":  func(t testing.TB) driver { return newFirefox(t, noObjectionFirefox) },
		"Chromium": func(t testing.TB) driver { return newChromium(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handshake())
			forger := newEmbedder(t) // on 127.0.0.1, as the site is on localhost
			browser := start(t)
			browser.navigate(s.origin)
			s.reported(browser)
			before := browser.cookie("metrics_optout")
			refused := s.caddy.Metric("signals_total", "outcome", "refused")
			browser.navigate(forger)
			signal := s.origin + "/.well-known/metrics-gate/signal"
			browser.eval(nil, fmt.Sprintf(`fetch(%q, {
				method: "POST", mode: "no-cors", credentials: "include", body: '{"metrics_optout":true}',
			}).then(() => 0)`, signal))
			browser.eval(nil, fmt.Sprintf(`(() => {
				const form = document.createElement("form");
				form.method = "POST", form.enctype = "text/plain", form.action = %q;
				const field = document.createElement("input");
				field.name = '{"metrics_optout":true,"x":"', field.value = '"}';
				form.append(field);
				document.body.append(form);
				form.submit();
			})()`, signal))
			testcaddy.Until(t, "both to be refused", func() bool {
				return s.caddy.Metric("signals_total", "outcome", "refused") == refused+2
			})
			browser.navigate(s.origin)
			if got := browser.cookie("metrics_optout"); got != before {
				t.Errorf("the cookie became %q", got)
			}
		})
	}
}

// A page's scripts can speak on the browser's channel as well, but do not know
// what the probe was called, and only its answer counts.
func TestForgedAnswer(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	s := newSiteWith(t, app, handshake(patient))
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	f.hold()
	f.navigate(s.origin)
	f.eval(nil, `["metrics_optout", "account_updates"].forEach((id) => [
			JSON.stringify({ id, message: { data: {} } }),
			JSON.stringify({ id, message: { messageId: "1", data: { metrics_optout: false } } }),
			JSON.stringify({ id, message: { messageId: null, data: {} } }),
			JSON.stringify({ id, message: null }),
			JSON.stringify({ id }),
			JSON.stringify([id]),
			"null", "{", "", null, undefined, 0, { id, message: { data: {} } },
		].forEach((detail) => dispatchEvent(new CustomEvent("WebChannelMessageToContent", { detail }))))`)
	s.blocks(f, "probing")
	f.release()
	s.reported(f)
	if got := f.cookie("metrics_optout"); got != "1" {
		t.Errorf("the cookie is %q", got)
	}
	s.clean(f)
	s.blocks(f, "signal")
}
