package profileserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tmaxmax/go-sse"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// feedStore is a store of which only the feed is there.
type feedStore struct {
	prefstore.Store
	feed *prefstore.Feed
}

func (s feedStore) Follow(after int64) (*prefstore.Follower, error) {
	return s.feed.Follow(after)
}

// journal stands for the rows behind a feed: those of one account, so that of
// all its changes the last is told.
type journal struct {
	mu     sync.Mutex
	last   prefstore.Change
	broken error
}

// write records a change of the account, without telling the feed.
func (j *journal) write(uid string) prefstore.Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := j.last.ID + 1
	j.last = prefstore.Change{ID: id, UID: uid, Preference: policy.OptedOut, Source: optoutapi.SourceUser, Changed: time.UnixMilli(id)}
	return j.last
}

func (j *journal) read(_ context.Context, after int64, _ int) (rows []prefstore.Change, _ error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if after < j.last.ID {
		rows = append(rows, j.last)
	}
	return rows, j.broken
}

// startFeed returns a feed that begins before the first change.
func startFeed() (*journal, *prefstore.Feed) {
	j := &journal{}
	f := prefstore.NewFeed(j.read)
	f.Begin(0, 0)
	return j, f
}

// feedServer is a running server that tells the changes of a feed.
type feedServer struct {
	*journal
	feed      *prefstore.Feed
	server    *Server
	followers atomic.Int64
	client    *http.Client
	url       string
}

// publish writes changes and tells them.
func (s *feedServer) publish(n int) {
	for range n {
		s.feed.Publish(s.write("a1"))
	}
}

func newFeedServer(t *testing.T) *feedServer {
	t.Helper()
	s := &feedServer{}
	s.journal, s.feed = startFeed()
	s.server = New(Config{
		Store:           feedStore{feed: s.feed},
		Tokens:          []Verifier{verifier(t, token.Config{Secret: secret})},
		TrustedClients:  []string{"metrics-gate"},
		OperatorClients: []string{"operator"},
		Observer:        Observer{Followers: func(change int) { s.followers.Add(int64(change)) }},
	})
	return s
}

// startFeedServer starts one that listens on loopback.
func startFeedServer(t *testing.T) *feedServer {
	t.Helper()
	s := newFeedServer(t)
	server := httptest.NewServer(s.server)
	t.Cleanup(server.Close)
	t.Cleanup(s.server.Close)
	s.client, s.url = server.Client(), server.URL
	return s
}

// pipes is a network for a synctest bubble, on which a write waits until it is
// read.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error {
	p.close.Do(func() { close(p.done) })
	return nil
}
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.conns <- there
	return here, nil
}

// startFeedServerInBubble starts one that takes no time.
func startFeedServerInBubble(t *testing.T, protocol func(*http.Protocols)) *feedServer {
	t.Helper()
	s := newFeedServer(t)
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	spoken := &http.Protocols{}
	protocol(spoken)
	server := &http.Server{Handler: s.server, Protocols: spoken}
	served := make(chan struct{})
	go func() {
		_ = server.Serve(p)
		close(served)
	}()
	transport := &http.Transport{
		DialContext: p.dial, Protocols: spoken,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // the least there is
	}
	s.client, s.url = &http.Client{Transport: transport}, "http://profile.test"
	t.Cleanup(func() {
		s.server.Close()
		transport.CloseIdleConnections()
		_ = server.Close()
		<-served
	})
	return s
}

