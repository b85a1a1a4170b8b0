package profileserver

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

// crossOrigin returns the headers of an answer that concern other origins.
func crossOrigin(h http.Header) map[string]string {
	got := map[string]string{}
	for _, name := range []string{
		"Vary", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Access-Control-Allow-Methods",
		"Access-Control-Allow-Headers", "Access-Control-Max-Age", "Access-Control-Allow-Credentials",
	} {
		if values := h.Values(name); len(values) > 0 {
			got[name] = values[0]
		}
	}
	return got
}

func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	const page, exposed = "https://app.example.org", "ETag, Last-Modified, Metrics-Optout-Source, Metrics-Optout-Changed, WWW-Authenticate"
	some := start(t, database(t), standalone, operators, takesEvents(t), func(c *Config) { c.Origins = []string{page, "http://localhost:3000"} })
	all := start(t, database(t), standalone, func(c *Config) { c.Origins = []string{"*"} })
	none := start(t, database(t), standalone)
	read := mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")
	varies := map[string]string{"Vary": "Origin"}
	allowed := func(origin string) map[string]string {
		return map[string]string{"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": exposed}
	}
	preflighted := func(method string) map[string]string {
		headers := allowed(page)
		headers["Access-Control-Allow-Methods"] = method
		headers["Access-Control-Allow-Headers"] = "Accept, Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID"
		headers["Access-Control-Max-Age"] = "86400"
		return headers
	}
	for _, test := range []struct {
		name   string
		server instance
		method string
		path   string
		origin string
		asks   string // Access-Control-Request-Method
		token  string
		status int
		want   map[string]string
	}{
		{"a page that may", some, "GET", optOutPath, page, "", read, 200, allowed(page)},
		{"another", some, "HEAD", optOutPath, "http://localhost:3000", "", read, 200, allowed("http://localhost:3000")},
		{"it sees refusals", some, "GET", optOutPath, page, "", "", 401, allowed(page)},
		{"it sees what there is not", some, "GET", "/nothing", page, "", "", 404, allowed(page)},
		{"a page that may not", some, "GET", optOutPath, "https://evil.example.org", "", read, 200, varies},
		{"one that begins alike", some, "GET", optOutPath, page + ".evil.org", "", read, 200, varies},
		{"another scheme", some, "GET", optOutPath, "http://app.example.org", "", read, 200, varies},
		{"a page of nowhere", some, "GET", optOutPath, "null", "", read, 200, varies},
		{"no page", some, "GET", optOutPath, "", "", read, 200, varies},
		{"any page", all, "GET", optOutPath, "https://evil.example.org", "", read, 200, allowed("https://evil.example.org")},
		{"no page, where any may", all, "GET", optOutPath, "", "", read, 200, varies},
		{"no origin is allowed", none, "GET", optOutPath, page, "", read, 200, map[string]string{}},

		{"preflight of GET", some, "OPTIONS", optOutPath, page, "GET", "", 200, preflighted("GET")},
		{"preflight of POST", some, "OPTIONS", optOutPath, page, "POST", "", 200, preflighted("POST")},
		{"preflight of HEAD", some, "OPTIONS", "/v1/profile", page, "HEAD", "", 200, preflighted("HEAD")},
		{"preflight of DELETE", some, "OPTIONS", accountPath + "x", page, "DELETE", "", 200, preflighted("DELETE")},
		{"preflight of the feed", some, "OPTIONS", changesPath, page, "GET", "", 200, preflighted("GET")},
		{"preflight of an event", some, "OPTIONS", eventsPath, page, "POST", "", 200, preflighted("POST")},
		{"preflight where any may", all, "OPTIONS", optOutPath, page, "POST", "", 200, preflighted("POST")},
		{"preflight of what there is not", some, "OPTIONS", optOutPath, page, "PUT", "", 404, allowed(page)},
		{"preflight of nowhere", some, "OPTIONS", "/nothing", page, "GET", "", 404, allowed(page)},
		{"preflight of another page", some, "OPTIONS", optOutPath, "https://evil.example.org", "GET", "", 404, varies},
		{"no preflight", some, "OPTIONS", optOutPath, page, "", read, 404, allowed(page)},
		{"preflight where none may", none, "OPTIONS", optOutPath, page, "GET", "", 404, map[string]string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			q := request{method: test.method, path: test.path, token: test.token}
			if test.origin != "" {
				q.header = append(q.header, "Origin: "+test.origin)
			}
			if test.asks != "" {
				q.header = append(q.header, requestedMethod+": "+test.asks, "Access-Control-Request-Headers: authorization")
			}
			answer := test.server.send(t, q)
			if answer.Status != test.status || test.method == "OPTIONS" && test.status == 200 && answer.Body != "" {
				t.Errorf("%d %s, want %d", answer.Status, answer.Body, test.status)
			}
			if diff := cmp.Diff(test.want, crossOrigin(answer.Header)); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}
