package faults

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// client and application speak just enough HTTP/1.1 for these tests: under the
// race detector net/http on both sides would take longer than the gate.

// connection is one of the client's.
type connection struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
}

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// send sends a request and returns the status of its answer. Where nothing came
// back, the connection is closed.
func (c *connection) send(request []byte, hasBody bool) (status int, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.addr, testcaddy.Patience); err != nil {
			c.conn = nil
			return 0, err
		}
		c.in = bufio.NewReader(c.conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(testcaddy.Patience))
	if _, err = c.conn.Write(request); err == nil {
		status, err = c.answer(hasBody)
	}
	if err != nil {
		c.close()
	}
	return status, err
}

// answer reads one to its end.
func (c *connection) answer(hasBody bool) (status int, err error) {
	head, err := readHead(c.in)
	if err != nil {
		return 0, err
	}
	if status, err = strconv.Atoi(string(head.first[9:12])); err != nil {
		return 0, err
	}
	switch {
	case !hasBody || status == 204 || status == 304:
	case head.chunked:
		err = skipChunks(c.in)
	default:
		_, err = c.in.Discard(head.length)
	}
	if head.closes {
		c.close()
	}
	return status, err
}

func skipChunks(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return err
		}
		if _, err := in.Discard(int(size) + len("\r\n")); err != nil || size == 0 {
			return err
		}
	}
}

// head is the head of a request or of an answer.
type head struct {
	first, mark, decision []byte
	length                int
	chunked, closes       bool
}

func readHead(in *bufio.Reader) (head head, err error) {
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return head, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if n == 0 {
			head.first = bytes.Clone(line)
			if len(line) < len("HTTP/1.1 200") {
				return head, fmt.Errorf("%q begins no message", line)
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case len(line) == 0:
			return head, nil
		case bytes.EqualFold(name, []byte("Content-Length")):
			if head.length, err = strconv.Atoi(string(value)); err != nil {
				return head, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			head.chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			head.closes = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte(markHeader)):
			head.mark = bytes.Clone(value)
		case bytes.EqualFold(name, []byte("Metrics-Gate-Decision")):
			head.decision = bytes.Clone(value)
		}
	}
}

// markHeader tells the application what the test knows of a request.
const markHeader = "X-Mark"

// application is what stands behind the gate, in good health. It tells arrived
// of every request.
func application(t testing.TB, arrived func(head)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			serving.Go(func() {
				if err := reply(conn, arrived); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					t.Errorf("the application: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				delete(open, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return listener.Addr().String()
}

// reply answers the requests of one connection.
func reply(conn net.Conn, arrived func(head)) error {
	in := bufio.NewReaderSize(conn, 32<<10) // no line is longer
	const document = "<!doctype html><html><head><title>Settings</title></head><body></body></html>"
	page := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(document), document)
	other := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 16\r\n\r\n{\"success\":true}")
	for {
		request, err := readHead(in)
		if err != nil {
			return err
		}
		if request.chunked {
			err = skipChunks(in)
		} else {
			_, err = in.Discard(request.length)
		}
		if err != nil {
			return err
		}
		arrived(request)
		answer := other
		if bytes.Contains(request.first, []byte(" "+pagePath)) {
			answer = page
		}
		if bytes.HasPrefix(request.first, []byte("HEAD ")) {
			answer = answer[:bytes.Index(answer, []byte("\r\n\r\n"))+4]
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}
