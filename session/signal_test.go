package session_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
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
	Own:     "metrics_optout",
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
		{"a value in another letter case", everySignal, http.Header{"Cookie": {"metrics_optout=True"}}, policy.SignalOptedOut},
		{"a header in another letter case", everySignal, http.Header{"Metrics-Optout": {"FALSE"}}, policy.SignalNoObjection},
		{"a boolean of a structured field", everySignal, http.Header{"Metrics-Optout": {"?1"}}, policy.SignalOptedOut},
		{"its opposite", everySignal, http.Header{"Metrics-Optout": {"?0"}}, policy.SignalNoObjection},
		{"no boolean", everySignal, http.Header{"Metrics-Optout": {"?true"}}, policy.SignalNone},
		{"01 is no word for it", everySignal, http.Header{"Metrics-Optout": {"01"}}, policy.SignalNone},
		{"an empty cookie", everySignal, http.Header{"Cookie": {"metrics_optout="}}, policy.SignalNone},
		{"yes is no word for it", everySignal, http.Header{"Metrics-Optout": {"yes"}}, policy.SignalNone},
		{"header true", everySignal, http.Header{"Metrics-Optout": {"true"}}, policy.SignalOptedOut},
		{"header 0", everySignal, http.Header{"Metrics-Optout": {"0"}}, policy.SignalNoObjection},
		{"second header's name", everySignal, http.Header{"X-Telemetry-Off": {" 1 "}}, policy.SignalOptedOut},
		{"a header's list", everySignal, http.Header{"Metrics-Optout": {"false, true"}}, policy.SignalUnrecorded},
		{"duplicate cookies", everySignal, http.Header{"Cookie": {"metrics_optout=true; metrics_optout=false"}}, policy.SignalUnrecorded},
		{"duplicate cookies, the other way", everySignal, http.Header{"Cookie": {"metrics_optout=false; metrics_optout=true"}}, policy.SignalUnrecorded},
		{"duplicate cookies on two lines", everySignal, http.Header{"Cookie": {"metrics_optout=false", "metrics_optout=1"}}, policy.SignalUnrecorded},
		{"duplicate headers", everySignal, http.Header{"Metrics-Optout": {"true", "false"}}, policy.SignalUnrecorded},
		{
			"cookie against header", everySignal,
			http.Header{"Cookie": {"metrics_optout=0"}, "Metrics-Optout": {"1"}}, policy.SignalUnrecorded,
		},
		{"GPC", everySignal, http.Header{"Sec-Gpc": {"1"}}, policy.SignalUnrecorded},
		{"GPC, one of several", everySignal, http.Header{"Sec-Gpc": {"0", "1"}}, policy.SignalUnrecorded},
		{"GPC by the letter: 0", everySignal, http.Header{"Sec-Gpc": {"0"}}, policy.SignalNone},
		{"GPC by the letter: true", everySignal, http.Header{"Sec-Gpc": {"true"}}, policy.SignalNone},
		{"GPC by the letter: a list", everySignal, http.Header{"Sec-Gpc": {"0, 1"}}, policy.SignalNone},
		{"GPC not asked for", onlyWords, http.Header{"Sec-Gpc": {"1"}}, policy.SignalNone},
		{"DNT", everySignal, http.Header{"Dnt": {"1"}}, policy.SignalUnrecorded},
		{"DNT 0", everySignal, http.Header{"Dnt": {"0"}}, policy.SignalNone},
		{"DNT not asked for", onlyWords, http.Header{"Dnt": {"1"}}, policy.SignalNone},
		{"GPC outweighs no objection", everySignal, http.Header{"Cookie": {"metrics_optout=0"}, "Sec-Gpc": {"1"}}, policy.SignalUnrecorded},
		{"two that agree", everySignal, http.Header{"Cookie": {"metrics_optout=1"}, "Metrics-Optout": {"true"}}, policy.SignalOptedOut},
		{"no answer contradicts nothing", everySignal, http.Header{"Cookie": {"metrics_optout=none"}, "Metrics-Optout": {"true"}}, policy.SignalOptedOut},
		{"remembered of an account", everySignal, http.Header{"Cookie": {"metrics_optout=account"}}, policy.SignalUnrecorded},
		{"remembered, and the browser's own word", everySignal, http.Header{"Cookie": {"metrics_optout=account; metrics_optout=1"}}, policy.SignalOptedOut},
		{"only in the own cookie", everySignal, http.Header{"Cookie": {"telemetry_off=account"}, "Metrics-Optout": {"account"}}, policy.SignalNone},
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

