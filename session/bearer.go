package session

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// Verifier verifies bearer tokens. *token.Verifier and *token.Introspector do.
type Verifier interface {
	// Verify returns the claims of a token that holds at the time now. With
	// token.ErrExpired it may return claims too, and with no other error.
	Verify(raw string, now time.Time) (*token.Claims, error)
	// Digester turns tokens into keys under which it is remembered that they
	// verified. With another one nothing is found of what was remembered.
	Digester() *token.Digester
	// Standing is how those do whom the verifier asks, and nil where it asks nobody.
	Standing() *token.Standing
	Close()
}

// BearerConfig says where a session's token is and what counts in it.
type BearerConfig struct {
	// Cookie is the name of the cookie with the token. Where Header is set
	// too, both count. Default: none.
	Cookie string

	// Header is the name of the header with the token. Default: Authorization
	// where there is no Cookie, else none.
	Header string

	// Scheme is the word in front of the token in Header, in any letter case.
	// A header with another scheme is no credential. Default: Bearer in
	// Authorization; in any other header the value is the token.
	Scheme string

	// UIDClaim is the claim with the account id: a string of 1 to 255 bytes
	// without control characters. Default: sub.
	UIDClaim string

	// OptOutClaim is the claim with the account's preference: true, false or
	// null, or one of these as a string. Anything else is a preference that
	// could not be learnt. Default: none.
	OptOutClaim string

	// CacheEntries bounds how many verified tokens are remembered. Default:
	// 100000.
	CacheEntries int

	// Authorization says that the verifier takes all of what a page hands over,
	// the scheme included. Default: the token behind the word Bearer.
	Authorization bool
}

// Bearer is a session that is proven by a bearer token in a cookie or header,
// be it a JSON Web Token or an opaque one.
type Bearer struct {
	config   BearerConfig
	verifier Verifier
	cache    tokenCache
}

// verifiedFor is how long a token need not be verified again. What it says of
// its user must not be used for long, and five minutes save nearly all of the
// work: somebody who reads one page a minute sends several beacons with each,
// so that more than nine verifications out of ten fall away.
const verifiedFor = 5 * time.Minute

// NewBearer returns a source that has to be closed, which closes the verifier.
func NewBearer(verifier Verifier, config BearerConfig) *Bearer {
	if config.Cookie == "" && config.Header == "" {
		config.Header = "Authorization"
	}
	config.Header = http.CanonicalHeaderKey(config.Header)
	if config.Header == "Authorization" {
		config.Scheme = cmp.Or(config.Scheme, "Bearer")
	}
	config.UIDClaim = cmp.Or(config.UIDClaim, "sub")
	config.CacheEntries = cmp.Or(config.CacheEntries, 100_000)
	return &Bearer{config: config, verifier: verifier, cache: newTokenCache(config.CacheEntries)}
}

// Close ends what the source runs in the background. Requests that are still
// in flight may go on to use it.
func (b *Bearer) Close() { b.verifier.Close() }

// Refresh has a key set that the verifier fetches fetched anew, in the background.
func (b *Bearer) Refresh() {
	if verifier, ok := b.verifier.(*token.Verifier); ok {
		verifier.Refresh()
	}
}

// Standing is how those do whom the verifier asks, and nil where it asks nobody.
func (b *Bearer) Standing() *token.Standing { return b.verifier.Standing() }

// Len returns how many verified tokens are remembered.
func (b *Bearer) Len() int { return b.cache.Len() }

// Credentials returns all tokens that differ: every value of the cookie, and of
// the header.
//
// A sibling subdomain can plant a second cookie of the same name ("cookie
// tossing"), and nothing in the request tells the two apart: RFC 6265, section
// 5.4, sends them in an order that the attacker can influence. And which one
// the application takes is its own business. So each of them counts. In a cookie
// they may be escaped as in a URL, as Express writes them; in a token there is no
// per cent sign. Whoever stands in between may have joined several headers into
// one list (RFC 9110, section 5.3), and in a token there is no comma either.
func (b *Bearer) Credentials(r *http.Request) (first string, more []string) {
	if b.config.Cookie != "" {
		for _, line := range r.Header["Cookie"] {
			for line != "" {
				var pair cookie
				if pair, line = nextCookie(line); pair.name == b.config.Cookie {
					first, more = another(first, more, unescaped(pair.value))
				}
			}
		}
	}
	for _, line := range r.Header[b.config.Header] {
		for line != "" {
			var value string
			value, line, _ = strings.Cut(line, ",")
			first, more = another(first, more, token.FromHeader(value, b.config.Scheme))
		}
	}
	return first, more
}

