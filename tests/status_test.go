package tests

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// statusOf is what caddy metrics-gate status prints of a running Caddy, and what it
// exits with.
func statusOf(t testing.TB, caddy *testcaddy.Server) (text string, code int) {
	t.Helper()
	text, _, code = caddy.Ask("status")
	return text, code
}

// What is wrong comes first, is gone when it is mended, and names nobody.
func TestStatus(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	addr, profileAddr := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	gate := testcaddy.Gate("label app", "preset fxa", testcaddy.SessionJWT(), profileAt(profileAddr, "max_age 10m"))
	server := testcaddy.Start(t, testcaddy.Site(profileAddr, profileServer("sqlite "+filepath.Join(t.TempDir(), "p.db"))))
	caddy := testcaddy.Start(t, testcaddy.Site(addr, "metrics_gate_tripwire", gate, testcaddy.ProxyTo(behind.addr())))
	follows(t, caddy, profileAddr)
	uid := testcaddy.NewUID(t)
	choose(t, profileAddr, uid, optOut)
	for range 3 {
		if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))); a.collected() {
			t.Fatal("a beacon of somebody who opted out got through")
		}
	}

	text, code := statusOf(t, caddy)
	for _, want := range []string{"Nothing is known to be wrong.\n", "\ngate app, enforce, ", "POST /metrics ", " 3 metrics requests", "3 verified in the last", "connected, ", "cached: 1 preferences"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if code != 0 || strings.Contains(text, uid) {
		t.Errorf("exit %d\n%s", code, text)
	}
	text, code = statusOf(t, server)
	if code != 0 || !strings.Contains(text, "readable, writable") || !strings.Contains(text, "told of changes as they are made; 1 follow it") {
		t.Errorf("of the profile server: exit %d\n%s", code, text)
	}

	unable := func() float64 { return caddy.Metric("unable_to_ask_seconds_total", "cause", "profile") }
	if n := unable(); n != 0 {
		t.Errorf("%v seconds without a profile server are counted while it answers", n)
	}
	server.Stop()
	other := testcaddy.NewUID(t)
	send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(other)))
	text, code = statusOf(t, caddy)
	if first, _, _ := strings.Cut(text, "\n"); code != 1 || !strings.HasPrefix(first, "WRONG  gate app: the profile server fails: ") || !strings.Contains(first, ", since ") {
		t.Errorf("while the profile server is away: exit %d\n%s", code, text)
	}
	if !strings.Contains(text, "\n       look whether it runs, and whether the address in profile leads to it from this machine") || strings.Contains(text, "follow off") {
		t.Errorf("nothing says what to do, or the wrong thing:\n%s", text)
	}
	if !strings.Contains(text, "preferences that are not cached are unknown; none of these people is measured, and their metrics are lost\n") {
		t.Errorf("nothing says who is harmed:\n%s", text)
	}
	response, err := http.Get("http://" + caddy.Admin + "/metrics_gate/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answered struct {
		Wrong []struct{ Where, What string }
		Gates []struct {
			Profile struct{ Feed struct{ Connected bool } }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answered); err != nil || response.StatusCode != http.StatusServiceUnavailable || len(answered.Wrong) != 1 ||
		answered.Gates[0].Profile.Feed.Connected {
		t.Errorf("the admin API answers %d %+v, %v", response.StatusCode, answered, err)
	}
	if n := unable(); n <= 0 {
		t.Errorf("%v seconds without a profile server are counted", n)
	}
	caddy.Logged("the profile server fails", `"advice":"look whether it runs`, "their metrics are lost")
	if strings.Contains(text, uid) || strings.Contains(text, other) {
		t.Errorf("an account is named:\n%s", text)
	}
}

// What is to be done about a store depends on what is wrong with it.
func TestStatusOfAStore(t *testing.T) {
	t.Parallel()
	file, addr := filepath.Join(t.TempDir(), "p.db"), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+file)))
	ready(t, addr)
	caddy.Logged("a new preference store was made", `"file":"`+file+`"`)
	lock(t, file)
	testcaddy.Until(t, "the store not to be writable", func() bool { return caddy.ProfileServerMetric("store_up") == 0 })
	text, code := statusOf(t, caddy)
	for _, want := range []string{
		"WRONG  profile_server sqlite " + file + ": the store cannot be written, so no choice is recorded: another process keeps the file locked: ",
		"\n       find out which holds it open",
		"readable, not writable: another process keeps the file locked",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if code != 1 || strings.Contains(text, "check that its database answers") {
		t.Errorf("exit %d\n%s", code, text)
	}
}

// A gate that asks an address where nobody is, beside a profile server of this Caddy, is
// told that one's address.
func TestStatusOfAWrongAddress(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	addr, profileAddr, nobody := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("route POST /beacon", testcaddy.SessionJWT(), profileAt(nobody)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(profileAddr, profileServer("sqlite "+filepath.Join(t.TempDir(), "p.db"))))
	send(t, behind, addr, "POST /beacon", "{}", testcaddy.Cookie(testcaddy.Session(testcaddy.NewUID(t))))
	text, code := statusOf(t, caddy)
	if code != 1 || !strings.Contains(text, "this Caddy has a profile_server of its own, at http://"+profileAddr+"/v1: if that is the one to ask, write that into profile") {
		t.Errorf("exit %d\n%s", code, text)
	}
}

// A status of nothing is a wrong configuration or a wrong address, and never well.
func TestStatusOfNothing(t *testing.T) {
	t.Parallel()
	caddy := testcaddy.Start(t, testcaddy.Site(testcaddy.FreeAddr(t), "respond ok"))
	if text, code := statusOf(t, caddy); code != 1 || !strings.Contains(text, "WRONG  configuration: it holds neither metrics_gate nor profile_server") {
		t.Errorf("exit %d\n%s", code, text)
	}
	_, stderr, code := testcaddy.Command(t, "metrics-gate", "status", "--address", testcaddy.FreeAddr(t))
	if code != 1 || !strings.Contains(stderr, "does Caddy run, and is that its address?") {
		t.Errorf("without Caddy: exit %d, %s", code, stderr)
	}
}
