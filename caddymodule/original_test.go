package caddymodule

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"
)

// stranger is a handler of somebody else's: nobody knows what it does.
type stranger struct{ caddyhttp.Handler }

func (stranger) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return nil }

func TestMayRewriteOrTrace(t *testing.T) {
	t.Parallel()
	route := func(handlers ...caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
		return caddyhttp.RouteList{{Handlers: handlers}}
	}
	for _, c := range []struct {
		name            string
		routes          caddyhttp.RouteList
		rewrite, traces bool
	}{
		{"nothing", nil, false, false},
		{"a gate and a proxy", route(new(encode.Encode), new(Gate), new(reverseproxy.Handler)), false, false},
		{"the same inside", route(&caddyhttp.Subroute{Routes: route(new(Gate), new(reverseproxy.Handler))}), false, false},
		{"rewrite", route(new(rewrite.Rewrite), new(Gate)), true, true},
		{"rewrite inside", route(new(encode.Encode), &caddyhttp.Subroute{Routes: route(new(rewrite.Rewrite))}), true, true},
		{"routes of a proxy", route(&reverseproxy.Handler{HandleResponse: []caddyhttp.ResponseHandler{{}}}), true, true},
		{"a named route", route(new(caddyhttp.Invoke)), true, true},
		{"a stranger", route(stranger{}), true, true},
		{"tracing", route(new(tracing.Tracing), new(Gate)), false, true},
	} {
		if got := mayRewrite(c.routes); got != c.rewrite {
			t.Errorf("%s may rewrite: %v", c.name, got)
		}
		if got := mayTrace(c.routes); got != c.traces {
			t.Errorf("%s may trace: %v", c.name, got)
		}
	}
}

// Every name on the list is a handler's, so that none stays when Caddy renames it.
func TestHandlersThatLeaveAloneExist(t *testing.T) {
	t.Parallel()
	for id := range leavesAlone {
		if _, err := caddy.GetModule(string(id)); err != nil && id != "http.handlers.profile_server" { // which is not in this test
			t.Error(err)
		}
	}
}
