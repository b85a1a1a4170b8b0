// Package token verifies bearer tokens and mints them: JSON Web Tokens
// (RFC 7519) as signed session credentials and access tokens. About opaque
// tokens it asks whoever has issued them (RFC 7662).
//
// The key decides which algorithms a token may use, never the token (RFC
// 8725, section 3.1), and the headers in which a token brings its own key
// (jku, jwk, x5u, x5c) are never read. No error of this package holds a
// token, a part of one, or a key.
//
// It does not look for tokens in a request, which package session does, and
// does not say what an account may do. It knows nothing of Caddy:
//
//	verifier, err := token.NewVerifier(token.Config{
//		JWKSURL:   "https://id.example.org/jwks",
//		Issuers:   []string{"https://id.example.org"},
//		Audiences: []string{"web"},
//	})
//	…
//	defer verifier.Close()
//	claims, err := verifier.Verify(raw, time.Now())
package token

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxTokenBytes is the length above which a token is refused unread. It is
// what common servers accept as the size of all headers together.
const MaxTokenBytes = 8 << 10

// Every error of Verify wraps exactly one of these, but for ErrBusy, which
// wraps another. Where the claims do not hold, there is a DifferenceError around it.
var (
	// ErrTooLong: the token was not read.
	ErrTooLong = errors.New("the token is longer than 8 KiB")
	// ErrMalformed: it is no token, or not one that this verifier takes:
	// a header that must be understood and is not, another type, a missing
	// or impossible time.
	ErrMalformed = errors.New("the token is malformed")
	// ErrBadSignature: no key that the token may use has signed it, be it
	// that it asks for an algorithm which is not the key's, or for none.
	ErrBadSignature = errors.New("the token's signature does not hold")
	// ErrUnknownKey: the key set does not have the key that the token names, or
	// has none of its kind where it names none, or too many come into question.
	ErrUnknownKey = errors.New("the token does not name a key of the key set")
	// ErrUnavailable: whoever knows could not be asked, so that nothing can be
	// said about the token: no key set has been fetched yet, or introspection
	// failed.
	ErrUnavailable = errors.New("nobody could be asked about the token")
	// ErrBusy is an ErrUnavailable that whoever sends tokens can bring about:
	// so many were asked about that this one found no slot free, or no time
	// left, because others of its request took it.
	ErrBusy = fmt.Errorf("%w: too many are asked about", ErrUnavailable)
	// ErrInactive: whoever has issued it, or should have, says by introspection
	// that it is not good.
	ErrInactive = errors.New("the token is not active")
	// ErrWrongIssuer: iss is missing or none of Config.Issuers.
	ErrWrongIssuer = errors.New("the token is from another issuer")
	// ErrWrongAudience: aud is missing or holds none of Config.Audiences.
	ErrWrongAudience = errors.New("the token is for another audience")
	// ErrNotYetValid: everything else about the token holds, but its nbf is ahead
	// of our clock by more than the leeway.
	ErrNotYetValid = errors.New("the token is not valid yet: compare the clocks of its issuer and of this machine")
	// ErrExpired: everything about the token holds but its exp.
	ErrExpired = errors.New("the token has expired")
)

// ConfigError says which setting is wrong, and how: secret, key, jwks, leeway;
// of a minter, lifetime; of an introspector, url, manner, bearer, basic,
// issuer, audience, timeout, max_age, max_entries or concurrency.
type ConfigError struct {
	Setting string
	Err     error
}

func (e *ConfigError) Error() string { return e.Setting + ": " + e.Err.Error() }

func (e *ConfigError) Unwrap() error { return e.Err }

