package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// operator is the client that may do to all accounts what others may do to
// their own.
const operator = "0dd5ee5ca1ab1e00"

// profileServer is a profile_server directive. It takes tokens that are signed
// with the EC key.
func profileServer(store string, options ...string) string {
	return "profile_server {\nstore " + store + "\ntokens jwt {\nkey " + testcaddy.FromFile("ec.pub") + "\naudience " + testcaddy.ProfileAudience +
		"\nissuer metrics-gate " + strings.Join([]string{testcaddy.TrustedRelier, testcaddy.UntrustedOther, operator}, " ") + "\n}\ntrusted_client metrics-gate " +
		testcaddy.TrustedRelier + "\noperator_client " + operator + "\n" + strings.Join(options, "\n") + "\n}"
}

// profileAt is the profile block of a gate that asks our own profile server.
func profileAt(addr string, options ...string) string {
	return "profile http://" + addr + "/v1 {\nauth mint {\nkey " + testcaddy.FromFile("ec.key") + "\naudience " + testcaddy.ProfileAudience + "\n}\n" + patient + "\n" +
		strings.Join(options, "\n") + "\n}"
}

// choose is the user choosing, on the settings page.
func choose(t testing.TB, addr, uid string, choice preference) {
	t.Helper()
	if status, body, err := tryChoose(addr, uid, choice); err != nil || status != http.StatusOK || body != "{}" {
		t.Fatalf("POST %s: %d %q, %v", choice, status, body, err)
	}
}

func tryChoose(addr, uid string, choice preference) (status int, body string, err error) {
	token := testcaddy.RelierToken(addr, uid, "profile:metrics_optout:write", testcaddy.TrustedRelier)
	status, _, body, err = testcaddy.TryAskFor(addr, "POST /v1/metrics_optout", token, fmt.Sprintf(`{"metrics_optout":%s}`, choice))
	return status, body, err
}

// chosen is what the profile server says of an account, and its tag.
func chosen(t testing.TB, addr, uid string) (preference, string) {
	t.Helper()
	status, header, body := testcaddy.Ask(t, addr, http.MethodGet, testcaddy.RelierToken(addr, uid, "profile:metrics_optout", testcaddy.TrustedRelier), "")
	held, ok := strings.CutPrefix(body, `{"metrics_optout":`)
	if status != http.StatusOK || !ok {
		t.Fatalf("GET: %d %q", status, body)
	}
	return preference(strings.TrimSuffix(held, "}")), header.Get("ETag")
}

// holds says what is wrong where an account's preference is another.
func holds(t testing.TB, addr, uid string, want preference, when string) {
	t.Helper()
	if got, _ := chosen(t, addr, uid); got != want {
		t.Errorf("%s: %s is held, want %s", when, got, want)
	}
}

// forgetAccount is an operator deleting one.
func forgetAccount(t testing.TB, addr, uid string) {
	t.Helper()
	status, _, body := testcaddy.AskFor(t, addr, "DELETE /v1/account/"+url.PathEscape(uid), operatorToken(addr), "")
	if status != http.StatusOK || body != "{}" {
		t.Fatalf("DELETE: %d %q", status, body)
	}
}

// operatorToken is good for whatever an operator may do.
func operatorToken(addr string) string {
	return testcaddy.RelierToken(addr, "the operator", "profile:write", operator)
}

// ready waits until a profile server has its database.
func ready(t testing.TB, addr string) {
	t.Helper()
	token := testcaddy.RelierToken(addr, "nobody", "profile", testcaddy.TrustedRelier)
	testcaddy.Until(t, "the store", func() bool {
		status, _, _ := testcaddy.Ask(t, addr, http.MethodGet, token, "")
		return status == http.StatusOK
	})
}

