package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/metricsgate/metricsgate/bench/result"
)

// load is requests for one address. They are sent over connections that are
// kept, each of which waits for an answer before it sends the next.
type load struct {
	addr        string
	connections int
	requests    int                // how many different ones there are
	request     func(n int) []byte // the nth, as it goes over the wire
}

// closed sends as fast as the answers come.
func (l load) closed(d time.Duration) result.Sample {
	end := time.Now().Add(d)
	return l.run(func(int) (time.Time, bool) {
		now := time.Now()
		return now, now.Before(end)
	})
}

// once sends every request once.
func (l load) once() result.Sample {
	return l.run(func(n int) (time.Time, bool) { return time.Now(), n < l.requests })
}

// rate sends so many requests a second. Where no connection is free when one
// is due, the time that it waits counts as its latency; the time by which the
// timer of the load generator is late does not.
func (l load) rate(perSecond int, d time.Duration) result.Sample {
	start := time.Now()
	return l.run(func(n int) (time.Time, bool) {
		after := time.Duration(n) * time.Second / time.Duration(perSecond)
		due := start.Add(after)
		if wait := time.Until(due); wait > 0 {
			<-time.After(wait)
			due = time.Now()
		}
		return due, after < d
	})
}

// run has every connection send until next, which is given the number of the
// request, says that there are no more. A latency counts from when it is due.
func (l load) run(next func(n int) (due time.Time, more bool)) result.Sample {
	var (
		numbers   atomic.Int64
		failed    atomic.Int64
		mu        sync.Mutex
		latencies []time.Duration
		workers   sync.WaitGroup
	)
	start := time.Now()
	for range l.connections {
		workers.Go(func() {
			connection := client{addr: l.addr}
			defer connection.close()
			var own []time.Duration
			for {
				n := int(numbers.Add(1) - 1)
				due, more := next(n)
				if !more {
					break
				}
				if !connection.send(l.request(n % l.requests)) {
					failed.Add(1)
				}
				own = append(own, time.Since(due))
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
		})
	}
	workers.Wait()
	slices.Sort(latencies)
	sample := result.Sample{Requests: len(latencies), Failed: int(failed.Load()), Seconds: time.Since(start).Seconds()}
	for _, p := range result.Percentiles {
		at := latencies[int(p/100*float64(len(latencies)-1))]
		sample.Latency = append(sample.Latency, float64(at.Nanoseconds())/1e3)
	}
	return sample
}

// client is one connection, dialled when it is needed.
type client struct {
	addr string
	net.Conn
	reader *bufio.Reader
}

// send says whether the request got its answer, 200.
func (c *client) send(request []byte) bool {
	const patience = 10 * time.Second
	if c.Conn == nil {
		var err error
		if c.Conn, err = net.DialTimeout("tcp", c.addr, patience); err != nil {
			c.Conn = nil
			return false
		}
		c.reader = bufio.NewReader(c.Conn)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(request); err != nil {
		c.close()
		return false
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		c.close()
		return false
	}
	_, err = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	if err != nil || response.Close {
		c.close()
	}
	return err == nil && response.StatusCode == http.StatusOK
}

func (c *client) close() {
	if c.Conn != nil {
		_ = c.Conn.Close()
		c.Conn = nil
	}
}
