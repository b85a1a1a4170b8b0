package gate

import (
	"io"
	"net/http"

	"github.com/metricsgate/metricsgate/policy"
)

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

var _ io.ReaderFrom = (*uncachedReply)(nil)
