// Command bare is Caddy with its standard modules and nothing else: what the
// gated binary is measured against, built from the same go.sum.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
