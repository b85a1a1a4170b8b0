package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/bearertoken"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
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
// {http.metrics_gate.reason} are set on what was decided. Of several gates in a
// row the last one sets them; in the header any block blocks.
type Gate struct {
	// Mode is "enforce" (default) or "shadow". Shadow looks up, decides and
	// counts, but blocks nothing and changes nothing: opted-out users are
	// still measured.
	Mode string `json:"mode,omitempty" placeholder:"refused"`

	// Label is what this gate is called in its metrics (as their label gate) and
	// in its logs: letters, digits, "_", "-" and ".". Gates of one label count
	// together. Default: "default".
	Label string `json:"label,omitempty" placeholder:"refused"`

	// Presets add the gated routes of known applications and SDKs, with where
	// their requests name accounts, such as "fxa", the Firefox Accounts content
	// server. A route of your own for the same method and path takes the place of
	// a preset's.
	Presets []gate.UsedPreset `json:"presets,omitempty" word:"preset"`

	// Routes are the gated routes, and the exceptions from them. Without any
	// that is gated, and without a preset, the configuration is refused.
	Routes []gate.Route `json:"routes,omitempty"`

	// BlockWith is what happens to blocked metrics requests: "drop" (default)
	// gives the route's answer, "reject" a 403 with application/problem+json.
	// Experiment routes always get their answer, and a block that only a
	// named account caused is always a drop.
	BlockWith string `json:"block_with,omitempty" placeholder:"refused"`

	// Reply is what clients get when their metrics request is collected, for
	// routes that do not say it themselves: "show", the application's reply, or
	// "hide", the route's answer, as if it had been blocked. Default: hide where
	// an account that is only named can decide or was looked up, and for every
	// sender that is another site's page; show elsewhere.
	Reply string `json:"reply,omitempty" placeholder:"refused"`

	// CORS lists the origins, such as https://www.example.org, whose pages may
	// read answers where replies are shown. Where they are hidden every page
	// may, since the answer is the same for everyone. Default: none.
	CORS []string `json:"cors,omitempty"`

	// OnUnknown is "block" (default) or "collect": what happens where a
	// preference could not be learnt.
	OnUnknown string `json:"on_unknown,omitempty" placeholder:"refused"`

	// OnUnset is "collect" (default) or "block": what happens where nobody
	// chose anything. Block is for where consent comes first.
	OnUnset string `json:"on_unset,omitempty" placeholder:"refused"`

	// Sessions are the ways in which a request can prove its account, in the
	// order in which they are tried. Default: none, so that only signals and
	// named accounts count.
	Sessions []Session `json:"sessions,omitempty" word:""`

	// SessionKey are secrets of at least 32 bytes that seal the gate's own session,
	// where pages prove their account: the first one seals, all of them open.
	// Write each as {env.NAME} or {file./path}. Default: a key derived from that
	// of auth mint.
	SessionKey []string `json:"session_key,omitempty"`

	// Names says where requests of metrics routes name accounts, but for routes
	// that say it themselves and those of presets. A name can cause a block
	// of a metrics request, nothing else. Where it is set, clients get the
	// route's answer to collected metrics requests as well, so that nobody can
	// ask for another account's preference by naming it. Default: nowhere.
	Names *session.NamesConfig `json:"names,omitempty"`

	// Profile is the service that owns the preference. Required where there
	// are sessions or names of your own, unless every session has an
	// optout_claim. With neither sessions nor a profile, what the requests of
	// presets name is not read, and only what browsers say counts.
	Profile *Profile `json:"profile,omitempty"`

	// Signal adds to where the browser's word is found. Default: the cookie
	// metrics_optout and the header Metrics-Optout.
	Signal gate.Signal `json:"signal,omitzero"`

	// WriteBack writes the browser's opt-out into a verified session's
	// profile that holds no choice. Default: true with auth mint, else false.
	WriteBack *bool `json:"write_back,omitempty"`

	// Handshake asks the browser whether its user already switched telemetry
	// off, and brings a page to choose on. Default: off.
	Handshake *Handshake `json:"handshake,omitempty"`

	// ExperimentParams are the query parameters that force experiments. They
	// are taken out of the navigations of blocked users. Pages then wait for
	// a lookup, at most the profile's timeout. Default: none; forceExperiment and
	// forceExperimentGroup with the preset fxa and a handshake.
	ExperimentParams []string `json:"experiment_params,omitempty"`

	// FeatureFlags overrides what a page says of features in a <meta>, for
	// blocked users only, once for each <meta>. Pages then wait for a lookup, at
	// most the profile's timeout. They add to those of the preset fxa, which come
	// with a handshake, and win. Default: none.
	FeatureFlags []gate.FeatureFlags `json:"feature_flags,omitempty"`

	// LogBlocked keeps blocked requests in the access log. Default: false,
	// because an address beside "opted out" is itself a record of a person.
	LogBlocked bool `json:"log_blocked,omitempty"`

	options   *Gate // as they are written, with what placeholders stand for
	gate      *gate.Gate
	shadow    bool
	requests  []requestCounters // by route
	rewriting *foreseen
	tracing   *foreseen
	lookedFor []string
	watched   watched
	layout    *layout
	leases    pool.Leases
	logger    *zap.Logger
}

