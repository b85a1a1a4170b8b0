package browser_test

import "testing"

// Driver is what both browsers can be told.
type driver interface {
	navigate(url string)
	eval(into any, expression string) // in the page; a promise is awaited
	wait(what, expression string)     // until it holds in the page
	press(keys ...string)
	cookie(name string) string
	forget() // every cookie
	console(origin string) []string
	screenshot() []byte
	resize(width, height int)
}

var _, _ driver = (*firefox)(nil), (*chromium)(nil)

// The browser's answer to the handshake, as a user of Firefox can have set it.
var (
	optedOutFirefox    = map[string]any{uploadEnabled: false}
	noObjectionFirefox = map[string]any{uploadEnabled: true}
)

// respond makes Firefox answer the probes of pages of the origins as the
// generated responder does, without a file of the installation changed. A
// probe while window.heldProbes is a list waits there.
func (f *firefox) respond(origins ...string) {
	f.t.Helper()
	f.privileged(nil, `
		const { WebChannel } = ChromeUtils.importESModule("resource://gre/modules/WebChannel.sys.mjs");
		window.responders = arguments[0].map((origin) => {
			const channel = new WebChannel("metrics_optout", Services.io.newURI(origin));
			channel.listen((id, message, context) => {
				if (message.command !== "metrics_optout:probe") return;
				window.probes = (window.probes || 0) + 1;
				const answer = () => {
					const data = Services.prefs.getBoolPref(arguments[1], true) ? {} : { metrics_optout: true };
					channel.send({ command: message.command, messageId: message.messageId, data }, context);
				};
				if (window.heldProbes) window.heldProbes.push(answer); else answer();
			});
			return channel;
		});`, origins, uploadEnabled)
}

// probes is how many probes Firefox has got.
func (f *firefox) probes() (n int) {
	f.t.Helper()
	f.privileged(&n, "return window.probes || 0;")
	return n
}

// hold keeps back the answers to probes until release.
func (f *firefox) hold() {
	f.t.Helper()
	f.privileged(nil, "window.heldProbes = [];")
}

func (f *firefox) release() {
	f.t.Helper()
	f.privileged(nil, `
		const held = window.heldProbes;
		window.heldProbes = null;
		for (const answer of held) {
			try { answer(); } catch { /* its page is gone */ }
		}`)
}

// respondingFirefox is a Firefox with a responder for the site.
func respondingFirefox(t testing.TB, preferences map[string]any, origins ...string) *firefox {
	t.Helper()
	f := newFirefox(t, preferences)
	f.respond(origins...)
	return f
}
