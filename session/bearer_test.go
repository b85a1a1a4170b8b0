package session

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

var (
	noon   = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC)
	secret = []byte("a secret for these tests, 32 bytes and more")
)

const alice = "7d2f4c1ab09e4e53a6c8d1f20b3e9a64"

// claims are good at noon, and changed as said.
func claims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"sub": alice, "iss": "https://id.example.org", "aud": "web",
		"iat": noon.Add(-time.Hour).Unix(), "exp": noon.Add(time.Hour).Unix(),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, value any) bool { return value == absentClaim })
	return c
}

const absentClaim = "(absent)"

func sign(t testing.TB, c jwt.MapClaims) string {
	t.Helper()
	return signWith(t, secret, c)
}

func signWith(t testing.TB, secret []byte, c jwt.MapClaims) string {
	t.Helper()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// settings are those of a session by JSON Web Token.
type settings struct {
	Token token.Config
	BearerConfig
}

func newJWT(t testing.TB, change func(*settings)) *Bearer {
	t.Helper()
	config := settings{
		Token: token.Config{
			Secret: secret, Issuers: []string{"https://id.example.org"}, Audiences: []string{"web"}, Leeway: time.Minute,
		},
		BearerConfig: BearerConfig{Cookie: "session"},
	}
	if change != nil {
		change(&config)
	}
	verifier, err := token.NewVerifier(config.Token)
	if err != nil {
		t.Fatal(err)
	}
	source := NewBearer(verifier, config.BearerConfig)
	t.Cleanup(source.Close)
	return source
}

func withCookie(value string) *http.Request {
	return &http.Request{Header: http.Header{"Cookie": {"session=" + value}}}
}

// find is Find for one source, with every outcome in the order of credentials.
func find(source Source, r *http.Request, now time.Time) (Found, []Outcome) {
	var outcomes []Outcome
	found := Sources{source}.Find(r, now, func(_ int, _ string, outcome Outcome) { outcomes = append(outcomes, outcome) })
	return found, outcomes
}

// twice finds the session of a request with one credential twice, since the
// second time it may come from the cache, and must be the same.
func twice(t *testing.T, source Source, r *http.Request, now time.Time) (Found, Outcome) {
	t.Helper()
	found, outcomes := find(source, r, now)
	again, outcomesAgain := find(source, r, now)
	if diff := cmp.Diff(found, again); diff != "" || !slices.Equal(outcomes, outcomesAgain) || len(outcomes) != 1 {
		t.Errorf("first %v, then %v (-first +then):\n%s", outcomes, outcomesAgain, diff)
	}
	return found, outcomes[0]
}

// sessionOf is how far one credential with this outcome proves an account.
func sessionOf(outcome Outcome) policy.Session {
	switch outcome {
	case Absent:
		return policy.NoSession
	case Verified:
		return policy.Verified
	case Expired:
		return policy.Expired
	default:
		return policy.Unverifiable
	}
}

func TestWhatATokenProves(t *testing.T) {
	t.Parallel()
	good := sign(t, claims(nil))
	header, payload, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(payload, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	for _, test := range []struct {
		name, raw string
		want      Outcome
	}{
		{"good", good, Verified},
		{"no cookie", "", Absent},
		{"garbage", "garbage", Malformed},
		{"truncated", header + "." + payload, Malformed},
		{"another payload", header + ".e30." + signature, BadSignature},
		{"alg none", none + "." + payload + ".", BadSignature},
		{"another secret", signWith(t, []byte("another secret for these tests, also long"), claims(nil)), BadSignature},
		{"another issuer", sign(t, claims(jwt.MapClaims{"iss": "https://other.example.org"})), WrongIssuer},
		{"another audience", sign(t, claims(jwt.MapClaims{"aud": "mobile"})), WrongAudience},
		{"expired", sign(t, claims(jwt.MapClaims{"exp": noon.Add(-time.Hour).Unix()})), Expired},
		{"not valid yet", sign(t, claims(jwt.MapClaims{"nbf": noon.Add(time.Hour).Unix()})), NotYetValid},
		{"not valid yet within the leeway", sign(t, claims(jwt.MapClaims{"nbf": noon.Add(30 * time.Second).Unix()})), Verified},
		{"issued in an hour", sign(t, claims(jwt.MapClaims{"iat": noon.Add(time.Hour).Unix()})), Verified},
		{"expired within the leeway", sign(t, claims(jwt.MapClaims{"exp": noon.Add(-30 * time.Second).Unix()})), Verified},
		{"expired for another audience", sign(t, claims(jwt.MapClaims{"exp": 1, "aud": "mobile"})), WrongAudience},
		{"no exp", sign(t, claims(jwt.MapClaims{"exp": absentClaim})), Malformed},
		{"no account", sign(t, claims(jwt.MapClaims{"sub": absentClaim})), Malformed},
		{"expired without an account", sign(t, claims(jwt.MapClaims{"exp": 1, "sub": absentClaim})), Malformed},
		{"an empty account", sign(t, claims(jwt.MapClaims{"sub": ""})), Malformed},
		{"an account that is a number", sign(t, claims(jwt.MapClaims{"sub": 7})), Malformed},
		{"an account of two lines", sign(t, claims(jwt.MapClaims{"sub": "a\nb"})), Malformed},
		{"a long account", sign(t, claims(jwt.MapClaims{"sub": strings.Repeat("u", 255)})), Verified},
		{"an account that is too long", sign(t, claims(jwt.MapClaims{"sub": strings.Repeat("u", 256)})), Malformed},
		{"too long", strings.Repeat("x", token.MaxTokenBytes+1), TooLong},
		{"a megabyte", strings.Repeat("x", 1<<20), TooLong},
		{"twice the same", good + "; session=" + good, Verified},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := newJWT(t, nil)
			found, outcome := twice(t, source, withCookie(test.raw), noon)
			if outcome != test.want || found.Session != sessionOf(test.want) {
				t.Errorf("it is %v and the session %v, want %v", outcome, found.Session, test.want)
			}
			if proven := found.Subject.UID != "" && found.Subject.Token != ""; proven != (test.want == Verified) {
				t.Errorf("proven is %v: %+v", proven, found)
			}
			if named := slices.Equal(found.Named, []string{alice}); named != (test.want == Expired) {
				t.Errorf("named is %v: %+v", named, found)
			}
			if found.Hiding != (test.want == TooLong) || found.Unlearnt || found.Several {
				t.Errorf("%+v", found)
			}
			if remembered := source.Len() == 1; remembered != (test.want == Verified && test.name != "expired within the leeway") {
				t.Errorf("remembered is %v", remembered)
			}
		})
	}
}

