package adapttest

import (
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// provisioning lets one configuration at a time set up what Caddy keeps for the
// whole process.
var provisioning sync.Mutex

// Validate does what caddy validate does.
func Validate(config *caddy.Config) error {
	provisioning.Lock()
	defer provisioning.Unlock()
	return caddy.Validate(config)
}

// Context is the context of a configuration of its own, with its own apps and
// metrics.
func Context(tb testing.TB) caddy.Context {
	tb.Helper()
	provisioning.Lock()
	configuration, err := caddy.ProvisionContext(new(caddy.Config))
	provisioning.Unlock()
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(configuration)
	tb.Cleanup(cancel)
	return ctx
}
