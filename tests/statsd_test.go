package tests

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// statsdAgent is a DogStatsD agent that keeps what it is sent.
type statsdAgent struct {
	net.PacketConn
	packets testcaddy.Ledger[string]
}

func newStatsdAgent(t *testing.T) *statsdAgent {
	connection, err := net.ListenPacket("udp", testcaddy.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	a := &statsdAgent{PacketConn: connection}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for packet := make([]byte, 64<<10); ; {
			n, _, err := connection.ReadFrom(packet)
			if err != nil {
				return
			}
			a.packets.Add(string(packet[:n]))
		}
	}()
	t.Cleanup(func() { connection.Close(); <-ended })
	return a
}

// counts adds up what was counted, by name and tags.
func (a *statsdAgent) counts(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, packet := range a.packets.All() {
		for line := range strings.Lines(packet) {
			var n int
			head, tags, _ := strings.Cut(strings.TrimSpace(line), "|#")
			name, value, _ := strings.Cut(head, ":")
			if _, err := fmt.Sscanf(value, "%d|c", &n); err != nil {
				t.Errorf("the agent was sent %q", line)
			}
			sorted := strings.Split(tags, ",")
			slices.Sort(sorted)
			counts[name+" "+strings.Join(sorted, " ")] += n
		}
	}
	return counts
}

// Every change to a choice is counted once, with the agent and for Prometheus,
// by what was chosen and where that came from. What changes nothing counts
// nothing, and what takes a choice back is no success.
func TestChangesAreCounted(t *testing.T) {
	t.Parallel()
	agent, oauth := newStatsdAgent(t), newOAuthServer(t)
	addr, dead := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), "statsd "+agent.LocalAddr().String(), oauth.eventsBlock())),
		testcaddy.Site(dead, profileServer("sqlite "+filepath.Join(t.TempDir(), "other.db"), "statsd "+testcaddy.FreeAddr(t))))
	keysFetched(t, addr)
	by := func(source, client, uid string, choice preference) {
		t.Helper()
		token := testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, nil, testcaddy.Claims(uid, map[string]any{
			"iss": client, "aud": testcaddy.ProfileAudience, "client_id": client, "scope": "profile:write", "source": source,
		}))
		if status, _, body := testcaddy.Ask(t, addr, http.MethodPost, token, `{"metrics_optout":`+string(choice)+`}`); status != http.StatusOK {
			t.Fatalf("POST: %d %q", status, body)
		}
	}
	uid, other := testcaddy.NewUID(t), testcaddy.NewUID(t)
	for _, choice := range []preference{optOut, optOut, allow, allow, unset, unset, optOut} {
		by("user", testcaddy.TrustedRelier, uid, choice)
	}
	by("browser", "metrics-gate", other, optOut)
	by("browser", "metrics-gate", other, optOut)
	by("user", operator, other, allow)
	by("browser", operator, other, optOut)
	by("root", testcaddy.TrustedRelier, other, allow) // a source that does not exist
	out := byRSA(event(t, testcaddy.NewUID(t), "metrics-opt-out", map[string]any{}))
	happen(t, addr, "FxA", out)
	happen(t, addr, "RFC 8935", out)
	forgetAccount(t, addr, uid)
	forgetAccount(t, addr, uid)

	// What cannot be counted harms nobody.
	for i := range 50 {
		choose(t, dead, fmt.Sprint(i), []preference{optOut, allow}[i%2])
	}

	samples := map[string]int{}
	for _, sample := range caddy.Samples() {
		if sample.Name == "caddy_profile_server_changes_total" {
			samples["value:"+sample.Labels["value"]+" source:"+sample.Labels["source"]] = int(sample.Value)
		}
	}
	caddy.Stop() // which sends what is still to be sent
	want := map[string]int{
		"profile.metrics_optout.set source:user value:true":    3,
		"profile.metrics_optout.set source:user value:false":   2,
		"profile.metrics_optout.set source:browser value:true": 1,
		"profile.metrics_optout.set source:admin value:true":   1,
		"profile.metrics_optout.set source:admin value:false":  1,
	}
	agent.packets.Wait(t, "the agent to be told", func([]string) bool { return maps.Equal(agent.counts(t), want) })
	wantSamples := map[string]int{
		"value:true source:user": 3 + 25, "value:false source:user": 2 + 25, "value:null source:user": 1, "value:true source:browser": 1,
		"value:true source:admin": 1, "value:false source:admin": 1, "value:deleted source:admin": 1,
	}
	if !maps.Equal(samples, wantSamples) {
		t.Errorf("Prometheus is told %v, want %v", samples, wantSamples)
	}
}
