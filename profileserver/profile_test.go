package profileserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

func TestProfileAlone(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), standalone, func(c *Config) { c.NoContentWhenUnset = true })
	get := func(scope string, header ...string) response {
		return server.send(t, request{method: "GET", path: profilePath, token: mint(t, "metrics-gate", identity, scope, ""), header: header})
	}
	get("profile").want(t, 200, `{}`)
	for _, preference := range []string{"true", "false"} {
		server.post(t, `{"metrics_optout":`+preference+`}`).want(t, 200, `{}`)
		answer := get(optoutapi.ReadScope)
		answer.want(t, 200, `{"metrics_optout":`+preference+`}`)
		get("profile", "If-None-Match: "+answer.Header.Get("ETag")).want(t, 304, "")
		get("profile", "If-Match: \"x\"").want(t, 412, body412)
	}
	server.post(t, `{"metrics_optout":null}`).want(t, 200, `{}`)
	get("profile:write").want(t, 200, `{}`)
	get("profile:email").want(t, 403, body403Scope)
	server.send(t, request{method: "GET", path: profilePath}).want(t, 401, body401NoToken)
}

// behind starts a server in front of another one, as Caddy does: what it does
// not own is for the other, and first for Merge.
func behind(t *testing.T, upstream http.HandlerFunc, adapt ...func(*Config)) instance {
	t.Helper()
	store := openStore(t, database(t))
	config := Config{
		Store:          store,
		Tokens:         []Verifier{verifier(t, token.Config{Secret: secret})},
		TrustedClients: []string{"metrics-gate"},
	}
	for _, f := range adapt {
		f(&config)
	}
	server := New(config)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if server.Owns(r) {
			server.ServeHTTP(w, r)
			return
		}
		_ = server.Merge(w, r, func(w http.ResponseWriter, r *http.Request) error {
			upstream(w, r)
			return nil
		})
	}))
	t.Cleanup(front.Close)
	return instance{front, store}
}

// fetch is send, of an answer whose headers are not all ours.
func (i instance) fetch(t *testing.T, method, path, raw string, header ...string) response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, i.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if raw != "" {
		r.Header.Set("Authorization", "Bearer "+raw)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	answer, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{answer.StatusCode, string(body), answer.Header}
}

// says is an upstream that answers with a profile.
func says(profile string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("ETag", `"upstream's"`)
		w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("X-Upstream", "here")
		w.Header().Set("Content-Length", fmt.Sprint(len(profile)))
		_, _ = io.Copy(w, strings.NewReader(profile))
	}
}

