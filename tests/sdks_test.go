package tests

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

const (
	form = "Content-Type: application/x-www-form-urlencoded; charset=UTF-8"
	text = "Content-Type: text/plain;charset=UTF-8"
	js   = "Content-Type: application/json"
)

// A wire is a request as the published code of an SDK sends it. USER stands for
// who is named, in whatever encoding follows.
type wire struct {
	name, request, body string
	encode              func(string) string // the body, when USER has been filled in
	headers             []string
	answer              string // what the SDK takes for success, where it is not that of the others
}

func inField(body string) string  { return "data=" + url.QueryEscape(body) + "&verbose=1&ip=1" }
func inBase64(body string) string { return inField(base64.StdEncoding.EncodeToString([]byte(body))) }

// wired is what an SDK sends.
type wired struct {
	preset, answer string // the line, and what the SDK takes for success
	requests       []wire
}

// wires are those that tests/sdks does not send from a browser, because npm has
// no such SDK, or because it sends them only in some configuration.
var wires = []wired{
	{"preset matomo /matomo", `204 `, []wire{ // matomo.js
		{name: "an image", request: "GET /matomo/matomo.php?action_name=x&idsite=1&rec=1&r=1&h=1&m=2&s=3&url=https%3A%2F%2Fa%2F&uid=USER&_id=0123456789abcdef&send_image=0"},
		{name: "a beacon", request: "POST /matomo/matomo.php", body: "action_name=x&idsite=1&rec=1&url=https%3A%2F%2Fa%2F&uid=USER&_id=0123456789abcdef&send_image=0", headers: []string{form}},
		{name: "a bulk", request: "POST /matomo/matomo.php", body: `{"requests":["?idsite=1&rec=1&uid=USER&_id=0123456789abcdef","?idsite=1&rec=1&e_c=a&uid=USER&_id=0123456789abcdef"],"send_image":0}`, headers: []string{form}},
		{name: "a bulk of a server", request: "POST /matomo/matomo.php", body: `{"requests":["?idsite=1&rec=1&uid=USER"],"token_auth":"x"}`, headers: []string{js}},
	}},
	{"preset umami /umami", `200 {}`, []wire{ // its script
		{name: "a page", request: "POST /umami/api/send", body: `{"type":"event","payload":{"website":"w","screen":"1x1","language":"en","title":"t","hostname":"a","url":"https://a/","referrer":"","id":"USER","vid":"00000000-0000-4000-8000-000000000000"}}`, headers: []string{js}},
		{name: "identify", request: "POST /umami/api/send", body: `{"type":"identify","payload":{"website":"w","url":"https://a/","id":"USER","data":{"id":"x"}}}`, headers: []string{js, "X-Umami-Cache: x"}},
	}},
	{"preset ga4", `204 `, []wire{ // gtag.js
		{name: "one event", request: "POST /g/collect?v=2&tid=G-1&gtm=1&_p=1&cid=1.2&uid=USER&ul=en&en=page_view&_ee=1"},
		{name: "an image", request: "GET /g/collect?v=2&tid=G-1&cid=1.2&uid=USER&en=page_view"},
		{name: "several events", request: "POST /g/collect?v=2&tid=G-1&cid=1.2", body: "en=page_view&uid=USER\r\nen=scroll&epn.percent_scrolled=90&uid=USER", headers: []string{text}},
	}},
	{"preset mixpanel /mixpanel", `200 {"status":1,"error":null}`, []wire{
		{name: "track, base64", request: "POST /mixpanel/track/?verbose=1&ip=1", body: `[{"event":"e","properties":{"distinct_id":"USER","$device_id":"d"}}]`, encode: inBase64, headers: []string{form}},
		{name: "track, JSON in a field", request: "POST /mixpanel/track/", body: `{"event":"e","properties":{"distinct_id":"USER"}}`, encode: inField, headers: []string{form}},
		{name: "track, JSON", request: "POST /mixpanel/track", body: `[{"event":"e","properties":{"distinct_id":"USER"}}]`, headers: []string{js}},
		{name: "engage", request: "POST /mixpanel/engage/", body: `[{"$set":{"x":1},"$token":"t","$distinct_id":"USER"}]`, encode: inField, headers: []string{form}},
		{name: "track, by GET", request: "GET /mixpanel/track/?data=e30%3D&verbose=1"},
		{name: "a flag's first event", request: "POST /mixpanel/flags/1/first-time-events?mp_lib=web", body: `{"distinct_id":"USER","project_id":1,"first_time_event_hash":"x"}`, headers: []string{js}, answer: "200 {}"},
		{name: "a recording", request: "POST /mixpanel/record/?distinct_id=USER&seq=0&batch_start_time=1&replay_id=r", body: "\x1f\x8b\x08\x00binary", headers: []string{"Content-Type: application/octet-stream"}},
	}},
	{"preset posthog /ph", `200 {"status":1}`, []wire{
		{name: "without batching", request: "POST /ph/e/", body: `{"event":"e","properties":{"distinct_id":"USER","token":"t"}}`, headers: []string{js}},
		{name: "as the page goes", request: "POST /ph/e/?ip=0&beacon=1", body: `[{"event":"e","properties":{"distinct_id":"USER"}}]`, encode: inBase64, headers: []string{form}},
		{name: "gzip", request: "POST /ph/e/?compression=gzip-js", body: `{"api_key":"k","batch":[{"event":"e","properties":{"distinct_id":"USER"}}]}`, encode: gzipped, headers: []string{text}},
		{name: "a replay", request: "POST /ph/s/?compression=gzip-js", body: `{"event":"$snapshot","properties":{"$snapshot_data":"` + strings.Repeat("x", 600<<10) + `","distinct_id":"USER"}}`, encode: gzipped, headers: []string{text}},
		{name: "a server's batch", request: "POST /ph/batch/", body: `{"api_key":"k","batch":[{"event":"e","distinct_id":"USER","properties":{}}]}`, headers: []string{js}},
	}},
	{"preset segment /segment", `200 {"success":true}`, []wire{
		{name: "identify", request: "POST /segment/v1/i", body: `{"type":"identify","userId":"USER","anonymousId":"a","traits":{}}`, headers: []string{text}},
		{name: "a batch", request: "POST /segment/v1/b", body: `{"writeKey":"k","batch":[{"type":"track","event":"e","userId":"USER"}],"sentAt":"x"}`, headers: []string{text}},
		{name: "RudderStack's batch", request: "POST /segment/v1/batch", body: `{"batch":[{"type":"track","event":"e","userId":"USER"}]}`, headers: []string{js}},
		{name: "RudderStack's own errors", request: "POST /segment/rsaMetrics", body: `{"version":"1","message_id":"m","source":{"name":"js"},"errors":{"events":[]}}`, headers: []string{js}, answer: "200 OK"},
		{name: "RudderStack's beacon", request: "POST /segment/beacon/v1/batch?writeKey=k", body: `{"batch":[{"type":"page","userId":"USER"}]}`, headers: []string{text}, answer: "200 OK"},
	}},
	{"preset amplitude /amplitude", `200 {"code":200}`, []wire{
		{name: "gzip", request: "POST /amplitude/2/httpapi", body: `{"api_key":"k","events":[{"event_type":"e","user_id":"USER","device_id":"d"}]}`, encode: gzipped, headers: []string{js, "Content-Encoding: gzip"}},
	}},
	{"preset countly /countly", `200 {"result":"Success"}`, []wire{
		{name: "in the address", request: "GET /countly/i?app_key=k&device_id=USER&events=%5B%5D"},
		{name: "a form", request: "POST /countly/i", body: "app_key=k&device_id=USER&begin_session=1", headers: []string{form}},
	}},
	{"preset snowplow /sp", `200 ok`, []wire{
		{name: "an image", request: "GET /sp/i?stm=1&e=pv&url=https%3A%2F%2Fa%2F&uid=USER&p=web"},
	}},
	{"preset sentry /tunnel", `200 {}`, []wire{
		{name: "an envelope with an attachment", request: "POST /tunnel", body: `{"event_id":"x","dsn":"https://k@o1.ingest.sentry.io/1"}` + "\n" + `{"type":"event"}` + "\n" + `{"message":"m","user":{"id":"USER"}}` + "\n" + `{"type":"attachment","length":4}` + "\n\x00\x01\x02\x03", headers: []string{text}},
		{name: "a transaction", request: "POST /tunnel", body: `{"event_id":"x"}` + "\n" + `{"type":"transaction"}` + "\n" + `{"type":"transaction","spans":[],"user":{"id":"USER"}}`, headers: []string{text}},
	}},
	{"preset plausible /stats", `202 ok`, []wire{
		{name: "an event", request: "POST /stats/api/event", body: `{"n":"pageview","u":"https://a/","d":"a","r":null}`, headers: []string{text}},
	}},
	{"preset ahoy", `200 {}`, []wire{
		{name: "a visit", request: "POST /ahoy/visits", body: `{"visit_token":"v","visitor_token":"w","platform":"Web"}`, headers: []string{js}},
	}},
	{"preset glean /glean", `200 OK`, []wire{
		{name: "a ping", request: "POST /glean/submit/app/events/1/00000000-0000-4000-8000-000000000000", body: `{"ping_info":{},"client_info":{"client_id":"c"}}`, headers: []string{text}},
	}},
}

