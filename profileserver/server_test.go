package profileserver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

const (
	// identity and payload are what no answer but a preference, and no log
	// line, may ever hold.
	identity = "5a1e00000000000000000000000000e7"
	payload  = "p4yl0ad"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

const (
	body401NoToken  = `{"code":401,"errno":100,"error":"Bad Request","message":"Unauthorized","reason":"Bearer token not provided"}`
	body401BadToken = `{"code":401,"errno":100,"error":"Bad Request","message":"Unauthorized","reason":"Invalid token"}`
	body403Scope    = `{"code":403,"errno":999,"error":"Forbidden","message":"Insufficient scope"}`
	body403Operator = `{"code":403,"errno":999,"error":"Forbidden","message":"Client is not an operator"}`
	body403Client   = `{"code":403,"errno":999,"error":"Forbidden","message":"Client is not trusted"}`
	body404         = `{"code":404,"errno":999,"error":"Not Found","message":"Not Found"}`
	body400         = `{"code":400,"errno":101,"error":"Bad Request","message":"Invalid request parameter","validation":{"source":"payload","keys":["metrics_optout"]}}`
	body400JSON     = `{"code":400,"errno":999,"error":"Bad Request","message":"Invalid request payload JSON format"}`
	body400Type     = `{"code":400,"errno":999,"error":"Bad Request","message":"Invalid content-type header"}`
	body412         = `{"code":412,"errno":999,"error":"Precondition Failed","message":"Precondition Failed"}`
	body413         = `{"code":413,"errno":999,"error":"Request Entity Too Large","message":"Payload content length greater than maximum allowed"}`
	body415         = `{"code":415,"errno":999,"error":"Unsupported Media Type","message":"Unsupported Media Type"}`
	body503Keys     = `{"code":503,"errno":104,"error":"Service Unavailable","message":"OAuth server error"}`
	body503Store    = `{"code":503,"errno":999,"error":"Service Unavailable","message":"Store not available"}`
)

func verifier(t testing.TB, config token.Config) *token.Verifier {
	t.Helper()
	v, err := token.NewVerifier(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// mint returns a token of one minute, as the client given.
func mint(t *testing.T, client, subject, scope, source string) string {
	t.Helper()
	return mintAt(t, client, subject, scope, source, time.Now())
}

func mintAt(t *testing.T, client, subject, scope, source string, now time.Time) string {
	t.Helper()
	minter, err := token.NewMinter(token.MinterConfig{Key: secret, ClientID: client, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := minter.Mint(subject, scope, source, now)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// forge signs claims that the minter would not.
func forge(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	claims["exp"] = time.Now().Add(time.Hour).Unix()
	raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// instance is a running server, and the file that it writes to.
type instance struct {
	*httptest.Server
	store prefstore.Store
}

func openStore(t testing.TB, path string) prefstore.Store {
	t.Helper()
	store, err := prefstore.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func start(t *testing.T, path string, adapt ...func(*Config)) instance {
	t.Helper()
	store := openStore(t, path)
	config := Config{
		Store:          store,
		Tokens:         []Verifier{verifier(t, token.Config{Secret: secret})},
		TrustedClients: []string{"metrics-gate"},
	}
	for _, f := range adapt {
		f(&config)
	}
	server := httptest.NewServer(New(config))
	t.Cleanup(server.Close)
	return instance{server, store}
}

func standalone(c *Config) { c.Standalone = true }

// broken is a store that fails whoever asks it.
type broken struct{ prefstore.Store }

var errBroken = errors.New("the disk is full")

func failing(c *Config) { c.Store = broken{} }

func (broken) Get(context.Context, string) (prefstore.Record, error) {
	return prefstore.Record{}, errBroken
}
func (broken) Set(context.Context, string, prefstore.Choice) (prefstore.Record, prefstore.Result, error) {
	return prefstore.Record{}, prefstore.Unchanged, errBroken
}
func (broken) Delete(context.Context, string, string) (prefstore.Result, error) {
	return prefstore.Unchanged, errBroken
}
func (broken) Ping(context.Context) error                { return errBroken }
func (broken) Follow(int64) (*prefstore.Follower, error) { return nil, prefstore.ErrFeedAway }
func (broken) Daily(context.Context, time.Time, time.Time) ([]prefstore.DailyCount, error) {
	return nil, errBroken
}

func operators(c *Config) { c.OperatorClients = []string{"operator"} }

func database(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "profile.db")
}

// request is what a test sends; header lines are written "Name: value".
type request struct {
	method, path string
	token        string
	header       []string
	body         string
	mediaType    string // of the answer; JSON where it is empty
}

type response struct {
	Status int
	Body   string
	Header http.Header
}

// send sends a request, and checks of the answer what holds for all: the
// headers of the existing server, and that nothing of who asked is in it.
func (i instance) send(t *testing.T, q request) response {
	t.Helper()
	if q.mediaType == "" {
		q.mediaType = "application/json; charset=utf-8"
	}
	r, err := http.NewRequestWithContext(t.Context(), q.method, i.URL+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	for _, line := range q.header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	answer, err := i.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Cache-Control":             "private, no-cache, no-store, must-revalidate",
		"Strict-Transport-Security": "max-age=31536000",
		"X-Content-Type-Options":    "nosniff",
		"X-Frame-Options":           "DENY",
	} {
		if diff := cmp.Diff([]string{want}, answer.Header.Values(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got, want := answer.Header.Get("Content-Type"), q.mediaType; len(body) > 0 && got != want {
		t.Errorf("Content-Type %q, want %q", got, want)
	}
	if got := answer.Header.Get("WWW-Authenticate"); (answer.StatusCode == http.StatusUnauthorized) != (got == "Bearer") {
		t.Errorf("status %d, WWW-Authenticate %q", answer.StatusCode, got)
	}
	checkAnonymous(t, fmt.Sprint(string(body), answer.Header), q.token)
	return response{answer.StatusCode, string(body), answer.Header}
}

func checkAnonymous(t *testing.T, text, raw string) {
	t.Helper()
	for _, forbidden := range append([]string{identity, payload}, strings.Split(raw, ".")...) {
		if forbidden != "" && strings.Contains(text, forbidden) {
			t.Errorf("%q is in:\n%s", forbidden, text)
		}
	}
}

func (i instance) get(t *testing.T) response {
	t.Helper()
	return i.send(t, request{method: "GET", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")})
}

func (i instance) post(t *testing.T, body string, header ...string) response {
	t.Helper()
	return i.send(t, request{
		method: "POST", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.WriteScope, "user"),
		header: append(header, "Content-Type: application/json"), body: body,
	})
}

func (r response) want(t *testing.T, status int, body string) {
	t.Helper()
	if r.Status != status || r.Body != body {
		t.Errorf("got %d %s\nwant %d %s", r.Status, r.Body, status, body)
	}
}

// execute runs SQL on a file past the store.
func execute(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

// row reads an account's row past the store.
func row(t *testing.T, path, uid string) (preference sql.NullBool, changed int64, source string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.QueryRowContext(t.Context(), `SELECT preference, changed, source FROM preference WHERE uid = ?`, uid).
		Scan(&preference, &changed, &source)
	if err != nil {
		t.Fatal(err)
	}
	return preference, changed, source
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	const gate, null = "metrics-gate", `{"metrics_optout":null}`

	for _, test := range []struct {
		name, method, token string
		header              []string
		status              int
		body                string
	}{
		{name: "no token", method: "GET", status: 401, body: body401NoToken},
		{name: "no token, writing", method: "POST", status: 401, body: body401NoToken},
		{name: "another scheme", method: "GET", header: []string{"Authorization: Basic YTpi"}, status: 401, body: body401NoToken},
		{name: "scheme alone", method: "GET", header: []string{"Authorization: Bearer"}, status: 401, body: body401NoToken},
		{name: "scheme and spaces", method: "GET", header: []string{"Authorization: Bearer   "}, status: 401, body: body401NoToken},
		{name: "scheme in other letters", method: "GET", header: []string{"Authorization: bEARER " + mint(t, gate, identity, optoutapi.ReadScope, "")}, status: 200, body: null},
		{name: "a tab behind the scheme", method: "GET", header: []string{"Authorization: Bearer\t" + mint(t, gate, identity, optoutapi.ReadScope, "")}, status: 200, body: null},
		{name: "garbage", method: "GET", token: payload, status: 401, body: body401BadToken},
		{name: "too long", method: "GET", token: strings.Repeat("x", token.MaxTokenBytes+1), status: 401, body: body401BadToken},
		{name: "expired", method: "GET", token: mintAt(t, gate, identity, optoutapi.ReadScope, "", time.Now().Add(-time.Hour)), status: 401, body: body401BadToken},
		{name: "signature of another key", method: "GET", token: mint(t, gate, identity, optoutapi.ReadScope, "") + "AAAA", status: 401, body: body401BadToken},
		{name: "no subject", method: "GET", token: forge(t, jwt.MapClaims{"client_id": gate, "scope": optoutapi.ReadScope}), status: 401, body: body401BadToken},
		{name: "subject a number", method: "GET", token: forge(t, jwt.MapClaims{"sub": 7, "client_id": gate, "scope": optoutapi.ReadScope}), status: 401, body: body401BadToken},
		{name: "subject empty", method: "GET", token: forge(t, jwt.MapClaims{"sub": "", "client_id": gate, "scope": optoutapi.ReadScope}), status: 401, body: body401BadToken},
		{name: "subject too long", method: "GET", token: mint(t, gate, strings.Repeat("u", 256), optoutapi.ReadScope, ""), status: 401, body: body401BadToken},
		{name: "subject as long as may be", method: "GET", token: mint(t, gate, strings.Repeat("u", 255), optoutapi.ReadScope, ""), status: 200, body: null},
		{name: "subject with a control character", method: "GET", token: mint(t, gate, "a\u0085b", optoutapi.ReadScope, ""), status: 401, body: body401BadToken},

		{name: "no client", method: "GET", token: mint(t, "", identity, optoutapi.ReadScope, ""), status: 403, body: body403Client},
		{name: "client not trusted", method: "GET", token: mint(t, "evil", identity, optoutapi.ReadScope, ""), status: 403, body: body403Client},
		{name: "client in other letters", method: "GET", token: mint(t, "Metrics-Gate", identity, optoutapi.ReadScope, ""), status: 403, body: body403Client},
		{name: "client not trusted, writing", method: "POST", token: mint(t, "evil", identity, optoutapi.WriteScope, ""), status: 403, body: body403Client},
		{name: "client a list", method: "GET", token: forge(t, jwt.MapClaims{"sub": identity, "client_id": []string{gate}, "scope": optoutapi.ReadScope}), status: 403, body: body403Client},

		{name: "no scope", method: "GET", token: mint(t, gate, identity, "", ""), status: 403, body: body403Scope},
		{name: "scope of another field", method: "GET", token: mint(t, gate, identity, "profile:email", ""), status: 403, body: body403Scope},
		{name: "scope that begins alike", method: "GET", token: mint(t, gate, identity, "profilebogey", ""), status: 403, body: body403Scope},
		{name: "profile reads", method: "GET", token: mint(t, gate, identity, "profile", ""), status: 200, body: null},
		{name: "profile:write reads", method: "GET", token: mint(t, gate, identity, "profile:write", ""), status: 200, body: null},
		{name: "own write scope reads", method: "GET", token: mint(t, gate, identity, optoutapi.WriteScope, ""), status: 200, body: null},
		{name: "one of several scopes", method: "GET", token: mint(t, gate, identity, "openid "+optoutapi.ReadScope+" x", ""), status: 200, body: null},
		{name: "read scope does not write", method: "POST", token: mint(t, gate, identity, optoutapi.ReadScope, ""), status: 403, body: body403Scope},
		{name: "profile does not write", method: "POST", token: mint(t, gate, identity, "profile", ""), status: 403, body: body403Scope},
		{name: "profile:write writes", method: "POST", token: mint(t, gate, "w1", "profile:write", ""), status: 200, body: `{}`},
		{name: "own write scope writes", method: "POST", token: mint(t, gate, "w2", optoutapi.WriteScope, ""), status: 200, body: `{}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			q := request{method: test.method, path: optOutPath, token: test.token, header: test.header}
			if test.method == "POST" {
				q.body = `{"metrics_optout":true}`
			}
			server.send(t, q).want(t, test.status, test.body)
		})
	}
}

func TestTokensInTurn(t *testing.T) {
	t.Parallel()
	away := verifier(t, token.Config{
		JWKSURL: "https://id.example.org/jwks",
		KeySetClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("unreachable")
		})},
	})
	other := verifier(t, token.Config{Secret: []byte("another secret of thirty-two bytes")})

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := verifier(t, token.Config{PEM: [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})}})
	minter, err := token.NewMinter(token.MinterConfig{
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), ClientID: "metrics-gate", Lifetime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := minter.Mint(identity, optoutapi.ReadScope, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name   string
		tokens []Verifier
		status int
		body   string
	}{
		{"none", nil, 401, body401BadToken},
		{"another's", []Verifier{other}, 401, body401BadToken},
		{"keys not learnt", []Verifier{away}, 503, body503Keys},
		{"keys not learnt, then another's", []Verifier{away, other}, 503, body503Keys},
		{"another's, then keys not learnt", []Verifier{other, away}, 503, body503Keys},
		{"the second", []Verifier{other, good}, 200, `{"metrics_optout":null}`},
		{"the last, the keys of the first not learnt", []Verifier{away, good}, 200, `{"metrics_optout":null}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			start(t, database(t), func(c *Config) { c.Tokens = test.tokens }).
				send(t, request{method: "GET", path: optOutPath, token: raw}).want(t, test.status, test.body)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNobodyIsTrustedByDefault(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), func(c *Config) { c.TrustedClients = nil })
	server.get(t).want(t, 403, body403Client)
}

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	server.get(t).want(t, 200, `{"metrics_optout":null}`)
	for _, preference := range []string{"null", "true", "false", "true", "null"} {
		body := `{"metrics_optout":` + preference + `}`
		server.post(t, body).want(t, 200, `{}`)
		server.get(t).want(t, 200, body)
	}
	other := server.send(t, request{method: "GET", path: optOutPath, token: mint(t, "metrics-gate", "another", optoutapi.ReadScope, "")})
	other.want(t, 200, `{"metrics_optout":null}`)
}

func TestHead(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	server.post(t, `{"metrics_optout":true}`)
	get := server.get(t)
	head := server.send(t, request{method: "HEAD", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")})
	head.want(t, 200, "")
	for _, name := range []string{"ETag", "Content-Type", "Content-Length"} {
		if head.Header.Get(name) != get.Header.Get(name) || head.Header.Get(name) == "" {
			t.Errorf("%s: HEAD %q, GET %q", name, head.Header.Get(name), get.Header.Get(name))
		}
	}
	server.send(t, request{method: "HEAD", path: optOutPath}).want(t, 401, "")
}

// TestUnsetInTheOldManner: as the existing server's data elements have it.
func TestUnsetInTheOldManner(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), func(c *Config) { c.NoContentWhenUnset = true })
	read := func(method string, header ...string) response {
		return server.send(t, request{method: method, path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""), header: header})
	}
	for range 2 { // of an account that never made a choice, and of one that took it back
		answer := read("GET")
		answer.want(t, 204, "")
		tag := answer.Header.Get("ETag")
		if _, typed := answer.Header["Content-Type"]; typed || tag == "" {
			t.Errorf("204 with %v", answer.Header)
		}
		head := read("HEAD")
		head.want(t, 204, "")
		if head.Header.Get("ETag") != tag {
			t.Errorf("HEAD has tag %s, GET %s", head.Header.Get("ETag"), tag)
		}
		read("GET", "If-None-Match: "+tag).want(t, 304, "")
		read("GET", `If-Match: "x"`).want(t, 412, body412)
		read("GET", "If-Match: *").want(t, 204, "")
		for _, preference := range []string{"true", "false"} {
			server.post(t, `{"metrics_optout":`+preference+`}`).want(t, 200, `{}`)
			server.get(t).want(t, 200, `{"metrics_optout":`+preference+`}`)
		}
		server.post(t, `{"metrics_optout":null}`).want(t, 200, `{}`)
	}
}

// TestRequestsAreObserved: with the endpoint's name and never with the path,
// and the feed when it begins.
func TestRequestsAreObserved(t *testing.T) {
	t.Parallel()
	var got notes
	server := start(t, database(t), standalone, operators, takesEvents(t), got.requests, func(c *Config) { c.Origins = []string{"*"} })
	raw := mint(t, "operator", identity, "profile:write", "")
	for _, test := range []struct {
		method, path string
		header       []string
		want         string
	}{
		{"GET", optOutPath, nil, "metrics_optout GET 200"},
		{"HEAD", optOutPath, nil, "metrics_optout HEAD 200"},
		{"GET", optOutPath, []string{"If-None-Match: *"}, "metrics_optout GET 304"},
		{"POST", optOutPath, nil, "metrics_optout POST 400"},
		{"PUT", optOutPath, nil, "metrics_optout PUT 404"},
		{payload, optOutPath, nil, "metrics_optout other 404"},
		{"get", optOutPath, nil, "metrics_optout other 404"},
		{"OPTIONS", optOutPath, []string{"Origin: x", requestedMethod + ": GET"}, "metrics_optout OPTIONS 200"},
		{"GET", profilePath, nil, "profile GET 200"},
		{"GET", dailyPath, nil, "daily GET 200"},
		{"DELETE", accountPath + "x", nil, "account DELETE 200"},
		{"POST", eventsPath, nil, "events POST 400"},
		{"GET", changesPath, nil, "changes GET 200"},
		{"GET", "/__heartbeat__", nil, "other GET 200"},
		{"GET", "/" + payload, nil, "other GET 404"},
	} {
		server.exchange(t, request{method: test.method, path: test.path, token: raw, header: test.header})
		if diff := cmp.Diff([]string{test.want}, got.take()); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.method, test.path, diff)
		}
	}
}

// TestChangesAreObserved: each once, and repeats and refusals not.
func TestChangesAreObserved(t *testing.T) {
	t.Parallel()
	var got notes
	server := start(t, database(t), got.observe)
	for _, test := range []struct{ body, header, want string }{
		{"null", "X: x", ""},
		{"true", "X: x", "change true user"},
		{"true", "X: x", ""},
		{"false", `If-Match: "x"`, ""},
		{"false", "X: x", "change false user"},
		{"1", "X: x", ""},
		{"null", "X: x", "change null user"},
	} {
		server.post(t, `{"metrics_optout":`+test.body+`}`, test.header)
		if said := strings.Join(got.take(), ", "); said != test.want {
			t.Errorf("%s with %s: %q, want %q", test.body, test.header, said, test.want)
		}
	}
}

func TestTheSource(t *testing.T) {
	t.Parallel()
	path := database(t)
	server := start(t, path)
	for claim, want := range map[string]string{"browser": "browser", "user": "user", "": "user", "admin": "user", payload: "user"} {
		uid := "u-" + claim
		server.send(t, request{
			method: "POST", path: optOutPath, token: mint(t, "metrics-gate", uid, optoutapi.WriteScope, claim),
			body: `{"metrics_optout":true}`,
		}).want(t, 200, `{}`)
		if _, _, source := row(t, path, uid); source != want {
			t.Errorf("claim %q: source %q, want %q", claim, source, want)
		}
	}
}

// TestWhenAndWhence: who shows people their choice learns when it was made, and
// where; of an account that made none there is nothing to tell.
func TestWhenAndWhence(t *testing.T) {
	t.Parallel()
	path := database(t)
	server := start(t, path)
	read := func(method, header string) response {
		return server.send(t, request{
			method: method, path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""), header: []string{header},
		})
	}
	for _, name := range []string{"Last-Modified", "Metrics-Optout-Source"} {
		if got, found := server.get(t).Header[name]; found {
			t.Errorf("%s before any choice: %q", name, got)
		}
	}
	for _, made := range []struct{ preference, source string }{{"true", "browser"}, {"null", "user"}, {"false", "user"}} {
		server.send(t, request{
			method: "POST", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.WriteScope, made.source),
			body: `{"metrics_optout":` + made.preference + `}`,
		}).want(t, 200, `{}`)
		_, changed, _ := row(t, path, identity)
		want := []string{time.UnixMilli(changed).UTC().Format(http.TimeFormat), made.source}
		for status, answer := range map[int]response{
			200: read("GET", "Accept: */*"),
			304: read("GET", "If-None-Match: "+server.get(t).Header.Get("ETag")),
			0:   read("HEAD", "Accept: */*"),
		} {
			if status != 0 && answer.Status != status {
				t.Errorf("status %d, want %d", answer.Status, status)
			}
			got := []string{answer.Header.Get("Last-Modified"), answer.Header.Get("Metrics-Optout-Source")}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s by %s, status %d (-want +got):\n%s", made.preference, made.source, answer.Status, diff)
			}
		}
	}
	for _, header := range []string{"Last-Modified", "Metrics-Optout-Source"} {
		if got, found := read("GET", `If-Match: "stale"`).Header[header]; found {
			t.Errorf("%s with a refusal: %q", header, got)
		}
	}
}

func TestRepeatsChangeNothing(t *testing.T) {
	t.Parallel()
	path := database(t)
	server := start(t, path)
	server.post(t, `{"metrics_optout":true}`).want(t, 200, `{}`)
	tag := server.get(t).Header.Get("ETag")
	_, changed, _ := row(t, path, identity)

	server.send(t, request{
		method: "POST", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.WriteScope, "browser"),
		body: `{"metrics_optout":true}`,
	}).want(t, 200, `{}`)
	if got := server.get(t).Header.Get("ETag"); got != tag {
		t.Errorf("tag %s, was %s", got, tag)
	}
	if _, got, source := row(t, path, identity); got != changed || source != "user" {
		t.Errorf("changed %d by %s, was %d by user", got, source, changed)
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	const fine = `{"metrics_optout":true}`
	for _, test := range []struct {
		name   string
		body   string
		header []string
		status int
		answer string
	}{
		{"no content type", fine, nil, 200, `{}`},
		{"charset", fine, []string{"Content-Type: application/json; charset=utf-8"}, 200, `{}`},
		{"in other letters", fine, []string{"Content-Type: Application/JSON"}, 200, `{}`},
		{"a kind of JSON", fine, []string{"Content-Type: application/merge-patch+json"}, 200, `{}`},
		{"white space", " {\n\t\"metrics_optout\" : true }\r\n", nil, 200, `{}`},
		{"escaped key", `{"metrics\u005foptout":true}`, nil, 200, `{}`},
		{"duplicate, the last a value", `{"metrics_optout":"x","metrics_optout":true}`, nil, 200, `{}`},
		{"identity", fine, []string{"Content-Encoding: identity"}, 200, `{}`},
		{"as long as may be", fine + strings.Repeat(" ", maxBody-len(fine)), nil, 200, `{}`},

		{"duplicate, the last no value", `{"metrics_optout":true,"metrics_optout":"x"}`, nil, 400, body400},
		{"string", `{"metrics_optout":"true"}`, nil, 400, body400},
		{"number", `{"metrics_optout":1}`, nil, 400, body400},
		{"object", `{"metrics_optout":{"metrics_optout":true}}`, nil, 400, body400},
		{"list", `{"metrics_optout":[true]}`, nil, 400, body400},
		{"nothing", ``, nil, 400, body400},
		{"empty object", `{}`, nil, 400, body400},
		{"unknown key", `{"` + payload + `":true}`, nil, 400, body400},
		{"unknown key beside it", `{"metrics_optout":true,"` + payload + `":1}`, nil, 400, body400},
		{"key in other letters", `{"Metrics_Optout":true}`, nil, 400, body400},
		{"no object but null", `null`, nil, 400, body400},
		{"no object but a list", `[{"metrics_optout":true}]`, nil, 400, body400},
		{"no object but a string", `"` + payload + `"`, nil, 400, body400},
		{"text", fine, []string{"Content-Type: text/plain;charset=UTF-8"}, 400, body400},
		{"form", "metrics_optout=true", []string{"Content-Type: application/x-www-form-urlencoded"}, 400, body400},
		{"bytes", fine, []string{"Content-Type: application/octet-stream"}, 400, body400},

		{"broken", `{"metrics_optout":tru`, nil, 400, body400JSON},
		{"not JSON", payload, nil, 400, body400JSON},
		{"something behind", fine + "x", nil, 400, body400JSON},
		{"white space only", "  ", nil, 400, body400JSON},
		{"byte order mark", "\ufeff" + fine, nil, 400, body400JSON},
		{"deep", strings.Repeat("[", maxBody), nil, 400, body400JSON},

		{"content type broken", fine, []string{"Content-Type: application/" + payload + "/;="}, 400, body400Type},
		{"content type of another kind", fine, []string{"Content-Type: application/xml"}, 415, body415},
		{"content type that ends alike", fine, []string{"Content-Type: application/notjson"}, 415, body415},
		{"gzip", fine, []string{"Content-Encoding: gzip"}, 415, body415},

		{"too long", fine + strings.Repeat(" ", maxBody), nil, 413, body413},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			uid := "u " + test.name
			server.send(t, request{
				method: "POST", path: optOutPath, token: mint(t, "metrics-gate", uid, optoutapi.WriteScope, ""),
				header: test.header, body: test.body,
			}).want(t, test.status, test.answer)

			want := `{"metrics_optout":null}`
			if test.status == 200 {
				want = fine
			}
			server.send(t, request{
				method: "GET", path: optOutPath, token: mint(t, "metrics-gate", uid, optoutapi.ReadScope, ""),
			}).want(t, 200, want)
		})
	}
}

// TestRawBodies sends what no client of net/http would.
func TestRawBodies(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	for _, test := range []struct {
		name, framing string
		status        int
		answer        string
	}{
		{"chunks without end", "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("400\r\n"+strings.Repeat(" ", 1024)+"\r\n", 5), 413, body413},
		{"announced, not sent", "Content-Length: 104857600\r\nExpect: 100-continue\r\n\r\n", 413, body413},
		{"cut off", "Content-Length: 23\r\n\r\n" + `{"metrics_optout":true`, 400, body400JSON},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s",
				optOutPath, mint(t, "metrics-gate", identity, optoutapi.WriteScope, ""), test.framing)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			response{Status: answer.StatusCode, Body: string(body)}.want(t, test.status, test.answer)
		})
	}
	server.get(t).want(t, 200, `{"metrics_optout":null}`)
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	const stale = `"00000000000000000000000000000000"`
	for _, test := range []struct {
		name        string
		header      []string // %s is the current tag
		read, write int
	}{
		{"none", nil, 200, 200},
		{"the current", []string{"If-Match: %s"}, 200, 200},
		{"any", []string{"If-Match: *"}, 200, 200},
		{"a list with it", []string{"If-Match: " + stale + ", %s"}, 200, 200},
		{"a list on two lines", []string{"If-Match: " + stale, "If-Match: %s"}, 200, 200},
		{"a stale one", []string{"If-Match: " + stale}, 412, 412},
		{"a weak one", []string{"If-Match: W/%s"}, 412, 412},
		{"an empty one", []string{"If-Match: "}, 412, 412},
		{"no tag", []string{"If-Match: " + payload}, 412, 412},
		{"other", []string{"If-None-Match: " + stale}, 200, 200},
		{"not the current", []string{"If-None-Match: %s"}, 304, 412},
		{"not the current, weak", []string{"If-None-Match: W/%s"}, 304, 412},
		{"not one of a list", []string{"If-None-Match: W/" + stale + ", %s"}, 304, 412},
		{"not any", []string{"If-None-Match: *"}, 304, 412},
		{"both hold", []string{"If-Match: %s", "If-None-Match: " + stale}, 200, 200},
		{"the first does not hold", []string{"If-Match: " + stale, "If-None-Match: %s"}, 412, 412},
	} {
		for before, state := range []string{"null", "false"} {
			t.Run(test.name+" of "+state, func(t *testing.T) {
				t.Parallel()
				server := start(t, database(t))
				if before > 0 {
					server.post(t, `{"metrics_optout":`+state+`}`).want(t, 200, `{}`)
				}
				tag := server.get(t).Header.Get("ETag")
				var header []string
				for _, line := range test.header {
					header = append(header, strings.ReplaceAll(line, "%s", tag))
				}

				read := server.send(t, request{
					method: "GET", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""), header: header,
				})
				read.want(t, test.read, map[int]string{200: `{"metrics_optout":` + state + `}`, 304: "", 412: body412}[test.read])
				if got := read.Header.Get("ETag"); (test.read == 412) != (got == "") || got != "" && got != tag {
					t.Errorf("status %d with tag %q", read.Status, got)
				}
				if got := read.Header.Get("Content-Type"); test.read == 304 && got != "" {
					t.Errorf("304 with Content-Type %q", got)
				}

				server.post(t, `{"metrics_optout":true}`, header...).
					want(t, test.write, map[int]string{200: `{}`, 412: body412}[test.write])
				after := `{"metrics_optout":` + state + `}`
				if test.write == 200 {
					after = `{"metrics_optout":true}`
				}
				server.get(t).want(t, 200, after)
			})
		}
	}
}

// TestTagsDoNotComeBack is the write-back that comes too late: the profile
// held null when it was looked up, and does again, by the user's own choice.
func TestTagsDoNotComeBack(t *testing.T) {
	t.Parallel()
	server := start(t, database(t))
	tag := server.get(t).Header.Get("ETag")
	server.post(t, `{"metrics_optout":true}`)
	server.post(t, `{"metrics_optout":null}`)
	server.post(t, `{"metrics_optout":true}`, "If-Match: "+tag).want(t, 412, body412)
	server.get(t).want(t, 200, `{"metrics_optout":null}`)
}

func TestTagsOutliveARestart(t *testing.T) {
	t.Parallel()
	path := database(t)
	first := start(t, path)
	first.post(t, `{"metrics_optout":true}`)
	before := first.get(t)
	sameTime := start(t, path).get(t)
	first.Close()
	first.store.Close()
	after := start(t, path).get(t)
	for _, got := range []response{sameTime, after} {
		got.want(t, 200, before.Body)
		if got.Header.Get("ETag") != before.Header.Get("ETag") {
			t.Errorf("tag %s, was %s", got.Header.Get("ETag"), before.Header.Get("ETag"))
		}
	}
}

// TestOneConditionalWriterWins races writers with the same tag, over two
// instances with a handle each on one file.
func TestOneConditionalWriterWins(t *testing.T) {
	t.Parallel()
	path := database(t)
	instances := [2]instance{start(t, path), start(t, path)}
	raw := mint(t, "metrics-gate", identity, optoutapi.WriteScope, "")
	for round := range 10 {
		tag := instances[0].get(t).Header.Get("ETag")
		body := fmt.Sprintf(`{"metrics_optout":%t}`, round%2 == 0)
		status := make([]int, 12)
		var all sync.WaitGroup
		for i := range status {
			all.Go(func() {
				status[i] = instances[i%2].send(t, request{
					method: "POST", path: optOutPath, token: raw, header: []string{"If-Match: " + tag}, body: body,
				}).Status
			})
		}
		all.Wait()
		count := map[int]int{}
		for _, s := range status {
			count[s]++
		}
		if diff := cmp.Diff(map[int]int{200: 1, 412: len(status) - 1}, count); diff != "" {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
		instances[1].get(t).want(t, 200, body)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	raw := mint(t, "metrics-gate", identity, "profile:write", "")
	embedded, alone := start(t, database(t)), start(t, database(t), standalone)
	for _, test := range []struct{ method, path string }{
		{"PUT", optOutPath},
		{"DELETE", optOutPath},
		{"PATCH", optOutPath},
		{"OPTIONS", optOutPath},
		{"get", optOutPath},
		{"GET", optOutPath + "/"},
		{"GET", optOutPath + "/" + identity},
		{"GET", "/V1/metrics_optout"},
		{"GET", "/v1//metrics_optout"},
		{"GET", "/v1/metrics_optout2"},
		{"POST", "/v1/profile"},
		{"GET", "/v1/Profile"},
		{"POST", "/v1/changes"},
		{"POST", "/v1/metrics_optout/daily"},
		{"GET", "/v1/account/" + identity},
		{"POST", "/v1/account/" + identity},
		{"DELETE", "/v1/account"},
		{"GET", "/v1/events"},
		{"POST", "/v1/events"}, // none are taken
		{"POST", "/"},
		{"POST", "/__version__"},
		{"POST", "/__heartbeat__"},
		{"DELETE", "/__lbheartbeat__"},
	} {
		for _, server := range []instance{embedded, alone} {
			server.send(t, request{method: test.method, path: test.path, token: raw}).want(t, 404, body404)
		}
	}
	for _, path := range []string{"/v1/profile", "/", "/__version__", "/__heartbeat__", "/__lbheartbeat__"} {
		embedded.send(t, request{method: "GET", path: path}).want(t, 404, body404)
	}
	embedded.send(t, request{method: "GET", path: optOutPath + "?access_token=" + raw}).want(t, 401, body401NoToken)
}

func TestOwns(t *testing.T) {
	t.Parallel()
	taking := Config{Events: verifier(t, token.Config{Secret: secret})}
	for request, want := range map[string]bool{
		"GET /v1/metrics_optout": true, "PUT /v1/metrics_optout": true, "OPTIONS /v1/metrics_optout/": true,
		"GET /v1/metrics_optout/x": true, "GET /v1/metrics_optout/daily": true, "GET /v1/changes": true, "POST /v1/changes": true,
		"DELETE /v1/account/x": true, "DELETE /v1/account/x/y": true, "POST /v1/events": true,

		"GET /": false, "GET /v1/metrics_optout2": false, "GET /v1/metrics": false, "GET /V1/metrics_optout": false,
		"GET /v1/profile": false, "GET /__heartbeat__": false, "GET /x/v1/metrics_optout": false, "GET /v1/changes/x": false,
		"GET /v1/account/profile": false, "POST /v1/account/x": false, "OPTIONS /v1/account/x": false, "DELETE /v1/account": false,
		"GET /v1/events": false, "POST /v1/events/x": false, "OPTIONS /v1/events": false,
	} {
		method, path, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, path, nil)
		if got := New(taking).Owns(r); got != want {
			t.Errorf("embedded: Owns %s is %t", request, got)
		}
		if !New(Config{Standalone: true}).Owns(r) {
			t.Errorf("standalone: Owns %s is false", request)
		}
	}
	if New(Config{}).Owns(httptest.NewRequest("POST", "/v1/events", nil)) {
		t.Error("it owns the events that it does not take")
	}
	for path, method := range map[string]string{"/v1/account/x": "DELETE", "/v1/events": "POST"} {
		r := httptest.NewRequest("OPTIONS", path, nil)
		r.Header.Set(requestedMethod, method)
		if !New(taking).Owns(r) {
			t.Errorf("it does not own the preflight of %s %s", method, path)
		}
	}
}

func TestStandalone(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), standalone, func(c *Config) { c.Version = "v1.2.3" })
	for _, method := range []string{"GET", "HEAD"} {
		for path, want := range map[string]string{"/__heartbeat__": "", "/__lbheartbeat__": `{"http":"okay"}`} {
			if method == "HEAD" {
				want = ""
			}
			server.send(t, request{method: method, path: path}).want(t, 200, want)
		}
	}
	server.get(t).want(t, 200, `{"metrics_optout":null}`)
	for _, path := range []string{"/", "/__version__"} {
		got := server.send(t, request{method: "GET", path: path})
		if !strings.HasPrefix(got.Body, "{\n  \"version\": \"v1.2.3\",\n  \"commit\": \"") || !strings.HasSuffix(got.Body,
			"\",\n  \"source\": \"https://github.com/metricsgate/metricsgate\"\n}\n") {
			t.Errorf("%s: %d %s", path, got.Status, got.Body)
		}
	}
}

