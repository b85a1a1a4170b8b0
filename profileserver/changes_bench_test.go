//go:build linux

package profileserver

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/token"
)

// benchFollowers is how many gates follow one instance. Each takes an open
// file of this process, and one of the process that stands for the gates.
const benchFollowers = 10_000

// BenchmarkFollowers has 10,000 gates follow one instance over loopback. One
// operation is a change, from when it is published until all have read it. The
// gates are a process of their own, so that the memory is the server's alone.
func BenchmarkFollowers(b *testing.B) {
	j, f := startFeed()
	verifier, err := token.NewVerifier(token.Config{Secret: secret})
	if err != nil {
		b.Fatal(err)
	}
	defer verifier.Close()
	minter, err := token.NewMinter(token.MinterConfig{Key: secret, ClientID: "metrics-gate", Lifetime: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	raw, err := minter.Mint("metrics-gate", optoutapi.ChangesScope, "", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	server := New(Config{Store: feedStore{feed: f}, Tokens: []Verifier{verifier}, TrustedClients: []string{"metrics-gate"}})
	web := httptest.NewServer(server)
	defer web.Close()
	defer server.Close()

	heap, stacks, resident := memory(b)
	gates := exec.CommandContext(b.Context(), os.Args[0])
	gates.Env = append(os.Environ(), childFollows+"="+web.Listener.Addr().String(), childToken+"="+raw)
	gates.Stderr = os.Stderr
	tell, err := gates.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := gates.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := gates.Start(); err != nil {
		b.Fatal(err)
	}
	heard := bufio.NewScanner(out)
	if !heard.Scan() {
		b.Fatal("the gates could not follow")
	}
	heapAfter, stacksAfter, residentAfter := memory(b)

	var publishing time.Duration
	for b.Loop() {
		change := j.write("a1b2c3d4e5f60718293a4b5c6d7e8f90")
		fmt.Fprintln(tell, change.ID)
		began := time.Now()
		f.Publish(change)
		publishing += time.Since(began)
		if !heard.Scan() {
			b.Fatal("the gates have not heard of a change")
		}
	}
	_ = tell.Close()
	if err := gates.Wait(); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(heapAfter-heap)/benchFollowers, "heap-B/follower")
	b.ReportMetric(float64(stacksAfter-stacks)/benchFollowers, "stack-B/follower")
	b.ReportMetric(float64(residentAfter-resident)/benchFollowers, "resident-B/follower")
	b.ReportMetric(float64(publishing.Nanoseconds())/float64(b.N), "publish-ns/op")
}

// memory returns the bytes of live objects and of stacks, and those that the
// system has given this process.
func memory(b *testing.B) (heap, stacks, resident int64) {
	b.Helper()
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(text), "%d %d", new(int64), &resident); err != nil {
		b.Fatal(err)
	}
	return int64(stats.HeapAlloc), int64(stats.StackInuse), resident * int64(os.Getpagesize())
}

// These name the address and the token with which this binary, run once more
// by the benchmark, follows.
const (
	childFollows = "PROFILESERVER_TEST_FOLLOWS"
	childToken   = "PROFILESERVER_TEST_TOKEN"
)

func init() {
	if address := os.Getenv(childFollows); address != "" {
		if err := followAll(address, os.Getenv(childToken)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// followAll follows as all the gates and says so, and then each time that all
// have got the change whose id is written to it.
func followAll(address, raw string) error {
	conns := make([]net.Conn, benchFollowers)
	for n := range conns {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: profile.test\r\nAuthorization: Bearer %s\r\n\r\n", changesPath, raw); err != nil {
			return err
		}
		conns[n] = conn
	}
	buffer := make([]byte, 16<<10)
	for id := 0; ; {
		end := fmt.Appendf(nil, "id: %d\n", id)
		for _, conn := range conns {
			for got := 0; !bytes.HasSuffix(buffer[:got], []byte("\n\n\r\n")) || !bytes.Contains(buffer[:got], end); {
				n, err := conn.Read(buffer[got:])
				if err != nil {
					return fmt.Errorf("%w after %q", err, buffer[:got])
				}
				got += n
			}
		}
		fmt.Println("all have it")
		if n, _ := fmt.Scanln(&id); n != 1 {
			return nil
		}
	}
}
