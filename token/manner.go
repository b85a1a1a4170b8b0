package token

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Manner is how a server is asked about a token, and answers.
type Manner string

const (
	// FxA is POST /v1/verify of the OAuth server of Firefox Accounts.
	FxA Manner = "fxa"
	// FxASession is GET /v1/session/status of the auth server of Firefox
	// Accounts. What is verified is not a token but the whole text of the header
	// Authorization, in either of the two schemes that it takes.
	FxASession Manner = "fxa_session"
	// RFC7662 is OAuth 2.0 Token Introspection.
	RFC7662 Manner = "rfc7662"
)

// MannerOf returns the manner that a URL suggests: FxA where its path ends in
// /verify, else RFC7662.
func MannerOf(address string) Manner {
	if u, err := url.Parse(address); err == nil && path.Base(u.Path) == "verify" {
		return FxA
	}
	return RFC7662
}

// takes says whether something can be asked about. What cannot be is nothing
// that the server would take, or could be more than one header.
func (m Manner) takes(raw string) bool {
	if m != FxASession {
		return isBearerToken(raw)
	}
	return raw != "" && !strings.ContainsFunc(raw, func(c rune) bool { return c < ' ' || c > '~' })
}

// request is the question, without our own credential.
func (m Manner) request(ctx context.Context, address, raw string) (*http.Request, error) {
	method, kind, body := http.MethodPost, "", ""
	switch m {
	case FxASession:
		method = http.MethodGet
	case FxA:
		// A bearer token has no character that JSON would escape.
		kind, body = "application/json", `{"token":"`+raw+`"}`
	default: // RFC 7662, section 2.1
		kind, body = "application/x-www-form-urlencoded", url.Values{"token": {raw}, "token_type_hint": {"access_token"}}.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	switch {
	case err != nil:
		return nil, err
	case m == FxASession:
		request.Header.Set("Authorization", raw)
	default:
		request.Header.Set("Content-Type", kind)
	}
	return request, nil
}

// read tells the claims of a good token out of an answer, or why there are
// none in it.
func (m Manner) read(status int, body []byte) (jwt.MapClaims, error) {
	var fields jwt.MapClaims
	isObject := json.Unmarshal(body, &fields) == nil && fields != nil
	switch {
	case m != FxASession:
	case status == http.StatusUnauthorized:
		return nil, ErrInactive // it knows no such session, or knows it no more
	case status != http.StatusOK:
		return nil, unavailable("%w", wrongStatus(status))
	}
	switch status {
	case http.StatusOK:
		if !isObject {
			return nil, unavailable("its answer is not a JSON object; check the URL")
		}
		switch m {
		case FxA:
			return verified(fields)
		case FxASession:
			return sessionStatus(fields)
		default:
			return introspected(fields)
		}
	case http.StatusBadRequest, http.StatusUnauthorized:
		// The error numbers of FxA's OAuth server, of which 109 is for a token
		// that is not even of the right form.
		switch fields["errno"] {
		case 108.0, 109.0:
			return nil, ErrInactive
		case 115.0:
			return nil, ErrExpired
		}
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		return nil, unavailable("it refuses the gate's own credential with status %d; check bearer or basic", status)
	}
	return nil, unavailable("%w", wrongStatus(status))
}

// verified reads the answer of FxA's POST /v1/verify.
func verified(fields jwt.MapClaims) (jwt.MapClaims, error) {
	user, _ := fields["user"].(string)
	client, _ := fields["client_id"].(string)
	if user == "" || client == "" {
		return nil, unavailable("its answer lacks user or client_id; check the URL, or set the manner rfc7662")
	}
	return jwt.MapClaims{"sub": user, "client_id": client, "scope": scopeOf(fields["scope"])}, nil
}

// sessionStatus reads the answer of FxA's GET /v1/session/status, which tells an
// unverified session's account as well.
func sessionStatus(fields jwt.MapClaims) (jwt.MapClaims, error) {
	user, _ := fields["uid"].(string)
	if user == "" {
		return nil, unavailable("its answer lacks uid; check the URL")
	}
	return jwt.MapClaims{"sub": user}, nil
}

// introspected reads the answer of RFC 7662, section 2.2.
func introspected(fields jwt.MapClaims) (jwt.MapClaims, error) {
	switch active, ok := fields["active"].(bool); {
	case !ok:
		return nil, unavailable("its answer lacks active; check the URL, or set the manner fxa")
	case !active:
		return nil, ErrInactive
	case fields["token_type"] == "refresh_token": // as FxA's server calls it
		return nil, fmt.Errorf("%w: it is a refresh token", ErrMalformed)
	}
	for _, name := range []string{"exp", "iat", "nbf"} {
		switch value := fields[name].(type) {
		case nil: // null is how some say that there is none
			delete(fields, name)
		case float64:
			if value > latestTime { // FxA's server has milliseconds
				fields[name] = value / 1000
			}
		}
	}
	fields["scope"] = scopeOf(fields["scope"])
	return fields, nil
}

// scopeOf returns a scope as RFC 6749, section 3.3, writes it, also where it
// is told as a list.
func scopeOf(value any) string {
	list, ok := value.([]any)
	if !ok {
		scope, _ := value.(string)
		return scope
	}
	var scopes []string
	for _, entry := range list {
		if scope, ok := entry.(string); ok {
			scopes = append(scopes, scope)
		}
	}
	return strings.Join(scopes, " ")
}
