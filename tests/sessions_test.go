package tests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An application with a JWT session, a key set, routes of its own, and an API that
// knows the preference under another name and the other way round.
func TestAnyApplication(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, jwks("current"))
	}))
	t.Cleanup(keys.Close)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, `metrics_gate {
		route POST /api/beacon {
			answer 204
		}
		route GET /flags experiment {
			answer 200 application/json `+"`{}`"+`
		}
		session jwt {
			cookie   session
			jwks     `+keys.URL+`/.well-known/jwks.json
			issuer   https://id.test
			audience web
		}
		profile http://`+profile.addr+`/users/{uid}/privacy {
			field analytics_allowed inverted
			auth bearer `+bearerToken+`
			timeout 10s
			max_age 1m
			max_entries 100000
		}
	}`, testcaddy.ProxyTo(behind.addr())))
	token := func(uid string) string {
		return testcaddy.Cookie(testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, map[string]any{"kid": "current"}, testcaddy.Claims(uid)))
	}
	ready := token(profile.account(allow))
	testcaddy.Until(t, "the key set", func() bool { return send(t, behind, addr, "POST /api/beacon", "{}", ready).collected() })

	// Uids that would lead elsewhere unless they are escaped. Some servers take
	// dots for steps even so, so there is no asking for the last.
	odd, climbing := testcaddy.NewUID(t)+"/ä?#%2F{uid}", "x/../"+profile.account(allow)
	profile.set(odd, optOut)
	for _, c := range []struct {
		name, uid, decision string
		headers             []string
	}{
		{"opted out", profile.account(optOut), "block", nil},
		{"allowed", profile.account(allow), "collect", []string{"Metrics-Optout: 1"}},
		{"no choice", profile.account(unset), "collect", nil},
		{"no choice, signal", profile.account(unset), "block", []string{"Metrics-Optout: 1"}},
		{"unknown", profile.account(unknown), "block", nil},
		{"an odd uid", odd, "block", nil},
		{"a uid that climbs", climbing, "block", nil},
	} {
		beacon := send(t, behind, addr, "POST /api/beacon", `{"uid":"ignored"}`, append(c.headers, token(c.uid))...)
		flags := send(t, behind, addr, "GET /flags", "", append(c.headers, token(c.uid))...)
		if beacon.decision() != c.decision || flags.decision() != c.decision {
			t.Errorf("%s: beacon %s, flags %s, want %s", c.name, beacon.decision(), flags.decision(), c.decision)
		}
		if c.decision == "block" && (beacon.status != 204 || flags.body != "{}") {
			t.Errorf("%s: answered %d, %q", c.name, beacon.status, flags.body)
		}
		if c.decision == "collect" && (beacon.body != "from the application" || flags.body != "from the application") {
			t.Errorf("%s: answered %q, %q", c.name, beacon.body, flags.body)
		}
	}
	if n := profile.lookups(odd); n != 1 {
		t.Errorf("an odd uid was asked about %d times at its own address", n)
	}
	if n := profile.lookups(strings.TrimPrefix(climbing, "x/../")); n != 0 {
		t.Errorf("one uid led to another's address %d times", n)
	}
}

