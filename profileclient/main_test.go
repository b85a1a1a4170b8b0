package profileclient_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a profile server without a network, so that it can live in a
// synctest bubble. It holds null for accounts that it does not know.
type memory struct {
	mu          sync.Mutex
	preferences map[string]string // JSON by uid
	noETag      bool
	delay       time.Duration
	status      int // other than 0: what everything is answered with
	writeStatus int // other than 0: what writes are answered with
	reads       []string
	writes      []write

	flying, mostFlying int
}

type write struct {
	uid, body, ifMatch, token string
	at                        time.Time
}

func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	uid := r.URL.Query().Get("uid")
	if r.Method == http.MethodGet {
		m.reads = append(m.reads, uid)
	}
	m.flying++
	m.mostFlying = max(m.mostFlying, m.flying)
	reply := httptest.NewRecorder()
	m.serve(reply, r, uid) // a slow answer is one that was true long ago
	delay := m.delay
	m.mu.Unlock()

	defer func() {
		m.mu.Lock()
		m.flying--
		m.mu.Unlock()
	}()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return reply.Result(), nil
}

func (m *memory) serve(w http.ResponseWriter, r *http.Request, uid string) {
	preference, found := m.preferences[uid]
	if !found {
		preference = "null"
	}
	etag := `"` + preference + `"`
	switch {
	case m.status != 0:
		w.WriteHeader(m.status)
	case r.Method == http.MethodGet:
		if !m.noETag {
			w.Header().Set("ETag", etag)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"metrics_optout":`+preference+`}`)
	default:
		body, _ := io.ReadAll(r.Body)
		m.writes = append(m.writes, write{
			uid, string(body), r.Header.Get("If-Match"), r.Header.Get("Authorization"), time.Now(),
		})
		switch {
		case m.writeStatus != 0:
			w.WriteHeader(m.writeStatus)
		case r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != etag:
			w.WriteHeader(http.StatusPreconditionFailed)
		default:
			var fields map[string]json.RawMessage
			_ = json.Unmarshal(body, &fields)
			m.preferences[uid] = string(fields["metrics_optout"])
			_, _ = io.WriteString(w, `{}`)
		}
	}
}

// set changes the server under its lock.
func (m *memory) set(change func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *memory) readCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.reads)
}

func (m *memory) written() []write {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]write(nil), m.writes...)
}

// counts is an Observer that counts.
type counts struct {
	mu      sync.Mutex
	lookups map[string]int
	writes  map[string]int
	health  []error

	connects, events map[string]int
	feedHealth       []error
}

func (c *counts) observer() profileclient.Observer {
	c.lookups, c.writes = map[string]int{}, map[string]int{}
	c.connects, c.events = map[string]int{}, map[string]int{}
	return profileclient.Observer{
		Lookup: func(o profileclient.LookupOutcome, _ time.Duration) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.lookups[o.String()]++
		},
		WriteBack: func(o profileclient.WriteOutcome) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.writes[o.String()]++
		},
		Health: func(err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.health = append(c.health, err)
		},
		FeedConnect: func(o profileclient.FeedOutcome) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.connects[o.String()]++
		},
		FeedEvent: func(e profileclient.FeedEvent) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events[e.String()]++
		},
		FeedHealth: func(err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.feedHealth = append(c.feedHealth, err)
		},
	}
}

func (c *counts) lookup(outcome string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookups[outcome]
}

func (c *counts) write(outcome string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes[outcome]
}

func (c *counts) reports() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error(nil), c.health...)
}

func (c *counts) connect(outcome string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connects[outcome]
}

func (c *counts) event(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[kind]
}

func (c *counts) feedReports() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error(nil), c.feedHealth...)
}

// bench is a client, its server in memory, and what the client reported.
type bench struct {
	*profileclient.Client
	server *memory
	counts *counts
}

func newBench(t testing.TB, configure func(*profileclient.Config)) bench {
	t.Helper()
	b := bench{server: &memory{preferences: map[string]string{}}, counts: &counts{}}
	config := profileclient.Config{
		URL:       "https://profile.test/v1/metrics_optout?uid={uid}",
		Auth:      profileclient.Bearer("secret"),
		Transport: b.server,
		Observer:  b.counts.observer(),
	}
	if configure != nil {
		configure(&config)
	}
	client, err := profileclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	b.Client = client
	return b
}

func (b bench) lookup(uid string) policy.Preference {
	return b.Lookup(context.Background(), profileclient.Account{UID: uid}, time.Now())
}

func (b bench) lookupNamed(uid string) policy.Preference {
	return b.LookupNamed(context.Background(), uid, time.Now(), time.Minute)
}

// virtual runs a test whose clock stands still while anything is to be done.
func virtual(t *testing.T, configure func(*profileclient.Config), test func(t *testing.T, b bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, configure)
		defer b.Close()
		test(t, b)
	})
}

// pass lets time go by, and then whatever became due run as far as it can.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func minter(t testing.TB, secret string) *token.Minter {
	t.Helper()
	m, err := token.NewMinter(token.MinterConfig{
		Key: []byte(secret), ClientID: "metrics-gate", Issuer: "gate", Audience: "profile", Lifetime: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var longSecret = strings.Repeat("s", 32)
