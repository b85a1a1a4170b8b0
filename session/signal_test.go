package session_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

var everySignal = &session.Signals{
	Cookies: []string{"metrics_optout", "telemetry_off"},
	Headers: []string{"Metrics-Optout", "X-Telemetry-Off"},
	GPC:     true,
	DNT:     true,
}

func TestSignals(t *testing.T) {
	t.Parallel()
	onlyWords := &session.Signals{Cookies: []string{"metrics_optout"}, Headers: []string{"Metrics-Optout"}}
	for _, test := range []struct {
		name    string
		signals *session.Signals
		header  http.Header
		want    policy.Signal
	}{
		{"nothing said", everySignal, http.Header{"Cookie": {"a=b"}}, policy.SignalNone},
		{"cookie true", everySignal, http.Header{"Cookie": {"metrics_optout=true"}}, policy.SignalOptedOut},
		{"cookie 1, quoted", everySignal, http.Header{"Cookie": {`a=b; metrics_optout="1"`}}, policy.SignalOptedOut},
		{"cookie false", everySignal, http.Header{"Cookie": {"metrics_optout=false"}}, policy.SignalNoObjection},
		{"cookie 0", everySignal, http.Header{"Cookie": {"metrics_optout=0"}}, policy.SignalNoObjection},
		{"second cookie's name", everySignal, http.Header{"Cookie": {"telemetry_off=1"}}, policy.SignalOptedOut},
		{"another letter case is another cookie", everySignal, http.Header{"Cookie": {"Metrics_Optout=true"}}, policy.SignalNone},
		{"another letter case is another value", everySignal, http.Header{"Cookie": {"metrics_optout=True"}}, policy.SignalNone},
		{"an empty cookie", everySignal, http.Header{"Cookie": {"metrics_optout="}}, policy.SignalNone},
		{"yes is no word for it", everySignal, http.Header{"Metrics-Optout": {"yes"}}, policy.SignalNone},
		{"header true", everySignal, http.Header{"Metrics-Optout": {"true"}}, policy.SignalOptedOut},
		{"header 0", everySignal, http.Header{"Metrics-Optout": {"0"}}, policy.SignalNoObjection},
		{"second header's name", everySignal, http.Header{"X-Telemetry-Off": {" 1 "}}, policy.SignalOptedOut},
		{"a header's list", everySignal, http.Header{"Metrics-Optout": {"false, true"}}, policy.SignalOptedOut},
		{"duplicate cookies", everySignal, http.Header{"Cookie": {"metrics_optout=true; metrics_optout=false"}}, policy.SignalOptedOut},
		{"duplicate cookies, the other way", everySignal, http.Header{"Cookie": {"metrics_optout=false; metrics_optout=true"}}, policy.SignalOptedOut},
		{"duplicate cookies on two lines", everySignal, http.Header{"Cookie": {"metrics_optout=false", "metrics_optout=1"}}, policy.SignalOptedOut},
		{"duplicate headers", everySignal, http.Header{"Metrics-Optout": {"true", "false"}}, policy.SignalOptedOut},
		{
			"cookie against header", everySignal,
			http.Header{"Cookie": {"metrics_optout=0"}, "Metrics-Optout": {"1"}}, policy.SignalOptedOut,
		},
		{"GPC", everySignal, http.Header{"Sec-Gpc": {"1"}}, policy.SignalPrivacyHeader},
		{"GPC, one of several", everySignal, http.Header{"Sec-Gpc": {"0", "1"}}, policy.SignalPrivacyHeader},
		{"GPC by the letter: 0", everySignal, http.Header{"Sec-Gpc": {"0"}}, policy.SignalNone},
		{"GPC by the letter: true", everySignal, http.Header{"Sec-Gpc": {"true"}}, policy.SignalNone},
		{"GPC by the letter: a list", everySignal, http.Header{"Sec-Gpc": {"0, 1"}}, policy.SignalNone},
		{"GPC not asked for", onlyWords, http.Header{"Sec-Gpc": {"1"}}, policy.SignalNone},
		{"DNT", everySignal, http.Header{"Dnt": {"1"}}, policy.SignalPrivacyHeader},
		{"DNT 0", everySignal, http.Header{"Dnt": {"0"}}, policy.SignalNone},
		{"DNT not asked for", onlyWords, http.Header{"Dnt": {"1"}}, policy.SignalNone},
		{"GPC outweighs no objection", everySignal, http.Header{"Cookie": {"metrics_optout=0"}, "Sec-Gpc": {"1"}}, policy.SignalPrivacyHeader},
		{"an opt-out outweighs DNT", everySignal, http.Header{"Metrics-Optout": {"1"}, "Dnt": {"1"}}, policy.SignalOptedOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.signals.Read(test.header); got != test.want {
				t.Errorf("%v is %v, want %v", test.header, got, test.want)
			}
		})
	}
}

