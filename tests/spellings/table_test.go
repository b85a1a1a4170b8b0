package spellings_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/tests/spellings"
)

// newGate has the routes of the servers.
func newGate(t testing.TB) *gate.Gate {
	t.Helper()
	var config gate.Config
	for _, route := range spellings.Routes {
		config.Routes = append(config.Routes, gate.Route{Methods: []string{route.Method}, Path: route.Path, Class: route.Class})
	}
	g, err := gate.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// passes says whether a request of a browser that opted out reaches the
// application. What net/http cannot read does not.
func passes(g *gate.Gate, request spellings.Request) (passed bool) {
	text := fmt.Sprintf("%s HTTP/1.1\r\nHost: host\r\nContent-Length: 0\r\nMetrics-Optout: 1\r\n\r\n", request)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		return false
	}
	application := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })
	g.Handler(application).ServeHTTP(httptest.NewRecorder(), r)
	return passed
}

// What any real server takes for a gated route does not reach it.
func TestWhatServersTakeIsGated(t *testing.T) {
	t.Parallel()
	g, gated := newGate(t), map[byte]int{}
	for _, row := range spellings.Table() {
		for path, letters := range row.Took {
			if !spellings.IsGated(path) {
				continue
			}
			if passes(g, row.Request) {
				t.Errorf("%s passes, and is %s for %s", row.Request, path, letters)
			}
			for i := range len(letters) {
				gated[letters[i]]++
			}
		}
	}
	for _, server := range spellings.Servers {
		if gated[server.Letter] < 500 {
			t.Errorf("%s took %d requests for a gated route; the table is not complete, run make spellings", server.Name, gated[server.Letter])
		}
	}
}

// What is essential passes as it is written.
func TestEssentialPasses(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, request := range []spellings.Request{
		{Method: "POST", Target: "/t/keep"}, {Method: "POST", Target: "/t/keep?x=1"}, {Method: "POST", Target: "http://host/t/keep"},
		{Method: "post", Target: "/t/keep"}, {Method: "POST", Target: "/keep"}, {Method: "POST", Target: "/x/../keep"},
	} {
		if !passes(g, request) {
			t.Errorf("%s does not pass", request)
		}
	}
}