func TestWhereTheTokenIs(t *testing.T) {
	t.Parallel()
	good := sign(t, claims(nil))
	other := sign(t, claims(jwt.MapClaims{"sub": "other"}))
	for _, test := range []struct {
		name                   string
		cookie, header, scheme string // configured
		sent                   http.Header
		want                   Outcome
		uid                    string
	}{
		{"by default in Authorization", "", "", "", http.Header{"Authorization": {"Bearer " + good}}, Verified, alice},
		{"the scheme in any letter case", "", "", "", http.Header{"Authorization": {"bEARER   " + good}}, Verified, alice},
		{"another scheme", "", "", "", http.Header{"Authorization": {"Basic " + good}}, Absent, ""},
		{"the scheme alone", "", "", "", http.Header{"Authorization": {"Bearer"}}, Absent, ""},
		{"no scheme", "", "", "", http.Header{"Authorization": {good}}, Absent, ""},
		{"a scheme that begins the same", "", "", "", http.Header{"Authorization": {"Bearerx " + good}}, Absent, ""},
		{"two words", "", "", "", http.Header{"Authorization": {"Bearer " + good + " x"}}, Malformed, ""},
		{"too long", "", "", "", http.Header{"Authorization": {"Bearer " + strings.Repeat("x", 9000)}}, TooLong, ""},
		{"among other schemes", "", "", "", http.Header{"Authorization": {"Basic eDp5", "Bearer " + good}}, Verified, alice},
		{"twice the same", "", "", "", http.Header{"Authorization": {"Bearer " + good, "bearer " + good}}, Verified, alice},
		{"a cookie is not looked for", "", "", "", http.Header{"Cookie": {"session=" + good}}, Absent, ""},
		{"after a tab", "", "", "", http.Header{"Authorization": {"Bearer\t" + good}}, Verified, alice},
		{"own scheme", "", "authorization", "FXA", http.Header{"Authorization": {"fxa " + good}}, Verified, alice},
		{"own header, the value itself", "", "x-session", "", http.Header{"X-Session": {" " + good}}, Verified, alice},
		{"own header with a scheme", "", "x-session", "Token", http.Header{"X-Session": {"Token " + good}}, Verified, alice},
		{"own header, empty", "", "x-session", "", http.Header{"X-Session": {""}}, Absent, ""},
		{"in a list", "", "", "", http.Header{"Authorization": {"Basic eDp5, Bearer " + good + ",, Digest a=b"}}, Verified, alice},
		{"own header, in a list", "", "x-session", "", http.Header{"X-Session": {", " + good}}, Verified, alice},
		{"a list of nothing", "", "x-session", "", http.Header{"X-Session": {" , ,"}}, Absent, ""},
		{"escaped in a cookie", "session", "", "", http.Header{"Cookie": {"session=" + strings.ReplaceAll(good, ".", "%2e")}}, Verified, alice},
		{"badly escaped in a cookie", "session", "", "", http.Header{"Cookie": {"session=" + good + "%"}}, Malformed, ""},
		{"only a cookie", "session", "", "", http.Header{"Authorization": {"Bearer " + good}}, Absent, ""},
		{"then the header", "session", "Authorization", "", http.Header{"Cookie": {"session="}, "Authorization": {"Bearer " + other}}, Verified, "other"},
		{"nothing", "session", "Authorization", "", http.Header{}, Absent, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := newJWT(t, func(c *settings) { c.Cookie, c.Header, c.Scheme = test.cookie, test.header, test.scheme })
			found, outcome := twice(t, source, &http.Request{Header: test.sent}, noon)
			if outcome != test.want || found.Subject.UID != test.uid {
				t.Errorf("%v proves %q, want %v and %q", outcome, found.Subject.UID, test.want, test.uid)
			}
		})
	}
}

