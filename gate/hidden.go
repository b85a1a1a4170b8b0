package gate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/policy"
)

// The words of reply: what a client gets when its metrics request is collected.
const (
	// ReplyHide is the route's answer, as if the request had been blocked.
	ReplyHide = "hide"
	// ReplyShow is the application's reply.
	ReplyShow = "show"
)

func isReply(word string) bool { return word == "" || word == ReplyHide || word == ReplyShow }

// hides says whether the client of a collected request gets the route's answer
// in place of the application's reply. Somebody who could see the reply could
// tell collected from blocked: and so ask for the preference of any account by
// naming it, or learn from another site's page whether its visitor opted out
// here.
func (g *Gate) hides(r *http.Request, route *gatedRoute, v *verdict) bool {
	switch {
	case route.experiment: // whose reply is what is asked for; names do not count
		return false
	case route.reply != "":
		return route.reply == ReplyHide
	default:
		return route.names != nil || v.lookedUpNamed || g.fromElsewhere(r)
	}
}

// fromElsewhere says whether another site's page sends the request: by what the
// browser says of it (Fetch metadata) or, where it says nothing, by an Origin or
// the host of a Referer. A request with none of them counts as this site's own.
func (g *Gate) fromElsewhere(r *http.Request) bool {
	if site := r.Header["Sec-Fetch-Site"]; len(site) > 0 {
		return site[0] != "same-origin" && site[0] != "none"
	}
	if r.Header["Origin"] != nil {
		return !g.isOwnOrigin(r)
	}
	referer := r.Header["Referer"]
	if len(referer) == 0 {
		return false
	}
	from, err := url.Parse(referer[0])
	return err != nil || from.Host != r.Host
}

const (
	// maxHandedOn bounds the body of one request that is handed on after its
	// answer; a larger one is handed on before.
	maxHandedOn = 1 << 20
	// HandedOnTime is how long the application may take for a request that is
	// handed on after its answer.
	HandedOnTime = 30 * time.Second
	// handedOnRequests and handedOnBytes bound all of a gate's together. What
	// comes beyond is answered and dropped.
	handedOnRequests = 1024
	handedOnBytes    = 64 << 20
)

// What became of a request whose reply is hidden, besides the classes of
// statuses.
const (
	replyAborted = "aborted"
	replyDropped = "dropped"
)

// handedOn are the collected requests whose answer has been sent, on their way
// to the application.
type handedOn struct {
	mu       sync.Mutex
	requests int
	bytes    int
	none     chan struct{} // is closed when none is on its way any more
}

// add admits a request with so many bytes, if there is room.
func (h *handedOn) add(size int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.requests == handedOnRequests || h.bytes+size > handedOnBytes {
		return false
	}
	if h.requests == 0 {
		h.none = make(chan struct{})
	}
	h.requests++
	h.bytes += size
	return true
}

func (h *handedOn) done(size int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests--
	h.bytes -= size
	if h.requests == 0 {
		close(h.none)
	}
}

// Wait returns when all requests that were handed on have ended, which takes
// HandedOnTime where handlers heed their context, or with the context's error. A
// program that ends calls it when it serves no more requests.
func (g *Gate) Wait(ctx context.Context) error {
	g.handedOn.mu.Lock()
	requests, none := g.handedOn.requests, g.handedOn.none
	g.handedOn.mu.Unlock()
	if requests == 0 {
		return nil
	}
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// passHidden answers a collected request as if it had been blocked, and hands it
// on. The answer does not wait for that, or the time until it comes would tell,
// and neither does the next request on the connection.
func (g *Gate) passHidden(w http.ResponseWriter, r *http.Request, route *gatedRoute, decision policy.Decision, trace *Trace, next Next) {
	room := int(min(r.ContentLength, maxHandedOn))
	if room < 0 {
		room = maxHandedOn
	}
	if !g.handedOn.add(room) {
		drain(r, true)
		g.answer(w, r, route, route.answer)
		g.observer.Hidden(replyDropped)
		g.traces.ended(trace, replyDropped)
		return
	}
	body, whole := readWhole(r)
	if !whole {
		g.handedOn.done(room)
		outcome := announce(r, decision)
		defer withdraw(r, outcome)
		g.discardReply(r, trace, next)
		g.answer(w, r, route, route.answer)
		return
	}
	// Counted before the answer can be read, so that whoever has the answer finds
	// the request either on its way or at its end.
	g.observer.Detached(1)
	g.answer(w, r, route, route.answer)

	ctx, cancel := context.WithTimeout(trace.keep(context.Background()), HandedOnTime)
	own := g.host.Detach(ctx, r)
	own.Body = io.NopCloser(bytes.NewReader(body))
	own.ContentLength = int64(len(body))
	if len(body) == 0 {
		own.Body = http.NoBody
	}
	own.TransferEncoding = nil
	go func() {
		growStack(0)
		defer g.handedOn.done(room) // when all else has been told
		defer g.observer.Detached(-1)
		defer cancel()
		outcome := announce(own, decision)
		defer withdraw(own, outcome)
		g.discardReply(own, trace, next)
	}()
}

// growStack has a goroutine's stack grow to what the handlers behind the gate need
// while there is nothing on it: growing in steps, with their frames on it, takes as
// long as finding the names in a beacon. That it returns some of the memory keeps the
// compiler from leaving all of it out.
//
//go:noinline
func growStack(at int) byte {
	var frame [12 << 10]byte
	return frame[at]
}

// readWhole reads the body of a request to its end and says whether that could
// be done within the bounds. Otherwise the body is as it was.
func readWhole(r *http.Request) (body []byte, whole bool) {
	if !hasBody(r) {
		return nil, true
	}
	if r.ContentLength > maxHandedOn {
		return nil, false
	}
	read := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	_, err := read.ReadFrom(io.LimitReader(r.Body, maxHandedOn+1))
	if err == nil && read.Len() <= maxHandedOn {
		return read.Bytes(), true
	}
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(read, failing{err, rest}), rest}
	return nil, false
}

