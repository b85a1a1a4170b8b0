package token_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/token"
)

// text is what is signed of a token with these header and claims.
func text(header, claims string) string {
	return encode([]byte(header)) + "." + encode([]byte(claims))
}

// signedText is what is signed of a token that holds, but for its signature.
func signedText(algorithm string) string {
	return text(`{"alg":"`+algorithm+`"}`, string(must(json.Marshal(validClaims(now, nil)))))
}

// signPSS signs with a salt of any length (RFC 8017, section 8.1).
func signPSS(algorithm string, hash crypto.Hash, salt int) string {
	signed := signedText(algorithm)
	h := hash.New()
	h.Write([]byte(signed))
	return signed + "." + encode(must(rsa.SignPSS(rand.Reader, rsaKey, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: salt})))
}

// signECDSA lets its caller write the signature's two numbers.
func signECDSA(algorithm string, write func(r, s *big.Int) []byte) string {
	signed := signedText(algorithm)
	hash := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, p256Key, hash[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + encode(write(r, s))
}

// numbers writes the numbers of a signature, each with so many bytes.
func numbers(each int, all ...*big.Int) []byte {
	var signature []byte
	for _, n := range all {
		signature = append(signature, n.FillBytes(make([]byte, each))...)
	}
	return signature
}

// resigned changes the bytes of a token's signature.
func resigned(raw string, change func(signature []byte) []byte) string {
	at := strings.LastIndexByte(raw, '.') + 1
	return raw[:at] + encode(change(must(base64.RawURLEncoding.DecodeString(raw[at:]))))
}

// addOrder adds the order of edwards25519 to the second half of a signature,
// which is the same number to whoever does not look (RFC 8032, section 5.1.7).
func addOrder(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(signature[32:])
	slices.Reverse(s)
	s = new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(s)
	return append(bytes.Clone(signature[:32]), s...)
}

// TestForms writes headers, encodings and signatures as the standards have
// them, and as they do not, and holds that the latter verify nowhere.
func TestForms(t *testing.T) {
	t.Parallel()
	keys := []crypto.Signer{rsaKey, p256Key, p384Key, edKey}
	var pems [][]byte
	var published []fields
	for i, key := range keys {
		pems = append(pems, publicPEM(key))
		published = append(published, publish(key.Public(), fmt.Sprint(i), fields{"alg": nil}))
	}
	verifiers := map[string]*token.Verifier{
		"PEM":     newVerifier(t, token.Config{PEM: pems}),
		"key set": newVerifier(t, token.Config{JWKS: []byte(keySet(published...))}),
	}

	claims := string(must(json.Marshal(validClaims(now, nil))))
	rs256 := sign("RS256", rsaKey, nil, validClaims(now, nil))
	ed25519 := sign("Ed25519", edKey, nil, validClaims(now, nil))
	cut := func(signature []byte) []byte { return signature[:len(signature)-1] }
	zeroBefore := func(signature []byte) []byte { return append([]byte{0}, signature...) }
	zeroAfter := func(signature []byte) []byte { return append(bytes.Clone(signature), 0) }
	header := func(text string) string { return signText("RS256", rsaKey, text, claims) }
	n := elliptic.P256().Params().N
	tests := map[string]struct {
		raw  string
		want error
	}{
		// RFC 7518, section 3.5.
		"PS256":                            {signPSS("PS256", crypto.SHA256, 32), nil},
		"PS384":                            {signPSS("PS384", crypto.SHA384, 48), nil},
		"PS512":                            {signPSS("PS512", crypto.SHA512, 64), nil},
		"PS256, salt of one byte":          {signPSS("PS256", crypto.SHA256, 1), token.ErrBadSignature},
		"PS256, salt of SHA-1":             {signPSS("PS256", crypto.SHA256, 20), token.ErrBadSignature},
		"PS256, salt a byte too short":     {signPSS("PS256", crypto.SHA256, 31), token.ErrBadSignature},
		"PS256, salt a byte too long":      {signPSS("PS256", crypto.SHA256, 33), token.ErrBadSignature},
		"PS256, salt of SHA-512":           {signPSS("PS256", crypto.SHA256, 64), token.ErrBadSignature},
		"PS256, salt as long as it can be": {signPSS("PS256", crypto.SHA256, 256-32-2), token.ErrBadSignature},
		"PS384, salt of SHA-256":           {signPSS("PS384", crypto.SHA384, 32), token.ErrBadSignature},
		"PS512, salt of SHA-256":           {signPSS("PS512", crypto.SHA512, 32), token.ErrBadSignature},
		"PS512, salt as long as it can be": {signPSS("PS512", crypto.SHA512, 256-64-2), token.ErrBadSignature},
		"PS256 by SHA-384":                 {signPSS("PS256", crypto.SHA384, 48), token.ErrBadSignature},
		"PS384 by SHA-256":                 {signPSS("PS384", crypto.SHA256, 32), token.ErrBadSignature},
		"PS256 that is RS256":              {signText("RS256", rsaKey, `{"alg":"PS256"}`, claims), token.ErrBadSignature},
		"RS256 that is PS256":              {signPSS("RS256", crypto.SHA256, 32), token.ErrBadSignature},
		"RS256 by SHA-512":                 {signText("RS512", rsaKey, `{"alg":"RS256"}`, claims), token.ErrBadSignature},
		"RS256, a byte too short":          {resigned(rs256, cut), token.ErrBadSignature},
		"RS256, a zero before it":          {resigned(rs256, zeroBefore), token.ErrBadSignature},
		"RS256, a zero after it":           {resigned(rs256, zeroAfter), token.ErrBadSignature},

		// RFC 7518, section 3.4, which leaves open which of two numbers is s.
		"ES256":                  {signECDSA("ES256", func(r, s *big.Int) []byte { return numbers(32, r, s) }), nil},
		"ES256, the other s":     {signECDSA("ES256", func(r, s *big.Int) []byte { return numbers(32, r, new(big.Int).Sub(n, s)) }), nil},
		"ES256 in DER":           {signECDSA("ES256", func(r, s *big.Int) []byte { return must(asn1.Marshal([]*big.Int{r, s})) }), token.ErrBadSignature},
		"ES256, zeros":           {signECDSA("ES256", func(_, _ *big.Int) []byte { return make([]byte, 64) }), token.ErrBadSignature},
		"ES256, the order":       {signECDSA("ES256", func(_, _ *big.Int) []byte { return numbers(32, n, n) }), token.ErrBadSignature},
		"ES256, r only":          {signECDSA("ES256", func(r, _ *big.Int) []byte { return numbers(32, r, new(big.Int)) }), token.ErrBadSignature},
		"ES256, r half":          {signECDSA("ES256", func(r, _ *big.Int) []byte { return numbers(32, r) }), token.ErrBadSignature},
		"ES256, exchanged":       {signECDSA("ES256", func(r, s *big.Int) []byte { return numbers(32, s, r) }), token.ErrBadSignature},
		"ES256, 33 bytes each":   {signECDSA("ES256", func(r, s *big.Int) []byte { return numbers(33, r, s) }), token.ErrBadSignature},
		"ES256, 48 bytes each":   {signECDSA("ES256", func(r, s *big.Int) []byte { return numbers(48, r, s) }), token.ErrBadSignature},
		"ES256, a byte too many": {signECDSA("ES256", func(r, s *big.Int) []byte { return zeroAfter(numbers(32, r, s)) }), token.ErrBadSignature},
		"ES256, a byte too few":  {signECDSA("ES256", func(r, s *big.Int) []byte { return cut(numbers(32, r, s)) }), token.ErrBadSignature},
		"ES256, none":            {signedText("ES256") + ".", token.ErrBadSignature},
		"ES384 by P-256":         {signECDSA("ES384", func(r, s *big.Int) []byte { return numbers(48, r, s) }), token.ErrBadSignature},

		// RFC 8037 and 9864. ESP256 is a name of COSE.
		"EdDSA":                     {sign("EdDSA", edKey, nil, validClaims(now, nil)), nil},
		"Ed25519":                   {ed25519, nil},
		"Ed25519, a number too big": {resigned(ed25519, addOrder), token.ErrBadSignature},
		"Ed25519, a byte too short": {resigned(ed25519, cut), token.ErrBadSignature},
		"Ed25519, a byte too long":  {resigned(ed25519, zeroAfter), token.ErrBadSignature},
		"Ed25519, zeros":            {resigned(ed25519, func([]byte) []byte { return make([]byte, 64) }), token.ErrBadSignature},
		"Ed25519 with P-256":        {signECDSA("Ed25519", func(r, s *big.Int) []byte { return numbers(32, r, s) }), token.ErrBadSignature},
		"Ed448":                     {signText("EdDSA", edKey, `{"alg":"Ed448"}`, claims), token.ErrBadSignature},
		"ESP256":                    {signECDSA("ESP256", func(r, s *big.Int) []byte { return numbers(32, r, s) }), token.ErrBadSignature},
		"ES256K":                    {signECDSA("ES256K", func(r, s *big.Int) []byte { return numbers(32, r, s) }), token.ErrBadSignature},

		// RFC 7515, section 4: exact case, and the last of several.
		"alg in lower case":        {header(`{"alg":"rs256"}`), token.ErrBadSignature},
		"alg of another curve":     {signText("EdDSA", edKey, `{"alg":"ed25519"}`, claims), token.ErrBadSignature},
		"alg with a space":         {header(`{"alg":"RS256 "}`), token.ErrBadSignature},
		"alg is a list":            {header(`{"alg":["RS256"]}`), token.ErrBadSignature},
		"alg is null":              {header(`{"alg":null}`), token.ErrBadSignature},
		"ALG":                      {header(`{"ALG":"RS256"}`), token.ErrBadSignature},
		"ALG beside alg":           {header(`{"alg":"RS256","ALG":"none"}`), nil},
		"alg escaped":              {header(`{"\u0061lg":"RS256"}`), nil},
		"alg twice":                {header(`{"alg":"none","alg":"RS256"}`), nil},
		"alg twice, the last none": {header(`{"alg":"RS256","alg":"none"}`), token.ErrBadSignature},
		"crit escaped":             {header(`{"alg":"RS256","\u0063rit":["x"]}`), token.ErrMalformed},
		"CRIT":                     {header(`{"alg":"RS256","CRIT":["x"]}`), nil},
		"b64 twice":                {header(`{"alg":"RS256","b64":true,"b64":false}`), token.ErrMalformed},
		"header with white space":  {header(" {\"alg\": \"RS256\"}\n"), nil},
		"header with a tail":       {header(`{"alg":"RS256"}x`), token.ErrMalformed},
		"two headers":              {header(`{"alg":"RS256"}{"alg":"RS256"}`), token.ErrMalformed},
		"header with a BOM":        {header("\ufeff" + `{"alg":"RS256"}`), token.ErrMalformed},
		"no header":                {header(``), token.ErrMalformed},
		"claims with a tail":       {signText("RS256", rsaKey, `{"alg":"RS256"}`, claims+"x"), token.ErrMalformed},
		"a token in a token":       {signText("RS256", rsaKey, `{"alg":"RS256","cty":"JWT"}`, rs256), token.ErrMalformed},
		"exp twice":                {signText("RS256", rsaKey, `{"alg":"RS256"}`, `{"exp":9e9,"exp":1}`), token.ErrExpired},
		"EXP after exp":            {signText("RS256", rsaKey, `{"alg":"RS256"}`, `{"exp":1,"EXP":9e9}`), token.ErrExpired},

		// RFC 7515, section 2: base64url, and nothing else.
		"header padded":              {strings.Replace(header(`{"alg":"RS256" }`), ".", "==.", 1), token.ErrMalformed},
		"a line break inside":        {rs256[:len(rs256)-8] + "\n" + rs256[len(rs256)-8:], token.ErrMalformed},
		"a line break at its end":    {rs256 + "\r\n", token.ErrMalformed},
		"a line break in the header": {"\n" + rs256, token.ErrMalformed},
		"base64 of the other kind":   {signedText("ES256") + "." + strings.Repeat("/", 86), token.ErrMalformed},
		"a dot after it":             {rs256 + ".", token.ErrMalformed},
		"JSON serialization":         {`{"payload":"` + strings.Split(rs256, ".")[1] + `"}`, token.ErrMalformed},
	}
	for name, test := range tests {
		for by, v := range verifiers {
			t.Run(name+", by "+by, func(t *testing.T) {
				t.Parallel()
				if _, err := v.Verify(test.raw, now); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
					t.Errorf("got %v, want %v", err, test.want)
				}
			})
		}
	}
}

