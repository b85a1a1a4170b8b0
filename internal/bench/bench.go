// Package bench measures the gate against what people would use in its place.
// docs/measurements.md says how, and docs/performance.md what came of it.
//
//	make bench         steps and ratios in one process, beside the baseline of this machine
//	make bench-load    the binary under load, beside bare Caddy and the others
//	make bench-memory  the binary with up to a million users cached
//	make plots         tables and plots of both pages from the latest results
package bench

import "embed"

// Conf is how everything under load is configured.
//
//go:embed conf
var Conf embed.FS
