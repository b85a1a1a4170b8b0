package token_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/token"
)

func newMinter(t testing.TB, key []byte) *token.Minter {
	t.Helper()
	m, err := token.NewMinter(token.MinterConfig{
		Key: key, ClientID: "metrics-gate", Issuer: issuerName, Audience: audience, Lifetime: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func decode(t testing.TB, part string) fields {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var decoded fields
	if err := json.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// TestShareKey holds that whoever can sign for one of two is found, and nobody
// else.
func TestShareKey(t *testing.T) {
	t.Parallel()
	other := []byte("another secret of more than 32 bytes")
	pems := func(keys ...crypto.Signer) (config token.Config) {
		for _, key := range keys {
			config.PEM = append(config.PEM, publicPEM(key))
		}
		return config
	}
	mint := func(key []byte) token.MinterConfig { return token.MinterConfig{Key: key} }
	set := token.Config{JWKS: []byte(keySet(publish(p256Key.Public(), "a", nil), publish(rsaKey.Public(), "b", nil)))}
	for name, test := range map[string]struct {
		a, b token.KeyHolder
		want bool
	}{
		"one secret":              {token.Config{Secret: secret}, mint(secret), true},
		"two secrets":             {token.Config{Secret: secret}, mint(other), false},
		"a pair":                  {pems(edKey), mint(privatePEM(edKey)), true},
		"a pair, SEC 1":           {pems(p256Key), mint(pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256Key)))), true},
		"a pair among several":    {pems(p384Key, edKey, rsaKey), mint(privatePEM(rsaKey)), true},
		"none among several":      {pems(p384Key, edKey, rsaKey), mint(privatePEM(p256Key)), false},
		"a pair by a key set":     {set, mint(privatePEM(rsaKey)), true},
		"none in a key set":       {set, mint(privatePEM(edKey)), false},
		"a key set to be fetched": {token.Config{JWKSURL: keySetURL}, mint(privatePEM(rsaKey)), false},
		"what cannot be read":     {token.Config{PEM: [][]byte{secret}, JWKS: secret}, mint(secret), false},
		"nothing":                 {token.Config{}, mint(nil), false},
		"two verify with one":     {pems(edKey), pems(p256Key, edKey), true},
		"by PEM and a key set":    {pems(rsaKey), set, true},
		"two verify alike":        {token.Config{Secret: secret}, token.Config{Secret: secret}, true},
		"two verify each":         {pems(edKey), pems(p256Key), false},
	} {
		if token.ShareKey(test.a, test.b) != test.want || token.ShareKey(test.b, test.a) != test.want {
			t.Errorf("%s: not %v", name, test.want)
		}
	}
}

// TestMint mints with every kind of key and in every form of file.
func TestMint(t *testing.T) {
	t.Parallel()
	ecText := pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256Key)))
	tests := map[string]struct {
		key       []byte
		verifier  token.Config
		algorithm string
	}{
		"secret":        {secret, token.Config{Secret: secret}, "HS256"},
		"RSA":           {privatePEM(rsaKey), token.Config{PEM: [][]byte{publicPEM(rsaKey)}}, "RS256"},
		"RSA, PKCS 1":   {pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), token.Config{PEM: [][]byte{publicPEM(rsaKey)}}, "RS256"},
		"P-256":         {privatePEM(p256Key), token.Config{PEM: [][]byte{publicPEM(p256Key)}}, "ES256"},
		"P-256, SEC 1":  {ecText, token.Config{PEM: [][]byte{publicPEM(p256Key)}}, "ES256"},
		"P-256, params": {append(pemOf("EC PARAMETERS", []byte("x")), ecText...), token.Config{PEM: [][]byte{publicPEM(p256Key)}}, "ES256"},
		"P-384":         {privatePEM(p384Key), token.Config{PEM: [][]byte{publicPEM(p384Key)}}, "ES384"},
		"P-521":         {privatePEM(p521Key), token.Config{PEM: [][]byte{publicPEM(p521Key)}}, "ES512"},
		"Ed25519":       {privatePEM(edKey), token.Config{PEM: [][]byte{publicPEM(edKey)}}, "EdDSA"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := newMinter(t, test.key).Mint(subject, "profile:metrics_optout", "browser", now)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(raw, ".")
			if diff := cmp.Diff(fields{"alg": test.algorithm, "typ": "at+jwt"}, decode(t, parts[0])); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			claims := decode(t, parts[1])
			if id, _ := claims["jti"].(string); len(id) < 22 {
				t.Errorf("jti = %q, want 128 bits", id)
			}
			want := fields{
				"iss": issuerName, "aud": audience, "sub": subject, "client_id": "metrics-gate", "scope": "profile:metrics_optout",
				"source": "browser", "iat": float64(now.Unix()), "exp": float64(now.Unix() + 60), "jti": claims["jti"],
			}
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			test.verifier.Type, test.verifier.Issuers, test.verifier.Audiences = "at+jwt", []string{issuerName}, []string{audience}
			if _, err := newVerifier(t, test.verifier).Verify(raw, now); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMintLeavesOutWhatIsEmpty(t *testing.T) {
	t.Parallel()
	m, err := token.NewMinter(token.MinterConfig{Key: secret, Lifetime: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.Mint(subject, "", "", now)
	if err != nil {
		t.Fatal(err)
	}
	claims := decode(t, strings.Split(raw, ".")[1])
	if diff := cmp.Diff(fields{"sub": subject, "iat": float64(now.Unix()), "exp": float64(now.Unix() + 1), "jti": claims["jti"]}, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if _, err := m.Mint("", "", "", now); err == nil {
		t.Error("minted a token for nobody")
	}
}

// TestMintedTokensVerify holds for every account, scope and source that the
// verifier reads what the minter wrote, and that no two tokens are equal.
func TestMintedTokensVerify(t *testing.T) {
	t.Parallel()
	m, v := newMinter(t, privatePEM(edKey)), newVerifier(t, token.Config{PEM: [][]byte{publicPEM(edKey)}})
	rapid.Check(t, func(t *rapid.T) {
		account := rapid.StringN(1, 255, 255).Draw(t, "account")
		scope := rapid.StringMatching(`[a-z:_ ]{0,80}`).Draw(t, "scope")
		source := rapid.SampledFrom([]string{"", "browser", "user"}).Draw(t, "source")
		at := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds"))
		raw, err := m.Mint(account, scope, source, at)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := v.Verify(raw, at)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"sub": account, "scope": scope, "source": source} {
			if got, _ := claims.String(name); got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
		if claims.Issued.Unix() != at.Unix() || claims.Expires.Sub(claims.Issued) != time.Minute {
			t.Errorf("issued %v, expires %v", claims.Issued, claims.Expires)
		}
		if again, _ := m.Mint(account, scope, source, at); again == raw {
			t.Error("two tokens are the same")
		}
	})
}

func TestRefusedMinters(t *testing.T) {
	t.Parallel()
	encrypted := &pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")}
	x25519 := must(x509.MarshalPKCS8PrivateKey(must(ecdh.X25519().GenerateKey(rand.Reader))))
	tests := map[string]struct {
		key      []byte
		lifetime time.Duration
		want     string
	}{
		"no key":           {nil, time.Minute, "key: it has 0 bytes; write at least 32"},
		"path of a secret": {[]byte("/run/secrets/metrics_gate_key"), time.Minute, "key: this is the path of a file"},
		"short secret":     {secret[:31], time.Minute, "key: it has 31 bytes; write at least 32"},
		"no lifetime":      {secret, 0, "lifetime: 0s is too short; write at least 1s"},
		"public key":       {publicPEM(rsaKey), time.Minute, "key: this is not a private key"},
		"encrypted":        {pemOf("ENCRYPTED PRIVATE KEY", []byte("x")), time.Minute, "key: this key is encrypted"},
		"encrypted of old": {pem.EncodeToMemory(encrypted), time.Minute, "key: this key is encrypted"},
		"broken PKCS 8":    {pemOf("PRIVATE KEY", secret), time.Minute, "key: this cannot be read as a key"},
		"broken PKCS 1":    {pemOf("RSA PRIVATE KEY", secret), time.Minute, "key: this cannot be read as a key"},
		"broken SEC 1":     {pemOf("EC PRIVATE KEY", secret), time.Minute, "key: this cannot be read as a key"},
		"cut":              {privatePEM(p256Key)[:100], time.Minute, "key: this is not PEM"},
		"two keys":         {append(privatePEM(p256Key), privatePEM(edKey)...), time.Minute, "key: something follows the first key"},
		"weak RSA":         {privatePEM(weakRSAKey), time.Minute, "key: this kind of key is not supported"},
		"P-224":            {privatePEM(p224Key), time.Minute, "key: this kind of key is not supported"},
		"X25519":           {pemOf("PRIVATE KEY", x25519), time.Minute, "key: this kind of key is not supported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := token.NewMinter(token.MinterConfig{Key: test.key, Lifetime: test.lifetime})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q in it", err, test.want)
			}
			if leaks(err.Error(), strings.Split(string(test.key), "\n")...) {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
}
