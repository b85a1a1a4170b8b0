package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// TestWarnings holds what an operator is told at start, and that no secret is.
func TestWarnings(t *testing.T) {
	t.Parallel()
	const (
		literal = "the secret stands in the configuration"
		logged  = "Caddy's access logs keep this header"
		header  = "a header proves somebody only where"
		secret  = "private-word-private-word-private-word"
		bearer  = "profile http://127.0.0.1:1/{uid} {\nauth bearer {file.testdata/keys/shared.secret}\n}\n"
	)
	jwt := func(words string) string {
		return "session jwt {\nsecret {file.testdata/keys/shared.secret}\nissuer id\naudience web\n" + words + "\n}\n" + bearer
	}
	written := func(text string) string {
		file := filepath.Join(t.TempDir(), "text")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	bearerOf := func(words string) string {
		return "profile http://127.0.0.1:1/{uid} {\nauth bearer {file.testdata/keys/shared.secret}\n" + words + "\n}\n"
	}
	user := func(placeholder string) string { return "session user " + placeholder + "\n" + bearer }
	for _, test := range []struct{ options, want string }{
		{jwt("cookie session"), ""},
		{jwt("header Authorization Bearer"), ""},
		{jwt("header cookie"), ""},
		{jwt("header X-Sess"), logged},
		{jwt("cookie session\nheader x-sess"), "request>headers>X-Sess delete"},
		{jwt("header {file." + written("x-named") + "}"), "request>headers>X-Named delete"},
		{jwt("header {file." + written("Authorization") + "} Bearer"), ""},
		{user("{http.auth.user.id}"), ""},
		{user("{http.request.header.X-User}"), header},
		{user("{http.request.tls.client.subject}"), ""},
		{"names {\nbody uid\n}\nprofile http://127.0.0.1:1/{uid} {\nauth bearer " + secret + "\n}", literal},
		{"names {\nbody uid\n}\nprofile http://127.0.0.1:1/v1 {\nauth mint {\nkey " + secret + "\n}\n}", literal},
		{"names {\nbody uid\n}\nprofile http://127.0.0.1:1/v1 {\nauth mint {\nkey {file.testdata/keys/ed25519.key}\n}\n}", ""},
		{"preset countly\nblock_with reject\n" + bearerOf("not_found null"), "countly"},
		{"preset countly\n" + bearerOf("not_found null"), ""},
		{"preset posthog\n" + bearerOf("not_found unknown"), "write not_found null"},
		{"preset posthog\n" + bearerOf(""), "metrics_gate › preset posthog"},
		{"preset posthog\nblock_with reject\n" + bearerOf("not_found null"), ""},
		{"preset segment\nblock_with reject\n" + bearerOf(""), ""},
		{"preset segment", "the accounts that its requests name are not looked up"},
		{"preset plausible", ""}, // names nobody
		{"preset segment\nsession jwt {\nsecret {file.testdata/keys/shared.secret}\nissuer id\naudience web\noptout_claim out\n}", "always unknown"},
	} {
		module := newGate(t, "metrics_gate {\nroute POST /beacon\n"+test.options+"\n}")
		core, logs := observer.New(zap.WarnLevel)
		module.logger = zap.New(core)
		module.warn(adapttest.Context(t))
		var told strings.Builder
		for _, entry := range logs.All() {
			told.WriteString(entry.Message + fmt.Sprint(entry.ContextMap()))
		}
		if said := told.String(); !strings.Contains(said, test.want) || (said == "") != (test.want == "") || strings.Contains(said, secret) {
			t.Errorf("%s\n: %s", test.options, said)
		}
	}
}

// TestKeysOfFailingSessions: who is told that signatures do not hold is told what is
// verified with, and whether the file has been written since; and never a secret.
func TestKeysOfFailingSessions(t *testing.T) {
	t.Parallel()
	const first, second = "a-first-secret-of-at-least-32-bytes", "a-second-secret-of-at-least-32-bytes"
	file := filepath.Join(t.TempDir(), "secret")
	write := func(secret string) {
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first)
	gateWith := func(key string) *Gate {
		return newGate(t, "metrics_gate {\nroute POST /beacon\nsession jwt {\ncookie session\n"+key+"\n}\nprofile http://127.0.0.1:1/{uid} {\nauth bearer {file.testdata/keys/shared.secret}\n}\n}")
	}
	said := func(module *Gate) string {
		_, _, details := module.explain(gate.Warning{Trouble: gate.SessionsFail, Outcome: session.BadSignature, Requests: 150})
		text := fmt.Sprint(details)
		if strings.Contains(text, first) || strings.Contains(text, second) {
			t.Errorf("a secret is told: %s", text)
		}
		return text
	}
	fromFile, literal := gateWith("secret {file."+file+"}"), gateWith("secret "+first)
	begins := "secret {file." + file + "}, loaded as " + token.Fingerprint([]byte(first))
	for _, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, begins + ", which is what stands there now"},
		{func() { write(second) }, begins + "; what stands there now is " + token.Fingerprint([]byte(second)) + " (last written "},
		{func() { _ = os.Remove(file) }, begins + ", which cannot be read now"},
	} {
		step.change()
		if got := said(fromFile); !strings.Contains(got, step.want) {
			t.Errorf("it says %s, want %s", got, step.want)
		}
	}
	write(first)
	if err := os.Chtimes(file, time.Time{}, time.Date(2026, 11, 28, 12, 46, 17, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	for _, module := range []*Gate{fromFile, gateWith("secret {file." + file + "}")} {
		if got, want := said(module), ", which is what stands there now (last written 2026-11-28 12:46:17 UTC)"; !strings.Contains(got, want) {
			t.Errorf("it says %s, want %s", got, want)
		}
	}
	if got := said(literal); !strings.Contains(got, "secret of the configuration itself, loaded as "+token.Fingerprint([]byte(first))) {
		t.Errorf("of a literal it says %s", got)
	}
	if got := said(gateWith("jwks http://127.0.0.1:1/keys")); strings.Contains(got, "loaded as") {
		t.Errorf("of a key set that is fetched it says %s", got)
	}
}

// TestHarm: a warning says whose metrics are taken or lost, where the rules make that
// certain, and nothing of a gate that stops nothing.
func TestHarm(t *testing.T) {
	t.Parallel()
	const measured, lost = "whoever of these people opted out in the account is being measured; ", "none of these people is measured, and their metrics are lost; "
	nobody, onRoute, silent := gate.Warning{Trouble: gate.NobodyRecognised}, gate.Warning{Trouble: gate.NobodyRecognisedOnRoute}, gate.Warning{Trouble: gate.RouteSilent}
	const stays = "people who opted out stay blocked, and most metrics arrive; lost are those of people who allowed in the account while their browser says no; "
	expired := gate.Warning{Trouble: gate.EverybodyExpired, Outcome: session.Expired}
	fail, long := gate.Warning{Trouble: gate.SessionsFail, Outcome: session.BadSignature}, gate.Warning{Trouble: gate.SessionsFail, Outcome: session.TooLong}
	for _, c := range []struct {
		mode, options string
		warning       gate.Warning
		want          string
	}{
		{"", "", nobody, measured},
		{"", "on_unset block", nobody, lost},
		{"", "", onRoute, measured},
		{"", "", silent, ""},
		{"", "", fail, lost},
		{"", "on_unknown collect", fail, measured},
		{"", "on_unknown collect", long, lost}, // which whoever sends it can cause
		{"", "", expired, stays},               // the account is named, which blocks and never allows
		{"", "on_unset block", expired, lost},
		{"shadow", "", expired, ""},
		{"", "session user {http.auth.user.id}", expired, ""},
		{"shadow", "", nobody, ""},
		{"shadow", "", fail, ""},
		{"", "session user {http.auth.user.id}", fail, ""}, // which may prove the same people
	} {
		module := newGate(t, "metrics_gate "+c.mode+" {\nroute POST /beacon\nsession jwt {\ncookie session\nsecret {file.testdata/keys/shared.secret}\n}\n"+
			c.options+"\nprofile http://127.0.0.1:1/{uid} {\nauth bearer {file.testdata/keys/shared.secret}\n}\n}")
		_, advice, _ := module.explain(c.warning)
		for _, words := range []string{measured, lost, stays} {
			if strings.HasPrefix(advice, words) != (words == c.want) {
				t.Errorf("%s %s, %+v: %s, want %s", c.mode, c.options, c.warning, advice, c.want)
			}
		}
	}
}

// TestIssuersFaultComesFirst: where no clock may be at fault, one is sent to what shows
// that before any clock.
func TestIssuersFaultComesFirst(t *testing.T) {
	t.Parallel()
	module := newGate(t, "metrics_gate {\nroute POST /beacon\nsession jwt {\ncookie session\nsecret {file.testdata/keys/shared.secret}\n}\nprofile http://127.0.0.1:1/{uid} {\nauth bearer {file.testdata/keys/shared.secret}\n}\n}")
	for times, warning := range map[string]gate.Warning{
		"exp is before iat": {Trouble: gate.EverybodyExpired, Outcome: session.Expired},
		"nbf is after exp":  {Trouble: gate.SessionsFail, Outcome: session.NotYetValid},
	} {
		_, advice, _ := module.explain(warning)
		if before, after, found := strings.Cut(advice, times); !found || strings.Contains(before, "clock") || !strings.Contains(after, "compare the clocks") {
			t.Errorf("%+v: %s", warning, advice)
		}
	}
}

// TestSilenceThatIsExplained: a route by which nothing can come is told of once.
func TestSilenceThatIsExplained(t *testing.T) {
	t.Parallel()
	module := newGate(t, "metrics_gate {\nroute POST /beacon\n}")
	for _, c := range []struct {
		unreachable []Unreachable
		want        int
	}{{nil, 1}, {[]Unreachable{{Gate: module.label(), Requests: []string{"POST /beacon"}}}, 0}} {
		core, logs := observer.New(zap.InfoLevel)
		module.logger, module.layout = zap.New(core), &layout{unreachable: c.unreachable}
		module.logWarning(gate.Warning{Trouble: gate.RouteSilent, Requests: 150})
		if logs.Len() != c.want {
			t.Errorf("%d lines, want %d", logs.Len(), c.want)
		}
	}
}
