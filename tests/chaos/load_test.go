package chaos

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

var protocols = []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}

// client speaks one protocol with one edge. Its connections can be closed while
// it is used.
type client struct {
	protocol string

	mu        sync.Mutex
	transport transport
}

type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

func newClient(protocol string) *client {
	c := &client{protocol: protocol}
	c.renew()
	return c
}

// renew begins with new connections. Those of HTTP/3 are closed: they would not
// notice that the other side is gone.
func (c *client) renew() {
	trust := &tls.Config{InsecureSkipVerify: true} // whoever answers on loopback
	var fresh transport
	switch c.protocol {
	case "HTTP/3.0":
		fresh = &http3.Transport{TLSClientConfig: trust, DisableCompression: true, QUICConfig: &quic.Config{HandshakeIdleTimeout: 10 * time.Second, MaxIdleTimeout: testcaddy.Patience, KeepAlivePeriod: 10 * time.Second}}
	case "HTTP/2.0":
		fresh = &http.Transport{TLSClientConfig: trust, DisableCompression: true, ForceAttemptHTTP2: true}
	default:
		trust.NextProtos = []string{"http/1.1"}
		fresh = &http.Transport{TLSClientConfig: trust, DisableCompression: true}
	}
	c.mu.Lock()
	old := c.transport
	c.transport = fresh
	c.mu.Unlock()
	if old != nil {
		end(old)
	}
}

func end(t transport) {
	if closer, ok := t.(io.Closer); ok {
		_ = closer.Close()
	}
	t.CloseIdleConnections()
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	end(c.transport)
}

// answer is what comes back.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	process int // of the edge that answered
}