// A preference in the token costs no round trip; only what says so plainly
// counts. What is there and says something else is unknown, as it is in the
// profile server's answer, where absent means that no choice was made.
func TestClaims(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	alone, asking := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	block := "session jwt {\ncookie session\nsecret " + testcaddy.FromFile("session.secret") + "\nissuer " + testcaddy.SessionIssuer + "\naudience web\nuid_claim account\noptout_claim no_metrics\n}"
	testcaddy.Start(t,
		testcaddy.Site(alone, testcaddy.Gate("preset fxa", block), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(asking, testcaddy.Gate("preset fxa", block, profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	type null struct{} // a JSON null, where nil would take the claim away
	for _, c := range []struct {
		name   string
		claims map[string]any
		alone  string // without a profile
		held   preference
		asking string // with one that holds this
		asked  bool
	}{
		{"true", map[string]any{"no_metrics": true}, "block", allow, "block", false},
		{"false", map[string]any{"no_metrics": false}, "collect", optOut, "collect", false},
		{"null", map[string]any{"no_metrics": (*null)(nil)}, "collect", optOut, "collect", false},
		{"the word true", map[string]any{"no_metrics": "true"}, "block", allow, "block", false},
		{"the word false", map[string]any{"no_metrics": "false"}, "collect", optOut, "collect", false},
		{"the word null", map[string]any{"no_metrics": "null"}, "collect", optOut, "collect", false},
		{"absent", nil, "collect", optOut, "block", true},
		{"a number", map[string]any{"no_metrics": 1}, "block", optOut, "block", true},
		{"yes", map[string]any{"no_metrics": "yes"}, "block", optOut, "block", true},
		{"without iat", map[string]any{"no_metrics": false, "iat": nil}, "collect", optOut, "block", true},
		{"true, of a clock that is ahead", map[string]any{"no_metrics": true, "iat": time.Now().Add(time.Hour).Unix()}, "block", allow, "block", false},
		{"false, of a clock that is ahead", map[string]any{"no_metrics": false, "iat": time.Now().Add(time.Hour).Unix()}, "collect", optOut, "block", true},
		{"an hour old", map[string]any{"no_metrics": false, "iat": 1_600_000_000}, "collect", optOut, "block", true},
	} {
		uid := profile.account(c.held)
		token := testcaddy.Cookie(testcaddy.Session("not the account", map[string]any{"account": uid}, c.claims))
		if a := send(t, behind, alone, "POST /metrics", "{}", token); a.decision() != c.alone {
			t.Errorf("%s, without a profile: %s, want %s", c.name, a.decision(), c.alone)
		}
		if a := send(t, behind, asking, "POST /metrics", "{}", token); a.decision() != c.asking {
			t.Errorf("%s, beside a profile that holds %s: %s, want %s", c.name, c.held, a.decision(), c.asking)
		}
		if asked := profile.lookups(uid) > 0; asked != c.asked {
			t.Errorf("%s: looked up: %v", c.name, asked)
		}
	}
}

// All session blocks count: every account that is proven decides, and one
// credential that does not verify makes the session unverifiable only where none
// does.
func TestAllSessionsCount(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr,
		testcaddy.Gate("preset fxa", testcaddy.SessionJWT(),
			"session jwt {\nheader X-Token Token\nsecret "+testcaddy.FromFile("second.secret")+"\n}",
			"session user {http.request.header.X-Proven-User}", profile.block(patient)),
		testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)
	second := func(uid string, others ...map[string]any) string {
		return "X-Token: Token " + testcaddy.Sign(jwt.SigningMethodHS256, []byte(testcaddy.SecondSecret), nil, testcaddy.Claims(uid, others...))
	}
	for _, c := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"the first", []string{testcaddy.Cookie(testcaddy.Session(out))}, "block"},
		{"the second", []string{second(out)}, "block"},
		{"the third", []string{"X-Proven-User: " + out}, "block"},
		{"the second behind the first", []string{testcaddy.Cookie(testcaddy.Session(in)), second(out)}, "block"},
		{"the first before the third", []string{testcaddy.Cookie(testcaddy.Session(out)), "X-Proven-User: " + in}, "block"},
		{"the third behind the second", []string{second(in), "X-Proven-User: " + out}, "block"},
		{"all allow", []string{testcaddy.Cookie(testcaddy.Session(in)), second(in), "X-Proven-User: " + in}, "collect"},
		{"second, as the first does not verify", []string{testcaddy.Cookie("garbage"), second(in)}, "collect"},
		{"third, as the others do not verify", []string{testcaddy.Cookie("garbage"), "X-Token: Token garbage", "X-Proven-User: " + in}, "collect"},
		{"none verifies", []string{testcaddy.Cookie("garbage"), "X-Proven-User: "}, "block"},
		{"the other key's", []string{testcaddy.Cookie(testcaddy.Sign(jwt.SigningMethodHS256, []byte(testcaddy.SecondSecret), nil, testcaddy.Claims(in)))}, "block"},
		{"an empty value is none", []string{testcaddy.Cookie(""), "X-Proven-User: "}, "collect"},
		{"nothing", nil, "collect"},
		{"expired in the first, nothing in the others", []string{testcaddy.Cookie(testcaddy.Session(in, testcaddy.Expired))}, "collect"},
		{"expired in the first names, the second allows", []string{testcaddy.Cookie(testcaddy.Session(out, testcaddy.Expired)), second(in)}, "block"},
		{"expired in the first, unverifiable in the second", []string{testcaddy.Cookie(testcaddy.Session(in, testcaddy.Expired)), "X-Token: Token garbage"}, "block"},
	} {
		if a := send(t, behind, addr, "POST /metrics", "{}", c.headers...); a.decision() != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.decision(), c.want)
		}
	}
}

// auth forward asks with the user's own token, about that user and nobody else.
func TestForward(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	var asked atomic.Int64
	var wrong atomic.Pointer[string]
	out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
	tokens := map[string]string{"Bearer " + testcaddy.Session(out): "true", "Bearer " + testcaddy.Session(in): "false"}
	profile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		held, known := tokens[r.Header.Get("Authorization")]
		if !known {
			credential := r.Header.Get("Authorization")
			wrong.Store(&credential)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reply(w, http.StatusOK, "application/json", `{"metrics_optout":`+held+`}`)
	}))
	t.Cleanup(profile.Close)
	url := testcaddy.Must(url.Parse(profile.URL))
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), "profile http://"+url.Host+"/v1 {\nauth forward\ntimeout 20s\n}"), testcaddy.ProxyTo(behind.addr())))

	for credential, held := range tokens {
		want := map[string]string{"true": "block", "false": "collect"}[held]
		token := testcaddy.Cookie(credential[len("Bearer "):])
		for range 3 {
			if a := send(t, behind, addr, "POST /metrics", "{}", token); a.decision() != want {
				t.Errorf("%s: %s", held, a.decision())
			}
		}
		// Another account is unknown, and never asked about with this token.
		if a := send(t, behind, addr, "POST /metrics", flushOf(t, testcaddy.NewUID(t)), token); a.collected() {
			t.Error("a named account that cannot be asked about was collected")
		}
	}
	if a := send(t, behind, addr, "POST /metrics", flushOf(t, testcaddy.NewUID(t))); a.collected() {
		t.Error("a named account that nobody can ask about was collected")
	}
	if n := asked.Load(); n != 2 || wrong.Load() != nil {
		t.Errorf("the profile server was asked %d times, wrongly: %v", n, wrong.Load() != nil)
	}
}
