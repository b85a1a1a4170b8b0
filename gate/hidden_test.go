package gate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// TestWhoseReplyIsHidden: by what a route says, by whether a name can decide,
// and by whose page sends the request.
func TestWhoseReplyIsHidden(t *testing.T) {
	t.Parallel()
	routes := []Route{
		{Methods: []string{"POST", "GET"}, Path: "/beacon"},
		{Methods: []string{"POST"}, Path: "/shown", Reply: ReplyShow},
		{Methods: []string{"POST"}, Path: "/hidden", Reply: ReplyHide},
		{Methods: []string{"GET"}, Path: "/flags", Class: ClassExperiment, Answer: &Answer{Status: 200}},
	}
	gate := func(change func(*Config)) *Gate {
		config := fxaConfig(t)
		config.Presets, config.Routes = nil, routes
		change(&config)
		return newGate(t, config)
	}
	usual := gate(func(*Config) {})
	named := gate(func(c *Config) { c.Names = namesUID })
	shown := gate(func(c *Config) { c.Names, c.Reply = namesUID, ReplyShow })
	hidden := gate(func(c *Config) { c.Reply = ReplyHide })
	for _, c := range []struct {
		name    string
		gate    *Gate
		request string
		headers []string
		hidden  bool
	}{
		{"no word about the sender", usual, "POST /beacon", nil, false},
		{"this site's page", usual, "POST /beacon", []string{sameOrigin, "Origin: http://example.com"}, false},
		{"typed", usual, "GET /beacon", []string{"Sec-Fetch-Site: none"}, false},
		{"another site's page", usual, "POST /beacon", []string{"Sec-Fetch-Site: cross-site"}, true},
		{"a sibling's page", usual, "POST /beacon", []string{"Sec-Fetch-Site: same-site"}, true},
		{"a window that another site opens", usual, "GET /beacon", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: document"}, true},
		{"this origin", usual, "POST /beacon", []string{"Origin: http://example.com"}, false},
		{"another origin", usual, "POST /beacon", []string{"Origin: https://example.com"}, true},
		{"a hidden origin", usual, "POST /beacon", []string{"Origin: null"}, true},
		{"a referrer of this site", usual, "POST /beacon", []string{"Referer: https://example.com/settings"}, false},
		{"a referrer of another", usual, "POST /beacon", []string{"Referer: https://example.org/"}, true},
		{"a referrer that is no address", usual, "POST /beacon", []string{"Referer: %"}, true},
		{"an expired session", usual, "POST /beacon", []string{"Cookie: " + expiredSessionOf(t, unsetUID)}, true},
		{"an expired session of who is proven", usual, "POST /beacon", []string{"Cookie: " + sessionOf(t, unsetUID) + "; " + expiredSessionOf(t, unsetUID)}, false},
		{"reply show", usual, "POST /shown", []string{"Sec-Fetch-Site: cross-site"}, false},
		{"reply hide", usual, "POST /hidden", []string{sameOrigin}, true},
		{"an experiment", usual, "GET /flags", []string{"Sec-Fetch-Site: cross-site"}, false},
		{"names count", named, "POST /beacon", []string{sameOrigin}, true},
		{"names count, and reply show", named, "POST /shown", []string{sameOrigin}, false},
		{"names do not count for experiments", named, "GET /flags", []string{sameOrigin}, false},
		{"the gate shows", shown, "POST /beacon", []string{"Sec-Fetch-Site: cross-site"}, false},
		{"the gate shows, the route hides", shown, "POST /hidden", []string{sameOrigin}, true},
		{"the gate hides", hidden, "POST /beacon", []string{sameOrigin}, true},
		{"the gate hides, the route shows", hidden, "POST /shown", []string{sameOrigin}, false},
		{"the gate hides no experiment", hidden, "GET /flags", nil, false},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		r, w := request(method, path, "", headerOf(c.headers))
		app := new(upstream)
		if err := serve(t, c.gate, w, r, app); err != nil || app.requests.Load() != 1 {
			t.Errorf("%s: %d requests reached the application, error %v", c.name, app.requests.Load(), err)
		}
		if got := w.Header().Get("X-Upstream") == ""; got != c.hidden {
			t.Errorf("%s: hidden: %t", c.name, got)
		}
	}
}

// TestAnswersCanBeReadByEveryPage where collected and blocked ones are the
// same, and elsewhere by the operator's own origins.
func TestAnswersCanBeReadByEveryPage(t *testing.T) {
	t.Parallel()
	config := fxaConfig(t)
	config.Presets, config.CORS = nil, []string{"https://www.example.org:443"}
	config.Routes = []Route{
		{Methods: []string{"POST"}, Path: "/beacon"},
		{Methods: []string{"POST"}, Path: "/shown", Reply: ReplyShow},
		{Methods: []string{"GET"}, Path: "/flags", Class: ClassExperiment, Answer: &Answer{Status: 200}},
	}
	g := newGate(t, config)
	for _, c := range []struct{ request, origin, want string }{
		{"POST /beacon", "", ""},
		{"POST /beacon", "http://example.com", ""},
		{"POST /beacon", "https://evil.example", "https://evil.example"},
		{"POST /beacon", "null", "null"},
		{"POST /shown", "https://evil.example", ""},
		{"POST /shown", "https://www.example.org", "https://www.example.org"},
		{"GET /flags", "https://evil.example", ""},
		{"GET /flags", "https://www.example.org", "https://www.example.org"},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		answers := map[string]http.Header{}
		for _, optOut := range []string{"1", "0"} {
			header := map[string]string{"Metrics-Optout": optOut}
			if c.origin != "" {
				header["Origin"] = c.origin
			}
			r, w := request(method, path, "", header)
			if err := serve(t, g, w, r, new(upstream)); err != nil {
				t.Fatal(err)
			}
			answers[optOut] = w.Header()
		}
		blocked := answers["1"]
		if got := blocked.Get("Access-Control-Allow-Origin"); got != c.want {
			t.Errorf("%s from %q: a blocked one may be read by %q, want %q", c.request, c.origin, got, c.want)
		}
		if c.want != "" && (blocked.Get("Access-Control-Allow-Credentials") != "true" || !slices.Contains(blocked.Values("Vary"), "Origin")) {
			t.Errorf("%s from %q: %v", c.request, c.origin, blocked)
		}
		if c.request == "POST /beacon" && c.want != "" && fmt.Sprint(blocked) != fmt.Sprint(answers["0"]) {
			t.Errorf("%s from %q: blocked %v, collected %v", c.request, c.origin, blocked, answers["0"])
		}
	}
}

// TestTheAnswerGoesFirst has an application hold its reply until its client has
// the answer and, on the same connection, the next one: so nothing of how long
// it takes can be told from either.
func TestTheAnswerGoesFirst(t *testing.T) {
	t.Parallel()
	g := fxaGate(t)
	answered, got := make(chan struct{}), make(chan string, 2)
	server := httptest.NewServer(g.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-answered
		body, _ := io.ReadAll(r.Body)
		got <- r.Header.Get(OutcomeHeader) + " " + string(body)
	})))
	t.Cleanup(server.Close)
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	reader := bufio.NewReader(connection)
	body := `{"uid":"` + allowedUID + `"}`
	for range 2 {
		if _, err := fmt.Fprintf(connection, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || string(answer) != `{"success":true}` {
			t.Errorf("%q, %v", answer, err)
		}
	}
	close(answered)
	for range 2 {
		if arrived := <-got; arrived != "collect "+body {
			t.Errorf("the application got %q", arrived)
		}
	}
}

