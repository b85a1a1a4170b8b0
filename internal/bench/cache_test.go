//go:build unix

package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/bench/stub"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// answers is a profile server that no connection leads to.
type answers struct{}

func (answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"metrics_optout":null}`)),
	}, nil
}

const contendingUsers = 10_000

// BenchmarkContention is 64 goroutines that ask for what is cached ÷ one that
// does: processor time of an operation, as if all processors were busy.
func BenchmarkContention(b *testing.B) {
	client, err := profileclient.New(profileclient.Config{
		URL: "https://profile.test/{uid}", Auth: profileclient.Bearer("x"), MaxAge: 24 * time.Hour, Transport: answers{},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	sources := newSources(b, token.Config{Secret: []byte(stub.Secret)})
	accounts, requests := make([]profileclient.Account, contendingUsers), make([]*http.Request, contendingUsers)
	for i := range accounts {
		uid := stub.UID(i)
		accounts[i].UID = uid
		requests[i] = &http.Request{Header: http.Header{"Cookie": {"session=" + stub.Session(uid)}}}
	}
	// Read earlier, the clock would be behind the second in which the last token
	// was issued, and that would not hold yet.
	now, ctx := time.Now(), context.Background()
	scattered := func(i int) int { return i * 7919 % contendingUsers } // the same memory for all goroutines
	preference := func(i int) {
		if client.Lookup(ctx, accounts[scattered(i)], now) != policy.Unset {
			b.Error("not cached")
		}
	}
	verified := func(i int) {
		if found := sources.Find(requests[scattered(i)], now, uncounted); found.Session != policy.Verified {
			b.Error(found.Session)
		}
	}
	for name, ask := range map[string]func(int){"preference": preference, "token": verified} {
		b.Run(name, func(b *testing.B) {
			together(1, contendingUsers, ask) // fills the cache
			took := inTurn(b, wallTime, 20*time.Millisecond,
				func(n int) { together(1, n, ask) },
				func(n int) { together(64, n, ask) })
			b.ReportMetric(over(took[1], took[0])*float64(min(64, runtime.GOMAXPROCS(0))), "ratio")
		})
	}
}

// uncounted is told what came of a credential, and does not count it.
func uncounted(int, string, session.Outcome) {}

func newSources(tb testing.TB, config token.Config) session.Sources {
	tb.Helper()
	verifier, err := token.NewVerifier(config)
	if err != nil {
		tb.Fatal(err)
	}
	source := session.NewBearer(verifier, session.BearerConfig{Cookie: "session"})
	tb.Cleanup(source.Close)
	return session.Sources{source}
}

// BenchmarkAlgorithms is a session that verified before, by how it is signed,
// ÷ one that is signed with HS256.
func BenchmarkAlgorithms(b *testing.B) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	names := []string{"HS256", "RS256", "ES256", "EdDSA"}
	keys := []any{[]byte(stub.Secret), rsaKey, ecKey, edKey}
	var arms []func(n int)
	now := time.Now()
	for i, name := range names {
		config := token.Config{Secret: []byte(stub.Secret)}
		if signer, ok := keys[i].(crypto.Signer); ok {
			der, err := x509.MarshalPKIXPublicKey(signer.Public())
			if err != nil {
				b.Fatal(err)
			}
			config = token.Config{PEM: [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}}
		}
		sources := newSources(b, config)
		signed, err := jwt.NewWithClaims(jwt.GetSigningMethod(name), jwt.MapClaims{
			"sub": stub.UID(0), "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		}).SignedString(keys[i])
		if err != nil {
			b.Fatal(err)
		}
		request := &http.Request{Header: http.Header{"Cookie": {"session=" + signed}}}
		arms = append(arms, func(n int) {
			for range n {
				if found := sources.Find(request, now, uncounted); found.Session != policy.Verified {
					b.Fatal(found.Session)
				}
			}
		})
	}
	took := inTurn(b, wallTime, 2*time.Millisecond, arms...)
	for i, name := range names[1:] {
		b.ReportMetric(over(took[i+1], took[0]), name)
	}
}
