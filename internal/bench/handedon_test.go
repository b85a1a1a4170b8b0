//go:build unix

package bench

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// BenchmarkHandedOn is what a request takes of memory that is handed on behind a
// hidden reply, while the application hangs: a beacon of 2 KB with all that Caddy
// needs to proxy it, connection included, of a thousand at once. Left is what is
// still there of each when the application is gone.
func BenchmarkHandedOn(b *testing.B) {
	const requests = 1000
	profile, _ := profiles(b, 0)
	for b.Loop() {
		application, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := servers(b, gateFor("reply hide\n"+beacons, profile)+"reverse_proxy "+application.Addr().String())[0]
		uid := stub.UID(0)
		for user := 1; stub.Preference(uid) == "true"; user++ {
			uid = stub.UID(user)
		}
		beacon := newExchange("POST", "/metrics", stub.Beacon(uid), uid)
		connections := make([]net.Conn, 0, requests+1)
		send := func(n int) {
			for range n {
				if beacon.serve(server); beacon.status != http.StatusNoContent {
					b.Fatal(beacon.status)
				}
				connection, err := application.Accept()
				if err == nil {
					_, err = io.ReadFull(connection, make([]byte, 1))
				}
				if err != nil {
					b.Fatal(err)
				}
				connections = append(connections, connection)
			}
		}
		send(1)
		heap, stacks := memoryInUse()
		goroutines := runtime.NumGoroutine()
		send(requests)
		heapThen, stacksThen := memoryInUse()
		b.ReportMetric((heapThen-heap)/requests, "heap-B/request")
		b.ReportMetric((stacksThen-stacks)/requests, "stack-B/request")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/requests, "goroutines/request")
		for _, connection := range connections {
			connection.Close()
		}
		application.Close()
		for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		heapThen, _ = memoryInUse()
		b.ReportMetric((heapThen-heap)/requests, "left-B/request")
	}
	b.ReportMetric(0, "ns/op")
}

// memoryInUse is what live objects take, and what goroutines' stacks do, in bytes.
func memoryInUse() (heap, stacks float64) {
	runtime.GC()
	runtime.GC() // what pools held before
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return float64(samples[0].Value.Uint64()), float64(samples[1].Value.Uint64())
}