// TestHandedOnIsBounded fills the application with requests that it never
// answers, in count and in bytes: what comes beyond is answered and dropped,
// and all end when their time is over.
func TestHandedOnIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ size, fit int }{
		"many": {0, handedOnRequests},
		"big":  {maxHandedOn, handedOnBytes / maxHandedOn},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				counted, underway := map[string]int{}, 0
				g := newGate(t, Config{
					Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon", Reply: ReplyHide}},
					Observer: Observer{
						Hidden:   func(class string) { mu.Lock(); counted[class]++; mu.Unlock() },
						Detached: func(change int) { mu.Lock(); underway += change; mu.Unlock() },
					},
				})
				hanging := NextFunc(func(_ http.ResponseWriter, r *http.Request) error {
					<-r.Context().Done()
					return r.Context().Err()
				})
				const more = 10
				body := strings.Repeat("x", c.size)
				for range c.fit + more {
					r, w := request("POST", "/beacon", body, nil)
					if err := g.ServeHTTP(w, r, hanging); err != nil || w.Code != http.StatusNoContent {
						t.Fatal(w.Code, err)
					}
				}
				if underway != c.fit || counted["dropped"] != more {
					t.Errorf("%d on their way, want %d; counted %v", underway, c.fit, counted)
				}
				early, cancel := context.WithTimeout(t.Context(), HandedOnTime-time.Second)
				defer cancel()
				if g.Wait(early) == nil {
					t.Error("all have ended before their time was over")
				}
				if err := g.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if underway != 0 || counted["5xx"] != c.fit {
					t.Errorf("%d are still on their way; counted %v", underway, counted)
				}
				r, w := request("POST", "/beacon", body, nil)
				if err := serve(t, g, w, r, new(upstream)); err != nil || counted["2xx"] != 1 {
					t.Errorf("there is no room again: %v, %v", counted, err)
				}
			})
		})
	}
}

