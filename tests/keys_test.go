package tests

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What the tests sign with. The files are what a Caddyfile names.
const (
	sessionSecret  = "the sessions of these tests are signed with this"
	gateSecret     = "the gate of these tests asks with tokens signed so"
	sessionIssuer  = "https://id.test"
	sessionCookie  = "session"
	trustedRelier  = "98e6508e88680e1a"
	untrustedOther = "0123456789abcdef"
)

var (
	keyDir string // holds the files below
	rsaKey *rsa.PrivateKey
	ecKey  *ecdsa.PrivateKey
	edKey  ed25519.PrivateKey
)

// keyFile is the path of one of: session.secret, gate.secret, and rsa, ec and
// ed with .key (private) or .pub.
func keyFile(name string) string { return filepath.Join(keyDir, name) }

// fromFile is a Caddy placeholder for the file's content.
func fromFile(name string) string { return "{file." + keyFile(name) + "}" }

func makeKeys(dir string) {
	keyDir = dir
	rsaKey = must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
	for name, key := range map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey, "ed": edKey} {
		writeFile(name+".key", pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))))
		writeFile(name+".pub", pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public()))))
	}
	writeFile("session.secret", sessionSecret+"\n")
	writeFile("gate.secret", gateSecret+"\n")
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func writeFile(name, content string) {
	if err := os.WriteFile(keyFile(name), []byte(content), 0o600); err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// sessionJWT is the session block of most tests.
func sessionJWT() string {
	return "session jwt {\ncookie " + sessionCookie + "\nsecret " + fromFile("session.secret") +
		"\nissuer " + sessionIssuer + "\naudience web\n}"
}

// claims are those of a good session. Others override them; nil takes one away.
func claims(uid string, others ...map[string]any) jwt.MapClaims {
	now := time.Now().Unix()
	all := jwt.MapClaims{"sub": uid, "iss": sessionIssuer, "aud": "web", "iat": now - 10, "exp": now + 3600}
	for _, other := range others {
		maps.Copy(all, other)
	}
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

// expired is a good session's claims, but too old beyond any leeway.
var expired = map[string]any{"iat": 1_500_000_000, "exp": 1_500_003_600}

// sign makes a token. The header entries are added to alg and typ.
func sign(method jwt.SigningMethod, key any, header map[string]any, all jwt.MapClaims) string {
	token := jwt.NewWithClaims(method, all)
	maps.Copy(token.Header, header)
	return must(token.SignedString(key))
}

// session is a token that verifies, for the uid.
func session(uid string, others ...map[string]any) string {
	return sign(jwt.SigningMethodHS256, []byte(sessionSecret), nil, claims(uid, others...))
}

// cookie is a request header that carries the session.
func cookie(token string) string { return "Cookie: " + sessionCookie + "=" + token }

// newUID is an account that nobody has heard of.
func newUID(testing.TB) string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}
