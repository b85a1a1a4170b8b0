package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// What FxA tells of an account happens to it here: in both manners of telling,
// by both kinds of keys, under the names of all times. A gate that follows acts
// on it.
func TestEvents(t *testing.T) {
	t.Parallel()
	oauth, behind := newOAuthServer(t), newContentServer(t)
	profileAddr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(profileAddr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())),
		testcaddy.Site(site, testcaddy.Gate("preset fxa", profileAt(profileAddr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())))
	keysFetched(t, profileAddr)
	follows(t, caddy, profileAddr)
	acts := func(uid, what, want string) {
		t.Helper()
		testcaddy.Until(t, what, func() bool { return send(t, behind, site, "POST /metrics", flushOf(t, uid)).decision() == want })
	}

	for _, c := range []struct {
		name    string
		payload any
		held    preference // before
		want    preference
	}{
		{"metrics-opt-out", map[string]any{}, unset, optOut},
		{"metrics-opt-out", map[string]any{}, allow, optOut},
		{"metrics-opt-in", map[string]any{}, optOut, allow},
		{"profile-change", map[string]any{"metricsEnabled": false}, unset, optOut},
		{"profile-change", map[string]any{"metricsEnabled": true, "locale": "de"}, optOut, allow},
		{"profile-change", map[string]any{}, optOut, optOut},
		{"profile-change", map[string]any{"email": "somebody@example.org"}, allow, allow},
		{"profileDataChange", map[string]any{"metricsEnabled": false}, allow, optOut},
		{"profileDataChanged", map[string]any{"metricsEnabled": false}, unset, optOut},
		{"profileDataChanged", map[string]any{"metricsEnabled": true}, optOut, allow},
		{"delete-user", map[string]any{}, optOut, unset},
		{"delete-user", map[string]any{}, unset, unset},
		{"password-change", map[string]any{"changeTime": 1565721242227}, optOut, optOut},
		{"something-new", map[string]any{"metricsEnabled": false}, allow, allow},
	} {
		for manner := range deliveries {
			for algorithm, sign := range map[string]func(jwt.MapClaims) string{"RS256": byRSA, "ES256": byEC} {
				uid, what := testcaddy.NewUID(t), c.name+" for "+string(c.held)+" in the manner of "+manner+" by "+algorithm
				if c.held != unset {
					choose(t, profileAddr, uid, c.held)
				}
				before := map[bool]string{true: "block", false: "collect"}
				acts(uid, what+": the state before", before[c.held == optOut])
				happen(t, profileAddr, manner, sign(event(t, uid, c.name, c.payload)))
				holds(t, profileAddr, uid, c.want, what)
				acts(uid, what, before[c.want == optOut])
			}
		}
	}

	// The address with a host, and several events in one.
	uid := testcaddy.NewUID(t)
	happen(t, profileAddr, "FxA", byRSA(event(t, uid+"@accounts.firefox.com", "metrics-opt-out", map[string]any{})))
	holds(t, profileAddr, uid, optOut, "a sub with a host")
	happen(t, profileAddr, "FxA", byRSA(event(t, uid, "", nil, map[string]any{"events": map[string]any{
		eventURI + "password-change": map[string]any{}, eventURI + "metrics-opt-in": map[string]any{}}})))
	holds(t, profileAddr, uid, allow, "two events in one token")
}

// An event is taken once, and never against a choice that was made after it.
func TestEventsInTime(t *testing.T) {
	t.Parallel()
	oauth := newOAuthServer(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())))
	keysFetched(t, addr)
	at := func(d time.Duration) map[string]any {
		return map[string]any{"iat": float64(time.Now().Add(d).UnixMilli()) / 1000}
	}
	for manner := range deliveries {
		// Their clock is ahead, so only that it was seen before tells that this
		// is no new choice.
		uid := testcaddy.NewUID(t)
		out := byRSA(event(t, uid, "metrics-opt-out", map[string]any{}, at(time.Hour)))
		happen(t, addr, manner, out)
		holds(t, addr, uid, optOut, "an event of a clock that is ahead")
		choose(t, addr, uid, allow)
		changes := caddy.ProfileServerMetric("changes_total")
		for again := range deliveries {
			happen(t, addr, again, out)
			holds(t, addr, uid, allow, "an event that came again")
		}

		// It was underway for an hour.
		happen(t, addr, manner, byRSA(event(t, uid, "metrics-opt-out", map[string]any{}, at(-time.Hour))))
		holds(t, addr, uid, allow, "an event older than the choice")
		if now := caddy.ProfileServerMetric("changes_total"); now != changes {
			t.Errorf("%v changes are counted that were none", now-changes)
		}
		happen(t, addr, manner, byRSA(event(t, uid, "metrics-opt-out", map[string]any{})))
		holds(t, addr, uid, optOut, "an event newer than the choice")

		// In the wrong order.
		uid = testcaddy.NewUID(t)
		happen(t, addr, manner, byRSA(event(t, uid, "metrics-opt-in", map[string]any{}, at(-time.Minute))))
		happen(t, addr, manner, byRSA(event(t, uid, "metrics-opt-out", map[string]any{}, at(-time.Hour))))
		holds(t, addr, uid, allow, "events in the wrong order")

		// Deleted is deleted, also for a repeat of what came before.
		happen(t, addr, manner, byRSA(event(t, uid, "delete-user", map[string]any{})))
		holds(t, addr, uid, unset, "a deleted account")
	}
}