// TestMembersOfKeys holds what each member of a key in a set makes of it (RFC
// 7517, section 4, RFC 7518, section 6, and RFC 8037). A key that cannot be used
// is passed over, so that its tokens name an unknown one.
func TestMembersOfKeys(t *testing.T) {
	t.Parallel()
	good := validClaims(now, nil)
	edPublic := func(changes fields) []fields { return []fields{publish(edKey.Public(), "k", changes)} }
	rsaPublic := func(changes fields) []fields { return []fields{publish(rsaKey.Public(), "k", changes)} }
	number := func(n *big.Int) string { return encode(n.Bytes()) }
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	chain := []string{base64.StdEncoding.EncodeToString(must(x509.CreateCertificate(rand.Reader, template, template, edKey.Public(), edKey)))}
	older := sign("EdDSA", edKey, fields{"kid": "k"}, good)
	newer := sign("Ed25519", edKey, fields{"kid": "k"}, good)
	rs256 := sign("RS256", rsaKey, fields{"kid": "k"}, good)
	tests := map[string]struct {
		keys []fields
		raw  string
		want error
	}{
		"alg Ed25519":                  {edPublic(fields{"alg": "Ed25519"}), newer, nil},
		"alg Ed25519, unnamed":         {edPublic(fields{"alg": "Ed25519"}), sign("Ed25519", edKey, nil, good), nil},
		"alg Ed25519, a token's EdDSA": {edPublic(fields{"alg": "Ed25519"}), older, nil},
		"alg EdDSA, a token's Ed25519": {edPublic(fields{"alg": "EdDSA"}), newer, nil},
		"alg EdDSA":                    {edPublic(fields{"alg": "EdDSA"}), older, nil},
		"no alg":                       {edPublic(fields{"alg": nil}), newer, nil},
		"alg Ed448":                    {edPublic(fields{"alg": "Ed448"}), newer, token.ErrUnknownKey},
		"alg Ed25519, with a chain":    {edPublic(fields{"alg": "Ed25519", "x5c": chain}), newer, nil},
		"no alg, with a chain":         {edPublic(fields{"alg": nil, "x5c": chain}), older, nil},
		"a chain that cannot be read":  {edPublic(fields{"x5c": []string{"AAAA"}, "x5t": "?"}), older, nil},
		"Ed25519 of 31 bytes":          {edPublic(fields{"x": encode(make([]byte, 31))}), newer, token.ErrUnknownKey},
		"X25519":                       {edPublic(fields{"crv": "X25519", "alg": nil}), newer, token.ErrUnknownKey},

		"alg of another kind":        {rsaPublic(fields{"alg": "ES256"}), rs256, token.ErrUnknownKey},
		"alg for encryption":         {rsaPublic(fields{"alg": "RSA-OAEP", "use": nil}), rs256, token.ErrUnknownKey},
		"alg in lower case":          {rsaPublic(fields{"alg": "rs256"}), rs256, token.ErrUnknownKey},
		"alg is a number":            {rsaPublic(fields{"alg": 1}), rs256, token.ErrUnknownKey},
		"alg PS256":                  {rsaPublic(fields{"alg": "PS256"}), rs256, token.ErrBadSignature},
		"no use":                     {rsaPublic(fields{"use": nil}), rs256, nil},
		"use in upper case":          {rsaPublic(fields{"use": "SIG"}), rs256, token.ErrUnknownKey},
		"use of somebody's own":      {rsaPublic(fields{"use": "tls"}), rs256, token.ErrUnknownKey},
		"key_ops beside use":         {rsaPublic(fields{"key_ops": []string{"verify"}}), rs256, nil},
		"key_ops of somebody's own":  {rsaPublic(fields{"key_ops": []string{"attest", "verify"}}), rs256, nil},
		"key_ops against use":        {rsaPublic(fields{"key_ops": []string{"encrypt"}}), rs256, token.ErrUnknownKey},
		"use against key_ops":        {rsaPublic(fields{"use": "enc", "key_ops": []string{"verify"}}), rs256, token.ErrUnknownKey},
		"key_ops in upper case":      {rsaPublic(fields{"use": nil, "key_ops": []string{"Verify"}}), rs256, token.ErrUnknownKey},
		"key_ops to sign":            {rsaPublic(fields{"use": nil, "key_ops": []string{"sign"}}), rs256, token.ErrUnknownKey},
		"kty in lower case":          {rsaPublic(fields{"kty": "rsa"}), rs256, token.ErrUnknownKey},
		"members of nobody's":        {rsaPublic(fields{"iat": 1, "exp": "x", "nope": fields{}}), rs256, nil},
		"kid of another case":        {rsaPublic(fields{"kid": "K"}), rs256, token.ErrUnknownKey},
		"kid is a number":            {rsaPublic(fields{"kid": 1}), rs256, token.ErrUnknownKey},
		"no kid":                     {rsaPublic(fields{"kid": nil}), rs256, token.ErrUnknownKey},
		"an empty kid":               {rsaPublic(fields{"kid": nil}), sign("RS256", rsaKey, fields{"kid": ""}, good), nil},
		"one kid, two kinds":         {append(edPublic(nil), rsaPublic(nil)...), rs256, nil},
		"one kid, two kinds, turned": {append(rsaPublic(nil), edPublic(nil)...), older, nil},
		"one kid, two keys":          {append(rsaPublic(nil), publish(nextRSAKey.Public(), "k", nil)), sign("RS256", nextRSAKey, fields{"kid": "k"}, good), nil},
		"one kid, too many keys":     {slices.Repeat(rsaPublic(nil), 9), rs256, token.ErrUnknownKey},

		"exponent 0":                    {rsaPublic(fields{"e": "AA"}), rs256, token.ErrUnknownKey},
		"exponent 1":                    {rsaPublic(fields{"e": "AQ"}), rs256, token.ErrUnknownKey},
		"exponent 2":                    {rsaPublic(fields{"e": "Ag"}), rs256, token.ErrUnknownKey},
		"an even exponent":              {rsaPublic(fields{"e": "AQAA"}), rs256, token.ErrUnknownKey},
		"exponent and 2^64":             {rsaPublic(fields{"e": number(new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(65537)))}), rs256, token.ErrUnknownKey},
		"an exponent of 33 bits":        {rsaPublic(fields{"e": number(big.NewInt(1<<32 + 1))}), rs256, token.ErrUnknownKey},
		"zeros before the exponent":     {rsaPublic(fields{"e": "AAEAAQ"}), rs256, nil},
		"a zero before the modulus":     {rsaPublic(fields{"n": encode(append([]byte{0}, rsaKey.N.Bytes()...))}), rs256, nil},
		"exponent is a number":          {rsaPublic(fields{"e": 65537}), rs256, token.ErrUnknownKey},
		"modulus of 2047 bits":          {rsaPublic(fields{"n": number(new(big.Int).Rsh(rsaKey.N, 1))}), rs256, token.ErrUnknownKey},
		"P-256 called P-384":            {[]fields{publish(p256Key.Public(), "k", fields{"crv": "P-384"})}, sign("ES256", p256Key, fields{"kid": "k"}, good), token.ErrUnknownKey},
		"the point at infinity":         {[]fields{publish(p256Key.Public(), "k", fields{"x": "AA", "y": "AA"})}, sign("ES256", p256Key, fields{"kid": "k"}, good), token.ErrUnknownKey},
		"a coordinate beyond the field": {[]fields{publish(p256Key.Public(), "k", fields{"x": strings.Repeat("_", 43)})}, sign("ES256", p256Key, fields{"kid": "k"}, good), token.ErrUnknownKey},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A set is taken only where some key of it can be used.
			v := newVerifier(t, token.Config{JWKS: []byte(keySet(append(test.keys, publish(p384Key.Public(), "other", nil))...))})
			if _, err := v.Verify(test.raw, now); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestOthersInTheProcess: what the library has registered is everybody's.
func TestOthersInTheProcess(t *testing.T) {
	t.Parallel()
	if method := jwt.GetSigningMethod("Ed25519"); method != nil {
		t.Errorf("Ed25519 is registered as %v", method)
	}
	for _, method := range []*jwt.SigningMethodRSAPSS{jwt.SigningMethodPS256, jwt.SigningMethodPS384, jwt.SigningMethodPS512} {
		if method.VerifyOptions == nil || method.VerifyOptions.SaltLength != rsa.PSSSaltLengthAuto {
			t.Errorf("%s verifies with %+v", method.Alg(), method.VerifyOptions)
		}
	}
}