// TestPanicsEndNothing: a handler that panics on a request of which the client
// knows nothing must not take the process with it.
func TestPanicsEndNothing(t *testing.T) {
	t.Parallel()
	var class string
	config := fxaConfig(t)
	config.Routes = []Route{{Methods: []string{"POST"}, Path: "/hidden"}}
	config.Observer.Hidden = func(c string) { class = c }
	g := newGate(t, config)
	for _, size := range []int{0, maxHandedOn + 1} { // handed on after its answer, and before
		r, w := request("POST", "/hidden", strings.Repeat("x", size), map[string]string{"Sec-Fetch-Site": "cross-site"})
		err := serve(t, g, w, r, NextFunc(func(http.ResponseWriter, *http.Request) error { panic("an application's fault") }))
		if err != nil || class != replyAborted || w.Code != http.StatusNoContent {
			t.Errorf("%d bytes: %v, counted as %q, answered %d", size, err, class, w.Code)
		}
	}
}

// TestBigBodiesGoOnWhole: what is not handed on after its answer is handed on
// before, byte for byte.
func TestBigBodiesGoOnWhole(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon", Reply: ReplyHide}}})
	for _, size := range []int{0, 1, maxHandedOn, maxHandedOn + 1, 3 * maxHandedOn} {
		for _, announced := range []bool{true, false} {
			body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			r, w := request("POST", "/beacon", body, nil)
			if !announced {
				r.ContentLength = -1
			}
			app := new(upstream)
			if err := serve(t, g, w, r, app); err != nil || app.body != body || w.Code != http.StatusNoContent {
				t.Errorf("%d bytes, announced %t: %d arrived, answered %d, error %v", size, announced, len(app.body), w.Code, err)
			}
		}
	}
}

// TestTunnelsAreNotWaitedFor: what follows a CONNECT comes when it was answered,
// so nothing reads it before. Where it is collected and shown, the application
// gets it.
func TestTunnelsAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		route  Route
		header map[string]string
		passed string
	}{
		"blocked":            {Route{}, map[string]string{"Metrics-Optout": "1"}, ""},
		"hidden":             {Route{Reply: ReplyHide}, nil, ""},
		"names, and blocked": {Route{Names: namesUID}, map[string]string{"Metrics-Optout": "1"}, ""},
		"names, and hidden":  {Route{Names: namesUID}, nil, ""},
		"shown":              {Route{}, nil, "what goes through it"},
	} {
		test.route.Methods, test.route.Path = []string{"GET"}, "/socket"
		config := Config{Routes: []Route{test.route}, Profile: fxaConfig(t).Profile}
		r, w := request("CONNECT", "/socket", "", test.header)
		r.ProtoMajor, r.ContentLength = 3, -1
		answered := false
		r.Body = io.NopCloser(io.MultiReader(readerFunc(func([]byte) (int, error) {
			if !answered {
				t.Errorf("%s: it is read", name)
			}
			return 0, io.EOF
		}), strings.NewReader("what goes through it")))
		app := new(upstream)
		err := serve(t, newGate(t, config), w, r, NextFunc(func(w http.ResponseWriter, r *http.Request) error {
			answered = true
			return app.ServeHTTP(w, r)
		}))
		if err != nil || app.body != test.passed {
			t.Errorf("%s: %q went through, want %q; %v", name, app.body, test.passed, err)
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestBlockedBodiesAreRead, so that the client hears the answer.
func TestBlockedBodiesAreRead(t *testing.T) {
	t.Parallel()
	g := newGate(t, Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon"}}})
	for _, size := range []int{1, maxDrained, maxDrained + 100} {
		r, w := request("POST", "/beacon", strings.Repeat("x", size), map[string]string{"Metrics-Optout": "1"})
		r.ContentLength = -1
		var decided policy.Action
		g.observer.Decided = func(_ *http.Request, _ int, d policy.Decision, _ bool) { decided = d.Action }
		if err := serve(t, g, w, r, new(upstream)); err != nil || decided != policy.Block {
			t.Fatal(decided, err)
		}
		left, err := io.Copy(io.Discard, r.Body)
		if want := int64(max(0, size-maxDrained)); err != nil || left != want {
			t.Errorf("%d bytes: %d are left, want %d; %v", size, left, want, err)
		}
	}
}
