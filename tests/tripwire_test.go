package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A gate that is never reached says nothing, so the tripwire does.
func TestTripwire(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	proxy := testcaddy.ProxyTo(behind.addr())
	gate := func(options ...string) string {
		return testcaddy.Gate(append(options, "label beacons", "route POST /beacon {\nanswer 202\n}", testcaddy.SessionJWT(), profile.block(patient))...)
	}
	const wire, refuse = "metrics_gate_tripwire", "metrics_gate_tripwire refuse"
	shadow := strings.Replace(gate(), "metrics_gate {", "metrics_gate shadow {", 1)

	type request struct {
		request  string
		arrives  bool
		status   int // 0: the application's
		bypassed float64
	}
	out := testcaddy.Session(profile.account(optOut))
	for _, c := range []struct {
		name       string
		directives []string
		requests   []request
	}{
		{
			"a gate that decides",
			[]string{wire, "route {", gate(), refuse, proxy, "}"},
			[]request{{"POST /beacon", false, 202, 0}, {"POST /other", true, 0, 0}, {"GET /beacon", true, 0, 0}, {"OPTIONS /beacon", true, 0, 0}},
		},
		{
			"a gate behind the proxy",
			[]string{wire, "route {", proxy, gate(), "}"},
			[]request{{"POST /beacon", true, 0, 1}, {"post /BEACON;x", true, 0, 1}, {"POST /other", true, 0, 0}},
		},
		{
			"a more specific handle",
			[]string{wire, "handle /beacon* {", proxy, "}", "handle {", gate(), proxy, "}"},
			[]request{{"POST /beacon", true, 0, 1}, {"POST /x/../beacon", true, 0, 1}, {"POST /;a/beacon", false, 202, 0}},
		},
		{
			"a more specific handle that refuses",
			[]string{"handle /beacon* {", refuse, proxy, "}", "handle {", gate(), proxy, "}"},
			[]request{{"POST /beacon", false, 202, 1}, {"GET /beacon", true, 0, 0}},
		},
		{
			"both forms",
			[]string{wire, "handle /beacon* {", refuse + " beacons", proxy, "}", "handle {", gate(), proxy, "}"},
			[]request{{"POST /beacon", false, 202, 2}},
		},
		{
			"before a rewrite",
			[]string{wire, "handle_path /in/* {", proxy, "}", "handle {", gate("route POST /in/event"), proxy, "}"},
			[]request{{"POST /in/event", true, 0, 1}, {"POST /in/beacon", true, 0, 1}, {"POST /in/other", true, 0, 0}},
		},
		{
			"a matcher that hides the gate",
			[]string{wire, strings.Replace(gate(), "metrics_gate {", "metrics_gate /api/* {", 1), proxy},
			[]request{{"POST /beacon", true, 0, 1}},
		},
		{
			"in shadow",
			[]string{wire, "handle /beacon {", refuse, proxy, "}", "handle {", shadow, proxy, "}"},
			[]request{{"POST /beacon", true, 0, 1}, {"POST /BEACON/", true, 0, 0}},
		},
		{
			"what Caddy refused before a gate could see it",
			[]string{wire, "route {", "error /beacon 403", gate(), proxy, "}"},
			[]request{{"POST /beacon", false, 403, 0}},
		},
		{
			"an essential exception",
			[]string{wire, "route {", proxy, gate("route POST /t/*", "route POST /t/keep essential"), "}"},
			[]request{{"POST /t/keep", true, 0, 0}, {"POST /t/x", true, 0, 1}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t, testcaddy.Site(addr, c.directives...))
			expected := 0.0
			for _, r := range c.requests {
				a := send(t, behind, addr, r.request, "{}", testcaddy.Cookie(out))
				if a.collected() != r.arrives || r.status != 0 && a.status != r.status {
					t.Errorf("%s: reached the application: %v, answered %d", r.request, a.collected(), a.status)
				}
				// The tripwire looks at it when it has been answered.
				expected += r.bypassed
				testcaddy.Until(t, r.request+" to be counted", func() bool { return caddy.Metric("tripwire_total") >= expected })
			}
			if n := caddy.Metric("tripwire_total", "gate", "beacons"); n != expected {
				t.Errorf("counted %v times, want %v", n, expected)
			}
			if expected > 0 {
				line := caddy.Logged("was decided by no gate", `"gate":"beacons"`, `"advice":"`, `"route":"/`)
				if strings.Contains(line, out) || strings.Contains(line, "127.0.0.1") {
					t.Errorf("the log tells of the client: %s", line)
				}
			}
		})
	}
}

// One line says that a gate is bypassed, however many requests do.
func TestTripwireIsNoFlood(t *testing.T) {
	t.Parallel()
	behind, profile, addr := newContentServer(t), newProfile(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, "metrics_gate_tripwire", "route {", testcaddy.ProxyTo(behind.addr()),
		testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), "}"))
	for range 20 {
		send(t, behind, addr, "POST /metrics", "{}")
	}
	testcaddy.Until(t, "all to be counted", func() bool { return caddy.Metric("tripwire_total", "route", "/metrics") == 20 })
	if lines := caddy.Log.Where(func(line string) bool { return strings.Contains(line, "decided by no gate") }); len(lines) != 1 {
		t.Errorf("logged %d times", len(lines))
	}
}

// What the application does with its reply changes nothing of what it has got.
func TestTripwireCountsRepliesThatBreakOff(t *testing.T) {
	t.Parallel()
	profile, addr := newProfile(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, "metrics_gate_tripwire", "route {", testcaddy.ProxyTo(newCuttingServer(t)),
		testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), "}"))
	response, err := http.Post("http://"+addr+"/metrics", "application/json", strings.NewReader("{}"))
	if err == nil {
		_ = response.Body.Close()
	}
	testcaddy.Until(t, "it to be counted", func() bool { return caddy.Metric("tripwire_total", "route", "/metrics") == 1 })
}

// A name that no gate has would watch over nothing.
func TestTripwireKnowsItsGates(t *testing.T) {
	t.Parallel()
	behind, profile, addr := newContentServer(t), newProfile(t), testcaddy.FreeAddr(t)
	site := func(wire string, gates ...string) string {
		return testcaddy.Site(addr, append(append([]string{wire}, gates...), testcaddy.ProxyTo(behind.addr()))...)
	}
	gate := testcaddy.Gate("label app", "preset fxa", testcaddy.SessionJWT(), profile.block(patient))
	caddy := testcaddy.Start(t, site("metrics_gate_tripwire refuse app", gate))
	for wire, want := range map[string]string{
		"metrics_gate_tripwire refuse apq": `; there are: app`,
		"metrics_gate_tripwire ap/q":       "is not a word of letters",
		"metrics_gate_tripwire app app":    "the label app is there twice; leave one out",
		"metrics_gate_tripwire {\nx\n}":    "takes no block",
	} {
		if err := caddy.Reload(site(wire, gate)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", wire, err)
		}
	}
	if err := caddy.Reload(site("metrics_gate_tripwire")); err == nil || !strings.Contains(err.Error(), "has no gate that a request could get past") {
		t.Errorf("without a gate: %v", err)
	}
	if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))); a.collected() {
		t.Error("a configuration that was refused took effect")
	}
}
