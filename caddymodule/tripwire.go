package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
)

func init() {
	caddy.RegisterModule(Tripwire{})
	httpcaddyfile.RegisterHandlerDirective("metrics_gate_tripwire", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		tripwire := new(Tripwire)
		return tripwire, tripwire.UnmarshalCaddyfile(h.Dispenser)
	})
	// Before everything else, so that it wraps the site: a proxy inside of a
	// handle never reaches what is ordered after it.
	httpcaddyfile.RegisterDirectiveOrder("metrics_gate_tripwire", httpcaddyfile.Before, "tracing")
}

// Tripwire finds requests that get past the gates of its configuration: those
// that a gate would gate, by their present method and path or by those that
// they came with, and that no gate decided. A gate that is never reached says
// nothing by itself.
//
// It counts each in caddy_metrics_gate_tripwire_total and logs an error, at
// most one in ten minutes for each gate and route. What Caddy itself refused
// before a gate could see it, such as a wrong password, is none of them.
type Tripwire struct {
	// Refuse answers such a request in place of the handlers that follow, with
	// what a blocked one gets. It belongs in front of a proxy, and behind the
	// gate where there is one. Without it, the request is looked at when
	// everything that follows has ended. Gates in shadow mode do not count
	// then, since they stop nothing. Default: false.
	Refuse bool `json:"refuse,omitempty"`

	// Gates are the labels of the gates that count. Default: all gates of the
	// configuration.
	Gates []string `json:"gates,omitempty" placeholder:"refused"`

	wires  func() []*wire // one a gate
	logger *zap.Logger
}

const tripwireID = "http.handlers.metrics_gate_tripwire"

// wire is a gate that requests may get past.
type wire struct {
	gate   *Gate
	routes []wiredRoute // by the gate's
}

type wiredRoute struct {
	counter prometheus.Counter

	mu     sync.Mutex
	told   time.Time
	passed int // since then
	last   time.Time
	advice string // on the last one
	all    int
}

// CaddyModule returns the Caddy module information.
func (Tripwire) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  tripwireID,
		New: func() caddy.Module { return new(Tripwire) },
	}
}

// Provision makes the tripwire known to the app that knows the gates, once all of
// them are provisioned.
func (t *Tripwire) Provision(ctx caddy.Context) error {
	t.logger = ctx.Logger()
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return at(err, "metrics_gate_tripwire")
	}
	app, err := siblings.Of(ctx)
	if err != nil {
		return at(err, "metrics_gate_tripwire")
	}
	// The gates are all known when there are requests, and no sooner.
	t.wires = sync.OnceValue(func() []*wire { return t.wiresOf(siblings.All[*Gate](app)) })
	app.Join(t)
	return nil
}

// CheckSiblings refuses labels that no gate has.
func (t *Tripwire) CheckSiblings(a *siblings.App) error {
	gates := siblings.All[*Gate](a)
	labels := make([]string, len(gates))
	for i, g := range gates {
		labels[i] = g.label()
	}
	for _, label := range t.Gates {
		if !slices.Contains(labels, label) {
			slices.Sort(labels)
			return at(fmt.Errorf("no gate has the label %q; there are: %s", label, strings.Join(slices.Compact(labels), ", ")), "metrics_gate_tripwire")
		}
	}
	if len(gates) == 0 {
		return at(errors.New("this configuration has no gate that a request could get past; write metrics_gate, or leave it out"), "metrics_gate_tripwire")
	}
	return nil
}

// wiresOf are those of the gates that count.
func (t *Tripwire) wiresOf(gates []*Gate) (wires []*wire) {
	for _, g := range gates {
		if t.Refuse && g.shadow || len(t.Gates) > 0 && !slices.Contains(t.Gates, g.label()) {
			continue
		}
		w := &wire{gate: g, routes: make([]wiredRoute, len(g.gate.Routes()))}
		for i, route := range g.gate.Routes() {
			w.routes[i].counter = tripwireTotal.WithLabelValues(route.Path, g.label())
		}
		wires = append(wires, w)
	}
	return wires
}

