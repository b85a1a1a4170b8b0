package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
)

// Answer is what a blocked request gets instead of the application.
type Answer struct {
	// Status is the HTTP status, 200 to 499. Default: 204. A beacon that gets
	// a 5xx may be sent again, so those are refused.
	Status int `json:"status,omitempty"`

	// ContentType is the Content-Type of the answer. Default: none.
	ContentType string `json:"content_type,omitempty"`

	// Body is the answer's body, sent as it is. Default: empty.
	Body string `json:"body,omitempty"`
}

func (a *Answer) validate() error {
	if a == nil || a.Status == 0 {
		if a != nil && (a.Body != "" || a.ContentType != "") {
			return errors.New("a body needs a status; write one, such as 200")
		}
		return nil
	}
	if a.Status < 200 || a.Status > 499 {
		return fmt.Errorf("status %d is not one of 200 to 499", a.Status)
	}
	if a.Body != "" && (a.Status == http.StatusNoContent || a.Status == http.StatusNotModified) {
		return fmt.Errorf("a %d has no body; write 200 or leave the body out", a.Status)
	}
	return nil
}

// answer is an Answer made ready to be written.
type answer struct {
	status      int
	contentType string
	body        []byte
	length      string
}

func (a *Answer) prepare() *answer {
	if a == nil || a.Status == 0 {
		return &answer{status: http.StatusNoContent}
	}
	prepared := &answer{status: a.Status, contentType: a.ContentType, body: []byte(a.Body)}
	if a.Status != http.StatusNoContent && a.Status != http.StatusNotModified {
		prepared.length = strconv.Itoa(len(a.Body))
	}
	return prepared
}

// rejected is what block_with reject answers (RFC 9457). It says the same
// whatever the reason and whoever the subject.
var rejected = (&Answer{
	Status:      http.StatusForbidden,
	ContentType: "application/problem+json",
	Body: `{"type":"about:blank","title":"Forbidden","status":403,` +
		`"detail":"Metrics are not collected here from people who opted out."}` + "\n",
}).prepare()

// write sends the answer. No decision shows in a byte of it, and it must not
// be kept: the next person behind the same cache may not have opted out.
func (a *answer) write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	if comesSlowly(r) {
		header["Connection"] = []string{"close"}
	}
	header["Cache-Control"] = []string{"private, no-store"}
	if a.contentType != "" {
		header["Content-Type"] = []string{a.contentType}
	} else {
		header["Content-Type"] = nil // net/http would sniff one
	}
	if a.length != "" {
		header["Content-Length"] = []string{a.length}
	}
	w.WriteHeader(a.status)
	if r.Method == http.MethodHead || len(a.body) == 0 {
		return
	}
	// A client that has gone leaves nobody to tell. An error would make Caddy
	// log the request, address included, and a blocked request is not kept.
	_, _ = w.Write(a.body) //nolint:gosec // the body comes from the configuration
}

// answer answers a gated request in the application's place. Pages of other
// origins may read it where a collected request gets the same answer, and so
// nothing tells anybody that somebody opted out: an error of CORS that only
// they get would. Where replies are shown, only the operator's own origins may.
func (g *Gate) answer(w http.ResponseWriter, r *http.Request, route *gatedRoute, a *answer) {
	if origin := r.Header["Origin"]; len(origin) > 0 && !g.isOwnOrigin(r) {
		shown := route.experiment || route.reply == ReplyShow
		if !shown || slices.Contains(g.origins, origin[0]) {
			header := w.Header()
			header["Access-Control-Allow-Origin"] = []string{origin[0]}
			header["Access-Control-Allow-Credentials"] = []string{"true"}
			header.Add("Vary", "Origin")
		}
	}
	a.write(w, r)
}

// maxDrained is how much of a body that nobody needs is read all the same. A
// client that is answered while it still sends may take the end of the
// connection for a reset and never read the answer.
const maxDrained = 4 << 20

// drain reads a body that nobody needs, unless it is larger than that. Of a
// client that asks first whether to send it, it is read only where a collected
// request would be: net/http then tells it to go on, which must not tell whether
// an account that it names opted out.
func drain(r *http.Request, expected bool) {
	if hasBody(r) && r.ContentLength <= maxDrained && (expected || r.Header["Expect"] == nil) {
		_, _ = io.CopyN(io.Discard, r.Body, maxDrained) // how it ends does not matter
	}
}

// hasBody says whether a request may have a body. What follows a CONNECT is what
// goes through its tunnel, and is there only once it was answered.
func hasBody(r *http.Request) bool {
	return r.ContentLength != 0 && r.Method != http.MethodConnect && r.Body != nil
}

// comesSlowly says whether the request's body may be large, endless or not
// even sent before the client is told to. To keep such a connection, net/http
// would have to read on after the answer. It depends on the request alone,
// never on the decision.
func comesSlowly(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ContentLength < 0 || r.ContentLength > maxDrained || r.Header["Expect"] != nil)
}
