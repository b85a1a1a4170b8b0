package browser_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A beacon is what reached the application at its metrics route.
type beacon struct {
	body, kind, decision string
	header               http.Header
}

// An application stands in for one like FxA's content server: pages under a
// strict policy that has no room for inline scripts, and a script of its own
// that gathers events and sends them as the content server does.
type application struct {
	*httptest.Server
	beacons testcaddy.Ledger[beacon]
	pages   testcaddy.Ledger[http.Header] // what came with the requests for pages
	head    string                        // what pages have in their head besides
	policy  string
}

const strictPolicy = "default-src 'self'; script-src 'self'"

func newApplication(t testing.TB) *application {
	a := &application{policy: strictPolicy}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *application) bodies() (all []string) {
	for _, beacon := range a.beacons.All() {
		all = append(all, beacon.body)
	}
	return all
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	switch r.URL.Path {
	case "/metrics":
		body, _ := io.ReadAll(r.Body)
		a.beacons.Add(beacon{string(body), r.Header.Get("Content-Type"), r.Header.Get("Metrics-Gate-Decision"), r.Header.Clone()})
		header.Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"success":true}`)
	case "/app.js":
		header.Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = io.WriteString(w, applicationJS)
	case "/favicon.ico":
		w.WriteHeader(http.StatusNoContent)
	case "/signin": // a stand-in for signing in: whoever has a token is in
		http.SetCookie(w, &http.Cookie{Name: testcaddy.SessionCookie, Value: r.URL.Query().Get("token"), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	case "/signout":
		http.SetCookie(w, &http.Cookie{Name: testcaddy.SessionCookie, Path: "/", MaxAge: -1})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	case "/", "/settings":
		a.pages.Add(r.Header.Clone())
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", a.policy)
		header.Set("ETag", `"page"`)
		_, _ = io.WriteString(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<!-- <head> -->\n<head>"+a.head+
			"<meta charset=\"utf-8\"><title>Sign in</title><script src=\"/app.js\"></script></head>\n<body><h1>Sign in</h1></body></html>\n")
	default:
		http.NotFound(w, r)
	}
}

// The content server's own pattern: events are gathered, and flushed with a
// beacon on blur and unload. A page with times in its address also flushes
// then. There are no events but those that a test logs, so that it knows which
// beacons there are.
const applicationJS = `"use strict";
(() => {
	const startTime = Date.now();
	let events = [];
	window.sent = [];
	window.violations = [];
	window.log = (type) => events.push({ type, offset: Date.now() - startTime });
	window.flush = () => {
		if (!events.length) return;
		const body = JSON.stringify({
			broker: "web", context: "web", duration: Date.now() - startTime, events, flushTime: Date.now(),
			lang: "en", startTime, uid: "none", utm_source: "none \u00e9\u2603",
		});
		events = [];
		sent.push(body);
		navigator.sendBeacon("/metrics", body);
	};
	addEventListener("blur", flush);
	addEventListener("unload", flush);
	addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective + " " + event.blockedURI));
	const parameters = new URLSearchParams(location.search);
	for (const at of (parameters.get("flush") || "").split(" ").filter(Boolean)) {
		setTimeout(() => { log("at." + at); flush(); }, Number(at));
	}
	// In a frame, FxA's protocol: the embedder is told that the page is there.
	if (window.parent !== window && parameters.get("origin")) {
		addEventListener("load", () => window.parent.postMessage(JSON.stringify({ command: "loaded", data: {} }), parameters.get("origin")));
	}
	window.ready = true;
})();
`

// newEmbedder is a site whose page holds another in a frame, and keeps the
// messages that it gets.
func newEmbedder(t testing.TB) (origin string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<!DOCTYPE html><title>First run</title><script>
			window.messages = [];
			addEventListener("message", (event) => messages.push({ origin: event.origin, data: event.data }));
			window.hold = (address) => {
				const frame = document.createElement("iframe");
				frame.src = address;
				document.body.append(frame);
			};
			</script><body></body>`)
	}))
	t.Cleanup(server.Close)
	return strings.TrimSuffix(server.URL, "/")
}
