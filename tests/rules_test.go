package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A rule is one row of the table in docs/rules.md. "*" stands for anything; a
// decision may be that of an option.
type rule struct {
	session, preference, signal string
	decision, reason            string
	writeBack                   bool
}

// The table of docs/rules.md, written out once more; the first row that fits
// counts.
var rules = []rule{
	{"verified", "true", "*", "block", "preference", false},
	{"verified", "false", "*", "collect", "explicit_allow", false},
	{"verified", "null", "opted out", "block", "signal", true},
	{"verified", "null", "unrecorded", "block", "signal", false},
	{"verified", "null", "probing", "on_unknown", "probing", false},
	{"verified", "null", "*", "on_unset", "default", false},
	{"verified", "unknown", "opted out", "block", "signal", false},
	{"verified", "unknown", "unrecorded", "block", "signal", false},
	{"verified", "unknown", "*", "on_unknown", "unknown", false},
	{"unverifiable", "*", "opted out", "block", "signal", false},
	{"unverifiable", "*", "unrecorded", "block", "signal", false},
	{"unverifiable", "*", "*", "on_unknown", "unverified_session", false},
	{"none", "*", "opted out", "block", "signal", false},
	{"none", "*", "unrecorded", "block", "signal", false},
	{"none", "*", "probing", "on_unknown", "probing", false},
	{"none", "*", "*", "on_unset", "default", false},
	{"expired", "*", "opted out", "block", "signal", false},
	{"expired", "*", "unrecorded", "block", "signal", false},
	{"expired", "*", "probing", "on_unknown", "probing", false},
	{"expired", "*", "*", "on_unset", "default", false},
}

// unlearnable is what a body names that cannot be read.
const unlearnable preference = "unlearnable"

// policyOptions are what the operator chose.
type policyOptions struct{ onUnknown, onUnset string }

// A verdict is what the table says, and how many of the named accounts had to
// be looked up for it.
type verdict struct {
	decision, reason string
	writeBack        bool
	lookedUp         int
}

// judge reads the table, then goes through the named accounts.
func (o policyOptions) judge(session, held, signal string, named []preference) verdict {
	fits := func(pattern, value string) bool { return pattern == "*" || pattern == value }
	var v verdict
	for _, row := range rules {
		if fits(row.session, session) && fits(row.preference, held) && fits(row.signal, signal) {
			v = verdict{decision: row.decision, reason: row.reason, writeBack: row.writeBack}
			break
		}
	}
	switch v.decision {
	case "on_unknown":
		v.decision = o.onUnknown
	case "on_unset":
		v.decision = o.onUnset
	}
	for _, account := range named {
		if v.decision == "block" {
			break
		}
		v.lookedUp++
		switch account {
		case optOut:
			v.decision, v.reason = "block", "preference"
		case unknown:
			v.decision, v.reason = o.onUnknown, "unknown"
		case unlearnable: // which the sender can bring about
			v.decision, v.reason = "block", "unknown"
		case unset, allow: // no effect
		}
	}
	return v
}

