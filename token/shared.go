package token

import (
	"bytes"
	"crypto"
	"slices"
)

// KeyHolder is a Config or a MinterConfig.
type KeyHolder interface {
	// keys are secrets, as []byte, and public keys. What cannot be read is
	// left out: whoever makes a Verifier or a Minter of it is told.
	keys() []any
}

// ShareKey says whether two of those who sign and verify have a key in common:
// the same secret, the same public key, or the two halves of a pair. Then
// whatever is signed for one of them is also signed for the other. Of a key set
// that has to be fetched nothing is known.
func ShareKey(a, b KeyHolder) bool {
	theirs := b.keys()
	return slices.ContainsFunc(a.keys(), func(key any) bool {
		return slices.ContainsFunc(theirs, func(other any) bool { return sameKey(key, other) })
	})
}

func sameKey(a, b any) bool {
	switch a := a.(type) {
	case []byte:
		secret, ok := b.([]byte)
		return ok && bytes.Equal(a, secret)
	case interface{ Equal(crypto.PublicKey) bool }:
		return a.Equal(b)
	}
	return false
}

func (c Config) keys() (keys []any) {
	if len(c.Secret) > 0 {
		keys = append(keys, c.Secret)
	}
	for _, text := range c.PEM {
		if key, err := publicKey(text); err == nil {
			keys = append(keys, key)
		}
	}
	set := &keySet{}
	_ = set.replace(c.JWKS) // no set, no keys
	for _, known := range set.known() {
		keys = append(keys, known.key)
	}
	return keys
}

func (c MinterConfig) keys() []any {
	if key, err := privateKey(c.Key); err == nil {
		return []any{key.Public()}
	}
	return []any{c.Key}
}
