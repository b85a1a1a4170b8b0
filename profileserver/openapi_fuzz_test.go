package profileserver

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// TestOpenAPIAnyRequest sends 20,000 requests that are made of what the document
// lists, rightly and wrongly, to a server with either store: none is answered 5xx,
// and none in a way that the document does not know.
func TestOpenAPIAnyRequest(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(testing.TB) string{"SQLite": database, "PostgreSQL": testpostgres.Database} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := readDocument(t)
			server := start(t, store(t), standalone, operators, takesEvents(t), func(c *Config) { c.Origins = []string{fuzzedOrigin} })
			tokens := fuzzedTokens(t)
			sent := 0
			rapid.Check(t, func(rt *rapid.T) {
				for range 100 {
					if sent == 10_000 {
						return
					}
					sent++
					q := drawRequest(rt, d, tokens)
					answer := server.exchange(t, q)
					path, _, _ := strings.Cut(q.path, "?")
					body := q.body
					if slices.ContainsFunc(q.header, func(line string) bool {
						return strings.HasPrefix(line, "Content-Type: ") && !strings.HasPrefix(line, "Content-Type: application/json")
					}) {
						body = "" // of another type, for which there is no schema
					}
					if err := d.check(q.method, path, body, answer); err != nil || answer.Status >= 500 {
						rt.Fatalf("%+v: %d %s: %v", q, answer.Status, answer.Body, err)
					}
				}
			})
			if !testing.Short() && (sent < 10_000 || len(d.seen) < 60) {
				t.Errorf("%d requests were sent, and saw %d of what the document lists", sent, len(d.seen))
			}
		})
	}
}

const fuzzedOrigin = "https://app.example.org"

// fuzzedTokens may do all, much, little and nothing.
func fuzzedTokens(t *testing.T) []string {
	t.Helper()
	all := "profile:write " + optoutapi.ChangesScope
	return []string{
		mint(t, "operator", identity, all, ""), mint(t, "operator", "another", all, ""), mint(t, "operator", "a third", all, "browser"),
		mint(t, "evil", identity, all, ""), mint(t, "operator", identity, "profile:email", ""),
		mintAt(t, "operator", identity, all, "", time.Now().Add(-48*time.Hour)), "x", "",
	}
}

// drawRequest draws an operation, or nearly one, with parameters and a body that
// fit the document or do not.
func drawRequest(t *rapid.T, d *document, tokens []string) request {
	paths, items := d.at("/paths").children()
	at := rapid.IntRange(0, len(paths)-1).Draw(t, "path")
	q := request{path: paths[at], token: rapid.SampledFrom(tokens).Draw(t, "token")}
	methods, operations := items[at].children()
	var operation node
	if i := rapid.IntRange(-1, len(methods)-1).Draw(t, "operation"); i >= 0 {
		q.method, operation = strings.ToUpper(methods[i]), operations[i]
	} else {
		q.method, operation = rapid.SampledFrom([]string{"PUT", "PATCH", "TRACE", "OPTIONS", "DELETE", "POST"}).Draw(t, "method"), operations[0]
	}
	if rapid.IntRange(0, 15).Draw(t, "misspelt") == 0 {
		q.path += rapid.SampledFrom([]string{"/", "x", "/..", ";a=b", "%2e"}).Draw(t, "ending")
	}
	query := url.Values{}
	parameters, _ := operation.child("parameters").value.([]any)
	for i := range parameters {
		p := node{d, "", map[string]any{"it": parameters[i]}}.child("it")
		name, _ := p.child("name").value.(string)
		value := drawParameter(t, name)
		switch place := p.child("in").value; {
		case place == "path":
			q.path = strings.ReplaceAll(q.path, "{"+name+"}", url.PathEscape(value))
		case rapid.IntRange(0, 3).Draw(t, "absent "+name) == 0:
		case place == "query":
			query.Add(name, value)
		default:
			q.header = append(q.header, name+": "+value)
		}
	}
	q.path = strings.ReplaceAll(q.path, "{uid}", "x")
	if rapid.IntRange(0, 7).Draw(t, "more") == 0 {
		query.Add(rapid.SampledFrom([]string{"from", "to", "x", ""}).Draw(t, "name"), rapid.String().Draw(t, "value"))
	}
	if len(query) > 0 {
		q.path += "?" + query.Encode()
	}
	for _, lines := range [][]string{
		{"Origin: " + fuzzedOrigin, "Origin: https://evil.example.org", "Origin: null"},
		{"Accept: text/csv", "Accept: application/json", "Accept: */*", "Accept: ;"},
		{"Content-Type: application/json", "Content-Type: application/json; charset=utf-8", "Content-Type: application/secevent+jwt", "Content-Type: text/plain", "Content-Type: ;"},
	} {
		if rapid.IntRange(0, 2).Draw(t, "header") == 0 {
			q.header = append(q.header, rapid.SampledFrom(lines).Draw(t, "line"))
		}
	}
	if q.method != "GET" && q.method != "HEAD" && q.method != "OPTIONS" {
		q.body = drawBody(t)
	}
	return q
}

// drawParameter draws a value that a parameter may have, or any.
func drawParameter(t *rapid.T, name string) string {
	good := map[string][]string{
		"If-Match":                      {"*", `"0123456789abcdef0123456789abcdef"`, `W/"a", "b"`},
		"If-None-Match":                 {"*", `"0123456789abcdef0123456789abcdef"`, `"`},
		"from":                          {"2026-11-01", "2016-01-01", "9999-12-31"},
		"to":                            {"2026-11-28", "2016-01-02", "0001-01-01"},
		"Last-Event-ID":                 {"0", "1", "9223372036854775807"},
		"uid":                           {"x", "an other", "ä", "a+b", "%", "'=1"},
		"Origin":                        {fuzzedOrigin},
		"Access-Control-Request-Method": {"GET", "POST", "DELETE", "PATCH"},
	}[name]
	if len(good) > 0 && rapid.IntRange(0, 3).Draw(t, "good") > 0 {
		return rapid.SampledFrom(good).Draw(t, name)
	}
	return rapid.StringMatching(`[!-.0-~]{1,300}`).Draw(t, name) // no slash: that is another path
}

// drawBody draws what a server has to read: preferences, nearly preferences, other
// JSON, events, and anything.
func drawBody(t *rapid.T) string {
	switch rapid.IntRange(0, 5).Draw(t, "body") {
	case 0:
		return rapid.String().Draw(t, "anything")
	case 1:
		text, _ := json.Marshal(map[string]any{
			rapid.SampledFrom([]string{"metrics_optout", "Metrics_optout", "x"}).Draw(t, "key"): rapid.SampledFrom([]any{true, false, nil, 1, "true", []any{}}).Draw(t, "value"),
		})
		return string(text)
	case 2:
		claims := eventClaims(fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "jti")), map[string]any{
			eventURI(rapid.SampledFrom([]string{"metrics-opt-out", "metrics-opt-in", "profile-change", "delete-user", "x"}).Draw(t, "event")): noPayload,
		}, jwt.MapClaims{"iat": rapid.SampledFrom([]any{time.Now().Unix(), 0, -1, 1e300, "x", nil}).Draw(t, "iat")})
		text, _ := json.Marshal(claims)
		return string(text)
	case 3:
		return strings.Repeat(rapid.SampledFrom([]string{" ", "[", `{"a":`}).Draw(t, "long"), rapid.IntRange(0, 2*maxBody).Draw(t, "length"))
	default:
		return rapid.SampledFrom([]string{`{"metrics_optout":true}`, `{"metrics_optout":false}`, `{"metrics_optout":null}`}).Draw(t, "preference")
	}
}