func TestMergedMembers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, upstream, unset, optedOut string }{
		{"an empty one", `{}`, `{}`, `{"metrics_optout":true}`},
		{"spaces", " {\n\t} \n", `{}`, `{"metrics_optout":true}`},
		{"members", `{"uid":"x","email":"a@example.org"}`, `{"uid":"x","email":"a@example.org"}`, `{"uid":"x","email":"a@example.org","metrics_optout":true}`},
		{"byte for byte", `{ "b" : 1.50e1 ,"a": "\u00e9\/" , "c":{ "metrics_optout": 1 },"a":[ ]}`,
			`{"b" : 1.50e1,"a": "\u00e9\/","c":{ "metrics_optout": 1 },"a":[ ]}`,
			`{"b" : 1.50e1,"a": "\u00e9\/","c":{ "metrics_optout": 1 },"a":[ ],"metrics_optout":true}`},
		{"the member already", `{"metrics_optout":false,"uid":"x","metrics\u005foptout":null}`, `{"uid":"x"}`, `{"uid":"x","metrics_optout":true}`},
		{"only the member", `{"metrics_optout":false}`, `{}`, `{"metrics_optout":true}`},
		{"in other letters", `{"Metrics_optout":1}`, `{"Metrics_optout":1}`, `{"Metrics_optout":1,"metrics_optout":true}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := behind(t, says(test.upstream))
			raw := mint(t, "metrics-gate", identity, "profile", "")
			unset := server.fetch(t, "GET", profilePath, raw)
			unset.want(t, 200, test.unset)
			server.post(t, `{"metrics_optout":true}`).want(t, 200, `{}`)
			answer := server.fetch(t, "GET", profilePath, raw)
			answer.want(t, 200, test.optedOut)

			head := server.fetch(t, "HEAD", profilePath, raw)
			head.want(t, 200, "")
			for _, got := range []response{answer, head} {
				for name, want := range map[string]string{
					"Content-Length": fmt.Sprint(len(test.optedOut)), "Content-Type": "application/json; charset=utf-8", "X-Upstream": "here",
					"Last-Modified": "", "ETag": answer.Header.Get("ETag"), "Cache-Control": noStore,
				} {
					if got.Header.Get(name) != want {
						t.Errorf("%s %q, want %q", name, got.Header.Get(name), want)
					}
				}
			}
			tag := answer.Header.Get("ETag")
			if !strings.HasPrefix(tag, `"`) || tag == unset.Header.Get("ETag") || tag == `"upstream's"` {
				t.Errorf("tag %s, and while unset %s", tag, unset.Header.Get("ETag"))
			}
			same := server.fetch(t, "GET", profilePath, raw, "If-None-Match: "+tag)
			same.want(t, 304, "")
			if same.Header.Get("ETag") != tag || same.Header.Get("Content-Type") != "" || same.Header.Get("Content-Length") != "" {
				t.Errorf("304 with %v", same.Header)
			}
			server.fetch(t, "GET", profilePath, raw, "If-Match: "+unset.Header.Get("ETag")).want(t, 412, body412)
			server.fetch(t, "GET", profilePath, raw, "If-Match: "+tag, `If-None-Match: "upstream's"`).want(t, 200, test.optedOut)
		})
	}
}

// TestTheUpstreamIsAskedForAll: for the profile itself, and not whether it has
// changed.
func TestTheUpstreamIsAskedForAll(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 1)
	server := behind(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		says(`{}`)(w, r)
	})
	for _, method := range []string{"GET", "HEAD"} {
		raw := mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")
		server.fetch(t, method, profilePath+"?x=1", raw, "Accept-Encoding: gzip, br", `If-None-Match: "upstream's"`, "Range: bytes=0-1",
			"If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT", "X-Other: x").want(t, 200, map[string]string{"GET": `{}`}[method])
		r := <-asked
		want := http.Header{"Accept-Encoding": {"identity"}, "Authorization": {"Bearer " + raw}, "X-Other": {"x"}, "User-Agent": {"Go-http-client/1.1"}}
		r.Header.Del("Connection")
		if diff := cmp.Diff(want, r.Header); r.Method != "GET" || r.URL.RawQuery != "x=1" || diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", r.Method, r.URL, diff)
		}
	}
}

