package profileserver

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/token"
)

// BenchmarkReceive takes security event tokens (RFC 8417), each of which opts
// an account out that did not: from the request to the answer, which comes when
// the change is safely on the disk. With again, the same event comes once more.
func BenchmarkReceive(b *testing.B) {
	for _, algorithm := range []string{"ES256", "RS256"} {
		store := openStore(b, database(b))
		config := Config{Store: store, Tokens: []Verifier{verifier(b, token.Config{Secret: secret})}}
		takesEvents(b)(&config)
		server := New(config)
		receive := func(raw string) {
			r := httptest.NewRequest(http.MethodPost, eventsPath, nil)
			r.Header.Set("Authorization", "Bearer "+raw)
			w := httptest.NewRecorder()
			if server.ServeHTTP(w, r); w.Code >= http.StatusBadRequest {
				b.Fatal(w.Code, w.Body)
			}
		}
		n, uid := 0, rand.NewPCG(1, 1) // 32 hex digits in no order, as FxA's are
		next := func() string {
			n++
			id := algorithm + strconv.Itoa(n)
			return signEvent(b, algorithm, eventClaims(id, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"sub": fmt.Sprintf("%016x%016x", uid.Uint64(), uid.Uint64())}))
		}
		b.Run(algorithm+"/new", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				raw := next()
				b.StartTimer()
				receive(raw)
			}
		})
		b.Run(algorithm+"/again", func(b *testing.B) {
			raw := next()
			receive(raw)
			b.ReportAllocs()
			for b.Loop() {
				receive(raw)
			}
		})
	}
}