// Every combination of session, preference, signal, named accounts and the two
// options goes through HTTP. Each has a route and accounts of its own, so the
// counters tell the reason of each and nothing cached tells for another.
func TestRules(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)

	signals := []struct{ name, means, header string }{
		{"silent", "", ""},
		{"cookie", "opted out", "Cookie: metrics_optout=true"},
		{"header", "opted out", "Metrics-Optout: true"},
		{"no-objection", "no objection", "Cookie: metrics_optout=false"},
		{"gpc", "unrecorded", "Sec-Gpc: 1"},
		{"contradicted", "unrecorded", "Metrics-Optout: true, false"},
		{"consent", "unrecorded", "Cookie: banner=groups%3DC0002%3A0"},
	}
	preferences := []preference{unset, allow, optOut, unknown}
	bodies := []preference{"", unset, allow, optOut, unknown, "self", unlearnable}

	type sent struct {
		name, route, site string
		headers           []string
		body              string
		want              verdict
		subject           string // the proven account
		named             []string
	}
	var cases []sent
	var sites []string
	for _, options := range []policyOptions{{"block", "collect"}, {"block", "block"}, {"collect", "collect"}} {
		addr := testcaddy.FreeAddr(t)
		directives := []string{
			testcaddy.SessionJWT(), profile.block(patient), "names {\nbody uid\n}", "signal {\ngpc\ncookie banner C0002:0\n}",
			"on_unknown " + options.onUnknown, "on_unset " + options.onUnset,
		}
		for _, session_ := range []string{"none", "expired", "unverifiable", "verified"} {
			for _, held := range preferences {
				if held != unset && (session_ == "none" || session_ == "unverifiable") {
					continue // no account, no preference
				}
				for _, signal := range signals {
					for _, inBody := range bodies {
						if inBody == "self" && session_ != "verified" && session_ != "expired" {
							continue
						}
						c := sent{
							name: fmt.Sprintf("session %s, preference %s, signal %s, body names %q, on_unknown %s, on_unset %s",
								session_, held, signal.name, inBody, options.onUnknown, options.onUnset),
							route: fmt.Sprintf("/t/%d", len(cases)), site: addr, body: `{"broker":"web","events":[]}`,
						}
						var named []preference
						account := profile.account(held)
						switch session_ {
						case "expired":
							c.headers = append(c.headers, testcaddy.Cookie(testcaddy.Session(account, testcaddy.Expired)))
							named, c.named = append(named, held), append(c.named, account)
						case "unverifiable":
							c.headers = append(c.headers, testcaddy.Cookie(testcaddy.Sign(jwt.SigningMethodHS256, []byte("another secret, of another issuer"), nil, testcaddy.Claims(account))))
						case "verified":
							c.headers = append(c.headers, testcaddy.Cookie(testcaddy.Session(account)))
							c.subject = account
						}
						switch inBody {
						case "":
						case "self":
							c.body = `{"uid":"` + account + `","broker":"web"}`
						case unlearnable:
							c.body = `{"uid":[7],"broker":"web"}`
							named = append(named, unlearnable)
						default:
							other := profile.account(inBody)
							c.body = `{"uid":"` + other + `","broker":"web"}`
							named, c.named = append(named, inBody), append(c.named, other)
						}
						if signal.header != "" {
							c.headers = append(c.headers, signal.header)
						}
						c.want = options.judge(session_, string(held), signal.means, named)
						cases = append(cases, c)
						directives = append(directives, "route POST "+c.route+" {\nanswer 200 application/json `"+success+"`\n}")
					}
				}
			}
		}
		sites = append(sites, testcaddy.Site(addr, testcaddy.Gate(directives...), testcaddy.ProxyTo(behind.addr())))
	}
	caddy := testcaddy.Start(t, sites...)

	answers := make([]answer, len(cases))
	next := make(chan int)
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for i := range next {
				c := cases[i]
				a, err := trySend(behind, c.site, "POST "+c.route, c.body, c.headers...)
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				answers[i] = a
			}
		})
	}
	for i := range cases {
		next <- i
	}
	close(next)
	senders.Wait()

	counted := map[string]string{}
	for _, sample := range caddy.Samples() {
		if sample.Name == "caddy_metrics_gate_requests_total" && sample.Value > 0 && strings.HasPrefix(sample.Labels["route"], "/t/") {
			counted[sample.Labels["route"]] += fmt.Sprintf("%v × %s %s %s %s", sample.Value,
				sample.Labels["decision"], sample.Labels["reason"], sample.Labels["mode"], sample.Labels["class"])
		}
	}
	for i, c := range cases {
		a := answers[i]
		if got := a.decision(); got != c.want.decision {
			t.Errorf("%s: %s, want %s", c.name, got, c.want.decision)
		}
		if a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: answered %d %q", c.name, a.status, a.body)
		}
		want := fmt.Sprintf("1 × %s %s enforce metrics", c.want.decision, c.want.reason)
		if diff := cmp.Diff(want, counted[c.route]); diff != "" {
			t.Errorf("%s: counted (-want +got)\n%s", c.name, diff)
		}
		// A body that cannot be learnt is a name without an account, and the
		// first block ends it.
		for j, account := range c.named {
			if looked := profile.lookups(account) > 0; looked != (j < c.want.lookedUp) {
				t.Errorf("%s: named account %d looked up: %v", c.name, j, looked)
			}
		}
	}

	// What is written is written by the time that everything has been joined.
	for _, c := range cases {
		if c.want.writeBack {
			profile.awaitAsked(c.subject, http.MethodPost, 1)
		}
	}
	caddy.Stop()
	for _, c := range cases {
		want := 0
		if c.want.writeBack {
			want = 1
		}
		if got := profile.writes(c.subject); c.subject != "" && got != want {
			t.Errorf("%s: written %d times, want %d", c.name, got, want)
		}
		for _, account := range c.named {
			if account != c.subject && profile.writes(account) != 0 {
				t.Errorf("%s: a named account was written", c.name)
			}
		}
	}
}

