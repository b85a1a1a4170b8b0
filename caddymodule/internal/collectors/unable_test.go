package collectors_test

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/caddymodule/internal/collectors"
	"github.com/metricsgate/metricsgate/token"
)

// Those who are asked come and go, and the counter only grows.
func TestUnable(t *testing.T) {
	t.Parallel()
	type asked struct {
		who    string
		failed time.Duration
	}
	var present []asked
	keys := &token.Standing{KeySet: true}
	unable := collectors.NewUnable("unable_seconds_total", "Seconds.", func(tell collectors.Asked) {
		for _, one := range present {
			tell(one.who, collectors.Profile, one.failed)
		}
		tell.Standing("keys", keys)
		tell.Standing("nobody", nil)
		tell.Standing("issuer", &token.Standing{Failed: time.Second})
	}, collectors.Profile, collectors.Feed, collectors.KeySet, collectors.Introspection)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(unable)
	for _, step := range []struct {
		name    string
		present []asked
		keys    time.Duration
		profile float64
	}{
		{"nobody is asked", nil, 0, 0},
		{"one fails", []asked{{"a", 3 * time.Second}}, 0, 3},
		{"it goes on", []asked{{"a", 5 * time.Second}}, 2 * time.Second, 5},
		{"a second one fails as well", []asked{{"a", 6 * time.Second}, {"b", time.Second}}, 2 * time.Second, 7},
		{"the first one is gone", []asked{{"b", time.Second}}, 2 * time.Second, 7},
		{"all are gone", nil, 2 * time.Second, 7},
		{"others come", []asked{{"c", 500 * time.Millisecond}}, 2 * time.Second, 7.5},
	} {
		present, keys.Failed = step.present, step.keys
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		got := map[string]float64{}
		for _, metric := range families[0].GetMetric() {
			got[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
		}
		want := map[string]float64{"profile": step.profile, "feed": 0, "key_set": step.keys.Seconds(), "introspection": 1}
		if !maps.Equal(got, want) {
			t.Errorf("%s: counted %v, want %v", step.name, got, want)
		}
	}
}
