package tests

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	_ "modernc.org/sqlite" // to lock a store

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

const rulesFile = "../deploy/prometheus/metrics-gate.rules.yml"

// scrapes are what Prometheus sees of a situation: once before it, and once in it.
type scrapes struct{ before, after []testcaddy.Sample }

// series are the scrapes, a minute apart, and what follows for as many minutes:
// counters go on growing as they did between the scrapes, or not at all where
// this happened once, and gauges stay. Only seconds pass by themselves: the age of
// a feed that nothing is heard of, and those in which somebody cannot be asked. What the first scrape lacks begins with the second,
// and what the second lacks has ended, as Prometheus has it.
func (s scrapes) series(once bool, minutes int) (all []map[string]string) {
	before, after := byName(s.before), byName(s.after)
	add := func(name, values string) {
		all = append(all, map[string]string{"series": name, "values": values})
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	for name, then := range before {
		if _, still := after[name]; !still {
			add(name, number(then)+" stale")
		}
	}
	for name, now := range after {
		then, known := before[name]
		metric, _, _ := strings.Cut(name, "{")
		growth := 0.0
		switch {
		case metric == "caddy_metrics_gate_feed_age_seconds" && now > then+feedLost:
			growth = 60
		case strings.HasSuffix(metric, "_unable_to_ask_seconds_total") && now > then:
			now, growth = then+60, 60
		case once, !slices.ContainsFunc([]string{"_total", "_bucket", "_sum", "_count"}, func(end string) bool { return strings.HasSuffix(metric, end) }):
		default:
			growth = now - then
		}
		first := "_"
		if known {
			first = number(then)
		}
		add(name, fmt.Sprintf("%s %s+%sx%d", first, number(now), number(growth), minutes))
	}
	targets := map[string]bool{}
	for _, sample := range slices.Concat(s.before, s.after) {
		targets[instanceOf(sample)] = true
	}
	for instance := range targets {
		add(fmt.Sprintf("up{instance=%q,job=\"caddy\"}", instance), fmt.Sprintf("1+0x%d", minutes+1))
	}
	return all
}

// instanceOf is the target that a sample is of, "edge" where there is only one.
func instanceOf(sample testcaddy.Sample) string { return cmp.Or(sample.Labels["instance"], "edge") }

// byName is the value of each series, with the labels of a target.
func byName(samples []testcaddy.Sample) map[string]float64 {
	all := map[string]float64{}
	for _, sample := range samples {
		labels := []string{fmt.Sprintf("instance=%q", instanceOf(sample)), `job="caddy"`}
		for name, value := range sample.Labels {
			if name == "instance" {
				continue
			}
			labels = append(labels, fmt.Sprintf("%s=%q", name, value))
		}
		slices.Sort(labels)
		all[sample.Name+"{"+strings.Join(labels, ",")+"}"] = sample.Value
	}
	return all
}

// feedLost is by how many seconds a feed has to have grown older between two
// scrapes. One that is heard does so too, until its next heartbeat.
const feedLost = 16

// beacons is how many a situation sends: as many in a minute, then.
const beacons = 20

// TestAlerts brings the real binary into every situation that an alert is about,
// and has promtool say which alerts fire if it stays so: the one, and no other.
func TestAlerts(t *testing.T) {
	t.Parallel()
	// A gate, its application, and a profile server that answers to the test.
	type edge struct {
		*testcaddy.Server
		t       *testing.T
		behind  *contentServer
		profile *profile
		addr    string
	}
	start := func(t *testing.T, directives func(e *edge, gate string) []string, options ...string) *edge {
		e := &edge{t: t, behind: newContentServer(t), profile: newProfile(t), addr: testcaddy.FreeAddr(t)}
		gate := testcaddy.Gate(append(options, "route POST /beacon", testcaddy.SessionJWT(), e.profile.block(patient))...)
		if directives == nil {
			directives = func(e *edge, gate string) []string {
				return []string{"metrics_gate_tripwire", gate, testcaddy.ProxyTo(e.behind.addr())}
			}
		}
		e.Server = testcaddy.Start(t, testcaddy.Site(e.addr, directives(e, gate)...))
		return e
	}
	// measured is what two scrapes see when each beacon comes with headers.
	measured := func(e *edge, headers func() string) (s scrapes) {
		s.before = e.Samples()
		for range beacons {
			_ = send(e.t, e.behind, e.addr, "POST /beacon", "{}", headers())
		}
		testcaddy.Until(e.t, "all beacons to be counted", func() bool {
			s.after = e.Samples()
			counted := 0.0
			for _, sample := range s.after {
				if sample.Name == "caddy_metrics_gate_requests_total" {
					counted += sample.Value
				}
			}
			return counted == beacons
		})
		return s
	}
	session := func(uid string, claims ...map[string]any) string {
		return testcaddy.Cookie(testcaddy.Session(uid, claims...))
	}
	// stored is what two scrapes see of a profile server.
	stored := func(caddy *testcaddy.Server, happens func()) (s scrapes) {
		s.before = caddy.Samples()
		happens()
		s.after = caddy.Samples()
		return s
	}

	tested := map[string]bool{}
	for _, c := range []struct {
		name     string
		fires    string // nothing, where all is well
		at       []string
		once     bool
		recorded map[string]float64 // what the recording rules say at the last of these times
		see      func(t *testing.T) scrapes
	}{
		{name: "all is well", at: []string{"10m", "2h", "30h"}, see: func(t *testing.T) (s scrapes) {
			oauth, behind := newOAuthServer(t), newContentServer(t)
			addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t,
				testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())),
				testcaddy.Site(site, "metrics_gate_tripwire", testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(addr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())))
			keysFetched(t, addr)
			follows(t, caddy, addr)
			s.before = caddy.Samples()
			happen(t, addr, "FxA", byRSA(event(t, testcaddy.NewUID(t), "metrics-opt-out", map[string]any{})))
			for _, choice := range []preference{unset, allow, optOut} {
				uid := testcaddy.NewUID(t)
				choose(t, addr, uid, choice)
				for range beacons {
					_ = send(t, behind, site, "POST /metrics", flushOf(t, uid), session(uid)).decision()
				}
				_ = send(t, behind, site, "POST /metrics", "{}", session(uid, testcaddy.Expired)).decision()
				_ = send(t, behind, site, "POST /metrics", "{}").decision()
			}
			s.after = caddy.Samples()
			return s
		}},
		{name: "a beacon gets past the gate", fires: "MetricsGateBypassed", at: []string{"2m", "10m"}, once: true, recorded: map[string]float64{
			`gate_route:metrics_gate_tripwire:increase1h`: 1,
		}, see: func(t *testing.T) (s scrapes) {
			e := start(t, func(e *edge, gate string) []string {
				return []string{"metrics_gate_tripwire", "route {", testcaddy.ProxyTo(e.behind.addr()), gate, "}"}
			})
			s.before = e.Samples()
			send(t, e.behind, e.addr, "POST /beacon", "{}")
			testcaddy.Until(t, "it to be counted", func() bool { return e.Metric("tripwire_total") == 1 })
			s.after = e.Samples()
			return s
		}},
		{name: "beacons get past the gate all the time", fires: "MetricsGateBypassed", at: []string{"2m", "30h"}, recorded: map[string]float64{
			`gate_route:metrics_gate_tripwire:increase1h`: beacons * 60,
		}, see: func(t *testing.T) (s scrapes) {
			e := start(t, func(e *edge, gate string) []string {
				return []string{"metrics_gate_tripwire", "route {", testcaddy.ProxyTo(e.behind.addr()), gate, "}"}
			})
			s.before = e.Samples()
			for range beacons {
				send(t, e.behind, e.addr, "POST /beacon", "{}")
			}
			testcaddy.Until(t, "all to be counted", func() bool { return e.Metric("tripwire_total") == beacons })
			s.after = e.Samples()
			return s
		}},
		{name: "a reload without the gate", fires: "MetricsGateAbsent", at: []string{"10m", "30h"}, see: func(t *testing.T) scrapes {
			e := start(t, nil)
			s := measured(e, func() string { return session(e.profile.account(allow)) })
			s.before = s.after
			if err := e.Reload(testcaddy.Site(e.addr, testcaddy.ProxyTo(e.behind.addr()))); err != nil {
				t.Fatal(err)
			}
			s.after = e.Samples()
			return s
		}},
		{name: "everybody has expired", fires: "MetricsGateEverybodyExpired", at: []string{"1h"}, recorded: map[string]float64{
			`gate_kind:metrics_gate_sessions_recognised:ratio1h`: 1,
		}, see: func(t *testing.T) scrapes {
			e := start(t, nil)
			return measured(e, func() string { return session(e.profile.account(allow), testcaddy.Expired) })
		}},
		{name: "the cookie has another name", fires: "MetricsGateNobodyRecognised", at: []string{"2h"}, see: func(t *testing.T) scrapes {
			e := start(t, nil)
			return measured(e, func() string { return "Cookie: sid=" + testcaddy.Session(e.profile.account(allow)) })
		}},
		{name: "another issuer", fires: "MetricsGateSessionsRefused", at: []string{"1h"}, recorded: map[string]float64{
			`gate_kind_outcome:metrics_gate_sessions:increase1h{outcome="wrong_issuer"}`: beacons * 60,
			`gate_kind:metrics_gate_sessions_recognised:ratio1h`:                         0,
		}, see: func(t *testing.T) scrapes {
			e := start(t, nil)
			return measured(e, func() string {
				return session(e.profile.account(allow), map[string]any{"iss": "https://other.test"})
			})
		}},
		{name: "the profile server is away", fires: "MetricsGatePreferencesUnknown", at: []string{"1h"}, recorded: map[string]float64{
			`instance_cause:metrics_gate_unable_to_ask_seconds:increase1h{cause="profile"}`: 3600,
		}, see: func(t *testing.T) scrapes {
			e := start(t, nil)
			e.profile.down()
			return measured(e, func() string { return session(testcaddy.NewUID(t)) })
		}},
		{name: "shadow mode", fires: "MetricsGateShadowLeftOn", at: []string{"30h"}, recorded: map[string]float64{
			`gate:metrics_gate_in_shadow:bool5m`: 1,
			`gate_mode_class_decision_reason:metrics_gate_requests:increase1h{mode="shadow",decision="block",reason="preference"}`: beacons * 60,
		}, see: func(t *testing.T) scrapes {
			e := start(t, func(e *edge, gate string) []string {
				return []string{strings.Replace(gate, "metrics_gate {", "metrics_gate shadow {", 1), testcaddy.ProxyTo(e.behind.addr())}
			})
			return measured(e, func() string { return session(e.profile.account(optOut)) })
		}},
		{name: "the application answers nothing", fires: "MetricsGateDetachedDropped", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			const fit = 1024
			e := start(t, nil, "reply hide")
			uid := e.profile.account(allow)
			hold := make(chan struct{})
			e.behind.hold.Store(&hold)
			before := e.Samples()
			flood(t, fit+beacons, 16, func(int) error {
				_, err := trySend(e.behind, e.addr, "POST /beacon", "{}", session(uid))
				return err
			}, func() {})
			testcaddy.Until(t, "some to be dropped", func() bool { return e.Metric("upstream_total", "class", "dropped") >= beacons })
			e.behind.hold.Store(nil)
			close(hold)
			testcaddy.Until(t, "the rest to arrive", func() bool { return e.Metric("detached_requests") == 0 })
			return scrapes{before, e.Samples()}
		}},
		{name: "the application fails", fires: "MetricsGateDetachedFailed", at: []string{"1h"}, see: func(t *testing.T) (s scrapes) {
			e := start(t, nil, "reply hide")
			uid := e.profile.account(allow)
			e.behind.Close()
			s.before = e.Samples()
			for range beacons {
				speak(t, e.addr, "POST /beacon HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 0\r\nConnection: close\r\n"+session(uid)+"\r\n\r\n")
			}
			testcaddy.Until(t, "all to have failed", func() bool { return e.Metric("upstream_total", "class", "5xx") == beacons })
			s.after = e.Samples()
			return s
		}},
		{name: "the key set is away", fires: "MetricsGateKeySetAway", at: []string{"1h"}, see: func(t *testing.T) (s scrapes) {
			oauth, addr := newOAuthServer(t), testcaddy.FreeAddr(t)
			site := testcaddy.Site(addr, testcaddy.Gate("route POST /beacon", "session jwt {\njwks "+oauth.URL+"/v1/jwks\noptout_claim metrics\n}"))
			caddy := testcaddy.Start(t, site)
			testcaddy.Until(t, "the key set", func() bool { return caddy.Metric("key_set_fetches_total", "outcome", "ok") == 1 })
			s.before = caddy.Samples()
			oauth.down.Store(true)
			if err := caddy.Reload(site); err != nil { // which fetches it anew
				t.Fatal(err)
			}
			testcaddy.Until(t, "fetches to fail", func() bool { return caddy.Metric("key_set_fetches_total", "outcome", "bad_status") > 1 })
			s.after = caddy.Samples()
			return s
		}},
		{name: "nothing is heard of changes", fires: "MetricsGateFeedBehind", at: []string{"1h"}, see: func(t *testing.T) (s scrapes) {
			addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
			server := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"))))
			ready(t, addr)
			gate := testcaddy.Start(t, testcaddy.Site(site, testcaddy.Gate("preset fxa", profileAt(addr, "max_age 10m"))))
			follows(t, gate, addr)
			s.before = gate.Samples()
			server.Stop()
			began := gate.Metric("feed_age_seconds")
			testcaddy.Until(t, "the feed to be older than between two heartbeats", func() bool {
				return gate.Metric("feed_age_seconds") > began+feedLost
			})
			s.after = gate.Samples()
			return s
		}},
		{name: "the file is locked", fires: "ProfileServerStoreNotWritable", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			file, addr := filepath.Join(t.TempDir(), "profile.db"), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+file)), aGate(t))
			ready(t, addr)
			return stored(caddy, func() {
				lock(t, file)
				testcaddy.Until(t, "the store not to be writable", func() bool { return caddy.ProfileServerMetric("store_up") == 0 })
			})
		}},
		{name: "the store fails every request", fires: "ProfileServerStoreNotWritable", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			database, addr := testpostgres.Start(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("postgres "+database.DSN)), aGate(t))
			ready(t, addr)
			s := stored(caddy, func() {
				database.Stop()
				refused(t, addr, "reading without a database", "GET", testcaddy.RelierToken(addr, "u", "profile", testcaddy.TrustedRelier), 503, 999)
			})
			// Only the ratio is left to see it.
			s.after = slices.DeleteFunc(s.after, func(sample testcaddy.Sample) bool { return sample.Name == "caddy_profile_server_store_up" })
			return s
		}},
		{name: "a pooler that swallows notices", fires: "ProfileServerStoreNotNotified", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			addr := testcaddy.FreeAddr(t)
			dsn := testpostgres.Pooler(t, testpostgres.Database(t), "transaction").DSN
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("postgres "+dsn)), aGate(t))
			ready(t, addr)
			return stored(caddy, func() {
				choose(t, addr, testcaddy.NewUID(t), allow) // of which no notice comes
				testcaddy.Until(t, "the store to notice", func() bool { return caddy.ProfileServerMetric("store_notified") == 0 })
			})
		}},
		{name: "the issuer of events is away", fires: "ProfileServerUnableToAsk", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			oauth, addr := newOAuthServer(t), testcaddy.FreeAddr(t)
			site := testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock()))
			caddy := testcaddy.Start(t, site, aGate(t))
			keysFetched(t, addr)
			return stored(caddy, func() {
				oauth.down.Store(true)
				if err := caddy.Reload(site, aGate(t)); err != nil { // which fetches its keys anew
					t.Fatal(err)
				}
				testcaddy.Until(t, "fetches to fail", func() bool { return caddy.ProfileServerMetric("key_set_fetches_total", "outcome", "bad_status") > 1 })
			})
		}},
		{name: "whoever is asked about tokens is away", fires: "ProfileServerUnableToAsk", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			oauth, addr := newOAuthServer(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"),
				"tokens introspect "+oauth.URL+"/v1/verify {\nclient "+testcaddy.TrustedRelier+"\n}")), aGate(t))
			ready(t, addr)
			return stored(caddy, func() {
				oauth.down.Store(true)
				opaque := oauth.issue(t, testcaddy.NewUID(t), testcaddy.TrustedRelier, "profile")
				refused(t, addr, "reading without whoever issued the token", "GET", opaque, 503, 104)
			})
		}},
		{name: "events of another issuer", fires: "ProfileServerEventsRefused", at: []string{"1h"}, see: func(t *testing.T) scrapes {
			oauth, addr := newOAuthServer(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())), aGate(t))
			keysFetched(t, addr)
			return stored(caddy, func() {
				stray := byRSA(event(t, testcaddy.NewUID(t), "metrics-opt-out", map[string]any{}, map[string]any{"iss": "https://other.test"}))
				for range beacons {
					if status, _, _, err := deliveries["FxA"].deliver(addr, stray); err != nil || status != http.StatusBadRequest {
						t.Errorf("an event of another issuer: %d, %v", status, err)
					}
				}
			})
		}},
		{name: "no event any more", fires: "ProfileServerEventsSilent", at: []string{"30h"}, see: func(t *testing.T) scrapes {
			oauth, addr := newOAuthServer(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())), aGate(t))
			keysFetched(t, addr)
			return stored(caddy, func() { choose(t, addr, testcaddy.NewUID(t), allow) })
		}},
	} {
		tested[c.fires] = true
		for expr := range c.recorded {
			name, _, _ := strings.Cut(expr, "{")
			tested[name] = true
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expected := []any{}
			if c.fires != "" {
				expected = append(expected, map[string]any{"labels": fmt.Sprintf("{alertname=%q}", c.fires), "value": 1})
			}
			var expressions []any
			for _, at := range c.at {
				expressions = append(expressions, map[string]any{
					"expr": `group by (alertname) (ALERTS{alertstate="firing"})`, "eval_time": at, "exp_samples": expected,
				})
			}
			for expr, value := range c.recorded {
				expressions = append(expressions, map[string]any{
					"expr": "sum(" + expr + ")", "eval_time": c.at[len(c.at)-1], "exp_samples": []any{map[string]any{"labels": "{}", "value": value}},
				})
			}
			series := c.see(t).series(c.once, 31*60)
			promtool(t, map[string]any{"interval": "1m", "input_series": series, "promql_expr_test": expressions})
		})
	}
	for _, rule := range prometheusRules(t) {
		if name := rule.Alert + rule.Record; !tested[name] {
			t.Errorf("no situation is about %s", name)
		}
	}
}