// What a browser may say, and what of it counts.
func TestSignals(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	usual, both, named := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	route := "route POST /api/beacon"
	profile := newProfile(t)
	ask := testcaddy.SessionJWT() + "\n" + profile.block(patient)
	testcaddy.Start(t,
		testcaddy.Site(usual, testcaddy.Gate(route, ask), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(both, testcaddy.Gate(route, ask, "signal {\ngpc\ndnt\n}"), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(named, testcaddy.Gate(route, ask, "signal {\ncookie consent_no\nheader X-No-Metrics\n}"), testcaddy.ProxyTo(behind.addr())),
	)
	for _, c := range []struct {
		site    string
		headers []string
		want    string
	}{
		{usual, nil, "collect"},
		{usual, []string{"Cookie: metrics_optout=true"}, "block"},
		{usual, []string{"Cookie: metrics_optout=1"}, "block"},
		{usual, []string{"Cookie: a=b; metrics_optout=true; c=d"}, "block"},
		{usual, []string{`Cookie: metrics_optout="true"`}, "block"},
		{usual, []string{"Cookie: metrics_optout=false"}, "collect"},
		{usual, []string{"Cookie: metrics_optout=yes"}, "collect"},
		{usual, []string{"Cookie: metrics_optout="}, "collect"},
		{usual, []string{"Cookie: Metrics_Optout=true"}, "collect"},
		{usual, []string{"Cookie: xmetrics_optout=true"}, "collect"},
		{usual, []string{"Metrics-Optout: true"}, "block"},
		{usual, []string{"metrics-optout: 1"}, "block"},
		{usual, []string{"Metrics-Optout: 0"}, "collect"},
		{usual, []string{"Metrics-Optout: sometimes"}, "collect"},
		{usual, []string{"Cookie: metrics_optout=True"}, "block"},
		{usual, []string{"Metrics-Optout: ?1"}, "block"},
		{usual, []string{"Metrics-Optout: ?0"}, "collect"},
		{usual, []string{"Cookie: metrics_optout=account"}, "block"},
		{usual, []string{"Metrics-Optout: account"}, "collect"},
		// Opted out wins, among duplicates and among kinds.
		{usual, []string{"Cookie: metrics_optout=false; metrics_optout=true"}, "block"},
		{usual, []string{"Cookie: metrics_optout=true", "Cookie: metrics_optout=false"}, "block"},
		{usual, []string{"Metrics-Optout: false", "Metrics-Optout: true"}, "block"},
		{usual, []string{"Metrics-Optout: true", "Metrics-Optout: false"}, "block"},
		{usual, []string{"Cookie: metrics_optout=false", "Metrics-Optout: 1"}, "block"},
		{usual, []string{"Cookie: metrics_optout=1", "Metrics-Optout: 0"}, "block"},
		// GPC and DNT only where named, and by the letter.
		{usual, []string{"Sec-GPC: 1"}, "collect"},
		{usual, []string{"DNT: 1"}, "collect"},
		{both, []string{"Sec-GPC: 1"}, "block"},
		{both, []string{"Sec-GPC: 0", "Sec-GPC: 1"}, "block"},
		{both, []string{"Sec-GPC: true"}, "collect"},
		{both, []string{"Sec-GPC: 0"}, "collect"},
		{both, []string{"DNT: 1"}, "block"},
		{both, []string{"DNT: 0"}, "collect"},
		// A signal block adds to the two defaults.
		{named, []string{"Cookie: consent_no=1"}, "block"},
		{named, []string{"X-No-Metrics: true"}, "block"},
		{named, []string{"Cookie: metrics_optout=true"}, "block"},
		{named, []string{"Metrics-Optout: true"}, "block"},
	} {
		a := send(t, behind, c.site, "POST /api/beacon", "{}", c.headers...)
		if a.decision() != c.want {
			t.Errorf("%q: %s, want %s", c.headers, a.decision(), c.want)
		}
	}

	// Both headers go on unchanged.
	a := send(t, behind, usual, "POST /api/beacon", "{}", "Sec-GPC: 1", "DNT: 1")
	if a.passed().header.Get("Sec-GPC") != "1" || a.passed().header.Get("DNT") != "1" {
		t.Error("GPC and DNT did not reach the application")
	}
}

// What a body names, and what is a name that could not be learnt.
func TestNamesInBodies(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)

	for _, c := range []struct {
		name, body, want string
		headers          []string
	}{
		{"allowed", `{"uid":"` + in + `"}`, "collect", nil},
		{"opted out", `{"uid":"` + out + `"}`, "block", nil},
		{"text/plain", `{"uid":"` + out + `"}`, "block", []string{"Content-Type: text/plain;charset=UTF-8"}},
		{"application/json", `{"uid":"` + out + `"}`, "block", []string{"Content-Type: application/json"}},
		{"form type", `{"uid":"` + out + `"}`, "block", []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"none", `{"uid":"none"}`, "collect", nil},
		{"absent", `{"broker":"web"}`, "collect", nil},
		{"empty body", ``, "collect", nil},
		{"exact-case", `{"UID":"` + out + `"}`, "collect", nil},
		{"nested", `{"a":{"uid":"` + out + `"},"b":[{"uid":"` + out + `"}]}`, "collect", nil},
		{"after nested", `{"a":{"uid":"` + in + `"},"uid":"` + out + `"}`, "block", nil},
		{"last duplicate: out", `{"uid":"` + in + `","uid":"` + out + `"}`, "block", nil},
		{"last duplicate: in", `{"uid":"` + out + `","uid":"` + in + `"}`, "collect", nil},
		{"escaped key", `{"\u0075id":"` + out + `"}`, "block", nil},
		{"escaped value", `{"uid":"\u00` + fmt.Sprintf("%x", out[0]) + out[1:] + `"}`, "block", nil},
		{"white space", " \n\t{ \"uid\" : \"" + out + "\" } \n", "block", nil},
		{"payments, opted out", `{"events":[],"data":{"uid":"` + out + `"}}`, "block", nil},
		{"payments, allowed", `{"events":[],"data":{"uid":"` + in + `"}}`, "collect", nil},
		{"one a line", `{"uid":"` + in + `"}` + "\n" + `{"uid":"` + out + `"}`, "block", nil},
		{"fraction", `{"uid":1.5}`, "block", nil},
		{"null", `{"uid":null}`, "collect", nil},
		{"object", `{"uid":{}}`, "block", nil},
		{"upper-case hex", `{"uid":"` + strings.ToUpper(in) + `"}`, "collect", nil},
		{"too short", `{"uid":"` + in[1:] + `"}`, "collect", nil},
		{"with a line end", `{"uid":"` + in + `\n"}`, "collect", nil},
		{"empty string", `{"uid":""}`, "collect", nil},
		{"broken", `{"uid":"` + in + `",`, "block", nil},
		{"cut short", `{"broker":"web`, "block", nil},
		{"trailing garbage", `{"uid":"` + in + `"} x`, "block", nil},
		{"not JSON", `uid=` + in, "block", nil},
		{"too long", `{"uid":"` + in + `","more":"` + strings.Repeat("x", 256<<10) + `"}`, "block", nil},
		{"gzip that nobody mentions, opted out", gzipped(`{"uid":"` + out + `"}`), "block", nil},
		{"gzip that nobody mentions, allowed", gzipped(`{"uid":"` + in + `"}`), "collect", nil},
		{"gzip, allowed", gzipped(`{"uid":"` + in + `"}`), "collect", []string{"Content-Encoding: gzip"}},
		{"gzip, opted out", gzipped(`{"uid":"` + out + `"}`), "block", []string{"Content-Encoding: gzip"}},
		{"x-gzip, opted out", gzipped(`{"uid":"` + out + `"}`), "block", []string{"Content-Encoding: x-gzip"}},
		{"deflate, allowed", zlibbed(`{"uid":"` + in + `"}`), "collect", []string{"Content-Encoding: deflate"}},
		{"deflate, opted out", zlibbed(`{"uid":"` + out + `"}`), "block", []string{"Content-Encoding: deflate"}},
		{"raw deflate, opted out", deflated(`{"uid":"` + out + `"}`), "block", []string{"Content-Encoding: deflate"}},
		{"raw deflate, allowed", deflated(`{"uid":"` + in + `"}`), "collect", []string{"Content-Encoding: deflate"}},
		{"gzip cut short", gzipped(`{"uid":"` + in + `"}`)[:20], "block", []string{"Content-Encoding: gzip"}},
		{"not gzip", `{"uid":"` + in + `"}`, "block", []string{"Content-Encoding: gzip"}},
		{"another encoding", `{"uid":"` + in + `"}`, "block", []string{"Content-Encoding: br"}},
		{"identity", `{"uid":"` + in + `"}`, "collect", []string{"Content-Encoding: identity"}},
	} {
		a := send(t, behind, addr, "POST /metrics", c.body, c.headers...)
		if a.decision() != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.decision(), c.want)
		}
		if a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: answered %d %q", c.name, a.status, a.body)
		}
		if a.collected() && string(a.passed().body) != c.body {
			t.Errorf("%s: the application got %d bytes, not the %d sent", c.name, len(a.passed().body), len(c.body))
		}
	}
	if n := len(profile.asked.All()); n != 2 {
		t.Errorf("two accounts took %d lookups", n)
	}
}

