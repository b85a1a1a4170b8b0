package caddymodule

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/caddymodule/internal/span"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// host is what Caddy does for the gate.
func (g *Gate) host() gate.Host {
	return gate.Host{
		// Caddy looks at its trusted_proxies once for each request.
		Trusts: func(r *http.Request) bool {
			trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
			return trusted
		},
		Detach: detach,
		Original: func(r *http.Request) (string, *url.URL) {
			if !g.rewriting.isPossible(r) {
				return "", nil
			}
			return g.original(r)
		},
		// Every gate, one in shadow mode as well, removes clients' copies before it
		// decides, and publishes what it decided.
		Decided: func(r *http.Request) bool {
			repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if !ok {
				return false
			}
			_, decided := repl.Get(decisionPlaceholder)
			return decided
		},
		StatusOf: func(err error) int {
			if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && handlerErr.StatusCode != 0 {
				return handlerErr.StatusCode
			}
			return http.StatusInternalServerError
		},
		Unreached: func(err error) error {
			// It holds the network's error, and does not unwrap to it.
			if dial, ok := errors.AsType[reverseproxy.DialError](err); ok {
				return dial
			}
			return nil
		},
		Conceal: func(r *http.Request, route string) {
			if !g.LogBlocked {
				caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
			}
			span.Conceal(r.Context(), route).End()
		},
	}
}

// observer counts what the gate does, and tells the handlers that follow what
// was decided. Kinds are those of the sessions.
func (g *Gate) observer(kinds []string) gate.Observer {
	label := g.label()
	sessions := make([][session.OutcomeCount]prometheus.Counter, len(kinds))
	for i, kind := range kinds {
		for outcome := range session.OutcomeCount {
			sessions[i][outcome] = sessionsTotal.WithLabelValues(kind, outcome.String(), label)
		}
	}
	detached := detachedRequests.WithLabelValues(label)
	return gate.Observer{
		Decided:     g.decided,
		Session:     func(source int, outcome session.Outcome) { sessions[source][outcome].Inc() },
		Hidden:      func(class string) { upstreamTotal.WithLabelValues(class, label).Inc() },
		Detached:    func(change int) { detached.Add(float64(change)) },
		Report:      func(outcome gate.ReportOutcome) { signalsTotal.WithLabelValues(outcome.String(), label).Inc() },
		Page:        func(result browser.Result) { pagesTotal.WithLabelValues(result.String(), label).Inc() },
		FlagsMissed: func() { pagesTotal.WithLabelValues("no_flags", label).Inc() },
		Choice: func(choice browser.Choice, result browser.ChoiceResult) {
			choicesTotal.WithLabelValues(choice.String(), result.String(), label).Inc()
		},
		Traced: tracesTotal.WithLabelValues(traceWritten).Inc,
		Warn:   g.logWarning,
	}
}

// The values of the placeholders, boxed once.
var (
	actionValues = [...]any{policy.Block: policy.Block.String(), policy.Collect: policy.Collect.String()}
	reasonValues = func() (values [policy.ReasonCount]any) {
		for reason := range policy.ReasonCount {
			values[reason] = reason.String()
		}
		return values
	}()
)

// decided counts a decision, and publishes it as placeholders and for the
// matcher.
func (g *Gate) decided(r *http.Request, route int, decision policy.Decision, hidden bool) {
	if route != gate.NoRoute {
		g.requests[route].of(decision, hidden).Inc()
		g.describe(r, route, decision)
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(decisionPlaceholder, actionValues[decision.Action])
		repl.Set(reasonPlaceholder, reasonValues[decision.Reason])
	}
	g.rememberDecided(r)
	if decision.Action == policy.Block && !g.shadow {
		caddyhttp.SetVar(r.Context(), optOutVar, true)
	}
}

// describe adds what was decided of a gated request to its span, if it has one.
// What shadow mode would have blocked keeps the client's address in its span,
// beside which "opted out" would be a record of a person: of that it says nothing.
func (g *Gate) describe(r *http.Request, route int, decision policy.Decision) {
	if g.tracing.isPossible(r) && (decision.Action == policy.Collect || !g.shadow) {
		span.Describe(r.Context(), g.gate.Routes()[route].Path, decision.Action.String(), decision.Reason.String())
	}
}

// requestCounters are a route's counters, by reason and by what the client gets,
// so that counting a request is one atomic addition.
type requestCounters struct {
	blocked, shown, hidden [policy.ReasonCount]prometheus.Counter
}

func countersOf(route *gate.Route, mode, label string) (counters requestCounters) {
	of := func(action policy.Action, reason policy.Reason, reply string) prometheus.Counter {
		return requestsTotal.WithLabelValues(route.Path, route.ClassOrDefault(), action.String(), reason.String(), reply, mode, label)
	}
	instead := gate.TraceBlocked
	if mode == ModeShadow { // which stops nothing
		instead = gate.TraceShown
	}
	for reason := range policy.ReasonCount {
		counters.blocked[reason] = of(policy.Block, reason, instead)
		counters.shown[reason] = of(policy.Collect, reason, gate.TraceShown)
		if mode != ModeShadow {
			counters.hidden[reason] = of(policy.Collect, reason, gate.TraceHidden)
		}
	}
	return counters
}

// of returns the counter of a decision.
func (c *requestCounters) of(decision policy.Decision, hidden bool) prometheus.Counter {
	switch {
	case decision.Action == policy.Block:
		return c.blocked[decision.Reason]
	case hidden:
		return c.hidden[decision.Reason]
	default:
		return c.shown[decision.Reason]
	}
}
