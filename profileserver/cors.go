package profileserver

import (
	"net/http"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

// requestedMethod is the header in which a browser names the method that a
// page wants to use, before it does (Fetch Standard, "CORS protocol").
const requestedMethod = "Access-Control-Request-Method"

// allowOrigin lets the page that asks see the answer, whatever it is, if its
// origin is one of those that may. Never with credentials: who asks proves it
// with a token, and cookies mean nothing here.
func (s *Server) allowOrigin(h http.Header, r *http.Request) (allowed bool) {
	if len(s.origins) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !s.origins["*"] && !s.origins[origin] {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "ETag, Last-Modified, "+optoutapi.SourceHeader+", "+optoutapi.ChangedHeader+", WWW-Authenticate")
	return true
}

// preflight answers a browser that asks what a page may do here: whatever it
// wants that there is. The status and the headers are those of hapi, which the
// existing server is built on.
func preflight(w http.ResponseWriter, r *http.Request) *failure {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", r.Header.Get(requestedMethod))
	h.Set("Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID")
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusOK)
	return nil
}