// What a profile server that stands alone cannot reach, it says itself: its
// operator has no gate to look for.
func TestProfileServerLogsAsItself(t *testing.T) {
	t.Parallel()
	addr, nobody := testcaddy.FreeAddr(t), "http://"+testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+t.TempDir()+"/profile.db",
		"tokens jwt {\njwks "+nobody+"/keys\nissuer nobody\naudience here\n}", "tokens introspect "+nobody+"/v1/verify {\nclient nobody\n}",
		"events {\njwks "+nobody+"/events\naudience here\n}")))
	if status, _, body := testcaddy.Ask(t, addr, http.MethodGet, "opaque", ""); status != http.StatusServiceUnavailable {
		t.Errorf("with nobody to ask about a token: %d %s", status, body)
	}
	const own = `"logger":"http.handlers.profile_server"`
	caddy.Logged(own, "the key set cannot be fetched", "/keys")
	caddy.Logged(own, "the key set cannot be fetched", "/events")
	caddy.Logged(own, "nobody can be asked about tokens")
	for _, cause := range []string{"key_set", "introspection"} {
		if n := caddy.ProfileServerMetric("unable_to_ask_seconds_total", "cause", cause); n <= 0 {
			t.Errorf("%v seconds are counted of %s", n, cause)
		}
	}
	if n := caddy.ProfileServerMetric("key_set_fetches_total", "outcome", "unreachable"); n < 2 {
		t.Errorf("%v fetches of key sets are counted as unreachable", n)
	}
	if n := caddy.Metric("build_info"); n != 1 {
		t.Errorf("build_info is %v", n)
	}
	if lines := caddy.Log.Where(func(line string) bool { return strings.Contains(line, "metrics_gate") }); len(lines) > 0 {
		t.Errorf("a gate that does not exist logs:\n%s", strings.Join(lines, "\n"))
	}
}

// A told event is one of the change feed.
type told struct{ event, id, data string }

// readChanges is a client of the change feed, from after the change of this id,
// or from now on. It returns when the stream has ended.
func readChanges(ctx context.Context, addr, after string, add func(told)) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/changes", nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+operatorToken(addr))
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	response, err := testcaddy.Client.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	// As the HTML standard has it, so far as this feed uses it.
	var next told
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case field == "event":
			next.event = value
		case field == "id":
			next.id = value
		case field == "data":
			next.data = value
		case lines.Text() == "" && next != (told{}):
			add(next)
			next = told{}
		}
	}
	return response.StatusCode, nil
}

// uid is whom an event is about.
func (e told) uid() string {
	var about struct {
		UID string `json:"uid"`
	}
	_ = json.Unmarshal([]byte(e.data), &about)
	return about.UID
}

// A follower is a client of the change feed that hears one stream.
type follower struct {
	testcaddy.Ledger[told]
	ended chan struct{} // closed when the stream is over
	leave func()
}

// followChanges follows from after the change of this id, or from now on. It
// returns when the server has said where its feed is, which it cannot in its
// first moments.
func followChanges(t testing.TB, addr, after string) *follower {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	f := &follower{ended: make(chan struct{}), leave: leave}
	go func() {
		defer close(f.ended)
		status, err := readChanges(ctx, addr, after, f.Add)
		for status == http.StatusServiceUnavailable && ctx.Err() == nil {
			status, err = readChanges(ctx, addr, after, f.Add)
		}
		if ctx.Err() == nil && (err != nil || status != http.StatusOK) {
			t.Errorf("GET /v1/changes: %d, %v", status, err)
		}
	}()
	t.Cleanup(f.close)
	f.Wait(t, "the feed to begin", func(all []told) bool { return len(all) > 0 })
	return f
}

// last is what was told last.
func (f *follower) last() told {
	all := f.All()
	return all[len(all)-1]
}

func (f *follower) close() {
	f.leave()
	<-f.ended
}

// follows waits until a gate follows the feed of the profile server at the
// address, so that whatever it looks up from now on stays in its cache.
func follows(t testing.TB, gate *testcaddy.Server, addr string) {
	t.Helper()
	connected := gate.Metric("feed_events_total", "event", "change")
	testcaddy.Until(t, "a gate to follow", func() bool { return gate.Metric("feed_connects_total", "outcome", "connected") > 0 })
	choose(t, addr, testcaddy.NewUID(t), allow) // of whom the gate knows nothing
	testcaddy.Until(t, "a gate to be told", func() bool { return gate.Metric("feed_events_total", "event", "change") > connected })
}