// TestAllCredentialsCount sends several credentials at once, in every place
// where a source looks for them.
func TestAllCredentialsCount(t *testing.T) {
	t.Parallel()
	good := sign(t, claims(nil))
	again := sign(t, claims(jwt.MapClaims{"jti": "another of the same account"}))
	other := sign(t, claims(jwt.MapClaims{"sub": "other"}))
	third := sign(t, claims(jwt.MapClaims{"sub": "third"}))
	expired := sign(t, claims(jwt.MapClaims{"sub": "expired", "exp": 1}))
	long := strings.Repeat("x", token.MaxTokenBytes+1)
	cookies := func(values ...string) string { return "session=" + strings.Join(values, "; session=") }
	for name, test := range map[string]struct {
		sent            http.Header
		session         policy.Session
		proven, named   string
		several, hiding bool
		outcomes        []Outcome
	}{
		"two accounts in one cookie": {
			http.Header{"Cookie": {cookies(good, other)}},
			policy.Verified, "7d2f4c1ab09e4e53a6c8d1f20b3e9a64 other", "", true, false, []Outcome{Verified, Conflicting},
		},
		"on two lines": {
			http.Header{"Cookie": {cookies(other), cookies(good)}},
			policy.Verified, "other 7d2f4c1ab09e4e53a6c8d1f20b3e9a64", "", true, false, []Outcome{Verified, Conflicting},
		},
		"in two headers": {
			http.Header{"Authorization": {"Bearer " + good, "Bearer " + other}},
			policy.Verified, alice + " other", "", true, false, []Outcome{Verified, Conflicting},
		},
		"in cookie and header": {
			http.Header{"Cookie": {cookies(good)}, "Authorization": {"Bearer " + other}},
			policy.Verified, alice + " other", "", true, false, []Outcome{Verified, Conflicting},
		},
		"the same account twice": {
			http.Header{"Cookie": {cookies(good, again)}}, policy.Verified, alice, "", false, false, []Outcome{Verified, Verified},
		},
		"the same token twice": {
			http.Header{"Cookie": {cookies(good)}, "Authorization": {"Bearer " + good}}, policy.Verified, alice, "", false, false, []Outcome{Verified},
		},
		"junk in front": {
			http.Header{"Cookie": {cookies("junk", good)}}, policy.Verified, alice, "", false, false, []Outcome{Malformed, Verified},
		},
		"junk behind": {
			http.Header{"Cookie": {cookies(good, "junk")}}, policy.Verified, alice, "", false, false, []Outcome{Verified, Malformed},
		},
		"junk only": {
			http.Header{"Cookie": {cookies("junk", "more")}}, policy.Unverifiable, "", "", false, false, []Outcome{Malformed, Malformed},
		},
		"an expired cookie beside a good header": {
			http.Header{"Cookie": {cookies(expired)}, "Authorization": {"Bearer " + good}},
			policy.Verified, alice, "expired", false, false, []Outcome{Expired, Verified},
		},
		"expired and junk": {
			http.Header{"Cookie": {cookies(expired, "junk")}}, policy.Unverifiable, "", "expired", false, false, []Outcome{Expired, Malformed},
		},
		"too long beside a good one": {
			http.Header{"Cookie": {cookies(good, long)}}, policy.Verified, alice, "", false, true, []Outcome{Verified, TooLong},
		},
		"four": {
			http.Header{"Cookie": {cookies("junk", good, other, third)}},
			policy.Verified, alice + " other third", "", true, false, []Outcome{Malformed, Verified, Conflicting, Conflicting},
		},
		"a fifth is not looked at": {
			http.Header{"Cookie": {cookies("a", "b", "c", "d", good)}},
			policy.Unverifiable, "", "", false, true, []Outcome{Malformed, Malformed, Malformed, Malformed, TooMany},
		},
		"nor is a sixth": {
			http.Header{"Cookie": {cookies(good, "b", "c", "d", "e", "f", "g")}, "Authorization": {"Bearer " + other}},
			policy.Verified, alice, "", false, true, []Outcome{Verified, Malformed, Malformed, Malformed, TooMany},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := newJWT(t, func(c *settings) { c.Header = "Authorization" })
			for range 2 { // the second time from the cache
				found, outcomes := find(source, &http.Request{Header: test.sent}, noon)
				var proven []string
				if found.Subject.UID != "" {
					proven = append(proven, found.Subject.UID)
				}
				for _, other := range found.Others {
					proven = append(proven, other.UID)
				}
				if got := strings.Join(proven, " "); got != test.proven || found.Session != test.session {
					t.Errorf("%v proves %q, want %v, %q", found.Session, got, test.session, test.proven)
				}
				if got := strings.Join(found.Named, " "); got != test.named {
					t.Errorf("it names %q, want %q", got, test.named)
				}
				if found.Several != test.several || found.Hiding != test.hiding || found.Unlearnt {
					t.Errorf("several: %v, hiding: %v, unlearnt: %v", found.Several, found.Hiding, found.Unlearnt)
				}
				if !slices.Equal(outcomes, test.outcomes) {
					t.Errorf("counted as %v, want %v", outcomes, test.outcomes)
				}
			}
		})
	}
}

