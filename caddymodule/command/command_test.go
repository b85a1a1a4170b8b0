package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/token"
)

func run(cmd *cobra.Command, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

// TestUnknownCommand: a script with a typing mistake in it must fail.
func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	caddy := func(args ...string) (string, error) {
		group := &cobra.Command{Use: "metrics-gate <command>"}
		addCommands(group)
		root := &cobra.Command{Use: "caddy"}
		root.AddCommand(group)
		return run(root, append([]string{"metrics-gate"}, args...)...)
	}
	const all = "; the commands are backup, check, daily, explain, firefox-responder, migrate, preferences, presets, status, survey, token, trace"
	for args, want := range map[string]string{
		"stauts":                       `caddy metrics-gate: unknown command "stauts" (did you mean status?)` + all,
		"chekc http://x":               `caddy metrics-gate: unknown command "chekc" (did you mean check?)` + all,
		"preferences stauts":           `caddy metrics-gate preferences: unknown command "stauts"; the commands are export, forget, import, move, show`,
		"preferences inport":           `caddy metrics-gate preferences: unknown command "inport" (did you mean import?); the commands are export, forget, import, move, show`,
		"preferences exprot --store x": `caddy metrics-gate preferences: unknown command "exprot" (did you mean export?); the commands are export, forget, import, move, show`,
		"preferences export x":         `unknown command "x" for "caddy metrics-gate preferences export"`,
		"check http://x --stauts":      "unknown flag: --stauts",
		"check":                        `the site's address is missing; write, for example: caddy metrics-gate check https://app.example.org --route "POST /api/beacon"`,
		"check a b":                    `"b" is one argument too many, after the site's address; write, for example: caddy metrics-gate check https://app.example.org --route "POST /api/beacon"`,
		"trace":                        `the address to send the request to is missing; write, for example: caddy metrics-gate trace https://app.example.org/api/beacon -X POST --data '{}'`,
		"survey":                       "the file to read is missing; write, for example: caddy metrics-gate survey /var/log/nginx/access.log",
		"preferences show --store x":   "the account's uid is missing; write, for example: caddy metrics-gate preferences show --store /var/lib/metrics-gate/profile.db 0123456789abcdef0123456789abcdef",
		"preferences forget --store x": "the account's uid is missing; write, for example: caddy metrics-gate preferences forget --store /var/lib/metrics-gate/profile.db 0123456789abcdef0123456789abcdef",
		"--stauts":                     "unknown flag: --stauts",
	} {
		if out, err := caddy(strings.Fields(args)...); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s\n%s", args, err, want, out)
		}
	}
	for args, want := range map[string]string{"": "firefox-responder", "preferences": "import"} {
		if out, err := caddy(strings.Fields(args)...); err != nil || !strings.Contains(out, "Available Commands:") || !strings.Contains(out, want) {
			t.Errorf("%q: error %v, want its help\n%s", args, err, out)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args string
		want []string
	}{
		{"--session verified --preference true", []string{"decision:   block\n", "reason:     preference\n", "| verified | `true` | any | block | `preference` |  |"}},
		{"--session verified --preference null --signal opted_out", []string{"decision:   block\n", "reason:     signal\n", "write back: yes\n"}},
		{"--session verified --preference null --signal unrecorded", []string{"decision:   block\n", "write back: no\n"}},
		{"--session none --signal opted-out", []string{"decision:   block\n", "reason:     signal\n"}},
		{"--session none --on-unset block", []string{"decision:   block\n", "reason:     default\n", "by `on_unset`"}},
		{"--session none --named null,true", []string{"decision:   block\n", "reason:     preference\n", "named account 2 (true): block, preference\n"}},
		{"--session verified --preference false --also null,true", []string{"decision:   block\n", "reason:     preference\n", "proven account 2 (true): block, preference\n"}},
		{"--session verified --preference null --also null --signal opted_out", []string{"decision:   block\n", "reason:     signal\n", "write back: no\n"}},
		{"--session verified --preference false --also hidden --on-unknown collect", []string{"decision:   block\n", "doubt:      the request may have caused it"}},
		{"--session unverifiable --on-unknown collect", []string{"decision:   collect\n", "doubt:      on our side, so on_unknown decides\n"}},
		{"--session none --named unknown --on-unknown collect", []string{"decision:   collect\n", "named account 1 (unknown): collect, unknown\n"}},
	} {
		out, err := run(explainCommand(), strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
		}
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is missing in\n%s", test.args, want, out)
			}
		}
	}
	out, err := run(explainCommand(), "--session", "none", "--named", "unknown", "--on-unknown", "collect", "--json")
	want := `{"decision":"collect","reason":"unknown","write_back":false,"by_name":false,"doubt":"ours",
		"row":{"session":"none, or expired","preference":"–","signal":"otherwise","decision":"by on_unset","reason":"default","write_back":false},
		"then":["named account 1 (unknown): collect, unknown"]}`
	var got, wanted any
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil || !cmp.Equal(got, wanted) {
		t.Errorf("--json: error %v\n%s", err, cmp.Diff(wanted, got))
	}
	for args, want := range map[string]string{
		"--session maybe":                     "--session: \"maybe\" is not one of verified",
		"--preference yes":                    "--preference: \"yes\" is not one of null (no choice), false (allows), true (opted out)",
		"verified true":                       "write, for example: caddy metrics-gate explain --session verified --preference true",
		"--signal gpc":                        "--signal: \"gpc\" is not one of none",
		"--on-unknown drop":                   "--on-unknown: \"drop\" is not one of block",
		"--on-unset drop":                     "--on-unset: \"drop\" is not one of collect",
		"--session none --named true,perhaps": "--named: \"perhaps\" is not one of null",
	} {
		if _, err := run(explainCommand(), strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	key := strings.Repeat("k", 32)
	if err := os.WriteFile(secret, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(tokenCommand(), "--uid", "ann", "--key", secret, "--issuer", "id", "--audience", "web",
		"--client-id", "demo", "--scope", "profile:write", "--lifetime", "10m")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := token.NewVerifier(token.Config{Secret: []byte(key), Issuers: []string{"id"}, Audiences: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := verifier.Verify(strings.TrimSpace(out), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"sub": "ann", "client_id": "demo", "scope": "profile:write"} {
		if got, _ := claims.String(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if life := time.Until(claims.Expires); life < 9*time.Minute || life > 10*time.Minute {
		t.Errorf("good for %v, want 10m", life)
	}
	for _, args := range [][]string{
		{"--uid", "ann", "--key", secret + ".lost"},
		{"--uid", "ann"},
		{"--key", secret},
		{"--uid", "ann", "--key", "../testdata/keys/short.secret"},
		{"--uid", "ann", "--key", "../testdata/keys/ed25519.pub"},
	} {
		if out, err := run(tokenCommand(), args...); err == nil {
			t.Errorf("%q: no error, but\n%s", args, out)
		} else if strings.Contains(err.Error(), key) {
			t.Errorf("%q: the error holds the key: %v", args, err)
		}
	}
}
