package tests

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/plot"
	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

var drawDashboard = flag.Bool("draw-dashboard", false, "rehearse for some minutes, and write docs/dashboard.svg anew")

const dashboardFile = "../deploy/grafana/metrics-gate.json"

// A dashboard is what this test reads of Grafana's.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Annotations struct{ List []struct{ Expr string } }
	Panels      []*dashboardPanel
}

type dashboardPanel struct {
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, LegendFormat string }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Decimals *int
			NoValue  string
			Mappings []struct {
				Options map[string]struct{ Text, Color string }
			}
			Thresholds struct {
				Steps []struct {
					Value *float64
					Color string
				}
			}
			Custom struct{ Stacking struct{ Mode string } }
		}
	}
	Panels []*dashboardPanel // of a row that is closed

	found [][]timeSeries // of each target
}

// TestDashboard brings the real binary into what each panel is about, has a real
// Prometheus scrape it, and runs every query of the dashboard there. One that finds
// nothing, or nothing but zeros, fails.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var board dashboard
	if err := json.Unmarshal(testcaddy.Must(os.ReadFile(dashboardFile)), &board); err != nil {
		t.Fatal(err)
	}
	times := 2
	if *drawDashboard {
		times = 20
	}
	r := rehearse(t, times)

	queries := 0
	for _, shown := range board.Panels {
		for _, panel := range append([]*dashboardPanel{shown}, shown.Panels...) {
			for _, target := range panel.Targets {
				queries++
				found := r.run(t, target.Expr, ".*", ".*")
				if !somethingIn(found) {
					t.Errorf("%s: nothing is found by\n%s", panel.Title, target.Expr)
				}
				for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
					for _, one := range found {
						if one.Metric[label[1]] == "" {
							t.Errorf("%s: the legend has %s, which %v has not", panel.Title, label[1], one.Metric)
						}
					}
				}
				if somethingIn(r.run(t, target.Expr, "elsewhere", ".*")) {
					t.Errorf("%s: another instance is chosen, and this is shown still:\n%s", panel.Title, target.Expr)
				}
				if strings.Contains(target.Expr, "$gate") && somethingIn(r.run(t, target.Expr, ".*", "another")) {
					t.Errorf("%s: another gate is chosen, and this is shown still:\n%s", panel.Title, target.Expr)
				}
				panel.found = append(panel.found, found)
			}
		}
	}
	if queries < 30 {
		t.Errorf("only %d queries were found", queries)
	}
	for _, annotation := range board.Annotations.List {
		if !somethingIn(r.run(t, annotation.Expr, ".*", ".*")) {
			t.Errorf("nothing is marked by %s", annotation.Expr)
		}
	}
	choices := map[string]string{"instance": "edge-1 edge-2 profile", "gate": "accounts shop"}
	for _, variable := range board.Templating.List {
		if variable.Type != "query" {
			continue
		}
		var query struct{ Query string }
		_ = json.Unmarshal(variable.Query, &query)
		values := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(query.Query)
		if values == nil {
			t.Errorf("the variable %s is not values of a label: %s", variable.Name, variable.Query)
			continue
		}
		var offered []string
		r.ask(t, "label/"+values[2]+"/values", url.Values{"match[]": {strings.ReplaceAll(values[1], "$instance", ".*")}}, &offered)
		if got := strings.Join(offered, " "); got != choices[variable.Name] {
			t.Errorf("the variable %s offers %q, want %q", variable.Name, got, choices[variable.Name])
		}
		delete(choices, variable.Name)
	}
	if len(choices) > 0 {
		t.Errorf("no variable offers %v", choices)
	}

	drawn := board.draw(t, r)
	for decoder := xml.NewDecoder(strings.NewReader(drawn)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, drawn)
		}
	}
	if *drawDashboard {
		if err := os.WriteFile("../docs/dashboard.svg", []byte(drawn), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A rehearsal is Prometheus after it has seen everything happen.
type rehearsal struct {
	prometheus
	from, to time.Time
	phases   []plot.Phase
	targets  int
	scrapes  testcaddy.Ledger[scrape]
}

// A scrape is of an instance, and over.
type scrape struct {
	of    string
	began time.Time
}

// Of a rehearsal, how often Prometheus scrapes, and over how long rates are: four
// scrapes, as Grafana has it.
const scraped, rates = 2 * time.Second, 4 * scraped

// rehearse has two edges, their applications and a profile server go through what a
// dashboard is there for. Prometheus scrapes each phase that many times.
func rehearse(t *testing.T, times int) *rehearsal {
	behind, oauth := newContentServer(t), newOAuthServer(t)
	profileAddr, file := testcaddy.FreeAddr(t), filepath.Join(t.TempDir(), "profile.db")
	serving := testcaddy.Site(profileAddr, profileServer("sqlite "+file, oauth.eventsBlock()))
	profile := testcaddy.Start(t, serving)
	ready(t, profileAddr)
	keysFetched(t, profileAddr)

	type edge struct {
		*testcaddy.Server
		accounts, shop, legacy string
	}
	sites := func(e edge, mode string) []string {
		gate := func(options ...string) string {
			return "metrics_gate " + mode + " {\n" + strings.Join(append(options, testcaddy.SessionJWT(), profileAt(profileAddr, "max_age 20s")), "\n") + "\n}"
		}
		shop := []string{"label shop", "route POST /api/beacon", "route GET /flags experiment {\nanswer 200 application/json `{}`\n}", "signal {\ngpc\n}"}
		keys := "session jwt {\nheader X-Session\njwks " + oauth.URL + "/v1/jwks\nissuer " + testcaddy.SessionIssuer + "\naudience web\n}"
		return []string{
			testcaddy.Site(e.accounts, "metrics_gate_tripwire", gate("label accounts", "preset fxa", "handshake"), testcaddy.ProxyTo(behind.addr())),
			testcaddy.Site(e.shop, "metrics_gate_tripwire", gate(shop...), testcaddy.ProxyTo(behind.addr())),
			testcaddy.Site(e.legacy, "metrics_gate_tripwire", "route {", testcaddy.ProxyTo(behind.addr()), gate(append(shop, keys)...), "}"),
		}
	}
	edges := make([]edge, 2)
	for i := range edges {
		e := edge{nil, testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)}
		e.Server = testcaddy.Start(t, sites(e, "shadow")...)
		edges[i] = e
		follows(t, e.Server, profileAddr)
	}
	load := func(caddy *testcaddy.Server, sites ...string) {
		if err := caddy.Reload(sites...); err != nil {
			t.Fatal(err)
		}
	}
	r := startPrometheus(t, map[string]string{"edge-1": edges[0].Admin, "edge-2": edges[1].Admin, "profile": profile.Admin})
	r.from = r.seen(t)

	var people []string
	for i := range 40 {
		people = append(people, testcaddy.NewUID(t))
		if choice := []preference{unset, unset, allow, optOut}[i%4]; choice != unset {
			choose(t, profileAddr, people[i], choice)
		}
	}
	session := func(uid string, claims ...map[string]any) string {
		return testcaddy.Cookie(testcaddy.Session(uid, claims...))
	}
	const fromHere = "Sec-Fetch-Site: same-origin"
	// happens is all that goes on at a time, but for what needs the profile server.
	happens := func(n int) {
		for i, e := range edges {
			for k := range 6 + 3*(n%3) {
				uid := people[(7*n+5*k+i)%len(people)]
				send(t, behind, e.accounts, "POST /metrics", flushOf(t, uid), session(uid), fromHere)
			}
			newcomer := testcaddy.NewUID(t)
			for _, uid := range []string{newcomer, people[n%len(people)]} {
				send(t, behind, e.shop, "POST /api/beacon", "{}", session(uid), fromHere)
				send(t, behind, e.shop, "GET /flags", "", session(uid), fromHere)
			}
			send(t, behind, e.shop, "POST /api/beacon", "{}", session(testcaddy.NewUID(t)), "Metrics-Optout: 1", fromHere)
			send(t, behind, e.shop, "POST /api/beacon", "{}", "Sec-GPC: 1", fromHere)
			send(t, behind, e.accounts, "POST /metrics", "{}", session(newcomer, testcaddy.Expired), fromHere)
			send(t, behind, e.accounts, "GET /signin", "", session(newcomer), "Accept: text/html", fromHere)
			for _, optedOut := range []bool{true, false} {
				send(t, behind, e.accounts, "POST /.well-known/metrics-gate/signal", fmt.Sprintf(`{"metrics_optout":%v}`, optedOut), "Content-Type: application/json", fromHere)
			}
			send(t, behind, e.accounts, "POST /.well-known/metrics-gate/preference", "choice=browser_optout", "Content-Type: application/x-www-form-urlencoded", fromHere)
		}
		send(t, behind, edges[0].accounts, "POST /metrics", "{}", "Metrics-Gate-Trace: "+openTrace(t, edges[0].Server), fromHere)
	}
	chosen := func(n int) {
		choose(t, profileAddr, testcaddy.NewUID(t), allow)
		for range 1 + n%3 {
			choose(t, profileAddr, testcaddy.NewUID(t), optOut)
		}
		happen(t, profileAddr, "FxA", byRSA(event(t, testcaddy.NewUID(t), "metrics-opt-out", map[string]any{})))
		stray := byRSA(event(t, testcaddy.NewUID(t), "metrics-opt-out", map[string]any{}, map[string]any{"iss": "https://other.test"}))
		if status, _, _, err := deliveries["FxA"].deliver(profileAddr, stray); err != nil || status != http.StatusBadRequest {
			t.Errorf("an event of another issuer: %d, %v", status, err)
		}
	}
	last := 0
	phase := func(name string, each ...func(n int)) {
		r.phases = append(r.phases, plot.Phase{Begins: time.Since(r.from), Name: name})
		for range times {
			last++
			for _, f := range each {
				f(last)
			}
			r.seen(t)
		}
	}

	phase("shadow mode", happens, chosen)

	for _, e := range edges {
		load(e.Server, sites(e, "enforce")...)
	}
	hold := make(chan struct{})
	behind.hold.Store(&hold)
	for _, e := range edges {
		send(t, behind, e.accounts, "POST /metrics", flushOf(t, people[2]), session(people[2]), fromHere)
	}
	r.seen(t)
	behind.hold.Store(nil)
	close(hold)
	phase("enforced", happens, chosen)

	load(profile, testcaddy.Site(profileAddr, "respond 503"))
	phase("no profile server", happens)
	oauth.down.Store(true)
	load(profile, serving)
	ready(t, profileAddr)
	testcaddy.Until(t, "its keys to be missed", func() bool { return profile.ProfileServerMetric("key_set_fetches_total", "outcome", "bad_status") > 0 })
	r.seen(t)
	r.seen(t)
	oauth.down.Store(false)
	keysFetched(t, profileAddr)

	load(edges[1].Server, testcaddy.Site(edges[1].accounts, testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(edges[1].shop, testcaddy.ProxyTo(behind.addr())), testcaddy.Site(edges[1].legacy, testcaddy.ProxyTo(behind.addr())))
	phase("a gate bypassed, one gone", happens, chosen, func(int) {
		send(t, behind, edges[0].legacy, "POST /api/beacon", "{}")
	})
	load(edges[1].Server, sites(edges[1], "enforce")...)

	other := lock(t, file)
	failed := make(chan int, 1)
	go func() {
		status, _, _ := tryChoose(profileAddr, "somebody", optOut)
		failed <- status
	}()
	phase("another issuer, a locked store", happens, func(int) {
		for range 10 {
			send(t, behind, edges[0].shop, "POST /api/beacon", "{}", session(people[0], map[string]any{"iss": "https://other.test"}), fromHere)
		}
	})
	if status := testcaddy.Await(t, "the profile server to give up", failed); status != http.StatusServiceUnavailable {
		t.Errorf("a choice that could not be stored: %d", status)
	}
	r.seen(t)
	_ = testcaddy.Must(other.Exec("ROLLBACK"))

	phase("mended", happens, chosen)
	r.to = r.seen(t)
	r.seen(t)
	return r
}

// startPrometheus scrapes targets, by what their instances are to be called.
func startPrometheus(t *testing.T, targets map[string]string) *rehearsal {
	r, configs := &rehearsal{targets: len(targets)}, []any{}
	for name, addr := range targets {
		// Prometheus tells nobody when it has scraped.
		between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			response, err := http.Get("http://" + addr + "/metrics")
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer response.Body.Close()
			w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
			if _, err := io.Copy(w, response.Body); err == nil {
				r.scrapes.Add(scrape{name, began})
			}
		}))
		t.Cleanup(between.Close)
		configs = append(configs, map[string]any{"targets": []string{between.Listener.Addr().String()}, "labels": map[string]string{"instance": name}})
	}
	r.prometheus, _ = runPrometheus(t, t.TempDir(), map[string]any{
		"global":         map[string]any{"scrape_interval": scraped.String(), "scrape_timeout": scraped.String(), "evaluation_interval": scraped.String()},
		"rule_files":     []string{testcaddy.Must(filepath.Abs(rulesFile))},
		"scrape_configs": []any{map[string]any{"job_name": "caddy", "static_configs": configs}},
	})
	return r
}