// Without a profile every preset does what browsers say, asks about nobody whom a
// request names, and says so.
func TestPresetsWithoutProfile(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	all := append(slices.Clip(wires), wired{"preset fxa", `200 {"success":true}`, []wire{
		{name: "a flush", request: "POST /metrics", body: `{"uid":"USER"}`, headers: []string{js}},
	}})
	addrs, sites := map[string]string{}, []string{}
	for _, sdk := range all {
		addrs[sdk.preset] = testcaddy.FreeAddr(t)
		sites = append(sites, testcaddy.Site(addrs[sdk.preset], testcaddy.Gate(sdk.preset, "signal {\ngpc\n}"), testcaddy.ProxyTo(behind.addr())))
	}
	caddy := testcaddy.Start(t, sites...)
	for _, sdk := range all {
		names := false
		for _, w := range sdk.requests {
			user := testcaddy.NewUID(t)
			body, request := strings.ReplaceAll(w.body, "USER", user), strings.ReplaceAll(w.request, "USER", user)
			names = names || body+request != w.body+w.request
			if w.encode != nil {
				body = w.encode(body)
			}
			shown := send(t, behind, behind.addr(), request, body, w.headers...) // without a gate
			a := send(t, behind, addrs[sdk.preset], request, body, w.headers...)
			if !a.collected() || a.status != shown.status || a.body != shown.body {
				t.Errorf("%s, %s: %s, answered %d %q and without a gate %d %q", sdk.preset, w.name, a.decision(), a.status, a.body, shown.status, shown.body)
			}
			a = send(t, behind, addrs[sdk.preset], request, body, append(slices.Clip(w.headers), "Sec-GPC: 1")...)
			if got := fmt.Sprintf("%d %s", a.status, a.body); a.collected() || got != cmp.Or(w.answer, sdk.answer) {
				t.Errorf("%s, %s, with GPC: %s, answered %q", sdk.preset, w.name, a.decision(), got)
			}
		}
		said := len(caddy.Log.Where(func(line string) bool {
			return strings.Contains(line, "there is no profile, so the preferences of the accounts that its requests name are not looked up") &&
				strings.Contains(line, "metrics_gate › preset "+strings.Fields(sdk.preset)[1]+`"`)
		}))
		if (said > 0) != names {
			t.Errorf("%s: %d lines say that nobody is looked up", sdk.preset, said)
		}
	}
}

