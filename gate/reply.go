package gate

import (
	"io"
	"net/http"

	"github.com/metricsgate/metricsgate/policy"
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
func (g *Gate) discardReply(r *http.Request, next Next) (class string, err error) {
	reply := &discardedReply{header: http.Header{}}
	defer func() {
		// Caddy's reverse proxy aborts the client's connection where the
		// upstream breaks off. A client that is answered in any case must
		// not see that either.
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it in the same way
				panic(p)
			}
			class = "aborted"
		}
	}()
	if err = next(reply, r); err != nil {
		return statusClass(g.host.StatusOf(err)), err
	}
	return statusClass(reply.status), nil
}

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

// passUncached hands a collected request on and keeps the reply out of every
// cache: the next person behind it may have opted out.
func (g *Gate) passUncached(w http.ResponseWriter, r *http.Request, decision policy.Decision, next Next) error {
	reply := &uncachedReply{ResponseWriter: w}
	err := g.pass(reply, r, decision, next)
	reply.forbidCaching() // of what net/http or an error page answers where nothing was written
	return err
}

// uncachedReply adds to a reply that nobody may keep it.
type uncachedReply struct {
	http.ResponseWriter
	begun bool
}

func (u *uncachedReply) forbidCaching() {
	if !u.begun {
		u.Header().Set("Cache-Control", "private, no-store")
	}
}

func (u *uncachedReply) WriteHeader(status int) {
	u.forbidCaching()
	u.begun = u.begun || status >= 200 // 1xx are not the reply yet
	u.ResponseWriter.WriteHeader(status)
}

func (u *uncachedReply) Write(p []byte) (int, error) {
	u.begin()
	return u.ResponseWriter.Write(p)
}

// ReadFrom lets the writer behind take a file or a connection as it is.
func (u *uncachedReply) ReadFrom(source io.Reader) (int64, error) {
	u.begin()
	return io.Copy(u.ResponseWriter, source)
}

// FlushError begins the reply before the writer behind would.
func (u *uncachedReply) FlushError() error {
	u.begin()
	return http.NewResponseController(u.ResponseWriter).Flush()
}

func (u *uncachedReply) begin() {
	if !u.begun {
		u.WriteHeader(http.StatusOK)
	}
}

// Unwrap returns the writer behind, for http.ResponseController.
func (u *uncachedReply) Unwrap() http.ResponseWriter { return u.ResponseWriter }

var (
	_ http.ResponseWriter = (*discardedReply)(nil)
	_ io.ReaderFrom       = (*uncachedReply)(nil)
)
