//go:build unix

package bench

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/metricsgate/metricsgate"
	"github.com/metricsgate/metricsgate/internal/bench/result"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// profiles counts the lookups, each of which takes the delay.
func profiles(tb testing.TB, delay time.Duration) (addr string, lookups *atomic.Int64) {
	lookups = new(atomic.Int64)
	inner := stub.Handler("profile", "")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lookups.Add(1)
		<-time.After(delay)
		inner.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	return server.Listener.Addr().String(), lookups
}

// beacons is the route of the beacons of the benchmarks.
const beacons = "route POST /metrics"

// gateFor is a gate for those routes, with a profile server there.
func gateFor(routes, profile string) string {
	return `metrics_gate {
		` + routes + `
		session jwt {
			cookie session
			secret ` + stub.Secret + `
			issuer https://accounts.example.org
			audience content
		}
		profile http://` + profile + `/v1 {
			auth mint {
				key ` + stub.GateSecret + `
			}
			timeout 10s
			max_age 1h
		}
	}
	`
}

// servers runs Caddy in this process, with a server for each of the sites.
func servers(tb testing.TB, sites ...string) []*caddyhttp.Server {
	tb.Helper()
	var file strings.Builder
	file.WriteString("{\nadmin off\nauto_https off\npersist_config off\nlog {\nlevel ERROR\n}\n}\n")
	ports := make([]string, len(sites))
	for i, site := range sites {
		_, ports[i], _ = net.SplitHostPort(freeAddr(tb))
		fmt.Fprintf(&file, "http://:%s {\nbind 127.0.0.1\n%s\n}\n", ports[i], site)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(file.String()), nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = caddy.Stop() })
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		tb.Fatal(err)
	}
	all := make([]*caddyhttp.Server, len(sites))
	for _, server := range app.(*caddyhttp.App).Servers {
		for i, port := range ports {
			if strings.HasSuffix(server.Listen[0], ":"+port) {
				all[i] = server
			}
		}
	}
	return all
}

// exchange is a request that is served again and again, by one goroutine, for
// one user after the other: what is known of one and the same user would never
// leave the processor's own caches.
type exchange struct {
	request *http.Request
	cookies [][]string
	served  int
	body    []byte
	header  http.Header
	status  int
}

func newExchange(method, path, body string, uids ...string) *exchange {
	request := httptest.NewRequest(method, path, nil)
	request.Header = http.Header{
		"Accept": {"*/*"}, "User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		"Accept-Language": {"en-US,en;q=0.5"}, "Content-Type": {"application/json"},
	}
	request.ContentLength = int64(len(body))
	e := &exchange{request: request, body: []byte(body), header: http.Header{}}
	for _, uid := range uids {
		e.cookies = append(e.cookies, []string{"lang=en; session=" + stub.Session(uid)})
	}
	return e
}

// serve has the server answer the request, in the way that the connection's
// goroutine would call it.
func (e *exchange) serve(server *caddyhttp.Server) {
	request := *e.request
	request.Header = maps.Clone(e.request.Header)
	request.Header["Cookie"] = e.cookies[e.served%len(e.cookies)]
	e.served++
	request.Body = http.NoBody
	if len(e.body) > 0 {
		request.Body = io.NopCloser(bytes.NewReader(e.body))
	}
	clear(e.header)
	e.status = http.StatusOK
	server.ServeHTTP(e, &request)
}

func (e *exchange) Header() http.Header         { return e.header }
func (e *exchange) WriteHeader(status int)      { e.status = status }
func (e *exchange) Write(p []byte) (int, error) { return len(p), nil }

// by is the arm of a benchmark in which the server answers.
func (e *exchange) by(b *testing.B, server *caddyhttp.Server, status int) func(n int) {
	return func(n int) {
		for range n {
			if e.serve(server); e.status != status {
				b.Fatal(e.status)
			}
		}
	}
}

