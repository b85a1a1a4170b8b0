package placeholder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
)

func TestNoSecretInErrors(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-{env.METRICS_GATE_TEST_NOT_SET}"
	if _, err := placeholder.Resolve(secret); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}

// TestResolve replaces what is known when a configuration is loaded, and not a
// byte besides.
func TestResolve(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(file, []byte("held {env.PATH}\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"":                                   "",
		"{}":                                 "{}",
		`{"a":{"b":1}}`:                      `{"a":{"b":1}}`,
		`{"features":{},"nimbusUserId":""}`:  `{"features":{},"nimbusUserId":""}`,
		`{"env.a":{"file.b":1}}`:             `{"env.a":{"file.b":1}}`,
		"^[0-9a-f]{32}$":                     "^[0-9a-f]{32}$",
		"^[0-9a-f]{8,32}\\{env$":             "^[0-9a-f]{8,32}\\{env$",
		"https://p.example.org/{uid}":        "https://p.example.org/{uid}",
		"{http.auth.user.id}":                "{http.auth.user.id}",
		"{env.}{env}{file.}{systems.a}{env.": "{env.}{env}{file.}{systems.a}{env.",
		" {system.hostname}\t":               " " + host + "\t",
		"{{file." + file + "}}":              "{held {env.PATH}}", // what it holds is not resolved again
		`{"a":"{file.` + file + `}","b":{}}`: `{"a":"held {env.PATH}","b":{}}`,
	} {
		if got, err := placeholder.Resolve(value); got != want || err != nil {
			t.Errorf("%q became %q, %v", value, got, err)
		}
	}
	for _, value := range []string{"{system.no_such}", "a {file." + file + ".missing} b", "{env.METRICS_GATE_TEST_NOT_SET}"} {
		if got, err := placeholder.Resolve(value); err == nil {
			t.Errorf("%q became %q", value, got)
		}
	}
}
