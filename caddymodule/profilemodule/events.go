package profilemodule

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/token"
)

// Events says how security event tokens (RFC 8417) are verified, such as those
// that Firefox Accounts sends to reliers. Exactly one of Key and JWKS is set.
// They need no exp.
type Events struct {
	// Issuer lists the accepted values of the claim iss; a slash at the end
	// does not matter. Default: any, with a warning at start.
	Issuer []string `json:"issuer,omitempty"`

	// Key holds public keys or certificates in PEM: RSA, ECDSA or Ed25519,
	// usually as {file./path}. Several are for rotation: any may verify.
	Key []string `json:"key,omitempty"`

	// JWKS is the URL of a JSON Web Key Set, https or http on this machine, or
	// the path of a file with one.
	JWKS string `json:"jwks,omitempty"`

	// AllowHTTP takes a JWKS by http from other machines too, where nobody can
	// change what is on the way. Default: false.
	AllowHTTP bool `json:"allow_http,omitempty"`

	// Audience lists the accepted values of the claim aud, one of which must
	// be there: with Firefox Accounts, the client_id of the relier. Required.
	Audience []string `json:"audience,omitempty"`
}

// eventLeeway is how far the clock of whoever sends events may be off. An
// event is not a credential: it is not worth less an hour later, and to refuse
// one because of a clock would lose an opt-out.
const eventLeeway = 24 * time.Hour

// jwt says how the tokens are verified.
func (e *Events) jwt() *JWT {
	leeway := caddy.Duration(eventLeeway)
	return &JWT{Issuer: e.Issuer, Key: e.Key, JWKS: e.JWKS, AllowHTTP: e.AllowHTTP, Audience: e.Audience, Leeway: &leeway}
}

// validate makes sure that there is one source of keys, and that the events are
// meant for here.
func (e *Events) validate() error {
	if n := grammar.CountSet(len(e.Key) > 0, e.JWKS != ""); n != 1 {
		return fmt.Errorf("%d of key and jwks are set; write exactly one", n)
	}
	if len(e.Audience) == 0 {
		return errNoAudience
	}
	return nil
}

func (e *Events) verifier(held *pool.Leases) (*token.Verifier, error) {
	config, err := e.jwt().Config(moduleID)
	if err != nil {
		return nil, err
	}
	config.ExpiryOptional = true
	// Firefox Accounts documents its issuer with a slash at the end and signs
	// without one.
	for i, issuer := range config.Issuers {
		issuer = strings.TrimSuffix(issuer, "/")
		config.Issuers[i] = issuer
		config.Issuers = append(config.Issuers, issuer+"/")
	}
	return acquireVerifier(held, "profile_server › events", config)
}
