package token_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"hash"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/token"
)

func certificate(t *testing.T) []byte {
	t.Helper()
	// It ended long before now: of a certificate only the key counts.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, rsaKey.Public(), rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der)
}

// TestAlgorithmFollowsFromKey signs with every key and algorithm that there
// is and holds that each verifier takes exactly those of its own key.
func TestAlgorithmFollowsFromKey(t *testing.T) {
	t.Parallel()
	signers := []struct {
		key        any
		algorithms string
	}{
		{secret, "HS256 HS384 HS512"},
		{rsaKey, "RS256 RS384 RS512 PS256 PS384 PS512"},
		{p256Key, "ES256"},
		{p384Key, "ES384"},
		{p521Key, "ES512"},
		{edKey, "EdDSA Ed25519"},
	}
	jwks := keySet(
		publish(rsaKey.Public(), "rsa", nil), publish(p256Key.Public(), "p256", nil), publish(p384Key.Public(), "p384", nil),
		publish(p521Key.Public(), "p521", nil), publish(edKey.Public(), "ed", nil))
	verifiers := map[string]struct {
		config token.Config
		takes  string
	}{
		"secret":      {token.Config{Secret: secret}, signers[0].algorithms},
		"rsa":         {token.Config{PEM: [][]byte{publicPEM(rsaKey)}}, signers[1].algorithms},
		"rsa, PKCS 1": {token.Config{PEM: [][]byte{pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))}}, signers[1].algorithms},
		"certificate": {token.Config{PEM: [][]byte{certificate(t)}}, signers[1].algorithms},
		"p256":        {token.Config{PEM: [][]byte{publicPEM(p256Key)}}, "ES256"},
		"p384":        {token.Config{PEM: [][]byte{publicPEM(p384Key)}}, "ES384"},
		"p521":        {token.Config{PEM: [][]byte{publicPEM(p521Key)}}, "ES512"},
		"ed25519":     {token.Config{PEM: [][]byte{publicPEM(edKey)}}, "EdDSA Ed25519"},
		"rotation": {
			token.Config{PEM: [][]byte{publicPEM(nextRSAKey), publicPEM(rsaKey), publicPEM(edKey)}},
			signers[1].algorithms + " EdDSA Ed25519",
		},
		"key set": {token.Config{JWKS: []byte(jwks)}, signers[1].algorithms + " ES256 ES384 ES512 EdDSA Ed25519"},
	}
	for name, test := range verifiers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, test.config)
			var taken []string
			for _, signer := range signers {
				for algorithm := range strings.FieldsSeq(signer.algorithms) {
					if _, err := v.Verify(sign(algorithm, signer.key, nil, validClaims(now, nil)), now); err == nil {
						taken = append(taken, algorithm)
					} else if !errors.Is(err, token.ErrBadSignature) {
						t.Errorf("%s: %v, want %v", algorithm, err, token.ErrBadSignature)
					}
				}
			}
			if diff := cmp.Diff(test.takes, strings.Join(taken, " ")); diff != "" {
				t.Errorf("accepted algorithms (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryRotatedKeyVerifies(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{PEM: [][]byte{publicPEM(rsaKey), publicPEM(nextRSAKey)}})
	for _, key := range []*rsa.PrivateKey{rsaKey, nextRSAKey} {
		// Keys in PEM have no names, so any kid will do.
		if _, err := v.Verify(sign("RS256", key, fields{"kid": "2026"}, validClaims(now, nil)), now); err != nil {
			t.Error(err)
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{Secret: secret, Issuers: []string{issuerName}, Audiences: []string{audience}, Leeway: leeway})
	claims, err := v.Verify(sign("HS256", secret, nil, validClaims(now, fields{
		"aud": []any{"other", audience}, "exp": float64(now.Unix()) + 0.5, "optout": true, "nothing": json.RawMessage("null"),
	})), now)
	if err != nil {
		t.Fatal(err)
	}
	if !claims.Issued.Equal(now) || !claims.Expires.Equal(now.Add(500*time.Millisecond)) {
		t.Errorf("issued %v, expires %v", claims.Issued, claims.Expires)
	}
	if got, ok := claims.String("sub"); got != subject || !ok {
		t.Errorf("sub = %q, %v", got, ok)
	}
	for _, name := range []string{"optout", "missing"} {
		if got, ok := claims.String(name); ok {
			t.Errorf("%s is the string %q", name, got)
		}
	}
	if got, ok := claims.Value("optout"); got != true || !ok {
		t.Errorf("optout = %v, %v", got, ok)
	}
	if got, ok := claims.Value("nothing"); got != nil || !ok {
		t.Errorf("nothing = %v, %v", got, ok)
	}
	if got, ok := claims.Value("missing"); ok {
		t.Errorf("missing = %v", got)
	}

	claims, err = v.Verify(sign("HS256", secret, nil, validClaims(now, fields{"iat": nil})), now)
	if err != nil || !claims.Issued.IsZero() {
		t.Errorf("without iat: issued %v, %v", claims.Issued, err)
	}
}

// TestExpiryOptional takes a security event token, which has no exp, and holds
// one that has it to it.
func TestExpiryOptional(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{Secret: secret, ExpiryOptional: true})
	claims, err := v.Verify(sign("HS256", secret, nil, validClaims(now, fields{"exp": nil})), now)
	if err != nil || !claims.Expires.IsZero() {
		t.Errorf("without exp: %v", err)
	}
	for name, test := range map[string]struct {
		exp  any
		want error
	}{
		"expired":      {now.Unix(), token.ErrExpired},
		"null":         {json.RawMessage("null"), token.ErrMalformed},
		"not a number": {"soon", token.ErrMalformed},
	} {
		if _, err := v.Verify(sign("HS256", secret, nil, validClaims(now, fields{"exp": test.exp})), now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestVerify holds what each token gets, on a verifier that checks
// everything. Whatever is refused is refused for one reason, with claims only
// if it expired, and without a word of the token in the error.
func TestVerify(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{
		PEM:       [][]byte{publicPEM(rsaKey), publicPEM(p256Key)},
		Issuers:   []string{"https://old.example.org", issuerName},
		Audiences: []string{"app", audience},
		Leeway:    leeway,
		Type:      "at+jwt",
	})
	typed := fields{"typ": "at+jwt"}
	with := func(header, claims fields) string {
		return sign("RS256", rsaKey, merged(fields{"typ": "at+jwt"}, header), validClaims(now, claims))
	}
	in := func(d time.Duration) int64 { return now.Add(d).Unix() }
	good := with(nil, nil)
	parts := strings.Split(good, ".")

	tests := map[string]struct {
		raw  string
		want error
	}{
		"good":                              {good, nil},
		"type with a prefix":                {with(fields{"typ": "application/AT+JWT"}, nil), nil},
		"b64 true":                          {with(fields{"b64": true}, nil), nil},
		"audience in a list":                {with(nil, fields{"aud": []string{"x", "app"}}), nil},
		"no iat":                            {with(nil, fields{"iat": nil}), nil},
		"exp at leeway":                     {with(nil, fields{"exp": in(-leeway)}), token.ErrExpired},
		"exp within leeway":                 {with(nil, fields{"exp": in(time.Second - leeway)}), nil},
		"nbf at leeway":                     {with(nil, fields{"nbf": in(leeway)}), nil},
		"iat at leeway":                     {with(nil, fields{"iat": in(leeway)}), nil},
		"keys of its own are never read":    {with(fields{"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "jwk": fields{"kty": "oct"}, "x5c": []string{"x"}}, nil), nil},
		"too long":                          {strings.Repeat("x", token.MaxTokenBytes+1), token.ErrTooLong},
		"1 MB":                              {good + strings.Repeat("x", 1<<20), token.ErrTooLong},
		"8 KiB of garbage":                  {strings.Repeat("x", token.MaxTokenBytes), token.ErrMalformed},
		"empty":                             {"", token.ErrMalformed},
		"garbage":                           {"not.a.token", token.ErrMalformed},
		"two parts":                         {parts[0] + "." + parts[1], token.ErrMalformed},
		"four parts":                        {good + ".x", token.ErrMalformed},
		"cut in its claims":                 {good[:len(parts[0])+len(parts[1])/2] + "." + parts[2], token.ErrMalformed},
		"cut in its signature":              {good[:len(good)-6], token.ErrBadSignature},
		"a bit after its end":               {otherEnd(good), token.ErrMalformed},
		"P-256 with the algorithm of P-521": {p256AsES512(nil), token.ErrBadSignature},
		"padded":                            {good + "==", token.ErrMalformed},
		"space in front":                    {" " + good, token.ErrMalformed},
		"header is a list":                  {signText("RS256", rsaKey, `["RS256"]`, `{}`), token.ErrMalformed},
		"header is null":                    {signText("RS256", rsaKey, `null`, `{}`), token.ErrBadSignature},
		"claims are null":                   {signText("RS256", rsaKey, `{"alg":"RS256","typ":"at+jwt"}`, `null`), token.ErrWrongIssuer},
		"claims are a string":               {signText("RS256", rsaKey, `{"alg":"RS256","typ":"at+jwt"}`, `"x"`), token.ErrMalformed},
		"claims are a string, another key":  {signText("RS256", nextRSAKey, `{"alg":"RS256","typ":"at+jwt"}`, `"x"`), token.ErrBadSignature},
		"no alg":                            {signText("RS256", rsaKey, `{"typ":"at+jwt"}`, `{}`), token.ErrBadSignature},
		"unknown alg":                       {signText("RS256", rsaKey, `{"alg":"RS257"}`, `{}`), token.ErrBadSignature},
		"alg none":                          {sign("none", nil, typed, validClaims(now, nil)), token.ErrBadSignature},
		"alg None":                          {sign("none", nil, fields{"alg": "None"}, validClaims(now, nil)), token.ErrBadSignature},
		"alg none with a signature":         {sign("RS256", rsaKey, fields{"alg": "none"}, validClaims(now, nil)), token.ErrBadSignature},
		"HS256 with the public key":         {sign("HS256", publicPEM(rsaKey), typed, validClaims(now, nil)), token.ErrBadSignature},
		"HS256 with the public key's DER":   {sign("HS256", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey), typed, validClaims(now, nil)), token.ErrBadSignature},
		"another key":                       {sign("RS256", nextRSAKey, typed, validClaims(now, nil)), token.ErrBadSignature},
		"another curve":                     {sign("ES384", p384Key, typed, validClaims(now, nil)), token.ErrBadSignature},
		"claims of another token":           {parts[0] + "." + encode([]byte(`{"sub":"x"}`)) + "." + parts[2], token.ErrBadSignature},
		"crit":                              {with(fields{"crit": []string{"exp"}}, nil), token.ErrMalformed},
		"empty crit":                        {with(fields{"crit": []string{}}, nil), token.ErrMalformed},
		"crit null":                         {with(fields{"crit": json.RawMessage("null")}, nil), token.ErrMalformed},
		"b64 false":                         {with(fields{"b64": false}, nil), token.ErrMalformed},
		"another type":                      {with(fields{"typ": "JWT"}, nil), token.ErrMalformed},
		"no type":                           {with(fields{"typ": nil}, nil), token.ErrMalformed},
		"type is a number":                  {with(fields{"typ": 1}, nil), token.ErrMalformed},
		"wrong issuer":                      {with(nil, fields{"iss": issuerName + "/"}), token.ErrWrongIssuer},
		"no issuer":                         {with(nil, fields{"iss": nil}), token.ErrWrongIssuer},
		"issuer is a list":                  {with(nil, fields{"iss": []string{issuerName}}), token.ErrWrongIssuer},
		"wrong audience":                    {with(nil, fields{"aud": "we"}), token.ErrWrongAudience},
		"no audience":                       {with(nil, fields{"aud": nil}), token.ErrWrongAudience},
		"no audience in the list":           {with(nil, fields{"aud": []any{"x", 1, nil}}), token.ErrWrongAudience},
		"audience is an object":             {with(nil, fields{"aud": fields{"web": "web"}}), token.ErrWrongAudience},
		"no exp":                            {with(nil, fields{"exp": nil}), token.ErrMalformed},
		"exp null":                          {with(nil, fields{"exp": json.RawMessage("null")}), token.ErrMalformed},
		"exp as a string":                   {with(nil, fields{"exp": "1900000000"}), token.ErrMalformed},
		"exp in milliseconds":               {with(nil, fields{"exp": now.UnixMilli()}), token.ErrMalformed},
		"exp beyond numbers":                {with(nil, fields{"exp": json.RawMessage("1e999")}), token.ErrMalformed},
		"negative exp":                      {with(nil, fields{"exp": -1}), token.ErrMalformed},
		"exp 0":                             {with(nil, fields{"exp": 0, "iat": nil}), token.ErrExpired},
		"expired":                           {with(nil, fields{"exp": in(-time.Hour)}), token.ErrExpired},
		"expired, wrong issuer":             {with(nil, fields{"exp": in(-time.Hour), "iss": "x"}), token.ErrWrongIssuer},
		"expired, wrong audience":           {with(nil, fields{"exp": in(-time.Hour), "aud": "x"}), token.ErrWrongAudience},
		"expired, nbf in the future":        {with(nil, fields{"exp": in(-time.Hour), "nbf": in(time.Hour)}), token.ErrNotYetValid},
		"expired, crit":                     {with(fields{"crit": []string{"x"}}, fields{"exp": in(-time.Hour)}), token.ErrMalformed},
		"expired, another key":              {sign("RS256", nextRSAKey, typed, validClaims(now, fields{"exp": in(-time.Hour)})), token.ErrBadSignature},
		"nbf in the future":                 {with(nil, fields{"nbf": in(leeway + time.Second)}), token.ErrNotYetValid},
		"nbf in years":                      {with(nil, fields{"nbf": in(1e6 * time.Hour)}), token.ErrNotYetValid},
		"nbf in milliseconds":               {with(nil, fields{"nbf": now.UnixMilli()}), token.ErrMalformed},
		"nbf in the future, no exp":         {with(nil, fields{"nbf": in(time.Hour), "exp": nil}), token.ErrMalformed},
		"nbf in the future, wrong audience": {with(nil, fields{"nbf": in(time.Hour), "aud": "x"}), token.ErrWrongAudience},
		"nbf as a string":                   {with(nil, fields{"nbf": "0"}), token.ErrMalformed},
		"iat in the future":                 {with(nil, fields{"iat": in(leeway + time.Second)}), nil},
		"iat in years":                      {with(nil, fields{"iat": in(1e6 * time.Hour)}), nil},
		"iat in milliseconds":               {with(nil, fields{"iat": now.UnixMilli()}), nil},
		"iat beyond all times":              {with(nil, fields{"iat": 1e300}), nil},
		"iat in the future, expired":        {with(nil, fields{"iat": in(time.Hour), "exp": in(-time.Hour)}), token.ErrExpired},
		"negative iat":                      {with(nil, fields{"iat": -1}), token.ErrMalformed},
		"iat as a string":                   {with(nil, fields{"iat": "0"}), token.ErrMalformed},
		"wrong issuer and audience":         {with(nil, fields{"iss": "x", "aud": "x"}), token.ErrWrongIssuer},
		"letter case of claims counts":      {with(nil, fields{"exp": nil, "EXP": in(time.Hour)}), token.ErrMalformed},
		"the last of two claims counts":     {signText("RS256", rsaKey, `{"alg":"RS256","typ":"at+jwt"}`, `{"iss":"`+issuerName+`","iss":"x"}`), token.ErrWrongIssuer},
		"an algorithm of the other family":  {sign("ES256", p256Key, fields{"alg": "RS256"}, validClaims(now, nil)), token.ErrBadSignature},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims, err := v.Verify(test.raw, now)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if (claims != nil) != (err == nil || errors.Is(err, token.ErrExpired)) {
				t.Errorf("%v with claims %v", err, claims)
			}
			if err == nil {
				return
			}
			reasons := 0
			for _, reason := range sentinels {
				if errors.Is(err, reason) {
					reasons++
				}
			}
			if reasons != 1 {
				t.Errorf("%q wraps %d reasons, want 1", err, reasons)
			}
			if leaks(err.Error(), append(strings.Split(test.raw, "."), subject, issuerName)...) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

// otherEnd changes the bits that the last character of a token has and its
// signature has not.
func otherEnd(raw string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(raw) - 1
	return raw[:last] + string(alphabet[strings.IndexByte(alphabet, raw[last])+1])
}

// TestRefusedTokens: what no key has signed is refused again, without being looked at
// where the keys never change, and whatever comes in between.
func TestRefusedTokens(t *testing.T) {
	v := newVerifier(t, token.Config{Secret: secret})
	good := sign("HS256", secret, nil, validClaims(now, nil))
	another := []byte("another secret of thirty-two bytes")
	forged := sign("HS256", another, nil, validClaims(now, nil))
	for i := range 1000 {
		for raw, want := range map[string]error{
			good: nil, forged: token.ErrBadSignature, sign("HS256", another, nil, fields{"sub": i}): token.ErrBadSignature, "garbage": token.ErrMalformed,
		} {
			if _, err := v.Verify(raw, now); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
	}
	allocations := testing.AllocsPerRun(100, func() { _, _ = v.Verify(forged, now) })
	if allocations > 1 { // with the race detector, pools forget
		t.Errorf("%v allocations", allocations)
	}
}

func TestExpiredStillNames(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{Secret: secret})
	claims, err := v.Verify(sign("HS256", secret, nil, validClaims(now.Add(-time.Hour), nil)), now)
	if !errors.Is(err, token.ErrExpired) {
		t.Fatal(err)
	}
	if got, _ := claims.String("sub"); got != subject {
		t.Errorf("sub = %q", got)
	}
}

func TestUncheckedByDefault(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, token.Config{Secret: secret})
	if _, err := v.Verify(sign("HS256", secret, fields{"typ": nil}, fields{"exp": now.Unix() + 1}), now); err != nil {
		t.Error(err)
	}
}

func TestTooLongIsNotRead(t *testing.T) {
	v := newVerifier(t, token.Config{Secret: secret})
	raw := strings.Repeat("x.", 1<<20)
	if n := testing.AllocsPerRun(10, func() { _, _ = v.Verify(raw, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestConfigHasJSON holds that configurations can be compared by their JSON,
// which says all about the keys and leaves out what is code.
func TestConfigHasJSON(t *testing.T) {
	t.Parallel()
	code := token.Config{Secret: secret, KeySetClient: http.DefaultClient, OnKeySetError: func(error) {}}
	same, other := must(json.Marshal(token.Config{Secret: secret})), must(json.Marshal(token.Config{Secret: secret[1:]}))
	if got := must(json.Marshal(code)); !bytes.Equal(got, same) || bytes.Equal(got, other) {
		t.Error("JSON does not tell configurations apart by their keys alone")
	}
}

// TestRefusedConfigs holds that every mistake names where it is and what to
// write, and quotes no key.
func TestRefusedConfigs(t *testing.T) {
	t.Parallel()
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	tests := map[string]struct {
		config token.Config
		want   string
	}{
		"no key":               {token.Config{}, "0 sources of keys are set; write exactly one"},
		"two kinds of key":     {token.Config{Secret: secret, PEM: [][]byte{publicPEM(rsaKey)}}, "2 sources of keys are set; write exactly one"},
		"two key sets":         {token.Config{JWKS: []byte("{}"), JWKSURL: "https://id.example.org/"}, "2 sources"},
		"short secret":         {token.Config{Secret: secret[:31]}, "secret: it has 31 bytes; write at least 32"},
		"public key as secret": {token.Config{Secret: publicPEM(rsaKey)}, "secret: this is PEM"},
		"path as secret":       {token.Config{Secret: []byte("/etc/metrics-gate/session.secret")}, "secret: this is the path of a file, and not what is in it; write {file./path}"},
		"bare placeholder":     {token.Config{Secret: []byte("file./etc/metrics-gate/session.secret")}, "secret: this is a placeholder without its braces; write {env.NAME} or {file./path}"},
		"no placeholder":       {token.Config{Secret: []byte("{file:/etc/metrics-gate/session.secret}")}, "secret: this looks like a placeholder or JSON"},
		"negative leeway":      {token.Config{Secret: secret, Leeway: -1}, "leeway: -1ns is negative"},

		"private key":      {token.Config{PEM: [][]byte{publicPEM(rsaKey), privatePEM(rsaKey)}}, "PEM key 2: this is a private key"},
		"EC private key":   {token.Config{PEM: [][]byte{pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256Key)))}}, "PEM key 1: this is a private key"},
		"not PEM":          {token.Config{PEM: [][]byte{secret}}, "PEM key 1: this is not PEM"},
		"path as PEM":      {token.Config{PEM: [][]byte{[]byte("/etc/metrics-gate/gate.pub")}}, "PEM key 1: this is the path of a file"},
		"bare as PEM":      {token.Config{PEM: [][]byte{[]byte("env.GATE_PUB")}}, "PEM key 1: this is a placeholder without its braces"},
		"empty PEM":        {token.Config{PEM: [][]byte{nil}}, "PEM key 1: this is not PEM"},
		"two keys in one":  {token.Config{PEM: [][]byte{append(publicPEM(rsaKey), publicPEM(p256Key)...)}}, "PEM key 1: something follows the first key"},
		"some other block": {token.Config{PEM: [][]byte{pemOf("X509 CRL", []byte("x"))}}, "neither a public key nor a certificate"},
		"broken key":       {token.Config{PEM: [][]byte{pemOf("PUBLIC KEY", []byte("broken"))}}, "cannot be read as a key"},
		"broken PKCS 1":    {token.Config{PEM: [][]byte{pemOf("RSA PUBLIC KEY", []byte("broken"))}}, "cannot be read as a key"},
		"broken certificate": {
			token.Config{PEM: [][]byte{pemOf("CERTIFICATE", []byte("broken"))}}, "cannot be read as a key",
		},
		"RSA without an exponent": {
			token.Config{PEM: [][]byte{pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: rsaKey.N, E: 1}))}},
			"with an odd exponent of at least 3",
		},
		"weak RSA": {token.Config{PEM: [][]byte{publicPEM(weakRSAKey)}}, "RSA of at least 2048 bits"},
		"P-224":    {token.Config{PEM: [][]byte{publicPEM(p224Key)}}, "not supported; use RSA"},
		"X25519": {
			token.Config{PEM: [][]byte{pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(x25519.PublicKey())))}}, "not supported; use RSA",
		},

		"key set over http":        {token.Config{JWKSURL: "http://id.example.org/jwks"}, "jwks: whoever is on the way to http://id.example.org"},
		"key set of a scheme":      {token.Config{JWKSURL: "file://host/etc/jwks"}, "https://"},
		"key set without a host":   {token.Config{JWKSURL: "https:///jwks"}, "jwks: its URL cannot be read"},
		"key set URL is broken":    {token.Config{JWKSURL: "https://id.example.org/\x00"}, "jwks: its URL cannot be read"},
		"key set with a password":  {token.Config{JWKSURL: "https://gate:correct-horse@id.example.org/"}, "jwks: its URL holds a user name or password"},
		"key set is not JSON":      {token.Config{JWKS: []byte("<html>")}, "jwks: this is not the JSON of a key set"},
		"key set with a tail":      {token.Config{JWKS: []byte(keySet(publish(rsaKey.Public(), "a", nil)) + "x")}, "not the JSON of a key set"},
		"key set without keys":     {token.Config{JWKS: []byte(`{"error":"x"}`)}, "jwks: none of its 0 keys can verify"},
		"key set of unusable keys": {token.Config{JWKS: []byte(keySet(unusableKeys()...))}, "jwks: none of its 10 keys can verify"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := token.NewVerifier(test.config)
			if err == nil {
				v.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want %q in it", err, test.want)
			}
			private := []string{string(test.config.Secret), string(test.config.JWKS), "correct-horse"}
			for _, key := range test.config.PEM {
				private = append(private, strings.Split(string(bytes.TrimSpace(key)), "\n")...)
			}
			if leaks(err.Error(), private...) {
				t.Errorf("the error quotes a key: %v", err)
			}
		})
	}
}

// unusableKeys are keys that must never verify a token.
func unusableKeys() []fields {
	private := publish(p256Key.Public(), "lost", fields{"d": encode(must(p256Key.Bytes()))})
	return []fields{
		{"kty": "oct", "kid": "oct", "k": encode(secret), "alg": "HS256", "use": "sig"},
		private,
		publish(rsaKey.Public(), "enc", fields{"use": "enc"}),
		publish(rsaKey.Public(), "wrap", fields{"use": nil, "key_ops": []string{"wrapKey"}}),
		publish(weakRSAKey.Public(), "weak", nil),
		publish(p256Key.Public(), "curve", fields{"y": encode([]byte("not a point on it"))}),
		publish(p256Key.Public(), "broken", fields{"x": "*"}),
		publish(rsaKey.Public(), "other", fields{"kty": "PQC"}),
		publish(rsaKey.Public(), "number", fields{"kty": 5}),
		{},
	}
}

// TestOneChangedByteVerifiesNowhere changes one character of a good token.
func TestOneChangedByteVerifiesNowhere(t *testing.T) {
	t.Parallel()
	verifiers := map[string]*token.Verifier{
		sign("HS256", secret, nil, validClaims(now, nil)):  newVerifier(t, token.Config{Secret: secret}),
		sign("ES256", p256Key, nil, validClaims(now, nil)): newVerifier(t, token.Config{PEM: [][]byte{publicPEM(p256Key)}}),
		sign("EdDSA", edKey, nil, validClaims(now, nil)):   newVerifier(t, token.Config{PEM: [][]byte{publicPEM(edKey)}}),
	}
	rapid.Check(t, func(t *rapid.T) {
		for raw, v := range verifiers {
			changed := []byte(raw)
			at := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
			changed[at] = rapid.Byte().Filter(func(b byte) bool { return b != raw[at] }).Draw(t, "byte")
			if _, err := v.Verify(string(changed), now); err == nil {
				t.Fatalf("accepted with byte %d changed", at)
			}
		}
	})
}

// FuzzVerify reads hostile tokens with a secret, a key list and a key set. Its
// keys are the ones that do not change, so that a finding can be run again.
// What the secret's verifier accepts must carry the secret's HMAC, computed
// here without the library.
func FuzzVerify(f *testing.F) {
	verifiers := []*token.Verifier{
		newVerifier(f, token.Config{Secret: secret, Leeway: leeway}),
		newVerifier(f, token.Config{PEM: [][]byte{publicPEM(edKey)}, Issuers: []string{issuerName}}),
		newVerifier(f, token.Config{JWKS: []byte(keySet(publish(edKey.Public(), "ed", nil))), Audiences: []string{audience}, Type: "jwt"}),
	}
	for _, raw := range []string{
		"", "..", "e30.e30.", "a.b.c", strings.Repeat(".", 100),
		sign("HS256", secret, nil, validClaims(now, nil)),
		sign("HS512", secret, fields{"crit": []string{"b64"}, "b64": false}, validClaims(now, nil)),
		sign("EdDSA", edKey, nil, validClaims(now, fields{"exp": 1e300})),
		sign("EdDSA", edKey, nil, validClaims(now, fields{"aud": []any{nil, 1, audience}, "nbf": -0.5})),
		sign("EdDSA", edKey, fields{"kid": "ed"}, validClaims(now, nil)),
		sign("EdDSA", edKey, fields{"kid": 1}, validClaims(now, nil)),
		sign("Ed25519", edKey, fields{"kid": "ed"}, validClaims(now, fields{"iat": 1e300, "nbf": 1e300})),
		sign("none", nil, nil, validClaims(now, nil)),
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		for i, v := range verifiers {
			claims, err := v.Verify(raw, now)
			reasons := 0
			for _, reason := range sentinels {
				if errors.Is(err, reason) {
					reasons++
				}
			}
			signed := err == nil || errors.Is(err, token.ErrExpired)
			if (err != nil) != (reasons == 1) || reasons > 1 || signed != (claims != nil) {
				t.Fatalf("verifier %d: %v, claims %v", i, err, claims)
			}
			if i == 0 && signed && !slices.ContainsFunc([]func() hash.Hash{sha256.New, sha512.New384, sha512.New}, func(h func() hash.Hash) bool {
				text, signature := raw[:strings.LastIndexByte(raw, '.')], raw[strings.LastIndexByte(raw, '.')+1:]
				mac := hmac.New(h, secret)
				mac.Write([]byte(text))
				return signature == encode(mac.Sum(nil))
			}) {
				t.Fatal("accepted without the secret's signature")
			}
		}
	})
}
