package bearertoken

import (
	"cmp"
	"maps"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/token"
)

// Introspect says who is asked about opaque bearer tokens.
type Introspect struct {
	// URL is where the server answers: https, or http on this machine.
	// Placeholders such as {env.NAME} are resolved at start. Required.
	URL string `json:"url,omitempty"`

	// AllowHTTP takes a URL by http to other machines too, where nobody can
	// read or change what is on the way. Default: false.
	AllowHTTP bool `json:"allow_http,omitempty"`

	// Manner is how it is asked: "fxa" is POST /v1/verify of Firefox Accounts,
	// "rfc7662" is OAuth 2.0 Token Introspection. Default: fxa where the
	// URL's path ends in /verify, else rfc7662.
	Manner string `json:"manner,omitempty" placeholder:"refused"`

	// Bearer is the token that authorizes the question. Only for rfc7662.
	// Write it as {env.NAME} or {file./path}. Default: none.
	Bearer string `json:"bearer,omitempty"`

	// Basic is the client id and secret that authorize the question, instead
	// of Bearer. Only for rfc7662. Default: none.
	Basic *BasicCredential `json:"basic,omitempty"`

	// Issuer lists the accepted values of iss in the answer. Only for rfc7662.
	// Default: any, since whoever is asked answers for its own tokens.
	Issuer []string `json:"issuer,omitempty"`

	// Audience lists the accepted values of aud in the answer, one of which
	// must be there. Only for rfc7662. Default: any, with a warning at start.
	Audience []string `json:"audience,omitempty"`

	// Client lists the accepted values of client_id in the answer: those to
	// whose tokens this site listens. Default: any, with a warning at start
	// where it is a session.
	Client []string `json:"client,omitempty"`

	// Timeout is how long a request that meets a new token can wait for the
	// answer. Default: 300ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// MaxAge is how long the answer that a token is good is used, but never
	// past the token's own end; so it is how late a revocation can act.
	// Default: 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

// BasicCredential is the id and secret of an OAuth client.
type BasicCredential struct {
	// ID is the client id.
	ID string `json:"id,omitempty"`

	// Secret is the client's secret. Write it as {env.NAME} or {file./path}.
	Secret string `json:"secret,omitempty"`
}

// Parse reads the URL and the block that may follow it, in which the caller
// may know more words. In errors, where is the path of words that leads to it.
func (i *Introspect) Parse(d *caddyfile.Dispenser, where string, more grammar.Options) error {
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	i.URL = d.Val()
	words := grammar.Options{
		"manner": grammar.Choice(&i.Manner, string(token.FxA), string(token.RFC7662)),
		"bearer": grammar.Text("{env.NAME} or {file./path}", &i.Bearer),
		"basic": {Usage: "<id> <secret>", Parse: func(d *caddyfile.Dispenser) error {
			i.Basic = new(BasicCredential)
			if !d.Args(&i.Basic.ID, &i.Basic.Secret) {
				return grammar.ErrUsage
			}
			return nil
		}},
		"issuer":     grammar.List("<iss>", &i.Issuer),
		"audience":   grammar.List("<aud>", &i.Audience),
		"client":     grammar.List("<id>", &i.Client),
		"timeout":    grammar.Duration(time.Millisecond, func(timeout caddy.Duration) { i.Timeout = timeout }),
		"max_age":    grammar.Duration(time.Millisecond, func(age caddy.Duration) { i.MaxAge = age }),
		"allow_http": grammar.Flag(&i.AllowHTTP),
	}
	maps.Copy(words, more)
	return words.Parse(d, where)
}

// Config is i, whose placeholders have been resolved, as package token has it.
// That the server cannot be asked is said by the logger of this name, such as
// http.handlers.metrics_gate.
func (i *Introspect) Config(logger string) (token.IntrospectionConfig, error) {
	config := token.IntrospectionConfig{
		URL:       i.URL,
		AllowHTTP: i.AllowHTTP,
		Manner:    token.Manner(i.Manner),
		Bearer:    i.Bearer,
		Issuers:   i.Issuer,
		Audiences: i.Audience,
		ClientIDs: i.Client,
		Timeout:   time.Duration(i.Timeout),
		MaxAge:    time.Duration(i.MaxAge),
		OnError:   logIntrospectionError(logger),
	}
	if i.Basic != nil {
		if i.Basic.ID == "" || i.Basic.Secret == "" {
			return config, located.Errorf("basic", "id or secret is empty; write basic <id> <secret>")
		}
		config.BasicID, config.BasicSecret = i.Basic.ID, i.Basic.Secret
	}
	return config, nil
}

// Warn says at start what the configuration leaves open.
func (i *Introspect) Warn(logger *zap.Logger, where string) {
	if manner := cmp.Or(token.Manner(i.Manner), token.MannerOf(i.URL)); manner == token.RFC7662 && len(i.Audience) == 0 {
		logger.Warn("no audience is set: a token meant for another application is accepted; write audience <aud>", zap.String("where", where))
	}
	secrets := []string{i.Bearer}
	if i.Basic != nil {
		secrets = append(secrets, i.Basic.Secret)
	}
	WarnOfLiterals(logger, where, secrets...)
}

// logIntrospectionError returns what logs that nobody can be asked about
// tokens; see logKeySetError.
func logIntrospectionError(logger string) func(error) {
	return func(err error) {
		caddy.Log().Named(logger).Warn("nobody can be asked about tokens: those that are not remembered prove nothing until that works again", zap.Error(err))
	}
}