func TestAnswersThatPass(t *testing.T) {
	t.Parallel()
	large := `{"a":"` + strings.Repeat("x", maxProfile) + `"}`
	answers := func(status int, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"upstream's"`)
			w.Header().Set("Content-Type", "application/json")
			for _, line := range header {
				name, value, _ := strings.Cut(line, ": ")
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
			if status != 304 && status != 204 {
				for part := range slices.Chunk([]byte(body), 100_000) {
					_, _ = w.Write(part)
					_ = http.NewResponseController(w).Flush()
				}
			}
		}
	}
	for _, test := range []struct {
		name     string
		upstream http.HandlerFunc
		status   int
		body     string
		unusable bool // it may be read as a profile, and cannot get the member
	}{
		{"an error", answers(403, `{"code":403}`), 403, `{"code":403}`, false},
		{"another success", answers(203, `{}`), 203, `{}`, false},
		{"nothing", answers(204, ""), 204, "", false},
		{"a redirect", answers(302, "", "Location: /v2/profile"), 302, "", false},
		{"not changed, by itself", answers(304, ""), 304, "", false},
		{"broken", answers(503, payload), 503, payload, false},
		{"a page", answers(200, "<html>", "Content-Type: text/html"), 200, "<html>", false},
		{"no type", answers(200, `{}`, "Content-Type: "), 200, `{}`, false},
		{"not JSON", answers(200, payload), 200, payload, false},
		{"cut off", answers(200, `{"uid":"x"`), 200, `{"uid":"x"`, false},
		{"something behind", answers(200, `{}{}`), 200, `{}{}`, false},
		{"a list", answers(200, `[{}]`), 200, `[{}]`, false},
		{"null", answers(200, `null`), 200, `null`, false},
		{"an empty body", answers(200, ``), 200, ``, false},
		{"encoded", answers(200, "\x1f\x8b", "Content-Encoding: gzip"), 503, body503Store, true},
		{"too large", answers(200, large), 503, body503Store, true},
		{"too large, and says so", answers(200, large, fmt.Sprintf("Content-Length: %d", len(large))), 503, body503Store, true},
		{"too large, at once", says(large), 503, body503Store, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zap.DebugLevel)
			var requests notes
			server := behind(t, test.upstream, requests.requests, func(c *Config) { c.Log = zap.New(core) })
			server.post(t, `{"metrics_optout":true}`).want(t, 200, `{}`)
			requests.take()
			for range 2 {
				answer := server.fetch(t, "GET", profilePath, mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""))
				if answer.Status != test.status || answer.Body != test.body || (answer.Header.Get("ETag") == "") != test.unusable || answer.Header.Get("Content-Encoding") != "" {
					t.Errorf("got %d, %d bytes, %v; want %d, %d bytes", answer.Status, len(answer.Body), answer.Header, test.status, len(test.body))
				}
			}
			said := fmt.Sprintf("profile GET %d", test.status)
			if diff := cmp.Diff([]string{said, said}, requests.take()); diff != "" {
				t.Errorf("observer (-want +got):\n%s", diff)
			}
			if want := map[bool]int{true: 1}[test.unusable]; logs.Len() != want {
				t.Errorf("%d lines in the log, want %d: %v", logs.Len(), want, logs.All())
			}
		})
	}
}

// TestTheRestPasses: what is no reading of the profile by one who may, the
// server behind gets as it is.
func TestTheRestPasses(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 1)
	var requests notes
	server := behind(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		says(`{"uid":"x"}`)(w, r)
	}, requests.requests)
	good := mint(t, "metrics-gate", identity, "profile", "")
	for _, test := range []struct{ name, method, path, token string }{
		{"no token", "GET", profilePath, ""},
		{"another's token", "GET", profilePath, payload},
		{"client not trusted", "GET", profilePath, mint(t, "evil", identity, "profile", "")},
		{"another scope", "GET", profilePath, mint(t, "metrics-gate", identity, "profile:email", "")},
		{"no account", "GET", profilePath, mint(t, "metrics-gate", strings.Repeat("u", 256), "profile", "")},
		{"another method", "POST", profilePath, good},
		{"another path", "GET", "/v1/email", good},
		{"below", "GET", profilePath + "/x", good},
	} {
		answer := server.fetch(t, test.method, test.path, test.token, `If-None-Match: "x"`, "Accept-Encoding: gzip")
		answer.want(t, 200, `{"uid":"x"}`)
		r := <-asked
		if r.Header.Get("If-None-Match") != `"x"` || r.Header.Get("Accept-Encoding") != "gzip" || answer.Header.Get("ETag") != `"upstream's"` {
			t.Errorf("%s: asked with %v, answered with %v", test.name, r.Header, answer.Header)
		}
	}
	if got := requests.take(); len(got) > 0 {
		t.Errorf("observed %v", got)
	}
}

// TestNoProfileWhereThePreferenceIsNotKnown: a member that is missing means
// that no choice was made.
func TestNoProfileWhereThePreferenceIsNotKnown(t *testing.T) {
	t.Parallel()
	away := verifier(t, token.Config{
		JWKSURL: "https://id.example.org/jwks",
		KeySetClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("unreachable")
		})},
	})
	unread := signEvent(t, "ES256", jwt.MapClaims{
		"sub": identity, "client_id": "metrics-gate", "scope": "profile", "exp": time.Now().Add(time.Hour).Unix(),
	})
	for _, test := range []struct {
		body, token string
		adapt       func(*Config)
	}{
		{body503Store, mint(t, "metrics-gate", identity, "profile", ""), failing},
		{body503Keys, unread, func(c *Config) { c.Tokens = []Verifier{away} }},
	} {
		var requests notes
		server := behind(t, func(http.ResponseWriter, *http.Request) { t.Error("the server behind was asked") }, test.adapt, requests.requests)
		server.send(t, request{method: "GET", path: profilePath, token: test.token}).want(t, 503, test.body)
		if diff := cmp.Diff([]string{"profile GET 503"}, requests.take()); diff != "" {
			t.Errorf("observer (-want +got):\n%s", diff)
		}
	}
}

// requests notes the answers, without how long they took.
func (n *notes) requests(c *Config) {
	c.Observer.Request = func(endpoint, method string, status int, _ time.Duration) {
		n.add(fmt.Sprintf("%s %s %d", endpoint, method, status))
	}
}

// TestMergePassesErrorsOn: they are for whoever called, who answers.
func TestMergePassesErrorsOn(t *testing.T) {
	t.Parallel()
	server := New(Config{
		Store: openStore(t, database(t)), Tokens: []Verifier{verifier(t, token.Config{Secret: secret})}, TrustedClients: []string{"metrics-gate"},
	})
	want := errors.New("no upstream")
	for _, begin := range []bool{false, true} {
		r := httptest.NewRequest("GET", profilePath, nil)
		r.Header.Set("Authorization", "Bearer "+mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""))
		w := httptest.NewRecorder()
		err := server.Merge(w, r, func(w http.ResponseWriter, _ *http.Request) error {
			if begin {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"uid":`)
			}
			return want
		})
		if !errors.Is(err, want) || w.Body.Len() > 0 {
			t.Errorf("begun %t: %v, and %q was written", begin, err, w.Body)
		}
	}
}

