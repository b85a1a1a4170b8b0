package token_test

import (
	"testing"

	"github.com/metricsgate/metricsgate/token"
)

func BenchmarkVerify(b *testing.B) {
	set := token.Config{JWKS: []byte(keySet(publish(nextRSAKey.Public(), "old", nil), publish(rsaKey.Public(), "a", nil)))}
	for _, bench := range []struct {
		name   string
		config token.Config
		raw    string
	}{
		{"HS256", token.Config{Secret: secret}, sign("HS256", secret, nil, validClaims(now, nil))},
		{"RS256", token.Config{PEM: [][]byte{publicPEM(rsaKey)}}, sign("RS256", rsaKey, nil, validClaims(now, nil))},
		{"ES256", token.Config{PEM: [][]byte{publicPEM(p256Key)}}, sign("ES256", p256Key, nil, validClaims(now, nil))},
		{"EdDSA", token.Config{PEM: [][]byte{publicPEM(edKey)}}, sign("EdDSA", edKey, nil, validClaims(now, nil))},
		{"KeySet", set, sign("RS256", rsaKey, fields{"kid": "a"}, validClaims(now, nil))},
		{"UnknownKey", set, sign("RS256", rsaKey, fields{"kid": "b"}, validClaims(now, nil))},
		{"Forged", token.Config{Secret: secret}, sign("HS256", []byte("another secret of thirty-two bytes"), nil, validClaims(now, nil))},
		{"Garbage", token.Config{Secret: secret}, "garbage"},
	} {
		v := newVerifier(b, bench.config)
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(bench.raw, now)
			}
		})
	}
}

func BenchmarkMint(b *testing.B) {
	for _, bench := range []struct {
		name string
		key  []byte
	}{{"HS256", secret}, {"RS256", privatePEM(rsaKey)}, {"ES256", privatePEM(p256Key)}, {"EdDSA", privatePEM(edKey)}} {
		m := newMinter(b, bench.key)
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Mint(subject, "profile:metrics_optout", "", now)
			}
		})
	}
}

func BenchmarkImplies(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		token.Implies("openid profile:email profile:write", "profile:metrics_optout:write")
	}
}
