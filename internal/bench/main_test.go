//go:build unix

package bench

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/result"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// TestMain is also the application behind the proxies. That runs in a process
// of its own, so that its work does not count as theirs.
func TestMain(m *testing.M) {
	if addr := os.Getenv("BENCH_UPSTREAM"); addr != "" {
		_ = http.ListenAndServe(addr, stub.Handler("upstream", ""))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// upstream starts the application and returns its address.
func upstream(tb testing.TB) string {
	addr := freeAddr(tb)
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), "BENCH_UPSTREAM="+addr)
	if err := process.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; {
		if connection, err := net.Dial("tcp", addr); err == nil {
			connection.Close()
			return addr
		}
		if time.Now().After(deadline) {
			tb.Fatal("the application does not listen")
		}
	}
}

func freeAddr(tb testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// cpuTime is what this process has used of processors. A neighbour that takes
// the processor away for a while does not count in it.
func cpuTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

var start = time.Now()

func wallTime() time.Duration { return time.Since(start) }

// inTurn runs the arms one after the other, again and again: in each of b's
// rounds every one for about block. It returns what an operation took in each
// round, in ns, by arm. Whatever disturbs the machine for longer than a round
// disturbs all arms alike, so what counts is the ratio within a round.
func inTurn(b *testing.B, clock func() time.Duration, block time.Duration, arms ...func(n int)) [][]float64 {
	n := make([]int, len(arms))
	for i, arm := range arms {
		for n[i] = 1; ; n[i] *= 2 {
			began := wallTime()
			if arm(n[i]); wallTime()-began > block/2 {
				break
			}
		}
	}
	took := make([][]float64, len(arms))
	for b.Loop() {
		for i, arm := range arms {
			began := clock()
			arm(n[i])
			took[i] = append(took[i], float64((clock()-began).Nanoseconds())/float64(n[i]))
		}
	}
	b.ReportMetric(0, "ns/op") // the length of a round says nothing
	return took
}

// over is the median of the ratios of two arms, round by round.
func over(arm, below []float64) float64 {
	return result.Median(each(arm, below, func(a, b float64) float64 { return a / b }))
}

// beyond is the median of what an arm takes more than another.
func beyond(arm, below []float64) float64 {
	return result.Median(each(arm, below, func(a, b float64) float64 { return a - b }))
}

func each(a, b []float64, combine func(a, b float64) float64) []float64 {
	all := make([]float64, len(a))
	for i := range a {
		all[i] = combine(a[i], b[i])
	}
	return all
}

// together has so many goroutines do n operations between them.
func together(goroutines, n int, do func(i int)) {
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := g; i < n; i += goroutines {
				do(i)
			}
		})
	}
	all.Wait()
}
