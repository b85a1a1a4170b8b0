package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuerName = "https://id.example.org"
	audience   = "web"
	subject    = "0123456789abcdef0123456789abcdef"
	leeway     = time.Minute
)

// The issuer's keys, and one of each that could be wrong.
var (
	secret     = []byte("a shared secret of more than 32 bytes")
	rsaKey     = must(rsa.GenerateKey(rand.Reader, 2048))
	nextRSAKey = must(rsa.GenerateKey(rand.Reader, 2048))
	weakRSAKey = must(rsa.GenerateKey(rand.Reader, 1024))
	p256Key    = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384Key    = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p521Key    = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	p224Key    = must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	edKey      = ed25519.NewKeyFromSeed([]byte("the seed of a key for tests only"))

	// Ahead of every clock: an introspector then takes it for a request that came
	// this moment, however slow the test is.
	now = time.Date(2126, time.March, 1, 12, 0, 0, 0, time.UTC)
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func publicPEM(key crypto.Signer) []byte {
	return pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public())))
}

func privatePEM(key crypto.Signer) []byte {
	return pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// fields are a header or claims; what is nil is left out.
type fields map[string]any

// validClaims hold for verifiers of issuerName and audience at the time at.
func validClaims(at time.Time, changes fields) fields {
	return merged(fields{
		"iss": issuerName, "aud": audience, "sub": subject,
		"iat": at.Unix(), "exp": at.Add(time.Hour).Unix(),
	}, changes)
}

func merged(base, changes fields) fields {
	maps.Copy(base, changes)
	maps.DeleteFunc(base, func(_ string, value any) bool { return value == nil })
	return base
}

// sign writes a token as RFC 7515 has it, without the library that reads it.
func sign(algorithm string, key any, header, claims fields) string {
	header = merged(fields{"alg": algorithm, "typ": "JWT"}, header)
	return signText(algorithm, key, string(must(json.Marshal(header))), string(must(json.Marshal(claims))))
}

func signText(algorithm string, key any, header, claims string) string {
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	if algorithm == "none" {
		return text + "."
	}
	if algorithm == "Ed25519" { // which jwt/v5 knows by its older name
		algorithm = "EdDSA"
	}
	return text + "." + encode(must(jwt.GetSigningMethod(algorithm).Sign(text, key)))
}

func encode(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

// publish returns the fields of a public key in a key set.
func publish(key any, kid string, changes fields) fields {
	jwk := must(jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: jwkset.UseSig}}))
	var public fields
	if err := json.Unmarshal(must(json.Marshal(jwk.Marshal())), &public); err != nil {
		panic(err)
	}
	return merged(public, changes)
}

func keySet(keys ...fields) string {
	return string(must(json.Marshal(map[string]any{"keys": keys})))
}

func newVerifier(t testing.TB, config token.Config) *token.Verifier {
	t.Helper()
	v, err := token.NewVerifier(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

var sentinels = []error{
	token.ErrTooLong, token.ErrMalformed, token.ErrBadSignature, token.ErrUnknownKey,
	token.ErrUnavailable, token.ErrInactive, token.ErrWrongIssuer, token.ErrWrongAudience, token.ErrNotYetValid, token.ErrExpired,
}

// leaks reports a part of the private that a text quotes. Parts of up to
// seven characters may be words of the text itself.
func leaks(text string, private ...string) bool {
	for _, part := range private {
		if len(part) > 7 && strings.Contains(text, part) {
			return true
		}
	}
	return false
}
