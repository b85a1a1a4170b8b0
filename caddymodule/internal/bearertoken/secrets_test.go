package bearertoken

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/token"
)

// TestOnlyNewSecretsAreTold goes through the steps by which a key is exchanged:
// each configuration is loaded before the one that it replaces ends.
func TestOnlyNewSecretsAreTold(t *testing.T) {
	t.Parallel()
	first, second := []byte("the first key of "+t.Name()), []byte("the second key of "+t.Name())
	var running pool.Leases
	for _, step := range []struct {
		what    string
		secrets [][]byte
		told    []string
	}{
		{"a start", [][]byte{first, nil}, []string{token.Fingerprint(first)}},
		{"nothing changed", [][]byte{first}, nil},
		{"the second beside the first", [][]byte{first, second}, []string{token.Fingerprint(second)}},
		{"without the first", [][]byte{second}, nil},
		{"the first once more", [][]byte{second, first}, []string{token.Fingerprint(first)}},
	} {
		var loading pool.Leases
		if told := takeSecrets(&loading, "here", step.secrets...); !slices.Equal(told, step.told) {
			t.Errorf("%s: %v are told, want %v", step.what, told, step.told)
		}
		if err := running.Release(); err != nil {
			t.Fatal(err)
		}
		running = loading
	}
	var elsewhere pool.Leases
	if told := takeSecrets(&elsewhere, "there", second); len(told) != 1 {
		t.Errorf("in another place: %v are told", told)
	}
}

// TestDemoKeys holds that the demonstration's keys are known as such where more
// than this machine could come, and that neither is ever repeated.
func TestDemoKeys(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gate.secret", "session.secret"} {
		text, err := os.ReadFile("../../../examples/keys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			listen string
			secret string
			warned bool
		}{
			{":443", string(text), true},
			{"tcp/0.0.0.0:8080", string(text), true},
			{"[2001:db8::1]:8080", string(text), true},
			{"127.0.0.1:8080", string(text), false},
			{"[::1]:8080", string(text), false},
			{"localhost:8080", string(text), false},
			{"unix//run/site.sock", string(text), false},
			{":443", "a secret of one's own", false},
		} {
			core, logs := observer.New(zap.WarnLevel)
			server := &caddyhttp.Server{Listen: []string{"127.0.0.1:80", test.listen}}
			ctx := caddy.Context{Context: context.WithValue(t.Context(), caddyhttp.ServerCtxKey, server)}
			WarnOfDemoKey(ctx, zap.New(core), "here", test.secret)
			if (logs.Len() == 1) != test.warned || logs.Len() == 1 && strings.Contains(logs.All()[0].Message, demoKey) {
				t.Errorf("%s at %s: %v", name, test.listen, logs.All())
			}
		}
	}
}
