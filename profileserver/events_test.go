package profileserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// The issuer of security events, and its keys by their names.
const (
	eventIssuer   = "https://accounts.firefox.com"
	eventAudience = "98e6508e88680e1a"
)

var eventKeys = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"RS256": rsaKey, "ES256": ecKey}
})

// takesEvents configures a server for the events of the issuer, whose name has
// a slash at its end or not.
func takesEvents(t testing.TB) func(*Config) {
	t.Helper()
	var set struct {
		Keys []jwkset.JWKMarshal `json:"keys"`
	}
	for name, key := range eventKeys() {
		jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: name, USE: jwkset.UseSig}})
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, token.Config{
		JWKS: text, Issuers: []string{eventIssuer, eventIssuer + "/"}, Audiences: []string{eventAudience}, ExpiryOptional: true, Leeway: time.Minute,
	})
	return func(c *Config) { c.Events, c.EventLeeway = v, time.Minute }
}

// eventClaims are of a token that is in order, but for the changes; a nil one is
// left out.
func eventClaims(id string, events map[string]any, changes jwt.MapClaims) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iss": eventIssuer, "aud": eventAudience, "sub": identity, "jti": id,
		"iat": float64(time.Now().UnixMilli()) / 1000, "events": events,
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

// signEvent makes a security event token, with the key of this name.
func signEvent(t testing.TB, name string, claims jwt.MapClaims) string {
	t.Helper()
	return signAs(t, name, name, claims)
}

// signAs makes a token that says that it is signed with another key.
func signAs(t testing.TB, said, name string, claims jwt.MapClaims) string {
	t.Helper()
	unsigned := jwt.NewWithClaims(jwt.GetSigningMethod(name), claims)
	unsigned.Header["kid"] = said
	raw, err := unsigned.SignedString(eventKeys()[name])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// tell sends a token in Firefox Accounts' manner.
func (i instance) tell(t *testing.T, raw string) response {
	t.Helper()
	return i.send(t, request{method: "POST", path: eventsPath, token: raw})
}

// push sends a token in the manner of RFC 8935.
func (i instance) push(t *testing.T, raw string) response {
	t.Helper()
	return i.send(t, request{method: "POST", path: eventsPath, header: []string{"Content-Type: application/secevent+jwt"}, body: raw})
}

func eventURI(event string) string { return "https://schemas.accounts.firefox.com/event/" + event }

// noPayload is what an event has to say besides its name.
var noPayload = map[string]any{}

// notes gathers what an observer is told.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, line)
}

// take returns what was told since the last time, sorted.
func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lines := slices.Sorted(slices.Values(n.lines))
	n.lines = nil
	return lines
}

func (n *notes) observe(c *Config) {
	c.Observer.Change = func(value, source string) { n.add("change " + value + " " + source) }
	c.Observer.Event = func(event, result string) { n.add("event " + event + " " + result) }
	c.Observer.StoreFailure = func() { n.add("store failure") }
}

