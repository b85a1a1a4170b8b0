package profilemodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/caddymodule/internal/bearertoken"
	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/caddymodule/internal/siblings"
	"github.com/metricsgate/metricsgate/caddymodule/internal/span"
	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

func init() { caddy.RegisterModule(ProfileServer{}) }

// ProfileServer serves users' preferences in the manner of the Firefox
// Accounts profile server: GET and POST /v1/metrics_optout, for trusted
// clients with a bearer token. Operators may also delete accounts, count who
// opted out on a day, and follow all changes, as gates may. It answers only
// its own addresses and passes everything else on, so that it can stand in
// front of a profile server that exists, whose GET /v1/profile it completes.
type ProfileServer struct {
	// Store is where the preferences are kept. Required.
	Store *Store `json:"store,omitempty" word:""`

	// Tokens are the ways in which bearer tokens are verified, in the order in
	// which they are tried. At least one.
	Tokens []Tokens `json:"tokens,omitempty" word:""`

	// TrustedClients lists the client_id of those who may use the API.
	// Default: nobody.
	TrustedClients []string `json:"trusted_clients,omitempty" word:"trusted_client"`

	// OperatorClients lists the client_id of those who may delete accounts,
	// follow all changes and read the daily counts. They are trusted clients
	// as well, whose writes are recorded as an administrator's. Default:
	// nobody.
	OperatorClients []string `json:"operator_clients,omitempty" word:"operator_client"`

	// CORS lists the origins whose pages may use the API, such as
	// https://www.example.org, or * for all of them. Default: none.
	CORS []string `json:"cors,omitempty"`

	// StatsD is the address of a DogStatsD agent that counts changes to true
	// and to false, as profile.metrics_optout.set with the tags value and
	// source: <host>:<port> for UDP, or unix:///<path> for a socket. Default:
	// none.
	StatsD string `json:"statsd,omitempty"`

	// Events says whose security events change preferences. Default: none are
	// taken, and POST /v1/events is passed on.
	Events *Events `json:"events,omitempty"`

	// Unset says how GET answers where no choice was made: null is 200 and
	// {"metrics_optout":null}; 204 is an empty reply, as the existing server
	// has it for its data elements. Default: null.
	Unset string `json:"unset,omitempty" placeholder:"refused"`

	// Standalone makes it answer everything: heartbeats, /__version__, a
	// /v1/profile of its own, and a 404 in the manner of the API for what it
	// does not know. Default: false.
	Standalone bool `json:"standalone,omitempty"`

	options   *ProfileServer // as they are written, with what placeholders stand for
	server    *profileserver.Server
	store     prefstore.Store
	asked     []verifier
	followers *atomic.Int64
	leases    pool.Leases
}

// Tokens is one way in which a bearer token is verified. Exactly one field
// is set.
type Tokens struct {
	// JWT verifies JSON Web Tokens.
	JWT *JWT `json:"jwt,omitempty" word:"tokens jwt"`

	// Introspect asks about opaque tokens.
	Introspect *Introspect `json:"introspect,omitempty" word:"tokens introspect"`
}

// JWT says how JSON Web Tokens are verified.
type JWT = bearertoken.JWT

// Introspect says who is asked about opaque bearer tokens.
type Introspect = bearertoken.Introspect

// BasicCredential is the id and secret of an OAuth client.
type BasicCredential = bearertoken.BasicCredential

// moduleID is the module's id, by which Caddy also calls its logger. What
// outlives a configuration must not log with a logger that belongs to one, and
// takes Caddy's own by that name.
const moduleID = "http.handlers.profile_server"

const (
	unsetNull = "null"
	unset204  = "204"
)

// CaddyModule returns the Caddy module information.
func (ProfileServer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  moduleID,
		New: func() caddy.Module { return new(ProfileServer) },
	}
}

// Provision opens the store and prepares the verifiers. It uses no network,
// so that neither caddy validate nor a reload ever hangs on it.
func (p *ProfileServer) Provision(ctx caddy.Context) error {
	err := registerMetrics(ctx.GetMetricsRegistry())
	if err == nil {
		p.options, err = placeholder.Copy(p)
	}
	if err == nil {
		err = p.options.validate()
	}
	if err == nil {
		err = p.provision(ctx.Logger())
	}
	var app *siblings.App
	if err == nil {
		app, err = siblings.Of(ctx)
	}
	if err != nil {
		return located.At(err, "profile_server")
	}
	app.Join(p)
	p.warn(ctx.Logger())
	p.warnOfDemoKeys(ctx)
	// A server that shuts down waits for its open requests, by default without
	// end, and Cleanup comes after; a stream of changes would never end by
	// itself. The context knows the server wherever a configuration is loaded.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(p.server.Close)
	}
	return nil
}