// A timeSeries is what a query finds: numbers, each with its time.
type timeSeries struct {
	Metric map[string]string
	Values [][2]any
}

// value is the nth number.
func (s timeSeries) value(n int) (at, value float64) {
	at, _ = s.Values[n][0].(float64)
	text, _ := s.Values[n][1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return at, math.NaN()
	}
	return at, value
}

// seen waits until Prometheus has asked every instance for what happened until now,
// and returns when that was. It has taken what it heard when it asks the next time.
func (r *rehearsal) seen(t *testing.T) time.Time {
	t.Helper()
	now := time.Now()
	r.scrapes.Wait(t, "all to be scraped", func(all []scrape) bool {
		since := map[string]bool{}
		for _, one := range all {
			if one.began.After(now) {
				since[one.of] = true
			}
		}
		return len(since) == r.targets
	})
	return time.Now()
}

// steps is how many points a query over the whole rehearsal finds, less one.
func (r *rehearsal) steps() int { return min(120, int(r.to.Sub(r.from)/scraped)) }

// run runs a query of the dashboard over the whole rehearsal.
func (r *rehearsal) run(t *testing.T, expr, instance, gate string) []timeSeries {
	t.Helper()
	long := r.to.Sub(r.from)
	expr = strings.NewReplacer("$__rate_interval", rates.String(), "$__range", fmt.Sprintf("%.0fs", long.Seconds()), "$instance", instance, "$gate", gate).Replace(expr)
	if strings.Contains(expr, "$") {
		t.Errorf("a variable that nobody knows: %s", expr)
	}
	unix := func(at time.Time) string { return fmt.Sprintf("%.3f", float64(at.UnixMilli())/1000) }
	var found struct{ Result []timeSeries }
	r.ask(t, "query_range", url.Values{
		"query": {expr}, "start": {unix(r.from)}, "end": {unix(r.to)}, "step": {fmt.Sprintf("%.3f", long.Seconds()/float64(r.steps()))},
	}, &found)
	return found.Result
}

