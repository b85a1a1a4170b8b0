package token_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/token"
)

// oauthServer answers as the OAuth server of Firefox Accounts does, and as one
// that keeps to RFC 7662.
type oauthServer struct {
	URL      string
	requests atomic.Int32
	inFlight atomic.Int32
	most     atomic.Int32 // requests in flight at once
}

// A token of these is the hexadecimal of its name.
var grants = map[string]struct {
	client  string
	scope   []string
	expires time.Time
}{
	"alice":  {"98e6508e88680e1a", []string{"profile", "openid"}, now.Add(time.Hour)},
	"bob":    {"metrics-gate", []string{"profile:metrics_optout"}, now.Add(20 * time.Second)},
	"eve":    {"98e6508e88680e1a", []string{"profile"}, now.Add(-time.Hour)},
	"soon":   {"98e6508e88680e1a", []string{"profile"}, now.Add(-30 * time.Second)},
	"nobody": {"98e6508e88680e1a", nil, time.Time{}},
}

func opaque(name string) string {
	padded := make([]byte, 32)
	copy(padded, name)
	return hex.EncodeToString(padded)
}

var fxaToken = regexp.MustCompile("^[0-9a-f]{64}$")

func newOAuthServer(t testing.TB) *oauthServer {
	t.Helper()
	s := &oauthServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/verify", s.verify)
	mux.HandleFunc("POST /v1/introspect", func(w http.ResponseWriter, r *http.Request) {
		s.introspect(w, r, func(at time.Time) any { return at.UnixMilli() }, nil)
	})
	mux.HandleFunc("POST /oauth2/introspect", func(w http.ResponseWriter, r *http.Request) {
		s.introspect(w, r, func(at time.Time) any { return at.Unix() }, fields{"iss": issuerName, "aud": []string{"other", audience}})
	})
	mux.HandleFunc("POST /bearer", s.guarded(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer the-gates-own" }))
	mux.HandleFunc("POST /basic", s.guarded(func(r *http.Request) bool {
		id, key, _ := r.BasicAuth()
		return id == "gate%3A1" && key == "p%26ss+w%C3%B6rd"
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		for n, most := s.inFlight.Add(1), s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
		}
		defer s.inFlight.Add(-1)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func reply(w http.ResponseWriter, status int, body fields) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *oauthServer) verify(w http.ResponseWriter, r *http.Request) {
	refuse := func(errno int, message string) {
		reply(w, http.StatusBadRequest, fields{"code": 400, "errno": errno, "error": "Bad Request", "message": message})
	}
	var asked map[string]string
	if json.NewDecoder(r.Body).Decode(&asked) != nil || len(asked) != 1 || !fxaToken.MatchString(asked["token"]) {
		refuse(109, "Invalid request parameter")
		return
	}
	for name, grant := range grants {
		switch {
		case asked["token"] != opaque(name):
			continue
		case grant.expires.Before(now) && name != "nobody":
			refuse(115, "Expired token")
		default:
			reply(w, http.StatusOK, fields{"user": name, "client_id": grant.client, "scope": grant.scope, "profile_changed_at": 1})
		}
		return
	}
	refuse(108, "Invalid token")
}

func (s *oauthServer) introspect(w http.ResponseWriter, r *http.Request, at func(time.Time) any, more fields) {
	if r.PostFormValue("token_type_hint") != "access_token" {
		reply(w, http.StatusBadRequest, fields{"error": "invalid_request"})
		return
	}
	for name, grant := range grants {
		if r.PostFormValue("token") != opaque(name) {
			continue
		}
		answer := fields{
			"active": true, "sub": name, "client_id": grant.client, "scope": strings.Join(grant.scope, " "),
			"token_type": "access_token", "iat": at(now.Add(-time.Hour)), "exp": at(grant.expires), "jti": "0",
		}
		if grant.expires.IsZero() {
			answer["exp"] = json.RawMessage("null")
		}
		reply(w, http.StatusOK, merged(answer, more))
		return
	}
	reply(w, http.StatusOK, fields{"active": false})
}

func (s *oauthServer) guarded(may func(*http.Request) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !may(r) {
			reply(w, http.StatusUnauthorized, fields{"error": "invalid_client"})
			return
		}
		s.introspect(w, r, func(at time.Time) any { return at.Unix() }, nil)
	}
}

func newIntrospector(t testing.TB, config token.IntrospectionConfig) *token.Introspector {
	t.Helper()
	if config.Timeout == 0 {
		config.Timeout = 30 * time.Second // so that a busy machine fails no test
	}
	i, err := token.NewIntrospector(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// answerTo is what a test compares of a verification.
type answerTo struct {
	Err                   error
	Sub, Client, Scope    string
	Issued, Expires       time.Time
	NamesAlthoughItFailed bool
}

func answered(t *testing.T, i *token.Introspector, raw string) answerTo {
	t.Helper()
	claims, err := i.Verify(raw, now)
	var got answerTo
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			if got.Err != nil {
				t.Errorf("%v is %v as well", err, got.Err)
			}
			got.Err = sentinel
		}
	}
	if (err == nil) != (got.Err == nil) {
		t.Errorf("%v is none of the package's errors", err)
	}
	if err != nil && leaks(err.Error(), raw) {
		t.Errorf("%v holds the token", err)
	}
	if claims == nil {
		return got
	}
	got.NamesAlthoughItFailed = err != nil
	got.Sub, _ = claims.String("sub")
	got.Client, _ = claims.String("client_id")
	got.Scope, _ = claims.String("scope")
	got.Issued, got.Expires = claims.Issued.UTC(), claims.Expires.UTC()
	return got
}

// TestIntrospection asks both servers about every token, twice, since the
// second answer comes from memory and must be the same.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	const fxaClient = "98e6508e88680e1a"
	issued, soonest := now.Add(-time.Hour), now.Add(time.Minute)
	for _, test := range []struct {
		name, path, raw string
		want            answerTo
	}{
		{"fxa, good", "/v1/verify", opaque("alice"), answerTo{Sub: "alice", Client: fxaClient, Scope: "profile openid", Expires: soonest}},
		{"fxa, without a scope", "/v1/verify", opaque("nobody"), answerTo{Sub: "nobody", Client: fxaClient, Expires: soonest}},
		{"fxa, invalid", "/v1/verify", opaque("forged"), answerTo{Err: token.ErrInactive}},
		{"fxa, of another form", "/v1/verify", "a.jwt.perhaps", answerTo{Err: token.ErrInactive}},
		{"fxa, expired", "/v1/verify", opaque("eve"), answerTo{Err: token.ErrExpired}},

		{"fxa's own RFC 7662, in milliseconds", "/v1/introspect", opaque("alice"), answerTo{Sub: "alice", Client: fxaClient, Scope: "profile openid", Issued: issued, Expires: soonest}},
		{"fxa's own RFC 7662, ends before max_age", "/v1/introspect", opaque("bob"), answerTo{Sub: "bob", Client: "metrics-gate", Scope: "profile:metrics_optout", Issued: issued, Expires: now.Add(20 * time.Second)}},
		{"fxa's own RFC 7662, active and yet expired", "/v1/introspect", opaque("eve"), answerTo{Err: token.ErrExpired, NamesAlthoughItFailed: true, Sub: "eve", Client: fxaClient, Scope: "profile", Issued: issued, Expires: now.Add(-time.Hour)}},

		{"rfc7662, good", "/oauth2/introspect", opaque("alice"), answerTo{Sub: "alice", Client: fxaClient, Scope: "profile openid", Issued: issued, Expires: soonest}},
		{"rfc7662, expired by our clock within the leeway", "/oauth2/introspect", opaque("soon"), answerTo{Sub: "soon", Client: fxaClient, Scope: "profile", Issued: issued, Expires: now.Add(-30 * time.Second)}},
		{"rfc7662, no exp", "/oauth2/introspect", opaque("nobody"), answerTo{Sub: "nobody", Client: fxaClient, Issued: issued, Expires: soonest}},
		{"rfc7662, inactive", "/oauth2/introspect", opaque("forged"), answerTo{Err: token.ErrInactive}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			i := newIntrospector(t, token.IntrospectionConfig{URL: server.URL + test.path, OnError: func(err error) { t.Error(err) }})
			for _, time := range []string{"first", "second"} {
				if diff := cmp.Diff(test.want, answered(t, i, test.raw), cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" { //nolint:errorlint // sentinels
					t.Errorf("the %s time (-want +got):\n%s", time, diff)
				}
			}
		})
	}
}

func TestTokensThatAreNotAskedAbout(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	i := newIntrospector(t, token.IntrospectionConfig{URL: server.URL + "/v1/verify"})
	for raw, want := range map[string]error{
		"": token.ErrMalformed, "=": token.ErrMalformed, "a b": token.ErrMalformed, "a=b": token.ErrMalformed,
		`a"b`: token.ErrMalformed, "a\nb": token.ErrMalformed, "a;b": token.ErrMalformed, "ü": token.ErrMalformed,
		"a\x00": token.ErrMalformed, "a%b": token.ErrMalformed,
		strings.Repeat("a", token.MaxTokenBytes+1): token.ErrTooLong,
	} {
		if _, err := i.Verify(raw, now); !errors.Is(err, want) {
			t.Errorf("%.10q: %v, want %v", raw, err, want)
		}
	}
	if n := server.requests.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
	for _, raw := range []string{"a-._~+/Z9==", strings.Repeat("a", token.MaxTokenBytes)} {
		if _, err := i.Verify(raw, now); !errors.Is(err, token.ErrInactive) {
			t.Errorf("%.10q: %v, want to be asked about", raw, err)
		}
	}
}

// TestIssuersAndAudiences holds answers against the same rules as signed
// tokens.
func TestIssuersAndAudiences(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	for name, test := range map[string]struct {
		config token.IntrospectionConfig
		want   error
	}{
		"both hold":              {token.IntrospectionConfig{URL: "/oauth2/introspect", Issuers: []string{issuerName}, Audiences: []string{audience}}, nil},
		"another issuer":         {token.IntrospectionConfig{URL: "/oauth2/introspect", Issuers: []string{"https://elsewhere.example.org"}}, token.ErrWrongIssuer},
		"another audience":       {token.IntrospectionConfig{URL: "/oauth2/introspect", Audiences: []string{"mobile"}}, token.ErrWrongAudience},
		"no issuer in answers":   {token.IntrospectionConfig{URL: "/v1/introspect", Issuers: []string{issuerName}}, token.ErrWrongIssuer},
		"no audience in answers": {token.IntrospectionConfig{URL: "/v1/introspect", Audiences: []string{audience}}, token.ErrWrongAudience},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.config.URL = server.URL + test.config.URL
			if got := answered(t, newIntrospector(t, test.config), opaque("alice")).Err; !errors.Is(got, test.want) || (got == nil) != (test.want == nil) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestCredentialForTheServer(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	for name, config := range map[string]token.IntrospectionConfig{
		"bearer": {URL: server.URL + "/bearer", Bearer: "the-gates-own"},
		"basic":  {URL: server.URL + "/basic", BasicID: "gate:1", BasicSecret: "p&ss wörd"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := answered(t, newIntrospector(t, config), opaque("alice")); got.Err != nil || got.Sub != "alice" {
				t.Errorf("%+v", got)
			}
			var told reports
			config.Bearer, config.BasicID, config.BasicSecret, config.OnError = "not-the-gates", "", "", told.add
			if got := answered(t, newIntrospector(t, config), opaque("alice")); !errors.Is(got.Err, token.ErrUnavailable) {
				t.Errorf("with a wrong credential: %v", got.Err)
			}
			if text := told.first(t); !strings.Contains(text, "credential with status 401; check bearer or basic") || leaks(text, "not-the-gates", opaque("alice")) {
				t.Errorf("the operator is told: %s", text)
			}
		})
	}
}

// TestServersThatFail holds that nothing but a clear word says anything about
// a token, that it does not take long, and that it is not remembered.
func TestServersThatFail(t *testing.T) {
	t.Parallel()
	status := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if status/100 == 3 {
				w.Header().Set("Location", "/elsewhere")
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const good = `{"active":true,"sub":"alice","user":"alice","client_id":"x","scope":[]}`
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice who goes
		<-r.Context().Done()
	}
	hijacked := func(answer func(net.Conn, string)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			answer(conn, string(body))
			_ = conn.Close()
		}
	}
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		say   string
	}{
		"500":                              {status(500, ""), "status 500"},
		"503 with the number of a refusal": {status(503, `{"code":503,"errno":108}`), "status 503"},
		"429":                              {status(429, `{"errno":114}`), "status 429"},
		"404":                              {status(404, "{}"), "status 404"},
		"400 of somebody else":             {status(400, "<html>Bad Request"), "status 400"},
		"400 for another reason":           {status(400, `{"errno":101}`), "status 400"},
		"400 whose number is text":         {status(400, `{"errno":"108"}`), "status 400"},
		"401":                              {status(401, `{"error":"invalid_token"}`), "credential with status 401"},
		"403":                              {status(403, `{"errno":112}`), "credential with status 403"},
		"204":                              {status(204, ""), "status 204"},
		"redirect":                         {status(307, good), "redirects are not followed"},
		"a page":                           {status(200, "<html>"), "not a JSON object"},
		"nothing":                          {status(200, ""), "not a JSON object"},
		"null":                             {status(200, "null"), "not a JSON object"},
		"a list":                           {status(200, "["+good+"]"), "not a JSON object"},
		"two objects":                      {status(200, good+good), "not a JSON object"},
		"an empty object":                  {status(200, "{}"), "lacks"},
		"of other types":                   {status(200, `{"active":"true","user":1,"client_id":2}`), "lacks"},
		"other letter case":                {status(200, `{"Active":true,"User":"alice","Client_id":"x"}`), "lacks"},
		"too long":                         {status(200, good+strings.Repeat(" ", 64<<10)), "64 KiB"},
		"a gigabyte": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1 << 14 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "64 KiB"},
		"never answers": {hang, "within 300ms"},
		"never comes to its end": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, good[:20])
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, "within 300ms"},
		"breaks off":              {hijacked(func(net.Conn, string) {}), "connection broke"},
		"repeats what it is sent": {hijacked(func(c net.Conn, body string) { _, _ = io.WriteString(c, body) }), "does not speak HTTP"},
		"repeats it in a header":  {hijacked(func(c net.Conn, body string) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+body+"\r\n\r\n") }), "does not speak HTTP"},
	} {
		for _, manner := range []token.Manner{token.FxA, token.RFC7662} {
			t.Run(name+" as "+string(manner), func(t *testing.T) {
				t.Parallel()
				var recovered atomic.Bool
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if recovered.Load() || r.URL.Path != "/" {
						status(200, good)(w, r)
						return
					}
					test.serve(w, r)
				}))
				t.Cleanup(server.Close)
				var told reports
				config := token.IntrospectionConfig{URL: server.URL + "/?key=private-query", Manner: manner, OnError: told.add}
				if strings.Contains(test.say, "within") {
					config.Timeout = token.DefaultIntrospectionTimeout
				}
				i := newIntrospector(t, config)
				if got := answered(t, i, opaque("alice")); !errors.Is(got.Err, token.ErrUnavailable) {
					t.Errorf("got %+v", got)
				}
				text := told.first(t)
				if !strings.Contains(text, test.say) || !strings.Contains(text, server.URL) || leaks(text, opaque("alice"), "private-query") {
					t.Errorf("the operator is told: %s", text)
				}
				recovered.Store(true)
				for got := answered(t, i, opaque("alice")); got.Err != nil; got = answered(t, i, opaque("alice")) {
					if config.Timeout == 0 { // else it may strike again on a busy machine
						t.Fatalf("after it recovered: %v", got.Err)
					}
				}
			})
		}
	}
	t.Run("nobody is there", func(t *testing.T) {
		t.Parallel()
		var told reports
		i := newIntrospector(t, token.IntrospectionConfig{URL: "http://127.0.0.1:1/verify", OnError: told.add})
		if got := answered(t, i, opaque("alice")); !errors.Is(got.Err, token.ErrUnavailable) {
			t.Errorf("got %+v", got)
		}
		if text := told.first(t); !strings.Contains(text, "cannot be reached") {
			t.Errorf("the operator is told: %s", text)
		}
	})
}

