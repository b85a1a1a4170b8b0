package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// maxUnnamedKeys is how many keys are tried for a token that names none. Each
// try costs a signature, and forged tokens are free.
const maxUnnamedKeys = 8

// keySet is a JSON Web Key Set (RFC 7517) as the storage that keyfunc reads.
// It holds only keys that can verify a token, and none until the first set
// has come.
type keySet struct {
	*jwkset.MemoryJWKSet
	byName  keyfunc.Keyfunc
	fetcher *fetcher // nil where the set does not change
}

func newKeySet() (*keySet, error) {
	s := &keySet{MemoryJWKSet: jwkset.NewMemoryStorage()}
	var err error
	s.byName, err = keyfunc.New(keyfunc.Options{Storage: s})
	return s, err
}

// find is a jwt.Keyfunc. The algorithm is compared with the key once more
// since keyfunc leaves it open where the set says no alg, and jwt/v5 does not
// look at the curve of an ECDSA key.
func (s *keySet) find(t *jwt.Token) (any, error) {
	switch t.Header["kid"].(type) {
	case string:
		key, err := s.byName.Keyfunc(t)
		if err == nil && !slices.Contains(algorithms(key), t.Method.Alg()) {
			err = ErrBadSignature
		}
		return key, err
	case nil:
		return s.unnamed(t.Method.Alg())
	default:
		return nil, ErrMalformed
	}
}

// unnamed returns the keys that may have signed a token without a kid, where
// keyfunc would return all there are.
func (s *keySet) unnamed(algorithm string) (any, error) {
	var keys jwt.VerificationKeySet
	for _, jwk := range s.all() {
		declared := jwk.Marshal().ALG.String()
		if (declared == "" || declared == algorithm) && slices.Contains(algorithms(jwk.Key()), algorithm) {
			keys.Keys = append(keys.Keys, jwk.Key())
		}
	}
	if n := len(keys.Keys); n == 0 || n > maxUnnamedKeys {
		return nil, s.unknown()
	}
	return keys, nil
}

// KeyRead is what keyfunc asks for the key that a token names. A key that is
// not there may have come to the set since, so it waits for a look.
func (s *keySet) KeyRead(ctx context.Context, kid string) (jwkset.JWK, error) {
	jwk, err := s.MemoryJWKSet.KeyRead(ctx, kid)
	if err != nil && s.fetcher != nil {
		s.fetcher.wait()
		jwk, err = s.MemoryJWKSet.KeyRead(ctx, kid)
	}
	if err != nil {
		return jwk, s.unknown()
	}
	return jwk, nil
}

// all returns every key, and waits a moment for the first ones.
func (s *keySet) all() []jwkset.JWK {
	keys := s.known()
	if len(keys) == 0 && s.fetcher != nil {
		s.fetcher.wait()
		keys = s.known()
	}
	return keys
}

func (s *keySet) known() []jwkset.JWK {
	keys, _ := s.KeyReadAll(context.Background()) // memory does not fail
	return keys
}

func (s *keySet) unknown() error {
	if len(s.known()) == 0 {
		return ErrUnavailable
	}
	return ErrUnknownKey
}

// replace takes the keys of a set that can verify tokens, instead of those
// known so far. Keys that it does not understand are passed over, as RFC 7517,
// section 5, asks; a set without a single good one changes nothing, because
// it is an error page rather than a rotation.
func (s *keySet) replace(text []byte) error {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return fmt.Errorf("this is not the JSON of a key set (RFC 7517): %w", err)
	}
	var usable []jwkset.JWK
	for _, text := range set.Keys {
		if jwk, err := verificationKey(text); err == nil {
			usable = append(usable, jwk)
		}
	}
	if len(usable) == 0 {
		return fmt.Errorf("none of its %d keys can verify a token; it must hold a public key with use sig: RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519", len(set.Keys))
	}
	return s.KeyReplaceAll(context.Background(), usable)
}

func verificationKey(text []byte) (jwkset.JWK, error) {
	var fields jwkset.JWKMarshal
	if err := json.Unmarshal(text, &fields); err != nil {
		return jwkset.JWK{}, err
	}
	jwk, err := jwkset.NewJWKFromMarshal(fields, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	switch {
	case err != nil:
		return jwk, err
	case fields.D != "" || fields.K != "": // whoever publishes a private key has lost it
		return jwk, errors.New("it is not public")
	case fields.USE == jwkset.UseEnc, len(fields.KEYOPS) > 0 && !slices.Contains(fields.KEYOPS, jwkset.KeyOpsVerify):
		return jwk, errors.New("it is not for signatures")
	case algorithms(jwk.Key()) == nil:
		return jwk, errKeyKind
	}
	return jwk, nil
}