// send sends a request to an edge, and waits for all of the answer.
func (c *client) send(method, url, body string, header http.Header) (*answer, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == "" {
		r.Body, r.GetBody, r.ContentLength = nil, nil, 0
	}
	r.Header = header
	c.mu.Lock()
	transport := c.transport
	c.mu.Unlock()
	http := http.Client{Transport: transport, Timeout: 2 * testcaddy.Patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := http.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	a := &answer{status: response.StatusCode, header: response.Header}
	a.process, _ = strconv.Atoi(response.Header.Get("X-Process"))
	if a.body, err = io.ReadAll(response.Body); err == nil && response.Proto != c.protocol {
		err = fmt.Errorf("the answer came by %s, not by %s", response.Proto, c.protocol)
	}
	return a, err
}

// sender is somebody who sends requests to one edge by one protocol.
type sender struct {
	edge   *edge
	client *client
	rng    *rand.Rand
}

// between is the time from one of a sender's requests to the next, at least.
const between = 8 * time.Millisecond

// load sends requests until the channel is closed.
func (c *chaos) load(s *sender, stop <-chan struct{}) {
	pace := time.NewTicker(between)
	defer pace.Stop()
	for {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		switch n := s.rng.IntN(100); {
		case n < 2:
			c.prove(s, pick(s.rng, c.accounts))
		case n < 3:
			c.signOut(s, pick(s.rng, c.accounts))
		default:
			c.dispatch(s, c.invent(s.rng))
		}
	}
}

// dispatch sends a request and looks at what comes back.
func (c *chaos) dispatch(s *sender, r *request) *answer {
	header := c.dress(s, r)
	began := time.Now()
	sent := s.edge.current.Load()
	port, since := s.edge.port, began.Add(-maxAge)
	if r.feed {
		port, since = s.edge.feed, *s.edge.whole.Load()
	}
	r.judged = judge(r, s.edge.sure.Load(), c.fleet.keys.count(), sent, since)
	r.mark, r.protocol, r.began = c.marks.Add(1), s.client.protocol, began
	c.requests.Store(r.mark, r)
	header.Set(markHeader, fmt.Sprint(r.mark))
	c.counts.request(s.client.protocol, r)
	a, err := s.client.send(r.route.method, "https://localhost:"+port+r.route.target, string(r.body), header)
	now := s.edge.current.Load()
	if err != nil {
		for _, p := range []*process{sent, now} {
			if p != nil {
				p.tally.unsure.Add(1)
			}
		}
		if !s.edge.excuses(began) {
			c.fail(s, r, began, "no answer: %v", err)
		}
		c.counts.add("unanswered", "requests")
		return nil
	}
	if p, found := c.processes.Load(a.process); found && r.route.counted() {
		p.(*process).tally.answered.Add(1)
	}
	if wrong := c.wrongWith(s, r, a, began); wrong != "" {
		c.fail(s, r, began, "answered %d %q %.2000q: %s", a.status, a.header, a.body, wrong)
	}
	return a
}

// dress makes the request's headers.
func (c *chaos) dress(s *sender, r *request) http.Header {
	header := http.Header{}
	var cookies []string
	key, before, _ := c.fleet.keys.signing()
	for i := range r.credentials {
		credential := &r.credentials[i]
		var raw string
		uid := credential.account.uid
		switch credential.kind {
		case proven:
			if own, found := c.ownSession(credential.account); found {
				cookies = append(cookies, own.cookie)
				credential.ahead = own.ahead
				continue
			}
			credential.kind = signed // nobody has proven it yet
			fallthrough
		case signed:
			raw = c.tokens.get(token{uid, key, false})
		case expired:
			raw = c.tokens.get(token{uid, key, true})
		case withdrawn:
			raw = c.tokens.get(token{uid, before, false})
		case junk:
			raw = fmt.Sprint("junk", s.rng.IntN(1000))
		}
		if credential.inHeader {
			header.Add("Authorization", "Bearer "+raw)
		} else {
			cookies = append(cookies, "session="+raw)
		}
	}
	if r.signal.cookie != "" {
		cookies = append(cookies, r.signal.cookie)
	}
	if name, value, found := strings.Cut(r.signal.header, ": "); found {
		header.Set(name, value)
	}
	if len(cookies) > 0 {
		header.Set("Cookie", strings.Join(cookies, "; "))
	}
	if r.route.kind == "page" {
		header.Set("Sec-Fetch-Dest", "document")
	}
	if r.body != nil {
		header.Set("Content-Type", "application/json")
		if r.name != nil && r.name.gzipped {
			header.Set("Content-Encoding", "gzip")
		}
	}
	return header
}

// session is an account's, of the key that signs now.
func (c *chaos) session(a *account) string {
	key, _, _ := c.fleet.keys.signing()
	return c.tokens.get(token{a.uid, key, false})
}

// prove is a page that proves its account, as the handshake's script does.
func (c *chaos) prove(s *sender, a *account) {
	began := time.Now()
	value, by := c.report(s, a, `"Bearer `+c.session(a)+`"`)
	if p, found := c.processes.Load(by); found && value != "" && value != "0" {
		c.owned.Store(a, ownSession{ownCookie + "=" + value, began, p.(*process).ahead})
		c.counts.add("request", "proof")
	}
}

// signOut is a page on which somebody is signed out whom the gate knows.
func (c *chaos) signOut(s *sender, a *account) {
	if _, known := c.ownSession(a); !known {
		return
	}
	value, by := c.report(s, a, "null")
	if by == 0 {
		return
	}
	if value != "0" {
		c.violation("%v by %s: %v has signed out, and its session becomes %q", s.edge, s.client.protocol, a, value)
	}
	c.counts.add("request", "sign-out")
}

// report says what a page found of who is signed in. It returns the own session that
// the browser is given, "" for none, and the process that answered, 0 for none.
func (c *chaos) report(s *sender, a *account, proof string) (own string, by int) {
	header := http.Header{"Sec-Fetch-Site": {"same-origin"}, "Content-Type": {"application/json"}}
	if held, found := c.ownSession(a); found {
		header.Set("Cookie", held.cookie)
	}
	began := time.Now()
	got, err := s.client.send("POST", "https://localhost:"+s.edge.port+"/.well-known/metrics-gate/signal", `{"answered":false,"proof":`+proof+`}`, header)
	if err != nil {
		if !s.edge.excuses(began) {
			c.violation("%v by %s: a report of %v has no answer: %v", s.edge, s.client.protocol, a, err)
		}
		return "", 0
	}
	if got.status != http.StatusNoContent && got.status != http.StatusOK {
		c.violation("%v by %s: a report of %v is answered %d %q", s.edge, s.client.protocol, a, got.status, got.body)
	}
	for _, line := range got.header["Set-Cookie"] {
		cookie, _, _ := strings.Cut(line, ";")
		if value, found := strings.CutPrefix(cookie, ownCookie+"="); found {
			own = value
		}
	}
	return own, got.process
}

const ownCookie = "__Host-metrics_gate"

// ownSession is a cookie by which a gate knows an account.
type ownSession struct {
	cookie string
	at     time.Time
	ahead  bool // the clock of who sealed it was
}

// ownSession is an account's, while it counts as verified.
func (c *chaos) ownSession(a *account) (held ownSession, found bool) {
	if value, known := c.owned.Load(a); known {
		held = value.(ownSession)
	}
	return held, time.Since(held.at) < 8*time.Minute
}

// scriptTag is what the handshake puts into a page.
var scriptTag = regexp.MustCompile(`<script [^>]*src="/\.well-known/metrics-gate/handshake\.js[^>]*></script>`)

// wrongWith says what is wrong with an answer.
func (c *chaos) wrongWith(s *sender, r *request, a *answer, began time.Time) string {
	if a.status == http.StatusBadGateway && s.edge.toApp.wasWrong(began.Add(-settling)) && (r.route.class != "metrics") {
		return "" // as without the gate
	}
	switch {
	case r.route.class == "metrics":
		if a.status != 200 || string(a.body) != r.route.answer || a.header.Get("Content-Type") != r.route.contentType {
			return "the route's answer is another"
		}
		return c.differs(r, a)
	case r.route.class == "experiment":
		collected := string(a.body) == collectedReply
		blocked := string(a.body) == r.route.answer && a.header.Get("Content-Type") == r.route.contentType
		if a.status != 200 || !collected && !blocked || collected && r.judged.verdict == never && r.judged.holds(c.fleet.keys, a.process) {
			return "neither the control group's answer nor, where it may be, the application's"
		}
		return ""
	case r.route.kind == "page":
		plain := scriptTag.ReplaceAll(a.body, nil)
		if a.status != 200 || string(plain) != document || len(plain) == len(a.body) {
			return "the page is another"
		}
		return ""
	default:
		return c.differs(r, a)
	}
}

// differs compares an answer with that of the same site without a gate or, of
// what is gated, with the first that was given: whoever asks, it is the same.
func (c *chaos) differs(r *request, a *answer) string {
	got := a.print()
	want, known := c.golden.LoadOrStore(r.route, got)
	if known && want != got {
		return "it was " + want.(string) + " before"
	}
	return ""
}

// print is all of an answer that must not depend on anything.
func (a *answer) print() string {
	var lines []string
	for name, values := range a.header {
		switch name {
		case "Date", "Alt-Svc", "Connection", "X-Process", "X-Comment":
		case "Set-Cookie":
			// What the gate remembers of an account is in a cookie of its own.
			for _, value := range values {
				if !strings.HasPrefix(value, "metrics_optout=") {
					lines = append(lines, name+": "+value)
				}
			}
		default:
			lines = append(lines, name+": "+strings.Join(values, ", "))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d\n%s\n\n%s", a.status, strings.Join(lines, "\n"), bytes.Clone(a.body))
}

// compareWithBare has answers to what is not gated be held against those of the
// same site without a gate.
func (c *chaos) compareWithBare() {
	for i := range routes {
		r := &request{route: &routes[i], signal: &signals[0]}
		if r.route.kind != "asset" && r.route.kind != "essential" {
			continue
		}
		if r.route.method == http.MethodPost {
			r.body = []byte(plainBody)
		}
		p := c.probes[0]
		a, err := p.client.send(r.route.method, "https://localhost:"+p.edge.bare+r.route.target, string(r.body), c.dress(p, r))
		if err != nil {
			c.t.Fatal(err)
		}
		c.golden.Store(r.route, a.print())
	}
}
