package bearertoken

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/token"
)

// JWT says how JSON Web Tokens are verified. Exactly one of Secret, Key and
// JWKS is set, and the algorithms follow from it, never from the token.
type JWT struct {
	// Secret is a shared HMAC secret of at least 32 bytes, for HS256, HS384
	// and HS512. Write it as {env.NAME} or {file./path}.
	Secret string `json:"secret,omitempty"`

	// Key holds public keys or certificates in PEM: RSA, ECDSA or Ed25519,
	// usually as {file./path}. Several are for rotation: any may verify.
	Key []string `json:"key,omitempty"`

	// JWKS is the URL of a JSON Web Key Set, or the path of a file with one.
	// A URL is https, or http on this machine. It is fetched in the background,
	// again every 15 minutes, with a reload, and at once (at most every 30
	// seconds) for a key that is not known yet or a signature that does not
	// hold. A file is read when the configuration is loaded.
	JWKS string `json:"jwks,omitempty"`

	// AllowHTTP takes a JWKS by http from other machines too, where nobody can
	// change what is on the way. Default: false.
	AllowHTTP bool `json:"allow_http,omitempty"`

	// Issuer lists the accepted values of the claim iss. Default: any, with a
	// warning at start.
	Issuer []string `json:"issuer,omitempty"`

	// Audience lists the accepted values of the claim aud, one of which must
	// be there. Default: any, with a warning at start.
	Audience []string `json:"audience,omitempty"`

	// Leeway is how far the clocks of issuer and gate may differ. Default:
	// 60s.
	Leeway *caddy.Duration `json:"leeway,omitempty"`

	// Typ is the required type of the token, such as at+jwt for access tokens
	// (RFC 9068). Default: any.
	Typ string `json:"typ,omitempty"`
}

// Options are the words that say how a token is verified.
func (j *JWT) Options() grammar.Options {
	return grammar.Options{
		"secret":     grammar.Text("{env.NAME} or {file./path}", &j.Secret),
		"key":        grammar.List("{file./path/to/public.pem}", &j.Key),
		"jwks":       grammar.Text("<url|file>", &j.JWKS),
		"allow_http": grammar.Flag(&j.AllowHTTP),
		"issuer":     grammar.List("<iss>", &j.Issuer),
		"audience":   grammar.List("<aud>", &j.Audience),
		"leeway":     grammar.Duration(0, func(leeway caddy.Duration) { j.Leeway = &leeway }),
		"typ":        grammar.Text("<type>", &j.Typ),
	}
}

// Validate makes sure that there is one source of keys. The parser asks as
// well as Config, since it knows the line.
func (j *JWT) Validate() error {
	if n := grammar.CountSet(j.Secret != "", len(j.Key) > 0, j.JWKS != ""); n != 1 {
		return fmt.Errorf("%d of secret, key and jwks are set; write exactly one", n)
	}
	return nil
}

const defaultLeeway = time.Minute

// Config is j, whose placeholders have been resolved, as package token has it.
// It reads the file of a key set, and uses no network. That a key set cannot be
// fetched is said by the logger of this name, such as http.handlers.metrics_gate.
func (j *JWT) Config(logger string) (token.Config, error) {
	config := token.Config{
		Secret:         []byte(j.Secret),
		AllowHTTP:      j.AllowHTTP,
		Leeway:         defaultLeeway,
		Type:           j.Typ,
		Issuers:        slices.Clone(j.Issuer),
		Audiences:      j.Audience,
		OnKeySetError:  logKeySetError(logger),
		OnKeySetChange: logKeySetChange(logger),
	}
	if j.Leeway != nil {
		config.Leeway = time.Duration(*j.Leeway)
	}
	if err := j.Validate(); err != nil {
		return config, err
	}
	for _, pem := range j.Key {
		config.PEM = append(config.PEM, []byte(pem))
	}
	var err error
	switch {
	case j.JWKS == "":
	case strings.HasPrefix(j.JWKS, "https://"), strings.HasPrefix(j.JWKS, "http://"):
		config.JWKSURL = j.JWKS
	case strings.HasPrefix(j.JWKS, "{"): // the content of a {file./path}
		config.JWKS = []byte(j.JWKS)
	default:
		if config.JWKS, err = os.ReadFile(j.JWKS); err != nil {
			err = located.Errorf("jwks", "reading the key set: %w; write a URL that starts with https:// or the path of a file", err)
		}
	}
	return config, err
}

// Fingerprints are those of the secret, keys or key set of j, whose placeholders have
// been resolved. A key set that is fetched has none here.
func (j *JWT) Fingerprints() (all []string, err error) {
	config, err := j.Config("")
	for _, key := range append(slices.Clone(config.PEM), config.Secret, config.JWKS) {
		if len(key) > 0 {
			all = append(all, token.Fingerprint(key))
		}
	}
	return all, err
}

// Warn says at start what the configuration leaves open.
func (j *JWT) Warn(logger *zap.Logger, where string) {
	if len(j.Issuer) == 0 {
		logger.Warn("no issuer is set: a token of anybody who signs with this key is accepted; write issuer <iss>", zap.String("where", where))
	}
	if len(j.Audience) == 0 {
		logger.Warn("no audience is set: a token meant for another application is accepted; write audience <aud>", zap.String("where", where))
	}
	WarnOfLiterals(logger, where, j.Secret)
}

// LogKeys says by which secrets and keys a configuration verifies, as LogSecrets
// does. The logger and where are called as in Config and Warn.
func LogKeys(held *pool.Leases, logger, where string, config token.Config) {
	LogSecrets(held, logger, where, append(slices.Clone(config.PEM), config.Secret, config.JWKS)...)
}

// logKeySetChange returns what logs that a key set has other keys than before.
func logKeySetChange(logger string) func(withdrawn, added []string) {
	return func(withdrawn, added []string) {
		caddy.Log().Named(logger).Info("the key set changed; keys are called by their fingerprints",
			zap.Strings("withdrawn", withdrawn), zap.Strings("added", added))
	}
}

// logKeySetError returns what logs that a key set cannot be fetched. Verifiers
// outlive configurations, so their loggers start at Caddy's own.
func logKeySetError(logger string) func(error) {
	return func(err error) {
		caddy.Log().Named(logger).Warn("the key set cannot be fetched: tokens are verified with the keys that are known", zap.Error(err))
	}
}
