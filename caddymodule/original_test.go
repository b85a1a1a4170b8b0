package caddymodule

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// stranger is a handler of somebody else's: nobody knows what it does.
type stranger struct{ caddyhttp.Handler }

func (stranger) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return nil }

func TestMayRewrite(t *testing.T) {
	t.Parallel()
	route := func(handlers ...caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
		return caddyhttp.RouteList{{Handlers: handlers}}
	}
	for _, c := range []struct {
		name   string
		routes caddyhttp.RouteList
		want   bool
	}{
		{"nothing", nil, false},
		{"a gate and a proxy", route(new(encode.Encode), new(Gate), new(reverseproxy.Handler)), false},
		{"the same inside", route(&caddyhttp.Subroute{Routes: route(new(Gate), new(reverseproxy.Handler))}), false},
		{"rewrite", route(new(rewrite.Rewrite), new(Gate)), true},
		{"rewrite inside", route(new(encode.Encode), &caddyhttp.Subroute{Routes: route(new(rewrite.Rewrite))}), true},
		{"routes of a proxy", route(&reverseproxy.Handler{HandleResponse: []caddyhttp.ResponseHandler{{}}}), true},
		{"a named route", route(new(caddyhttp.Invoke)), true},
		{"a stranger", route(stranger{}), true},
	} {
		if got := mayRewrite(c.routes); got != c.want {
			t.Errorf("%s: %v", c.name, got)
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
