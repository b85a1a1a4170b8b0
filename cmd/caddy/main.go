// Command caddy is Caddy with its standard modules and Metrics Gate: the same
// binary that xcaddy builds, but from this module's own go.sum, which is also
// what the tests run.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/metricsgate/metricsgate"
)

func main() {
	caddycmd.Main()
}
