package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

func init() { caddy.RegisterModule(Gate{}) }

// Gate makes a site honour its users' metrics opt-out. It stands in front of
// the application and decides two kinds of requests: gated ones, which are
// non-essential metrics or hand out experiment assignments, and pages, whose
// decision the application learns from the header Metrics-Gate-Decision.
// Everything else passes untouched.
//
// A gated request is blocked where the account that it proves, or one that
// it names, opted out; where its browser says so; and, unless configured
// otherwise, where that could not be learnt. A blocked request gets its
// route's answer, which looks like the application's own success.
//
// Placeholders {http.metrics_gate.decision} (block or collect) and
// {http.metrics_gate.reason} are set on what was decided.
type Gate struct {
	// Mode is "enforce" (default) or "shadow". Shadow looks up, decides and
	// counts, but blocks nothing and changes nothing: opted-out users are
	// still measured.
	Mode string `json:"mode,omitempty"`

	// Preset adds the gated routes of a known application: "fxa" is the
	// Firefox Accounts content server, with BodyUID uid. A route of your own
	// for the same method and path takes the place of the preset's.
	Preset string `json:"preset,omitempty"`

	// Routes are the gated routes. Without any, and without a preset, the
	// configuration is refused, since nothing would be gated.
	Routes []Route `json:"routes,omitempty"`

	// BlockWith is what happens to blocked metrics requests: "drop" (default)
	// gives the route's answer, "reject" a 403 with application/problem+json.
	// Experiment routes always get their answer, and a block that only a
	// named account caused is always a drop.
	BlockWith string `json:"block_with,omitempty"`

	// OnUnknown is "block" (default) or "collect": what happens where a
	// preference could not be learnt.
	OnUnknown string `json:"on_unknown,omitempty"`

	// OnUnset is "collect" (default) or "block": what happens where nobody
	// chose anything. Block is for where consent comes first.
	OnUnset string `json:"on_unset,omitempty"`

	// Sessions are the ways in which a request can prove its account, in the
	// order in which they are tried. Default: none, so that only signals and
	// named accounts count.
	Sessions []Session `json:"sessions,omitempty"`

	// BodyUID is the top-level string field of a JSON body that names an
	// account. A name can cause a block of a metrics request, nothing else.
	// Where it is set, clients get the route's answer to collected metrics
	// requests as well, so that nobody can ask for another account's
	// preference by naming it. Default: none; "uid" with the preset fxa.
	BodyUID string `json:"body_uid,omitempty"`

	// Profile is the service that owns the preference. Required where there
	// are sessions or a BodyUID, unless every session has an optout_claim.
	Profile *Profile `json:"profile,omitempty"`

	// Signal adds to where the browser's word is found. Default: the cookie
	// metrics_optout and the header Metrics-Optout.
	Signal *Signal `json:"signal,omitempty"`

	// WriteBack writes the browser's opt-out into a verified session's
	// profile that holds no choice. Default: true with auth mint, else false.
	WriteBack *bool `json:"write_back,omitempty"`

	// Handshake asks the browser whether its user already switched telemetry
	// off, and brings a page to choose on. Default: off.
	Handshake *Handshake `json:"handshake,omitempty"`

	// ExperimentParams are the query parameters that force experiments. They
	// are taken out of the navigations of blocked users. Pages then wait for
	// a lookup, at most the profile's timeout. Default: none.
	ExperimentParams []string `json:"experiment_params,omitempty"`

	// FeatureFlags overrides what a page says of features in a <meta>, for
	// blocked users only. Pages then wait for a lookup, at most the profile's
	// timeout. Default: none.
	FeatureFlags *FeatureFlags `json:"feature_flags,omitempty"`

	// LogBlocked keeps blocked requests in the access log. Default: false,
	// because an address beside "opted out" is itself a record of a person.
	LogBlocked bool `json:"log_blocked,omitempty"`

	shadow    bool
	reject    bool
	writeBack bool
	rules     policy.Rules
	routes    routeTable
	sessions  session.Sources
	signals   *session.Signals
	bodyName  *session.BodyName
	profile   *profileclient.Client
	handshake *handshake
	pages     pages

	// lookupTime is how long a request waits for lookups, all together.
	lookupTime time.Duration

	countSession func(source int, outcome session.Outcome)
	noStore      *headers.Handler
	silence      *silence
	leases       leases
	logger       *zap.Logger
}