// TestConsents reads what consent banners and SDKs write, as they write it.
func TestConsents(t *testing.T) {
	t.Parallel()
	consent := func(cookie, pattern string) *session.Signals {
		return &session.Signals{
			Cookies: []string{"metrics_optout"}, Headers: []string{"Metrics-Optout"}, Own: "metrics_optout",
			Consents: []session.Consent{{Cookie: cookie, OptedOut: regexp.MustCompile(pattern)}},
		}
	}
	oneTrust := consent("OptanonConsent", `groups=[^&]*C0002:0`)
	govUK := consent("cookies_policy", `"usage":false`)
	cookiebot := consent("CookieConsent", `statistics:false`)
	postHog := consent("__ph_opt_in_out_phc_key", `^0$`)
	header := &session.Signals{Consents: []session.Consent{{Header: "X-Consent", OptedOut: regexp.MustCompile(`(?i)^(denied|no)$`)}}}
	cookies := func(lines ...string) http.Header { return http.Header{"Cookie": lines} }
	for name, test := range map[string]struct {
		signals *session.Signals
		header  http.Header
		want    policy.Signal
	}{
		"OneTrust, refused":       {oneTrust, cookies("OptanonConsent=isGpcEnabled=0&datestamp=Fri+Nov+27+2026&version=202405.1.0&groups=C0001%3A1%2CC0002%3A0%2CC0004%3A1&AwaitingReconsent=false"), policy.SignalUnrecorded},
		"OneTrust, accepted":      {oneTrust, cookies("OptanonConsent=isGpcEnabled=0&groups=C0001%3A1%2CC0002%3A1%2CC0004%3A0"), policy.SignalNoObjection},
		"OneTrust, not encoded":   {oneTrust, cookies("OptanonConsent=groups=C0001:1,C0002:0"), policy.SignalUnrecorded},
		"GOV.UK, refused":         {govUK, cookies(`cookies_policy=%7B%22essential%22%3Atrue%2C%22usage%22%3Afalse%7D`), policy.SignalUnrecorded},
		"GOV.UK, accepted":        {govUK, cookies(`cookies_policy=%7B%22essential%22%3Atrue%2C%22usage%22%3Atrue%7D`), policy.SignalNoObjection},
		"Cookiebot, refused":      {cookiebot, cookies(`CookieConsent={stamp:%27x%3D%3D%27%2Cnecessary:true%2Cpreferences:false%2Cstatistics:false%2Cmarketing:false%2Cver:1}`), policy.SignalUnrecorded},
		"Cookiebot, accepted":     {cookiebot, cookies(`CookieConsent={stamp:%27x%3D%3D%27%2Cnecessary:true%2Cstatistics:true%2Cmarketing:false}`), policy.SignalNoObjection},
		"PostHog, opted out":      {postHog, cookies("__ph_opt_in_out_phc_key=0"), policy.SignalUnrecorded},
		"PostHog, opted in":       {postHog, cookies("__ph_opt_in_out_phc_key=1"), policy.SignalNoObjection},
		"a header":                {header, http.Header{"X-Consent": {" Denied "}}, policy.SignalUnrecorded},
		"one of two headers":      {header, http.Header{"X-Consent": {"granted", "no"}}, policy.SignalUnrecorded},
		"decoded once":            {govUK, cookies(`cookies_policy=%257B%2522usage%2522%253Afalse%257D`), policy.SignalNoObjection},
		"a broken escape":         {oneTrust, cookies("OptanonConsent=x=100%&groups=C0001%3A1%2CC0002%3A0"), policy.SignalUnrecorded},
		"escaped by escape()":     {cookiebot, cookies("CookieConsent={region:%27%u00e9%27%2Cstatistics%3Afalse}"), policy.SignalUnrecorded},
		"a plus":                  {consent("c", `^a\+b $`), cookies("c=a+b%20"), policy.SignalUnrecorded},
		"not to be decoded":       {oneTrust, cookies("OptanonConsent=groups=C0002:0&x=%"), policy.SignalUnrecorded},
		"empty":                   {postHog, cookies("__ph_opt_in_out_phc_key="), policy.SignalNone},
		"another cookie":          {postHog, cookies("x__ph_opt_in_out_phc_key=0"), policy.SignalNone},
		"one of two":              {postHog, cookies("__ph_opt_in_out_phc_key=1", "__ph_opt_in_out_phc_key=0"), policy.SignalUnrecorded},
		"too long":                {postHog, cookies("__ph_opt_in_out_phc_key=" + strings.Repeat("1", 4097)), policy.SignalUnrecorded},
		"contradicts the browser": {postHog, cookies("__ph_opt_in_out_phc_key=1; metrics_optout=true"), policy.SignalUnrecorded},
		"agrees with the browser": {postHog, cookies("__ph_opt_in_out_phc_key=0; metrics_optout=true"), policy.SignalOptedOut},
	} {
		if got := test.signals.Read(test.header); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	// Consent of this site is no answer to what the handshake asks.
	postHog.Probing = true
	asked := http.Header{"User-Agent": {"Firefox/153.0"}, "Cookie": {"__ph_opt_in_out_phc_key=1"}}
	if got := postHog.Read(asked); got != policy.SignalProbing {
		t.Errorf("a Firefox that consented here and was not heard: %v", got)
	}
}

// TestReported is what the browser says in a report of its own.
func TestReported(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		want   policy.Signal
	}{
		"nothing else":                        {http.Header{}, policy.SignalOptedOut},
		"the own cookie is what it said once": {http.Header{"Cookie": {"metrics_optout=0"}}, policy.SignalOptedOut},
		"so is what the gate remembers":       {http.Header{"Cookie": {"metrics_optout=account"}}, policy.SignalOptedOut},
		"another cookie contradicts":          {http.Header{"Cookie": {"telemetry_off=0"}}, policy.SignalUnrecorded},
		"a header contradicts":                {http.Header{"Metrics-Optout": {"false"}}, policy.SignalUnrecorded},
		"a header agrees":                     {http.Header{"Metrics-Optout": {"true"}}, policy.SignalOptedOut},
	} {
		if got := everySignal.Reported(test.header); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestNothingHidesAnOptOut adds an opt-out anywhere in an arbitrary header: it
// blocks, and is recorded only where nothing contradicts it.
func TestNothingHidesAnOptOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := http.Header{}
		words := rapid.SampledFrom([]string{"true", "1", "false", "0", "", "yes", "TRUE", "?1", "?0", "False", "none", "account"})
		var said []string
		says := func(label string, add func(string)) {
			for range rapid.IntRange(0, 3).Draw(t, label) {
				word := words.Draw(t, "word")
				said = append(said, strings.ToLower(word))
				add(word)
			}
		}
		cookies := []string{"a=b"}
		says("cookies", func(word string) { cookies = append(cookies, "telemetry_off="+word) })
		says("headers", func(word string) { h.Add("Metrics-Optout", word) })
		h.Set("Cookie", strings.Join(cookies, "; "))
		has := func(words ...string) bool {
			return slices.ContainsFunc(said, func(word string) bool { return slices.Contains(words, word) })
		}
		want := policy.SignalNone
		switch optedOut, noObjection := has("true", "1", "?1"), has("false", "0", "?0"); {
		case optedOut && noObjection:
			want = policy.SignalUnrecorded
		case optedOut:
			want = policy.SignalOptedOut
		case noObjection:
			want = policy.SignalNoObjection
		}
		if got := everySignal.Read(h); got != want {
			t.Fatalf("%v is %v, want %v", h, got, want)
		}
	})
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func withoutEscapes(text string) string {
	return escape.ReplaceAllStringFunc(text, func(escaped string) string {
		one, _ := url.PathUnescape(escaped)
		return one
	})
}

