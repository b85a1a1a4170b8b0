package caddymodule

import (
	"context"
	"maps"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// detach returns a copy of a request for handlers that run after the one that r
// was made for has returned. Caddy then goes on to read what belongs to r: its
// vars, which are a plain map, its replacer and its log fields. Two goroutines
// on those would end the process, so the copy has its own.
func detach(ctx context.Context, r *http.Request) *http.Request {
	for _, key := range []any{http.ServerContextKey, http.LocalAddrContextKey} {
		ctx = context.WithValue(ctx, key, r.Context().Value(key))
	}
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	repl := caddy.NewReplacer()
	own := caddyhttp.PrepareRequest(r.Clone(ctx), repl, nil, server)

	if vars, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		maps.Copy(own.Context().Value(caddyhttp.VarsCtxKey).(map[string]any), vars)
	}
	// What earlier handlers have set by name, such as http.auth.user.id. The
	// rest is read from the request and its reply, and the copy has its own.
	if theirs, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(func(name string) (any, bool) {
			for _, live := range []string{"http.request.", "http.response.", "http.vars."} {
				if strings.HasPrefix(name, live) {
					return nil, false
				}
			}
			return theirs.Get(name)
		})
	}
	if original := r.Context().Value(caddyhttp.OriginalRequestCtxKey); original != nil {
		own = own.WithContext(context.WithValue(own.Context(), caddyhttp.OriginalRequestCtxKey, original))
	}
	return own
}