func http1(p *http.Protocols) { p.SetHTTP1(true) }
func http2(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

var protocols = map[string]func(*http.Protocols){"HTTP/1": http1, "HTTP/2": http2}

// ask asks for the changes, as a gate.
func (s *feedServer) ask(t *testing.T, method, lastEventID string) *http.Response {
	t.Helper()
	return s.askAs(t, method, mint(t, "metrics-gate", "metrics-gate", optoutapi.ChangesScope, ""), lastEventID)
}

func (s *feedServer) askAs(t *testing.T, method, raw, lastEventID string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+changesPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if raw != "" {
		r.Header.Set("Authorization", "Bearer "+raw)
	}
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// changeStream is an open stream of changes.
type changeStream struct {
	*bufio.Reader
	io.Closer
}

func (s *feedServer) open(t *testing.T, lastEventID string) changeStream {
	t.Helper()
	answer := s.ask(t, http.MethodGet, lastEventID)
	if answer.StatusCode != http.StatusOK {
		t.Fatal("status", answer.StatusCode)
	}
	return changeStream{bufio.NewReader(answer.Body), answer.Body}
}

// block returns the next lines up to an empty one, and an error where the
// stream ends before.
func (c changeStream) block() (block string, err error) {
	for !strings.HasSuffix(block, "\n\n") && block != "\n" {
		line, err := c.ReadString('\n')
		if block += line; err != nil {
			return block, err
		}
	}
	return block, nil
}

func (c changeStream) want(t *testing.T, blocks ...string) {
	t.Helper()
	for _, want := range blocks {
		if got, err := c.block(); err != nil || got != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}

// wantEnd fails unless the stream has ended as one does that its server ends.
func (c changeStream) wantEnd(t *testing.T) {
	t.Helper()
	if block, err := c.block(); !errors.Is(err, io.EOF) || block != "" {
		t.Errorf("got %q, %v; want the end of the stream", block, err)
	}
}

// published is what publish tells.
func published(id int64) string {
	return fmt.Sprintf("event: change\nid: %d\ndata: {\"uid\":\"a1\",\"metrics_optout\":true,\"source\":\"user\",\"changed\":%q}\n\n",
		id, time.UnixMilli(id).UTC().Format("2006-01-02T15:04:05.000Z"))
}

// allTold is what is said where nothing is left to tell.
func allTold(id int64) string { return fmt.Sprintf(": head %d\n\n", id) }

// oddUID is a uid of 255 bytes that no format likes.
func oddUID(t *testing.T) string {
	t.Helper()
	odd := "\u2028\u2029\u00a0\u200b\ufeff\U0001f47b\"\\<>&'/:data: id: %00$`" + strings.Repeat("é", 100)
	odd += strings.Repeat(" ", 255-len(odd))
	if !policy.IsUID(odd) {
		t.Fatal("it is no uid")
	}
	return odd
}

func TestChangesAreStreamedAsServerSentEvents(t *testing.T) {
	t.Parallel()
	s := startFeedServer(t)
	s.publish(1)
	answer := s.ask(t, http.MethodGet, "")
	for name, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "private, no-cache, no-store, must-revalidate",
		"X-Accel-Buffering": "no",
	} {
		if got := answer.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	s.feed.Publish(prefstore.Change{ID: 2, UID: oddUID(t), Preference: policy.OptedOut, Changed: at, Source: optoutapi.SourceUser})
	s.feed.Publish(prefstore.Change{ID: 3, UID: "a1", Preference: policy.Unset, Changed: at, Source: optoutapi.SourceBrowser})
	s.feed.Publish(prefstore.Change{ID: 4, UID: "a1", Deleted: true})

	var raw string
	for stream := (changeStream{bufio.NewReader(answer.Body), answer.Body}); !strings.Contains(raw, "event: delete"); {
		block, err := stream.block()
		if err != nil {
			t.Fatal(err)
		}
		raw += block
	}
	odd, err := json.Marshal(oddUID(t))
	if err != nil {
		t.Fatal(err)
	}
	want := "retry: 1000\nid: 1\n\n" + allTold(1) +
		"event: change\nid: 2\ndata: {\"uid\":" + string(odd) + ",\"metrics_optout\":true,\"source\":\"user\",\"changed\":\"2026-11-24T12:00:00.000Z\"}\n\n" +
		"event: change\nid: 3\ndata: {\"uid\":\"a1\",\"metrics_optout\":null,\"source\":\"browser\",\"changed\":\"2026-11-24T12:00:00.000Z\"}\n\n" +
		"event: delete\nid: 4\ndata: {\"uid\":\"a1\"}\n\n"
	if diff := cmp.Diff(want, raw); diff != "" {
		t.Error(diff)
	}

	// Somebody else's reader finds in it what was put in.
	type event struct {
		Type, ID string
		Data     map[string]any
	}
	var got []event
	for e, err := range sse.Read(strings.NewReader(raw), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Data == "" {
			continue // the first, which tells an id and nothing else
		}
		data := map[string]any{}
		if err := json.Unmarshal([]byte(e.Data), &data); err != nil {
			t.Fatal(err)
		}
		got = append(got, event{e.Type, e.LastEventID, data})
	}
	date := "2026-11-24T12:00:00.000Z"
	if diff := cmp.Diff([]event{
		{"change", "2", map[string]any{"uid": oddUID(t), "metrics_optout": true, "source": "user", "changed": date}},
		{"change", "3", map[string]any{"uid": "a1", "metrics_optout": nil, "source": "browser", "changed": date}},
		{"delete", "4", map[string]any{"uid": "a1"}},
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStreamsResume(t *testing.T) {
	t.Parallel()
	s := startFeedServer(t)
	for range 3 {
		s.write("a1") // of these the last is told
	}
	s.feed.Begin(3, 0)
	s.publish(2)
	for last, want := range map[string][]string{
		"":                    {"retry: 1000\nid: 5\n\n"},
		"5":                   {"retry: 1000\nid: 5\n\n"},
		"4":                   {"retry: 1000\nid: 4\n\n", published(5)},
		"3":                   {"retry: 1000\nid: 3\n\n", published(4), published(5)},
		"0":                   {"retry: 1000\nid: 0\n\n", published(4), published(5)},
		"6":                   {"retry: 1000\nevent: reset\nid: 5\ndata: {}\n\n"},
		"9223372036854775807": {"retry: 1000\nevent: reset\nid: 5\ndata: {}\n\n"},
	} {
		stream := s.open(t, last)
		stream.want(t, append(want, allTold(5))...)
		defer stream.want(t, published(6))
	}
	s.publish(1)
}

func TestWhoMayNotFollowIsRefused(t *testing.T) {
	t.Parallel()
	const badID = `{"code":400,"errno":101,"error":"Bad Request","message":"Invalid request parameter","validation":{"source":"headers","keys":["last-event-id"]}}`
	gate := func(t *testing.T) string { return mint(t, "metrics-gate", "metrics-gate", optoutapi.ChangesScope, "") }
	as := func(client, scope string) func(*testing.T) string {
		return func(t *testing.T) string { return mint(t, client, "somebody", scope, "") }
	}
	for name, test := range map[string]struct {
		token       func(*testing.T) string
		lastEventID string
		state       func(*feedServer)
		status      int
		body        string // of a refusal
	}{
		"a gate":                       {token: gate, status: 200},
		"an operator":                  {token: as("operator", "profile"), status: 200},
		"nobody":                       {token: func(*testing.T) string { return "" }, status: 401, body: body401NoToken},
		"a bad token":                  {token: func(*testing.T) string { return "x" }, status: 401, body: body401BadToken},
		"a relier":                     {token: as("metrics-gate", "profile:write"), status: 403, body: body403Scope},
		"a client that is not trusted": {token: as("somebody", optoutapi.ChangesScope), status: 403, body: body403Client},
		"an id that is a word":         {token: gate, lastEventID: "last", status: 400, body: badID},
		"an id below zero":             {token: gate, lastEventID: "-1", status: 400, body: badID},
		"an id with a sign":            {token: gate, lastEventID: "+1", status: 400, body: badID},
		"an id that is too large":      {token: gate, lastEventID: "9223372036854775808", status: 400, body: badID},
		"a feed that is away":          {token: gate, state: func(s *feedServer) { s.feed.Interrupt() }, status: 503, body: body503Store},
		"a server that is closed":      {token: gate, state: func(s *feedServer) { s.server.Close() }, status: 503, body: body503Store},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startFeedServer(t)
			if test.state != nil {
				test.state(s)
			}
			// HEAD is answered like GET, and ends.
			head := s.askAs(t, http.MethodHead, test.token(t), test.lastEventID)
			if s.followers.Load() != 0 {
				t.Error("HEAD follows")
			}
			get := s.askAs(t, http.MethodGet, test.token(t), test.lastEventID)
			if head.StatusCode != test.status || get.StatusCode != test.status {
				t.Errorf("status %d for HEAD and %d for GET; want %d", head.StatusCode, get.StatusCode, test.status)
			}
			for _, h := range []http.Header{head.Header, get.Header} {
				h.Del("Date")
				h.Del("Content-Length")
			}
			if diff := cmp.Diff(head.Header, get.Header); diff != "" {
				t.Error("HEAD and GET differ:", diff)
			}
			if test.body != "" {
				if body, err := io.ReadAll(get.Body); err != nil || string(body) != test.body {
					t.Errorf("%s, %v; want %s", body, err, test.body)
				}
			}
		})
	}
}

// On HTTP/2 a deadline for writing ends a stream on which nothing is written,
// too: streams that are silent for longer than that go on.
func TestSilentStreamsSayThatTheyAreThere(t *testing.T) {
	t.Parallel()
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := startFeedServerInBubble(t, protocol)
				stream := s.open(t, "")
				began := time.Now()
				stream.want(t, "retry: 1000\nid: 0\n\n", allTold(0))
				if took := time.Since(began); took != 0 {
					t.Errorf("that all was told came after %v; want at once", took)
				}
				stream.want(t, allTold(0), allTold(0))
				if took := time.Since(began); took != 2*optoutapi.FeedKeepalive {
					t.Errorf("two heartbeats took %v; want %v", took, 2*optoutapi.FeedKeepalive)
				}
				// Changes that leave no pause bring it along.
				began = time.Now()
				for id := range int64(4) {
					<-time.After(optoutapi.FeedKeepalive/2 - time.Second)
					s.publish(1)
					stream.want(t, published(id+1))
					if id == 1 {
						stream.want(t, allTold(2))
						if took := time.Since(began); took != optoutapi.FeedKeepalive {
							t.Errorf("a heartbeat came %v after the one before; want %v", took, optoutapi.FeedKeepalive)
						}
					}
				}
			})
		})
	}
}

