package caddymodule

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholdertest"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
)

// TestPlaceholdersInEveryOption goes through all texts of the configuration; a
// new one that no placeholder reaches fails it.
func TestPlaceholdersInEveryOption(t *testing.T) {
	t.Parallel()
	valid := func() *Gate {
		names := func() *session.NamesConfig { return &session.NamesConfig{Body: []string{"uid"}} }
		return &Gate{OnUnset: "collect", Names: names(), Routes: []gate.Route{{
			Methods: []string{"POST"}, Path: "/beacon", Answer: &gate.Answer{Status: 200}, Names: names(),
		}}}
	}
	placeholdertest.Run(t, valid, func(module *Gate) (*Gate, error) {
		err := module.Provision(adapttest.Context(t))
		t.Cleanup(func() { _ = module.Cleanup() }) // what was refused is released as well
		return module.options, err
	})
}

// TestResolvedNamesCount recognises an account by a cookie, and another by the
// field of a body, whose names stand in files.
func TestResolvedNamesCount(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, text := range map[string]string{"cookie": "session\n", "field": "account\n", "signal": "opt\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	module := newGate(t, `metrics_gate {
		route POST /beacon
		session jwt {
			cookie {file.`+folder+`/cookie}
			secret {file.testdata/keys/shared.secret}
			issuer id
			audience web
		}
		names {
			body {file.`+folder+`/field}
		}
		profile `+profiles(t).URL+`/{uid} {
			auth bearer {file.testdata/keys/shared.secret}
			timeout 5s
		}
		signal {
			cookie {file.`+folder+`/signal}-out ^[0-9]{2}$
		}
	}`)
	for _, test := range []struct{ cookie, body string }{
		{sessionOf(t, optedOutUID), ""},
		{"", `{"account":"` + optedOutUID + `"}`},
		{"opt-out=10", ""},
	} {
		app := new(upstream)
		r, w := request("POST", "/beacon", test.body, map[string]string{"Cookie": test.cookie})
		if err := module.ServeHTTP(w, r, app); err != nil {
			t.Fatal(err)
		}
		if app.requests.Load() > 0 {
			t.Errorf("%+v reaches the application", test)
		}
	}
}
