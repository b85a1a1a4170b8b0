package browser_test

import (
	"net"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/fxa"
)

// The whole way: pages that keep their session as Firefox Accounts' client does
// prove it to the gate, and what somebody chose in their account holds for beacons
// that name nobody; from the first page on, through sign-out, for another account,
// and after the session was revoked.
func TestAccountInStorage(t *testing.T) {
	t.Parallel()
	const publicURL = "https://auth.example.org/v1"
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		for _, hawk := range []string{"", "hawk"} {
			auth := fxa.StartAuthServer(t, publicURL)
			s := newSite(t, "session fxa "+publicURL+" {\ndial "+auth.URL+"\ntimeout 20s\n"+hawk+"\n}", handshake("timeout 200ms"))
			out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
			s.profile.choose(t, out, "true")
			s.profile.choose(t, in, "false")
			signIn := func(uid string, first byte) {
				auth.SignIn(sessionToken(first), uid)
				tab.eval(nil, fxaSignIn(uid, sessionToken(first)))
			}
			proven := func(uid string) {
				tab.wait("the proof of "+uid, `localStorage.getItem("metrics_gate_proof") !== null`)
			}
			tab.navigate(s.origin)
			s.reported(tab)
			s.collects(tab, "default")

			signIn(out, known)
			tab.eval(nil, `localStorage.removeItem("metrics_gate_proof")`)
			tab.navigate(s.origin + "/settings")
			proven(out)
			s.blocks(tab, "preference")

			signIn(in, 1)
			tab.eval(nil, `localStorage.removeItem("metrics_gate_proof")`)
			tab.navigate(s.origin + "/settings")
			proven(in)
			s.collects(tab, "explicit_allow")
			if got := tab.cookie("__Host-metrics_gate"); len(got) < 100 {
				t.Errorf("the cookie is %q", got)
			}
			s.clean(tab)
		}
	})
}

// Scenarios 2 and 3 where the session is in storage: signing in with a Firefox
// whose user switched telemetry off records that in the account, without a page
// load, and it holds in a browser that says nothing.
func TestWriteBackWithAProof(t *testing.T) {
	t.Parallel()
	const publicURL = "https://auth.example.org/v1"
	auth := fxa.StartAuthServer(t, publicURL)
	s := newSite(t, "session fxa "+publicURL+" {\ndial "+auth.URL+"\ntimeout 20s\n}", handshake(patient))
	uid := testcaddy.NewUID(t)
	auth.SignIn(sessionToken(known), uid)
	f := respondingFirefox(t, optedOutFirefox, s.origin)
	f.navigate(s.origin)
	s.reported(f)
	f.eval(nil, fxaSignIn(uid, sessionToken(known)))
	f.eval(nil, `history.pushState(null, "", "/settings")`) // as the client does when somebody has signed in
	s.profile.asked.Wait(t, "the write", func([]string) bool { return s.profile.writes() > 0 })
	testcaddy.Until(t, "the store to hold it", func() bool { return s.profile.holds(t, uid) == "true" })
	s.blocks(f, "preference")

	c := newChromium(t)
	c.navigate(s.origin)
	c.eval(nil, fxaSignIn(uid, sessionToken(known)))
	c.eval(nil, `localStorage.removeItem("metrics_gate_proof")`)
	c.navigate(s.origin + "/settings")
	c.wait("the proof", `localStorage.getItem("metrics_gate_proof") !== null`)
	s.blocks(c, "preference")
	if n := s.profile.writes(); n != 1 {
		t.Errorf("written %d times", n)
	}
	if got := s.app.bodies(); len(got) > 0 {
		t.Errorf("the application got %q", got)
	}
}

// A page of a sibling host, whoever has taken that over, cannot plant an own
// session: no browser takes a cookie of that name for more than one host, and it
// would open under no other. What it can plant is the control.
func TestSiblingPlantsNothing(t *testing.T) {
	t.Parallel()
	const publicURL = "https://auth.example.org/v1"
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		auth := fxa.StartAuthServer(t, publicURL)
		s := newSite(t, "session fxa "+publicURL+" {\ndial "+auth.URL+"\ntimeout 20s\n}", handshake("timeout 200ms"))
		_, port, _ := net.SplitHostPort(s.addr)
		s.origin = "http://accounts.site.localhost:" + port
		out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
		s.profile.choose(t, out, "true")
		s.profile.choose(t, in, "false")
		auth.SignIn(sessionToken(known), out)
		auth.SignIn(sessionToken(1), in)
		visits := func(origin string) {
			tab.navigate(origin)
			s.reported(tab)
		}
		proves := func(origin, uid string, first byte) {
			tab.eval(nil, fxaSignIn(uid, sessionToken(first)))
			tab.eval(nil, `localStorage.removeItem("metrics_gate_proof")`)
			tab.navigate(origin + "/settings")
			tab.wait("the proof", `localStorage.getItem("metrics_gate_proof") !== null`)
		}

		evil := "http://evil.site.localhost:" + port
		visits(evil)
		proves(evil, in, 1)
		own := tab.cookie("__Host-metrics_gate")
		if len(own) < 100 {
			t.Fatalf("the sibling's own cookie is %q", own)
		}
		for _, attributes := range []string{"; Secure", ""} {
			tab.eval(nil, `document.cookie = "__Host-metrics_gate=`+own+`; Path=/; Domain=site.localhost`+attributes+`"`)
		}
		tab.eval(nil, `document.cookie = "control=planted; Path=/; Domain=site.localhost"`)

		visits(s.origin)
		if got := tab.cookie("control"); got != "planted" {
			t.Errorf("a sibling could plant nothing at all: %q", got)
		}
		if got := tab.cookie("__Host-metrics_gate"); got == own {
			t.Error("a sibling planted an own session")
		}
		proves(s.origin, out, known)
		s.blocks(tab, "preference")
	})
}