// TestTheSameAccountWithAnotherClaim is decided by both of its claims.
func TestTheSameAccountWithAnotherClaim(t *testing.T) {
	t.Parallel()
	source := newJWT(t, func(c *settings) { c.OptOutClaim = "optout" })
	raw := sign(t, claims(jwt.MapClaims{"optout": false})) + "; session=" + sign(t, claims(jwt.MapClaims{"optout": true}))
	found, _ := find(source, withCookie(raw), noon)
	if found.Several || len(found.Others) != 1 || found.Subject.Claim != policy.Allowed || found.Others[0].Claim != policy.OptedOut {
		t.Errorf("%+v", found)
	}
}

func TestOptOutClaim(t *testing.T) {
	t.Parallel()
	issued := noon.Add(-time.Hour)
	unreadable := Subject{HasClaim: true, Claim: policy.Unknown, ClaimedAt: issued}
	for _, test := range []struct {
		name  string
		claim any
		iat   any
		want  Subject
	}{
		{"true", true, issued.Unix(), Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: issued}},
		{"false", false, issued.Unix(), Subject{HasClaim: true, Claim: policy.Allowed, ClaimedAt: issued}},
		{"null", nil, issued.Unix(), Subject{HasClaim: true, Claim: policy.Unset, ClaimedAt: issued}},
		{"true as a string", "true", issued.Unix(), Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: issued}},
		{"false as a string", "false", issued.Unix(), Subject{HasClaim: true, Claim: policy.Allowed, ClaimedAt: issued}},
		{"null as a string", "null", issued.Unix(), Subject{HasClaim: true, Claim: policy.Unset, ClaimedAt: issued}},
		{"an issuer whose clock runs ahead", true, noon.Add(time.Second * 40).Unix(), Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: noon}},
		{"an issuer whose clock is hours ahead", true, noon.Add(time.Hour * 40).Unix(), Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: noon}},
		{"an issuer who counts milliseconds", true, noon.UnixMilli(), Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: noon}},
		{"what allows is not of a time to come", false, noon.Add(time.Second).Unix(), Subject{HasClaim: true, Claim: policy.Allowed}},
		{"no choice is not of a time to come", nil, noon.Add(time.Hour).Unix(), Subject{HasClaim: true, Claim: policy.Unset}},
		{"without iat it has no time", true, absentClaim, Subject{HasClaim: true, Claim: policy.OptedOut}},
		{"iat 0 is a time", true, 0, Subject{HasClaim: true, Claim: policy.OptedOut, ClaimedAt: time.Unix(0, 0)}},
		{"absent", absentClaim, issued.Unix(), Subject{}},
		{"a number", 1, issued.Unix(), unreadable},
		{"another word", "True", issued.Unix(), unreadable},
		{"unknown is no preference", "unknown", issued.Unix(), unreadable},
		{"an empty string", "", issued.Unix(), unreadable},
		{"a list", []any{true}, issued.Unix(), unreadable},
		{"an object", map[string]any{"optout": true}, issued.Unix(), unreadable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			raw := sign(t, claims(jwt.MapClaims{"optout": test.claim, "iat": test.iat}))
			source := newJWT(t, func(c *settings) { c.OptOutClaim = "optout" })
			got, _ := twice(t, source, withCookie(raw), noon)
			test.want.UID, test.want.Token = alice, raw
			if diff := cmp.Diff(Found{Session: policy.Verified, Subject: test.want}, got); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			got, _ = twice(t, newJWT(t, nil), withCookie(raw), noon)
			if got.Subject.HasClaim || !got.Subject.ClaimedAt.IsZero() {
				t.Errorf("a claim that is not asked for counts: %+v", got)
			}
		})
	}
}

