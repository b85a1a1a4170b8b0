package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// instantProfile is a profile server without a network. The first character of
// an account says what it prefers: opted out, allows, null; of others nothing is
// learnt. The second says how long it takes, in units of 10 ms.
type instantProfile struct{}

func (instantProfile) RoundTrip(r *http.Request) (*http.Response, error) {
	uid := strings.TrimPrefix(r.URL.Path, "/")
	if wait := time.Duration(uid[1]-'0') * 10 * time.Millisecond; wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	reply := httptest.NewRecorder()
	reply.Header().Set("Content-Type", "application/json")
	preference, known := map[byte]string{'f': "true", 'a': "false", '0': "null"}[uid[0]]
	if !known {
		reply.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = io.WriteString(reply, `{"metrics_optout":`+preference+`}`)
	return reply.Result(), nil
}

// The kinds of accounts that instantProfile knows.
var kinds = map[string]byte{"out": 'f', "allows": 'a', "unset": '0', "unknown": 'b'}

// accountOf is the n-th account of a kind.
func accountOf(kind string, n int) string { return fmt.Sprintf("%c%031x", kinds[kind], n) }

// severalConfig is a gate that looks for sessions in a cookie and in a header,
// in another cookie, and in a third one about which nobody can be asked.
func severalConfig(tb testing.TB, timeout time.Duration) Config {
	tb.Helper()
	client, err := profileclient.New(profileclient.Config{
		URL: "https://profile.test/{uid}", Auth: profileclient.Bearer("x"), Transport: instantProfile{}, MaxAge: time.Hour, Timeout: timeout,
	})
	if err != nil {
		tb.Fatal(err)
	}
	verifier := func() *token.Verifier {
		verifier, err := token.NewVerifier(token.Config{Secret: []byte(secret), Issuers: []string{"id"}, Audiences: []string{"web"}})
		if err != nil {
			tb.Fatal(err)
		}
		return verifier
	}
	away, err := token.NewIntrospector(token.IntrospectionConfig{URL: "https://id.test/v1/verify", Timeout: time.Minute, Client: &http.Client{Transport: goneServer{}}})
	if err != nil {
		tb.Fatal(err)
	}
	sources := session.Sources{
		session.NewBearer(verifier(), session.BearerConfig{Cookie: "session", Header: "Authorization"}),
		session.NewBearer(verifier(), session.BearerConfig{Cookie: "second"}),
		session.NewBearer(away, session.BearerConfig{Cookie: "opaque"}),
	}
	tb.Cleanup(func() {
		client.Close()
		for _, source := range sources {
			source.(*session.Bearer).Close()
		}
	})
	config := Config{
		Presets: []UsedPreset{{Name: "fxa"}}, Sessions: sources, Profile: client, WriteBack: true,
		Signal: Signal{GPC: true, DNT: true, Consents: []Consent{{Cookie: "consent", OptedOut: "C0002:0"}}},
	}
	return config
}

type goneServer struct{}

func (goneServer) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("gone") }

// theRows is the table of the rules, written out once more: session | preference
// | signal | decision | reason. The first line that fits holds; "-" stands for
// any.
const theRows = `
verified     true    -       block      preference
verified     false   -       collect    explicit_allow
verified     null    optout  block      signal
verified     null    probing on_unknown probing
verified     null    -       on_unset   default
verified     unknown optout  block      signal
verified     unknown -       on_unknown unknown
verified     hidden  optout  block      signal
verified     hidden  -       block      unknown
unverifiable -       optout  block      signal
unverifiable -       -       on_unknown unverified_session
nobody       -       optout  block      signal
nobody       -       probing on_unknown probing
nobody       -       -       on_unset   default
`

func rowFor(t *testing.T, session, preference, signal string, rules policy.Rules) (action, reason string) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(theRows)) {
		cell := strings.Fields(line)
		if cell[0] == session && (cell[1] == "-" || cell[1] == preference) && (cell[2] == "-" || cell[2] == signal) {
			action = strings.NewReplacer("on_unknown", rules.OnUnknown.String(), "on_unset", rules.OnUnset.String()).Replace(cell[3])
			return action, cell[4]
		}
	}
	t.Fatalf("the table says nothing of %s %s %s", session, preference, signal)
	return "", ""
}