// gateID is the module's id, by which Caddy also calls its logger. What
// outlives a configuration must not log with a logger that belongs to one, and
// takes Caddy's own by that name.
const gateID = "http.handlers.metrics_gate"

// The modes of a gate, which its counters have as a label.
const (
	ModeEnforce = gate.ModeEnforce
	ModeShadow  = gate.ModeShadow
)

// defaultLabel is what a gate is called that is not given a name.
const defaultLabel = "default"

const (
	blockDrop   = "drop"
	blockReject = "reject"

	decisionPlaceholder = "http.metrics_gate.decision"
	reasonPlaceholder   = "http.metrics_gate.reason"
)

// CaddyModule returns the Caddy module information.
func (Gate) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  gateID,
		New: func() caddy.Module { return new(Gate) },
	}
}

// Provision resolves everything that can be resolved before there are
// requests. It uses no network, so that neither caddy validate nor a reload
// ever hangs on it.
func (g *Gate) Provision(ctx caddy.Context) error {
	g.logger = ctx.Logger().With(zap.String("gate", g.label()))
	g.shadow = g.Mode == ModeShadow
	g.rewriting, g.tracing = &foreseen{by: mayRewrite}, &foreseen{by: mayTrace}
	err := registerMetrics(ctx.GetMetricsRegistry())
	if err == nil {
		err = validateRoutes(g.Routes) // no placeholder stands for a path or a method
	}
	if err == nil {
		g.options, err = placeholder.Copy(g)
	}
	if err == nil {
		err = g.options.check()
	}
	if err == nil {
		err = g.provision()
	}
	var app *siblings.App
	if err == nil {
		app, err = siblings.Of(ctx)
	}
	if err != nil {
		return at(err, g.where())
	}
	if len(siblings.All[*Gate](app)) == 0 {
		app.Join(findLayout(ctx)) // of all of them, before Caddy has forgotten what is written
	}
	g.layout = siblings.All[*layout](app)[0]
	app.Join(g)
	g.warn(ctx)
	return nil
}