const (
	modeEnforce = "enforce"
	modeShadow  = "shadow"

	blockDrop   = "drop"
	blockReject = "reject"

	// outcomeHeader tells the application what the gate decided. It is not
	// the signal's name, so that a second gate cannot take an outcome for a
	// browser's word.
	outcomeHeader = "Metrics-Gate-Decision"

	decisionPlaceholder = "http.metrics_gate.decision"
	reasonPlaceholder   = "http.metrics_gate.reason"
)

// CaddyModule returns the Caddy module information.
func (Gate) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.metrics_gate",
		New: func() caddy.Module { return new(Gate) },
	}
}

// Provision resolves everything that can be resolved before there are
// requests. It uses no network, so that neither caddy validate nor a reload
// ever hangs on it.
func (g *Gate) Provision(ctx caddy.Context) error {
	g.logger = ctx.Logger()
	if err := g.check(); err != nil {
		return err
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return at(err, "metrics_gate")
	}
	g.shadow = g.Mode == modeShadow
	g.reject = g.BlockWith == blockReject
	g.rules = policy.DefaultRules()
	if g.OnUnknown != "" {
		g.rules.OnUnknown, _ = policy.ParseAction(g.OnUnknown)
	}
	if g.OnUnset != "" {
		g.rules.OnUnset, _ = policy.ParseAction(g.OnUnset)
	}
	g.signals = g.Signal.reader()
	g.noStore = &headers.Handler{Response: &headers.RespHeaderOps{
		HeaderOps: &headers.HeaderOps{Set: http.Header{"Cache-Control": {"private, no-store"}}},
		Deferred:  true,
	}}
	g.provisionBodyName()

	repl := caddy.NewReplacer()
	problems := []error{g.provisionRoutes(), g.provisionSessions(repl)}
	if g.Profile != nil {
		client, err := g.Profile.client(repl, &g.leases)
		g.profile = client
		g.lookupTime = g.Profile.timeout()
		problems = append(problems, at(err, "profile"))
	}
	g.writeBack = g.Profile.canWrite()
	if g.WriteBack != nil {
		g.writeBack = *g.WriteBack && g.profile != nil
	}
	g.silence = newSilence(g)
	problems = append(problems, g.provisionBrowserSide(repl))
	if err := errors.Join(problems...); err != nil {
		return at(err, "metrics_gate")
	}
	g.warn()
	return nil
}

// provisionBrowserSide prepares what runs in the browser and what changes
// pages. Shadow mode has none of it.
func (g *Gate) provisionBrowserSide(repl *caddy.Replacer) error {
	if g.Handshake != nil {
		ready, err := g.Handshake.provision(repl)
		if err != nil {
			return at(err, "handshake")
		}
		if !g.shadow {
			g.handshake = ready
			g.signals.Probing = true
		}
	}
	if !g.shadow {
		g.pages = newPages(g)
	}
	return nil
}

func (g *Gate) provisionBodyName() {
	preset := presets[g.Preset]
	if field := cmp.Or(g.BodyUID, preset.bodyUID); field != "" {
		g.bodyName = &session.BodyName{Field: field}
		if field == preset.bodyUID {
			g.bodyName.Pattern = regexp.MustCompile(preset.bodyPattern)
		}
	}
}