// BenchmarkChain is Caddy's whole chain of handlers with and without the gate.
// What the gate adds is measured where nothing else is done (added-ns), because
// it is too little to be seen beside a proxy. What Caddy itself needs for the
// same request to the application is caddy-ns, in processor time, without the
// application and without what waiting takes. ratio is gated ÷ bare there, and
// control bare ÷ bare: both say how much could be seen at all.
func BenchmarkChain(b *testing.B) {
	profile, _ := profiles(b, 0)
	app := "reverse_proxy " + upstream(b)
	all := servers(b, "respond 204", gateFor(beacons, profile)+"respond 204", app, app, gateFor(beacons, profile)+app)
	var uids []string
	for user := range 10_000 {
		if uid := stub.UID(user); stub.Preference(uid) != "true" {
			uids = append(uids, uid)
		}
	}
	for name, e := range map[string]*exchange{
		"collected": newExchange("POST", "/metrics", stub.Beacon(uids[0]), uids...),
		"other":     newExchange("GET", "/app.js", "", uids...),
	} {
		b.Run(name+"/added", func(b *testing.B) {
			e.by(b, all[1], 204)(len(uids)) // fills the caches
			took := inTurn(b, wallTime, time.Millisecond, e.by(b, all[0], 204), e.by(b, all[1], 204))
			b.ReportMetric(beyond(took[1], took[0]), "added-ns")
		})
		b.Run(name+"/proxied", func(b *testing.B) {
			e.by(b, all[4], 200)(len(uids))
			// The kernel's account of a thread that runs can be some ms old.
			took := inTurn(b, cpuTime, 100*time.Millisecond, e.by(b, all[2], 200), e.by(b, all[3], 200), e.by(b, all[4], 200))
			b.ReportMetric(result.Median(took[0]), "caddy-ns")
			b.ReportMetric(over(took[1], took[0]), "control")
			b.ReportMetric(over(took[2], took[0]), "ratio")
		})
	}
}

// BenchmarkThroughput is blocked beacons, and what the same chain does without
// a gate, of a thousand users: by as many goroutines as there are processors
// (-cpu), and by 64.
func BenchmarkThroughput(b *testing.B) {
	profile, _ := profiles(b, 0)
	all := servers(b, "respond 204", gateFor(beacons, profile)+"respond 418")
	const users = 1000
	exchanges := func() (own []*exchange) {
		for user := 0; len(own) < users; user++ {
			if uid := stub.UID(user); stub.Preference(uid) == "true" {
				own = append(own, newExchange("POST", "/metrics", "", uid))
			}
		}
		return own
	}
	shared := exchanges()
	for _, e := range shared {
		e.serve(all[1]) // fills the caches
	}
	for i, name := range []string{"bare", "blocked"} {
		for _, goroutines := range []int{1, 64} {
			b.Run(name+"/goroutines="+strconv.Itoa(goroutines), func(b *testing.B) {
				b.SetParallelism(max(1, goroutines/runtime.GOMAXPROCS(0)))
				b.RunParallel(func(pb *testing.PB) {
					for n := 0; pb.Next(); n++ {
						own := *shared[n%users]
						own.header = http.Header{}
						if own.serve(all[i]); own.status != http.StatusNoContent {
							b.Error(own.status)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			})
		}
	}
}

// BenchmarkOneColdUser is 10,000 requests at once of somebody whom the gate
// does not know, and how often it asks the profile server, at the most.
func BenchmarkOneColdUser(b *testing.B) {
	const requests = 10_000
	profile, lookups := profiles(b, 20*time.Millisecond)
	server := servers(b, gateFor(beacons, profile)+"respond 204")[0]
	user, most := 0, int64(0)
	for b.Loop() {
		before := lookups.Load()
		beacon := newExchange("POST", "/metrics", "", stub.UID(user))
		var ready, done sync.WaitGroup
		begin := make(chan struct{})
		ready.Add(requests)
		for range requests {
			done.Go(func() {
				own := *beacon
				own.header = http.Header{}
				ready.Done()
				<-begin
				own.serve(server)
			})
		}
		ready.Wait()
		close(begin)
		done.Wait()
		most = max(most, lookups.Load()-before)
		user++
	}
	b.ReportMetric(float64(most), "lookups")
	b.ReportMetric(0, "ns/op")
}
