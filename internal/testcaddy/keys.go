package testcaddy

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
	SessionSecret  = "the sessions of these tests are signed with this"
	SecondSecret   = "other sessions of these tests are signed with this"
	GateSecret     = "the gate of these tests asks with tokens signed so"
	SessionIssuer  = "https://id.test"
	SessionCookie  = "session"
	TrustedRelier  = "98e6508e88680e1a"
	UntrustedOther = "0123456789abcdef"
)

// The private keys, once Main has made them.
var (
	RSAKey *rsa.PrivateKey
	ECKey  *ecdsa.PrivateKey
	EdKey  ed25519.PrivateKey
)

var keyDir string // holds them as files

// KeyFile is the path of one of: session.secret, gate.secret, and rsa, ec and
// ed with .key (private) or .pub.
func KeyFile(name string) string { return filepath.Join(keyDir, name) }

// FromFile is a Caddy placeholder for the file's content.
func FromFile(name string) string { return "{file." + KeyFile(name) + "}" }

func makeKeys(dir string) {
	keyDir = dir
	RSAKey = Must(rsa.GenerateKey(rand.Reader, 2048))
	ECKey = Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, EdKey, _ = ed25519.GenerateKey(rand.Reader)
	for name, key := range map[string]crypto.Signer{"rsa": RSAKey, "ec": ECKey, "ed": EdKey} {
		writeFile(name+".key", pemOf("PRIVATE KEY", Must(x509.MarshalPKCS8PrivateKey(key))))
		writeFile(name+".pub", pemOf("PUBLIC KEY", Must(x509.MarshalPKIXPublicKey(key.Public()))))
	}
	writeFile("session.secret", SessionSecret+"\n")
	writeFile("second.secret", SecondSecret+"\n")
	writeFile("gate.secret", GateSecret+"\n")
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func writeFile(name, content string) {
	if err := os.WriteFile(KeyFile(name), []byte(content), 0o600); err != nil {
		panic(err)
	}
}

// Must is the value of what cannot fail in a test.
func Must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// SessionJWT is the session block of most tests.
func SessionJWT() string {
	return "session jwt {\ncookie " + SessionCookie + "\nsecret " + FromFile("session.secret") +
		"\nissuer " + SessionIssuer + "\naudience web\n}"
}

// Claims are those of a good session. Others override them; nil takes one away.
func Claims(uid string, others ...map[string]any) jwt.MapClaims {
	now := time.Now().Unix()
	all := jwt.MapClaims{"sub": uid, "iss": SessionIssuer, "aud": "web", "iat": now - 10, "exp": now + 3600}
	for _, other := range others {
		maps.Copy(all, other)
	}
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

// Expired is a good session's claims, but too old beyond any leeway.
var Expired = map[string]any{"iat": 1_500_000_000, "exp": 1_500_003_600}

// Sign makes a token. The header entries are added to alg and typ.
func Sign(method jwt.SigningMethod, key any, header map[string]any, all jwt.MapClaims) string {
	token := jwt.NewWithClaims(method, all)
	maps.Copy(token.Header, header)
	return Must(token.SignedString(key))
}

// Session is a token that verifies, for the uid.
func Session(uid string, others ...map[string]any) string {
	return Sign(jwt.SigningMethodHS256, []byte(SessionSecret), nil, Claims(uid, others...))
}

// Cookie is a request header that carries the session.
func Cookie(token string) string { return "Cookie: " + SessionCookie + "=" + token }

// NewUID is an account that nobody has heard of.
func NewUID(testing.TB) string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}