// failing is a reader that goes on with another one, or fails as it did before.
type failing struct {
	err  error
	rest io.Reader
}

func (f failing) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return f.rest.Read(p)
}

// discardReply runs the handlers behind the gate, and counts and drops what they
// reply. A client that is answered in any case must see none of it: no failure,
// and no panic.
func (g *Gate) discardReply(r *http.Request, trace *Trace, next Next) {
	reply := &discardedReply{header: http.Header{}}
	class, err := replyAborted, error(nil)
	defer func() {
		// Caddy's reverse proxy panics where the upstream breaks off, and
		// whatever else panics must not end the process.
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it in the same way
			g.log.Error("a handler panicked on a collected request, which was answered all the same", zap.Stack("stack"))
		}
		g.observer.Hidden(class)
		g.traces.ended(trace, class)
		switch {
		case err != nil:
			g.upstream.Failed(&handlerError{class, g.host.Unreached(err)})
		case class != replyAborted:
			g.upstream.Answered()
		}
	}()
	if err = next.ServeHTTP(reply, r); err != nil {
		class = statusClass(g.host.StatusOf(err))
	} else {
		class = statusClass(reply.status)
	}
}

// calm is how long no collected request must have failed before one that is taken
// counts as the end of the failure.
const calm = 5 * time.Second

// handlerError is that a collected request failed. Only that there is no connection
// to the upstream is kept: other errors quote what it sent, which may be what the
// client has sent, or are about the client's connection and hold its address.
type handlerError struct {
	class     string
	unreached error // or nil
}

func (e *handlerError) Error() string { return e.class }

// logUpstream says that collected requests begin to fail, and that they fail no
// more: an application that is down fails each of them.
func (g *Gate) logUpstream(err error) {
	failed, ok := errors.AsType[*handlerError](err)
	if !ok {
		g.log.Info("the upstream takes collected requests again")
		return
	}
	cause := zap.Skip()
	if failed.unreached != nil {
		cause = zap.Error(failed.unreached)
	}
	g.log.Error("the upstream failed on a collected request, which was answered all the same", zap.String("class", failed.class), cause)
}

// discardedReply takes the upstream's reply to a collected request, keeps its
// status and drops the rest. It deliberately unwraps to nothing: no handler
// behind the gate may reach the client's connection, or the reply would tell
// a collected request from a blocked one.
type discardedReply struct {
	header http.Header
	status int
}

func (d *discardedReply) Header() http.Header { return d.header }

func (d *discardedReply) WriteHeader(status int) {
	if d.status == 0 && status >= 200 { // 1xx are not the reply yet
		d.status = status
	}
}

func (d *discardedReply) Write(p []byte) (int, error) {
	if d.status == 0 {
		d.status = http.StatusOK
	}
	return len(p), nil
}

// FlushError is there for handlers that stream; there is nothing to flush.
func (d *discardedReply) FlushError() error { return nil }

func statusClass(status int) string {
	switch {
	case status < 300: // or zero: no handler wrote anything, so net/http sends 200
		return "2xx"
	case status < 400:
		return "3xx"
	case status < 500:
		return "4xx"
	default:
		return "5xx"
	}
}

var _ http.ResponseWriter = (*discardedReply)(nil)
