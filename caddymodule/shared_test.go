package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/gate"
)

const sharedGate = `metrics_gate {
	route POST /beacon
	session jwt {
		cookie session
		secret {file.testdata/keys/shared.secret}
		issuer %issuer
		audience web
	}
	profile http://localhost:1/{uid} {
		auth bearer {file.testdata/keys/shared.secret}
		max_age %age
	}
}`

func sharedGateText(issuer, age string) string {
	return strings.NewReplacer("%issuer", issuer, "%age", age).Replace(sharedGate)
}

// knows are the leases of what a gate knows: of tokens and of preferences. Behind
// each is that of the secret it is known by.
func knows(t *testing.T, g *Gate) (tokens, preferences pool.Lease) {
	t.Helper()
	if len(g.leases) != 4 {
		t.Fatalf("%d leases", len(g.leases))
	}
	return g.leases[0], g.leases[2]
}

// TestSameSettingsShareState is what keeps a cache warm over a reload.
func TestSameSettingsShareState(t *testing.T) {
	t.Parallel()
	tokens, preferences := knows(t, newGate(t, sharedGateText("a", "41s")))
	sameTokens, samePreferences := knows(t, newGate(t, sharedGateText("a", "41s")))
	if tokens != sameTokens || preferences != samePreferences {
		t.Error("two gates with the same settings do not share what they know")
	}
	otherTokens, otherPreferences := knows(t, newGate(t, sharedGateText("b", "42s")))
	if preferences == otherPreferences {
		t.Error("gates with another max_age share their preferences")
	}
	if tokens == otherTokens {
		t.Error("gates with another issuer share their verified tokens")
	}
}

// TestFailedConfigurationLeavesTheRunningOneWhole provisions a gate that is
// refused at every stage, beside a running one with the same settings.
// Caddy cleans up after each; what the running one holds must stay.
func TestFailedConfigurationLeavesTheRunningOneWhole(t *testing.T) {
	t.Parallel()
	running := newGate(t, sharedGateText("whole", "43s"))
	tokens, preferences := knows(t, running)
	references := func() [2]int { return [2]int{tokens.References(), preferences.References()} }
	once := [2]int{1, 1}
	if got := references(); got != once {
		t.Fatalf("the running gate holds %v", got)
	}
	same := sharedGateText("whole", "43s")
	for stage, text := range map[string]string{
		"check":     strings.Replace(same, "route POST /beacon", "route POST /beacon\non_unknown collect", 1),
		"sessions":  strings.Replace(same, "session jwt", "session jwt {\ncookie other\nsecret {env.METRICS_GATE_TEST_NOT_SET}\n}\nsession jwt", 1),
		"profile":   strings.Replace(same, "bearer {file.testdata/keys/shared.secret}", "bearer {env.METRICS_GATE_TEST_NOT_SET}", 1),
		"never ran": "",
	} {
		module := new(Gate)
		var err error
		switch stage {
		case "never ran":
			err = module.Cleanup()
		case "check":
			module, err = tryGate(t, text)
			if err == nil {
				module.OnUnknown = "perhaps"
				err = module.check()
				if cleanup := module.Cleanup(); cleanup != nil {
					t.Error(cleanup)
				}
			}
		default:
			_, err = tryGate(t, text)
		}
		if (err == nil) != (stage == "never ran") {
			t.Errorf("%s: error %v", stage, err)
		}
		if got := references(); got != once {
			t.Errorf("%s: the running gate's state is counted as %v", stage, got)
		}
	}
	if err := running.Cleanup(); err != nil {
		t.Error(err)
	}
	if err := running.Cleanup(); err != nil {
		t.Errorf("a second Cleanup: %v", err)
	}
}

// TestMetricsSurviveReloads registers the gates of three configurations, two
// in each, and expects one counter that only grows.
func TestMetricsSurviveReloads(t *testing.T) {
	t.Parallel()
	const route = "/survives"
	count := func(registry *prometheus.Registry) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		total := 0.0
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					if family.GetName() == "caddy_metrics_gate_requests_total" && label.GetValue() == route {
						total += metric.GetCounter().GetValue()
					}
				}
			}
		}
		return total
	}
	for reload := range 3 {
		ctx := adapttest.Context(t)
		for range 2 {
			module := &Gate{Routes: []gate.Route{{Methods: []string{"POST"}, Path: route}}}
			if err := module.Provision(ctx); err != nil {
				t.Fatal(err)
			}
			r, w := request("POST", route, "", nil)
			if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
				t.Fatal(err)
			}
			if err := module.Cleanup(); err != nil {
				t.Error(err)
			}
		}
		if got, want := count(ctx.GetMetricsRegistry()), float64(2*(reload+1)); got != want {
			t.Errorf("after reload %d the registry counts %v requests, want %v", reload, got, want)
		}
	}
}

func TestForeignCollectorIsNotIgnored(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_metrics_gate_write_backs_total",
		Help: "Browsers' opt-outs on their way into profiles that held no choice, by outcome.",
	}, []string{"outcome"}))
	if err := registerMetrics(registry); err == nil {
		t.Error("another collector of the same name would swallow our counts")
	}
}

func TestMetricNamesAreClean(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// TestSecretsStayOutOfTheConfiguration marshals a provisioned gate, which is
// what GET /config and a server that logs its handlers show.
func TestSecretsStayOutOfTheConfiguration(t *testing.T) {
	t.Parallel()
	module := newGate(t, sharedGateText("secrets", "44s"))
	text, err := json.Marshal(module)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "long enough for HS256") {
		t.Errorf("the secret stands in %s", text)
	}
	if !strings.Contains(string(text), "{file.testdata/keys/shared.secret}") {
		t.Errorf("the placeholder of the secret is gone: %s", text)
	}
}

// TestLabel counts the requests of two gates of one label together, and those
// of others by themselves.
func TestLabel(t *testing.T) {
	t.Parallel()
	counted := func(label string) float64 {
		return testutil.ToFloat64(requestsTotal.WithLabelValues("/labelled", "metrics", "block", "signal", "blocked", "enforce", label))
	}
	a, b, rest := counted("a"), counted("b"), counted("default")
	for _, label := range []string{"label a", "label a", "label b", ""} {
		module := newGate(t, "metrics_gate {\n"+label+"\nroute POST /labelled\n}")
		r, w := request("POST", "/labelled", "", map[string]string{"Cookie": "metrics_optout=1"})
		if err := module.ServeHTTP(w, r, new(upstream)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b, rest = counted("a")-a, counted("b")-b, counted("default")-rest; a != 2 || b != 1 || rest != 1 {
		t.Errorf("counted: a %v, b %v, default %v", a, b, rest)
	}
}