// provision makes the gate.
func (g *Gate) provision() error {
	options, rules := g.options, g.rules()
	config := gate.Config{
		Shadow:           g.shadow,
		Presets:          options.Presets,
		Routes:           options.Routes,
		Reject:           options.BlockWith == blockReject,
		Reply:            options.Reply,
		CORS:             options.CORS,
		Rules:            &rules,
		Names:            options.Names,
		Signal:           options.Signal,
		WriteBack:        options.Profile.canWrite(),
		Handshake:        options.Handshake.config(),
		ExperimentParams: options.ExperimentParams,
		FeatureFlags:     options.FeatureFlags,
		Host:             g.host(),
		Label:            g.label(),
		Traces:           &traces,
		Log:              g.logger,
	}
	if options.WriteBack != nil {
		config.WriteBack = *options.WriteBack
	}
	kinds := make([]string, 0, len(options.Sessions)+2)
	proofKind := ""
	var problems []error
	for i := range options.Sessions {
		configured := &options.Sessions[i]
		where := located.Numbered("session "+configured.kind(), i, len(options.Sessions))
		source, err := configured.source(&g.leases, options.Profile.maxEntries())
		problems = append(problems, at(err, where))
		if bearer, ok := source.(*session.Bearer); ok && err == nil {
			g.watched.bearers = append(g.watched.bearers, bearer)
		}
		if configured.FxA == nil { // which no request carries
			config.Sessions = append(config.Sessions, source)
			kinds = append(kinds, configured.kind())
			config.LookedFor = append(config.LookedFor, configured.lookedFor())
			if err == nil {
				g.watched.keys = append(g.watched.keys, g.Sessions[i].keys(configured))
			}
		}
		g.lookedFor = append(g.lookedFor, configured.lookedFor())
		proof := configured.proof()
		switch {
		case proof == nil || err != nil:
			continue
		case config.Proof != nil:
			err = errors.New("an earlier session has its credential in the browser's storage already; one of a gate can")
		default:
			proofKind, config.Proof = configured.kind(), proof
			config.Own, err = options.own(source.(session.Prover), configured.block())
			for _, key := range options.SessionKey {
				bearertoken.LogSecrets(&g.leases, gateID, "metrics_gate › session_key", []byte(key))
			}
		}
		problems = append(problems, at(err, where))
	}
	var err error
	if options.Profile != nil {
		config.Profile, err = options.Profile.client(len(options.Sessions) == 0, &g.leases)
		problems = append(problems, at(err, "profile"))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if config.Own != nil {
		kinds = append(kinds, "own", proofKind)
		config.LookedFor = append(config.LookedFor, "cookie "+session.OwnCookie)
	}
	config.SessionKinds, config.Keys = kinds[:len(config.Sessions)], g.watched.keysOf
	g.watched.kinds, g.watched.own, g.watched.profile = kinds, config.Own, config.Profile
	config.Observer = g.observer(kinds)
	if g.gate, err = gate.New(config); err != nil {
		return err
	}
	g.lookedFor = append(g.lookedFor, g.gate.Names()...)
	for _, route := range g.gate.Routes() {
		g.requests = append(g.requests, countersOf(&route, g.mode(), g.label()))
	}
	return nil
}

// label is what the gate is called.
func (g *Gate) label() string { return cmp.Or(g.Label, defaultLabel) }

// where is what an error calls the gate: no line of the Caddyfile is known any
// more when a gate is made, and there can be several.
func (g *Gate) where() string {
	if g.Label == "" {
		return "metrics_gate"
	}
	return "metrics_gate (label " + g.Label + ")"
}

func (g *Gate) mode() string { return cmp.Or(g.Mode, ModeEnforce) }

// rules are the operator's two choices.
func (g *Gate) rules() policy.Rules {
	rules := policy.DefaultRules()
	if g.OnUnknown != "" {
		rules.OnUnknown, _ = policy.ParseAction(g.OnUnknown) // check has looked at both
	}
	if g.OnUnset != "" {
		rules.OnUnset, _ = policy.ParseAction(g.OnUnset)
	}
	return rules
}

// warn says at start what an operator should not learn from an incident.
func (g *Gate) warn(ctx caddy.Context) {
	if g.shadow {
		g.logger.Warn("shadow mode: opted-out users are still being measured; " +
			"see caddy_metrics_gate_requests_total{mode=\"shadow\",decision=\"block\"} and take the word shadow away to stop it")
	}
	g.warnOfPresets()
	names := g.gate.Names()
	if g.Profile == nil && len(names) > 0 {
		g.logger.Warn("no profile is set, so the preference of an account that a request only names is always unknown; write profile <url>",
			zap.Strings("names", names))
	}
	if len(names) > 0 && showsMetrics(ctx) {
		g.logger.Warn("a site that others can reach serves Caddy's metrics, whose counters tell whoever names an account whether it opted out; " +
			"take metrics out of it, since the admin API serves them as well, or bind that site to 127.0.0.1")
	}
	for i, configured := range g.Sessions {
		where := "metrics_gate › " + located.Numbered("session "+configured.kind(), i, len(g.Sessions))
		resolved := &g.options.Sessions[i]
		configured.warn(g.logger, where, resolved.credential())
		if resolved.JWT != nil {
			bearertoken.WarnOfDemoKey(ctx, g.logger, where, resolved.JWT.Secret)
		}
	}
	bearertoken.WarnOfLiterals(g.logger, "metrics_gate › session_key", g.SessionKey...)
	if g.Profile == nil {
		return
	}
	bearertoken.WarnOfLiterals(g.logger, "metrics_gate › profile › auth bearer", g.Profile.Auth.Bearer)
	if mint := g.Profile.Auth.Mint; mint != nil {
		const where = "metrics_gate › profile › auth mint"
		bearertoken.WarnOfLiterals(g.logger, where, mint.Key)
		bearertoken.WarnOfDemoKey(ctx, g.logger, where, g.options.Profile.Auth.Mint.Key)
	}
}

// warnOfPresets says what does not go together with what is known of an SDK.
func (g *Gate) warnOfPresets() {
	for _, used := range g.options.Presets {
		preset, _ := gate.PresetNamed(used.Name)
		where := zap.String("where", "metrics_gate › preset "+used.Name)
		if g.Profile == nil && len(g.Sessions) == 0 && preset.NamesAccounts() {
			g.logger.Warn("there is no profile, so the preferences of the accounts that its requests name are not looked up: "+
				"only what a browser says (signal, handshake) blocks; write profile <url> to ask for them", where)
		}
		if preset.RetriesReject && g.options.BlockWith == blockReject {
			g.logger.Warn("this SDK keeps what gets a 403 and sends it again, also after its user allows again; write block_with drop", where)
		}
		if preset.DeviceIDs && g.options.Profile != nil && g.options.Profile.NotFound != notFoundNull {
			g.logger.Warn("what this SDK names may be a device, which the profile server does not know, so that everybody who is signed out may be blocked; "+
				"write not_found null in profile if a 404 of it means that there is no such account", where)
		}
	}
}

// Validate makes sure that what the options say together makes sense.
func (g *Gate) Validate() error {
	names := g.gate.Names()
	err := g.options.validateAlone(names)
	if g.Profile != nil {
		err = g.options.validateProfile(names)
	}
	if err == nil {
		err = g.options.validateProof()
	}
	if err == nil && g.OnUnset == policy.Block.String() && g.OnUnknown == policy.Collect.String() {
		err = located.Errorf("on_unknown", "collect beside on_unset block would make a session that does not verify worth more than none; leave on_unknown out")
	}
	return at(err, g.where())
}

// validateAlone refuses a gate without a profile that needs one.
func (g *Gate) validateAlone(names []string) error {
	claimed := len(g.Sessions) > 0 && !slices.ContainsFunc(g.Sessions, func(s Session) bool { return s.JWT == nil || s.JWT.OptOutClaim == "" })
	switch {
	case len(g.Sessions) > 0 && !claimed:
		return located.Errorf("profile", "none given, so no account's preference could ever be learnt; write profile <url>, or optout_claim in every session")
	case len(names) > 0 && !claimed:
		return located.Errorf("profile", "none given, so the preference of an account that a request names (%s) could never be learnt; write profile <url>, or leave names out", names[0])
	case g.WriteBack != nil && *g.WriteBack:
		return located.Errorf("write_back", "there is no profile to write into; write profile <url>, or leave it out")
	}
	return nil
}

// validateProfile refuses a profile that nobody could be asked about, and what
// it is to do and cannot.
func (g *Gate) validateProfile(names []string) error {
	hasToken := slices.ContainsFunc(g.Sessions, func(s Session) bool { return s.credential() != nil })
	if mint := g.Profile.Auth.Mint; mint != nil && slices.ContainsFunc(g.Sessions, func(s Session) bool { return s.accepts(mint) }) {
		return located.Errorf("profile › auth mint › key", "is what session jwt verifies with as well, so that the gate's own tokens would be sessions; write a key of its own")
	}
	switch {
	case g.Profile.isReadOnly() && g.WriteBack != nil && *g.WriteBack:
		return located.Errorf("write_back", "api fxa is never written to; leave write_back out")
	case len(g.Sessions) == 0 && len(names) == 0:
		return located.Errorf("profile", "nothing says whose preference to ask for; write session, or names { body <path> }")
	case g.Profile.Auth.Forward && !hasToken:
		return located.Errorf("profile › auth forward", "no session has a token to forward; write session jwt or session introspect, or use auth mint")
	}
	return nil
}

// check makes sure that every option by itself is well-formed. Provision
// relies on it, so it comes first.
func (g *Gate) check() error {
	var problems []error
	oneOf := func(option, value string, words ...string) {
		if value != "" && !slices.Contains(words, value) {
			problems = append(problems, located.Errorf(option, "%q is not one of %s", value, strings.Join(words, ", ")))
		}
	}
	oneOf("mode", g.Mode, ModeEnforce, ModeShadow)
	problems = append(problems, at(checkLabel(g.Label), "label"))
	oneOf("block_with", g.BlockWith, blockDrop, blockReject)
	oneOf("reply", g.Reply, gate.ReplyHide, gate.ReplyShow)
	oneOf("on_unknown", g.OnUnknown, policy.Block.String(), policy.Collect.String())
	oneOf("on_unset", g.OnUnset, policy.Collect.String(), policy.Block.String())
	if len(g.Presets) == 0 && len(g.Routes) == 0 {
		problems = append(problems, errors.New("nothing is gated; write preset <name>, or route <METHOD> <path>"))
	}
	for _, route := range g.Routes {
		if route.Class == gate.ClassExperiment && (route.Answer == nil || route.Answer.Status == 0) {
			problems = append(problems, located.Errorf("route "+route.Path, "an experiment needs the control group's answer, which is hardly an empty 204; "+
				"write answer <status> [<content-type>] [<body>]"))
		}
	}
	if g.Profile != nil {
		problems = append(problems, at(g.Profile.validate(), "profile"))
	}
	problems = append(problems, at(g.Handshake.config().Validate(), "handshake"), at(g.Signal.Validate(), "signal"))
	return errors.Join(problems...)
}

// validateRoutes leaves out what placeholders may stand for.
func validateRoutes(routes []gate.Route) error {
	problems := make([]error, len(routes))
	for i, route := range routes {
		route.Names = nil
		problems[i] = at(route.Validate(), "route "+route.Path)
	}
	return errors.Join(problems...)
}

// labelBytes are what a label may consist of.
const labelBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

// checkLabel refuses what would have to be quoted in queries and logs.
func checkLabel(label string) error {
	if strings.Trim(label, labelBytes) != "" {
		return fmt.Errorf("%q is not a word of letters, digits, _, - and .; write one such as accounts", label)
	}
	return nil
}

// ServeHTTP decides gated requests and pages and passes everything else.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return g.gate.ServeHTTP(w, r, next)
}

// Cleanup gives back the shared state that this instance took, if any. Requests
// that were handed on after their answer go on beyond a reload; the end of the
// process waits for them.
func (g *Gate) Cleanup() error {
	var late error
	if g.gate != nil && caddy.Exiting() {
		ctx, cancel := context.WithTimeout(context.Background(), gate.HandedOnTime)
		defer cancel()
		late = g.gate.Wait(ctx)
	}
	return errors.Join(late, g.leases.Release())
}

// Interface guards
var (
	_ caddy.Module                = (*Gate)(nil)
	_ caddy.Provisioner           = (*Gate)(nil)
	_ caddy.Validator             = (*Gate)(nil)
	_ caddy.CleanerUpper          = (*Gate)(nil)
	_ caddyhttp.MiddlewareHandler = (*Gate)(nil)
	_ caddyfile.Unmarshaler       = (*Gate)(nil)
)
