package profileserver

import (
	"errors"
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// caller is whom a token speaks for, and where it says a write comes from.
type caller struct {
	uid    string
	source string
}

// authorize returns whom the request's token speaks for, if it may do what
// the scope names.
func (s *Server) authorize(r *http.Request, scope string, now time.Time) (caller, *failure) {
	claims, refused := s.claims(r, now)
	if refused != nil {
		return caller{}, refused
	}
	uid, _ := claims.String("sub")
	if !policy.IsUID(uid) {
		return caller{}, badToken
	}
	if !s.isTrusted(claims) {
		return caller{}, untrustedClient
	}
	if !grants(claims, scope) {
		return caller{}, insufficientScope
	}
	who := caller{uid, optoutapi.SourceUser}
	if said, _ := claims.String(optoutapi.SourceClaim); said == optoutapi.SourceBrowser {
		who.source = optoutapi.SourceBrowser
	}
	if s.isOperator(claims) {
		who.source = optoutapi.SourceAdmin
	}
	return who, nil
}

// mayOperate returns nil if the request's token is an operator's, and may do
// what the scope names to any account.
func (s *Server) mayOperate(r *http.Request, scope string, now time.Time) *failure {
	claims, refused := s.claims(r, now)
	switch {
	case refused != nil:
		return refused
	case !s.isOperator(claims):
		return notOperator
	case !grants(claims, scope):
		return insufficientScope
	}
	return nil
}

// mayFollow returns nil if the request's token may follow the changes of all
// accounts: an operator's may with the scope that reads; a gate's with a scope
// of its own, and only where it is the client itself that asks. A trusted
// client's users can be granted many a scope, and none may follow the others.
func (s *Server) mayFollow(r *http.Request, now time.Time) *failure {
	claims, refused := s.claims(r, now)
	switch {
	case refused != nil:
		return refused
	case !s.isTrusted(claims):
		return untrustedClient
	case s.isOperator(claims) && (grants(claims, optoutapi.ReadScope) || grants(claims, optoutapi.ChangesScope)):
		return nil
	case isOwn(claims) && grants(claims, optoutapi.ChangesScope):
		return nil
	}
	return insufficientScope
}

// isOwn reports whether the token speaks for the client itself, and for no user
// of it: RFC 9068, section 2.2, has the client for its subject then.
func isOwn(claims *token.Claims) bool {
	client, _ := claims.String("client_id")
	subject, _ := claims.String("sub")
	return client != "" && subject == client
}

// claims returns what the request's bearer token says, if it holds.
func (s *Server) claims(r *http.Request, now time.Time) (*token.Claims, *failure) {
	raw := bearer(r.Header)
	if raw == "" {
		return nil, noToken
	}
	return s.verify(raw, now)
}

// isOperator reports whether the token is of a client that may do to all
// accounts what others may do to their own.
func (s *Server) isOperator(claims *token.Claims) bool {
	client, ok := claims.String("client_id")
	return ok && s.operators[client]
}

// isTrusted reports whether the token is of a client that may use the API.
func (s *Server) isTrusted(claims *token.Claims) bool {
	client, ok := claims.String("client_id")
	return ok && (s.trusted[client] || s.operators[client])
}

func grants(claims *token.Claims, scope string) bool {
	granted, _ := claims.String("scope")
	return token.Implies(granted, scope)
}

// verify asks each verifier in turn. Where one could not ask for its keys the
// token may yet be good, so the caller must not be told to throw it away.
func (s *Server) verify(raw string, now time.Time) (*token.Claims, *failure) {
	refused := badToken
	for _, verifier := range s.tokens {
		claims, err := verifier.Verify(raw, now)
		if err == nil {
			return claims, nil
		}
		if errors.Is(err, token.ErrUnavailable) {
			refused = keysAway
		}
	}
	return nil, refused
}

// bearer returns the bearer token, or "".
func bearer(h http.Header) string { return token.FromHeader(h.Get("Authorization"), "Bearer") }
