// Package metricsgate makes a site honour its users' metrics opt-out at the
// edge: Caddy modules that stand in front of an application and stop the
// metrics requests of people who opted out, without a change to the
// application.
//
// Importing this package registers the modules with Caddy, which is all that
// xcaddy needs:
//
//	xcaddy build --with github.com/metricsgate/metricsgate
//
// It is nothing but three imports: the gate and its matcher (caddymodule), the
// profile server (caddymodule/profilemodule) and caddy metrics-gate
// (caddymodule/command), which document themselves and can be imported one by
// one. Go programs without Caddy import gate to decide requests, or
// profileclient to ask a profile server for a preference.
package metricsgate

import (
	_ "github.com/metricsgate/metricsgate/caddymodule"               // registers metrics_gate and metrics_optout
	_ "github.com/metricsgate/metricsgate/caddymodule/command"       // registers caddy metrics-gate
	_ "github.com/metricsgate/metricsgate/caddymodule/profilemodule" // registers profile_server
)
