package collectors

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/internal/build"
)

// buildInfo says which Metrics Gate a Caddy is built with.
var buildInfo = func() prometheus.Collector {
	version, revision := build.Of()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "caddy_metrics_gate_build_info",
		Help:        "Always 1; the labels say which Metrics Gate this Caddy is built with, and by which Go.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()},
	})
	gauge.Set(1)
	return gauge
}()
