package gate

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/profileclient"
)

// slowProfile is a profile server without a network that takes its time. It
// holds one preference, of everybody.
type slowProfile struct {
	delay time.Duration

	mu         sync.Mutex
	preference string
	failing    bool
	reads      int
	writes     []string // their If-Match
}

func (p *slowProfile) RoundTrip(r *http.Request) (*http.Response, error) {
	reply := httptest.NewRecorder()
	p.mu.Lock()
	reply.Header().Set("Content-Type", "application/json")
	reply.Header().Set("ETag", `"`+p.preference+`"`)
	switch {
	case p.failing:
		p.reads++
		reply.WriteHeader(http.StatusInternalServerError)
	case r.Method == http.MethodGet:
		p.reads++
		_, _ = io.WriteString(reply, `{"metrics_optout":`+p.preference+`}`)
	default:
		p.writes = append(p.writes, r.Header.Get("If-Match"))
		p.preference = "true"
	}
	p.mu.Unlock()
	select {
	case <-time.After(p.delay):
		return reply.Result(), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// TestLateWriteBack: what the browser says before the account's preference is
// known is written when the lookup ends that its request started, under the
// conditions that hold otherwise. Without that, somebody whose only request is
// one page of a gate that has just been started was never written back.
func TestLateWriteBack(t *testing.T) {
	t.Parallel()
	const optedOut, page, beacon = "Metrics-Optout: 1", "GET /", "POST /metrics"
	const report = `POST /.well-known/metrics-gate/signal {"metrics_optout":true}`
	// Sessions are made in the bubble, by its clock.
	const unset = "Cookie: <unset>"
	handshaken := func(c *Config) { c.Handshake = new(Handshake) }
	for name, test := range map[string]struct {
		configure func(c *Config)
		holds     string // the profile; null unless said
		delay     time.Duration
		fails     time.Duration // for how long, from the first request on
		requests  []string
		headers   []string
		reads     int
		written   bool
	}{
		"a cold page": {requests: []string{page}, headers: []string{unset, optedOut}, reads: 1, written: true},
		"a cold page, by the cookie": {requests: []string{page}, reads: 1, written: true,
			headers: []string{unset + "; metrics_optout=1"}},
		"a cold page that waits": {requests: []string{page}, headers: []string{unset, optedOut}, reads: 1, written: true,
			configure: func(c *Config) { c.ExperimentParams = []string{"forceExperiment"} }},
		"many pages and beacons": {requests: []string{page, page, beacon, page, beacon}, headers: []string{unset, optedOut}, reads: 1, written: true},
		"a cold beacon whose lookup fails": {requests: []string{beacon}, headers: []string{unset, optedOut}, reads: 2, written: true,
			fails: 300 * time.Millisecond},
		"a cold report whose lookup fails": {requests: []string{report}, headers: []string{unset, sameOrigin, "Content-Type: application/json"}, reads: 2, written: true,
			configure: handshaken, fails: 300 * time.Millisecond},
		"a cold page of an application with the handshake": {requests: []string{page}, headers: []string{unset, optedOut}, reads: 1,
			configure: handshaken},
		"somebody who allows":        {holds: "false", requests: []string{page}, headers: []string{unset, optedOut}, reads: 1},
		"somebody who opted out":     {holds: "true", requests: []string{page}, headers: []string{unset, optedOut}, reads: 1},
		"nothing said":               {requests: []string{page}, headers: []string{unset}, reads: 1},
		"no objection":               {requests: []string{page}, headers: []string{unset, "Metrics-Optout: 0"}, reads: 1},
		"contradictions":             {requests: []string{page}, headers: []string{unset + "; metrics_optout=false", optedOut}, reads: 1},
		"GPC":                        {requests: []string{page}, headers: []string{unset, "Sec-GPC: 1"}, reads: 1},
		"what an account left":       {requests: []string{page}, headers: []string{unset + "; metrics_optout=account"}, reads: 1},
		"two accounts":               {requests: []string{page}, headers: []string{unset + "; <allows>", optedOut}, reads: 1},
		"a credential too long":      {requests: []string{page}, headers: []string{unset + "; session=" + strings.Repeat("x", 9000), optedOut}, reads: 1},
		"an expired session":         {requests: []string{page}, headers: []string{"Cookie: <expired>", optedOut}},
		"nobody":                     {requests: []string{page}, headers: []string{optedOut}},
		"write_back off":             {requests: []string{page}, headers: []string{unset, optedOut}, reads: 1, configure: func(c *Config) { c.WriteBack = false }},
		"shadow":                     {requests: []string{page}, headers: []string{unset, optedOut}, reads: 1, configure: func(c *Config) { c.Shadow = true }},
		"a profile server that died": {requests: []string{beacon}, headers: []string{unset, optedOut}, reads: -1, fails: 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := &slowProfile{delay: 200 * time.Millisecond, preference: "null", failing: test.fails > 0}
				if test.holds != "" {
					server.preference = test.holds
				}
				client, err := profileclient.New(profileclient.Config{
					URL: "https://profile.test/{uid}", Auth: profileclient.Bearer("x"), Transport: server, MaxAge: time.Hour,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				config := Config{Presets: []UsedPreset{{Name: "fxa"}}, Sessions: sessions(t, ""), Profile: client, WriteBack: true}
				config.Signal.GPC = true
				if test.configure != nil {
					test.configure(&config)
				}
				g := newGate(t, config)
				began := time.Now()
				made := strings.NewReplacer("<unset>", sessionOf(t, unsetUID), "<allows>", sessionOf(t, allowedUID), "<expired>", expiredSessionOf(t, unsetUID))
				for _, request := range test.requests {
					parts := append(strings.SplitN(request, " ", 3), "")
					headers := []string{"Sec-Fetch-Dest: document"}
					for _, header := range test.headers {
						headers = append(headers, made.Replace(header))
					}
					ask(t, g, parts[0]+" "+parts[1], parts[2], "<head></head>", headers...)
				}
				if len(test.requests) == 1 && test.requests[0] == page && len(config.ExperimentParams) == 0 && config.Handshake == nil && time.Since(began) != 0 {
					t.Errorf("the page waited for %v", time.Since(began))
				}
				<-time.After(test.fails)
				server.mu.Lock()
				server.failing = test.fails > time.Hour
				server.mu.Unlock()
				<-time.After(10 * time.Minute)
				synctest.Wait()
				server.mu.Lock()
				defer server.mu.Unlock()
				if test.reads >= 0 && server.reads != test.reads {
					t.Errorf("looked up %d times, want %d", server.reads, test.reads)
				}
				want := 0
				if test.written {
					want = 1
				}
				if len(server.writes) != want || want == 1 && server.writes[0] != `"null"` {
					t.Errorf("written if it matches %q, want %d writes", server.writes, want)
				}
			})
		})
	}
}
