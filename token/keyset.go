package token

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/MicahParks/jwkset"
)

// maxCandidates is how many keys are tried for a token. Each try costs a
// signature, and forged tokens are free.
const maxCandidates = 8

// keySet is a JSON Web Key Set (RFC 7517). It holds only keys that can verify
// a token, and none until the first set has come.
type keySet struct {
	keys    atomic.Pointer[[]setKey]
	changed func(withdrawn, added []string) // nil where nobody wants to know
	fetcher *fetcher                        // nil where the set does not change
}

// setKey is a key of a set, and what may be verified with it.
type setKey struct {
	name        string // kid
	key         any
	algorithms  []string
	fingerprint string // of the key
}

// is says whether both are one key, and may verify the same.
func (k setKey) is(other setKey) bool {
	return k.name == other.name && k.fingerprint == other.fingerprint && slices.Equal(k.algorithms, other.algorithms)
}

// without returns the fingerprints of those keys that are not among the others.
func without(keys, others []setKey) (missing []string) {
	for _, k := range keys {
		if !slices.ContainsFunc(others, k.is) {
			missing = append(missing, k.fingerprint)
		}
	}
	return missing
}

// find is a finder. A key that is not there may have come to the set since, so
// it waits for a look.
func (s *keySet) find(header map[string]any, algorithm string) ([]any, error) {
	if slices.Contains(hmacAlgorithms, algorithm) {
		return nil, ErrBadSignature // a key that is published is no secret
	}
	name, named := header["kid"].(string)
	if !named && header["kid"] != nil {
		return nil, ErrMalformed
	}
	candidates, known := s.candidates(name, named, algorithm)
	if !known && s.fetcher != nil {
		s.fetcher.wait()
		candidates, known = s.candidates(name, named, algorithm)
	}
	switch {
	case len(s.known()) == 0:
		return nil, ErrUnavailable
	case !known, !named && len(candidates) == 0, len(candidates) > maxCandidates:
		return nil, ErrUnknownKey
	}
	return candidates, nil
}

// candidates returns the keys that may have signed a token with an algorithm,
// and whether there are any that it can mean. Those of one name may be several:
// keys of different kinds may share one (RFC 7517, section 4.5).
func (s *keySet) candidates(name string, named bool, algorithm string) (candidates []any, known bool) {
	for _, k := range s.known() {
		if named && k.name != name {
			continue
		}
		known = true
		if slices.Contains(k.algorithms, algorithm) {
			candidates = append(candidates, k.key)
		}
	}
	return candidates, known
}

func (s *keySet) known() []setKey {
	if keys := s.keys.Load(); keys != nil {
		return *keys
	}
	return nil
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
	var usable []setKey
	for _, text := range set.Keys {
		if key, err := verificationKey(text); err == nil {
			usable = append(usable, key)
		}
	}
	if len(usable) == 0 {
		return fmt.Errorf("none of its %d keys can verify a token; it must hold a public key with use sig: RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519", len(set.Keys))
	}
	before := s.known()
	s.keys.Store(&usable)
	if withdrawn, added := without(before, usable), without(usable, before); len(withdrawn)+len(added) > 0 && s.changed != nil {
		s.changed(withdrawn, added)
	}
	return nil
}

func verificationKey(text []byte) (setKey, error) {
	var fields jwkset.JWKMarshal
	if err := json.Unmarshal(text, &fields); err != nil {
		return setKey{}, err
	}
	// As in PEM, a certificate says nothing that counts. With one, jwkset wants
	// alg to be EdDSA, and refuses whatever crypto/x509 does not read.
	fields.X5C, fields.X5T, fields.X5TS256, fields.X5U = nil, "", "", ""
	// More operations than jwkset knows may be there (RFC 7517, section 4.3).
	jwk, err := jwkset.NewJWKFromMarshal(fields, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipKeyOps: true})
	usable := setKey{name: fields.KID, key: jwk.Key(), algorithms: declared(fields.ALG.String(), algorithms(jwk.Key()))}
	switch {
	case err != nil:
		return usable, err
	case fields.D != "" || fields.K != "": // whoever publishes a private key has lost it
		return usable, errors.New("it is not public")
	case fields.USE == jwkset.UseEnc, len(fields.KEYOPS) > 0 && !slices.Contains(fields.KEYOPS, jwkset.KeyOpsVerify):
		return usable, errors.New("it is not for signatures")
	case usable.algorithms == nil:
		return usable, errKeyKind
	}
	public, err := x509.MarshalPKIXPublicKey(usable.key)
	usable.fingerprint = Fingerprint(public)
	return usable, err
}

// Fingerprint tells keys and secrets apart without giving them away: the first
// eight digits of the SHA-256. Of a public key of a set it is that of its DER.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// declared narrows down what a key may verify to the alg that its set says. Two
// names of one method are the same.
func declared(algorithm string, possible []string) []string {
	switch {
	case algorithm == "":
		return possible
	case !slices.Contains(possible, algorithm):
		return nil
	}
	return slices.DeleteFunc(slices.Clone(possible), func(other string) bool { return methods[other] != methods[algorithm] })
}