func TestEvents(t *testing.T) {
	t.Parallel()
	const null = "null"
	const inMilliseconds = "of now, in milliseconds"
	for _, test := range []struct {
		name    string
		before  string
		events  map[string]any
		changes jwt.MapClaims
		after   string
		notes   []string
	}{
		{"opts out", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, nil, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"opts in", null, map[string]any{eventURI("metrics-opt-in"): noPayload}, nil, "false", []string{"change false user", "event metrics-opt-in changed"}},
		{"opts in after all", "true", map[string]any{eventURI("metrics-opt-in"): noPayload}, nil, "false", []string{"change false user", "event metrics-opt-in changed"}},
		{"so already", "true", map[string]any{eventURI("metrics-opt-out"): noPayload}, nil, "true", []string{"event metrics-opt-out unchanged"}},
		{"no payload to speak of", null, map[string]any{eventURI("metrics-opt-out"): nil}, nil, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"profile says no", null, map[string]any{eventURI("profile-change"): map[string]any{"metricsEnabled": false, "locale": "de"}}, nil, "true", []string{"change true user", "event profile-change changed"}},
		{"profile says yes", "true", map[string]any{eventURI("profile-change"): map[string]any{"metricsEnabled": true}}, nil, "false", []string{"change false user", "event profile-change changed"}},
		{"profile says nothing", "true", map[string]any{eventURI("profile-change"): map[string]any{"email": payload}}, nil, "true", []string{"event profile-change ignored"}},
		{"profile, older", null, map[string]any{eventURI("profileDataChanged"): map[string]any{"metricsEnabled": false}}, nil, "true", []string{"change true user", "event profile-change changed"}},
		{"profile, in between", null, map[string]any{eventURI("profileDataChange"): map[string]any{"metricsEnabled": false}}, nil, "true", []string{"change true user", "event profile-change changed"}},
		{"profile, oldest", null, map[string]any{eventURI("profileDataChanged"): noPayload}, nil, null, []string{"event profile-change ignored"}},
		{"deleted", "true", map[string]any{eventURI("delete-user"): noPayload}, nil, null, []string{"change deleted user", "event delete-user changed"}},
		{"deleted, older", "false", map[string]any{eventURI("delete"): noPayload}, nil, null, []string{"change deleted user", "event delete-user changed"}},
		{"deleted, unknown", null, map[string]any{eventURI("delete-user"): noPayload}, nil, null, []string{"event delete-user unchanged"}},
		{"unknown", "false", map[string]any{eventURI("password-change"): map[string]any{"changeTime": 1}, "https://example.org/" + payload: noPayload}, nil, "false", []string{"event other ignored"}},
		{"unknown, of nobody", "false", map[string]any{eventURI("password-change"): noPayload}, jwt.MapClaims{"sub": nil}, "false", []string{"event other ignored"}},
		{"a name that ends alike", "false", map[string]any{"metrics-opt-out": noPayload, "https://example.org/event/metrics-opt-out": noPayload}, nil, "false", []string{"event other ignored"}},

		{"several", null, map[string]any{eventURI("metrics-opt-out"): noPayload, eventURI("profile-change"): map[string]any{"metricsEnabled": false}, eventURI("x"): noPayload}, nil, "true",
			[]string{"change true user", "event metrics-opt-out changed", "event other ignored", "event profile-change changed"}},
		{"contradicting", null, map[string]any{eventURI("metrics-opt-out"): noPayload, eventURI("metrics-opt-in"): noPayload}, nil, "true",
			[]string{"change true user", "event metrics-opt-in changed", "event metrics-opt-out changed"}},
		{"deleted and opted out", "false", map[string]any{eventURI("metrics-opt-out"): noPayload, eventURI("delete-user"): noPayload}, nil, null,
			[]string{"change deleted user", "event delete-user changed", "event metrics-opt-out changed"}},

		{"with a host", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"sub": identity + "@accounts.firefox.com"}, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"somebody else's address", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"sub": "x" + identity[1:] + "@example.org"}, null, []string{"change true user", "event metrics-opt-out changed"}},
		{"issuer with a slash", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iss": eventIssuer + "/"}, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"one of several audiences", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"aud": []string{"x", eventAudience}}, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"older than the choice", "false", map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iat": time.Now().Add(-time.Hour).Unix()}, "false", []string{"event metrics-opt-out unchanged"}},
		{"in milliseconds", "false", map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iat": inMilliseconds}, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"in milliseconds, older than the choice", "false", map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iat": time.Now().Add(-time.Minute).UnixMilli()}, "false", []string{"event metrics-opt-out unchanged"}},
		{"almost a week old", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iat": time.Now().Add(time.Hour - prefstore.EventsFor).Unix()}, "true", []string{"change true user", "event metrics-opt-out changed"}},
		{"old, but the first", null, map[string]any{eventURI("metrics-opt-out"): noPayload}, jwt.MapClaims{"iat": time.Now().Add(-time.Hour).Unix()}, "true", []string{"change true user", "event metrics-opt-out changed"}},
	} {
		for key := range eventKeys() {
			t.Run(test.name+" "+key, func(t *testing.T) {
				t.Parallel()
				var got notes
				server := start(t, database(t), takesEvents(t), got.observe)
				if test.before != null {
					server.post(t, `{"metrics_optout":`+test.before+`}`).want(t, 200, `{}`)
				}
				got.take()
				// The choice above and the event are not of one millisecond.
				now := time.Now().UnixMilli()
				for now == time.Now().UnixMilli() {
					runtime.Gosched()
				}
				changes := jwt.MapClaims{"iat": float64(now+1) / 1000}
				maps.Copy(changes, test.changes)
				if changes["iat"] == inMilliseconds {
					changes["iat"] = now + 1
				}
				raw := signEvent(t, key, eventClaims("1", test.events, changes))

				answer := server.push(t, raw)
				answer.want(t, 202, "")
				if diff := cmp.Diff(test.notes, got.take()); diff != "" {
					t.Errorf("observer (-want +got):\n%s", diff)
				}
				server.get(t).want(t, 200, `{"metrics_optout":`+test.after+`}`)

				// In the other manner, and once more.
				server.tell(t, raw).want(t, 200, `{}`)
				if i := slices.IndexFunc(got.take(), func(line string) bool { return strings.HasPrefix(line, "change ") }); i >= 0 {
					t.Error("the token changed something when it came again")
				}
				server.get(t).want(t, 200, `{"metrics_optout":`+test.after+`}`)
			})
		}
	}
}