func TestVersionOfTheBinary(t *testing.T) {
	t.Parallel()
	var got map[string]string
	if err := json.Unmarshal(version(""), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "commit", "source"} {
		if got[key] == "" && key != "version" { // go test gives its binaries none
			t.Errorf("%s is empty: %v", key, got)
		}
	}
}

// TestTheStoreFails drops the table from under the server.
func TestTheStoreFails(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	path := database(t)
	server := start(t, path, standalone, func(c *Config) { c.Log = zap.New(core) })
	server.post(t, `{"metrics_optout":true}`).want(t, 200, `{}`)
	if logs.Len() != 0 {
		t.Errorf("logged while all is well: %v", logs.All())
	}
	execute(t, path, `DROP TABLE preference`)
	raw := mint(t, "metrics-gate", identity, "profile:write", "")
	for range 3 {
		server.send(t, request{method: "GET", path: optOutPath, token: raw}).want(t, 503, body503Store)
		server.send(t, request{method: "POST", path: optOutPath, token: raw, body: `{"metrics_optout":true}`}).want(t, 503, body503Store)
		server.send(t, request{method: "GET", path: "/__heartbeat__"}).want(t, 503, body503Store)
	}
	server.send(t, request{method: "GET", path: "/__lbheartbeat__"}).want(t, 200, `{"http":"okay"}`)

	var messages []string
	for _, entry := range logs.All() {
		text := fmt.Sprint(entry.Message, entry.ContextMap())
		messages = append(messages, entry.Message)
		checkAnonymous(t, text, raw)
		if !strings.Contains(text, "no such table") {
			t.Errorf("the cause is not in %s", text)
		}
	}
	if diff := cmp.Diff([]string{
		"the preference store fails; check that its database answers, or that its disk has space and its file can be written",
	}, messages); diff != "" {
		t.Errorf("one line a minute (-want +got):\n%s", diff)
	}
}

