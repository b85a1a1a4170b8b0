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
	ed25519Algorithms = []string{"EdDSA"}
)

var errKeyKind = errors.New("this kind of key is not supported; use RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519")

// algorithms returns what may be verified with a public key, and nothing for
// whatever else a key set may hold.
func algorithms(key any) []string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
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

func secretKey(secret []byte) ([]string, jwt.Keyfunc, error) {
	if err := checkSecret(secret); err != nil {
		return nil, nil, &ConfigError{"secret", err}
	}
	return hmacAlgorithms, func(*jwt.Token) (any, error) { return secret, nil }, nil
}

// pemKeys tries only the keys that can have made a token's signature. They
// have no names, so a token's kid says nothing about them.
func pemKeys(texts [][]byte) ([]string, jwt.Keyfunc, error) {
	var valid []string
	byAlgorithm := map[string]jwt.VerificationKeySet{}
	for i, text := range texts {
		key, err := publicKey(text)
		if err != nil {
			return nil, nil, &ConfigError{"key", fmt.Errorf("PEM key %d: %w", i+1, err)}
		}
		for _, algorithm := range algorithms(key) {
			valid = append(valid, algorithm)
			byAlgorithm[algorithm] = jwt.VerificationKeySet{Keys: append(byAlgorithm[algorithm].Keys, key)}
		}
	}
	return valid, func(t *jwt.Token) (any, error) { return byAlgorithm[t.Method.Alg()], nil }, nil
}

// checkSecret refuses PEM because a public key that is taken for a secret is
// one that everybody knows.
func checkSecret(secret []byte) error {
	switch {
	case isPEM(secret):
		return errors.New("this is PEM, and so a key rather than a secret; write it as a key")
	case len(secret) < minSecretBytes:
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
