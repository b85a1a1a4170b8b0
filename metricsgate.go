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
// The modules themselves are documented in package caddymodule. Go programs
// that only want to ask a profile server for a preference import
// profileclient, which knows nothing of Caddy.
package metricsgate

import _ "github.com/metricsgate/metricsgate/caddymodule" // registers the modules