// Config says how tokens are verified. Exactly one of Secret, PEM, JWKSURL
// and JWKS is set. Two configurations with the same JSON verify alike; that
// JSON holds the secret.
type Config struct {
	// Secret is a shared secret of at least 32 bytes, for HS256, HS384 and
	// HS512.
	Secret []byte

	// PEM holds public keys or certificates, one to an entry: RSA of at least
	// 2048 bits (RS256 to PS512), ECDSA (the one algorithm of its curve) or
	// Ed25519 (EdDSA, and Ed25519 as RFC 9864 calls the same). Several are for
	// rotation: any of them may verify. Of a certificate only the key counts,
	// since it is trusted for being written here and not for who signed it or
	// until when.
	PEM [][]byte

	// JWKSURL is where a JSON Web Key Set (RFC 7517) is fetched: https, or
	// http on loopback or with AllowHTTP. The verifier fetches it in the background, again
	// every 15 minutes, and at most every 30 seconds for a key that it does
	// not know or a signature that does not hold. While that fails, the keys of
	// the last success are used.
	JWKSURL string

	// AllowHTTP takes a JWKSURL by http from other machines too. Whoever is on
	// the way to them can then sign in as anybody. Default: false.
	AllowHTTP bool

	// JWKS is the JSON of a key set that does not change.
	JWKS []byte

	// Issuers lists the accepted values of iss. Default: not checked.
	Issuers []string

	// Audiences lists values of aud, one of which must be there. Default: not
	// checked.
	Audiences []string

	// Leeway is how far the issuer's clock may differ from ours; it applies
	// to exp and nbf. Default: 0.
	Leeway time.Duration

	// Type is the required header typ, such as at+jwt for access tokens (RFC
	// 9068); letter case and a leading "application/" do not matter. Default:
	// not checked.
	Type string

	// ExpiryOptional says that tokens without exp are good, as security event
	// tokens are (RFC 8417, section 2.2). Default: they are malformed.
	ExpiryOptional bool

	// KeySetClient fetches JWKSURL, within this package's limits on time,
	// size and redirects. Default: one of the verifier's own.
	KeySetClient *http.Client `json:"-"`

	// OnKeySetError is called after each fetch of JWKSURL that failed. It
	// must not call Close. Default: nothing is called.
	OnKeySetError func(error) `json:"-"`

	// OnKeySetFetch is called after each fetch of JWKSURL. It must not call Close.
	// Default: nothing is called.
	OnKeySetFetch func(FetchOutcome) `json:"-"`

	// OnKeySetChange is called when a fetch of JWKSURL brought other keys than
	// are known, with the Fingerprint of each that is gone or new. It must not
	// call Close. Default: nothing is called.
	OnKeySetChange func(withdrawn, added []string) `json:"-"`
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	parser *jwt.Parser
	find   finder
	rules  claimRules
	keys   *fetcher // nil where the keys do not change

	// refused are tokens that no key has signed; nil where the keys may change.
	refused *refused

	digests atomic.Pointer[Digester]
}

// NewVerifier checks config without using the network. Where it holds a
// JWKSURL, a goroutine begins to fetch it, which Close ends.
func NewVerifier(config Config) (*Verifier, error) {
	v := &Verifier{
		parser: jwt.NewParser(jwt.WithStrictDecoding()),
		rules: claimRules{
			issuers: config.Issuers, audiences: config.Audiences,
			leeway: config.Leeway, mediaType: mediaType(config.Type),
			expiryOptional: config.ExpiryOptional,
		},
	}
	v.digests.Store(NewDigester())
	if config.Leeway < 0 {
		return nil, &ConfigError{"leeway", fmt.Errorf("%v is negative; write a duration such as 60s", config.Leeway)}
	}
	sources := 0
	for _, set := range []bool{len(config.Secret) > 0, len(config.PEM) > 0, config.JWKSURL != "", len(config.JWKS) > 0} {
		if set {
			sources++
		}
	}
	if sources != 1 {
		return nil, fmt.Errorf("%d sources of keys are set; write exactly one of: a secret, PEM keys, the URL of a key set, a key set", sources)
	}

	var err error
	switch {
	case len(config.Secret) > 0:
		v.find, err = secretKey(config.Secret)
	case len(config.PEM) > 0:
		v.find, err = pemKeys(config.PEM)
	default:
		err = v.useKeySet(config)
	}
	if err != nil {
		return nil, err
	}
	if v.keys == nil {
		v.refused = new(refused)
	}
	return v, nil
}

func (v *Verifier) useKeySet(config Config) error {
	set := &keySet{changed: func(withdrawn, added []string) {
		if len(withdrawn) > 0 {
			v.digests.Store(NewDigester())
		}
		if config.OnKeySetChange != nil {
			config.OnKeySetChange(withdrawn, added)
		}
	}}
	v.find = set.find
	if config.JWKSURL == "" {
		if err := set.replace(config.JWKS); err != nil {
			return &ConfigError{"jwks", err}
		}
		return nil
	}
	var err error
	v.keys, err = newFetcher(config.JWKSURL, config.AllowHTTP, cmp.Or(config.KeySetClient, ownClient()), set.replace, config.OnKeySetError, config.OnKeySetFetch)
	if err != nil {
		return &ConfigError{"jwks", err}
	}
	set.fetcher = v.keys
	v.keys.start()
	return nil
}

