package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() { caddy.RegisterModule(MatchOptOut{}) }

// MatchOptOut matches requests that the gate decided to block, whatever the
// reason: mostly pages of people who opted out, for directives that are
// ordered after metrics_gate or stand behind it in a route. It matches
// nothing where no gate has run before it, and nothing in shadow mode.
type MatchOptOut struct{}

// optOutVar is the variable by which the gate tells the matcher.
const optOutVar = "metrics_gate.optout"

// CaddyModule returns the Caddy module information.
func (MatchOptOut) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.metrics_optout",
		New: func() caddy.Module { return new(MatchOptOut) },
	}
}

// Match reports whether the gate decided to block the request.
func (m MatchOptOut) Match(r *http.Request) bool {
	return caddyhttp.GetVar(r.Context(), optOutVar) == true
}

// MatchWithError is Match; it has no error to report.
func (m MatchOptOut) MatchWithError(r *http.Request) (bool, error) { return m.Match(r), nil }

// UnmarshalCaddyfile sets up the matcher, which takes no arguments:
//
//	@optout metrics_optout
func (m *MatchOptOut) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.Errf("metrics_optout takes no argument, but %q stands there; leave it out", d.Val())
		}
		if d.NextBlock(0) {
			return d.Errf("metrics_optout takes no block")
		}
	}
	return nil
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchOptOut)(nil)
	_ caddyhttp.RequestMatcher          = (*MatchOptOut)(nil) //nolint:staticcheck // Caddy still asks for it
	_ caddyfile.Unmarshaler             = (*MatchOptOut)(nil)
)
