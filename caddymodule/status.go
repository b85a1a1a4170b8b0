package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	dto "github.com/prometheus/client_model/go"

	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/internal/build"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// watched is what a gate reports of.
type watched struct {
	kinds   []string        // of sessions, as they are counted
	keys    []func() string // of those that requests carry: what they verify with
	bearers []*session.Bearer
	own     *session.Own          // nil: pages prove nobody
	profile *profileclient.Client // nil: only tokens say what accounts prefer
}

// keysOf says what a session verifies with, by its source, where that stands in the
// configuration.
func (w *watched) keysOf(source int) string {
	if source >= len(w.keys) {
		return ""
	}
	return w.keys[source]()
}

// Report adds the gate to a status.
func (g *Gate) Report(_ context.Context, s *status.Status) {
	seen := g.gate.Seen()
	where := "gate " + g.label()
	report := status.Gate{
		Label: g.label(), Mode: g.mode(), Since: seen.Since.UTC(), Pages: seen.Pages, Window: seen.Window.UTC(),
	}
	report.Hosts, report.Ports = g.layout.gated[g.label()].hosts, g.layout.gated[g.label()].ports
	if g.shadow {
		report.WouldBlock = g.blocked()
	}
	for i, route := range g.gate.Routes() {
		report.Routes = append(report.Routes, status.Route{
			Methods: route.Methods, Path: route.Path, Class: route.ClassOrDefault(), Requests: seen.Requests[i],
		})
	}
	for i, kind := range g.watched.kinds {
		outcomes := map[string]int64{}
		for outcome, n := range seen.Sessions[i] {
			if n > 0 {
				outcomes[session.Outcome(outcome).String()] = n
			}
		}
		report.Sessions = append(report.Sessions, status.Session{Kind: kind, Outcomes: outcomes})
	}
	report.Profile = g.reportProfile(where, s)
	standings := make([]*token.Standing, len(g.watched.bearers))
	for i, bearer := range g.watched.bearers {
		standings[i] = bearer.Standing()
		report.Tokens += bearer.Len()
	}
	report.Asked = s.AskedFor(where, standings...)
	if g.watched.own != nil {
		report.Tokens += g.watched.own.Len()
	}
	for _, open := range seen.Warnings {
		message, advice, details := g.explain(open.Warning)
		if message == "" || g.isExplained(open.Warning) {
			continue
		}
		texts := make([]string, len(details))
		for i, d := range details {
			texts[i] = fmt.Sprint(d.name, " ", d.value)
		}
		s.Wrong = append(s.Wrong, status.Problem{
			Where: where, What: message + " (" + strings.Join(texts, ", ") + ")", Advice: advice, Since: open.Since.UTC(), Traffic: true,
		})
	}
	s.Gates = append(s.Gates, report)
}

// reportProfile is how the profile server does that the gate asks.
func (g *Gate) reportProfile(where string, s *status.Status) *status.Profile {
	client := g.watched.profile
	if client == nil {
		return nil
	}
	standing := client.Standing()
	report := &status.Profile{URL: g.Profile.URL, Failure: status.FailureOf(standing.Profile)}
	report.Preferences, report.NamedPreferences = client.Entries()
	wrong := func(what, advice string, failure *status.Failure) {
		if failure != nil {
			s.Wrong = append(s.Wrong, status.Problem{Where: where, What: what + ": " + failure.Error, Advice: advice, Since: failure.Since})
		}
	}
	wrong("the profile server fails", stepsFor(standing.Profile.Err)+g.ownServers()+". Until it answers, preferences that are not cached are unknown"+strings.TrimSuffix("; "+g.harm(g.rules().OnUnknown), "; "), report.Failure)
	// A feed of a server that fails altogether is no second fault.
	if failure := status.FailureOf(standing.Feed); client.Following() || failure != nil {
		report.Feed = &status.Feed{
			Connected: standing.Connected, AgeSeconds: client.FeedAge(time.Now()).Round(100 * time.Millisecond).Seconds(), Failure: failure,
		}
		advice := "if it is to have none, write follow off in profile"
		if isNetwork(standing.Feed.Err) {
			advice = stepsFor(standing.Feed.Err)
		}
		if report.Failure == nil {
			wrong("the change feed cannot be followed", advice+". Until then a change takes effect after max_age", failure)
		}
	}
	return report
}

// isExplained says whether a warning is of what the layout of the configuration causes,
// which is told by itself.
func (g *Gate) isExplained(w gate.Warning) bool {
	return w.Trouble == gate.RouteSilent && g.layout.explains(g.label(), g.silent(w.Route))
}