// TestAReplayDoesNotUndoALaterChoice: FxA delivers an event once more when it
// has not heard of its success in time.
func TestAReplayDoesNotUndoALaterChoice(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), takesEvents(t))
	for _, event := range []string{"metrics-opt-in", "delete-user"} {
		raw := signEvent(t, "RS256", eventClaims(event, map[string]any{eventURI(event): noPayload}, nil))
		server.tell(t, raw).want(t, 200, `{}`)
		server.post(t, `{"metrics_optout":true}`).want(t, 200, `{}`)
		server.tell(t, raw).want(t, 200, `{}`)
		server.push(t, raw).want(t, 202, "")
		server.get(t).want(t, 200, `{"metrics_optout":true}`)
	}
}

// TestAWholeSecondIsAnInterval: an event that counts in seconds may be of before
// or after a choice that was made within its own; then what measures less
// stands.
func TestAWholeSecondIsAnInterval(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), takesEvents(t))
	tell := func(event string, iat any) {
		t.Helper()
		raw := signEvent(t, "ES256", eventClaims(rand.Text(), map[string]any{eventURI(event): noPayload}, jwt.MapClaims{"iat": iat}))
		server.push(t, raw).want(t, 202, "")
	}
	chosen := func(value string) time.Time {
		t.Helper()
		server.post(t, `{"metrics_optout":`+value+`}`).want(t, 200, `{}`)
		changed, err := time.Parse(time.RFC3339, server.get(t).Header.Get("Metrics-Optout-Changed"))
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	at := chosen("false")
	tell("metrics-opt-out", float64(at.UnixMilli()-1)/1000) // it counts in milliseconds, and is older
	server.get(t).want(t, 200, `{"metrics_optout":false}`)
	tell("metrics-opt-out", at.Unix())
	server.get(t).want(t, 200, `{"metrics_optout":true}`)

	chosen("false")
	at = chosen("true")
	tell("metrics-opt-in", at.Unix())
	server.get(t).want(t, 200, `{"metrics_optout":true}`)
	tell("metrics-opt-in", at.Unix()-1)
	server.get(t).want(t, 200, `{"metrics_optout":true}`)
}

// TestAnIDIsItsIssuers: what one issuer calls an event says nothing of another's.
func TestAnIDIsItsIssuers(t *testing.T) {
	t.Parallel()
	v := verifier(t, token.Config{Secret: secret, ExpiryOptional: true})
	server := start(t, database(t), func(c *Config) { c.Events = v })
	for _, e := range []struct{ issuer, event, held string }{
		{"https://a.example.org", "metrics-opt-out", "true"},
		{"https://b.example.org", "metrics-opt-in", "false"},
		{"https://a.example.org/", "metrics-opt-out", "false"},
	} {
		claims := eventClaims("1", map[string]any{eventURI(e.event): noPayload}, jwt.MapClaims{"iss": e.issuer})
		raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		server.push(t, raw).want(t, 202, "")
		server.get(t).want(t, 200, `{"metrics_optout":`+e.held+`}`)
	}
}