// How a blocked request is answered: on drop as the route says, on reject as
// RFC 9457 says, unless only a name blocked; experiments always by their control
// answer.
func TestAnswers(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	drop, reject := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	routes := "route POST /api/beacon {\nanswer 202 text/plain taken\n}\nroute POST,PUT /t/plain\n" +
		"route GET /flags experiment {\nanswer 200 application/json `{}`\n}"
	testcaddy.Start(t,
		testcaddy.Site(drop, testcaddy.Gate(routes, "names {\nbody uid\n}", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(reject, testcaddy.Gate(routes, "names {\nbody uid\n}", "block_with reject", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
	)
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	named := `{"uid":"` + profile.account(optOut) + `"}`

	for _, c := range []struct {
		name, site, request, body string
		headers                   []string
		status                    int
		kind, answer              string
		collected                 bool
	}{
		{"drop", drop, "POST /api/beacon", "", []string{out}, 202, "text/plain", "taken", false},
		{"drop, by a signal", drop, "POST /api/beacon", "", []string{"Metrics-Optout: 1"}, 202, "text/plain", "taken", false},
		{"drop, by name", drop, "POST /api/beacon", named, nil, 202, "text/plain", "taken", false},
		{"drop, collected", drop, "POST /api/beacon", "", []string{in}, 202, "text/plain", "taken", true},
		{"no answer given", drop, "PUT /t/plain", "", []string{out}, 204, "", "", false},
		{"experiment", drop, "GET /flags", "", []string{out}, 200, "application/json", "{}", false},
		{"experiment, collected", drop, "GET /flags", "", []string{in}, 200, "text/plain", "from the application", true},
		{"reject", reject, "POST /api/beacon", "", []string{out}, 403, "application/problem+json", "", false},
		{"reject, by a signal", reject, "PUT /t/plain", "", []string{"Metrics-Optout: 1"}, 403, "application/problem+json", "", false},
		{"reject, by name", reject, "POST /api/beacon", named, nil, 202, "text/plain", "taken", false},
		{"reject, by name beside an allowed session", reject, "POST /api/beacon", named, []string{in}, 202, "text/plain", "taken", false},
		{"reject, by session and name", reject, "POST /api/beacon", named, []string{out}, 403, "application/problem+json", "", false},
		{"experiment under reject", reject, "GET /flags", "", []string{out}, 200, "application/json", "{}", false},
	} {
		a := send(t, behind, c.site, c.request, c.body, c.headers...)
		if a.status != c.status || a.header.Get("Content-Type") != c.kind || a.collected() != c.collected {
			t.Errorf("%s: %d %q, collected %v; want %d %q, %v", c.name,
				a.status, a.header.Get("Content-Type"), a.collected(), c.status, c.kind, c.collected)
		}
		if c.status == http.StatusForbidden {
			isProblem(t, a)
		} else if a.body != c.answer {
			t.Errorf("%s: body is %q, want %q", c.name, a.body, c.answer)
		}
		if strings.HasPrefix(c.request, "GET") && a.header.Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: Cache-Control is %q", c.name, a.header.Get("Cache-Control"))
		}
	}
}

// An answer of the profile server that says nothing is no choice.
func TestNoContentIsNoChoice(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	profile.failWith(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	uid := testcaddy.NewUID(t)
	if a := send(t, behind, addr, "POST /metrics", `{}`, testcaddy.Cookie(testcaddy.Session(uid))); !a.collected() {
		t.Error("204 from the profile server is null, and null is collected")
	}
	if a := send(t, behind, addr, "POST /metrics", `{}`, testcaddy.Cookie(testcaddy.Session(uid)), "Metrics-Optout: 1"); a.collected() {
		t.Error("204 from the profile server is null, so the signal counts")
	}
}