func TestUIDClaim(t *testing.T) {
	t.Parallel()
	raw := sign(t, claims(jwt.MapClaims{"fxa-uid": "other"}))
	source := newJWT(t, func(c *settings) { c.UIDClaim = "fxa-uid" })
	if found, _ := twice(t, source, withCookie(raw), noon); found.Subject.UID != "other" {
		t.Errorf("%+v", found)
	}
}

// replaced is a verifier in the place of another, of which nothing is known: what
// verified before is still remembered.
type replaced struct {
	Verifier
	digests *token.Digester
}

func (r replaced) Digester() *token.Digester { return r.digests }

// TestAWithdrawnKeyStopsWorking: once a key is withdrawn from the set, what
// verified by it is not remembered any more.
func TestAWithdrawnKeyStopsWorking(t *testing.T) {
	t.Parallel()
	source := newJWT(t, nil)
	r := withCookie(sign(t, claims(nil)))
	if _, outcome := twice(t, source, r, noon); outcome != Verified {
		t.Errorf("it is %v", outcome)
	}
	source.verifier = newJWT(t, func(c *settings) { c.Token.Secret = []byte("another secret for these tests, also long") }).verifier
	if _, outcome := twice(t, source, r, noon.Add(time.Second)); outcome != BadSignature {
		t.Errorf("it is %v a second later", outcome)
	}
}

// TestVerifiedIsNotForEver takes the key away from under a token that verified:
// it works for less than five minutes, and not past its own time.
func TestVerifiedIsNotForEver(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		expires time.Duration
		last    time.Duration
	}{
		{"a long life", time.Hour, 5*time.Minute - time.Second},
		{"a short one", time.Minute, time.Minute - time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := newJWT(t, nil)
			r := withCookie(sign(t, claims(jwt.MapClaims{"exp": noon.Add(test.expires).Unix()})))
			find(source, r, noon)
			other := newJWT(t, func(c *settings) { c.Token.Secret = []byte("another secret for these tests, also long") })
			source.verifier = replaced{other.verifier, source.verifier.Digester()}
			if _, outcome := twice(t, source, r, noon.Add(test.last)); outcome != Verified {
				t.Errorf("it is %v after %v", outcome, test.last)
			}
			if _, outcome := twice(t, source, r, noon.Add(test.last+time.Second)); outcome != BadSignature {
				t.Errorf("it is %v a second later", outcome)
			}
		})
	}
}

