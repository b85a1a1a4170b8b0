package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// minSecretBytes is the size of the smallest hash that a secret keys (RFC
	// 7518, section 3.2).
	minSecretBytes = 32
	// minRSABits is the size below which RFC 7518, section 3.3, allows no RSA
	// key.
	minRSABits = 2048
)

// The algorithms that each kind of key may be used with. The first is the one
// that a minter uses.
var (
	hmacAlgorithms    = []string{"HS256", "HS384", "HS512"}
	rsaAlgorithms     = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	p256Algorithms    = []string{"ES256"}
	p384Algorithms    = []string{"ES384"}
	p521Algorithms    = []string{"ES512"}
	ed25519Algorithms = []string{"EdDSA", "Ed25519"}
)

// methods are how signatures of each algorithm are verified. They are not
// those in the register of jwt/v5, because that takes a PSS salt of any length,
// where RFC 7518, section 3.5, wants one as long as the hash, and does not know
// Ed25519, which RFC 9864 puts in the place of EdDSA. To change it would change
// it for everybody else in the process. (Of the other names of RFC 9864, those
// for ECDSA are not for JSON, and Ed448 is in no issuer's use that we know of,
// nor in the standard library.)
var methods = map[string]jwt.SigningMethod{
	"HS256": jwt.SigningMethodHS256, "HS384": jwt.SigningMethodHS384, "HS512": jwt.SigningMethodHS512,
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": pss(jwt.SigningMethodPS256), "PS384": pss(jwt.SigningMethodPS384), "PS512": pss(jwt.SigningMethodPS512),
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA, "Ed25519": jwt.SigningMethodEdDSA,
}

// pss returns the method with the salt that it signs with, also for verifying.
func pss(method *jwt.SigningMethodRSAPSS) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: method.SigningMethodRSA,
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
}

var errKeyKind = errors.New("this kind of key is not supported; use RSA of at least 2048 bits, with an odd exponent of at least 3, ECDSA on P-256, P-384 or P-521, or Ed25519")

// algorithms returns what may be verified with a public key, and nothing for
// whatever else a key set may hold.
func algorithms(key any) []string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		// The exponents that crypto/rsa refuses, later and for each token.
		if key.N.BitLen() >= minRSABits && key.E >= 3 && key.E%2 == 1 {
			return rsaAlgorithms
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return p256Algorithms
		case elliptic.P384():
			return p384Algorithms
		case elliptic.P521():
			return p521Algorithms
		}
	case ed25519.PublicKey:
		return ed25519Algorithms
	}
	return nil
}

// finder returns the keys that may have signed a token with a header and, in
// it, an algorithm.
type finder func(header map[string]any, algorithm string) ([]any, error)

func secretKey(secret []byte) (finder, error) {
	if err := checkSecret(secret); err != nil {
		return nil, &ConfigError{"secret", err}
	}
	keys := []any{secret}
	return func(_ map[string]any, algorithm string) ([]any, error) {
		if !slices.Contains(hmacAlgorithms, algorithm) {
			return nil, ErrBadSignature
		}
		return keys, nil
	}, nil
}

// pemKeys tries only the keys that can have made a token's signature. They
// have no names, so a token's kid says nothing about them.
func pemKeys(texts [][]byte) (finder, error) {
	byAlgorithm := map[string][]any{}
	for i, text := range texts {
		key, err := publicKey(text)
		if err != nil {
			return nil, &ConfigError{"key", fmt.Errorf("PEM key %d: %w", i+1, err)}
		}
		for _, algorithm := range algorithms(key) {
			byAlgorithm[algorithm] = append(byAlgorithm[algorithm], key)
		}
	}
	return func(_ map[string]any, algorithm string) ([]any, error) { return byAlgorithm[algorithm], nil }, nil
}

// isPath knows the path of a file from a secret: base64 has none of the
// characters that it asks for beside the slash, and base64url has no slash.
var isPath = regexp.MustCompile(`^/[\w./-]*[._-][\w./-]*$`)

// isBare knows a placeholder that lost its braces: a dot is in neither base64.
var isBare = regexp.MustCompile(`^(env|file)\.[\w./-]+$`)

// checkLiteral refuses what only says where a secret or a key is: the path of a
// file and a misspelt placeholder are something that others know.
func checkLiteral(text []byte) error {
	switch {
	case isPath.Match(text):
		return errors.New("this is the path of a file, and not what is in it; write {file./path}")
	case isBare.Match(text):
		return errors.New("this is a placeholder without its braces; write {env.NAME} or {file./path}")
	case bytes.HasPrefix(text, []byte("{")) && bytes.HasSuffix(text, []byte("}")):
		return errors.New("this looks like a placeholder or JSON, and would be taken as it stands; " +
			"write {env.NAME}, or {file./path} of a file that holds nothing but the secret")
	}
	return nil
}

// checkSecret refuses what would be taken for a secret and is none.
func checkSecret(secret []byte) error {
	if isPEM(secret) {
		return errors.New("this is PEM, and so a key rather than a secret; write it as a key")
	}
	if err := checkLiteral(secret); err != nil {
		return err
	}
	if len(secret) < minSecretBytes {
		return fmt.Errorf("it has %d bytes; write at least %d random ones (openssl rand -hex 32)", len(secret), minSecretBytes)
	}
	return nil
}

func isPEM(text []byte) bool { return bytes.Contains(text, []byte("-----BEGIN ")) }

// onlyBlock reads PEM that holds one key. Were several taken, the chain that
// often follows a certificate would let certificate authorities sign tokens.
func onlyBlock(text []byte) (*pem.Block, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes them first
		block, rest = pem.Decode(rest)
	}
	switch {
	case block == nil:
		if err := checkLiteral(text); err != nil {
			return nil, err
		}
		return nil, errors.New("this is not PEM; write a key that starts with -----BEGIN")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something follows the first key; write each key on its own")
	}
	return block, nil
}

func publicKey(text []byte) (any, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, err
	}
	var key any
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = certificate.PublicKey
		}
	default:
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil, errors.New("this is a private key, which must not be here; write its public half (openssl pkey -in <file> -pubout)")
		}
		return nil, errors.New("this is neither a public key nor a certificate; write a PUBLIC KEY or CERTIFICATE in PEM")
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("this cannot be read as a key; write a PUBLIC KEY or CERTIFICATE in PEM: %w", err)
	case algorithms(key) == nil:
		return nil, errKeyKind
	}
	return key, nil
}

func privateKey(text []byte) (crypto.Signer, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, err
	}
	var key any
	switch {
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["Proc-Type"] != "":
		return nil, errors.New("this key is encrypted; write it without a passphrase (openssl pkey -in <file>)")
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, errors.New("this is not a private key; write a PRIVATE KEY in PEM, or a secret")
	}
	if err != nil {
		return nil, fmt.Errorf("this cannot be read as a key; write a PRIVATE KEY in PEM: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok || algorithms(signer.Public()) == nil {
		return nil, errKeyKind
	}
	return signer, nil
}
