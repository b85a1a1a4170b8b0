package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Two purposes with rules of their own are two gates in a row, as
// docs/applications.md has it. Each decides its own routes, the application
// hears of pages what both say, and each outcome by itself where the
// configuration passes it on.
func TestPurposesByTwoGates(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	site := func(addr, modes string) string {
		analytics, reports, _ := strings.Cut(modes, " ")
		return testcaddy.Site(addr, "@blocked vars {http.metrics_gate.decision} block", "route {", "request_header -Without-*",
			"metrics_gate "+analytics+" {\nlabel analytics\nroute POST /api/beacon\nsignal {\ncookie banner statistics:false\n}\n"+
				testcaddy.SessionJWT()+"\n"+profile.block(patient)+"\n}",
			"request_header @blocked Without-Analytics 1",
			"metrics_gate "+reports+" {\nlabel reports\nroute POST /t/report\nsignal {\ncookie banner reports:false\n}\n}",
			"request_header @blocked Without-Reports 1",
			testcaddy.ProxyTo(behind.addr()), "}")
	}
	both, shadowed, trial := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, site(both, "enforce enforce"), site(shadowed, "enforce shadow"), site(trial, "shadow enforce"))
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	_ = send(t, behind, both, "POST /api/beacon", "{}", out) // a page uses what is known

	const page, html = "GET /signin", "Accept: text/html"
	for _, c := range []struct {
		name, addr, request string
		headers             []string
		want                string // the outcome header, and what was passed on of each gate
	}{
		{"page, neither objects", both, page, []string{html}, "[collect] analytics[] reports[]"},
		{"page, no statistics", both, page, []string{html, "Cookie: banner=statistics:false"}, "[block] analytics[1] reports[]"},
		{"page, no reports", both, page, []string{html, "Cookie: banner=reports:false"}, "[block] analytics[] reports[1]"},
		{"page, neither wanted", both, page, []string{html, "Cookie: banner=statistics:false+reports:false"}, "[block] analytics[1] reports[1]"},
		{"page, account opted out of one", both, page, []string{html, out}, "[block] analytics[1] reports[]"},
		{"beacon, no reports", both, "POST /api/beacon", []string{"Cookie: banner=reports:false"}, "[collect] analytics[] reports[]"},
		{"report, no statistics", both, "POST /t/report", []string{"Cookie: banner=statistics:false"}, "[collect] analytics[] reports[]"},
		{"beacon, no statistics", both, "POST /api/beacon", []string{"Cookie: banner=statistics:false"}, "stopped"},
		{"report, no reports", both, "POST /t/report", []string{"Cookie: banner=reports:false"}, "stopped"},
		{"beacon, opted out", both, "POST /api/beacon", []string{out}, "stopped"},
		{"report, opted out of the other", both, "POST /t/report", []string{out}, "[collect] analytics[] reports[]"},
		{"neither", both, "GET /asset.js", []string{out}, "[] analytics[] reports[]"},
		// A gate in shadow mode says nothing, and takes nothing back.
		{"page, second in shadow mode", shadowed, page, []string{html, "Cookie: banner=statistics:false"}, "[block] analytics[1] reports[]"},
		{"page, second would block", shadowed, page, []string{html, "Cookie: banner=reports:false"}, "[collect] analytics[] reports[1]"},
		{"page, first would block", trial, page, []string{html, "Cookie: banner=statistics:false"}, "[collect] analytics[1] reports[]"},
	} {
		for _, forged := range [][]string{nil, {"Metrics-Gate-Decision: block", "Without-Analytics: 0", "Without-Reports: 0"}} {
			a := send(t, behind, c.addr, c.request, "{}", append(slices.Clone(c.headers), forged...)...)
			got := "stopped"
			if a.collected() {
				header := a.passed().header
				got = fmt.Sprintf("%v analytics%s reports%s", outcomes(a.passed()), header["Without-Analytics"], header["Without-Reports"])
			}
			if got != c.want {
				t.Errorf("%s with %q: %q, want %q", c.name, forged, got, c.want)
			}
		}
	}
	for label, want := range map[string]float64{"analytics": 3 + 2, "reports": 2} {
		if got := caddy.Metric("requests_total", "gate", label, "decision", "block"); got != want {
			t.Errorf("the gate %s counts %v blocked requests, want %v", label, got, want)
		}
	}
}

// Where a page proves its account, both gates take it from the cookie that the
// first one seals.
func TestPurposesOfAProvenAccount(t *testing.T) {
	t.Parallel()
	behind, auth := newContentServer(t), newAuthServer(t)
	analytics, reports := newProfile(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, "route {",
		testcaddy.Gate("label analytics", "route POST /api/beacon", auth.block(), analytics.block(patient), "handshake"),
		testcaddy.Gate("label reports", "route POST /t/report", auth.block(), reports.block(patient), "handshake {\ninject off\n}"),
		testcaddy.ProxyTo(behind.addr()), "}"))
	for _, c := range []struct{ analytics, reports preference }{{optOut, allow}, {allow, optOut}, {allow, allow}, {allow, unset}, {optOut, optOut}, {optOut, unset}} {
		uid := analytics.account(c.analytics)
		reports.set(uid, c.reports)
		person := newBrowser(t, behind, addr)
		if beacon, report := person.send("POST /api/beacon", "{}"), person.send("POST /t/report", "{}"); beacon.collected() || report.collected() {
			t.Error("something arrives before the page has said who it is")
		}
		if status := person.proves(auth.signIn(t, uid)); status != 204 {
			t.Errorf("the proof is answered with %d", status)
		}
		// What the first gate remembers of the account is the browser's word for the
		// second, so it stops what the account has not chosen about there.
		for request, want := range map[string]bool{
			"POST /api/beacon": c.analytics == allow,
			"POST /t/report":   c.reports == allow || c.reports == unset && c.analytics == allow,
		} {
			if got := person.send(request, "{}").collected(); got != want {
				t.Errorf("analytics %s, reports %s: %s arrived: %v", c.analytics, c.reports, request, got)
			}
		}
	}
}
