package token

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

// MinterConfig says how tokens are minted.
type MinterConfig struct {
	// Key is a private key in PEM or a shared secret of at least 32 bytes.
	// The algorithm follows from it: RS256, ES256 (or that of the other
	// curves), EdDSA; HS256 with a secret.
	Key []byte

	// ClientID, Issuer and Audience are the claims client_id, iss and aud.
	// Default: no such claim.
	ClientID, Issuer, Audience string

	// Lifetime is how long a token is good: at least 1s, and no default.
	Lifetime time.Duration
}

// Minter mints access tokens as RFC 9068 has them. It is safe for concurrent
// use.
type Minter struct {
	config MinterConfig
	method jwt.SigningMethod
	key    any
}

// NewMinter checks config.
func NewMinter(config MinterConfig) (*Minter, error) {
	if config.Lifetime < time.Second {
		return nil, &ConfigError{"lifetime", fmt.Errorf("%v is too short; write at least 1s", config.Lifetime)}
	}
	if !isPEM(config.Key) {
		if err := checkSecret(config.Key); err != nil {
			return nil, &ConfigError{"key", err}
		}
		return &Minter{config, jwt.SigningMethodHS256, config.Key}, nil
	}
	key, err := privateKey(config.Key)
	if err != nil {
		return nil, &ConfigError{"key", err}
	}
	return &Minter{config, methods[algorithms(key.Public())[0]], key}, nil
}

// KeyBytes returns the secret bytes of a minter's key, from which others can be
// derived: the shared secret itself or, of a private key, its PKCS #8, however it
// is written.
func KeyBytes(key []byte) ([]byte, error) {
	if !isPEM(key) {
		return key, nil
	}
	private, err := privateKey(key)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(private)
}

// ClientID returns the claim client_id, or "" where there is none.
func (m *Minter) ClientID() string { return m.config.ClientID }

// Mint returns a token for an account. The scope is a list of words separated
// by spaces. The source says where a write comes from, and is a claim only
// where it is not empty.
func (m *Minter) Mint(subject, scope, source string, now time.Time) (string, error) {
	if subject == "" {
		return "", errors.New("minting a token: it would be for nobody; write the account that it is for")
	}
	claims := jwt.MapClaims{
		"sub": subject,
		"iat": now.Unix(),
		"exp": now.Add(m.config.Lifetime).Unix(),
		"jti": rand.Text(),
	}
	for _, optional := range [...]struct{ name, value string }{
		{"iss", m.config.Issuer}, {"aud", m.config.Audience}, {"client_id", m.config.ClientID},
		{"scope", scope}, {optoutapi.SourceClaim, source},
	} {
		if optional.value != "" {
			claims[optional.name] = optional.value
		}
	}
	unsigned := jwt.NewWithClaims(m.method, claims)
	unsigned.Header["typ"] = "at+jwt"
	signed, err := unsigned.SignedString(m.key)
	if err != nil {
		return "", fmt.Errorf("minting a token: %w", err)
	}
	return signed, nil
}