// validate makes sure that every option by itself is well-formed.
func (p *ProfileServer) validate() error {
	problems := []error{located.At(p.Store.validate(), "store")}
	if len(p.Tokens) == 0 {
		problems = append(problems, located.Errorf("tokens", "none given, so nobody could use the API; "+
			"write tokens jwt { ... }, or tokens introspect <url>"))
	}
	if !slices.Contains([]string{"", unsetNull, unset204}, p.Unset) {
		problems = append(problems, located.Errorf("unset", "%q is not one of %s, %s", p.Unset, unsetNull, unset204))
	}
	for i := range p.Tokens {
		tokens := &p.Tokens[i]
		problems = append(problems, located.At(tokens.validate(len(p.Tokens) > 1), located.Numbered("tokens "+tokens.kind(), i, len(p.Tokens))))
	}
	if p.Events != nil {
		problems = append(problems, located.At(p.Events.validate(), "events"))
	}
	return errors.Join(problems...)
}

// provision takes what is shared with other configurations: the store last, so that one which is refused for something
// else leaves no file behind.
func (p *ProfileServer) provision(logger *zap.Logger) error {
	options := p.options
	config := profileserver.Config{
		TrustedClients:     options.TrustedClients,
		OperatorClients:    options.OperatorClients,
		NoContentWhenUnset: options.Unset == unset204,
		Standalone:         options.Standalone,
		Log:                logger,
	}
	var problems []error
	problem := func(err error, words ...string) { problems = append(problems, located.At(err, words...)) }

	var err error
	config.Origins, err = p.origins()
	problem(err, "cors")
	for i := range options.Tokens {
		tokens := &options.Tokens[i]
		verifier, err := tokens.verifier(&p.leases)
		problem(err, located.Numbered("tokens "+tokens.kind(), i, len(options.Tokens)))
		if config.Tokens = append(config.Tokens, verifier); err == nil {
			p.asked = append(p.asked, verifier)
		}
	}
	problem(options.checkKeys())
	if options.Events != nil {
		events, err := options.Events.verifier(&p.leases)
		problem(err, "events")
		if err == nil {
			config.Events, p.asked = events, append(p.asked, events)
		}
		config.EventLeeway = eventLeeway
	}
	agent, err := p.agent()
	problem(err, "statsd")
	config.Observer = serverObserver(agent)
	p.followers = new(atomic.Int64)
	config.Observer.Followers = func(change int) {
		followers.Add(float64(change))
		p.followers.Add(int64(change))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if config.Store, err = options.Store.open(&p.leases); err != nil {
		return err
	}
	p.store = config.Store
	p.server = profileserver.New(config)
	return nil
}

// warn says at start what an operator should not learn from an incident.
func (p *ProfileServer) warn(logger *zap.Logger) {
	if len(p.TrustedClients)+len(p.OperatorClients) == 0 {
		logger.Warn("no client is trusted, so every request is refused; write trusted_client <id>",
			zap.String("where", "profile_server"))
	}
	for i := range p.Tokens {
		tokens := &p.Tokens[i]
		words := "profile_server › " + located.Numbered("tokens "+tokens.kind(), i, len(p.Tokens))
		if tokens.JWT != nil {
			tokens.JWT.Warn(logger, words)
		} else {
			tokens.Introspect.Warn(logger, words)
		}
	}
	if len(p.Tokens) > 1 {
		logger.Info("accounts of the issuers of all tokens blocks count as the same where their ids are the same; make sure that they mean one person",
			zap.String("where", "profile_server › tokens"))
	}
	if p.Events != nil {
		p.Events.jwt().Warn(logger, "profile_server › events")
	}
	p.Store.warn(logger, "profile_server › store postgres")
}

// warnOfDemoKeys says so where tokens are verified with a public secret.
func (p *ProfileServer) warnOfDemoKeys(ctx caddy.Context) {
	for i, tokens := range p.options.Tokens {
		if tokens.JWT != nil {
			words := "profile_server › " + located.Numbered("tokens "+tokens.kind(), i, len(p.options.Tokens))
			bearertoken.WarnOfDemoKey(ctx, ctx.Logger(), words, tokens.JWT.Secret)
		}
	}
}

func (p *ProfileServer) origins() ([]string, error) {
	origins := p.options.CORS
	problems := make([]error, len(origins))
	for i, origin := range origins {
		if origins[i], problems[i] = parseOrigin(origin); problems[i] != nil && origin != p.CORS[i] {
			problems[i] = fmt.Errorf("%s holds no origin; write one such as https://www.example.org", p.CORS[i])
		}
	}
	return origins, errors.Join(problems...)
}

// parseOrigin returns an origin as browsers write it, or * for all.
func parseOrigin(text string) (string, error) {
	if text == "*" {
		return text, nil
	}
	return browser.ParseOrigin(text)
}

// agent returns the counter of changes, or nil where there is none.
func (p *ProfileServer) agent() (*changeCounter, error) {
	address := p.options.StatsD
	if address == "" {
		return nil, nil
	}
	if err := checkAgentAddress(address); err != nil {
		return nil, fmt.Errorf("%s %w", p.StatsD, err)
	}
	return changeCounters.Acquire(&p.leases, address, func() (*changeCounter, error) { return newChangeCounter(address) })
}

// What a reload finds as warm as it left it.
var (
	verifiers     = pool.New[*token.Verifier]()
	introspectors = pool.New[*token.Introspector]()
)

// kind is the way's word.
func (t *Tokens) kind() string {
	if t.Introspect != nil {
		return "introspect"
	}
	return "jwt"
}

// validate makes sure that the tokens are one issuer's, and meant for here. Where
// there are several blocks, each must say of whom: what one may sign, another
// must not.
func (t *Tokens) validate(several bool) error {
	switch jwt := t.JWT; {
	case grammar.CountSet(t.JWT != nil, t.Introspect != nil) != 1:
		return errors.New("write exactly one of jwt and introspect")
	case jwt == nil:
		if len(t.Introspect.Audience)+len(t.Introspect.Client) == 0 {
			return errors.New("neither client nor audience is set, so that tokens for whatever else would count here; write client <id>, or audience <aud>")
		}
		return nil
	default:
		var problems []error
		if len(jwt.Audience) == 0 {
			problems = append(problems, errNoAudience)
		}
		if several && len(jwt.Issuer) == 0 {
			problems = append(problems, errors.New("no issuer is set, and there are several tokens blocks, so that one issuer could sign for another's users; write issuer <iss> in each"))
		}
		return errors.Join(problems...)
	}
}

var errNoAudience = errors.New("no audience is set, so that tokens for whatever else would count here; write audience <aud>")

// verifier is a verifier that says how those do whom it asks.
type verifier interface {
	profileserver.Verifier
	Standing() *token.Standing
}

func (t *Tokens) verifier(held *pool.Leases) (verifier, error) {
	if t.JWT != nil {
		config, err := t.JWT.Config(moduleID)
		if err != nil {
			return nil, err
		}
		return acquireVerifier(held, "profile_server › tokens jwt", config)
	}
	config, err := t.Introspect.Config(moduleID)
	if err != nil {
		return nil, err
	}
	return introspectors.Acquire(held, config, func() (*token.Introspector, error) { return token.NewIntrospector(config) })
}

// checkKeys refuses a key that stands in two blocks. Each is for an issuer of its
// own, and one who signs users' sessions must not be able to sign for a gate.
func (p *ProfileServer) checkKeys() error {
	var seen []token.Config
	for i, tokens := range p.Tokens {
		if tokens.JWT == nil {
			continue
		}
		config, err := tokens.JWT.Config(moduleID)
		if err != nil {
			continue // the verifier's business
		}
		if slices.ContainsFunc(seen, func(other token.Config) bool { return token.ShareKey(config, other) }) {
			return located.Errorf(located.Numbered("tokens jwt", i, len(p.Tokens)),
				"its key stands in another tokens jwt as well, so that whoever signs for one signs for both; write a key of its own")
		}
		seen = append(seen, config)
	}
	return nil
}

func acquireVerifier(held *pool.Leases, where string, config token.Config) (*token.Verifier, error) {
	config.OnKeySetFetch = func(outcome token.FetchOutcome) { keySetFetchesTotal.WithLabelValues(outcome.String()).Inc() }
	verifier, err := verifiers.Acquire(held, config, func() (*token.Verifier, error) { return token.NewVerifier(config) })
	if err == nil {
		bearertoken.LogKeys(held, moduleID, where, config)
	}
	return verifier, err
}

// ServeHTTP answers the profile server's own addresses and passes on the
// rest, of which the profile gets the preference as a member.
func (p *ProfileServer) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	owned := p.server.Owns(r)
	if !owned && !strings.HasPrefix(r.URL.Path, "/v1/account/") {
		return p.server.Merge(w, r, next.ServeHTTP)
	}
	// This stays out of the access log, and of traces: the address can name the
	// account, and the size of an answer its preference.
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	concealed := span.Conceal(r.Context(), p.server.Route(r.URL.Path))
	if concealed.IsRecording() {
		answer := caddyhttp.NewResponseRecorder(w, nil, nil)
		defer func() { span.End(concealed, answer.Status()) }()
		w = answer
	}
	if !owned {
		return p.server.Merge(w, r, next.ServeHTTP)
	}
	p.server.ServeHTTP(w, r)
	return nil
}

// Cleanup gives back what this instance took: the store, the verifiers, the
// agent. What it serves still to followers ends here at the latest.
func (p *ProfileServer) Cleanup() error {
	if p.server != nil {
		p.server.Close()
	}
	return p.leases.Release()
}

// Interface guards
var (
	_ caddy.Module                = (*ProfileServer)(nil)
	_ caddy.Provisioner           = (*ProfileServer)(nil)
	_ caddy.CleanerUpper          = (*ProfileServer)(nil)
	_ caddyhttp.MiddlewareHandler = (*ProfileServer)(nil)
	_ caddyfile.Unmarshaler       = (*ProfileServer)(nil)
)
