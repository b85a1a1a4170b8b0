package profileclient_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// lateMaxAge is the MaxAge of the client in front of a lateServer.
const lateMaxAge = 10 * time.Second

// lateServer is a profile server without a network that is as late as it can
// be: its answers take their time before and after it has looked, and its feed
// is held back, cut, and told again from where the client was. It knows what it
// held when, and so what may be made of it.
type lateServer struct {
	exact bool // it tells to the millisecond when a preference changed

	mu        sync.Mutex
	held      map[string][]heldSince // by uid, in the order of time
	delivered map[string]bool        // the last change was an opt-out, and the client has heard of it
	events    []string
	told      int // events that were written on the connection there is
	stream    *io.PipeWriter
	kick      chan struct{}
	stalled   bool
	cut       bool
	forgets   bool // the next connection begins with a reset
	fails     bool
	before    time.Duration // until the server has looked
	after     time.Duration // until what it saw has arrived
	wrong     error
}

type heldSince struct {
	since      time.Time
	version    time.Time // of the server's own clock
	preference string
}

// change has the server hold a preference from now on. The lock is held.
func (s *lateServer) change(uid, preference string) {
	now := time.Now()
	version := now.Truncate(time.Millisecond)
	if last := s.held[uid]; len(last) > 0 && !version.After(last[len(last)-1].version) {
		version = last[len(last)-1].version.Add(time.Millisecond)
	}
	s.held[uid] = append(s.held[uid], heldSince{now, version, preference})
	s.delivered[uid] = false
	s.events = append(s.events, fmt.Sprintf("event: change\nid: %d\ndata: {\"uid\":%q,\"metrics_optout\":%s,\"source\":\"user\",\"changed\":%q}\n\n",
		len(s.events)+1, uid, preference, version.UTC().Format("2006-01-02T15:04:05.000Z")))
	s.pump()
}

func (s *lateServer) pump() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *lateServer) last(uid string) heldSince { return s.held[uid][len(s.held[uid])-1] }

// use is told what became of the account now.
func (s *lateServer) use(how, uid string, got policy.Preference) {
	if got != policy.Allowed && got != policy.Unset {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last(uid)
	switch age := time.Since(last.since); {
	case last.preference != "true":
	case age > lateMaxAge:
		s.wrong = fmt.Errorf("%s %s is %v, %v after it opted out", how, uid, got, age)
	case s.delivered[uid]:
		s.wrong = fmt.Errorf("%s %s is %v after the client was told that it opted out", how, uid, got)
	}
}

// settle lets everything run as far as it can, and notes what the client has
// heard by then.
func (s *lateServer) settle() {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range s.held {
		if s.told == len(s.events) && s.stream != nil && s.last(uid).preference == "true" {
			s.delivered[uid] = true
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *lateServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/v1/changes" {
		return s.follow(r)
	}
	claims := jwt.MapClaims{}
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, _, err := jwt.NewParser().ParseUnverified(raw, claims); err != nil {
		return nil, err
	}
	uid, _ := claims["sub"].(string)
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if err := pauseFor(r.Context(), before); err != nil {
		return nil, err
	}
	reply := httptest.NewRecorder()
	s.mu.Lock()
	switch {
	case s.fails:
		reply.WriteHeader(http.StatusServiceUnavailable)
	case r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		preference := strings.TrimSuffix(strings.TrimPrefix(string(body), `{"metrics_optout":`), "}")
		s.change(uid, preference)
		fallthrough
	default:
		held := s.last(uid)
		reply.Header().Set("Content-Type", "application/json")
		reply.Header().Set("Metrics-Optout-Source", "user")
		reply.Header().Set("Last-Modified", held.version.UTC().Format(http.TimeFormat))
		if s.exact {
			reply.Header().Set("Metrics-Optout-Changed", held.version.UTC().Format("2006-01-02T15:04:05.000Z"))
		}
		_, _ = io.WriteString(reply, `{"metrics_optout":`+held.preference+`}`)
	}
	s.mu.Unlock()
	if err := pauseFor(r.Context(), after); err != nil {
		return nil, err
	}
	return reply.Result(), nil
}

func (s *lateServer) follow(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return nil, io.ErrUnexpectedEOF
	}
	cursor, err := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	greeting := ""
	if err != nil || s.forgets {
		cursor = len(s.events)
		greeting = fmt.Sprintf("event: reset\nid: %d\ndata: {}\n\n", cursor)
		s.forgets = false
	}
	body, stream := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = body.CloseWithError(r.Context().Err()) })
	s.stream, s.told, s.kick = stream, cursor, make(chan struct{}, 1)
	s.pump()
	go s.tell(r.Context(), stream, s.kick, greeting)
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"text/event-stream"}},
		Body:       body,
	}, nil
}

