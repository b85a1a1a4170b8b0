package collectors

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/token"
)

// The causes of not being able to ask. The set is closed.
const (
	// Profile is the profile server, which is asked what accounts prefer.
	Profile = "profile"
	// Feed is its change feed.
	Feed = "feed"
	// KeySet is whoever publishes a key set.
	KeySet = "key_set"
	// Introspection is whoever is asked about tokens.
	Introspection = "introspection"
)

// Asked is told of somebody who is asked at present: for how long asking them did
// nothing but fail, in all.
type Asked func(who any, cause string, failed time.Duration)

// Standing tells of somebody who is asked for keys or about tokens; of nil it tells
// nothing.
func (tell Asked) Standing(who any, standing *token.Standing) {
	switch {
	case standing == nil:
	case standing.KeySet:
		tell(who, KeySet, standing.Failed)
	default:
		tell(who, Introspection, standing.Failed)
	}
}

// Unable counts the seconds in which those could not be asked whom a module relies
// on. They know it themselves, but they come and go with configurations, and a
// counter must not fall. So each scrape adds what it has grown by since the one
// before; what is closed in between is not heard any more.
type Unable struct {
	desc *prometheus.Desc
	read func(tell Asked)

	mu    sync.Mutex
	known map[source]time.Duration // by the last scrape
	total map[string]time.Duration // by cause
}

type source struct {
	who   any
	cause string
}

// NewUnable makes a counter of all that read tells, which is of no other cause.
func NewUnable(name, help string, read func(tell Asked), causes ...string) *Unable {
	u := &Unable{desc: prometheus.NewDesc(name, help, []string{"cause"}, nil), read: read, total: map[string]time.Duration{}}
	for _, cause := range causes {
		u.total[cause] = 0
	}
	return u
}

// Describe is for prometheus.Collector.
func (u *Unable) Describe(descs chan<- *prometheus.Desc) { descs <- u.desc }

// Collect is for prometheus.Collector.
func (u *Unable) Collect(metrics chan<- prometheus.Metric) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := map[source]time.Duration{}
	u.read(func(who any, cause string, failed time.Duration) {
		asked := source{who, cause}
		now[asked] = failed
		u.total[cause] += failed - u.known[asked]
	})
	u.known = now
	for cause, total := range u.total {
		metrics <- prometheus.MustNewConstMetric(u.desc, prometheus.CounterValue, total.Seconds(), cause)
	}
}
