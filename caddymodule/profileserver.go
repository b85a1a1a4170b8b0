package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/token"
)

func init() { caddy.RegisterModule(ProfileServer{}) }

// ProfileServer serves users' preferences in the manner of the Firefox
// Accounts profile server: GET and POST /v1/metrics_optout, for trusted
// clients with a bearer token. It answers only its own addresses and passes
// everything else on, so that it can stand in front of a profile server that
// exists.
type ProfileServer struct {
	// Store is where the preferences are kept. Required.
	Store *Store `json:"store,omitempty"`

	// Tokens are the ways in which bearer tokens are verified, in the order in
	// which they are tried. At least one.
	Tokens []Tokens `json:"tokens,omitempty"`

	// TrustedClients lists the client_id of those who may use the API.
	// Default: nobody.
	TrustedClients []string `json:"trusted_clients,omitempty"`

	// Standalone makes it answer everything: heartbeats and /__version__, and
	// a 404 in the manner of the API for what it does not know. Default:
	// false.
	Standalone bool `json:"standalone,omitempty"`

	server *profileserver.Server
	leases leases
}

// Store is a preference store. Exactly one field is set.
type Store struct {
	// SQLite is the path of the database file. It is created where it does
	// not exist, and its folder too, readable for nobody else.
	SQLite string `json:"sqlite,omitempty"`
}

// Tokens is one way in which a bearer token is verified. Exactly one field
// is set.
type Tokens struct {
	// JWT verifies JSON Web Tokens.
	JWT *JWT `json:"jwt,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (ProfileServer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.profile_server",
		New: func() caddy.Module { return new(ProfileServer) },
	}
}

// Provision opens the store and prepares the verifiers.
func (p *ProfileServer) Provision(ctx caddy.Context) error {
	const where = "profile_server"
	if p.Store == nil || p.Store.SQLite == "" {
		return at(wrongAt("store", "none given; write store sqlite <file>"), where)
	}
	if len(p.Tokens) == 0 {
		return at(wrongAt("tokens", "none given, so nobody could use the API; write tokens jwt { ... }"), where)
	}
	repl := caddy.NewReplacer()
	config := profileserver.Config{Standalone: p.Standalone, Log: ctx.Logger()}
	var err error
	if config.TrustedClients, err = resolveAll(repl, p.TrustedClients); err != nil {
		return at(err, where, "trusted_client")
	}
	for i, tokens := range p.Tokens {
		word := numbered("tokens jwt", i, len(p.Tokens))
		verifier, err := tokens.verifier(repl, &p.leases)
		if err != nil {
			return at(err, where, word)
		}
		tokens.JWT.warn(ctx.Logger(), where+" › "+word)
		config.Tokens = append(config.Tokens, verifier)
	}
	file, err := resolve(repl, p.Store.SQLite)
	if err != nil {
		return at(err, where, "store sqlite")
	}
	config.Store, err = sqliteStores.acquire(&p.leases, file, func() (*profileserver.SQLite, error) {
		return profileserver.OpenSQLite(file)
	})
	if err != nil {
		return at(err, where, "store sqlite")
	}
	if len(p.TrustedClients) == 0 {
		ctx.Logger().Warn("no client is trusted, so every request is refused; write trusted_client <id>",
			zap.String("where", where))
	}
	p.server = profileserver.New(config)
	return nil
}

func (t *Tokens) verifier(repl *caddy.Replacer, held *leases) (*token.Verifier, error) {
	if t.JWT == nil {
		return nil, errors.New("write jwt")
	}
	config, err := t.JWT.tokenConfig(repl)
	if err != nil {
		return nil, err
	}
	return verifiers.acquire(held, config, func() (*token.Verifier, error) {
		config.OnKeySetError = logKeySetError
		return token.NewVerifier(config)
	})
}

// ServeHTTP answers the profile server's own addresses and passes on the
// rest.
func (p *ProfileServer) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !p.server.Owns(r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	p.server.ServeHTTP(w, r)
	return nil
}

// Cleanup gives back the store and the verifiers that this instance took.
func (p *ProfileServer) Cleanup() error { return p.leases.release() }

// Interface guards
var (
	_ caddy.Module                = (*ProfileServer)(nil)
	_ caddy.Provisioner           = (*ProfileServer)(nil)
	_ caddy.CleanerUpper          = (*ProfileServer)(nil)
	_ caddyhttp.MiddlewareHandler = (*ProfileServer)(nil)
	_ caddyfile.Unmarshaler       = (*ProfileServer)(nil)
)
