package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/bearertoken"
	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// Session is one way in which a request can prove its account. Exactly one
// field is set. All sessions count, and every credential that they find: a
// request may prove several accounts.
type Session struct {
	// JWT verifies a JSON Web Token in a cookie or a header.
	JWT *SessionJWT `json:"jwt,omitempty" word:"session jwt"`

	// Introspect asks about an opaque token in a cookie or a header.
	Introspect *SessionIntrospect `json:"introspect,omitempty" word:"session introspect"`

	// FxA has the pages of Firefox Accounts prove who is signed in.
	FxA *SessionFxA `json:"fxa,omitempty" word:"session fxa"`

	// User is a placeholder that holds the account which an earlier handler
	// proved, such as {http.auth.user.id}. Empty means: nobody.
	User string `json:"user,omitempty" word:"session user"`
}

// JWT says how JSON Web Tokens are verified.
type JWT = bearertoken.JWT

// Introspect says who is asked about opaque bearer tokens.
type Introspect = bearertoken.Introspect

// BasicCredential is the id and secret of an OAuth client.
type BasicCredential = bearertoken.BasicCredential

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
	// as well, both count.
	Cookie string `json:"cookie,omitempty"`

	// Header is the name of the header with the token. Default: Authorization
	// where no cookie is set.
	Header string `json:"header,omitempty"`

	// Scheme is the word in front of the token in the header. Default: Bearer
	// in Authorization, none in any other header.
	Scheme string `json:"scheme,omitempty"`

	// UIDClaim is the claim that names the account. Default: sub.
	UIDClaim string `json:"uid_claim,omitempty"`

	// LocalStorage is where the application's pages keep the token in the
	// browser's localStorage, so that few requests carry it. The handshake's
	// script then hands it over, and the gate's own session says whose the
	// requests are. It needs a handshake; one session of a gate can have it, or
	// SessionStorage. Default: nowhere.
	LocalStorage *StorageItem `json:"local_storage,omitempty"`

	// SessionStorage is the same for the browser's sessionStorage.
	SessionStorage *StorageItem `json:"session_storage,omitempty"`
}

// bearerSessions are shared across reloads, with all that they have verified.
var bearerSessions = pool.New[*session.Bearer]()

// source makes the session ready for requests. Verified tokens are kept as
// long as preferences are, in a cache of the same size.
func (s *Session) source(held *pool.Leases, cacheEntries int) (session.Source, error) {
	if c := s.credential(); c != nil {
		if err := c.checkStorage(); err != nil {
			return nil, err
		}
	}
	switch {
	case grammar.CountSet(s.JWT != nil, s.Introspect != nil, s.FxA != nil, s.User != "") != 1:
		return nil, errors.New("write exactly one of jwt, introspect, fxa and user")
	case s.User != "":
		return s.user()
	case s.FxA != nil:
		config, err := s.FxA.config()
		if err != nil {
			return nil, err
		}
		return bearer(held, config, session.BearerConfig{Authorization: true}, token.NewIntrospector)
	case s.Introspect != nil:
		config, err := s.Introspect.Config(gateID)
		if err != nil {
			return nil, err
		}
		// The session itself remembers what verified, in less memory; this is
		// for those who ask at the same moment.
		config.MaxEntries = 1000
		return bearer(held, config, s.Introspect.settings(cacheEntries), token.NewIntrospector)
	}
	config, err := s.JWT.Config(gateID)
	if err != nil {
		return nil, err
	}
	settings := s.JWT.settings(cacheEntries)
	settings.OptOutClaim = s.JWT.OptOutClaim
	config.OnKeySetFetch = countKeySetFetch
	source, err := bearer(held, config, settings, token.NewVerifier)
	if err == nil {
		bearertoken.LogKeys(held, gateID, "metrics_gate › session jwt", config)
	}
	return source, err
}