// TestFailuresDisplaceNobody sends many times as many forged tokens as there
// is room for, and expects every verified one to be still remembered.
func TestFailuresDisplaceNobody(t *testing.T) {
	t.Parallel()
	source := newJWT(t, func(c *settings) { c.CacheEntries = 16 })
	var users []*http.Request
	for n := range 8 {
		users = append(users, withCookie(sign(t, claims(jwt.MapClaims{"sub": fmt.Sprint(n)}))))
		find(source, users[n], noon)
	}
	forger := []byte("another secret for these tests, also long")
	for n := range 200 {
		find(source, withCookie(signWith(t, forger, claims(jwt.MapClaims{"sub": fmt.Sprint(n)}))), noon)
		find(source, withCookie(fmt.Sprintf("garbage%d", n)), noon)
		find(source, withCookie(sign(t, claims(jwt.MapClaims{"sub": fmt.Sprint(n), "exp": 1}))), noon)
	}
	other := newJWT(t, func(c *settings) { c.Token.Secret = forger })
	source.verifier = replaced{other.verifier, source.verifier.Digester()}
	for n, r := range users {
		if found, outcomes := find(source, r, noon); found.Subject.UID != fmt.Sprint(n) {
			t.Errorf("user %d is %v", n, outcomes)
		}
	}
}

func keySet(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"known","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))
}

func TestKeysThatAreNotThere(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims(nil))
	unsigned.Header["kid"] = "unknown"
	raw, err := unsigned.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	static := newJWT(t, func(c *settings) { c.Token.Secret, c.Token.JWKS = nil, []byte(keySet(t)) })
	if _, outcome := twice(t, static, withCookie(raw), noon); outcome != UnknownKey {
		t.Errorf("a key that the set does not hold: %v", outcome)
	}

	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(broken.Close)
	fetched := newJWT(t, func(c *settings) { c.Token.Secret, c.Token.JWKSURL = nil, broken.URL })
	if _, outcome := twice(t, fetched, withCookie(raw), noon); outcome != KeysUnavailable {
		t.Errorf("a key set that cannot be fetched: %v", outcome)
	}
	if n := fetched.Len(); n != 0 {
		t.Errorf("%d tokens are remembered", n)
	}
	fetched.Close()
	if _, outcomes := find(fetched, withCookie(raw), noon); !slices.Equal(outcomes, []Outcome{KeysUnavailable}) {
		t.Errorf("a request in flight after Close: %v", outcomes)
	}
}

// TestUnknownErrorsVerifyNothing is for the day when token gets a new error.
func TestUnknownErrorsVerifyNothing(t *testing.T) {
	t.Parallel()
	if outcome := outcomeOf(fmt.Errorf("new")); sessionOf(outcome) != policy.Unverifiable {
		t.Errorf("it is %v", outcome)
	}
}

func TestCachedTokenAllocatesNothing(t *testing.T) {
	raw := sign(t, claims(jwt.MapClaims{"optout": true}))
	for name, r := range map[string]*http.Request{
		"cookie": withCookie(raw),
		"header": {Header: http.Header{"Authorization": {"Bearer " + raw}}},
	} {
		var source Source = newJWT(t, func(c *settings) { c.Header, c.OptOutClaim = "Authorization", "optout" })
		sources := Sources{source}
		observe := func(int, string, Outcome) {}
		if subject := sources.Find(r, noon, observe); subject.Session != policy.Verified {
			t.Fatalf("%s: %+v", name, subject)
		}
		if n := testing.AllocsPerRun(100, func() { sources.Find(r, noon, observe) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkJWT compares a token that verified a moment ago with one that did
// not; "cached" is to cost at most a twentieth of "verified".
func BenchmarkJWT(b *testing.B) {
	r := withCookie(sign(b, claims(nil)))
	b.Run("verified", func(b *testing.B) {
		source := newJWT(b, nil)
		raw, _ := source.Credentials(r)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := source.verifier.Verify(raw, noon); err != nil {
				b.Fatal(err)
			}
		}
	})
	observe := func(int, string, Outcome) {}
	b.Run("cached", func(b *testing.B) {
		sources := Sources{newJWT(b, nil)}
		b.ReportAllocs()
		for b.Loop() {
			if found := sources.Find(r, noon, observe); found.Session != policy.Verified {
				b.Fatal(found)
			}
		}
	})
	b.Run("cached-parallel", func(b *testing.B) {
		sources := Sources{newJWT(b, nil)}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				sources.Find(r, noon, observe)
			}
		})
	})
	b.Run("anonymous", func(b *testing.B) {
		sources := Sources{newJWT(b, nil)}
		anonymous := &http.Request{Header: http.Header{"Cookie": {"canGoBack=1; tooyoung=1"}}}
		b.ReportAllocs()
		for b.Loop() {
			sources.Find(anonymous, noon, observe)
		}
	})
}
