package tests

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// jwks is a key set with the RSA key, under a kid.
func jwks(kid string, others ...map[string]any) string {
	set := map[string]any{"keys": append([]map[string]any{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
		"n": base64.RawURLEncoding.EncodeToString(testcaddy.RSAKey.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(testcaddy.RSAKey.E)).Bytes()),
	}}, others...)}
	return string(testcaddy.Must(json.Marshal(set)))
}

// Every credential that is there and does not hold makes the session
// unverifiable: by on_unknown, without a lookup, and never as an error.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, jwks("current",
			map[string]any{"kty": "oct", "kid": "shared", "alg": "HS256", "k": b64(testcaddy.SessionSecret)}))
	}))
	t.Cleanup(keys.Close)

	common := "cookie session\nheader Authorization Bearer\nissuer " + testcaddy.SessionIssuer + "\naudience web\n}"
	sessionBy := map[string]string{
		"secret": "session jwt {\nsecret " + testcaddy.FromFile("session.secret") + "\n" + common,
		"key":    "session jwt {\nkey " + testcaddy.FromFile("rsa.pub") + "\nkey " + testcaddy.FromFile("ec.pub") + "\nkey " + testcaddy.FromFile("ed.pub") + "\n" + common,
		"jwks":   "session jwt {\njwks " + keys.URL + "\n" + common,
		"typ":    "session jwt {\nsecret " + testcaddy.FromFile("session.secret") + "\ntyp at+jwt\n" + common,
	}
	blocking, collecting := map[string]string{}, map[string]string{}
	var sites []string
	for kind, block := range sessionBy {
		blocking[kind], collecting[kind] = testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
		sites = append(sites,
			testcaddy.Site(blocking[kind], testcaddy.Gate("preset fxa", block, profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
			testcaddy.Site(collecting[kind], testcaddy.Gate("preset fxa", "on_unknown collect", block, profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	}
	// Caddy itself refuses more than 16 KiB of headers. Here it does not, so that
	// the gate has to.
	caddy := testcaddy.StartWith(t, "servers {\nmax_header_size 4MiB\n}", sites...)

	uid := profile.account(optOut)
	hs, rs := jwt.SigningMethodHS256, jwt.SigningMethodRS256
	secret := []byte(testcaddy.SessionSecret)
	publicPEM := testcaddy.Must(os.ReadFile(testcaddy.KeyFile("rsa.pub")))
	stranger := testcaddy.Must(rsa.GenerateKey(rand.Reader, 2048))
	_, strangersEd, _ := ed25519.GenerateKey(rand.Reader)
	ed25519Name := map[string]any{"alg": "Ed25519"}
	salted := func(length int) jwt.SigningMethod {
		return &jwt.SigningMethodRSAPSS{SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA, Options: &rsa.PSSOptions{SaltLength: length}}
	}
	good := testcaddy.Session(uid)
	parts := strings.Split(good, ".")
	with := func(others map[string]any) string { return testcaddy.Session(uid, others) }
	header := func(h map[string]any) string { return testcaddy.Sign(hs, secret, h, testcaddy.Claims(uid)) }
	soon := time.Now().Unix()

	// First that good ones are good: nothing below is refused for its site's sake.
	for kind, token := range map[string]string{
		"secret": good,
		"key":    testcaddy.Sign(rs, testcaddy.RSAKey, nil, testcaddy.Claims(uid)),
		"jwks":   testcaddy.Sign(rs, testcaddy.RSAKey, map[string]any{"kid": "current"}, testcaddy.Claims(uid)),
		"typ":    testcaddy.Sign(hs, secret, map[string]any{"typ": "application/AT+JWT"}, testcaddy.Claims(uid)),
	} {
		testcaddy.Until(t, "the session of "+kind+" to be verified", func() bool {
			return !send(t, behind, collecting[kind], "POST /metrics", "{}", testcaddy.Cookie(token)).collected()
		})
	}
	for _, token := range []string{
		testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, nil, testcaddy.Claims(uid)), testcaddy.Sign(jwt.SigningMethodEdDSA, testcaddy.EdKey, nil, testcaddy.Claims(uid)),
		testcaddy.Sign(jwt.SigningMethodPS256, testcaddy.RSAKey, nil, testcaddy.Claims(uid)), testcaddy.Sign(jwt.SigningMethodEdDSA, testcaddy.EdKey, ed25519Name, testcaddy.Claims(uid)),
		testcaddy.Sign(rs, testcaddy.RSAKey, nil, testcaddy.Claims(uid, map[string]any{"iat": soon + 3600})),
		testcaddy.Sign(rs, testcaddy.RSAKey, nil, testcaddy.Claims(uid, map[string]any{"iat": soon * 1000})),
	} {
		if a := send(t, behind, collecting["key"], "POST /metrics", "{}", "Authorization: Bearer "+token); a.collected() {
			t.Error("a good session, signed with one of several keys, does not verify")
		}
	}
	lookups := len(profile.asked.All())

	for _, c := range []struct {
		name, kind, token string
		outcome           string // as sessions_total counts it; "" where docs/reference.md leaves open which
	}{
		{"garbage", "secret", "garbage", "malformed"},
		{"two dots", "secret", "..", "malformed"},
		{"control characters", "secret", "a.\x01b.c", "malformed"},
		{"truncated", "secret", good[:len(good)-9], ""},
		{"no signature", "secret", parts[0] + "." + parts[1] + ".", ""},
		{"two parts", "secret", parts[0] + "." + parts[1], "malformed"},
		{"five parts", "secret", good + ".x.y", "malformed"},
		{"another signature", "secret", testcaddy.Sign(hs, []byte("another secret, of another issuer"), nil, testcaddy.Claims(uid)), "bad_signature"},
		{"other claims under the signature", "secret", parts[0] + "." + b64(`{"sub":"x","exp":9999999999}`) + "." + parts[2], "bad_signature"},
		{"alg none", "secret", b64(`{"alg":"none"}`) + "." + parts[1] + ".", ""},
		{"alg None", "secret", b64(`{"alg":"None"}`) + "." + parts[1] + ".", ""},
		{"alg none, signed", "secret", b64(`{"alg":"none"}`) + "." + parts[1] + "." + parts[2], ""},
		{"no alg", "secret", b64(`{}`) + "." + parts[1] + "." + parts[2], ""},
		{"RS256 where a secret is set", "secret", testcaddy.Sign(rs, testcaddy.RSAKey, nil, testcaddy.Claims(uid)), ""},
		{"crit", "secret", header(map[string]any{"crit": []string{"exp"}}), "malformed"},
		{"empty crit", "secret", header(map[string]any{"crit": []string{}}), "malformed"},
		{"b64 false", "secret", header(map[string]any{"b64": false, "crit": []string{"b64"}}), "malformed"},
		{"wrong issuer", "secret", with(map[string]any{"iss": "https://evil.test"}), "wrong_issuer"},
		{"no issuer", "secret", with(map[string]any{"iss": nil}), "wrong_issuer"},
		{"wrong audience", "secret", with(map[string]any{"aud": "mobile"}), "wrong_audience"},
		{"no audience", "secret", with(map[string]any{"aud": nil}), "wrong_audience"},
		{"expired, with a wrong audience", "secret", testcaddy.Session(uid, testcaddy.Expired, map[string]any{"aud": "mobile"}), "wrong_audience"},
		{"expired, with a wrong issuer", "secret", testcaddy.Session(uid, testcaddy.Expired, map[string]any{"iss": "https://evil.test"}), "wrong_issuer"},
		{"expired, with a wrong signature", "secret", testcaddy.Sign(hs, []byte("another secret, of another issuer"), nil, testcaddy.Claims(uid, testcaddy.Expired)), "bad_signature"},
		{"expired, without a uid", "secret", testcaddy.Session(uid, testcaddy.Expired, map[string]any{"sub": nil}), "malformed"},
		{"no exp", "secret", with(map[string]any{"exp": nil}), "malformed"},
		{"exp is a string", "secret", with(map[string]any{"exp": "9999999999"}), "malformed"},
		{"nbf in the future", "secret", with(map[string]any{"nbf": soon + 3600}), "not_yet_valid"},
		{"nbf in the future, expired", "secret", testcaddy.Session(uid, testcaddy.Expired, map[string]any{"nbf": soon + 3600}), "not_yet_valid"},
		{"nbf in the future, a key of a set", "jwks", testcaddy.Sign(rs, testcaddy.RSAKey, map[string]any{"kid": "current"}, testcaddy.Claims(uid, map[string]any{"nbf": soon + 3600})), "not_yet_valid"},
		{"nbf in milliseconds", "secret", with(map[string]any{"nbf": soon * 1000}), "malformed"},
		{"iat is a string", "secret", with(map[string]any{"iat": "yesterday"}), "malformed"},
		{"no uid", "secret", with(map[string]any{"sub": nil}), "malformed"},
		{"empty uid", "secret", with(map[string]any{"sub": ""}), "malformed"},
		{"uid is a number", "secret", with(map[string]any{"sub": 7}), "malformed"},
		{"uid too long", "secret", testcaddy.Session(strings.Repeat("a", 256)), "malformed"},
		{"uid with a control character", "secret", testcaddy.Session("a\nb"), "malformed"},
		{"over 8 KiB", "secret", testcaddy.Session(uid, map[string]any{"pad": strings.Repeat("x", 8<<10)}), "too_long"},
		{"1 MB", "secret", strings.Repeat("a", 1_000_000), "too_long"},
		{"HS256 with the RSA public key", "key", testcaddy.Sign(hs, publicPEM, nil, testcaddy.Claims(uid)), ""},
		{"HS256 with the RSA public key, trimmed", "key", testcaddy.Sign(hs, []byte(strings.TrimSpace(string(publicPEM))), nil, testcaddy.Claims(uid)), ""},
		{"PS256 with a salt of one byte", "key", testcaddy.Sign(salted(1), testcaddy.RSAKey, nil, testcaddy.Claims(uid)), "bad_signature"},
		{"PS256 with the longest salt", "key", testcaddy.Sign(salted(rsa.PSSSaltLengthAuto), testcaddy.RSAKey, nil, testcaddy.Claims(uid)), "bad_signature"},
		{"Ed25519 of a stranger", "key", testcaddy.Sign(jwt.SigningMethodEdDSA, strangersEd, ed25519Name, testcaddy.Claims(uid)), "bad_signature"},
		{"ed25519 in lower case", "key", testcaddy.Sign(jwt.SigningMethodEdDSA, testcaddy.EdKey, map[string]any{"alg": "ed25519"}, testcaddy.Claims(uid)), "bad_signature"},
		{"RS256 of a stranger", "key", testcaddy.Sign(rs, stranger, nil, testcaddy.Claims(uid)), "bad_signature"},
		{"a stranger's key in the header", "key", testcaddy.Sign(rs, stranger, map[string]any{"jwk": map[string]any{
			"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(stranger.N.Bytes()), "e": "AQAB"}}, testcaddy.Claims(uid)), "bad_signature"},
		{"wrong kid", "jwks", testcaddy.Sign(rs, testcaddy.RSAKey, map[string]any{"kid": "retired"}, testcaddy.Claims(uid)), "unknown_key"},
		{"no kid", "jwks", testcaddy.Sign(rs, stranger, nil, testcaddy.Claims(uid)), ""},
		{"right kid, wrong key", "jwks", testcaddy.Sign(rs, stranger, map[string]any{"kid": "current"}, testcaddy.Claims(uid)), "bad_signature"},
		{"a shared secret out of the key set", "jwks", testcaddy.Sign(hs, secret, map[string]any{"kid": "shared"}, testcaddy.Claims(uid)), ""},
		{"HS256 with the RSA public key under its kid", "jwks", testcaddy.Sign(hs, publicPEM, map[string]any{"kid": "current"}, testcaddy.Claims(uid)), ""},
		{"jku", "jwks", testcaddy.Sign(rs, stranger, map[string]any{"kid": "retired", "jku": keys.URL}, testcaddy.Claims(uid)), "unknown_key"},
		{"another type of token", "typ", testcaddy.Sign(hs, secret, map[string]any{"typ": "JWT"}, testcaddy.Claims(uid)), "malformed"},
	} {
		before, beforeReason := caddy.Metric("sessions_total", "outcome", c.outcome), caddy.Metric("requests_total", "reason", "unverified_session")
		a := send(t, behind, blocking[c.kind], "POST /metrics", "{}", rawCookie(c.token))
		if a.collected() || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: collected %v, answered %d %q", c.name, a.collected(), a.status, a.body)
		}
		// on_unknown collect is not for what a sender can do to hide an account.
		collects := c.outcome != "too_long"
		if a := send(t, behind, collecting[c.kind], "POST /metrics", "{}", rawCookie(c.token)); a.collected() != collects || a.status != http.StatusOK {
			t.Errorf("%s, on_unknown collect: collected %v, answered %d", c.name, a.collected(), a.status)
		}
		if got := caddy.Metric("requests_total", "reason", "unverified_session") - beforeReason; got != 2 {
			t.Errorf("%s: %v of 2 requests had the reason unverified_session", c.name, got)
		}
		if got := caddy.Metric("sessions_total", "outcome", c.outcome) - before; c.outcome != "" && got != 2 {
			t.Errorf("%s: %v of 2 sessions were counted as %s", c.name, got, c.outcome)
		}
		// A page is served all the same, a header in place of the cookie as well.
		if len(c.token) < 64<<10 {
			if a := send(t, behind, blocking[c.kind], "GET /signin", "", "Authorization: Bearer "+strings.ReplaceAll(c.token, "\x01", "~"), "Accept: text/html"); a.status != http.StatusOK || a.body != page {
				t.Errorf("%s, page: answered %d", c.name, a.status)
			}
		}
	}
	if got := len(profile.asked.All()); got != lookups {
		t.Errorf("bad tokens caused %d lookups", got-lookups)
	}
}

// rawCookie is the cookie with whatever bytes a header can carry.
func rawCookie(token string) string {
	return testcaddy.Cookie(strings.ReplaceAll(token, "\x01", "\x80"))
}

// Expired and good otherwise is a name; absent and empty is nobody; two that
// differ are a conflict; another scheme is somebody else's header.
func TestSessionsCounted(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", `session jwt {
		cookie session
		header Authorization Bearer
		secret `+testcaddy.FromFile("session.secret")+`
		issuer `+testcaddy.SessionIssuer+`
		audience web
	}`, profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	in, out := testcaddy.Session(profile.account(allow)), testcaddy.Session(profile.account(optOut))

	for _, c := range []struct {
		name    string
		headers []string
		outcome string
		want    string
	}{
		{"nothing", nil, "absent", "collect"},
		{"empty cookie", []string{testcaddy.Cookie("")}, "absent", "collect"},
		{"empty quoted cookie", []string{testcaddy.Cookie(`""`)}, "absent", "collect"},
		{"other cookies", []string{"Cookie: a=b; xsession=" + out + "; session.x=" + out}, "absent", "collect"},
		{"exact case", []string{"Cookie: Session=" + out}, "absent", "collect"},
		{"another scheme", []string{"Authorization: Basic " + out}, "absent", "collect"},
		{"cookie", []string{testcaddy.Cookie(out)}, "verified", "block"},
		{"among others", []string{"Cookie: a=b; session=" + out + "; c=d"}, "verified", "block"},
		{"in a second Cookie header", []string{"Cookie: a=b", testcaddy.Cookie(out)}, "verified", "block"},
		{"quoted", []string{testcaddy.Cookie(`"` + out + `"`)}, "verified", "block"},
		{"header", []string{"Authorization: Bearer " + out}, "verified", "block"},
		{"header, any case of the scheme", []string{"Authorization: bEARER " + out}, "verified", "block"},
		{"cookie and header", []string{testcaddy.Cookie(out), "Authorization: Bearer " + in}, "verified", "block"},
		{"the same twice", []string{"Cookie: session=" + in + "; session=" + in}, "verified", "collect"},
		{"two that differ", []string{"Cookie: session=" + in + "; session=" + out}, "conflicting", "block"},
		{"two that differ, in two headers", []string{testcaddy.Cookie(in), testcaddy.Cookie(out)}, "conflicting", "block"},
		{"expired", []string{testcaddy.Cookie(testcaddy.Session(profile.account(unset), testcaddy.Expired))}, "expired", "collect"},
		{"expired, opted out", []string{testcaddy.Cookie(testcaddy.Session(profile.account(optOut), testcaddy.Expired))}, "expired", "block"},
		{"expired within the leeway", []string{testcaddy.Cookie(testcaddy.Session(profile.account(optOut), map[string]any{"exp": time.Now().Unix() - 20}))}, "verified", "block"},
	} {
		before := caddy.Metric("sessions_total", "kind", "jwt", "outcome", c.outcome)
		if a := send(t, behind, addr, "POST /metrics", "{}", c.headers...); a.decision() != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.decision(), c.want)
		}
		if got := caddy.Metric("sessions_total", "kind", "jwt", "outcome", c.outcome) - before; got != 1 {
			t.Errorf("%s: counted %v times as %s", c.name, got, c.outcome)
		}
	}
}

// A key set that cannot be had makes sessions unverifiable, and nothing of it is
// kept: when the set is there, the next request verifies.
func TestKeySetOutage(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	var there atomic.Bool
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !there.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, jwks("current"))
	}))
	t.Cleanup(keys.Close)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", "session jwt {\ncookie session\njwks "+keys.URL+"\n}", profile.block(patient)),
		testcaddy.ProxyTo(behind.addr())))
	token := testcaddy.Cookie(testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, map[string]any{"kid": "current"}, testcaddy.Claims(profile.account(allow))))

	for range 20 {
		if a := send(t, behind, addr, "POST /metrics", "{}", token); a.collected() || a.status != http.StatusOK {
			t.Fatalf("without keys: collected %v, answered %d", a.collected(), a.status)
		}
		if a := send(t, behind, addr, "GET /signin", "", token, "Accept: text/html"); a.body != page {
			t.Fatal("without keys, no page")
		}
	}
	if caddy.Metric("sessions_total", "outcome", "keys_unavailable") == 0 {
		t.Error("nothing tells that the keys are unavailable")
	}
	there.Store(true)
	testcaddy.Until(t, "the key set to be fetched", func() bool {
		return send(t, behind, addr, "POST /metrics", "{}", token).collected()
	})
}