// TestOnlyScalarsAreRemembered: answers may be long, and there are many.
func TestOnlyScalarsAreRemembered(t *testing.T) {
	t.Parallel()
	i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: answering(200, activeAnswer(fields{
		"aud": []string{audience}, "realm": fields{"roles": "many"}, "scope": []string{"a", "b"}, "admin": true,
	}))})
	claims, err := i.Verify("token", now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"sub": subject, "aud": nil, "realm": nil, "scope": "a b", "admin": true} {
		if got, _ := claims.Value(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestTimesOfAnswers: the server has judged them by its clock, so that only
// those that are far from ours say something.
func TestTimesOfAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer fields
		want   error
	}{
		"nbf within a minute":      {fields{"nbf": now.Add(time.Minute).Unix()}, nil},
		"nbf in an hour":           {fields{"nbf": now.Add(time.Hour).Unix()}, token.ErrNotYetValid},
		"nbf in an hour, in ms":    {fields{"nbf": now.Add(time.Hour).UnixMilli()}, token.ErrNotYetValid},
		"nbf null":                 {fields{"nbf": json.RawMessage("null")}, nil},
		"iat in an hour":           {fields{"iat": now.Add(time.Hour).Unix()}, nil},
		"iat in an hour, in ms":    {fields{"iat": now.Add(time.Hour).UnixMilli()}, nil},
		"iat beyond all times":     {fields{"iat": 1e300}, nil},
		"nbf is a word":            {fields{"nbf": "soon"}, token.ErrMalformed},
		"nbf in an hour, exp past": {fields{"nbf": now.Add(time.Hour).Unix(), "exp": 1}, token.ErrNotYetValid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: answering(200, activeAnswer(test.answer))})
			claims, err := i.Verify("token", now)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || (claims != nil) != (err == nil) {
				t.Errorf("got %v with claims %v, want %v", err, claims, test.want)
			}
		})
	}
}