func TestFollowersWhoReadNothingAreDropped(t *testing.T) {
	t.Parallel()
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := startFeedServerInBubble(t, protocol)
				reading := s.open(t, "")
				reading.want(t, "retry: 1000\nid: 0\n\n", allTold(0))
				s.open(t, "") // and reads no more than its buffers hold
				following := func(want int64) {
					t.Helper()
					synctest.Wait()
					if got := s.followers.Load(); got != want {
						t.Errorf("%d follow; want %d", got, want)
					}
				}
				const more = 2000 // than that
				s.publish(more)
				for id := range int64(more) {
					reading.want(t, published(id+1))
				}
				following(2)
				<-time.After(writeTimeout - time.Second)
				following(2)
				<-time.After(time.Second)
				following(1)
				s.publish(1)
				reading.want(t, published(more+1))
			})
		})
	}
}

// A stream that its follower leaves, or that the feed or the server ends, is
// counted no more.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*feedServer, changeStream){
		"left":      func(_ *feedServer, c changeStream) { _ = c.Close() },
		"feed away": func(s *feedServer, _ changeStream) { s.feed.Interrupt() },
		"closed":    func(s *feedServer, _ changeStream) { s.server.Close() },
	} {
		for version, protocol := range protocols {
			t.Run(name+" "+version, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := startFeedServerInBubble(t, protocol)
					stream := s.open(t, "")
					stream.want(t, "retry: 1000\nid: 0\n\n", allTold(0))
					if s.followers.Load() != 1 {
						t.Error("the follower is not counted")
					}
					end(s, stream)
					synctest.Wait()
					if s.followers.Load() != 0 {
						t.Error("the follower is still counted")
					}
					if name != "left" {
						stream.wantEnd(t)
					}
				})
			})
		}
	}
}

func TestStreamsLiveForAnHourAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startFeedServerInBubble(t, http1)
		began := time.Now()
		lives := map[time.Duration]bool{}
		var reading sync.WaitGroup
		var mu sync.Mutex
		for range 3 {
			stream := s.open(t, "")
			reading.Go(func() {
				var err error
				for err == nil {
					_, err = stream.block()
				}
				mu.Lock()
				defer mu.Unlock()
				life := time.Since(began)
				lives[life] = true
				if !errors.Is(err, io.EOF) || life < maxStream*9/10 || life > maxStream {
					t.Errorf("a stream ended after %v with %v", life, err)
				}
			})
		}
		reading.Wait()
		if len(lives) != 3 {
			t.Error("streams that began together end together")
		}
	})
}

func TestStoreThatFailsEndsStreams(t *testing.T) {
	t.Parallel()
	s := startFeedServer(t)
	s.write("a1")
	s.feed.Begin(1, 0)
	s.broken = errBroken
	stream := s.open(t, "0")
	stream.want(t, "retry: 1000\nid: 0\n\n")
	stream.wantEnd(t)
}

// TestNoKeepaliveWhileTheStoreCannotBeRead: who is behind must not be told that
// nothing changed, while it cannot be read what did.
func TestNoKeepaliveWhileTheStoreCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := prefstore.NewFeed(func(context.Context, int64, int) ([]prefstore.Change, error) {
			return nil, fmt.Errorf("PostgreSQL: %w", context.DeadlineExceeded)
		})
		f.Begin(10, 0)
		behind, err := f.Follow(1)
		if err != nil {
			t.Fatal(err)
		}
		var failures int
		s := New(Config{Observer: Observer{StoreFailure: func() { failures++ }}})
		w := httptest.NewRecorder()
		s.stream(t.Context(), w, httptest.NewRequest("GET", changesPath, nil), behind)
		if want := "retry: 1000\nid: 1\n\n"; failures != 1 || w.Body.String() != want {
			t.Errorf("%d failures, %q", failures, w.Body)
		}
	})
}