// TestNothingHidesAnOptOut adds an opt-out anywhere in an arbitrary header.
func TestNothingHidesAnOptOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := http.Header{}
		words := rapid.SampledFrom([]string{"true", "1", "false", "0", "", "yes", "TRUE"})
		says := func(label string, opt func(string)) {
			for range rapid.IntRange(0, 3).Draw(t, label) {
				opt(words.Draw(t, "word"))
			}
		}
		cookies := []string{"a=b"}
		says("cookies", func(word string) { cookies = append(cookies, "metrics_optout="+word) })
		says("headers", func(word string) { h.Add("Metrics-Optout", word) })
		says("GPC", func(word string) { h.Add("Sec-GPC", word) })
		said := fmt.Sprint(cookies, h["Metrics-Optout"])
		want := strings.Contains(said, "true") || strings.Contains(said, "1")
		h.Set("Cookie", strings.Join(cookies, "; "))
		if got := everySignal.Read(h); (got == policy.SignalOptedOut) != want {
			t.Fatalf("%v is %v", h, got)
		}
	})
}

func TestSignalsAllocateNothing(t *testing.T) {
	h := manyCookies(50)
	h["Cookie"] = append(h["Cookie"], "metrics_optout=0; telemetry_off=1")
	h["Metrics-Optout"] = []string{"false", "0, 1"}
	h["Sec-Gpc"] = []string{"1"}
	if n := testing.AllocsPerRun(100, func() { everySignal.Read(h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSignals(b *testing.B) {
	signals := &session.Signals{Cookies: []string{"metrics_optout"}, Headers: []string{"Metrics-Optout"}, GPC: true}
	for name, h := range map[string]http.Header{
		"anonymous": {"Accept": {"*/*"}, "User-Agent": {"Mozilla/5.0"}},
		"optedout":  {"Cookie": {"canGoBack=1; metrics_optout=true"}},
		"cookies50": manyCookies(50),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				signals.Read(h)
			}
		})
	}
}

// TestProbing holds who counts as being asked: a browser that has a WebChannel
// and of which nothing is known yet.
func TestProbing(t *testing.T) {
	t.Parallel()
	const (
		firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
		ios     = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/153.0 Mobile/15E148 Safari/605.1.15"
		chrome  = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
	)
	asking := &session.Signals{Cookies: []string{"metrics_optout"}, Headers: []string{"Metrics-Optout"}, GPC: true, Probing: true}
	silent := &session.Signals{Cookies: asking.Cookies, Headers: asking.Headers}
	for _, test := range []struct {
		name    string
		signals *session.Signals
		header  http.Header
		want    policy.Signal
	}{
		{"Firefox, nothing said", asking, http.Header{"User-Agent": {firefox}}, policy.SignalProbing},
		{"the handshake is off", silent, http.Header{"User-Agent": {firefox}}, policy.SignalNone},
		{"Chrome", asking, http.Header{"User-Agent": {chrome}}, policy.SignalNone},
		{"Firefox on iOS", asking, http.Header{"User-Agent": {ios}}, policy.SignalNone},
		{"no User-Agent", asking, http.Header{}, policy.SignalNone},
		{"no answer", asking, http.Header{"User-Agent": {firefox}, "Cookie": {"metrics_optout=none"}}, policy.SignalNone},
		{"no objection", asking, http.Header{"User-Agent": {firefox}, "Cookie": {"metrics_optout=0"}}, policy.SignalNoObjection},
		{"opted out", asking, http.Header{"User-Agent": {firefox}, "Cookie": {"metrics_optout=none; metrics_optout=1"}}, policy.SignalOptedOut},
		{"a word that means nothing", asking, http.Header{"User-Agent": {firefox}, "Cookie": {"metrics_optout=maybe"}}, policy.SignalProbing},
		{"another cookie's none", asking, http.Header{"User-Agent": {firefox}, "Cookie": {"theme=none"}}, policy.SignalProbing},
		{"GPC says more", asking, http.Header{"User-Agent": {firefox}, "Sec-Gpc": {"1"}}, policy.SignalPrivacyHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.signals.Read(test.header); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