func TestRefreshTokensAreNoCredential(t *testing.T) {
	t.Parallel()
	i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: answering(200, `{"active":true,"sub":"alice","token_type":"refresh_token"}`)})
	if got := answered(t, i, opaque("alice")); !errors.Is(got.Err, token.ErrMalformed) {
		t.Errorf("got %+v", got)
	}
}

// TestOneRequestForManyCallers has a thousand ask about one token at once.
func TestOneRequestForManyCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing()
		p.says(answer{status: 200, body: activeAnswer(nil), after: time.Second})
		i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: &http.Client{Transport: p}, Concurrency: 2})
		var verified atomic.Int32
		for range 1000 {
			go func() {
				if claims, err := i.Verify("token", time.Now()); err == nil && claims != nil {
					verified.Add(1)
				}
			}()
		}
		synctest.Wait()
		pass(time.Second)
		if requests := p.fetches.Load(); requests != 1 || verified.Load() != 1000 {
			t.Errorf("%d requests for %d of 1000 callers", requests, verified.Load())
		}
	})
}

// TestOneRequestWhateverTheMoment has callers come as a request begins, is in
// flight, and ends.
func TestOneRequestWhateverTheMoment(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	const tokens = 100
	i := newIntrospector(t, token.IntrospectionConfig{URL: server.URL + "/v1/verify"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range tokens {
				if _, err := i.Verify(opaque(fmt.Sprint("forged", n)), now); !errors.Is(err, token.ErrInactive) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if requests := server.requests.Load(); requests != tokens {
		t.Errorf("%d requests about %d tokens", requests, tokens)
	}
}

// TestForgedTokens sends ten thousand of them and expects that they cost what
// they may and take nothing from the good ones.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	const concurrency = 8
	i := newIntrospector(t, token.IntrospectionConfig{URL: server.URL + "/v1/verify", MaxEntries: 10, Concurrency: concurrency})
	for _, name := range []string{"alice", "bob", "nobody"} {
		answered(t, i, opaque(name))
	}
	var all sync.WaitGroup
	var refused, unavailable atomic.Int32
	for worker := range 4 * concurrency {
		all.Go(func() {
			for n := worker; n < 10_000; n += 4 * concurrency {
				switch _, err := i.Verify(opaque(fmt.Sprint("forged", n)), now); {
				case errors.Is(err, token.ErrInactive):
					refused.Add(1)
				case errors.Is(err, token.ErrUnavailable):
					unavailable.Add(1)
				default:
					t.Errorf("a forged token: %v", err)
				}
			}
		})
	}
	all.Wait()
	if most := server.most.Load(); most > concurrency {
		t.Errorf("%d requests in flight, of at most %d", most, concurrency)
	}
	asked := server.requests.Load()
	if refused.Load() != asked-3 || refused.Load()+unavailable.Load() != 10_000 {
		t.Errorf("%d refused and %d not asked about, with %d requests", refused.Load(), unavailable.Load(), asked)
	}
	for _, name := range []string{"alice", "bob", "nobody"} {
		if got := answered(t, i, opaque(name)); got.Sub != name {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if again := server.requests.Load() - asked; again != 0 {
		t.Errorf("%d good tokens were displaced", again)
	}
}

// TestBusy: who finds no slot free waits for one, but no longer than anybody.
func TestBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing()
		p.says(answer{status: 200, body: activeAnswer(nil), after: time.Second})
		config := token.IntrospectionConfig{URL: introspectionURL, Client: &http.Client{Transport: p}, Concurrency: 1, Timeout: 4 * time.Second}
		i := newIntrospector(t, config)
		began := time.Now()
		waited := make(chan time.Duration, 10)
		ask := func(n int, came time.Time, want error) {
			go func() {
				if _, err := i.Verify(fmt.Sprint("token", n), came); !errors.Is(err, want) {
					t.Errorf("token%d: %v, want %v", n, err, want)
				}
				waited <- time.Since(began)
			}()
			synctest.Wait() // so that they queue in this order
		}
		ask(0, time.Now(), nil)
		ask(1, time.Now(), nil)
		for n := range 2 {
			if took := <-waited; took != time.Duration(n+1)*time.Second {
				t.Errorf("answered after %v", took)
			}
		}

		p.says(answer{status: 200, body: activeAnswer(nil), after: time.Hour}) // all hang
		began = time.Now()
		ask(2, time.Now(), token.ErrUnavailable)
		pass(2 * time.Second)
		ask(3, time.Now(), token.ErrUnavailable)
		// Its time is over a moment before the slot is free again.
		ask(4, time.Now().Add(-time.Millisecond), token.ErrBusy)
		for _, want := range []time.Duration{4 * time.Second, 6*time.Second - time.Millisecond, 6 * time.Second} {
			if took := <-waited; took != want {
				t.Errorf("given up after %v, want %v", took, want)
			}
		}
	})
}

// TestTokensOfOneRequestShareItsTime: however many there are, the request waits
// for no longer than with one; whom the others left too little counts as crowded
// out, and what was asked about it is remembered for the next request.
func TestTokensOfOneRequestShareItsTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		takes time.Duration // until the server answers
		want  []error
		took  time.Duration
		again []error
	}{
		"in time":   {time.Second, []error{nil, nil, nil, nil}, 4 * time.Second, []error{nil, nil, nil, nil}},
		"two of it": {1900 * time.Millisecond, []error{nil, nil, token.ErrBusy, token.ErrBusy}, 4 * time.Second, []error{nil, nil, nil, nil}},
		"one of it": {3900 * time.Millisecond, []error{nil, token.ErrBusy, token.ErrBusy, token.ErrBusy}, 4 * time.Second, []error{nil, nil, nil, nil}},
		"hanging": {
			time.Hour, []error{token.ErrUnavailable, token.ErrBusy, token.ErrBusy, token.ErrBusy}, 4 * time.Second,
			[]error{token.ErrUnavailable, token.ErrBusy, token.ErrBusy, token.ErrBusy},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := publishing()
				p.says(answer{status: 200, body: activeAnswer(nil), after: test.takes})
				i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: &http.Client{Transport: p}, Timeout: 4*time.Second + 1})
				request := func(want []error) {
					came := time.Now()
					for n, want := range want {
						_, err := i.Verify(fmt.Sprint("token", n), came)
						if !errors.Is(err, want) || errors.Is(err, token.ErrBusy) != errors.Is(want, token.ErrBusy) {
							t.Errorf("token %d: %v, want %v", n, err, want)
						}
					}
					if took := time.Since(came).Round(time.Millisecond); took > test.took {
						t.Errorf("the request waited %v, of at most %v", took, test.took)
					}
				}
				request(test.want)
				pass(5 * time.Second) // until what nobody waits for any more has been answered
				request(test.again)
			})
		})
	}
}

