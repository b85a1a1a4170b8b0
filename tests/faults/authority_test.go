package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// fault is what is wrong with the authority.
type fault int32

const (
	well     fault = iota
	refused        // no connection comes about
	hanging        // no answer comes
	stalled        // the answer stops in its middle, and so does the feed
	reset          // the connection is reset in the middle of the answer
	garbage        // what comes is not HTTP, or not JSON
	failing        // 5xx
	flapping       // one after the other, and now and then it is well
	faults
)

func (f fault) String() string {
	return [...]string{"well", "refused", "hanging", "stalled", "reset", "garbage", "5xx", "flapping"}[f]
}

// The states of accounts. The first character of an account id is its state, so
// that nobody has to keep a list.
const (
	optedOut = 'f' // opted out
	allows   = 'a'
	unset    = '0'
	broken   = 'b' // about which the profile server always fails
	turning  = 'c' // allows, and opts out as the test goes on
)

var states = map[byte]string{0: "nobody", optedOut: "opted out", allows: "allows", unset: "null", broken: "broken", turning: "turning"}

// account is an account id. Those of a generation are cold until it begins.
func account(state byte, generation, n int) string {
	return fmt.Sprintf("%c%015x%016x", state, generation, n)
}

// authority stands in for the profile server, its feed, and whoever knows about
// opaque tokens. Whatever a fault answers would allow, if it were believed.
type authority struct {
	t     testing.TB
	addr  string
	fault atomic.Int32
	turns atomic.Int32

	mu      sync.Mutex
	server  *http.Server
	events  []string
	changed chan struct{}   // is closed with every new fault or event
	turned  map[string]bool // accounts that have opted out by now
	writes  atomic.Int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, addr: testcaddy.FreeAddr(t), changed: make(chan struct{}), turned: map[string]bool{}}
	a.listen()
	t.Cleanup(func() { _ = a.server.Close() })
	return a
}

func (a *authority) listen() {
	listener := testcaddy.ListenAgain(a.t, a.addr)
	server := &http.Server{Handler: a, ReadHeaderTimeout: testcaddy.Patience}
	a.server = server
	go func() { _ = server.Serve(listener) }()
}

// set begins a fault.
func (a *authority) set(f fault) {
	before := fault(a.fault.Swap(int32(f)))
	switch {
	case f == refused:
		_ = a.server.Close()
	case before == refused:
		a.listen()
	}
	a.tell()
}

// tell wakes whoever follows the feed up.
func (a *authority) tell(events ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, events...)
	close(a.changed)
	a.changed = make(chan struct{})
}

// turn has accounts opt out. The feed tells of each that it allowed, and then
// that it opted out: whoever hears of the first too late must not believe it.
func (a *authority) turn(uids []string) {
	a.mu.Lock()
	for _, uid := range uids {
		a.turned[uid] = true
	}
	a.mu.Unlock()
	now := time.Now()
	var events []string
	for n, choice := range []string{"false", "true"} {
		at := now.Add(time.Duration(n-1) * time.Second).UTC().Format("2006-01-02T15:04:05.000Z")
		for _, uid := range uids {
			events = append(events, fmt.Sprintf("event: change\ndata: {\"uid\":%q,\"metrics_optout\":%s,\"changed\":%q}\n\n", uid, choice, at))
		}
	}
	a.tell(events...)
}

// next is what is wrong with the next answer.
func (a *authority) next() fault {
	f := fault(a.fault.Load())
	if f == flapping {
		f = fault(a.turns.Add(1)) % flapping
		if f == refused {
			f = reset
		}
	}
	return f
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/v1/changes" {
		a.feed(w, r)
		return
	}
	answer := `{"metrics_optout":false}`
	if r.URL.Path == "/v1/verify" {
		answer = `{"user":"` + account(allows, 0, 0) + `","client_id":"web","scope":["profile"]}`
	}
	switch a.next() {
	case well:
		a.answer(w, r, body)
	case hanging:
		<-r.Context().Done()
	case stalled:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
		_, _ = io.WriteString(w, answer[:len(answer)-1])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case reset:
		cut(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"+answer)
	case garbage:
		if a.turns.Add(1)%2 == 0 {
			cut(w, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 "+answer)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer[1:]+"\x00<html>")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, answer)
	}
}

// cut says something and resets the connection.
func cut(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// preference is what an account prefers now, in JSON.
func (a *authority) preference(uid string) (choice string, known bool) {
	switch uid[0] {
	case optedOut:
		return "true", true
	case allows:
		return "false", true
	case unset:
		return "null", true
	case turning:
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Sprint(a.turned[uid]), true
	}
	return "", false
}

// answer is a right answer.
func (a *authority) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/v1/verify" {
		var asked struct {
			Token string `json:"token"`
		}
		_ = json.Unmarshal(body, &asked)
		uid, good := strings.CutPrefix(asked.Token, opaquePrefix)
		if !good {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":400,"errno":108}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"user":%q,"client_id":"web","scope":["profile"]}`, uid)
		return
	}
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(raw, claims); err != nil {
		a.t.Errorf("the profile server is asked with %q", raw)
	}
	uid, _ := claims["sub"].(string)
	if r.Method == http.MethodPost {
		a.writes.Add(1)
		if uid[0] != unset || string(body) != `{"metrics_optout":true}` || r.Header.Get("If-Match") == "" {
			a.t.Errorf("%q is written into the profile of an account of kind %c", body, uid[0])
		}
		_, _ = io.WriteString(w, "{}")
		return
	}
	choice, known := a.preference(uid)
	if !known {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", `"`+choice+`"`)
	_, _ = io.WriteString(w, `{"metrics_optout":`+choice+`}`)
}

// feed tells what has changed. Where it stalls it breaks off between an
// account's allowing and its opting out; where it hangs it is silent.
func (a *authority) feed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	switch a.next() {
	case well, stalled:
	case hanging:
		<-r.Context().Done()
		return
	case reset:
		cut(w, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\nid: 1\nevent: change\n")
		return
	case garbage:
		_, _ = io.WriteString(w, "id: x\nevent: change\ndata: {\"uid\":7}\n\nevent: change\ndata: \xff\n\n\x00")
		return
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	told := -1
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		_, _ = fmt.Sscan(last, &told)
	}
	for {
		a.mu.Lock()
		events, changed := a.events, a.changed
		a.mu.Unlock()
		now := fault(a.fault.Load())
		if told < 0 { // who comes for the first time hears where the feed is
			told = len(events)
			_, _ = fmt.Fprintf(w, "id: %d\n\n", told)
		}
		for ; told < len(events); told++ {
			if now == hanging || now == stalled && strings.Contains(events[told], ":true,") {
				break
			}
			_, _ = fmt.Fprintf(w, "id: %d\n%s", told+1, events[told])
		}
		if http.NewResponseController(w).Flush() != nil || now != well && now != hanging && now != stalled {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
