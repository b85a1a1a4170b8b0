package tests

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// What the content server says to a beacon that it takes, and what else it
// tells, none of which may show whether a beacon got there.
const success = `{"success":true}`

// A received request is what reached the application, byte for byte.
type received struct {
	id     string // the X-Request-Id by which a test finds it
	method string
	uri    string // as it came
	header http.Header
	body   []byte
	err    error // of reading the body

	trailer http.Header
}

// A contentServer stands in for FxA's content server as it was observed: routes
// in any letter case and with one optional trailing slash, 200 to a beacon that
// it understands, 400 to one it does not, HTML for the rest. It keeps whatever
// reaches it.
type contentServer struct {
	*httptest.Server
	log  testcaddy.Ledger[received]
	hold atomic.Pointer[chan struct{}] // while set, no request is answered before it is closed
}

func newContentServer(t testing.TB) *contentServer {
	c := &contentServer{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *contentServer) addr() string { return c.Listener.Addr().String() }

// byID is the request of that id, if it got here.
func (c *contentServer) byID(id string) *received {
	for _, request := range c.log.All() {
		if request.id == id {
			return &request
		}
	}
	return nil
}

func (c *contentServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := received{id: r.Header.Get("X-Request-ID"), method: r.Method, uri: r.RequestURI, header: r.Header.Clone()}
	request.body, request.err = io.ReadAll(r.Body)
	request.trailer = r.Trailer.Clone()
	c.log.Add(request)
	if hold := c.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-r.Context().Done():
		}
	}

	header := w.Header()
	header.Set("Strict-Transport-Security", "max-age=15552000; includeSubDomains")
	header.Set("X-Content-Type-Options", "nosniff")
	path := strings.ToLower(strings.TrimSuffix(r.URL.Path, "/"))
	switch {
	case path == "/metrics" && r.Method == http.MethodPost, path == "/metrics-errors" && r.Method == http.MethodPost:
		var beacon map[string]any
		if err := json.Unmarshal(request.body, &beacon); err != nil || len(beacon) < 2 {
			header.Set("Content-Type", "application/json; charset=utf-8")
			header.Set("ETag", `W/"8e-bad"`)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"statusCode":400,"error":"Bad Request","validation":{"source":"body","keys":["broker"]}}`)
			return
		}
		header.Set("Content-Type", "application/json; charset=utf-8")
		header.Set("ETag", `W/"10-ok"`)
		header.Add("Set-Cookie", "seen=1; Path=/")
		_, _ = io.WriteString(w, success)
	case path == "/metrics-errors":
		header.Set("Content-Type", "application/json; charset=utf-8")
		header.Set("Cache-Control", "public, max-age=60")
		_, _ = io.WriteString(w, success)
	case path == "/metrics-flow":
		header.Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"flowBeginTime":1485182859530,"flowId":"f10w"}`)
	case path == "/experiments.bundle.js":
		header.Set("Content-Type", "application/javascript; charset=utf-8")
		_, _ = io.WriteString(w, "window.able={choose(){return true}}")
	case path == "/nimbus-experiments":
		header.Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"features":{"sendSms":{"enabled":true}},"nimbusUserId":"n1mbus"}`)
	case path == "", path == "/signin", path == "/settings":
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("ETag", `"page"`)
		_, _ = io.WriteString(w, page)
	case path == "/asset.js", path == "/api/data", path == "/flags", path == "/api/beacon", strings.HasPrefix(path, "/t/"):
		header.Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "from the application")
	default:
		header.Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<!DOCTYPE html><pre>Cannot "+r.Method+"</pre>")
	}
}

const page = "<!DOCTYPE html><html><head><title>Sign in</title></head><body data-flow-id=\"f10w\">Sign in</body></html>"
