package caddymodule

import (
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// rewriting says whether requests may have been rewritten when they come to a
// gate. Most sites have nothing that does so, and their requests are not to pay
// for it: Caddy keeps the original where it takes as long to find as all that
// the gate does with a request that is not gated.
type rewriting struct{ known atomic.Int32 }

const (
	rewritingUnknown = iota
	rewritingPossible
	rewritingImpossible
)

// isPossible is decided by the first request, which brings the server that it
// came to, with all its handlers.
func (w *rewriting) isPossible(r *http.Request) bool {
	known := w.known.Load()
	return known == rewritingPossible || known == rewritingUnknown && w.learn(r)
}

func (w *rewriting) learn(r *http.Request) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || !mayRewrite(server.Routes) {
		w.known.Store(rewritingImpossible)
		return false
	}
	w.known.Store(rewritingPossible)
	return true
}

// mayRewrite says whether the routes have a handler that may rewrite requests:
// one that is not known to leave them alone.
func mayRewrite(routes caddyhttp.RouteList) bool {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				if mayRewrite(handler.Routes) {
					return true
				}
			case *reverseproxy.Handler:
				if len(handler.HandleResponse) > 0 { // these are routes
					return true
				}
			case caddy.Module:
				if !leavesAlone[handler.CaddyModule().ID] {
					return true
				}
			default:
				return true
			}
		}
	}
	return false
}

// leavesAlone are the handlers that leave a request's method and URL as they
// are, and have no routes inside.
var leavesAlone = map[caddy.ModuleID]bool{
	gateID:                                true,
	"http.handlers.profile_server":        true,
	"http.handlers.authentication":        true,
	"http.handlers.copy_response":         true,
	"http.handlers.copy_response_headers": true,
	"http.handlers.encode":                true,
	"http.handlers.error":                 true,
	"http.handlers.file_server":           true,
	"http.handlers.headers":               true,
	"http.handlers.log_append":            true,
	"http.handlers.map":                   true,
	"http.handlers.metrics":               true,
	"http.handlers.push":                  true,
	"http.handlers.request_body":          true,
	"http.handlers.static_response":       true,
	"http.handlers.templates":             true,
	"http.handlers.timeouts":              true,
	"http.handlers.tracing":               true,
	tripwireID:                            true,
	"http.handlers.vars":                  true,
}

// original returns what a request came with, if a handler in front of the gate
// rewrote it. An error page is no longer what the client asked for, and neither
// is what this gate has decided already: a page that is served in the place of
// a missing one is no beacon.
func (g *Gate) original(r *http.Request) (string, *url.URL) {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.Method == r.Method && original.URL.Path == r.URL.Path && original.URL.RawPath == r.URL.RawPath {
		return "", nil
	}
	if r.Context().Value(caddyhttp.ErrorCtxKey) != nil || caddyhttp.GetVar(r.Context(), decidedVar) == g.rewriting {
		return "", nil
	}
	return original.Method, original.URL
}

// decidedVar is the variable that says which gate decided a request last. What
// it holds tells nobody anything, since a configuration may show variables.
const decidedVar = "metrics_gate.decided"

// rememberDecided has original know that the gate has decided a request.
func (g *Gate) rememberDecided(r *http.Request) {
	if g.rewriting.isPossible(r) {
		caddyhttp.SetVar(r.Context(), decidedVar, g.rewriting)
	}
}