func TestEventsThatAreNotTaken(t *testing.T) {
	t.Parallel()
	var got notes
	server := start(t, database(t), takesEvents(t), got.observe)
	optedOut := map[string]any{eventURI("metrics-opt-out"): noPayload}
	good := signEvent(t, "ES256", eventClaims("1", optedOut, nil))
	signed := func(changes jwt.MapClaims) string { return signEvent(t, "ES256", eventClaims("1", optedOut, changes)) }
	of := func(events any) string { return signed(jwt.MapClaims{"events": events}) }
	for _, test := range []struct{ name, raw, err string }{
		{"nothing", "", "invalid_request"},
		{"garbage", payload, "invalid_request"},
		{"as JSON", `{"set":"` + good + `"}`, "invalid_request"},
		{"too long for a token", strings.Repeat("x", token.MaxTokenBytes+1), "invalid_request"},
		{"too long for a body", good + strings.Repeat(" ", maxEventBody), "invalid_request"},
		{"no id", signed(jwt.MapClaims{"jti": nil}), "invalid_request"},
		{"an empty id", signed(jwt.MapClaims{"jti": ""}), "invalid_request"},
		{"a number for an id", signed(jwt.MapClaims{"jti": 7}), "invalid_request"},
		{"no account", signed(jwt.MapClaims{"sub": nil}), "invalid_request"},
		{"an account that cannot be", signed(jwt.MapClaims{"sub": strings.Repeat("u", 256)}), "invalid_request"},
		{"expired", signed(jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()}), "invalid_request"},
		{"from the future", signed(jwt.MapClaims{"iat": time.Now().Add(time.Hour).Unix()}), "invalid_request"},
		{"from the future, in milliseconds", signed(jwt.MapClaims{"iat": time.Now().Add(time.Hour).UnixMilli()}), "invalid_request"},
		{"older than a week", signed(jwt.MapClaims{"iat": time.Now().Add(-prefstore.EventsFor - time.Minute).Unix()}), "invalid_request"},
		{"a deletion older than a week", signed(jwt.MapClaims{
			"iat": time.Now().Add(-prefstore.EventsFor - time.Minute).Unix(), "events": map[string]any{eventURI("delete-user"): noPayload},
		}), "invalid_request"},
		{"not valid yet", signed(jwt.MapClaims{"nbf": time.Now().Add(time.Hour).Unix()}), "invalid_request"},
		{"no events", signed(jwt.MapClaims{"events": nil}), "invalid_request"},
		{"an access token", signed(jwt.MapClaims{"events": nil, "scope": "profile", "client_id": "metrics-gate"}), "invalid_request"},
		{"empty events", of(noPayload), "invalid_request"},
		{"a list of events", of([]any{eventURI("metrics-opt-out")}), "invalid_request"},
		{"neither yes nor no", of(map[string]any{eventURI("profile-change"): map[string]any{"metricsEnabled": "false"}}), "invalid_request"},
		{"another issuer", signed(jwt.MapClaims{"iss": "https://evil.example.org"}), "invalid_issuer"},
		{"an issuer that begins alike", signed(jwt.MapClaims{"iss": eventIssuer + "//"}), "invalid_issuer"},
		{"no issuer", signed(jwt.MapClaims{"iss": nil}), "invalid_issuer"},
		{"another audience", signed(jwt.MapClaims{"aud": "x"}), "invalid_audience"},
		{"no audience", signed(jwt.MapClaims{"aud": nil}), "invalid_audience"},
		{"another key", signAs(t, "another", "ES256", eventClaims("1", optedOut, nil)), "invalid_key"},
		{"a signature that does not hold", good[:len(good)-8] + "AAAAAAAA", "authentication_failed"},
		{"no signature", good[:strings.LastIndex(good, ".")+1], "authentication_failed"},
	} {
		for _, header := range [][]string{{"Content-Type: application/secevent+jwt"}, {"Authorization: Bearer " + test.raw}} {
			if header[0] == "Authorization: Bearer "+test.raw && len(test.raw) > token.MaxTokenBytes+1 {
				continue // nobody's headers are as long
			}
			answer := server.send(t, request{
				method: "POST", path: eventsPath, header: header, body: test.raw, mediaType: "application/json",
			})
			var said eventError
			if err := json.Unmarshal([]byte(answer.Body), &said); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			if answer.Status != 400 || said.Err != test.err || said.Description == "" || answer.Header.Get("Content-Language") != "en" {
				t.Errorf("%s: %d %s %v, want %s", test.name, answer.Status, answer.Body, answer.Header["Content-Language"], test.err)
			}
			if diff := cmp.Diff([]string{"event none refused"}, got.take()); diff != "" {
				t.Errorf("%s: observer (-want +got):\n%s", test.name, diff)
			}
		}
	}
	server.get(t).want(t, 200, `{"metrics_optout":null}`)
	server.tell(t, good).want(t, 200, `{}`)
	server.get(t).want(t, 200, `{"metrics_optout":true}`)
}