// expectedOf is what the rules say of a request, in words: each account that it
// proves is decided by its own row, a row without one counts only where none is
// proven, the first block holds, and then come the names.
func expectedOf(t *testing.T, credentials []string, signal, name string, rules policy.Rules) (decided string, writes bool) {
	t.Helper()
	preference := map[string]string{"out": "true", "allows": "false", "unset": "null", "unknown": "unknown"}
	var rows, named []string
	var unasked, hidden, unverifiable bool
	for _, credential := range credentials {
		switch word, kind, _ := strings.Cut(credential, " "); word {
		case "good":
			rows = append(rows, preference[kind])
		case "expired":
			named = append(named, kind)
		case "long":
			hidden, unverifiable = true, true
		case "unasked":
			unasked, unverifiable = true, true
		case "junk":
			unverifiable = true
		}
	}
	writes = len(rows) == 1 && rows[0] == "null" && signal == "optout" && !unasked && !hidden
	proven := len(rows) > 0
	var action, reason string
	switch {
	case proven:
		action, reason = rowFor(t, "verified", rows[0], signal, rules)
	case unverifiable:
		action, reason = rowFor(t, "unverifiable", "-", signal, rules)
	default:
		action, reason = rowFor(t, "nobody", "-", signal, rules)
	}
	if proven {
		rows = rows[1:]
		if unasked {
			rows = append(rows, "unknown")
		}
	}
	if hidden {
		rows = append(rows, "hidden")
	}
	for _, row := range rows {
		if action == "block" {
			break
		}
		if also, why := rowFor(t, "verified", row, signal, rules); also == "block" {
			action = also
			if proven || row != "hidden" {
				reason = why
			}
		}
	}
	for _, kind := range append(named, name) {
		switch {
		case action == "block":
		case kind == "out":
			action, reason = "block", "preference"
		case kind == "unreadable":
			action, reason = "block", "unknown"
		case kind == "unknown":
			action, reason = rules.OnUnknown.String(), "unknown"
		}
	}
	return action + " " + reason, writes
}

// carried is a request that is added to.
type carried struct {
	cookies, authorization []string
	header                 http.Header
	body                   string
}

// request makes it. A cookie may be there many times.
func (c *carried) request() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader(c.body))
	for name, values := range c.header {
		r.Header[name] = slices.Clone(values)
	}
	if len(c.cookies) > 0 {
		r.Header.Set("Cookie", strings.Join(c.cookies, "; "))
	}
	for _, raw := range c.authorization {
		r.Header.Add("Authorization", "Bearer "+raw)
	}
	return r
}

// tokens makes credentials, each once.
type tokens map[string]string

func (made tokens) of(tb testing.TB, credential string, n int) string {
	tb.Helper()
	word, kind, _ := strings.Cut(credential, " ")
	key := fmt.Sprint(credential, n)
	switch _, known := made[key]; {
	case known:
	case word == "good":
		made[key] = strings.TrimPrefix(sessionOf(tb, accountOf(kind, n)), "session=")
	case word == "expired":
		made[key] = strings.TrimPrefix(expiredSessionOf(tb, accountOf(kind, n)), "session=")
	case word == "long":
		made[key] = strings.Repeat("x", token.MaxTokenBytes+1+n)
	default:
		made[key] = fmt.Sprint("word", n)
	}
	return made[key]
}

// bodyOf is a body that names the n-th account of a kind.
func bodyOf(kind string, n int) string {
	switch kind {
	case "":
		return ""
	case "unreadable":
		return `{"uid":["` + accountOf("out", n) + `"]}`
	default:
		return `{"uid":"` + accountOf(kind, n) + `"}`
	}
}

// everyCredential is every kind of credential that there is.
var everyCredential = []string{
	"good out", "good allows", "good unset", "good unknown", "expired out", "expired allows", "expired unknown", "junk", "long", "unasked",
}