// another adds a credential to those that were found, if it is none of them. An
// empty one is none.
func another(first string, more []string, raw string) (string, []string) {
	switch {
	case raw == "" || raw == first || slices.Contains(more, raw) || len(more) >= MaxCredentials:
		return first, more
	case first == "":
		return raw, more
	default:
		return first, append(more, raw)
	}
}

// Verify verifies a token, unless the same one verified within the last
// minutes; then it does not allocate.
func (b *Bearer) Verify(_ *http.Request, raw string, now time.Time) (Subject, Outcome) {
	if len(raw) > token.MaxTokenBytes { // before the digest, which would read all of it
		return Subject{}, TooLong
	}
	key := b.verifier.Digester().Digest(raw)
	if known, ok := b.cache.get(&key, now.Unix()); ok {
		return known.subject(raw, now), Verified
	}
	fresh, claims, outcome := b.verify(raw, now)
	switch outcome {
	case Verified:
	case Expired:
		return Subject{UID: fresh.uid}, Expired
	default:
		return Subject{}, outcome
	}
	fresh.until = min(claims.Expires.Unix(), now.Add(verifiedFor).Unix())
	// Within the leeway a token is good and yet past its exp: it would only
	// push out others.
	if fresh.until > now.Unix() {
		b.cache.put(&key, fresh)
	}
	return fresh.subject(raw, now), Verified
}

// Prove verifies a token that a page hands over as it would stand in the header
// Authorization: what the verifier takes is the token behind the word Bearer or,
// with BearerConfig.Authorization, all of it. It remembers none. Ends is when
// the token itself does, and zero where that is not known.
func (b *Bearer) Prove(authorization string, now time.Time) (subject Subject, ends time.Time, outcome Outcome) {
	raw := authorization
	if !b.config.Authorization {
		raw = token.FromHeader(authorization, "Bearer")
	}
	fresh, claims, outcome := b.verify(raw, now)
	if outcome != Verified {
		return Subject{}, time.Time{}, outcome
	}
	return fresh.subject(raw, now), claims.Ends, Verified
}

// verify asks the verifier. Whom the token is of it says where it is Verified or
// Expired, and what else it says where it is Verified.
func (b *Bearer) verify(raw string, now time.Time) (verified, *token.Claims, Outcome) {
	claims, err := b.verifier.Verify(raw, now)
	outcome := outcomeOf(err)
	if claims == nil {
		// An expired opaque token of which nobody says whose it was.
		return verified{}, nil, outcome
	}
	uid, _ := claims.String(b.config.UIDClaim)
	if !policy.IsUID(uid) {
		return verified{}, nil, Malformed
	}
	fresh := verified{uid: uid}
	if outcome == Verified {
		fresh.issued = claims.Issued.Unix()
		fresh.claim, fresh.hasClaim = b.claim(claims)
	}
	return fresh, claims, outcome
}

// claim reads the preference that the token carries, if it carries one.
func (b *Bearer) claim(claims *token.Claims) (preference policy.Preference, found bool) {
	if b.config.OptOutClaim == "" {
		return policy.Unknown, false
	}
	value, found := claims.Value(b.config.OptOutClaim)
	switch value {
	case true, "true":
		return policy.OptedOut, found
	case false, "false":
		return policy.Allowed, found
	case "null":
		return policy.Unset, found
	case nil:
		if found {
			return policy.Unset, found
		}
	}
	return policy.Unknown, found
}

// subject is whom the token proves.
func (v *verified) subject(raw string, now time.Time) Subject {
	subject := Subject{UID: v.uid, Token: raw, HasClaim: v.hasClaim, Claim: v.claim}
	if subject.HasClaim {
		// Where there is no iat, this is the zero time again.
		subject.ClaimedAt = time.Unix(v.issued, 0)
		if subject.ClaimedAt.After(now) {
			// An issuer's clock runs ahead, and nobody knows by how much. As of
			// now on every request, what allows would outlive each opt-out that
			// is told elsewhere.
			subject.ClaimedAt = time.Time{}
			if v.claim == policy.OptedOut {
				subject.ClaimedAt = now
			}
		}
	}
	return subject
}