// TestOtherClients: a token proves its user, but not to everybody.
func TestOtherClients(t *testing.T) {
	t.Parallel()
	i := newIntrospector(t, token.IntrospectionConfig{
		URL: introspectionURL, Client: answering(200, activeAnswer(fields{"client_id": "another"})), ClientIDs: []string{"ours"},
	})
	if claims, err := i.Verify("token", time.Now()); claims != nil || !errors.Is(err, token.ErrWrongAudience) {
		t.Errorf("%v, %v", claims, err)
	}
	i = newIntrospector(t, token.IntrospectionConfig{
		URL: introspectionURL, Client: answering(200, activeAnswer(fields{"client_id": "ours"})), ClientIDs: []string{"other", "ours"},
	})
	if _, err := i.Verify("token", time.Now()); err != nil {
		t.Error(err)
	}
}

const introspectionURL = "https://id.example.org/oauth2/introspect"

// answering returns a client whose requests all get the same answer.
func answering(status int, body string) *http.Client {
	p := publishing()
	p.says(answer{status: status, body: body})
	return &http.Client{Transport: p}
}

func activeAnswer(changes fields) string {
	return string(must(json.Marshal(merged(fields{"active": true, "sub": subject}, changes))))
}

// TestHowLongAnswersAreUsed counts the requests as time goes by.
func TestHowLongAnswersAreUsed(t *testing.T) {
	t.Parallel()
	start := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC) // of every synctest bubble
	for name, test := range map[string]struct {
		status int
		body   string
		maxAge time.Duration
		last   time.Duration // when it is used for the last time
	}{
		"good":                    {200, activeAnswer(nil), 0, time.Minute - 1},
		"good, with a max_age":    {200, activeAnswer(nil), 5 * time.Second, 5*time.Second - 1},
		"good, and ends before":   {200, activeAnswer(fields{"exp": start.Add(30 * time.Second).Unix()}), 0, 30*time.Second - 1},
		"good, and ends after":    {200, activeAnswer(fields{"exp": start.Add(time.Hour).UnixMilli()}), 0, time.Minute - 1},
		"refused":                 {200, `{"active":false}`, time.Hour, 10*time.Second - 1},
		"refused in FxA's manner": {400, `{"errno":108}`, time.Hour, 10*time.Second - 1},
		"expired":                 {200, activeAnswer(fields{"exp": start.Add(-time.Hour).Unix()}), time.Hour, 10*time.Second - 1},
		"another issuer's":        {200, activeAnswer(fields{"iss": "elsewhere"}), time.Hour, 10*time.Second - 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := publishing()
				p.says(answer{status: test.status, body: test.body})
				config := token.IntrospectionConfig{URL: introspectionURL, Client: &http.Client{Transport: p}, MaxAge: test.maxAge}
				if strings.Contains(test.body, "elsewhere") {
					config.Issuers = []string{issuerName}
				}
				i := newIntrospector(t, config)
				_, first := i.Verify("token", time.Now())
				pass(test.last)
				if _, err := i.Verify("token", time.Now()); !errors.Is(err, first) || p.fetches.Load() != 1 {
					t.Errorf("after %v: %v and then %v, with %d requests, want 1", test.last, first, err, p.fetches.Load())
				}
				pass(1)
				_, _ = i.Verify("token", time.Now())
				if p.fetches.Load() != 2 {
					t.Errorf("after %v: %d requests, want 2", test.last+1, p.fetches.Load())
				}
			})
		})
	}
}

