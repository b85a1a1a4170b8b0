package token

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims is what a token says that was signed by a key of the verifier, or
// what an introspector was told of it.
type Claims struct {
	// Issued is the claim iat, and zero where the token has none. It may be as
	// far ahead of now as the issuer's clock.
	Issued time.Time
	// Expires is the claim exp, and zero where the token has none, which only
	// Config.ExpiryOptional allows. The verifier's leeway is not part of it.
	Expires time.Time
	// Ends is when the token itself ends, and zero where that is not known. An
	// introspector takes the word of its server for a shorter time, which is
	// Expires.
	Ends time.Time

	values jwt.MapClaims
}

// String returns a claim whose value is a string, and false for any other.
func (c *Claims) String(name string) (string, bool) {
	value, ok := c.values[name].(string)
	return value, ok
}

// Value returns a claim as encoding/json decodes it into an any, and false
// where the token does not have it. The JSON value null is nil and true.
func (c *Claims) Value(name string) (any, bool) {
	value, ok := c.values[name]
	return value, ok
}

// keepScalars lets go of lists and objects, which nobody asks for and which
// would be most of the memory that remembered claims take.
func (c *Claims) keepScalars() {
	maps.DeleteFunc(c.values, func(_ string, value any) bool {
		switch value.(type) {
		case []any, map[string]any:
			return true
		}
		return false
	})
}

// DifferenceError is the error of a token that is vouched for, and whose claims do not
// hold: it says in what they differ, for whoever is to find out why. Its text, like
// that of all errors here, has nothing of the token.
type DifferenceError struct {
	// Err is the one that Verify is documented to return.
	Err error

	// Claim is the one that differs, such as iss. Of times it is empty.
	Claim string
	// Found is what the token has there, and Wanted what is accepted.
	Found, Wanted []string

	// NotBefore, Issued and Expires are the token's times where one of them is what
	// differs, each zero where it has none.
	NotBefore, Issued, Expires time.Time

	claims *Claims
}

// String returns another claim of the token, as Claims.String does.
func (d *DifferenceError) String(name string) (string, bool) { return d.claims.String(name) }

// differs is the DifferenceError of a claim from what is accepted.
func differs(err error, claim string, claims jwt.MapClaims, wanted []string) *DifferenceError {
	d := &DifferenceError{Err: err, Claim: claim, Found: textsOf(claims[claim]), Wanted: wanted, claims: &Claims{values: claims}}
	d.claims.keepScalars()
	return d
}

func (d *DifferenceError) Error() string { return d.Err.Error() }

func (d *DifferenceError) Unwrap() error { return d.Err }

// latestTime is the end of the year 9999. What lies beyond is a time in
// milliseconds, which would make a token good for ages.
const latestTime = 253402300799

type claimRules struct {
	issuers, audiences []string
	leeway             time.Duration
	mediaType          string
	expiryOptional     bool
}

// check holds a token whose signature is good against all the rules, in one
// fixed order. Its times come last, so that "expired" means that everything
// else holds: an expired session still names its account, and must not do so
// for the session of another issuer or audience.
func (r *claimRules) check(header map[string]any, claims jwt.MapClaims, now time.Time) (*Claims, error) {
	// What crit lists has to be understood (RFC 7515, section 4.1.11); jwt/v5
	// ignores it, and there is no extension that we understand. Without crit,
	// b64 (RFC 7797) is not allowed to say that the payload is not encoded.
	if _, ok := header["crit"]; ok {
		return nil, fmt.Errorf("%w: its header crit asks for an extension, and none is supported", ErrMalformed)
	}
	if encoded, ok := header["b64"]; ok && encoded != true {
		return nil, fmt.Errorf("%w: its header b64 says that the payload is not encoded", ErrMalformed)
	}
	if kind, _ := header["typ"].(string); r.mediaType != "" && mediaType(kind) != r.mediaType {
		return nil, fmt.Errorf("%w: its header typ is not %s", ErrMalformed, r.mediaType)
	}
	if issuer, ok := claims["iss"].(string); len(r.issuers) > 0 && !(ok && slices.Contains(r.issuers, issuer)) {
		return nil, differs(ErrWrongIssuer, "iss", claims, r.issuers)
	}
	if len(r.audiences) > 0 && !r.isAudience(claims["aud"]) {
		return nil, differs(ErrWrongAudience, "aud", claims, r.audiences)
	}
	notBefore, err := timeClaim(claims, "nbf")
	if err != nil {
		return nil, err
	}
	issued, err := timeClaim(claims, "iat")
	if err != nil {
		return nil, err
	}
	expires, err := timeClaim(claims, "exp")
	if err != nil {
		return nil, err
	}
	switch {
	case expires.Unix() > latestTime, notBefore.Unix() > latestTime:
		return nil, fmt.Errorf("%w: its exp or nbf is not before the year 10000; it counts seconds, not milliseconds", ErrMalformed)
	case expires.IsZero() && !r.expiryOptional:
		return nil, fmt.Errorf("%w: it has no exp", ErrMalformed)
	}
	times := DifferenceError{NotBefore: notBefore, Issued: issued, Expires: expires, claims: &Claims{values: claims}}
	if notBefore.After(now.Add(r.leeway)) {
		times.Err = ErrNotYetValid
		return nil, &times
	}
	// An iat that is still to come refuses nothing: RFC 7519, section 4.1.6,
	// gives it no such meaning.
	checked := &Claims{Issued: issued, Expires: expires, Ends: expires, values: claims}
	if !expires.IsZero() && !now.Before(expires.Add(r.leeway)) {
		times.Err = ErrExpired
		return checked, &times
	}
	return checked, nil
}

// isAudience reads aud, which is a string or a list of them (RFC 7519,
// section 4.1.3).
func (r *claimRules) isAudience(aud any) bool {
	return slices.ContainsFunc(textsOf(aud), func(audience string) bool { return slices.Contains(r.audiences, audience) })
}

// textsOf are the texts of a claim that is one, or a list of them.
func textsOf(claim any) (texts []string) {
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	for _, entry := range list {
		if text, ok := entry.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// timeClaim reads seconds since 1970, with or without a fraction. It returns
// the zero time where the claim is absent, and one after latestTime for
// whatever is as late.
func timeClaim(claims jwt.MapClaims, name string) (time.Time, error) {
	value, ok := claims[name]
	if !ok {
		return time.Time{}, nil
	}
	seconds, ok := value.(float64)
	if !ok || seconds < 0 {
		return time.Time{}, fmt.Errorf("%w: its %s is not a number of seconds since 1970", ErrMalformed, name)
	}
	// A float has no more than microseconds to spare here, and cut off instead
	// of rounded it would lose the last of its milliseconds.
	return time.UnixMicro(int64(math.Round(min(seconds, latestTime+1) * 1e6))), nil
}

// mediaType makes values of typ comparable (RFC 7515, section 4.1.9).
func mediaType(typ string) string {
	return strings.TrimPrefix(strings.ToLower(typ), "application/")
}
