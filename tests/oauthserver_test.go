package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// An oauthServer stands in for FxA's OAuth server: the key set at /v1/jwks,
// with the RSA and the EC key, and what it says of opaque tokens, at /v1/verify
// in its own manner and at /v1/introspect in that of RFC 7662.
type oauthServer struct {
	*httptest.Server
	mu     sync.Mutex
	tokens map[string]opaque

	asked testcaddy.Ledger[string]      // the tokens
	down  atomic.Bool                   // answers 503
	hold  atomic.Pointer[chan struct{}] // while set, no question about a token is answered before it is closed
}

// An opaque token is whose it is, which client's, and what for.
type opaque struct {
	uid, client string
	scope       []string
}

// introspectionBearer is the credential that /v1/introspect wants.
const introspectionBearer = "who-asks-about-tokens-shows-this"

func newOAuthServer(t testing.TB) *oauthServer {
	o := &oauthServer{tokens: map[string]opaque{}}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	return o
}

// issue makes an opaque token in FxA's form, 64 hex digits.
func (o *oauthServer) issue(t testing.TB, uid, client string, scope ...string) (token string) {
	token = testcaddy.NewUID(t) + testcaddy.NewUID(t)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens[token] = opaque{uid, client, scope}
	return token
}

// times is how often a token was asked about.
func (o *oauthServer) times(token string) int {
	return len(o.asked.Where(func(asked string) bool { return asked == token }))
}

func (o *oauthServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if o.down.Load() {
		reply(w, 503, "application/json", `{"code":503,"errno":202,"error":"Service Unavailable"}`)
		return
	}
	if r.URL.Path == "/v1/jwks" {
		reply(w, 200, "application/json", jwks("rsa", map[string]any{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "ec",
			"x": coordinate(testcaddy.ECKey.X.FillBytes), "y": coordinate(testcaddy.ECKey.Y.FillBytes),
		}))
		return
	}
	var token string
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/verify":
		var asked struct{ Token string }
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &asked)
		token = asked.Token
	case "POST /v1/introspect":
		token = r.PostFormValue("token")
		if r.Header.Get("Authorization") != "Bearer "+introspectionBearer {
			reply(w, 401, "application/json", `{}`)
			return
		}
	default:
		http.NotFound(w, r)
		return
	}
	o.asked.Add(token)
	if hold := o.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-r.Context().Done():
			return
		}
	}
	o.mu.Lock()
	known, ok := o.tokens[token]
	o.mu.Unlock()
	ms := time.Now().UnixMilli() // as FxA has it, where the RFC says seconds
	switch {
	case !ok && r.URL.Path == "/v1/verify":
		reply(w, 400, "application/json; charset=utf-8", `{"code":400,"errno":108,"error":"Bad Request","message":"Invalid token"}`)
	case !ok:
		reply(w, 200, "application/json", `{"active":false}`)
	case r.URL.Path == "/v1/verify":
		reply(w, 200, "application/json; charset=utf-8", string(testcaddy.Must(json.Marshal(map[string]any{
			"user": known.uid, "client_id": known.client, "scope": known.scope, "profile_changed_at": ms,
		}))))
	default:
		reply(w, 200, "application/json", string(testcaddy.Must(json.Marshal(map[string]any{
			"active": true, "sub": known.uid, "client_id": known.client, "scope": strings.Join(known.scope, " "), "token_type": "access_token",
			"iat": ms - 60_000, "exp": ms + 3_600_000, "jti": token,
		}))))
	}
}

// coordinate is one of a public key's, as RFC 7518, section 6.2.1.2, has it.
func coordinate(fill func([]byte) []byte) string {
	return base64.RawURLEncoding.EncodeToString(fill(make([]byte, 32)))
}

// What FxA's events say of themselves.
const (
	eventIssuer   = "https://accounts.firefox.com/" // with the slash of the documents
	eventAudience = "c3b8e7a4d1f20596"
	eventURI      = "https://schemas.accounts.firefox.com/event/"
)

// event is the claims of a security event token as FxA's broker makes it: no
// exp, and the time with a fraction. Others override them; nil takes one away.
func event(t testing.TB, uid, name string, payload any, others ...map[string]any) jwt.MapClaims {
	claims := map[string]any{
		"iss": strings.TrimSuffix(eventIssuer, "/"), "aud": eventAudience, "exp": nil,
		"iat": float64(time.Now().UnixMilli()) / 1000, "jti": testcaddy.NewUID(t),
		"events": map[string]any{eventURI + name: payload},
	}
	return testcaddy.Claims(uid, append([]map[string]any{claims}, others...)...)
}

// byRSA and byEC sign as the OAuth server would.
func byRSA(claims jwt.MapClaims) string {
	return testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, map[string]any{"kid": "rsa"}, claims)
}

func byEC(claims jwt.MapClaims) string {
	return testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, map[string]any{"kid": "ec", "typ": "secevent+jwt"}, claims)
}

// The two manners in which a token is delivered, and what each has for an
// answer to one that is taken.
var deliveries = map[string]struct {
	deliver func(addr, token string) (int, http.Header, string, error)
	status  int
	body    string
}{
	"FxA": {func(addr, token string) (int, http.Header, string, error) {
		return testcaddy.TryAskFor(addr, "POST /v1/events", token, "")
	}, http.StatusOK, "{}"},
	"RFC 8935": {func(addr, token string) (int, http.Header, string, error) {
		return testcaddy.TryAskFor(addr, "POST /v1/events", "", token, "Content-Type: application/secevent+jwt", "Accept: application/json")
	}, http.StatusAccepted, ""},
}

// happen delivers an event in one of the manners, which has to be taken.
func happen(t testing.TB, addr, manner, token string) {
	t.Helper()
	d := deliveries[manner]
	if status, _, body, err := d.deliver(addr, token); err != nil || status != d.status || body != d.body {
		t.Errorf("an event in the manner of %s: %d %q, %v", manner, status, body, err)
	}
}

// eventsBlock is the events block of a profile_server.
func (o *oauthServer) eventsBlock() string {
	return fmt.Sprintf("events {\nissuer %s\njwks %s/v1/jwks\naudience %s\n}", eventIssuer, o.URL, eventAudience)
}

// keysFetched waits until a profile server has the key set.
func keysFetched(t testing.TB, addr string) {
	t.Helper()
	testcaddy.Until(t, "the key set", func() bool {
		status, _, _, err := deliveries["FxA"].deliver(addr, byRSA(event(t, testcaddy.NewUID(t), "password-change", map[string]any{"changeTime": 1})))
		return err == nil && status == http.StatusOK
	})
}