// TestSDKsOnTheWire replays what SDKs send that no browser here runs: who opted
// out, by session or as whom the request names, is blocked and gets what the SDK
// takes for success; everybody else's arrives as it was sent.
func TestSDKsOnTheWire(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	out, in := profile.account(optOut), profile.account(allow)
	addrs, sites := map[string]string{}, []string{}
	for _, sdk := range wires {
		addrs[sdk.preset] = testcaddy.FreeAddr(t)
		sites = append(sites, testcaddy.Site(addrs[sdk.preset], testcaddy.Gate(sdk.preset, testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	}
	testcaddy.Start(t, sites...)
	for _, sdk := range wires {
		for _, w := range sdk.requests {
			t.Run(strings.Fields(sdk.preset)[1]+"/"+w.name, func(t *testing.T) {
				t.Parallel()
				named := strings.Contains(w.request+w.body, "USER")
				for _, c := range []struct {
					who, user, session string
					blocked            bool
				}{
					{"nobody", "", "", false},
					{"named, opted out", out, "", named},
					{"named, allows", in, "", false},
					{"signed in, opted out", "", out, true},
					{"signed in, allows", in, in, false},
					{"another one signed in", out, in, named},
				} {
					body := strings.ReplaceAll(w.body, "USER", c.user)
					if w.encode != nil {
						body = w.encode(body)
					}
					headers := w.headers
					if c.session != "" {
						headers = append(slices.Clip(headers), testcaddy.Cookie(testcaddy.Session(c.session)))
					}
					a := send(t, behind, addrs[sdk.preset], strings.ReplaceAll(w.request, "USER", c.user), body, headers...)
					if got := a.decision() == "block"; got != c.blocked {
						t.Errorf("%s: %s", c.who, a.decision())
					}
					if got := fmt.Sprintf("%d %s", a.status, a.body); c.blocked && got != cmp.Or(w.answer, sdk.answer) {
						t.Errorf("%s: answered %q", c.who, got)
					}
					if a.collected() && string(a.passed().body) != body {
						t.Errorf("%s: the application got %d bytes, not the %d sent", c.who, len(a.passed().body), len(body))
					}
				}
			})
		}
	}
}