// What is no event of the issuer changes nothing, and is answered as RFC 8935
// has it.
func TestForgedEvents(t *testing.T) {
	t.Parallel()
	oauth := newOAuthServer(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"), oauth.eventsBlock())))
	keysFetched(t, addr)
	uid := testcaddy.NewUID(t)
	claims := func(others ...map[string]any) jwt.MapClaims {
		return event(t, uid, "metrics-opt-out", map[string]any{}, others...)
	}
	theirs := testcaddy.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	good, other := strings.Split(byRSA(claims()), "."), strings.Split(byRSA(claims()), ".")
	for name, c := range map[string]struct {
		token string
		err   string
	}{
		"another key under a known name": {testcaddy.Sign(jwt.SigningMethodES256, theirs, map[string]any{"kid": "ec"}, claims()), "authentication_failed"},
		"an unknown key":                 {testcaddy.Sign(jwt.SigningMethodES256, theirs, map[string]any{"kid": "theirs"}, claims()), "invalid_key"},
		"a changed payload":              {strings.Join([]string{good[0], other[1], good[2]}, "."), "authentication_failed"},
		"no signature":                   {testcaddy.Sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, map[string]any{"kid": "rsa"}, claims()), ""},
		"signed with the public key":     {testcaddy.Sign(jwt.SigningMethodHS256, testcaddy.RSAKey.N.Bytes(), map[string]any{"kid": "rsa"}, claims()), ""},
		"another issuer":                 {byRSA(claims(map[string]any{"iss": "https://accounts.firefox.com.example.org/"})), "invalid_issuer"},
		"no issuer":                      {byRSA(claims(map[string]any{"iss": nil})), ""},
		"another audience":               {byRSA(claims(map[string]any{"aud": "0123456789abcdef"})), "invalid_audience"},
		"no audience":                    {byRSA(claims(map[string]any{"aud": nil})), ""},
		"expired":                        {byRSA(claims(testcaddy.Expired)), "invalid_request"},
		"of the day after tomorrow":      {byRSA(claims(map[string]any{"iat": time.Now().Add(48 * time.Hour).Unix()})), "invalid_request"},
		"an access token":                {byRSA(claims(map[string]any{"events": nil})), "invalid_request"},
		"no events":                      {byRSA(claims(map[string]any{"events": map[string]any{}})), "invalid_request"},
		"a list of events":               {byRSA(claims(map[string]any{"events": []string{eventURI + "metrics-opt-out"}})), "invalid_request"},
		"no jti":                         {byRSA(claims(map[string]any{"jti": nil})), "invalid_request"},
		"no sub":                         {byRSA(claims(map[string]any{"sub": nil})), "invalid_request"},
		"metricsEnabled is a word":       {byRSA(claims(map[string]any{"events": map[string]any{eventURI + "profile-change": map[string]any{"metricsEnabled": "false"}}})), "invalid_request"},
		"garbage":                        {"g4rb4ge", "invalid_request"},
		"nothing":                        {"", "invalid_request"},
		"a megabyte":                     {strings.Repeat("x", 1<<20), ""},
	} {
		for manner, d := range deliveries {
			if name == "a megabyte" && manner == "FxA" {
				continue // no server reads such a header
			}
			status, header, body, err := d.deliver(addr, c.token)
			if err != nil {
				t.Errorf("%s in the manner of %s: %v", name, manner, err)
				continue
			}
			var said struct{ Err, Description string }
			if problem := json.Unmarshal([]byte(body), &said); problem != nil || status != http.StatusBadRequest || said.Description == "" ||
				header.Get("Content-Type") != "application/json" || c.err != "" && said.Err != c.err {
				t.Errorf("%s in the manner of %s: %d %q, want %s", name, manner, status, body, c.err)
			}
			if strings.Contains(body, uid) {
				t.Errorf("%s: the answer tells the account", name)
			}
		}
	}
	holds(t, addr, uid, unset, "after forged events")
	// Both spellings of the issuer, and a list for an audience.
	for _, others := range []map[string]any{
		{"iss": eventIssuer}, {"iss": strings.TrimSuffix(eventIssuer, "/")}, {"aud": []string{"somebody else", eventAudience}},
	} {
		uid := testcaddy.NewUID(t)
		happen(t, addr, "FxA", byRSA(event(t, uid, "metrics-opt-out", map[string]any{}, others)))
		holds(t, addr, uid, optOut, "an event with a good issuer and audience")
	}
}