// TestSeveralCredentials generates every list of up to two credentials, with
// every signal and names, and of three, in three places and under all rules, and
// holds what is decided against theRows.
func TestSeveralCredentials(t *testing.T) {
	t.Parallel()
	var lists [][]string
	for size := range 4 {
		for n := range pow(len(everyCredential), size) {
			var list []string
			for range size {
				list = append(list, everyCredential[n%len(everyCredential)])
				n /= len(everyCredential)
			}
			lists = append(lists, list)
		}
	}
	signals := map[string]http.Header{
		"none":    {},
		"optout":  {"Metrics-Optout": {"1"}},
		"gpc":     {"Sec-Gpc": {"1"}},
		"answer":  {"Metrics-Optout": {"0"}},
		"probing": {"User-Agent": {firefoxAgent}},
	}
	config := severalConfig(t, time.Minute)
	config.Handshake = new(Handshake)
	made := tokens{}
	places := []string{"session=", "", "second="}
	decided := 0
	for _, rules := range []policy.Rules{
		{OnUnknown: policy.Block, OnUnset: policy.Collect}, {OnUnknown: policy.Collect, OnUnset: policy.Collect}, {OnUnknown: policy.Block, OnUnset: policy.Block},
	} {
		config.Rules = &rules
		g := newGate(t, config)
		for _, list := range lists {
			names := []string{"", "out", "allows", "unknown", "unreadable"}
			if len(list) == 3 {
				names = names[:1]
			}
			for _, name := range names {
				for signal, header := range signals {
					if len(list) == 3 && signal != "none" && signal != "optout" {
						continue
					}
					c := carried{header: header, body: bodyOf(name, 9)}
					for i, credential := range list {
						switch raw := made.of(t, credential, i); {
						case credential == "unasked":
							c.cookies = append(c.cookies, "opaque="+raw)
						case i == 1:
							c.authorization = append(c.authorization, raw)
						default:
							c.cookies = append(c.cookies, places[i]+raw)
						}
					}
					said := map[string]string{"gpc": "optout"}[signal]
					if said == "" {
						said = signal
					}
					want, writes := expectedOf(t, list, said, name, rules)
					d := g.engine.Gated(c.request(), g.routes.match(http.MethodPost, "/metrics"), nil).decision
					if got := d.Action.String() + " " + d.Reason.String(); got != want || d.WriteBack != (writes && signal == "optout") {
						t.Errorf("%q, the signal %s, the name %q, %+v: %s, written %v; want %s, %v", list, signal, name, rules, got, d.WriteBack, want, writes)
					}
					decided++
				}
			}
		}
	}
	if want := (111*5*5 + 1000*2) * 3; decided != want {
		t.Errorf("%d requests were decided, not %d", decided, want)
	}
}

func pow(base, exponent int) int {
	product := 1
	for range exponent {
		product *= base
	}
	return product
}

// TestAddingOpensNothing adds anything to any request, in any order: a name or a
// signal never has a blocked request collected, but for the answer that ends
// probing; and a credential only where none verified before.
func TestAddingOpensNothing(t *testing.T) {
	t.Parallel()
	config := severalConfig(t, time.Minute)
	config.Handshake = new(Handshake)
	var gates []*Gate
	for _, rules := range []policy.Rules{
		{OnUnknown: policy.Block, OnUnset: policy.Collect}, {OnUnknown: policy.Collect, OnUnset: policy.Collect}, {OnUnknown: policy.Block, OnUnset: policy.Block},
	} {
		config.Rules = &rules
		gates = append(gates, newGate(t, config))
	}
	made := tokens{}
	rapid.Check(t, func(rt *rapid.T) {
		g := rapid.SampledFrom(gates).Draw(rt, "gate")
		c := carried{header: http.Header{}}
		if rapid.Bool().Draw(rt, "Firefox") {
			c.header.Set("User-Agent", firefoxAgent)
		}
		add := func(to *[]string, what string) {
			*to = slices.Insert(*to, rapid.IntRange(0, len(*to)).Draw(rt, "at"), what)
		}
		decide := func() verdict { return g.engine.Gated(c.request(), g.routes.match(http.MethodPost, "/metrics"), nil) }
		before := decide()
		// opens says whether what was added may have what was blocked collected.
		check := func(opens func(before verdict) bool) {
			after := decide()
			if before.decision.Action == policy.Block && after.decision.Action == policy.Collect && !opens(before) {
				rt.Fatalf("what was blocked (%v) is collected (%v): %+v", before.decision.Reason, after.decision.Reason, c)
			}
			if after.decision.WriteBack && (after.found.Session != policy.Verified || after.found.Several || after.found.Hiding || after.found.Unlearnt) {
				rt.Fatalf("written where not exactly one account is proven: %+v", c)
			}
			before = after
		}
		rt.Repeat(map[string]func(*rapid.T){
			"credential": func(rt *rapid.T) {
				credential, n := rapid.SampledFrom(everyCredential).Draw(rt, "credential"), rapid.IntRange(0, 2).Draw(rt, "n")
				switch place := rapid.SampledFrom([]string{"session=", "Authorization", "second=", "opaque="}).Draw(rt, "place"); place {
				case "Authorization":
					add(&c.authorization, made.of(t, credential, n))
				case "opaque=": // none of the others, which would verify it after all
					add(&c.cookies, place+made.of(t, credential, n+3))
				default:
					add(&c.cookies, place+made.of(t, credential, n))
				}
				check(func(before verdict) bool {
					return before.found.Session != policy.Verified && !before.found.Hiding && !before.decision.ByName
				})
			},
			"name": func(rt *rapid.T) {
				if c.body != "" {
					rt.Skip("a second name takes the place of the first") // as JSON.parse has it
				}
				kind := rapid.SampledFrom([]string{"out", "allows", "unset", "unknown", "unreadable", "none", "number", "broken"}).Draw(rt, "name")
				switch kind {
				case "none":
					c.body = `{"uid":null}`
				case "number":
					c.body = `{"uid":7}`
				case "broken":
					c.body = `{"uid":"` + accountOf("allows", 0)
				default:
					c.body = bodyOf(kind, rapid.IntRange(0, 2).Draw(rt, "n"))
				}
				check(func(verdict) bool { return false })
			},
			"signal": func(rt *rapid.T) {
				value := rapid.SampledFrom([]string{"true", "1", "?1", "TRUE", "false", "0", "?0", "none", "account", "", "yes"}).Draw(rt, "value")
				switch place := rapid.SampledFrom([]string{"cookie", "header", "Sec-Gpc", "Dnt", "consent"}).Draw(rt, "place"); place {
				case "cookie":
					add(&c.cookies, "metrics_optout="+value)
				case "header":
					c.header["Metrics-Optout"] = append(c.header["Metrics-Optout"], value)
				case "consent":
					add(&c.cookies, "consent="+rapid.SampledFrom([]string{"groups%3AC0002%3A0", "groups%3AC0002%3A1", "x"}).Draw(rt, "groups"))
				default:
					c.header[place] = append(c.header[place], rapid.SampledFrom([]string{"0", "1"}).Draw(rt, "bit"))
				}
				check(func(before verdict) bool { return before.decision.Reason == policy.ReasonProbing })
			},
		})
	})
}