// TestEventsComeAgain: what may be better later is answered so that the
// transmitter tries again.
func TestEventsComeAgain(t *testing.T) {
	t.Parallel()
	var got notes
	raw := signEvent(t, "RS256", eventClaims("1", map[string]any{eventURI("metrics-opt-out"): noPayload}, nil))
	gone := signEvent(t, "RS256", eventClaims("2", map[string]any{eventURI("delete-user"): noPayload, eventURI("x"): noPayload}, nil))
	away := verifier(t, token.Config{
		JWKSURL: "https://id.example.org/jwks", ExpiryOptional: true,
		KeySetClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("unreachable")
		})},
	})
	server := start(t, database(t), got.observe, func(c *Config) { c.Events = away })
	server.tell(t, raw).want(t, 503, body503Keys)
	server.push(t, raw).want(t, 503, body503Keys)
	if diff := cmp.Diff([]string{"event none failed", "event none failed"}, got.take()); diff != "" {
		t.Errorf("no keys (-want +got):\n%s", diff)
	}

	server = start(t, database(t), got.observe, takesEvents(t), failing)
	server.tell(t, raw).want(t, 503, body503Store)
	server.push(t, gone).want(t, 503, body503Store)
	if diff := cmp.Diff([]string{
		"event delete-user failed", "event metrics-opt-out failed", "event other ignored", "store failure", "store failure",
	}, got.take()); diff != "" {
		t.Errorf("no store (-want +got):\n%s", diff)
	}
}

// FuzzEvents reads hostile claims, all of them well signed: whatever they are,
// the answer is one of four, and only events that say so change something.
func FuzzEvents(f *testing.F) {
	for _, claims := range []string{
		`{"jti":"1","sub":"u","events":{"https://schemas.accounts.firefox.com/event/metrics-opt-out":{}}}`,
		`{"jti":"1","sub":"u","events":{"https://schemas.accounts.firefox.com/event/profile-change":{"metricsEnabled":true}}}`,
		`{"jti":"1","sub":"u","events":{"https://schemas.accounts.firefox.com/event/profile-change":{"metricsEnabled":[]}}}`,
		`{"jti":"1","sub":"0123456789abcdef0123456789abcdef@h","events":{"https://schemas.accounts.firefox.com/event/delete-user":7,"x":null}}`,
		`{"jti":1,"sub":"u","iat":1e300,"events":[]}`, `{"events":null}`, `[]`, `{`,
	} {
		f.Add([]byte(claims))
	}
	v, err := token.NewVerifier(token.Config{Secret: secret, ExpiryOptional: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		var store recorder
		server := New(Config{Store: &store, Events: v})
		unsigned := encodeSegment([]byte(`{"alg":"HS256"}`)) + "." + encodeSegment(claims)
		signature, err := jwt.SigningMethodHS256.Sign(unsigned, secret)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", eventsPath, strings.NewReader(unsigned+"."+encodeSegment(signature)))
		r.Header.Set("Content-Type", "application/secevent+jwt")
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)

		if (w.Code == 202) != (w.Body.Len() == 0) || w.Code != 202 && w.Code != 400 {
			t.Fatalf("%s: %d %s", claims, w.Code, w.Body)
		}
		// A second reading of the same rules.
		var said map[string]any
		_ = json.Unmarshal(claims, &said)
		events, _ := said["events"].(map[string]any)
		speaks := func(kinds ...string) bool {
			return slices.ContainsFunc(kinds, func(kind string) bool { _, ok := events[eventPrefix+kind]; return ok })
		}
		for _, write := range store.writes {
			fine := write == "removed" && speaks("delete-user", "delete") ||
				write == "true" && speaks("metrics-opt-out", "profile-change", "profileDataChange", "profileDataChanged") ||
				write == "false" && !speaks("metrics-opt-out", "delete-user", "delete")
			if !fine || w.Code != 202 || len(store.writes) > 1 {
				t.Fatalf("%s: %v and %d", claims, store.writes, w.Code)
			}
		}
	})
}

// recorder is a store that only notes what is to be written.
type recorder struct {
	prefstore.Store
	writes []string
}

func (r *recorder) Set(_ context.Context, _ string, c prefstore.Choice) (prefstore.Record, prefstore.Result, error) {
	r.writes = append(r.writes, c.Preference.String())
	return prefstore.Record{}, prefstore.Changed, nil
}

func (r *recorder) Delete(context.Context, string, string) (prefstore.Result, error) {
	r.writes = append(r.writes, "removed")
	return prefstore.Changed, nil
}

func encodeSegment(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

func FuzzUID(f *testing.F) {
	for _, subject := range []string{identity, identity + "@accounts.firefox.com", "bea@example.org", "@", "", identity + "@@"} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		got := uidOf(subject)
		if got == subject {
			return
		}
		rest, cut := strings.CutPrefix(subject, got)
		if !cut || !strings.HasPrefix(rest, "@") || len(got) != 32 || strings.Trim(got, "0123456789abcdef") != "" {
			t.Fatalf("%q becomes %q", subject, got)
		}
	})
}
