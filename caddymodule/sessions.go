package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// Session is one way in which a request can prove its account. Exactly one
// field is set. Several sessions are tried in the order written, and the
// first that verifies names the account.
type Session struct {
	// JWT verifies a JSON Web Token in a cookie or a header.
	JWT *SessionJWT `json:"jwt,omitempty"`

	// Introspect asks about an opaque token in a cookie or a header.
	Introspect *SessionIntrospect `json:"introspect,omitempty"`

	// User is a placeholder that holds the account which an earlier handler
	// proved, such as {http.auth.user.id}. Empty means: nobody.
	User string `json:"user,omitempty"`
}

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
	// A URL is fetched in the background, again every 15 minutes, and at once
	// (at most every 30 seconds) for a key that is not known yet. A file is
	// read when the configuration is loaded.
	JWKS string `json:"jwks,omitempty"`

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

// SessionJWT is a session by JSON Web Token: where it is found, how it is
// verified and which claims count.
type SessionJWT struct {
	JWT
	Credential

	// OptOutClaim is a claim that carries the preference as true, false or
	// null. While it is younger than max_age it saves the lookup; without a
	// profile it holds for the token's life, and a token that lacks it means
	// null. Default: none.
	OptOutClaim string `json:"optout_claim,omitempty"`
}

// SessionIntrospect is a session by opaque token: where it is found and who is
// asked about it.
type SessionIntrospect struct {
	Introspect
	Credential
}

// Credential says where a bearer token is found and whom it names.
type Credential struct {
	// Cookie is the name of the cookie with the token. Where a header is set
	// as well, the cookie is looked at first.
	Cookie string `json:"cookie,omitempty"`

	// Header is the name of the header with the token. Default: Authorization
	// where no cookie is set.
	Header string `json:"header,omitempty"`

	// Scheme is the word in front of the token in the header. Default: Bearer
	// in Authorization, none in any other header.
	Scheme string `json:"scheme,omitempty"`

	// UIDClaim is the claim that names the account. Default: sub.
	UIDClaim string `json:"uid_claim,omitempty"`
}

const defaultLeeway = time.Minute

// tokenConfig resolves the placeholders and reads the files of j. It uses no
// network.
func (j *JWT) tokenConfig(repl *caddy.Replacer) (token.Config, error) {
	config := token.Config{Leeway: defaultLeeway, Type: j.Typ}
	if j.Leeway != nil {
		config.Leeway = time.Duration(*j.Leeway)
	}
	if err := j.validate(); err != nil {
		return config, err
	}
	var problems []error
	if j.Secret != "" {
		secret, err := resolve(repl, j.Secret)
		problems = append(problems, at(err, "secret"))
		config.Secret = []byte(secret)
	}
	keys, err := resolveAll(repl, j.Key)
	problems = append(problems, at(err, "key"))
	for _, pem := range keys {
		config.PEM = append(config.PEM, []byte(pem))
	}
	if j.JWKS != "" {
		problems = append(problems, at(j.keySet(repl, &config), "jwks"))
	}
	config.Issuers, err = resolveAll(repl, j.Issuer)
	problems = append(problems, at(err, "issuer"))
	config.Audiences, err = resolveAll(repl, j.Audience)
	problems = append(problems, at(err, "audience"))
	return config, errors.Join(problems...)
}

// validate makes sure that there is one source of keys. The parser asks as
// well, since it knows the line.
func (j *JWT) validate() error {
	if n := countSet(j.Secret != "", len(j.Key) > 0, j.JWKS != ""); n != 1 {
		return fmt.Errorf("%d of secret, key and jwks are set; write exactly one", n)
	}
	return nil
}

func (j *JWT) keySet(repl *caddy.Replacer, config *token.Config) error {
	resolved, err := resolve(repl, j.JWKS)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(resolved, "https://"), strings.HasPrefix(resolved, "http://"):
		config.JWKSURL = resolved
	case strings.HasPrefix(resolved, "{"): // the content of a {file./path}
		config.JWKS = []byte(resolved)
	default:
		config.JWKS, err = os.ReadFile(resolved)
		if err != nil {
			return fmt.Errorf("reading the key set: %w; write a URL that starts with https:// or the path of a file", err)
		}
	}
	return nil
}