// silent are the routes that a warning is about which tells of one: of those of presets,
// the first stands for all.
func (g *Gate) silent(route int) []gate.Route {
	routes := g.gate.Routes()
	own := len(slices.DeleteFunc(slices.Clone(g.options.Routes), func(r gate.Route) bool { return r.ClassOrDefault() == gate.ClassEssential }))
	if route < own {
		return routes[route : route+1]
	}
	return routes[own:]
}

// blocked is how many requests gates of this label and mode have decided to block since
// Caddy was started.
func (g *Gate) blocked() (n int64) {
	for i := range g.requests {
		for _, counter := range g.requests[i].blocked {
			var metric dto.Metric
			if counter.Write(&metric) == nil {
				n += int64(metric.GetCounter().GetValue())
			}
		}
	}
	return n
}

// ownServers says where this Caddy's own profile servers are that the gate does not ask.
func (g *Gate) ownServers() string {
	asked, _ := url.Parse(g.options.Profile.URL)
	others := slices.DeleteFunc(slices.Clone(g.layout.profiles), func(address string) bool {
		own, err := url.Parse(address)
		return err != nil || asked != nil && own.Host == asked.Host
	})
	if len(others) == 0 {
		return ""
	}
	return "; this Caddy has a profile_server of its own, at " + strings.Join(others, " and ") + ": if that is the one to ask, write that into profile"
}

// isNetwork says whether something failed before anybody answered.
func isNetwork(err error) bool {
	_, is := errors.AsType[*net.OpError](err)
	return is
}

// stepsFor says what to do where a profile server fails.
func stepsFor(err error) string {
	if isNetwork(err) {
		return "look whether it runs, and whether the address in profile leads to it from this machine"
	}
	return "somebody is there and gives no preference: look at that answer, at the server's log, and whether the address in profile is the right one"
}

// measured is what it means that a gate decides nothing of requests.
const measured = "none of them is blocked, not even those of people who opted out; "

// Report adds to a status what got past gates in the last minutes.
func (t *Tripwire) Report(_ context.Context, s *status.Status) {
	for _, wire := range t.wires() {
		for i := range wire.routes {
			route := &wire.routes[i]
			route.mu.Lock()
			all, last, advice := route.all, route.last, route.advice
			route.mu.Unlock()
			if last.IsZero() || time.Since(last) > tellEvery {
				continue
			}
			gated := wire.gate.gate.Routes()[i]
			problem := status.Problem{
				Where: "gate " + wire.gate.label(),
				What: fmt.Sprintf("requests of %s were decided by no gate (requests %d, the last one at %s)",
					gated.Path, all, last.UTC().Format(time.TimeOnly)),
				Advice: measured + advice, Traffic: true,
			}
			for _, method := range gated.Methods {
				problem.Requests = append(problem.Requests, method+" "+gated.Path)
			}
			s.Wrong = append(s.Wrong, problem)
		}
	}
}

// serveStatus answers how everything does, with 503 where something is wrong.
func serveStatus(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refuseMethod("the status is read with GET")
	}
	// Lists that are empty are no null.
	s := &status.Status{Wrong: []status.Problem{}, Gates: []status.Gate{}, ProfileServers: []status.ProfileServer{}}
	s.Version, _ = build.Of()
	for _, reporter := range siblings.All[status.Reporter](siblings.Running()) {
		reporter.Report(r.Context(), s)
	}
	switch {
	case caddy.ActiveContext().Context == nil: // the admin API is there before all else
		s.Wrong = append(s.Wrong, status.Problem{
			Where: "configuration", What: "it is still being loaded, so nothing is known yet",
			Advice: "ask again in a few seconds; where that says the same, look at the end of Caddy's log",
		})
	case len(s.Gates)+len(s.ProfileServers) == 0:
		s.Wrong = append(s.Wrong, status.Problem{
			Where: "configuration", What: "it holds neither metrics_gate nor profile_server",
			Advice: "look which Caddyfile this Caddy was started with, and whether a reload was refused",
		})
	}
	code := http.StatusOK
	if len(s.Wrong) > 0 && r.URL.RawQuery != status.AlwaysOK {
		code = http.StatusServiceUnavailable
	}
	return writeJSON(w, code, s)
}

var (
	_ status.Reporter = (*Gate)(nil)
	_ status.Reporter = (*Tripwire)(nil)
)
