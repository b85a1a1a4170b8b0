package profileserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

const (
	// writeTimeout is how long a follower may take to read what is sent.
	writeTimeout = 10 * time.Second

	// maxStream bounds how long a stream lives. The token that opened it is
	// verified once and soon expires; whoever is trusted no more must not
	// follow on for ever, so a client has to come back with a fresh one.
	maxStream = time.Hour
)

// changes answers GET with all changes that are to come, and those since the
// one that Last-Event-ID names, as server-sent events. See
// https://html.spec.whatwg.org/multipage/server-sent-events.html.
func (s *Server) changes(w http.ResponseWriter, r *http.Request) *failure {
	if refused := s.mayFollow(r, time.Now()); refused != nil {
		return refused
	}
	after, ok := lastEventID(r.Header)
	if !ok {
		return badLastEventID
	}
	if s.streams.Err() != nil {
		return storeAway
	}
	follower, err := s.store.Follow(after)
	if err != nil {
		return s.failed(r, err)
	}
	w.Header().Set("Content-Type", optoutapi.FeedMediaType)
	w.Header().Set("X-Accel-Buffering", "no") // or nginx gathers events before it passes them on
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	s.observer.Followers(1)
	defer s.observer.Followers(-1)

	// Those who came at the same moment, after a restart, do not all have to
	// come back at the same moment.
	life := maxStream - rand.N(maxStream/10) //nolint:gosec // nobody gains by guessing it
	ctx, cancel := context.WithTimeout(r.Context(), life)
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()

	s.stream(ctx, w, r, follower)
	return nil
}

// lastEventID returns the id of the last change that a client has seen, or -1
// where it has seen none.
func lastEventID(h http.Header) (id int64, ok bool) {
	text := h.Get("Last-Event-ID")
	if text == "" {
		return -1, true
	}
	unsigned, err := strconv.ParseUint(text, 10, 63)
	return int64(unsigned), err == nil
}

// stream sends what the follower is told, until ctx ends, the feed ends it, or
// the client is gone or too slow.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, follower *prefstore.Follower) {
	beat := time.Now() // when the next heartbeat is due
	for {
		pause := time.Until(beat)
		if pause <= 0 {
			pause = optoutapi.FeedKeepalive // it follows what there is still to tell
		}
		wait, cancel := context.WithTimeout(ctx, pause)
		text, err := follower.Next(wait)
		nothingToTell := wait.Err() != nil // or it is the store that took too long
		cancel()
		switch {
		case ctx.Err() != nil, errors.Is(err, prefstore.ErrFeedAway), errors.Is(err, prefstore.ErrTooSlow):
			return
		case err != nil && !nothingToTell:
			s.failed(r, err)
			return
		}
		if now := time.Now(); !now.Before(beat) {
			if heartbeat := follower.Heartbeat(); heartbeat != nil {
				text, beat = slices.Concat(text, heartbeat), now.Add(optoutapi.FeedKeepalive)
			}
		}
		if len(text) > 0 && send(w, text) != nil {
			return
		}
	}
}

// send writes text, and gives up on a client that does not read it in time.
// The deadline takes the place of one that the web server may have set for the
// whole answer; only a writer made for a test has none. It is taken back, since
// on HTTP/2 it would end the stream even while nothing is being written.
func send(w http.ResponseWriter, text []byte) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := w.Write(text); err != nil { //nolint:gosec // no browser takes an event stream for a page
		return err
	}
	if err := control.Flush(); err != nil {
		return err
	}
	_ = control.SetWriteDeadline(time.Time{})
	return nil
}

// Close ends all streams of changes, and lets nobody begin another. A server
// that is shut down waits for its answers to end, and streams do not end by
// themselves.
func (s *Server) Close() { s.endStreams() }