// TestSlowAccountsHideNone: whoever sends several accounts can have the first
// take the time in which another one would have been learnt. That is not a
// profile server that fails, and blocks also where on_unknown collects.
func TestSlowAccountsHideNone(t *testing.T) {
	t.Parallel()
	slow := func(kind string) string { return fmt.Sprintf("%c2%030x", kinds[kind], 0) } // 20 ms
	for name, test := range map[string]struct {
		cookies []string // accounts
		expired []string
		named   string
		want    string
	}{
		"another that is proven":          {[]string{slow("allows"), slow("out")}, nil, "", "block unknown"},
		"one that is named besides":       {[]string{slow("allows")}, nil, slow("out"), "block unknown"},
		"one that is named by a session":  {[]string{slow("allows")}, []string{slow("out")}, "", "block unknown"},
		"one that another name is before": {nil, []string{slow("allows")}, slow("out"), "block unknown"},
		"alone, proven":                   {[]string{accountOf("unknown", 0)}, nil, "", "collect unknown"},
		"alone, named":                    {nil, nil, accountOf("unknown", 0), "collect unknown"},
		"alone, and it hangs":             {nil, nil, fmt.Sprintf("f9%030x", 0), "collect unknown"},
		"in time":                         {[]string{slow("allows")}, nil, accountOf("unset", 0), "collect explicit_allow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := severalConfig(t, 30*time.Millisecond)
				config.Rules = &policy.Rules{OnUnknown: policy.Collect, OnUnset: policy.Collect}
				g := newGate(t, config)
				var c carried
				for _, uid := range test.cookies {
					c.cookies = append(c.cookies, sessionOf(t, uid))
				}
				for _, uid := range test.expired {
					c.cookies = append(c.cookies, expiredSessionOf(t, uid))
				}
				if test.named != "" {
					c.body = `{"uid":"` + test.named + `"}`
				}
				began := time.Now()
				d := g.engine.Gated(c.request(), g.routes.match(http.MethodPost, "/metrics"), nil).decision
				if got := d.Action.String() + " " + d.Reason.String(); got != test.want {
					t.Errorf("%s, want %s", got, test.want)
				}
				if took := time.Since(began); took > 30*time.Millisecond {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
