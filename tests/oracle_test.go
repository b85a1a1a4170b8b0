package tests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Nobody can ask for another account's preference by naming it: whatever a
// request is, and whatever the application makes of it, its answer is the same
// to the byte for accounts that opted out and for those that did not.
func TestNoOracle(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	drop, reject, encoded, lenient, consent := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	front := func(addr, before string, options ...string) string {
		return testcaddy.Site(addr, before, testcaddy.Gate(append(options, "preset fxa", testcaddy.SessionJWT(), profile.block(patient))...), testcaddy.ProxyTo(behind.addr()))
	}
	testcaddy.Start(t,
		front(drop, ""),
		front(reject, "", "block_with reject"),
		front(encoded, "encode {\ngzip\nminimum_length 1\n}"),
		front(lenient, "", "on_unknown collect"),
		front(consent, "", "on_unset block"),
	)
	const placeholder = "@UID@"
	valid := flushOf(t, placeholder)
	requests := map[string]struct {
		request, body string
		headers       []string
	}{
		"valid":              {"POST /metrics", valid, []string{"Content-Type: application/json"}},
		"as a beacon":        {"POST /metrics", valid, []string{"Content-Type: text/plain;charset=UTF-8"}},
		"another spelling":   {"POST //Metrics/", valid, nil},
		"with a query":       {"POST /metrics?x=1", valid, nil},
		"what is refused":    {"POST /metrics", `{"uid":"` + placeholder + `"}`, nil},
		"broken JSON":        {"POST /metrics", `{"uid":"` + placeholder + `",`, nil},
		"trailing garbage":   {"POST /metrics", `{"uid":"` + placeholder + `"}}`, nil},
		"named twice":        {"POST /metrics", `{"uid":"none","uid":"` + placeholder + `"}`, nil},
		"asks for gzip":      {"POST /metrics", valid, []string{"Accept-Encoding: gzip"}},
		"conditional":        {"POST /metrics", valid, []string{`If-None-Match: W/"10-ok"`, `If-Match: "x"`}},
		"from another site":  {"POST /metrics", valid, []string{"Origin: https://evil.test", "Sec-Fetch-Site: cross-site"}},
		"as a page":          {"POST /metrics", valid, []string{"Accept: text/html", "Sec-Fetch-Dest: document"}},
		"a range":            {"POST /metrics", valid, []string{"Range: bytes=0-3"}},
		"expecting":          {"POST /metrics", valid, []string{"Expect: 100-continue"}},
		"with a session":     {"POST /metrics", valid, []string{testcaddy.Cookie(testcaddy.Session(profile.account(unset)))}},
		"allowed session":    {"POST /metrics", valid, []string{testcaddy.Cookie(testcaddy.Session(profile.account(allow)))}},
		"opted-out session":  {"POST /metrics", valid, []string{testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))}},
		"bad session":        {"POST /metrics", valid, []string{testcaddy.Cookie("garbage")}},
		"a signal":           {"POST /metrics", valid, []string{"Cookie: metrics_optout=true"}},
		"an error report":    {"POST /metrics-errors", valid, nil},
		"error, refused":     {"POST /metrics-errors", `{"uid":"` + placeholder + `"}`, nil},
		"an experiment":      {"POST /nimbus-experiments", `{"client_id":"sync","context":{},"uid":"` + placeholder + `"}`, nil},
		"HTTP/1.0 and alike": {"POST /metrics", valid, []string{"Pragma: no-cache"}},
	}
	for siteName, addr := range map[string]string{"drop": drop, "reject": reject, "encoded": encoded, "on_unknown collect": lenient, "on_unset block": consent} {
		for name, c := range requests {
			t.Run(siteName+"/"+name, func(t *testing.T) {
				t.Parallel()
				answers := map[preference]string{}
				for _, choice := range []preference{optOut, allow, unset} {
					if choice == unset && siteName == "on_unset block" {
						continue
					}
					// Twice: looked up, and cached.
					uid := profile.account(choice)
					for range 2 {
						body := strings.ReplaceAll(c.body, placeholder, uid)
						raw := withoutDate(speak(t, addr, fmt.Sprintf("%s HTTP/1.1\r\nHost: gate.test\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s",
							c.request, len(body), lines(c.headers), body)))
						if before, seen := answers[choice]; seen && before != raw {
							t.Errorf("preference %s: two answers (-first +second)\n%s", choice, cmp.Diff(before, raw))
						}
						answers[choice] = raw
					}
				}
				for _, choice := range []preference{allow, unset} {
					if got, sent := answers[choice]; sent && got != answers[optOut] {
						t.Errorf("the answer tells opted out from %s (-opted out +%s)\n%s", choice, choice, cmp.Diff(answers[optOut], got))
					}
				}
			})
		}
	}
}

func lines(headers []string) string {
	var all strings.Builder
	for _, header := range headers {
		all.WriteString(header + "\r\n")
	}
	return all.String()
}

// Nor does the answer to one's own requests show what was decided, where the
// gate answers for the application: whatever the reason and whoever the subject.
func TestSameAnswerForEverybody(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", "signal {\ngpc\n}", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)

	for _, request := range []string{"POST /metrics", "POST /metrics-errors", "GET /metrics-errors?sentry_data=%7B%7D", "HEAD /metrics-errors"} {
		first := ""
		for name, headers := range map[string][]string{
			"anonymous":          nil,
			"allowed":            {testcaddy.Cookie(testcaddy.Session(in))},
			"opted out":          {testcaddy.Cookie(testcaddy.Session(out))},
			"no choice":          {testcaddy.Cookie(testcaddy.Session(profile.account(unset)))},
			"no choice, signal":  {testcaddy.Cookie(testcaddy.Session(profile.account(unset))), "Metrics-Optout: 1"},
			"unknown":            {testcaddy.Cookie(testcaddy.Session(profile.account(unknown)))},
			"expired":            {testcaddy.Cookie(testcaddy.Session(in, testcaddy.Expired))},
			"expired, opted out": {testcaddy.Cookie(testcaddy.Session(out, testcaddy.Expired))},
			"unverifiable":       {testcaddy.Cookie("garbage")},
			"signal":             {"Metrics-Optout: 1"},
			"GPC":                {"Sec-GPC: 1"},
		} {
			raw := withoutDate(speak(t, addr, request+" HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 0\r\n"+lines(headers)+"Connection: close\r\n\r\n"))
			if first == "" {
				first = raw
			}
			if raw != first {
				t.Errorf("%s, %s (-others +this)\n%s", request, name, cmp.Diff(first, raw))
			}
		}
	}
}

// Where the application breaks, the answer is the route's all the same; the
// status goes into a counter instead.
func TestUpstreamBreaks(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, away := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(away, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(testcaddy.FreeAddr(t))))
	in, out := profile.account(allow), profile.account(optOut)
	say := func(addr, uid string) string {
		body := `{"uid":"` + uid + `"}`
		return withoutDate(speak(t, addr, fmt.Sprintf("POST /metrics HTTP/1.1\r\nHost: gate.test\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)))
	}
	for name, addr := range map[string]string{"refuses": addr, "is away": away} {
		if diff := cmp.Diff(say(addr, out), say(addr, in)); diff != "" {
			t.Errorf("an application that %s shows (-blocked +collected)\n%s", name, diff)
		}
	}
	testcaddy.Until(t, "both to be counted", func() bool { return caddy.Metric("upstream_total") == 2 })
	for _, class := range []string{"4xx", "5xx"} {
		if got := caddy.Metric("upstream_total", "class", class); got != 1 {
			t.Errorf("%v replies were counted as %s", got, class)
		}
	}
}
