package profilemodule

import (
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholdertest"
)

// TestPlaceholdersInEveryOption goes through all texts of the configuration; a
// new one that no placeholder reaches fails it.
func TestPlaceholdersInEveryOption(t *testing.T) {
	t.Parallel()
	valid := func() *ProfileServer { return new(ProfileServer) }
	placeholdertest.Run(t, valid, func(module *ProfileServer) (*ProfileServer, error) {
		err := module.Provision(adapttest.Context(t))
		t.Cleanup(func() { _ = module.Cleanup() }) // what was refused is released as well
		return module.options, err
	})
}
