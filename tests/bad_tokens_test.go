package tests

import (
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
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// jwks is a key set with the RSA key, under a kid.
func jwks(kid string, others ...map[string]any) string {
	set := map[string]any{"keys": append([]map[string]any{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
		"n": base64.RawURLEncoding.EncodeToString(rsaKey.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(rsaKey.E)).Bytes()),
	}}, others...)}
	return string(must(json.Marshal(set)))
}

// Every credential that is there and does not hold makes the session
// unverifiable: by on_unknown, without a lookup, and never as an error.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, jwks("current",
			map[string]any{"kty": "oct", "kid": "shared", "alg": "HS256", "k": b64(sessionSecret)}))
	}))
	t.Cleanup(keys.Close)

	common := "cookie session\nheader Authorization Bearer\nissuer " + sessionIssuer + "\naudience web\n}"
	sessionBy := map[string]string{
		"secret": "session jwt {\nsecret " + fromFile("session.secret") + "\n" + common,
		"key":    "session jwt {\nkey " + fromFile("rsa.pub") + "\nkey " + fromFile("ec.pub") + "\nkey " + fromFile("ed.pub") + "\n" + common,
		"jwks":   "session jwt {\njwks " + keys.URL + "\n" + common,
		"typ":    "session jwt {\nsecret " + fromFile("session.secret") + "\ntyp at+jwt\n" + common,
	}
	blocking, collecting := map[string]string{}, map[string]string{}
	var sites []string
	for kind, block := range sessionBy {
		blocking[kind], collecting[kind] = freeAddr(t), freeAddr(t)
		sites = append(sites,
			site(blocking[kind], gate("preset fxa", block, profile.block(patient)), proxyTo(behind.addr())),
			site(collecting[kind], gate("preset fxa", "on_unknown collect", block, profile.block(patient)), proxyTo(behind.addr())))
	}
	// Caddy itself refuses more than 16 KiB of headers. Here it does not, so that
	// the gate has to.
	caddy := startWith(t, "servers {\nmax_header_size 4MiB\n}", sites...)

	uid := profile.account(optOut)
	hs, rs := jwt.SigningMethodHS256, jwt.SigningMethodRS256
	secret := []byte(sessionSecret)
	publicPEM := must(os.ReadFile(keyFile("rsa.pub")))
	stranger := must(rsa.GenerateKey(rand.Reader, 2048))
	good := session(uid)
	parts := strings.Split(good, ".")
	with := func(others map[string]any) string { return session(uid, others) }
	header := func(h map[string]any) string { return sign(hs, secret, h, claims(uid)) }
	soon := time.Now().Unix()

	// First that good ones are good: nothing below is refused for its site's sake.
	for kind, token := range map[string]string{
		"secret": good,
		"key":    sign(rs, rsaKey, nil, claims(uid)),
		"jwks":   sign(rs, rsaKey, map[string]any{"kid": "current"}, claims(uid)),
		"typ":    sign(hs, secret, map[string]any{"typ": "application/AT+JWT"}, claims(uid)),
	} {
		until(t, "the session of "+kind+" to be verified", func() bool {
			return !send(t, behind, collecting[kind], "POST /metrics", "{}", cookie(token)).collected()
		})
	}
	for _, token := range []string{
		sign(jwt.SigningMethodES256, ecKey, nil, claims(uid)), sign(jwt.SigningMethodEdDSA, edKey, nil, claims(uid)),
		sign(jwt.SigningMethodPS256, rsaKey, nil, claims(uid)),
	} {
		if a := send(t, behind, collecting["key"], "POST /metrics", "{}", "Authorization: Bearer "+token); a.collected() {
			t.Error("a session that was signed with one of several keys does not verify")
		}
	}
	lookups := len(profile.asked.all())

	for _, c := range []struct {
		name, kind, token string
		outcome           string // as sessions_total counts it; "" where the design leaves open which
	}{
		{"garbage", "secret", "garbage", "malformed"},
		{"two dots", "secret", "..", "malformed"},
		{"control characters", "secret", "a.\x01b.c", "malformed"},
		{"truncated", "secret", good[:len(good)-9], ""},
		{"no signature", "secret", parts[0] + "." + parts[1] + ".", ""},
		{"two parts", "secret", parts[0] + "." + parts[1], "malformed"},
		{"five parts", "secret", good + ".x.y", "malformed"},
		{"another signature", "secret", sign(hs, []byte("another secret, of another issuer"), nil, claims(uid)), "bad_signature"},
		{"other claims under the signature", "secret", parts[0] + "." + b64(`{"sub":"x","exp":9999999999}`) + "." + parts[2], "bad_signature"},
		{"alg none", "secret", b64(`{"alg":"none"}`) + "." + parts[1] + ".", ""},
		{"alg None", "secret", b64(`{"alg":"None"}`) + "." + parts[1] + ".", ""},
		{"alg none, signed", "secret", b64(`{"alg":"none"}`) + "." + parts[1] + "." + parts[2], ""},
		{"no alg", "secret", b64(`{}`) + "." + parts[1] + "." + parts[2], ""},
		{"RS256 where a secret is set", "secret", sign(rs, rsaKey, nil, claims(uid)), ""},
		{"crit", "secret", header(map[string]any{"crit": []string{"exp"}}), "malformed"},
		{"empty crit", "secret", header(map[string]any{"crit": []string{}}), "malformed"},
		{"b64 false", "secret", header(map[string]any{"b64": false, "crit": []string{"b64"}}), "malformed"},
		{"wrong issuer", "secret", with(map[string]any{"iss": "https://evil.test"}), "wrong_issuer"},
		{"no issuer", "secret", with(map[string]any{"iss": nil}), "wrong_issuer"},
		{"wrong audience", "secret", with(map[string]any{"aud": "mobile"}), "wrong_audience"},
		{"no audience", "secret", with(map[string]any{"aud": nil}), "wrong_audience"},
		{"expired, with a wrong audience", "secret", session(uid, expired, map[string]any{"aud": "mobile"}), "wrong_audience"},
		{"expired, with a wrong issuer", "secret", session(uid, expired, map[string]any{"iss": "https://evil.test"}), "wrong_issuer"},
		{"expired, with a wrong signature", "secret", sign(hs, []byte("another secret, of another issuer"), nil, claims(uid, expired)), "bad_signature"},
		{"expired, without a uid", "secret", session(uid, expired, map[string]any{"sub": nil}), "malformed"},
		{"no exp", "secret", with(map[string]any{"exp": nil}), "malformed"},
		{"exp is a string", "secret", with(map[string]any{"exp": "9999999999"}), "malformed"},
		{"nbf in the future", "secret", with(map[string]any{"nbf": soon + 3600}), "malformed"},
		{"iat in the future", "secret", with(map[string]any{"iat": soon + 3600}), "malformed"},
		{"iat is a string", "secret", with(map[string]any{"iat": "yesterday"}), "malformed"},
		{"no uid", "secret", with(map[string]any{"sub": nil}), "malformed"},
		{"empty uid", "secret", with(map[string]any{"sub": ""}), "malformed"},
		{"uid is a number", "secret", with(map[string]any{"sub": 7}), "malformed"},
		{"uid too long", "secret", session(strings.Repeat("a", 256)), "malformed"},
		{"uid with a control character", "secret", session("a\nb"), "malformed"},
		{"over 8 KiB", "secret", session(uid, map[string]any{"pad": strings.Repeat("x", 8<<10)}), "too_long"},
		{"1 MB", "secret", strings.Repeat("a", 1_000_000), "too_long"},
		{"HS256 with the RSA public key", "key", sign(hs, publicPEM, nil, claims(uid)), ""},
		{"HS256 with the RSA public key, trimmed", "key", sign(hs, []byte(strings.TrimSpace(string(publicPEM))), nil, claims(uid)), ""},
		{"RS256 of a stranger", "key", sign(rs, stranger, nil, claims(uid)), "bad_signature"},
		{"a stranger's key in the header", "key", sign(rs, stranger, map[string]any{"jwk": map[string]any{
			"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(stranger.N.Bytes()), "e": "AQAB"}}, claims(uid)), "bad_signature"},
		{"wrong kid", "jwks", sign(rs, rsaKey, map[string]any{"kid": "retired"}, claims(uid)), "unknown_key"},
		{"no kid", "jwks", sign(rs, stranger, nil, claims(uid)), ""},
		{"right kid, wrong key", "jwks", sign(rs, stranger, map[string]any{"kid": "current"}, claims(uid)), "bad_signature"},
		{"a shared secret out of the key set", "jwks", sign(hs, secret, map[string]any{"kid": "shared"}, claims(uid)), ""},
		{"HS256 with the RSA public key under its kid", "jwks", sign(hs, publicPEM, map[string]any{"kid": "current"}, claims(uid)), ""},
		{"jku", "jwks", sign(rs, stranger, map[string]any{"kid": "retired", "jku": keys.URL}, claims(uid)), "unknown_key"},
		{"another type of token", "typ", sign(hs, secret, map[string]any{"typ": "JWT"}, claims(uid)), "malformed"},
	} {
		before, beforeReason := caddy.metric("sessions_total", "outcome", c.outcome), caddy.metric("requests_total", "reason", "unverified_session")
		a := send(t, behind, blocking[c.kind], "POST /metrics", "{}", rawCookie(c.token))
		if a.collected() || a.status != http.StatusOK || a.body != success {
			t.Errorf("%s: collected %v, answered %d %q", c.name, a.collected(), a.status, a.body)
		}
		if a := send(t, behind, collecting[c.kind], "POST /metrics", "{}", rawCookie(c.token)); !a.collected() || a.status != http.StatusOK {
			t.Errorf("%s, on_unknown collect: collected %v, answered %d", c.name, a.collected(), a.status)
		}
		if got := caddy.metric("requests_total", "reason", "unverified_session") - beforeReason; got != 2 {
			t.Errorf("%s: %v of 2 requests had the reason unverified_session", c.name, got)
		}
		if got := caddy.metric("sessions_total", "outcome", c.outcome) - before; c.outcome != "" && got != 2 {
			t.Errorf("%s: %v of 2 sessions were counted as %s", c.name, got, c.outcome)
		}
		// A page is served all the same, a header in place of the cookie as well.
		if len(c.token) < 64<<10 {
			if a := send(t, behind, blocking[c.kind], "GET /signin", "", "Authorization: Bearer "+strings.ReplaceAll(c.token, "\x01", "~"), "Accept: text/html"); a.status != http.StatusOK || a.body != page {
				t.Errorf("%s, page: answered %d", c.name, a.status)
			}
		}
	}
	if got := len(profile.asked.all()); got != lookups {
		t.Errorf("bad tokens caused %d lookups", got-lookups)
	}
}

// rawCookie is the cookie with whatever bytes a header can carry.
func rawCookie(token string) string { return cookie(strings.ReplaceAll(token, "\x01", "\x80")) }

// Expired and good otherwise is a name; absent and empty is nobody; two that
// differ are a conflict; another scheme is somebody else's header.
func TestSessionsCounted(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := freeAddr(t)
	caddy := start(t, site(addr, gate("preset fxa", `session jwt {
		cookie session
		header Authorization Bearer
		secret `+fromFile("session.secret")+`
		issuer `+sessionIssuer+`
		audience web
	}`, profile.block(patient)), proxyTo(behind.addr())))
	in, out := session(profile.account(allow)), session(profile.account(optOut))

	for _, c := range []struct {
		name    string
		headers []string
		outcome string
		want    string
	}{
		{"nothing", nil, "absent", "collect"},
		{"empty cookie", []string{cookie("")}, "absent", "collect"},
		{"empty quoted cookie", []string{cookie(`""`)}, "absent", "collect"},
		{"other cookies", []string{"Cookie: a=b; xsession=" + out + "; session.x=" + out}, "absent", "collect"},
		{"exact case", []string{"Cookie: Session=" + out}, "absent", "collect"},
		{"another scheme", []string{"Authorization: Basic " + out}, "absent", "collect"},
		{"cookie", []string{cookie(out)}, "verified", "block"},
		{"among others", []string{"Cookie: a=b; session=" + out + "; c=d"}, "verified", "block"},
		{"in a second Cookie header", []string{"Cookie: a=b", cookie(out)}, "verified", "block"},
		{"quoted", []string{cookie(`"` + out + `"`)}, "verified", "block"},
		{"header", []string{"Authorization: Bearer " + out}, "verified", "block"},
		{"header, any case of the scheme", []string{"Authorization: bEARER " + out}, "verified", "block"},
		{"cookie first", []string{cookie(out), "Authorization: Bearer " + in}, "verified", "block"},
		{"the same twice", []string{"Cookie: session=" + in + "; session=" + in}, "verified", "collect"},
		{"two that differ", []string{"Cookie: session=" + in + "; session=" + out}, "conflicting", "block"},
		{"two that differ, in two headers", []string{cookie(in), cookie(out)}, "conflicting", "block"},
		{"expired", []string{cookie(session(profile.account(unset), expired))}, "expired", "collect"},
		{"expired, opted out", []string{cookie(session(profile.account(optOut), expired))}, "expired", "block"},
		{"expired within the leeway", []string{cookie(session(profile.account(optOut), map[string]any{"exp": time.Now().Unix() - 20}))}, "verified", "block"},
	} {
		before := caddy.metric("sessions_total", "kind", "jwt", "outcome", c.outcome)
		if a := send(t, behind, addr, "POST /metrics", "{}", c.headers...); a.decision() != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.decision(), c.want)
		}
		if got := caddy.metric("sessions_total", "kind", "jwt", "outcome", c.outcome) - before; got != 1 {
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
	addr := freeAddr(t)
	caddy := start(t, site(addr, gate("preset fxa", "session jwt {\ncookie session\njwks "+keys.URL+"\n}", profile.block(patient)),
		proxyTo(behind.addr())))
	token := cookie(sign(jwt.SigningMethodRS256, rsaKey, map[string]any{"kid": "current"}, claims(profile.account(allow))))

	for range 20 {
		if a := send(t, behind, addr, "POST /metrics", "{}", token); a.collected() || a.status != http.StatusOK {
			t.Fatalf("without keys: collected %v, answered %d", a.collected(), a.status)
		}
		if a := send(t, behind, addr, "GET /signin", "", token, "Accept: text/html"); a.body != page {
			t.Fatal("without keys, no page")
		}
	}
	if caddy.metric("sessions_total", "outcome", "keys_unavailable") == 0 {
		t.Error("nothing tells that the keys are unavailable")
	}
	there.Store(true)
	until(t, "the key set to be fetched", func() bool {
		return send(t, behind, addr, "POST /metrics", "{}", token).collected()
	})
}
