// Package siblings has the app module that knows which of this module's handlers
// a configuration holds. It knows nothing of them: whoever looks for siblings
// asks for those of a type. A register of the process would mix the handlers of
// the old and the new configuration during a reload.
package siblings

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(App{}) }

// App knows what one configuration holds of Metrics Gate: its gates, tripwires
// and profile servers. It needs no configuration of its own: the first of them
// that is provisioned brings it.
type App struct{ members []any }

// Name is the App's module id.
const Name = "metrics_gate"

// Checker is a member that can be found wrong only beside the others.
type Checker interface {
	// CheckSiblings is asked when the configuration is complete.
	CheckSiblings(a *App) error
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Name,
		New: func() caddy.Module { return new(App) },
	}
}

// Start refuses what only a configuration as a whole can show to be wrong. The
// members start by themselves.
func (a *App) Start() error {
	checkers := All[Checker](a)
	problems := make([]error, len(checkers))
	for i, member := range checkers {
		problems[i] = member.CheckSiblings(a)
	}
	return errors.Join(problems...)
}

// Stop is there for Caddy; members end by themselves.
func (*App) Stop() error { return nil }

// Join makes a module known to the others of its configuration. Caddy provisions
// the modules of a configuration one after the other.
func (a *App) Join(member any) { a.members = append(a.members, member) }

// Of returns the App of the configuration.
func Of(ctx caddy.Context) (*App, error) {
	app, err := ctx.App(Name)
	if err != nil {
		return nil, fmt.Errorf("loading the app that lists a configuration's gates: %w", err)
	}
	return app.(*App), nil
}

// Running returns the App of the configuration that is running, and an empty one
// where that holds nothing of Metrics Gate.
func Running() *App {
	if app, err := caddy.ActiveContext().AppIfConfigured(Name); err == nil {
		return app.(*App)
	}
	return new(App)
}

// All returns the members of a type, in the order in which they were provisioned.
// Once the configuration runs, these are all of them.
func All[T any](a *App) (all []T) {
	for _, member := range a.members {
		if one, ok := member.(T); ok {
			all = append(all, one)
		}
	}
	return all
}

// Interface guards
var (
	_ caddy.Module = (*App)(nil)
	_ caddy.App    = (*App)(nil)
)
