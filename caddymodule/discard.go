package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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

// discardReply runs the handlers behind the gate and returns the class of
// the status that they answered: "2xx" to "5xx", or "aborted" where the
// upstream broke off in the middle of its reply. The error is theirs.
func discardReply(r *http.Request, next caddyhttp.Handler) (class string, err error) {
	reply := &discardedReply{header: http.Header{}}
	defer func() {
		// The reverse proxy aborts the client's connection where the
		// upstream breaks off. A client that is answered in any case must
		// not see that either.
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it in the same way
				panic(p)
			}
			class = "aborted"
		}
	}()
	err = next.ServeHTTP(reply, r)
	return statusClass(reply.status, err), err
}

func statusClass(status int, err error) string {
	if err != nil {
		status = http.StatusInternalServerError
		if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && handlerErr.StatusCode != 0 {
			status = handlerErr.StatusCode
		}
	}
	switch {
	case status == 0: // no handler wrote anything: net/http sends 200
		return "2xx"
	case status < 300:
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