func (g *Gate) provisionRoutes() error {
	mode := cmp.Or(g.Mode, modeEnforce)
	add := func(route Route) error {
		path, isPrefix := strings.CutSuffix(route.Path, "*")
		if !isPrefix && len(path) > 1 {
			path = strings.TrimSuffix(path, "/")
		}
		class := cmp.Or(route.Class, classMetrics)
		return g.routes.add(&gatedRoute{
			methods:    route.Methods,
			path:       path,
			experiment: class == classExperiment,
			answer:     route.Answer.prepare(),
			requests:   routeCounters(route.Path, class, mode),
		}, isPrefix)
	}
	for _, route := range g.Routes {
		if err := add(route); err != nil {
			return at(err, "route")
		}
	}
	for _, route := range presets[g.Preset].routes {
		own := route.Methods[:0:0]
		for _, method := range route.Methods {
			if g.routes.match(method, route.Path) == nil {
				own = append(own, method)
			}
		}
		if route.Methods = own; len(own) == 0 {
			continue
		}
		if err := add(route); err != nil {
			return at(err, "preset "+g.Preset)
		}
	}
	return nil
}

func (g *Gate) provisionSessions(repl *caddy.Replacer) error {
	var problems []error
	var counters [][session.OutcomeCount]prometheus.Counter
	for i := range g.Sessions {
		configured := &g.Sessions[i]
		source, err := configured.source(repl, &g.leases, g.Profile.maxEntries())
		if err != nil {
			problems = append(problems, at(err, numbered("session "+configured.kind(), i, len(g.Sessions))))
			continue
		}
		g.sessions = append(g.sessions, source)
		counters = append(counters, sessionCounters(configured.kind()))
	}
	g.countSession = func(source int, outcome session.Outcome) { counters[source][outcome].Inc() }
	return errors.Join(problems...)
}

// warn says at start what an operator should not learn from an incident.
func (g *Gate) warn() {
	if g.shadow {
		g.logger.Warn("shadow mode: opted-out users are still being measured; " +
			"see caddy_metrics_gate_requests_total{mode=\"shadow\",decision=\"block\"} and write enforce to stop it")
	}
	if g.profile == nil && g.bodyName != nil {
		g.logger.Warn("no profile is set, so the preference of an account that only a body names is always unknown; write profile <url>",
			zap.String("body_uid", g.bodyName.Field))
	}
	for i, configured := range g.Sessions {
		configured.warn(g.logger, "metrics_gate › "+numbered("session "+configured.kind(), i, len(g.Sessions)))
	}
}

// Validate makes sure that what the options say together makes sense.
func (g *Gate) Validate() error {
	var problems []error
	problem := func(word, format string, args ...any) { problems = append(problems, wrongAt(word, format, args...)) }

	hasToken, allClaim := false, len(g.Sessions) > 0
	for _, configured := range g.Sessions {
		hasToken = hasToken || configured.credential() != nil
		allClaim = allClaim && configured.JWT != nil && configured.JWT.OptOutClaim != ""
	}
	switch {
	case g.Profile == nil && len(g.Sessions) > 0 && !allClaim:
		problem("profile", "none given, so no account's preference could ever be learnt; write profile <url>, or optout_claim in every session")
	case g.Profile == nil && g.bodyName != nil && !allClaim:
		problem("profile", "none given, so the preference of an account that a body names (body_uid %s) could never be learnt; write profile <url>", g.bodyName.Field)
	case g.Profile == nil && g.WriteBack != nil && *g.WriteBack:
		problem("write_back", "there is no profile to write into; write profile <url>, or leave it out")
	case g.Profile != nil && g.Profile.isReadOnly() && g.WriteBack != nil && *g.WriteBack:
		problem("write_back", "api fxa is never written to; leave write_back out")
	case g.Profile != nil && len(g.Sessions) == 0 && g.bodyName == nil:
		problem("profile", "nothing says whose preference to ask for; write session, or body_uid <field>")
	case g.Profile != nil && g.Profile.Auth.Forward && !hasToken:
		problem("profile › auth forward", "no session has a token to forward; write session jwt or session introspect, or use auth mint")
	}
	return at(errors.Join(problems...), "metrics_gate")
}

