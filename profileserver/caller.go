package profileserver

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/token"
)

const (
	readScope  = "profile:metrics_optout"
	writeScope = "profile:metrics_optout:write"
)

// caller is whom a token speaks for, and where it says a write comes from.
type caller struct {
	uid    string
	source string
}

// authorize returns whom the request's token speaks for, if it may do what
// the scope names.
func (s *Server) authorize(r *http.Request, scope string, now time.Time) (caller, *failure) {
	raw := bearer(r.Header)
	if raw == "" {
		return caller{}, noToken
	}
	claims, refused := s.verify(raw, now)
	if refused != nil {
		return caller{}, refused
	}
	uid, _ := claims.String("sub")
	if !token.IsUID(uid) {
		return caller{}, badToken
	}
	if client, ok := claims.String("client_id"); !ok || !s.trusted[client] {
		return caller{}, untrustedClient
	}
	if granted, _ := claims.String("scope"); !token.Implies(granted, scope) {
		return caller{}, insufficientScope
	}
	source := "user"
	if said, _ := claims.String("source"); said == "browser" {
		source = said
	}
	return caller{uid, source}, nil
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
		if errors.Is(err, token.ErrKeysUnavailable) {
			refused = keysAway
		}
	}
	return nil, refused
}

// bearer returns the bearer token, or nothing. The scheme is compared as
// RFC 9110, 11.1 asks: in any letter case.
func bearer(h http.Header) string {
	scheme, raw, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(raw)
}
