package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/caddymodule/internal/collectors"
	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// The collectors live as long as the process and are registered again on the
// registry that every new configuration brings. So counters survive reloads,
// and the gates of one label add up. What gates share, such as lookups and
// caches, has no label gate. Label values come from closed sets or are the
// operator's own words; none ever holds anything about a person.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_requests_total",
		Help: "Gated requests by configured route, by decision and reason, and by what their clients got. In mode shadow, the decision block means: would have been blocked.",
	}, []string{"route", "class", "decision", "reason", "reply", "mode", "gate"})

	sessionsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_sessions_total",
		Help: "What gated requests and pages proved about their account, by kind of session.",
	}, []string{"kind", "outcome", "gate"})

	upstreamTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_upstream_total",
		Help: "Upstream replies to collected requests that the client did not see, by class of their status.",
	}, []string{"class", "gate"})

	detachedRequests = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "caddy_metrics_gate_detached_requests",
		Help: "Collected requests on their way to the application whose client has been answered.",
	}, []string{"gate"})

	tripwireTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_tripwire_total",
		Help: "Requests that a gate would gate and that no gate decided, found by metrics_gate_tripwire. Anything but 0 is a gate that is bypassed.",
	}, []string{"route", "gate"})

	tracesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_traces_total",
		Help: "Traces by event: opened at the admin API, refused there because too many were open, and requests that were written down.",
	}, []string{"event"})

	lookupsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_profile_lookups_total",
		Help: "Lookups of preferences that were not cached, by outcome.",
	}, []string{"outcome"})

	lookupSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "caddy_metrics_gate_profile_lookup_duration_seconds",
		Help:    "How long the profile server took to answer for a preference.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .2, .3, .5, 1, 2},
	})

	signalsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_signals_total",
		Help: "What browsers reported of the handshake, by outcome.",
	}, []string{"outcome", "gate"})

	pagesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_pages_total",
		Help: "HTML documents that the gate was to change on their way, by result.",
	}, []string{"result", "gate"})

	choicesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_choices_total",
		Help: "Choices made on the preference page, by choice and result.",
	}, []string{"choice", "result", "gate"})

	writeBacksTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_write_backs_total",
		Help: "Browsers' opt-outs on their way into profiles that held no choice, by outcome.",
	}, []string{"outcome"})

	feedEventsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_feed_events_total",
		Help: "What profile servers told on their change feeds, by kind of event.",
	}, []string{"event"})

	feedConnectsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_feed_connects_total",
		Help: "Tries to follow a profile server's change feed, by outcome.",
	}, []string{"outcome"})

	keySetFetchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_key_set_fetches_total",
		Help: "Fetches of the key sets that sessions are verified with, by outcome.",
	}, []string{"outcome"})

	unableCollector = collectors.NewUnable(
		"caddy_metrics_gate_unable_to_ask_seconds_total",
		"Seconds in which somebody could not be asked whom gates rely on, by who it was; those of several together.",
		func(tell collectors.Asked) {
			profileClients.Each(func(client *profileclient.Client) {
				standing := client.Standing()
				tell(client, collectors.Profile, standing.ProfileFailed)
				tell(client, collectors.Feed, standing.FeedFailed)
			})
			bearerSessions.Each(func(source *session.Bearer) { tell.Standing(source, source.Standing()) })
		}, collectors.Profile, collectors.Feed, collectors.KeySet, collectors.Introspection)
)

// The events of a trace.
const (
	traceOpened  = "opened"
	traceRefused = "refused"
	traceWritten = "written"
)

// cacheEntries counts what the caches hold when it is scraped, so that no
// request ever has to set a gauge.
type cacheEntries struct{ desc *prometheus.Desc }

var cacheEntriesCollector = cacheEntries{prometheus.NewDesc(
	"caddy_metrics_gate_cache_entries",
	"Entries in the caches of all gates together.",
	[]string{"cache"}, nil,
)}

func (c cacheEntries) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c cacheEntries) Collect(metrics chan<- prometheus.Metric) {
	var preferences, named, tokens, own int
	profileClients.Each(func(client *profileclient.Client) {
		verified, unproven := client.Entries()
		preferences, named = preferences+verified, named+unproven
	})
	bearerSessions.Each(func(source *session.Bearer) { tokens += source.Len() })
	for _, gate := range siblings.All[*Gate](siblings.Running()) {
		if gate.watched.own != nil {
			own += gate.watched.own.Len()
		}
	}
	for cache, entries := range map[string]int{"preferences": preferences, "named_preferences": named, "tokens": tokens, "own_sessions": own} {
		metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(entries), cache)
	}
}

// feedAge says when it is scraped how old a change can be that a profile server's
// feed has not told. Where none is followed there is no age.
type feedAge struct{ desc *prometheus.Desc }

var feedAgeCollector = feedAge{prometheus.NewDesc(
	"caddy_metrics_gate_feed_age_seconds",
	"How old a change can be that the profile server's change feed has not told; of several, the oldest.",
	nil, nil,
)}

func (f feedAge) Describe(descs chan<- *prometheus.Desc) { descs <- f.desc }

func (f feedAge) Collect(metrics chan<- prometheus.Metric) {
	followed, oldest, now := false, time.Duration(0), time.Now()
	profileClients.Each(func(client *profileclient.Client) {
		if client.Following() {
			followed, oldest = true, max(oldest, client.FeedAge(now))
		}
	})
	if followed {
		metrics <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, oldest.Seconds())
	}
}

// registerMetrics registers the gate's collectors with a configuration's
// registry.
func registerMetrics(registry *prometheus.Registry) error {
	return collectors.Register(registry, requestsTotal, sessionsTotal, upstreamTotal, detachedRequests, tripwireTotal, tracesTotal, lookupsTotal, lookupSeconds, writeBacksTotal,
		signalsTotal, pagesTotal, choicesTotal, cacheEntriesCollector, feedAgeCollector, feedEventsTotal, feedConnectsTotal,
		keySetFetchesTotal, unableCollector)
}

// countKeySetFetch counts one fetch of a key set.
func countKeySetFetch(outcome token.FetchOutcome) {
	keySetFetchesTotal.WithLabelValues(outcome.String()).Inc()
}

// profileObserver counts what profile clients do. Clients outlive
// configurations, so nothing in here belongs to one.
func profileObserver() profileclient.Observer {
	return profileclient.Observer{
		Lookup: func(outcome profileclient.LookupOutcome, took time.Duration) {
			lookupsTotal.WithLabelValues(outcome.String()).Inc()
			if took > 0 { // something was sent
				lookupSeconds.Observe(took.Seconds())
			}
		},
		WriteBack: func(outcome profileclient.WriteOutcome) {
			writeBacksTotal.WithLabelValues(outcome.String()).Inc()
		},
		Health: logProfileHealth,
		FeedConnect: func(outcome profileclient.FeedOutcome) {
			feedConnectsTotal.WithLabelValues(outcome.String()).Inc()
		},
		FeedEvent: func(event profileclient.FeedEvent) {
			feedEventsTotal.WithLabelValues(event.String()).Inc()
		},
		FeedHealth: logFeedHealth,
	}
}
