//go:build unix

package bench

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// hedged asks once more where there is no answer after a while, and takes the
// answer that comes first. It is here to be measured, not in the client.
type hedged struct {
	http.RoundTripper
	after time.Duration
}

func (h hedged) RoundTrip(r *http.Request) (*http.Response, error) {
	type result struct {
		response *http.Response
		err      error
	}
	results := make(chan result, 2)
	ask := func() {
		response, err := h.RoundTripper.RoundTrip(r)
		results <- result{response, err}
	}
	go ask()
	var first result
	select {
	case first = <-results:
		return first.response, first.err
	case <-time.After(h.after):
		go ask()
		first = <-results
	}
	go func() { // the other's connection can be used again
		if second := <-results; second.err == nil {
			_, _ = io.Copy(io.Discard, second.response.Body)
			_ = second.response.Body.Close()
		}
	}()
	return first.response, first.err
}

// BenchmarkCold is lookups of users whom the client does not know, 32 at a
// time, over TLS, by a profile server that takes 5 ms, and 50 ms for one
// request in fifty: with HTTP/1.1, with HTTP/2, and hedged after 20 ms.
// Requests is what the profile server gets for each user.
func BenchmarkCold(b *testing.B) {
	const users, workers = 2000, 32
	for name, protocol := range map[string]struct {
		http2 bool
		hedge time.Duration
	}{"HTTP1": {}, "HTTP2": {http2: true}, "HTTP1-hedged": {hedge: 20 * time.Millisecond}} {
		var requests atomic.Int64
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			delay := 5 * time.Millisecond
			if requests.Add(1); rand.IntN(50) == 0 {
				delay = 50 * time.Millisecond
			}
			<-time.After(delay)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"metrics_optout":null}`)
		}))
		server.EnableHTTP2 = protocol.http2
		server.StartTLS()
		b.Cleanup(server.Close)
		transport := server.Client().Transport.(*http.Transport)
		transport.MaxIdleConnsPerHost = workers * 2
		var roundTripper http.RoundTripper = transport
		if protocol.hedge > 0 {
			roundTripper = hedged{transport, protocol.hedge}
		}
		b.Run(name, func(b *testing.B) {
			client, err := profileclient.New(profileclient.Config{
				URL: server.URL + "/{uid}", Auth: profileclient.Bearer("x"), Transport: roundTripper, Timeout: 10 * time.Second,
			})
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			var took []time.Duration
			round := 0
			ask := func() {
				var mu sync.Mutex
				together(workers, users, func(i int) {
					uid := strconv.Itoa(round) + "-" + strconv.Itoa(i)
					start := time.Now()
					if client.Lookup(context.Background(), profileclient.Account{UID: uid}, start) != policy.Unset {
						b.Error("no answer")
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(start))
				})
				round++
			}
			ask() // opens the connections
			took = nil
			requests.Store(0)
			began := cpuTime()
			for b.Loop() {
				ask()
			}
			used, asked := cpuTime()-began, requests.Load()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
			b.ReportMetric(float64(asked)/float64(len(took)), "requests")
			b.ReportMetric(float64(used.Microseconds())/float64(len(took)), "cpu-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}
