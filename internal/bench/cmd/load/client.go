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

	"github.com/metricsgate/metricsgate/internal/bench/result"
)

// load is requests for one address. They are sent over connections that are
// kept, each of which waits for an answer before it sends the next.
type load struct {
	connections []client
	requests    int                // how many different ones there are
	request     func(n int) []byte // the nth, as it goes over the wire
}

func newLoad(addr string, connections, requests int, request func(n int) []byte) load {
	return load{slices.Repeat([]client{{addr: addr}}, connections), requests, request}
}

// close ends the connections.
func (l load) close() {
	for i := range l.connections {
		l.connections[i].close()
	}
}

// answers are what came back.
type answers struct {
	latencies []time.Duration
	failed    int
	seconds   float64
}

func (a *answers) add(more answers) {
	a.latencies = append(a.latencies, more.latencies...)
	a.failed += more.failed
	a.seconds += more.seconds
}

func (a *answers) sample() result.Sample {
	slices.Sort(a.latencies)
	sample := result.Sample{Requests: len(a.latencies), Failed: a.failed, Seconds: a.seconds}
	for _, p := range result.Percentiles {
		at := a.latencies[int(p/100*float64(len(a.latencies)-1))]
		sample.Latency = append(sample.Latency, float64(at.Nanoseconds())/1e3)
	}
	return sample
}

// closed sends as fast as the answers come.
func (l load) closed(d time.Duration) answers {
	end := time.Now().Add(d)
	return l.run(func(int) (time.Time, bool) {
		now := time.Now()
		return now, now.Before(end)
	})
}

// once sends every request once.
func (l load) once() answers {
	return l.run(func(n int) (time.Time, bool) { return time.Now(), n < l.requests })
}

// rate sends so many requests a second. Where no connection is free when one
// is due, the time that it waits counts as its latency; the time by which the
// timer of the load generator is late does not.
func (l load) rate(perSecond int, d time.Duration) answers {
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
func (l load) run(next func(n int) (due time.Time, more bool)) answers {
	var (
		numbers atomic.Int64
		mu      sync.Mutex
		all     answers
		workers sync.WaitGroup
	)
	start := time.Now()
	for i := range l.connections {
		connection := &l.connections[i]
		workers.Go(func() {
			var own answers
			for {
				n := int(numbers.Add(1) - 1)
				due, more := next(n)
				if !more {
					break
				}
				if !connection.send(l.request(n % l.requests)) {
					own.failed++
				}
				own.latencies = append(own.latencies, time.Since(due))
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(own)
		})
	}
	workers.Wait()
	all.seconds = time.Since(start).Seconds()
	return all
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
