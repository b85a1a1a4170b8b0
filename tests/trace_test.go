package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// openTrace opens a trace at the admin API.
func openTrace(t *testing.T, caddy *testcaddy.Server) (nonce string) {
	t.Helper()
	response, err := http.Post("http://"+caddy.Admin+"/metrics_gate/traces", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var opened struct{ Nonce string }
	if err := json.NewDecoder(response.Body).Decode(&opened); err != nil || response.StatusCode != http.StatusCreated || opened.Nonce == "" {
		t.Fatalf("a trace is opened with %s, %v", response.Status, err)
	}
	return opened.Nonce
}

// written is what was written down for a nonce, and its text.
func written(t *testing.T, caddy *testcaddy.Server, nonce string) (traces []map[string]any, text string) {
	t.Helper()
	text = caddy.AdminGet("/metrics_gate/traces/" + nonce)
	if err := json.Unmarshal([]byte(text), &traces); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return traces, text
}

// A trace is written down by every gate that a request meets, under the nonce
// that was opened for it and no other, beyond a reload; and it says nothing about
// whose request it was.
func TestTraces(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	outer, inner, open := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	ask := testcaddy.SessionJWT() + "\n" + profile.block(patient)
	sites := []string{
		testcaddy.Site(outer, "route {\n"+testcaddy.Gate("label edge", "route POST /metrics", ask)+"\nmetrics_gate shadow {\nlabel inside\nroute POST /metrics\n"+ask+"\n}\n"+testcaddy.ProxyTo(behind.addr())+"\n}"),
		testcaddy.Site(inner, testcaddy.Gate("preset fxa", ask), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(open, testcaddy.ProxyTo(behind.addr())),
	}
	caddy := testcaddy.Start(t, sites...)
	out, in := profile.account(optOut), profile.account(allow)

	for _, c := range []struct{ name, addr, request, body, cookie, want string }{
		{"opted out", outer, "POST /metrics", "{}", testcaddy.Session(out), "edge enforce gated block preference blocked"},
		{"allowed, and two gates", outer, "POST /metrics", "{}", testcaddy.Session(in), "edge enforce gated collect explicit_allow shown, inside shadow gated collect explicit_allow shown"},
		{"allowed, and two gates, hidden", outer, "POST /metrics", "{}", testcaddy.Session(in), "edge enforce gated collect explicit_allow hidden, inside shadow gated collect explicit_allow shown"},
		{"named", inner, "POST /metrics", flushOf(t, out), "", "default enforce gated block preference blocked"},
		{"hidden", inner, "POST /metrics", flushOf(t, in), "", "default enforce gated collect default hidden"},
		{"forged", inner, "POST /metrics", "{}", "f0rged", "default enforce gated block unverified_session blocked"},
		{"another issuer", inner, "POST /metrics", "{}", testcaddy.Session(out, map[string]any{"iss": "https://other.test/" + out}), "default enforce gated block unverified_session blocked"},
		{"another cookie", inner, "POST /metrics", "{}", "", "default enforce gated collect default hidden"},
		{"a page", inner, "GET /signin", "", testcaddy.Session(out), "default enforce page block preference shown"},
		{"neither", inner, "GET /asset.js", "", testcaddy.Session(out), "default enforce untouched shown"},
		{"no gate", open, "POST /metrics", "{}", testcaddy.Session(out), ""},
	} {
		nonce := openTrace(t, caddy)
		headers := []string{"Metrics-Gate-Trace: " + nonce}
		if c.cookie != "" {
			headers = append(headers, testcaddy.Cookie(c.cookie))
		}
		switch {
		case c.name == "another cookie":
			headers = append(headers, "Cookie: theme=needle; sid_"+out+"="+testcaddy.Session(out))
		case c.name == "a page":
			headers = append(headers, "Accept: text/html")
		case strings.HasSuffix(c.name, "hidden"):
			headers = append(headers, "Sec-Fetch-Site: cross-site")
		}
		a := send(t, behind, c.addr, c.request, c.body, headers...)
		if a.collected() && c.addr != open && a.passed().header.Get("Metrics-Gate-Trace") != "" {
			t.Errorf("%s: the application has the nonce", c.name)
		}
		if c.name == "allowed, and two gates" {
			if err := caddy.Reload(sites...); err != nil {
				t.Fatal(err)
			}
		}
		traces, text := written(t, caddy, nonce)
		var got []string
		for _, trace := range traces {
			got = append(got, strings.Join(strings.Fields(fmt.Sprintf("%v %v %v %v %v %v", trace["gate"], trace["mode"], trace["kind"],
				word(trace["decision"]), word(trace["reason"]), word(trace["reply"]))), " "))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %q, want %q\n%s", c.name, got, c.want, text)
		}
		if strings.Contains(text, `"carried":["cookie theme","cookie sid_*"]`) != (c.name == "another cookie") {
			t.Errorf("%s: the names of cookies are not there, or are: %s", c.name, text)
		}
		for _, needle := range []string{out, in, "f0rged", "eyJ", "needle", "flowId"} {
			if strings.Contains(text, needle) {
				t.Errorf("%s: the trace holds %q: %s", c.name, needle, text)
			}
		}
	}
	if got := caddy.Metric("traces_total", "event", "opened"); got != 11 {
		t.Errorf("%v traces are counted as opened", got)
	}
	if got := caddy.Metric("traces_total", "event", "written"); got != 12 {
		t.Errorf("%v requests are counted as written down", got)
	}
	for range 100 {
		_ = send(t, behind, inner, "POST /metrics", "{}", "Metrics-Gate-Trace: "+testcaddy.NewUID(t))
	}
	if got := caddy.Metric("traces_total", "event", "written"); got != 12 {
		t.Errorf("after 100 made-up nonces %v requests are counted as written down", got)
	}
}

func word(value any) string {
	text, _ := value.(string)
	return text
}
