// Package bench measures the gate against what people would use in its place.
// docs/performance.md says how, and what came of it.
//
//	make bench         steps and ratios in one process, beside the baseline of this machine
//	make bench-load    the binary under load, beside bare Caddy and the others
//	make bench-memory  the binary with up to a million users cached
//	make plots         tables and plots of docs/performance.md from the latest results
package bench

import "embed"

// Conf is how everything under load is configured.
//
//go:embed conf
var Conf embed.FS
