package profileserver

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

func TestDeleteAnAccount(t *testing.T) {
	t.Parallel()
	var got notes
	server := start(t, database(t), operators, got.observe)
	raw := mint(t, "operator", "op", optoutapi.WriteScope, "")
	for _, uid := range []string{identity, "a/b", "50%", "ä ö", "%2F", "..", "a?b#c", strings.Repeat("u", 255)} {
		gate := mint(t, "metrics-gate", uid, optoutapi.WriteScope, "")
		read := func() response { return server.send(t, request{method: "GET", path: optOutPath, token: gate}) }
		write := func(header ...string) response {
			return server.send(t, request{method: "POST", path: optOutPath, token: gate, header: header, body: `{"metrics_optout":true}`})
		}
		remove := func() response {
			return server.send(t, request{method: "DELETE", path: accountPath + url.PathEscape(uid), token: raw})
		}
		before := read().Header.Get("ETag")
		write().want(t, 200, `{}`)
		held := read().Header.Get("ETag")
		got.take()

		remove().want(t, 200, `{}`)
		remove().want(t, 200, `{}`)
		if diff := cmp.Diff([]string{"change deleted admin"}, got.take()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", uid, diff)
		}
		gone := read()
		gone.want(t, 200, `{"metrics_optout":null}`)
		for _, name := range []string{"Last-Modified", "Metrics-Optout-Source"} {
			if value := gone.Header.Get(name); value != "" {
				t.Errorf("%q has %s %s left", uid, name, value)
			}
		}
		// A write-back that was under way does not bring it back.
		write("If-Match: "+before).want(t, 412, body412)
		write("If-Match: "+held).want(t, 412, body412)
		read().want(t, 200, `{"metrics_optout":null}`)
	}
}

func TestAccountsThatCannotBe(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), operators)
	const refused = `{"code":400,"errno":101,"error":"Bad Request","message":"Invalid request parameter","validation":{"source":"params","keys":["uid"]}}`
	for _, uid := range []string{"", strings.Repeat("u", 256), "a%0Ab", "%ff", "%EF%BF%BD"} {
		server.send(t, request{method: "DELETE", path: accountPath + uid, token: mint(t, "operator", "op", optoutapi.WriteScope, "")}).want(t, 400, refused)
	}
}

// TestWhoMayOperate: what concerns other accounts is for operators, and for
// gates the feed alone.
func TestWhoMayOperate(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), operators)
	for _, test := range []struct {
		client, scope          string
		remove, daily, changes string // refusals; empty where allowed
	}{
		{"operator", optoutapi.WriteScope, "", "", ""},
		{"operator", "profile:write", "", "", ""},
		{"operator", "profile", body403Scope, "", ""},
		{"operator", optoutapi.ReadScope, body403Scope, "", ""},
		{"operator", optoutapi.ChangesScope, body403Scope, body403Scope, ""},
		{"operator", "", body403Scope, body403Scope, body403Scope},
		{"metrics-gate", optoutapi.ChangesScope, body403Operator, body403Operator, ""},
		{"metrics-gate", "profile:write", body403Operator, body403Operator, body403Scope},
		{"metrics-gate", "profile " + optoutapi.WriteScope, body403Operator, body403Operator, body403Scope},
		{"evil", optoutapi.ChangesScope + " profile:write", body403Operator, body403Operator, body403Client},
		{"", optoutapi.ChangesScope + " profile:write", body403Operator, body403Operator, body403Client},
	} {
		raw := mint(t, test.client, test.client+"'s", test.scope, "")
		for path, want := range map[string]string{accountPath + "x": test.remove, dailyPath: test.daily, changesPath: test.changes} {
			method := "HEAD" // the feed has no end
			if path == accountPath+"x" {
				method = "DELETE"
			} else if want != "" {
				method = "GET"
			}
			answer := server.send(t, request{method: method, path: path, token: raw})
			if want == "" && answer.Status == 200 {
				continue
			}
			if answer.Status != 403 || answer.Body != want {
				t.Errorf("%s with %q at %s: %d %s", test.client, test.scope, path, answer.Status, answer.Body)
			}
		}
	}
	for _, path := range []string{dailyPath, changesPath} {
		server.send(t, request{method: "GET", path: path}).want(t, 401, body401NoToken)
	}
	server.send(t, request{method: "DELETE", path: accountPath + "x", token: payload}).want(t, 401, body401BadToken)
}

// TestOperatorsWrite: an operator uses the API as a trusted client does, and is
// told apart by the source of what it writes, whatever its token says.
func TestOperatorsWrite(t *testing.T) {
	t.Parallel()
	var got notes
	server := start(t, database(t), operators, got.observe)
	for _, source := range []string{"", "user", "browser"} {
		raw := mint(t, "operator", "u-"+source, optoutapi.WriteScope, source)
		server.send(t, request{method: "POST", path: optOutPath, token: raw, body: `{"metrics_optout":true}`}).want(t, 200, `{}`)
		answer := server.send(t, request{method: "GET", path: optOutPath, token: raw})
		answer.want(t, 200, `{"metrics_optout":true}`)
		if from := answer.Header.Get(optoutapi.SourceHeader); from != "admin" {
			t.Errorf("source %q", from)
		}
		if diff := cmp.Diff([]string{"change true admin"}, got.take()); diff != "" {
			t.Errorf("observer (-want +got):\n%s", diff)
		}
	}
}

// TestASlashTooManyDeletesNobody: an operator who mistypes must not be told
// that the account is gone.
func TestASlashTooManyDeletesNobody(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), func(c *Config) { c.OperatorClients = []string{"operator"} })
	for _, path := range []string{accountPath + "x/", accountPath + "x/y", accountPath + "/x"} {
		server.send(t, request{method: "DELETE", path: path, token: mint(t, "operator", "op", optoutapi.WriteScope, "")}).want(t, 404, body404)
	}
	server.send(t, request{method: "DELETE", path: accountPath + "x%2Fy", token: mint(t, "operator", "op", optoutapi.WriteScope, "")}).want(t, 200, `{}`)
}
