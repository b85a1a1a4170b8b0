// Package build says which version of Metrics Gate a binary holds.
package build

import (
	"cmp"
	"runtime/debug"
	"sync"
)

// ModulePath is that of this module.
const ModulePath = "github.com/metricsgate/metricsgate"

// Unknown is what Go did not write into the binary.
const Unknown = "unknown"

// Of returns the version of this module, and the revision it was built from, which
// is known only where this module's own mains were built.
var Of = sync.OnceValues(func() (version, revision string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range append(info.Deps, &info.Main) {
			if module.Path == ModulePath {
				version = module.Version
			}
		}
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && info.Main.Path == ModulePath {
				revision = setting.Value
			}
		}
	}
	return cmp.Or(version, Unknown), cmp.Or(revision, Unknown)
})