// TestFailuresAreToldOnceAMinute: a server that is down fails every request.
func TestFailuresAreToldOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told reports
		i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: answering(503, ""), OnError: told.add})
		for range 150 {
			_, _ = i.Verify("token", time.Now())
			pass(time.Second)
		}
		if n := len(told.texts); n != 3 {
			t.Errorf("told %d times in 150 seconds, want 3", n)
		}
	})
}

func TestClosingAnIntrospector(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing()
		p.says(answer{status: 200, body: activeAnswer(nil)})
		i := newIntrospector(t, token.IntrospectionConfig{
			URL: introspectionURL, Client: &http.Client{Transport: p},
			OnError: func(err error) { t.Errorf("told of a failure that is none: %v", err) },
		})
		if _, err := i.Verify("known", time.Now()); err != nil {
			t.Fatal(err)
		}
		p.says(answer{status: 200, after: time.Hour, clings: time.Second})
		asked := make(chan error, 1)
		go func() {
			_, err := i.Verify("asked", time.Now())
			asked <- err
		}()
		synctest.Wait()
		began := time.Now()
		i.Close()
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v, want the second that the request clings", took)
		}
		if err := <-asked; !errors.Is(err, token.ErrUnavailable) {
			t.Errorf("what was asked about: %v", err)
		}
		i.Close()
		if _, err := i.Verify("known", time.Now()); err != nil {
			t.Errorf("what was known before: %v", err)
		}
		if _, err := i.Verify("new", time.Now()); !errors.Is(err, token.ErrUnavailable) || p.fetches.Load() != 2 {
			t.Errorf("what is new: %v, with %d requests", err, p.fetches.Load())
		}
	})
}

