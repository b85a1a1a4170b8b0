package caddymodule

import (
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// foreseen is something that handlers in front of a gate may do to its requests.
// Most sites have none that does, and their requests are not to pay for it: Caddy
// keeps what a handler has left for the gate where it takes as long to find as
// all that the gate does with a request that is not gated.
type foreseen struct {
	by    func(caddyhttp.RouteList) bool // whether a handler of the routes may do it
	known atomic.Int32
}

const (
	foreseenUnknown = iota
	foreseenPossible
	foreseenImpossible
)

// isPossible is decided by the first request, which brings the server that it
// came to, with all its handlers.
func (f *foreseen) isPossible(r *http.Request) bool {
	known := f.known.Load()
	return known == foreseenPossible || known == foreseenUnknown && f.learn(r)
}

func (f *foreseen) learn(r *http.Request) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || !f.by(server.Routes) {
		f.known.Store(foreseenImpossible)
		return false
	}
	f.known.Store(foreseenPossible)
	return true
}

// mayRewrite says whether the routes have a handler that may rewrite requests:
// one that is not known to leave them alone.
func mayRewrite(routes caddyhttp.RouteList) bool {
	return hasHandler(routes, func(id caddy.ModuleID) bool { return !leavesAlone[id] })
}

// mayTrace says whether the routes have a handler that may begin a span of its
// request.
func mayTrace(routes caddyhttp.RouteList) bool {
	return hasHandler(routes, func(id caddy.ModuleID) bool { return id == tracingID || !leavesAlone[id] })
}

const tracingID = "http.handlers.tracing"

// hasHandler says whether the routes have a handler, by its module, or one of
// which nobody knows what is inside.
func hasHandler(routes caddyhttp.RouteList, is func(caddy.ModuleID) bool) bool {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				if hasHandler(handler.Routes, is) {
					return true
				}
			case *reverseproxy.Handler:
				if len(handler.HandleResponse) > 0 { // these are routes
					return true
				}
			case caddy.Module:
				if is(handler.CaddyModule().ID) {
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
	tracingID:                             true,
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