// bearer returns the source of these settings: the one that a running
// configuration uses, with all that it has verified, or a new one.
func bearer[C any, V session.Verifier](held *pool.Leases, config C, settings session.BearerConfig, newVerifier func(C) (V, error)) (session.Source, error) {
	key := struct {
		Token   C
		Session session.BearerConfig
	}{config, settings}
	return bearerSessions.Acquire(held, key, func() (*session.Bearer, error) {
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

// fromClients are placeholders that hold what the client writes, so that they
// prove nobody.
var fromClients = []string{
	"{http.request.uri", "{http.request.orig_uri", "{http.request.cookie.", "{http.request.body", "{http.request.host", "{http.request.method",
	"{http.request.orig_method",
}

// headerPlaceholder is how a header is read, which proves somebody only where
// whoever stands in front removes what clients send by that name.
const headerPlaceholder = "{http.request.header."

// checkUser refuses what proves nobody.
func checkUser(user string) error {
	if !placeholder.Is(user) {
		return errors.New("this is not a placeholder; write one, such as {http.auth.user.id}")
	}
	if slices.ContainsFunc(fromClients, func(prefix string) bool { return strings.HasPrefix(user, prefix) }) {
		return errors.New("clients write this themselves, so it proves nobody; write what an earlier handler has proven, such as {http.auth.user.id}, " +
			"and names for accounts that requests only name")
	}
	return nil
}

func (s *Session) user() (session.Source, error) {
	if err := checkUser(s.User); err != nil {
		return nil, err
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

// accepts says whether the signature of what the gate mints would be a session's.
func (s *Session) accepts(mint *MintAuth) bool {
	if s.JWT == nil {
		return false
	}
	config, err := s.JWT.Config(gateID)
	return err == nil && token.ShareKey(config, token.MinterConfig{Key: []byte(mint.Key)})
}

// kind is the session's name in metrics.
func (s *Session) kind() string {
	switch {
	case s.JWT != nil:
		return "jwt"
	case s.Introspect != nil:
		return "introspect"
	case s.FxA != nil:
		return "fxa"
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

// keys says what a session verifies with that stands in the configuration, by their
// fingerprints, and whether that is what is loaded still: a file may have been
// written since. S is as it is written, loaded with what placeholders stood for.
func (s *Session) keys(loaded *Session) func() string {
	if s.JWT == nil {
		return func() string { return "" }
	}
	word, written := "key", s.JWT.Key
	switch {
	case s.JWT.Secret != "":
		word, written = "secret", []string{s.JWT.Secret}
	case s.JWT.JWKS != "":
		word, written = "jwks", []string{s.JWT.JWKS}
	}
	isText := func(text string) bool {
		return !placeholder.Is(text) && (word != "jwks" || strings.HasPrefix(text, "{"))
	}
	where := strings.Join(written, " ")
	if slices.ContainsFunc(written, isText) {
		where = "of the configuration itself" // which may be a secret
	}
	before, err := loaded.JWT.Fingerprints()
	if len(before) == 0 || err != nil { // they are fetched
		return func() string { return "" }
	}
	return func() string {
		said := fmt.Sprintf("%s %s, loaded as %s", word, where, strings.Join(before, " "))
		var now []string
		resolved, err := placeholder.Copy(s.JWT)
		if err == nil {
			now, err = resolved.Fingerprints()
		}
		switch {
		case err != nil:
			return said + ", which cannot be read now"
		case !slices.Equal(now, before):
			return said + "; what stands there now is " + strings.Join(now, " ") + lastWritten(written) + ", so reload with --force"
		default:
			return said + ", which is what stands there now" + lastWritten(written)
		}
	}
}

// lastWritten says when the last of the files was that placeholders, or the word jwks,
// name.
func lastWritten(places []string) string {
	var last time.Time
	for _, place := range places {
		file := strings.TrimSuffix(strings.TrimPrefix(place, "{file."), "}")
		if info, err := os.Stat(file); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	if last.IsZero() {
		return ""
	}
	return " (last written " + last.UTC().Format(time.DateTime) + " UTC)"
}

// lookedFor says where the session is expected, for the operator who
// wonders why nobody is ever recognised.
func (s *Session) lookedFor() string {
	c := s.credential()
	switch {
	case s.FxA != nil:
		return "localStorage __fxa_storage"
	case c == nil:
		return "placeholder " + s.User
	}
	var places []string
	if c.Cookie != "" {
		places = append(places, "cookie "+c.Cookie)
	}
	if c.Header != "" || c.Cookie == "" {
		places = append(places, "header "+cmp.Or(c.Header, "Authorization"))
	}
	if item := c.LocalStorage; item != nil {
		places = append(places, "localStorage "+item.Key)
	}
	if item := c.SessionStorage; item != nil {
		places = append(places, "sessionStorage "+item.Key)
	}
	return strings.Join(places, " or ")
}

// redacted are the headers that Caddy keeps out of its logs by itself.
var redacted = []string{"Authorization", "Cookie", "Proxy-Authorization", "Set-Cookie"}

// warn says at start what the configuration leaves open. The credential is that
// of s with what placeholders stand for, since a header's name may be one.
func (s *Session) warn(logger *zap.Logger, where string, c *Credential) {
	if strings.HasPrefix(s.User, headerPlaceholder) {
		logger.Warn("a header proves somebody only where whoever stands in front of Caddy removes what clients send by that name; make sure of it",
			zap.String("where", where))
	}
	if c != nil && c.Header != "" && !slices.Contains(redacted, http.CanonicalHeaderKey(c.Header)) {
		logger.Warn("Caddy's access logs keep this header, and so the whole credential; delete it in the log's format filter: request>headers>"+
			http.CanonicalHeaderKey(c.Header)+" delete", zap.String("where", where))
	}
	switch {
	case s.JWT != nil:
		s.JWT.Warn(logger, where)
	case s.Introspect != nil:
		s.Introspect.Warn(logger, where)
		if len(s.Introspect.Client) == 0 {
			logger.Warn("no client is set: a token that any client was given proves its user here, and may choose for them on the preference page; write client <id>",
				zap.String("where", where))
		}
	}
}
