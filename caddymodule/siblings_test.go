package caddymodule

import (
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
	"github.com/metricsgate/metricsgate/gate"
)

// TestAppListsTheGatesOfItsConfiguration provisions two configurations, as a
// reload does: each knows its own gates and none of the other's, and a gate
// that is refused is not among them.
func TestAppListsTheGatesOfItsConfiguration(t *testing.T) {
	t.Parallel()
	gatesOf := func(ctx caddy.Context) []*Gate {
		app, err := siblings.Of(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return siblings.All[*Gate](app)
	}
	provision := func(ctx caddy.Context, preset string) *Gate {
		module := &Gate{Presets: []gate.UsedPreset{{Name: preset}}, OnUnset: "collect"}
		if err := module.Provision(ctx); (err == nil) != (preset == "fxa") {
			t.Fatalf("preset %s: error %v", preset, err)
		}
		t.Cleanup(func() {
			if err := module.Cleanup(); err != nil {
				t.Error(err)
			}
		})
		return module
	}
	running, loading := adapttest.Context(t), adapttest.Context(t)
	first, second := provision(running, "fxa"), provision(running, "fxa")
	third := provision(loading, "fxa")
	provision(loading, "unknown")
	if got := gatesOf(running); len(got) != 2 || got[0] != first || got[1] != second {
		t.Errorf("the running configuration lists %d gates", len(got))
	}
	if got := gatesOf(loading); len(got) != 1 || got[0] != third {
		t.Errorf("the new configuration lists %d gates", len(got))
	}
	if got := gatesOf(adapttest.Context(t)); len(got) != 0 {
		t.Errorf("a configuration without a gate lists %d", len(got))
	}
}
