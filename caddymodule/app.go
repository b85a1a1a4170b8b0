package caddymodule

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(App{}) }

// App knows the gates of one configuration. It needs no configuration of its
// own: the first gate that is provisioned brings it. A register of the process
// would mix the gates of the old and the new configuration during a reload.
type App struct {
	gates     []*Gate
	tripwires []*Tripwire
}

// appName is the App's module id.
const appName = "metrics_gate"

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// Start refuses what only a configuration as a whole can show to be wrong.
// Gates start by themselves.
func (a *App) Start() error {
	problems := make([]error, len(a.tripwires))
	for i, tripwire := range a.tripwires {
		problems[i] = tripwire.checkGates(a.gates)
	}
	return errors.Join(problems...)
}

// Stop is there for Caddy; gates end by themselves.
func (*App) Stop() error { return nil }

// Gates returns the gates of the configuration, in the order in which they
// were provisioned. Once the configuration runs, these are all of them.
func (a *App) Gates() []*Gate { return slices.Clone(a.gates) }

// joinSiblings makes a gate known to its configuration's App. Caddy provisions
// the modules of a configuration one after the other.
func joinSiblings(ctx caddy.Context, g *Gate) error {
	siblings, err := appOf(ctx)
	if err != nil {
		return err
	}
	siblings.gates = append(siblings.gates, g)
	return nil
}

// appOf returns the App of the configuration.
func appOf(ctx caddy.Context) (*App, error) {
	app, err := ctx.App(appName)
	if err != nil {
		return nil, fmt.Errorf("loading the app that lists a configuration's gates: %w", err)
	}
	return app.(*App), nil
}

// Interface guards
var (
	_ caddy.Module = (*App)(nil)
	_ caddy.App    = (*App)(nil)
)
