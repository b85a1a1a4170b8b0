package caddymodule

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/caddymodule/internal/bearertoken"
)

// showsMetrics says whether a site of this configuration that others than this
// machine can reach serves Caddy's metrics.
func showsMetrics(ctx caddy.Context) bool {
	for _, module := range ctx.Modules() {
		if app, ok := module.(*caddyhttp.App); ok {
			for _, server := range app.Servers {
				if bearertoken.IsPublic(server) && servesMetrics(server.Routes) {
					return true
				}
			}
		}
	}
	return false
}

// metricsHandler is the name of Caddy's handler.
const metricsHandler = "metrics"

// servesMetrics looks through routes, whether or not their turn has come.
func servesMetrics(routes caddyhttp.RouteList) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		return slices.ContainsFunc(handlersOf(&route), func(raw json.RawMessage) bool {
			var written map[string]json.RawMessage
			var inner caddyhttp.RouteList
			_ = json.Unmarshal(raw, &written) // what is no handler is refused when its turn comes
			_ = json.Unmarshal(written["routes"], &inner)
			return string(written["handler"]) == `"`+metricsHandler+`"` || servesMetrics(inner)
		})
	})
}
