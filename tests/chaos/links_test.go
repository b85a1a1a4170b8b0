package chaos

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// state is what a link does with what is sent over it.
type state int

const (
	well    state = iota
	cut           // connections are reset, and none comes about
	stalled       // nothing gets through, in either direction, until it does
)

// link is a network between two parts of the fleet.
type link struct {
	listener net.Listener
	targets  []target // in turn, until one takes the connection

	mu      sync.Mutex
	state   state
	changed chan struct{} // is closed with every new state
	conns   map[net.Conn]bool
	wrong   []span // when it was not well
	work    sync.WaitGroup
}

type target struct{ network, addr string }

// span is a time from and to, which is zero as long as it lasts.
type span struct{ from, to time.Time }

// newLink listens at an address and leads to the first of some that answers.
func newLink(t *testing.T, at target, to ...target) *link {
	t.Helper()
	listener, err := net.Listen(at.network, at.addr)
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, targets: to, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	l.work.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) close() {
	_ = l.listener.Close()
	l.set(cut)
	l.work.Wait()
}

// set has the link do something else from now on.
func (l *link) set(now state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == well && now != well {
		l.wrong = append(l.wrong, span{from: time.Now()})
	}
	if l.state != well && now == well {
		l.wrong[len(l.wrong)-1].to = time.Now()
	}
	l.state = now
	close(l.changed)
	l.changed = make(chan struct{})
	if now == cut {
		for conn := range l.conns {
			reset(conn)
		}
	}
}

// wasWrong says whether the link was not well at some moment since a time.
func (l *link) wasWrong(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.wrong, func(s span) bool { return s.to.IsZero() || s.to.After(since) })
}

func (l *link) accept() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.work.Go(func() { l.lead(conn) })
	}
}

// lead joins a connection to one with a target.
func (l *link) lead(from net.Conn) {
	defer l.forget(from)
	if !l.keep(from) || !l.passes() {
		return
	}
	for _, target := range l.targets {
		to, err := net.Dial(target.network, target.addr)
		if err != nil {
			continue
		}
		defer l.forget(to)
		if !l.keep(to) {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { l.copy(from, to) })
		l.copy(to, from)
		back.Wait()
		return
	}
}

// keep has a connection be reset when the link is cut, which it may be already.
func (l *link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = true
	return l.state != cut
}

func (l *link) forget(conn net.Conn) {
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
	reset(conn)
}

// reset closes a connection at once: whoever reads from it learns that it broke.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// copy passes on what comes, and then the end of it.
func (l *link) copy(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !l.passes() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				reset(from)
				return
			}
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// passes waits as long as the link is stalled, and reports whether it is not cut.
func (l *link) passes() bool {
	for {
		l.mu.Lock()
		state, changed := l.state, l.changed
		l.mu.Unlock()
		if state != stalled {
			return state == well
		}
		<-changed
	}
}
