// Package collectors registers Prometheus collectors that live as long as the
// process on the registry that every new configuration brings. So counters
// survive reloads, and the modules of several sites add up.
//
// Each module says what it counts; here is what they have in common.
package collectors

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers the collectors, and the build's, except those that another
// module of the same configuration has registered already. Another collector of
// the same name is an error, since it would swallow what ours counts.
func Register(registry *prometheus.Registry, collectors ...prometheus.Collector) error {
	for _, collector := range append(collectors, buildInfo) {
		err := registry.Register(collector)
		if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok && taken.ExistingCollector == collector {
			continue
		}
		if err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}