// TestNothingIsLoggedOfARequest sends identity in every place of a request,
// and reads the log.
func TestNothingIsLoggedOfARequest(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	server := start(t, database(t), func(c *Config) { c.Log = zap.New(core) })
	for _, raw := range []string{"", identity, mint(t, "evil", identity, optoutapi.WriteScope, payload), mint(t, "metrics-gate", identity, optoutapi.WriteScope, payload)} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			for _, path := range []string{optOutPath, optOutPath + "/" + identity, optOutPath + "?uid=" + identity} {
				for _, body := range []string{`{"metrics_optout":true}`, `{"` + payload + `":1}`, payload} {
					server.send(t, request{method: method, path: path, token: raw, body: body, header: []string{"If-Match: " + identity}})
				}
			}
		}
	}
	if logs.Len() != 0 {
		t.Errorf("logged: %v", logs.All())
	}
}

func TestACallerWhoLeftIsNoFailure(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	handler := New(Config{
		Store: openStore(t, database(t)), Tokens: []Verifier{verifier(t, token.Config{Secret: secret})},
		TrustedClients: []string{"metrics-gate"}, Log: zap.New(core),
	})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for _, method := range []string{"GET", "POST"} {
		r := httptest.NewRequestWithContext(ctx, method, optOutPath, strings.NewReader(`{"metrics_optout":true}`))
		r.Header.Set("Authorization", "Bearer "+mint(t, "metrics-gate", identity, optoutapi.WriteScope, ""))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	if logs.Len() != 0 {
		t.Errorf("logged: %v", logs.All())
	}
}