// lock has another process hold the lock of a store's file that writers need, as far
// as SQLite can tell. A ROLLBACK gives it back.
func lock(t *testing.T, file string) *sql.DB {
	t.Helper()
	other, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	other.SetMaxOpenConns(1)
	// Its owner may be writing at this moment.
	if _, err := other.Exec("PRAGMA busy_timeout = 30000; BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return other
}

// aGate is a site with a gate, without which one alert fires wherever the others
// are about a profile server.
func aGate(t *testing.T) string {
	return testcaddy.Site(testcaddy.FreeAddr(t), testcaddy.Gate("route POST /beacon", "signal {\ngpc\n}"))
}

// promtool tests the rules with one group of tests.
func promtool(t *testing.T, tests map[string]any) {
	t.Helper()
	// JSON is YAML as well.
	content, err := json.MarshalIndent(map[string]any{
		"rule_files": []string{testcaddy.Must(filepath.Abs(rulesFile))}, "evaluation_interval": "1m", "tests": []any{tests},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tests.yml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command(testcaddy.Installed(t, "promtool"), "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// A prometheusRule is one of the rule file.
type prometheusRule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

func prometheusRules(t *testing.T) (all []prometheusRule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []prometheusRule }
	}
	if err := yaml.Unmarshal(testcaddy.Must(os.ReadFile(rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// TestRuleFile holds the rules against what promtool takes for rules and against
// the page that whoever is woken opens: a section for each alert, and none more.
func TestRuleFile(t *testing.T) {
	t.Parallel()
	if said, err := exec.Command(testcaddy.Installed(t, "promtool"), "check", "rules", "--lint-fatal", rulesFile).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	text, audited := string(testcaddy.Must(os.ReadFile("../docs/operate.md"))), string(testcaddy.Must(os.ReadFile(auditPage)))
	_, section, _ := strings.Cut(text, "\n## Alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]bool{}
	for line := range strings.Lines(section) {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			documented[strings.TrimSpace(heading)] = true
		}
	}
	alerts, recorded := map[string]bool{}, 0
	for _, r := range prometheusRules(t) {
		if r.Alert == "" {
			recorded++
			if !strings.Contains(audited, r.Record) {
				t.Errorf("docs/audit.md asks nothing of %s", r.Record)
			}
			continue
		}
		alerts[r.Alert] = true
		const page = "https://github.com/metricsgate/metricsgate/blob/main/docs/operate.md#"
		if got := r.Annotations["runbook_url"]; got != page+strings.ToLower(r.Alert) {
			t.Errorf("the runbook of %s is %s", r.Alert, got)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s lacks its summary, description or severity", r.Alert)
		}
	}
	if !maps.Equal(alerts, documented) {
		t.Errorf("docs/operate.md has sections for %v, and the alerts are %v", documented, alerts)
	}
	if len(alerts) < 12 || recorded == 0 {
		t.Errorf("only %d alerts and %d recording rules were found", len(alerts), recorded)
	}
}