func somethingIn(all []timeSeries) bool {
	for _, one := range all {
		for n := range one.Values {
			if _, value := one.value(n); value != 0 && !math.IsNaN(value) {
				return true
			}
		}
	}
	return false
}

// draw is the dashboard as one looks at it, with the rows that are open.
func (d *dashboard) draw(t *testing.T, r *rehearsal) string {
	long := r.to.Sub(r.from)
	drawn := plot.Dashboard{Title: d.Title, Long: long, Phases: r.phases}
	for _, panel := range d.Panels {
		at, defaults := panel.GridPos, panel.FieldConfig.Defaults
		one := plot.Panel{Title: panel.Title, X: at.X, Y: at.Y, W: at.W, H: at.H, Stacked: defaults.Custom.Stacking.Mode == "normal"}
		switch {
		case len(panel.Panels) > 0:
			one.Title = "▸ " + one.Title
		case panel.Type == "row":
			one.Title = "▾ " + one.Title
		default:
			one.Format = func(value float64) string { return inUnit(t, defaults.Unit, defaults.Decimals, value) }
		}
		for i, found := range panel.found {
			legend := panel.Targets[i].LegendFormat
			switch panel.Type {
			case "stat":
				one.Figures = append(one.Figures, panel.figure(legend, found, one.Format))
			case "timeseries":
				for _, series := range found {
					line := plot.Series{Name: legend, Values: slices.Repeat([]float64{math.NaN()}, r.steps()+1)}
					for label, value := range series.Metric {
						line.Name = strings.ReplaceAll(line.Name, "{{"+label+"}}", value)
					}
					for n := range series.Values {
						when, value := series.value(n)
						at := (when - float64(r.from.UnixMilli())/1000) / long.Seconds() * float64(r.steps())
						line.Values[int(math.Round(at))] = value
					}
					one.Lines = append(one.Lines, line)
				}
			default:
				t.Errorf("%s: nobody can draw a %s", panel.Title, panel.Type)
			}
		}
		drawn.Panels = append(drawn.Panels, one)
	}
	return drawn.SVG()
}