// TestWriterOfTheUpstream: early hints and flushes pass, and what is below can
// be reached.
func TestWriterOfTheUpstream(t *testing.T) {
	t.Parallel()
	flushed := make(chan struct{})
	server := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "first")
		control := http.NewResponseController(w)
		if err := errors.Join(control.Flush(), control.SetReadDeadline(time.Now().Add(time.Minute))); err != nil {
			t.Error(err)
		}
		select {
		case <-flushed:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, " and second")
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+profilePath, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+mint(t, "metrics-gate", identity, optoutapi.ReadScope, ""))
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(answer.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("%q, %v before the end", first, err)
	}
	close(flushed)
	if rest, err := io.ReadAll(answer.Body); err != nil || string(rest) != " and second" {
		t.Errorf("%q, %v", rest, err)
	}
}

// FuzzMerge compares with what encoding/json makes of it.
func FuzzMerge(f *testing.F) {
	for _, profile := range []string{
		`{}`, `{"a":1}`, ` { "metrics_optout" : true , "a":{},"b":[1,2,{"c":null}] } `, `{"metrics\u005foptout":1,"a":"}"}`, `{"a":1,}`, `[]`, `null`, ``,
		`{"a":1,"a":2}`, "{\"\xff\":\"\xff\"}", `{"":","}`, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		f.Add([]byte(profile))
	}
	f.Fuzz(func(t *testing.T, profile []byte) {
		var want map[string]any
		isObject := json.Unmarshal(profile, &want) == nil && want != nil
		for _, preference := range []policy.Preference{policy.Unset, policy.Allowed, policy.OptedOut} {
			merged, ok := withMember(profile, preference)
			if ok != isObject {
				t.Fatalf("%q: %t, want %t", profile, ok, isObject)
			}
			if !ok {
				return
			}
			delete(want, optoutapi.Preference)
			if preference != policy.Unset {
				want[optoutapi.Preference] = preference == policy.OptedOut
			}
			var got map[string]any
			if err := json.Unmarshal(merged, &got); err != nil {
				t.Fatalf("%q becomes %q: %v", profile, merged, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%q becomes %q (-want +got):\n%s", profile, merged, diff)
			}
			if again, _ := withMember(merged, preference); !bytes.Equal(again, merged) {
				t.Fatalf("%q, once more: %q", merged, again)
			}
		}
	})
}