// ServeHTTP looks at the request before what follows if that is to be refused,
// and else afterwards.
func (t *Tripwire) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	if t.Refuse {
		if past, route := t.passed(r); past != nil {
			t.tell(r, past, route, "it was refused")
			past.gate.gate.AnswerUndecided(w, r, route)
			return nil
		}
		return next.ServeHTTP(w, r)
	}
	// Deferred, since Caddy's proxy panics where the application breaks off its
	// reply. It has the request by then.
	defer func() {
		if refused, ok := errors.AsType[caddyhttp.HandlerError](err); ok && refused.StatusCode >= 400 && refused.StatusCode < 500 {
			return
		}
		if past, route := t.passed(r); past != nil {
			t.tell(r, past, route, "it was answered, and what it told may have been kept")
		}
	}()
	return next.ServeHTTP(w, r)
}

// passed returns the gate, and the index of its route, that a request got
// past, or nil. Every gate publishes its decisions as a placeholder.
func (t *Tripwire) passed(r *http.Request) (*wire, int) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if repl == nil {
		return nil, 0
	}
	for _, wire := range t.wires() {
		route, gated := wire.gate.gate.RouteOf(r)
		if !gated {
			continue
		}
		if _, decided := repl.Get(decisionPlaceholder); decided {
			return nil, 0
		}
		return wire, route
	}
	return nil, 0
}

// tellEvery is how often a route's tripwire is logged: one line says it, and a
// leak may be thousands of requests a second.
const tellEvery = 10 * time.Minute

const (
	adviceOnBypass = "something in front of the gate answers, or a handle that the gate is not in; " +
		"write metrics_gate in front of the proxy, inside the same handle or route"
	// A gate looks at the path that a request came with as well.
	adviceOnRewritten = "they came by another path, and were rewritten to this one where no gate comes after (handle_path, uri, rewrite); " +
		"write metrics_gate behind that and in front of the proxy, inside the same handle or route"
)

// tell counts and logs that a request got past a gate.
func (t *Tripwire) tell(r *http.Request, past *wire, index int, fate string) {
	configured := past.gate.gate.Routes()[index]
	came, advice := "as it came", adviceOnBypass
	if method, u := past.gate.original(r); u != nil {
		came, advice = "rewritten", adviceOnRewritten
		if configured.Takes(method, u.Path) {
			came, advice = "as it came, and rewritten since", adviceOnBypass
		}
	}
	route := &past.routes[index]
	route.counter.Inc()
	route.mu.Lock()
	route.passed++
	route.all++
	passed, now := route.passed, time.Now()
	route.last, route.advice = now, advice
	due := route.told.IsZero() || now.Sub(route.told) >= tellEvery
	if due {
		route.told, route.passed = now, 0
	}
	route.mu.Unlock()
	if !due {
		return
	}
	fields := []zap.Field{
		zap.String("gate", past.gate.label()), zap.String("route", configured.Path), zap.Int("requests", passed),
		zap.String("fate", fate), zap.String("matched", came),
		zap.String("advice", advice),
	}
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		fields = append(fields, zap.String("server", server.Name()))
	}
	t.logger.Error("a request that this gate would gate was decided by no gate", fields...)
}

// UnmarshalCaddyfile sets up the tripwire:
//
//	metrics_gate_tripwire [refuse] [<label>...]
func (t *Tripwire) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		for d.NextArg() {
			switch {
			case d.Val() == "refuse" && !t.Refuse && len(t.Gates) == 0:
				t.Refuse = true
			case checkLabel(d.Val()) != nil || d.Val() == "":
				return d.WrapErr(at(checkLabel(d.Val()), "metrics_gate_tripwire"))
			case slices.Contains(t.Gates, d.Val()):
				return d.Errf("metrics_gate_tripwire: the label %s is there twice; leave one out", d.Val())
			default:
				t.Gates = append(t.Gates, d.Val())
			}
		}
		if d.NextBlock(0) {
			return d.Errf("metrics_gate_tripwire takes no block; write metrics_gate_tripwire [refuse] [<label>...] in one line")
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Module                = (*Tripwire)(nil)
	_ caddy.Provisioner           = (*Tripwire)(nil)
	_ caddyhttp.MiddlewareHandler = (*Tripwire)(nil)
	_ caddyfile.Unmarshaler       = (*Tripwire)(nil)
	_ siblings.Checker            = (*Tripwire)(nil)
)
