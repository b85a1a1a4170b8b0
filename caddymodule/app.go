package caddymodule

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(App{}) }

// App knows the gates of one configuration. It needs no configuration of its
// own: the first gate that is provisioned brings it. A register of the process
// would mix the gates of the old and the new configuration during a reload.
type App struct {
	gates []*Gate
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

// Start is there for Caddy; gates start by themselves.
func (*App) Start() error { return nil }

// Stop is there for Caddy; gates end by themselves.
func (*App) Stop() error { return nil }

// Gates returns the gates of the configuration, in the order in which they
// were provisioned. Once the configuration runs, these are all of them.
func (a *App) Gates() []*Gate { return slices.Clone(a.gates) }

// joinSiblings makes a gate known to its configuration's App. Caddy provisions
// the modules of a configuration one after the other.
func joinSiblings(ctx caddy.Context, g *Gate) error {
	app, err := ctx.App(appName)
	if err != nil {
		return fmt.Errorf("loading the app that lists a configuration's gates: %w", err)
	}
	siblings := app.(*App)
	siblings.gates = append(siblings.gates, g)
	return nil
}

// Interface guards
var (
	_ caddy.Module = (*App)(nil)
	_ caddy.App    = (*App)(nil)
)