// warn says at start what the configuration leaves open.
func (j *JWT) warn(logger *zap.Logger, where string) {
	if len(j.Issuer) == 0 {
		logger.Warn("no issuer is set: a token of anybody who signs with this key is accepted; write issuer <iss>", zap.String("where", where))
	}
	if len(j.Audience) == 0 {
		logger.Warn("no audience is set: a token meant for another application is accepted; write audience <aud>", zap.String("where", where))
	}
	if j.Secret != "" && !isPlaceholder(j.Secret) {
		logger.Warn(literalSecret, zap.String("where", where))
	}
}

const literalSecret = "the secret stands in the configuration itself, where GET /config shows it; write {env.NAME} or {file./path}"

// source makes the session ready for requests. Verified tokens are kept as
// long as preferences are, in a cache of the same size.
func (s *Session) source(repl *caddy.Replacer, held *leases, cacheEntries int) (session.Source, error) {
	switch {
	case countSet(s.JWT != nil, s.Introspect != nil, s.User != "") != 1:
		return nil, errors.New("write exactly one of jwt, introspect and user")
	case s.User != "":
		return s.user()
	case s.Introspect != nil:
		config, err := s.Introspect.introspectionConfig(repl)
		if err != nil {
			return nil, err
		}
		// The session itself remembers what verified, in less memory; this is
		// for those who ask at the same moment.
		config.MaxEntries = 1000
		return bearer(held, config, s.Introspect.settings(cacheEntries), token.NewIntrospector)
	}
	config, err := s.JWT.tokenConfig(repl)
	if err != nil {
		return nil, err
	}
	settings := s.JWT.settings(cacheEntries)
	settings.OptOutClaim = s.JWT.OptOutClaim
	config.OnKeySetError = logKeySetError
	return bearer(held, config, settings, token.NewVerifier)
}

// bearer returns the source of these settings: the one that a running
// configuration uses, with all that it has verified, or a new one.
func bearer[C any, V session.Verifier](held *leases, config C, settings session.BearerConfig, newVerifier func(C) (V, error)) (session.Source, error) {
	key := struct {
		Token   C
		Session session.BearerConfig
	}{config, settings}
	return bearerSessions.acquire(held, key, func() (*session.Bearer, error) {
		verifier, err := newVerifier(config)
		if err != nil {
			return nil, err
		}
		return session.NewBearer(verifier, settings), nil
	})
}

func (c *Credential) settings(cacheEntries int) session.BearerConfig {
	return session.BearerConfig{
		Cookie: c.Cookie, Header: c.Header, Scheme: c.Scheme, UIDClaim: c.UIDClaim, CacheEntries: cacheEntries,
	}
}

func (s *Session) user() (session.Source, error) {
	if !isPlaceholder(s.User) {
		return nil, fmt.Errorf("%q is not a placeholder; write one, such as {http.auth.user.id}", s.User)
	}
	name := strings.TrimSuffix(strings.TrimPrefix(s.User, "{"), "}")
	return &session.User{Value: func(r *http.Request) string {
		repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if !ok {
			return ""
		}
		value, _ := repl.GetString(name)
		return value
	}}, nil
}

// kind is the session's name in metrics.
func (s *Session) kind() string {
	switch {
	case s.JWT != nil:
		return "jwt"
	case s.Introspect != nil:
		return "introspect"
	default:
		return "user"
	}
}

// credential is where the session's token is found, and nil where it has none.
func (s *Session) credential() *Credential {
	switch {
	case s.JWT != nil:
		return &s.JWT.Credential
	case s.Introspect != nil:
		return &s.Introspect.Credential
	default:
		return nil
	}
}

// lookedFor says where the session is expected, for the operator who
// wonders why nobody is ever recognised.
func (s *Session) lookedFor() string {
	switch c := s.credential(); {
	case c == nil:
		return "placeholder " + s.User
	case c.Cookie != "" && c.Header != "":
		return "cookie " + c.Cookie + " or header " + c.Header
	case c.Cookie != "":
		return "cookie " + c.Cookie
	case c.Header != "":
		return "header " + c.Header
	default:
		return "header Authorization"
	}
}

// warn says at start what the configuration leaves open.
func (s *Session) warn(logger *zap.Logger, where string) {
	switch {
	case s.JWT != nil:
		s.JWT.warn(logger, where)
	case s.Introspect != nil:
		s.Introspect.warn(logger, where)
		if len(s.Introspect.Client) == 0 {
			logger.Warn("no client is set: a token that any client was given proves its user here, and may choose for them on the preference page; write client <id>",
				zap.String("where", where))
		}
	}
}

func countSet(set ...bool) (n int) {
	for _, is := range set {
		if is {
			n++
		}
	}
	return n
}
