package profilemodule

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/caddymodule/internal/collectors"
	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// The collectors live as long as the process; see package collectors. Label
// values come from closed sets; none ever holds anything about a person.
var (
	changesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_profile_server_changes_total",
		Help: "Changes of preferences that requests made, by the new value and where it came from.",
	}, []string{"value", "source"})

	serverRequestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_profile_server_requests_total",
		Help: "Requests that the profile server answered, by endpoint, method and status.",
	}, []string{"endpoint", "method", "code"})

	serverRequestSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "caddy_profile_server_request_duration_seconds",
		Help:    "How long the profile server took to answer. A followed feed counts until it begins.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"endpoint"})

	eventsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_profile_server_events_total",
		Help: "Security events that were received, by event and what came of it.",
	}, []string{"event", "result"})

	followers = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "caddy_profile_server_followers",
		Help: "Connections that follow the changes at the moment.",
	})

	storeFailuresTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "caddy_profile_server_store_failures_total",
		Help: "Requests that failed because the preference store did.",
	})

	keySetFetchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_profile_server_key_set_fetches_total",
		Help: "Fetches of the key sets that tokens and security events are verified with, by outcome.",
	}, []string{"outcome"})

	unableCollector = collectors.NewUnable(
		"caddy_profile_server_unable_to_ask_seconds_total",
		"Seconds in which somebody could not be asked for keys or about tokens, by which of the two it was; those of several together.",
		func(tell collectors.Asked) {
			verifiers.Each(func(v *token.Verifier) { tell.Standing(v, v.Standing()) })
			introspectors.Each(func(i *token.Introspector) { tell.Standing(i, i.Standing()) })
		}, collectors.KeySet, collectors.Introspection)
)

// storeUp asks the stores when it is scraped, so that an alert does not have
// to wait for somebody's request to fail.
type storeUp struct{ up, notified *prometheus.Desc }

var storeUpCollector = storeUp{prometheus.NewDesc(
	"caddy_profile_server_store_up",
	"Whether preferences can be written: 1, or 0 where any of the stores in use cannot be.",
	nil, nil,
), prometheus.NewDesc(
	"caddy_profile_server_store_notified",
	"Whether stores learn of changes as they are made: 1, or 0 where any of them has to ask every second.",
	nil, nil,
)}

// storeUpTimeout bounds how long a scrape waits for the stores.
const storeUpTimeout = time.Second

func (s storeUp) Describe(descs chan<- *prometheus.Desc) { descs <- s.up; descs <- s.notified }

func (s storeUp) Collect(metrics chan<- prometheus.Metric) {
	var stores []prefstore.Store
	preferenceStores.Each(func(store prefstore.Store) { stores = append(stores, store) })
	if len(stores) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeUpTimeout)
	defer cancel()
	up, notified := 1.0, 1.0
	for _, store := range stores {
		if store.Ping(ctx) != nil {
			up = 0
		}
		if !store.Notified() {
			notified = 0
		}
	}
	metrics <- prometheus.MustNewConstMetric(s.up, prometheus.GaugeValue, up)
	metrics <- prometheus.MustNewConstMetric(s.notified, prometheus.GaugeValue, notified)
}

// registerMetrics registers the profile server's collectors with a
// configuration's registry.
func registerMetrics(registry *prometheus.Registry) error {
	return collectors.Register(registry, changesTotal, serverRequestsTotal, serverRequestSeconds, eventsTotal,
		followers, storeFailuresTotal, storeUpCollector, keySetFetchesTotal, unableCollector)
}

// serverObserver counts what a profile server does, also with a DogStatsD
// agent, if there is one.
func serverObserver(agent *changeCounter) profileserver.Observer {
	return profileserver.Observer{
		Request: func(endpoint, method string, status int, took time.Duration) {
			serverRequestsTotal.WithLabelValues(endpoint, method, strconv.Itoa(status)).Inc()
			serverRequestSeconds.WithLabelValues(endpoint).Observe(took.Seconds())
		},
		Change: func(value, source string) {
			changesTotal.WithLabelValues(value, source).Inc()
			if agent != nil && (value == "true" || value == "false") { // only a choice is a success
				agent.count(value, source)
			}
		},
		Event:        func(event, result string) { eventsTotal.WithLabelValues(event, result).Inc() },
		StoreFailure: storeFailuresTotal.Inc,
	}
}