// FuzzConsent reads a consent's cookie by a slow second opinion: net/url and
// regexp on the whole value.
func FuzzConsent(f *testing.F) {
	for _, value := range []string{"groups=C0001%3A1%2CC0002%3A0", "%", "%25", "", "C0002:0", strings.Repeat("x", 5000), `"C0002:0"`} {
		f.Add(value)
	}
	pattern := regexp.MustCompile(`C0002:0`)
	signals := &session.Signals{Consents: []session.Consent{{Cookie: "consent", OptedOut: pattern}}}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "; \t\r\n\"") {
			return // it ends there, or is trimmed
		}
		want := policy.SignalNone
		if value != "" {
			decoded := withoutEscapes(value)
			want = policy.SignalNoObjection
			if len(decoded) > 4096 || pattern.MatchString(decoded) {
				want = policy.SignalUnrecorded
			}
		}
		if got := signals.Read(http.Header{"Cookie": {"a=b; consent=" + value + "; c=d"}}); got != want {
			t.Errorf("%q is %v, want %v", value, got, want)
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
		{"GPC says more", asking, http.Header{"User-Agent": {firefox}, "Sec-Gpc": {"1"}}, policy.SignalUnrecorded},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.signals.Read(test.header); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestPlaces: where what counts was found, by the names that are configured and
// without a value.
func TestPlaces(t *testing.T) {
	t.Parallel()
	signals := *everySignal
	signals.Consents = []session.Consent{{Cookie: "consent", OptedOut: regexp.MustCompile("no")}, {Header: "X-Consent", OptedOut: regexp.MustCompile("no")}}
	for _, test := range []struct {
		header http.Header
		want   string
	}{
		{http.Header{"Cookie": {"a=b"}}, ""},
		{http.Header{"Cookie": {"metrics_optout=nonsense"}}, ""},
		{http.Header{"Cookie": {"metrics_optout=1; telemetry_off=0"}}, "cookie metrics_optout, cookie telemetry_off"},
		{http.Header{"Cookie": {"metrics_optout=account"}}, "cookie metrics_optout"},
		{http.Header{"Metrics-Optout": {"1"}, "Sec-Gpc": {"1"}, "Dnt": {"1"}}, "header Metrics-Optout, header Sec-GPC, header DNT"},
		{http.Header{"Cookie": {"consent=no"}, "X-Consent": {"yes"}}, "cookie consent, header X-Consent"},
	} {
		if got := strings.Join(signals.Places(test.header), ", "); got != test.want {
			t.Errorf("%v: %q, want %q", test.header, got, test.want)
		}
	}
}
