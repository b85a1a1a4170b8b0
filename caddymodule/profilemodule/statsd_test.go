package profilemodule

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// listenForStatsD returns the address of an agent, and what reads one payload
// that it received.
func listenForStatsD(t *testing.T, network, address string) (string, func() []string) {
	t.Helper()
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String(), func() []string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		payload := make([]byte, 64<<10)
		n, _, err := conn.ReadFrom(payload)
		if err != nil {
			t.Fatalf("the agent heard nothing: %v", err)
		}
		lines := strings.Split(strings.TrimSpace(string(payload[:n])), "\n")
		slices.Sort(lines)
		return lines
	}
}

func TestChangesAreCountedByTheAgent(t *testing.T) {
	t.Parallel()
	udp, heardByUDP := listenForStatsD(t, "udp", "127.0.0.1:0")
	socket, heardBySocket := listenForStatsD(t, "unixgram", filepath.Join(t.TempDir(), "dsd.socket"))
	for address, heard := range map[string]func() []string{udp: heardByUDP, unixPrefix + socket: heardBySocket} {
		counter, err := newChangeCounter(address)
		if err != nil {
			t.Fatal(err)
		}
		observe := serverObserver(counter).Change
		observe("true", "user")
		observe("true", "user")
		observe("false", "browser")
		observe("true", "admin")
		observe("null", "user")     // takes a choice back
		observe("deleted", "admin") // forgets one
		counter.Close()             // sends what is left
		want := []string{
			"profile.metrics_optout.set:1|c|#value:false,source:browser",
			"profile.metrics_optout.set:1|c|#value:true,source:admin",
			"profile.metrics_optout.set:2|c|#value:true,source:user",
		}
		if got := heard(); !slices.Equal(got, want) {
			t.Errorf("%s heard\n%s", address, strings.Join(got, "\n"))
		}
	}
}

// TestDeadAgentHoldsUpNobody counts with agents that do not exist: by UDP on a
// closed port, by a name that no resolver knows, by a socket that is not there.
func TestDeadAgentHoldsUpNobody(t *testing.T) {
	t.Parallel()
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for _, address := range []string{
		closed.LocalAddr().String(),
		"agent.invalid:8125",
		unixPrefix + filepath.Join(t.TempDir(), "lost.socket"),
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			counter, err := newChangeCounter(address)
			if err != nil {
				t.Fatal(err)
			}
			for range 100_000 {
				counter.count("true", "user")
			}
			counter.Close()
			counter.count("true", "user") // a request that a reload left in flight
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestAgentIsFoundAgain loses the agent's first socket, as a restart does.
func TestAgentIsFoundAgain(t *testing.T) {
	t.Parallel()
	first, heard := listenForStatsD(t, "udp", "127.0.0.1:0")
	a := &agent{address: first}
	defer func() { _ = a.Close() }()
	if _, err := a.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	heard()
	_ = a.conn.Close()
	if _, err := a.Write([]byte("lost")); err == nil {
		t.Fatal("a closed socket took a payload")
	}
	if _, err := a.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	if got := heard(); got[0] != "two" {
		t.Errorf("the agent heard %q", got)
	}
}

func TestAgentThatFailedIsLeftAlone(t *testing.T) {
	t.Parallel()
	a := &agent{address: "127.0.0.1:no-port"}
	if _, err := a.Write(nil); err == nil || err == errAgentAway { //nolint:errorlint // never wrapped
		t.Fatalf("got %v, want the cause", err)
	}
	if _, err := a.Write(nil); err != errAgentAway { //nolint:errorlint // never wrapped
		t.Errorf("got %v: it was asked for again at once", err)
	}
	a.failed = time.Now().Add(-agentDialPause)
	if _, err := a.Write(nil); err == errAgentAway { //nolint:errorlint // never wrapped
		t.Error("it is never asked for again")
	}
}

func TestAgentAddress(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{
		"127.0.0.1:8125":                      true,
		"[::1]:8125":                          true,
		"agent.example.org:8125":              true,
		"unix:///var/run/datadog/dsd.socket":  true,
		"127.0.0.1":                           false,
		":8125":                               false,
		"127.0.0.1:0":                         false,
		"127.0.0.1:65536":                     false,
		"127.0.0.1:statsd":                    false,
		"udp://127.0.0.1:8125":                false,
		"unix://dsd.socket":                   false,
		"/var/run/datadog/dsd.socket":         false,
		"":                                    false,
		"unixgram:///var/run/datadog/dsd.sok": false,
	} {
		if err := checkAgentAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}