func TestIntrospectionConfigsThatAreRefused(t *testing.T) {
	t.Parallel()
	const fxa, rfc = "https://id.example.org/v1/verify", introspectionURL
	for name, test := range map[string]struct {
		config       token.IntrospectionConfig
		setting, say string
	}{
		"no URL":               {token.IntrospectionConfig{}, "url", "starts with https://"},
		"http":                 {token.IntrospectionConfig{URL: "http://id.example.org/"}, "url", "starts with https://"},
		"a password":           {token.IntrospectionConfig{URL: "https://u:private-word@id.example.org/"}, "url", "without"},
		"an unknown manner":    {token.IntrospectionConfig{URL: rfc, Manner: "oidc"}, "manner", "fxa, rfc7662"},
		"both credentials":     {token.IntrospectionConfig{URL: rfc, Bearer: "x", BasicID: "i", BasicSecret: "s"}, "basic", "leave one out"},
		"an id alone":          {token.IntrospectionConfig{URL: rfc, BasicID: "i"}, "basic", "write both"},
		"a secret alone":       {token.IntrospectionConfig{URL: rfc, BasicSecret: "private-word"}, "basic", "write both"},
		"no token":             {token.IntrospectionConfig{URL: rfc, Bearer: "Bearer private-word"}, "bearer", "the token alone"},
		"FxA with a token":     {token.IntrospectionConfig{URL: fxa, Bearer: "x"}, "bearer", "leave it out"},
		"FxA with an id":       {token.IntrospectionConfig{URL: fxa, BasicID: "i", BasicSecret: "s"}, "basic", "leave it out"},
		"FxA with an issuer":   {token.IntrospectionConfig{URL: fxa, Issuers: []string{"i"}}, "issuer", "leave it out"},
		"FxA with an audience": {token.IntrospectionConfig{URL: rfc, Manner: token.FxA, Audiences: []string{"a"}}, "audience", "leave it out"},
		"negative timeout":     {token.IntrospectionConfig{URL: rfc, Timeout: -1}, "timeout", "negative"},
		"negative max_age":     {token.IntrospectionConfig{URL: rfc, MaxAge: -1}, "max_age", "negative"},
		"negative entries":     {token.IntrospectionConfig{URL: rfc, MaxEntries: -1}, "max_entries", "negative"},
		"negative concurrency": {token.IntrospectionConfig{URL: rfc, Concurrency: -1}, "concurrency", "negative"},
	} {
		_, err := token.NewIntrospector(test.config)
		wrong, ok := errors.AsType[*token.ConfigError](err)
		if !ok || wrong.Setting != test.setting || !strings.Contains(err.Error(), test.say) || leaks(err.Error(), "private-word") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMannerOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]token.Manner{
		"https://oauth.example.org/v1/verify":        token.FxA,
		"https://oauth.example.org/v1/verify/?x=1":   token.FxA,
		"https://oauth.example.org/verify":           token.FxA,
		"https://oauth.example.org/v1/introspect":    token.RFC7662,
		"https://verify":                             token.RFC7662,
		"https://oauth.example.org/?x=/verify":       token.RFC7662,
		"https://oauth.example.org/not-quite-verify": token.RFC7662,
		"https://oauth.example.org/%":                token.RFC7662,
	} {
		if got := token.MannerOf(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// FuzzIntrospection reads hostile answers.
func FuzzIntrospection(f *testing.F) {
	for _, body := range []string{
		"", "null", "{}", "[]", `{"active":true}`, `{"active":false}`, `{"active":true,"exp":1e400}`, `{"active":true,"exp":-1}`,
		activeAnswer(fields{"exp": now.UnixMilli(), "scope": []any{"a", 1}, "aud": []any{}, "realm": fields{"a": 1}}),
		`{"user":"u","client_id":"c","scope":["profile"]}`, `{"user":"u","client_id":"c","scope":{"a":[]}}`,
		`{"errno":108}`, `{"errno":115,"expiredAt":1}`, `{"active":true,"active":false}`, strings.Repeat("[", 20_000),
	} {
		for _, status := range []int{200, 400, 401} {
			f.Add(status, body)
		}
	}
	raw := opaque("a token that no answer holds")
	f.Fuzz(func(t *testing.T, status int, body string) {
		for _, manner := range []token.Manner{token.FxA, token.RFC7662} {
			i, err := token.NewIntrospector(token.IntrospectionConfig{
				URL: introspectionURL, Manner: manner, Client: answering(max(1, status), body), Timeout: time.Minute,
			})
			if err != nil {
				t.Fatal(err)
			}
			claims, err := i.Verify(raw, now)
			i.Close()
			switch known := slices.ContainsFunc(sentinels, func(sentinel error) bool { return errors.Is(err, sentinel) }); {
			case err == nil && (status != 200 || claims.Expires.After(now.Add(time.Minute)) || claims.Expires.IsZero()):
				t.Fatalf("good until %v, with status %d", claims.Expires, status)
			case err == nil && manner == token.FxA:
				if user, _ := claims.String("sub"); user == "" {
					t.Fatal("good, and nobody's")
				}
			case err != nil && (!known || strings.Contains(err.Error(), raw) || claims != nil && !errors.Is(err, token.ErrExpired)):
				t.Fatalf("%v, with claims %v", err, claims)
			}
		}
	})
}

func TestRememberedTokenAllocatesNothing(t *testing.T) {
	i := newIntrospector(t, token.IntrospectionConfig{URL: introspectionURL, Client: answering(200, activeAnswer(nil))})
	raw := opaque("alice")
	if _, err := i.Verify(raw, now); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = i.Verify(raw, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkIntrospect(b *testing.B) {
	server := newOAuthServer(b)
	b.Run("remembered", func(b *testing.B) {
		i := newIntrospector(b, token.IntrospectionConfig{URL: server.URL + "/v1/verify"})
		raw := opaque("alice")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := i.Verify(raw, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asked", func(b *testing.B) {
		i := newIntrospector(b, token.IntrospectionConfig{URL: server.URL + "/v1/verify"})
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if _, err := i.Verify(opaque(fmt.Sprint("forged", n)), now); !errors.Is(err, token.ErrInactive) {
				b.Fatal(err)
			}
		}
	})
}