// check makes sure that every option by itself is well-formed. Provision
// relies on it, so it comes first.
func (g *Gate) check() error {
	var problems []error
	oneOf := func(option, value string, words ...string) {
		if value != "" && !slices.Contains(words, value) {
			problems = append(problems, wrongAt(option, "%q is not one of %s", value, strings.Join(words, ", ")))
		}
	}
	oneOf("mode", g.Mode, modeEnforce, modeShadow)
	oneOf("block_with", g.BlockWith, blockDrop, blockReject)
	oneOf("on_unknown", g.OnUnknown, policy.Block.String(), policy.Collect.String())
	oneOf("on_unset", g.OnUnset, policy.Collect.String(), policy.Block.String())
	oneOf("preset", g.Preset, "fxa")
	if g.Preset == "" && len(g.Routes) == 0 {
		problems = append(problems, errors.New("nothing is gated; write preset fxa, or route <METHOD> <path>"))
	}
	for _, route := range g.Routes {
		problems = append(problems, at(route.validate(), "route "+route.Path))
	}
	if g.Profile != nil {
		problems = append(problems, at(g.Profile.validate(), "profile"))
	}
	problems = append(problems, at(g.Signal.validate(), "signal"))
	problems = append(problems, at(g.Handshake.validate(), "handshake"), at(g.FeatureFlags.validate(), "feature_flags"))
	return at(errors.Join(problems...), "metrics_gate")
}

// ServeHTTP decides gated requests and pages and passes everything else.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// Clients' own copies go first and on every path, or somebody could tell
	// the application what the gate decided (compare GHSA-7r4p-vjf4-gxv4).
	delete(r.Header, outcomeHeader)

	if g.handshake != nil {
		if serve := g.handshake.address(r.URL.Path); serve != nil {
			g.serveOwn(w, r, serve)
			return nil
		}
	}
	route := g.routes.match(r.Method, r.URL.Path)
	if route == nil {
		if isPage(r) {
			return g.servePage(w, r, next)
		}
		return next.ServeHTTP(w, r)
	}

	decision := g.decideGated(r, route)
	route.requests[decision.Action][decision.Reason].Inc()
	g.publish(r, decision)
	switch {
	case g.shadow:
		return next.ServeHTTP(w, r)
	case decision.Action == policy.Block:
		if decision.Reason == policy.ReasonPreference && !decision.ByName {
			g.stick(w, r)
		}
		g.block(w, r, route, decision)
		return nil
	}
	if decision.Reason == policy.ReasonExplicitAllow {
		g.unstick(w, r)
	}
	switch {
	case g.namesDecide(route):
		g.passUnseen(w, r, route, decision, next)
		return nil
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return g.pass(w, r, decision, g.uncached(next))
	default:
		return g.pass(w, r, decision, next)
	}
}

// uncached keeps the reply to a collected request out of every cache: the
// next person behind it may have opted out.
func (g *Gate) uncached(next caddyhttp.Handler) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		err := g.noStore.ServeHTTP(w, r, next)
		if err != nil { // for what handle_errors answers in its place
			w.Header().Set("Cache-Control", "private, no-store")
		}
		return err
	})
}

// Cleanup gives back the shared state that this instance took, if any.
func (g *Gate) Cleanup() error { return g.leases.release() }

// Interface guards
var (
	_ caddy.Module                = (*Gate)(nil)
	_ caddy.Provisioner           = (*Gate)(nil)
	_ caddy.Validator             = (*Gate)(nil)
	_ caddy.CleanerUpper          = (*Gate)(nil)
	_ caddyhttp.MiddlewareHandler = (*Gate)(nil)
	_ caddyfile.Unmarshaler       = (*Gate)(nil)
)