// tell writes on a connection what there is to tell, one event at a time.
func (s *lateServer) tell(ctx context.Context, stream *io.PipeWriter, kick chan struct{}, greeting string) {
	text := greeting + ":\n\n"
	for {
		if _, err := io.WriteString(stream, text); err != nil {
			return
		}
		for {
			s.mu.Lock()
			next := ""
			if s.stream == stream && !s.stalled && s.told < len(s.events) {
				next = s.events[s.told]
				s.told++
			}
			s.mu.Unlock()
			if next != "" {
				text = next
				break
			}
			select {
			case <-kick:
				continue
			case <-time.After(15 * time.Second):
				text = ":\n\n"
			case <-ctx.Done():
				return
			}
			break
		}
	}
}

// disconnect ends the connection there is. The lock is held.
func (s *lateServer) disconnect() {
	if s.stream != nil {
		_ = s.stream.Close()
		s.stream = nil
	}
}

// lateStep is one thing that happens.
type lateStep struct {
	what, uid string
	delay     time.Duration
}

func (s lateStep) String() string { return fmt.Sprintf("%s %s %v", s.what, s.uid, s.delay) }

// TestNothingAllowedOutlivesAnOptOut lets accounts change, lookups and writes
// take their time, and the feed be late, in any order. What the client says of
// an account never allows later than MaxAge after the server took the opt-out,
// nor after the client was told of it.
func TestNothingAllowedOutlivesAnOptOut(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{0, time.Millisecond, 100 * time.Millisecond, 290 * time.Millisecond, time.Second}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) lateStep {
		return lateStep{
			rapid.SampledFrom([]string{
				"opt-out", "opt-out", "allow", "unset", "choose true", "choose false", "choose null",
				"lookup", "lookup", "named", "named", "page", "pass", "pass", "pass",
				"before", "after", "stall", "go on", "cut", "come back", "forget", "fail", "work",
			}).Draw(t, "what"),
			rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "uid"),
			rapid.SampledFrom(delays).Draw(t, "delay"),
		}
	}), 1, 80)
	rapid.Check(t, func(rt *rapid.T) {
		exact, script := rapid.Bool().Draw(rt, "exact"), steps.Draw(rt, "steps")
		var wrong error
		// What fails in a bubble cannot be told to rapid from there.
		synctest.Test(t, func(t *testing.T) { wrong = runLate(t, exact, script) })
		if wrong != nil {
			rt.Fatal(wrong)
		}
	})
}

func runLate(t *testing.T, exact bool, script []lateStep) error {
	server := &lateServer{exact: exact, held: map[string][]heldSince{}, delivered: map[string]bool{}}
	for _, uid := range []string{"ann", "bob"} {
		server.held[uid] = []heldSince{{time.Now(), time.Now(), "null"}}
	}
	client, err := profileclient.New(profileclient.Config{
		URL:  "https://profile.test/v1",
		Auth: profileclient.Mint(minter(t, longSecret)), Follow: true, Transport: server,
		MaxAge: lateMaxAge, Concurrency: 2,
	})
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	pass(time.Second)
	server.settle()
	for _, step := range script {
		account := profileclient.Account{UID: step.uid}
		server.mu.Lock()
		switch step.what {
		case "opt-out":
			server.change(step.uid, "true")
		case "allow":
			server.change(step.uid, "false")
		case "unset":
			server.change(step.uid, "null")
		case "before":
			server.before = step.delay
		case "after":
			server.after = step.delay
		case "stall", "go on":
			server.stalled = step.what == "stall"
			server.pump()
		case "cut", "come back":
			server.cut = step.what == "cut"
			server.disconnect()
		case "forget":
			server.forgets = true
		case "fail", "work":
			server.fails = step.what == "fail"
		}
		server.mu.Unlock()
		switch what, choice, _ := strings.Cut(step.what, " "); what {
		case "choose":
			preference, _ := policy.ParsePreference(choice)
			asking.Go(func() { _ = client.Choose(context.Background(), account, preference, "") })
		case "lookup":
			asking.Go(func() {
				server.use("proven", step.uid, client.Lookup(context.Background(), account, time.Now()))
			})
		case "named":
			asking.Go(func() {
				server.use("named", step.uid, client.LookupNamed(context.Background(), step.uid, time.Now(), client.Timeout()))
			})
		case "page":
			server.use("page of", step.uid, client.Cached(account, time.Now()))
		case "pass":
			for range 20 {
				<-time.After(max(step.delay/4, 10*time.Millisecond))
				server.settle()
			}
		}
		server.settle()
	}
	asking.Wait()
	client.Close()
	server.mu.Lock()
	defer server.mu.Unlock()
	server.disconnect()
	return server.wrong
}