// Verify returns the claims of a token that holds at the time now. With
// ErrExpired, and with no other error, it returns claims too: those of a
// token whose time has passed and about which everything else holds.
//
// It can wait up to 50 ms for a key set that is being fetched.
func (v *Verifier) Verify(raw string, now time.Time) (*Claims, error) {
	if len(raw) > MaxTokenBytes {
		return nil, ErrTooLong
	}
	var digest Digest
	if v.refused != nil {
		if digest = v.Digester().Digest(raw); v.refused.has(&digest) {
			return nil, ErrBadSignature
		}
	}
	claims := sealed{raw: []byte("null")} // of which encoding/json tells nobody
	parsed, parts, err := v.parser.ParseUnverified(raw, &claims)
	// Which algorithms there are is for methods to say, and not for the register
	// of jwt/v5, which the whole process shares. What the library says is left
	// out: it quotes the token.
	if err != nil && !errors.Is(err, jwt.ErrTokenUnverifiable) {
		return nil, ErrMalformed
	}
	// encoding/base64 passes over line breaks, which RFC 7515, section 2, does
	// not allow.
	signature, err := v.parser.DecodeSegment(parts[2])
	if err != nil || strings.ContainsAny(raw, "\r\n") {
		return nil, ErrMalformed
	}
	algorithm, _ := parsed.Header["alg"].(string)
	method, ok := methods[algorithm]
	if !ok {
		return nil, ErrBadSignature
	}
	keys, err := v.find(parsed.Header, algorithm)
	if err != nil {
		return nil, err
	}
	signed := raw[:len(raw)-len(parts[2])-1]
	holds := func(key any) bool { return method.Verify(signed, signature, key) == nil }
	if !slices.ContainsFunc(keys, holds) {
		// An issuer may have put another key in the place of one, by the same
		// name.
		if v.keys == nil {
			v.refused.add(&digest)
			return nil, ErrBadSignature
		}
		if !v.keys.wait() {
			return nil, ErrBadSignature
		}
		if keys, err = v.find(parsed.Header, algorithm); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(keys, holds) {
			return nil, ErrBadSignature
		}
	}
	opened := jwt.MapClaims{}
	if json.Unmarshal(claims.raw, &opened) != nil {
		return nil, ErrMalformed
	}
	return v.rules.check(parsed.Header, opened, now)
}

// refused remembers tokens that none of a verifier's keys has signed. A browser sends
// the same one with each request, such as a second session cookie that a sibling
// subdomain has set, and without keys that come and go it never holds. Each token has
// one place, where a later one takes the place of an earlier one, so whoever makes up
// tokens takes no memory and has other such tokens verified anew, and no session. Two
// tokens are taken for one with a probability of at most 514 in 2^80 (see Digester).
type refused [1 << 16]atomic.Uint64

func (r *refused) place(digest *Digest) (place *atomic.Uint64, content uint64) {
	return &r[binary.LittleEndian.Uint16(digest[:])], binary.LittleEndian.Uint64(digest[8:])
}

func (r *refused) has(digest *Digest) bool {
	place, content := r.place(digest)
	return place.Load() == content && content != 0 // which an empty place has
}

func (r *refused) add(digest *Digest) {
	place, content := r.place(digest)
	place.Store(content)
}

// sealed is the claims of a token as they came. They are decoded when the signature
// holds, so that a token which nobody vouches for costs little more than to find that
// out.
type sealed struct {
	jwt.MapClaims
	raw []byte
}

// UnmarshalJSON keeps the claims.
func (s *sealed) UnmarshalJSON(raw []byte) error {
	s.raw = bytes.Clone(raw)
	return nil
}

// Digester turns tokens into keys under which it can be remembered that they
// verified. It is another one once a key was withdrawn from the key set, so
// that nothing which is remembered then is found again.
func (v *Verifier) Digester() *Digester { return v.digests.Load() }

// Refresh has the key set fetched anew, in the background.
func (v *Verifier) Refresh() {
	if v.keys != nil {
		v.keys.refresh()
	}
}

// Close ends the fetching of the key set and waits for its end. Verify goes
// on to work with the keys that are known.
func (v *Verifier) Close() {
	if v.keys != nil {
		v.keys.close()
	}
}