// figure is the last value that a query found, as the panel has it told.
func (p *dashboardPanel) figure(name string, found []timeSeries, format func(float64) string) plot.Figure {
	defaults := p.FieldConfig.Defaults
	figure := plot.Figure{Name: name, Text: cmp.Or(defaults.NoValue, "No data")}
	if len(found) == 0 {
		return figure
	}
	_, value := found[0].value(len(found[0].Values) - 1)
	figure.Text = format(value)
	for _, mapping := range defaults.Mappings {
		figure.Text = cmp.Or(mapping.Options[fmt.Sprint(value)].Text, figure.Text)
	}
	for _, step := range defaults.Thresholds.Steps {
		if step.Value == nil || value >= *step.Value {
			figure.Colour = map[string]string{"green": "#2da44e", "orange": "#d97706", "red": "#cf222e"}[step.Color]
		}
	}
	return figure
}

// inUnit is a number as Grafana shows it.
func inUnit(t *testing.T, unit string, decimals *int, value float64) string {
	precision := -1
	if decimals != nil {
		precision = *decimals
	}
	number := func(f float64) string {
		if precision < 0 { // three digits that count
			f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 3, 64), 64)
		}
		return strconv.FormatFloat(f, 'f', precision, 64)
	}
	switch unit {
	case "short":
		return number(value)
	case "reqps":
		return number(value) + "/s"
	case "percentunit":
		return number(100*value) + "%"
	case "s":
		if value > 0 && value < 1 {
			return number(1000*value) + " ms"
		}
		return number(value) + " s"
	case "bytes":
		return number(value/(1<<20)) + " MiB"
	}
	t.Errorf("nobody knows the unit %s", unit)
	return ""
}
