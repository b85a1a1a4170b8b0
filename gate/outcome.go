package gate

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/metricsgate/metricsgate/policy"
)

// block answers a request in the application's place.
func (g *Gate) block(w http.ResponseWriter, r *http.Request, route *gatedRoute, v *verdict) {
	g.host.Conceal(r, g.configs[route.index].Path)
	drain(r, v.lookedUpNamed)
	// What a name caused looks like a success, and so does what another site's
	// page sends: it must not learn that its visitor opted out here.
	if g.reject && !route.experiment && !v.decision.ByName && !g.fromElsewhere(r) {
		g.answer(w, r, route, rejected)
		return
	}
	g.answer(w, r, route, route.answer)
}

// outcomes holds the values of outcome headers that are in use, so that one
// costs no allocation. A slice that is shared by all requests would not do,
// since handlers that rewrite headers write into it.
var outcomes = sync.Pool{New: func() any { return new([1]string) }}

// announce sets the outcome header for the application. A client that calls
// the header one of its connection's own would have every proxy take it out
// (RFC 9110, section 7.6.1), so such a Connection header is not believed.
func announce(r *http.Request, decision policy.Decision) *[1]string {
	if slices.ContainsFunc(r.Header["Connection"], namesOutcomeHeader) {
		delete(r.Header, "Connection")
	}
	outcome := outcomes.Get().(*[1]string)
	outcome[0] = told(r, decision)
	r.Header[OutcomeHeader] = outcome[:]
	return outcome
}

// told is what the application is told of a request, of which another gate may
// have said something before.
func told(r *http.Request, decision policy.Decision) string {
	if earlier := r.Header[OutcomeHeader]; len(earlier) > 0 && earlier[0] == policy.Block.String() {
		return earlier[0]
	}
	return decision.Action.String()
}

func namesOutcomeHeader(connection string) bool {
	return strings.Contains(strings.ToLower(connection), strings.ToLower(OutcomeHeader))
}

// withdraw takes the header back before its memory is used again: no handler
// may go on to read the request's header when it has returned. Caddy's reverse
// proxy has sent a copy.
func withdraw(r *http.Request, outcome *[1]string) {
	delete(r.Header, OutcomeHeader)
	outcomes.Put(outcome)
}

// removeOwnTrailers keeps a client's own copies of the gate's headers out of the
// trailers, which net/http fills in when the body has been read, announced or
// not, and proxies send on.
func removeOwnTrailers(r *http.Request) {
	maps.DeleteFunc(r.Trailer, isOwnHeader)
	if r.Body != nil {
		r.Body = &trailerFilter{r.Body, r.Trailer}
	}
}

type trailerFilter struct {
	io.ReadCloser
	trailer http.Header
}

func (f *trailerFilter) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil {
		maps.DeleteFunc(f.trailer, isOwnHeader)
	}
	return n, err
}

// isOwnHeader says whether a name is that of a header of the gate's own, also in
// spellings that applications take for it: in the manner of CGI all of them are
// one variable.
func isOwnHeader(name string, _ []string) bool {
	plain := strings.NewReplacer("_", "-", ".", "-").Replace(name)
	return strings.EqualFold(plain, OutcomeHeader) || strings.EqualFold(plain, TraceHeader)
}

// pass hands a request on to the application, with the outcome unless in shadow
// mode.
func (g *Gate) pass(w http.ResponseWriter, r *http.Request, decision policy.Decision, next Next) error {
	if g.shadow {
		return next.ServeHTTP(w, r)
	}
	outcome := announce(r, decision)
	err := next.ServeHTTP(w, r)
	inAll := told(r, decision) // by a gate behind this one as well
	withdraw(r, outcome)
	if err != nil { // what an error page asks in its place should know as well
		r.Header[OutcomeHeader] = []string{inAll}
	}
	return err
}
