//go:build unix

package bench

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// gateOf is the gate that is somewhere in the routes.
func gateOf(routes caddyhttp.RouteList) *caddymodule.Gate {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddymodule.Gate:
				return handler
			case *caddyhttp.Subroute:
				if found := gateOf(handler.Routes); found != nil {
					return found
				}
			}
		}
	}
	return nil
}

// everyPreset uses all of them, each below the path that its SDK would be told.
func everyPreset() string {
	var lines strings.Builder
	for _, name := range gate.PresetNames() {
		lines.WriteString("preset " + name)
		switch name {
		case "countly", "sentry": // meets Snowplow's GET /i; always needs one
			lines.WriteString(" /" + name)
		}
		lines.WriteString("\n")
	}
	return lines.String()
}

// BenchmarkUngated is what a gate does with requests that are neither gated nor
// pages: ratio is that of one with the routes of all presets ÷ one with a single
// route. Both have the original request to look at where handlers in front of the
// gate rewrote it, and none did.
func BenchmarkUngated(b *testing.B) {
	profile, _ := profiles(b, 0)
	all := servers(b, gateFor(beacons, profile)+"respond 204", gateFor(everyPreset(), profile)+"respond 204")
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	w := &exchange{header: http.Header{}}
	arm := func(server *caddyhttp.Server, requests [][2]string) func(n int) {
		handler := gateOf(server.Routes)
		var ready []*http.Request
		for _, request := range requests {
			r := httptest.NewRequest(request[0], request[1], nil)
			r.Header["Sec-Fetch-Dest"] = []string{"empty"}
			ready = append(ready, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server))
		}
		return func(n int) {
			for i := range n {
				_ = handler.ServeHTTP(w, ready[i%len(ready)], next) // next never fails
			}
		}
	}
	for name, requests := range map[string][][2]string{
		"scripts": {{"GET", "/static/js/main.4f3c9a1b.chunk.js"}, {"GET", "/bundle/app.bundle.js"}, {"GET", "/assets/vendor-5d1e.js"}},
		"files":   {{"GET", "/static/media/logo.8e1a.svg"}, {"GET", "/styles/main.css"}, {"GET", "/fonts/inter.woff2"}, {"GET", "/favicon.ico"}, {"HEAD", "/images/hero.jpg"}},
		"reads":   {{"GET", "/api/v1/accounts/42/devices"}, {"GET", "/api/v1/search"}, {"GET", "/v1/profile"}},
		"writes":  {{"POST", "/api/v1/accounts/42/devices"}, {"POST", "/login"}, {"POST", "/graphql"}, {"PUT", "/api/v1/cart/items/7"}},
	} {
		b.Run(name, func(b *testing.B) {
			took := inTurn(b, wallTime, time.Millisecond, arm(all[0], requests), arm(all[1], requests))
			b.ReportMetric(result.Median(took[0]), "one-ns")
			b.ReportMetric(over(took[1], took[0]), "ratio")
		})
	}
}
