package gate

import (
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/internal/health"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// OutcomeHeader tells the application what the gate decided: block or collect.
// It is not the signal's name, so that a second gate cannot take an outcome for
// a browser's word. Clients' own copies never pass a Gate. Of several gates in a
// row any block blocks, so that none takes back what another one said.
const OutcomeHeader = "Metrics-Gate-Decision"

// Gate decides two kinds of requests: gated ones, which are non-essential
// metrics or hand out experiment assignments, and pages. Everything else passes
// untouched. It is safe for concurrent use.
type Gate struct {
	engine    engine
	shadow    bool
	reject    bool
	reply     string
	configs   []Route
	routes    routeTable
	pages     *pages
	handshake *handshake // nil: it is off
	observer  Observer
	host      Host
	log       *zap.Logger
	label     string
	traces    *Traces
	debug     bool     // every decision is logged
	origins   []string // that may read what is shown
	handedOn  handedOn
	upstream  *health.Health // of collected requests whose reply is hidden
}

// New checks a configuration and makes a Gate of it. Errors are ConfigErrors,
// joined where there are several.
func New(config Config) (*Gate, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	g := &Gate{
		shadow:   config.Shadow,
		reject:   config.Reject,
		reply:    config.Reply,
		origins:  config.origins(),
		observer: config.Observer.orNobody(),
		host:     config.Host.orPlain(),
		log:      config.Log,
		label:    config.Label,
		traces:   config.Traces,
	}
	if g.log == nil {
		g.log = zap.NewNop()
	}
	g.upstream = health.New(calm, g.logUpstream)
	g.debug = g.log.Core().Enabled(zap.DebugLevel)
	if g.traces == nil {
		g.traces = new(Traces) // of which none is ever open
	}
	ownRoutes := g.addRoutes(&config)
	if config.Handshake != nil && (!config.Shadow || config.Own != nil) {
		g.handshake = newHandshake(&config)
	}
	g.pages = newPages(&config, g.handshake)
	rules := policy.DefaultRules()
	if config.Rules != nil {
		rules = *config.Rules
	}
	g.engine = engine{
		rules:        rules,
		sessions:     config.Sessions,
		own:          config.Own,
		signals:      config.Signal.reader(),
		profile:      config.Profile,
		named:        len(g.Names()) > 0,
		pagesWait:    g.pages.private,
		writeBack:    config.WriteBack && config.Profile != nil && !config.Shadow,
		reportsWrite: config.Handshake != nil,
		kinds:        config.kinds(),
		lookedFor:    config.LookedFor,
		keys:         config.Keys,
	}
	if config.Own != nil {
		g.engine.sessions = append(slices.Clone(config.Sessions), config.Own)
	}
	sources := len(g.engine.sessions) + 1 // and the proofs
	g.engine.watch = newWatch(time.Now(), len(g.configs), ownRoutes, sources, g.observer.Warn)
	g.engine.countSession = g.observer.Session
	g.engine.observeSession = func(source int, _ string, outcome session.Outcome) {
		g.engine.watch.session(source, outcome)
		g.observer.Session(source, outcome)
	}
	g.engine.signals.Probing = g.handshake != nil && !g.shadow
	return g, nil
}

// addRoutes adds the routes of one's own, and then those of presets that none of
// them takes the place of. Where no account is known, what the requests of
// presets name is not read. It returns how many of the gated ones are one's own.
func (g *Gate) addRoutes(config *Config) (own int) {
	for _, route := range config.Routes {
		if route.Names == nil && route.ClassOrDefault() == ClassMetrics {
			route.Names = config.Names
		}
		g.addRoute(route)
	}
	own = len(g.configs)
	for _, used := range config.Presets {
		preset := presets[used.Name]
		for _, route := range preset.RoutesAt(used.Prefix) {
			if !config.knowsAccounts() {
				route.Names = nil
			}
			ready := route.prepare()
			route.Methods = slices.DeleteFunc(slices.Clone(route.Methods), func(method string) bool { return g.routes.has(method, ready) })
			if len(route.Methods) > 0 {
				g.addRoute(route)
			}
		}
	}
	return own
}

func (g *Gate) addRoute(route Route) {
	ready := route.prepare()
	if ready.reply == "" {
		ready.reply = g.reply
	}
	ready.index = len(g.configs)
	ready.names, _ = namesOf(route.Names) // validate has looked at it
	g.routes.add(ready)
	if !ready.essential {
		g.configs = append(g.configs, route)
	}
}

// Routes returns the gated routes: those of the configuration, and those of
// presets that they do not take the place of. What is essential is not among
// them. It is not to be changed.
func (g *Gate) Routes() []Route { return g.configs }

// Names returns where requests name accounts, each place once, such as
// "body uid".
func (g *Gate) Names() (places []string) {
	for i := range g.configs {
		if names := g.configs[i].Names; names != nil {
			places = append(places, names.Places()...)
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

// Next is the rest of the way that a request goes: the application, or what
// stands in front of it, such as Caddy's next handler. Its errors come back from
// Gate.ServeHTTP. It is an interface, and no function, because a function made
// of Caddy's handler would have to be allocated for every request.
type Next = interface {
	ServeHTTP(w http.ResponseWriter, r *http.Request) error
}

// NextFunc is a function that is a Next.
type NextFunc func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP calls f.
func (f NextFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) error { return f(w, r) }

// Handler puts the gate in front of an application that is a plain
// http.Handler.
func (g *Gate) Handler(application http.Handler) http.Handler {
	next := NextFunc(func(w http.ResponseWriter, r *http.Request) error {
		application.ServeHTTP(w, r)
		return nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = g.ServeHTTP(w, r, next) // next never fails
	})
}

// ServeHTTP decides gated requests and pages and passes everything else to
// next. Its errors are those of next.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, next Next) error {
	var trace *Trace // nil: nobody asks for one
	if g.debug || g.traces.open.Load() > 0 {
		if trace = g.trace(r); trace != nil {
			r = r.WithContext(trace.keep(r.Context()))
		}
	}
	// Clients' own copies go first and on every path, or somebody could tell
	// the application what the gate decided (compare GHSA-7r4p-vjf4-gxv4). What
	// a gate in front of this one has said stays.
	if r.Header[OutcomeHeader] != nil && !g.host.Decided(r) {
		delete(r.Header, OutcomeHeader)
	}
	if r.Header[TraceHeader] != nil {
		delete(r.Header, TraceHeader)
	}
	if len(r.Trailer) > 0 {
		removeOwnTrailers(r)
	}

	if serve := g.handshake.address(r); serve != nil {
		g.write(trace, TraceOwn, "")
		g.host.Conceal(r, r.URL.Path)
		serve(g, w, r)
		return nil
	}
	page := isPage(r)
	switch route := g.gatedRoute(r, page); {
	case route != nil:
		return g.serveGated(w, r, route, trace, next)
	case page:
		return g.servePage(w, r, trace, next)
	}
	g.write(trace, TraceUntouched, TraceShown)
	return next.ServeHTTP(w, r)
}

// gatedRoute returns the route that gates a request, or nil: by its present
// method and URL or, where no route takes those, by what the request came with
// before handlers in front of the gate rewrote it.
func (g *Gate) gatedRoute(r *http.Request, page bool) *gatedRoute {
	route := g.routes.matchURL(r.Method, r.URL)
	if route == nil && !page && g.host.Original != nil {
		if method, u := g.host.Original(r); u != nil && g.routes.lookUp(r.Method, r.URL) == nil {
			route = g.routes.matchURL(method, u)
		}
	}
	return route
}

// RouteOf returns the index in Routes of the route that gates a request, for
// those who look whether requests get past the gate. It decides nothing.
func (g *Gate) RouteOf(r *http.Request) (index int, gated bool) {
	route := g.gatedRoute(r, isPage(r))
	if route == nil {
		return NoRoute, false
	}
	return route.index, true
}

// AnswerUndecided answers a request with what a blocked one of the route gets,
// without a decision: for a request that nothing may pass on, because it got
// past the gate. Index is that of RouteOf.
func (g *Gate) AnswerUndecided(w http.ResponseWriter, r *http.Request, index int) {
	for _, route := range g.routes.routes {
		if route.index == index && !route.essential {
			drain(r, true)
			g.answer(w, r, route, route.answer)
		}
	}
}

// gatedBodyTime is how long the body of a gated request may take to arrive: it
// is held until it is decided, and the server's own timeout may be none.
const gatedBodyTime = 10 * time.Second

// serveGated decides a gated request, and answers or passes it.
func (g *Gate) serveGated(w http.ResponseWriter, r *http.Request, route *gatedRoute, trace *Trace, next Next) error {
	if hasBody(r) {
		limitTime(w, gatedBodyTime)
	}
	v := g.engine.Gated(r, route, trace)
	decision := v.decision
	blocks := decision.Action == policy.Block
	hides := !blocks && !g.shadow && g.hides(r, route, &v)
	g.observer.Decided(r, route.index, decision, hides)
	if trace != nil {
		configured := &g.configs[route.index]
		trace.Route, trace.Class = configured.Path, configured.ClassOrDefault()
		if configured.Names != nil && !blocks && !v.recognised {
			trace.Names = configured.Names.Places()
		}
		g.write(trace, TraceGated, g.replyTo(blocks, hides))
	}
	switch {
	case g.shadow:
		return next.ServeHTTP(w, r)
	case blocks:
		if v.optedOut() {
			g.remember(w, r)
		}
		g.block(w, r, route, &v)
		return nil
	}
	if decision.Reason == policy.ReasonExplicitAllow {
		g.forget(w, r)
	}
	switch {
	case hides:
		g.passHidden(w, r, route, decision, trace, next)
		return nil
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return g.passUncached(w, r, decision, next)
	default:
		return g.pass(w, r, decision, next)
	}
}

// replyTo is what a trace says of the reply to a gated request.
func (g *Gate) replyTo(blocks, hides bool) string {
	switch {
	case hides:
		return TraceHidden
	case blocks && !g.shadow:
		return TraceBlocked
	default:
		return TraceShown
	}
}
