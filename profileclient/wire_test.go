package profileclient_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

// secretUID is in none of the texts that a client makes.
const secretUID = "c0ffee/zoe@example.org?#é"

// wire is a client of a real server on loopback.
func wire(t *testing.T, handler http.HandlerFunc, configure func(*profileclient.Config)) (*profileclient.Client, *counts) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	counts := &counts{}
	config := profileclient.Config{
		URL:      server.URL + "/users/{uid}/privacy",
		Auth:     profileclient.Bearer("hunter2"),
		Timeout:  10 * time.Second, // a loaded machine is no failure
		Observer: counts.observer(),
	}
	if configure != nil {
		configure(&config)
	}
	client, err := profileclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, counts
}

func answer(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestAnswers: what the profile server may send, and what it means.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	padded := func(size int) string {
		const body = `{"metrics_optout":true}`
		return body + strings.Repeat(" ", size-len(body))
	}
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}
	inverted := func(c *profileclient.Config) { c.Field, c.Inverted = "analytics_allowed", true }
	hasty := func(c *profileclient.Config) { c.Timeout = 50 * time.Millisecond }
	elsewhere := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				answer(200, json, `{"metrics_optout":false}`)(w, r)
				return
			}
			w.Header().Set("Location", "/elsewhere")
			answer(status, json, `{"metrics_optout":false}`)(w, r)
		}
	}

	for name, test := range map[string]struct {
		handler   http.HandlerFunc
		configure func(*profileclient.Config)
		want      policy.Preference
		outcome   string
	}{
		"true":                  {answer(200, json, `{"metrics_optout":true}`), nil, policy.OptedOut, "ok"},
		"false":                 {answer(200, json, `{"metrics_optout":false}`), nil, policy.Allowed, "ok"},
		"null":                  {answer(200, json, `{"metrics_optout":null}`), nil, policy.Unset, "ok"},
		"no content":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, nil, policy.Unset, "ok"},
		"among other fields":    {answer(200, json, ` { "a":{"metrics_optout":true},"metrics_optout" : false , "b":[]} `), nil, policy.Allowed, "ok"},
		"charset":               {answer(200, "Application/JSON; charset=utf-8", `{"metrics_optout":true}`), nil, policy.OptedOut, "ok"},
		"JSON of a kind":        {answer(200, "application/hal+json", `{"metrics_optout":true}`), nil, policy.OptedOut, "ok"},
		"the last duplicate":    {answer(200, json, `{"metrics_optout":false,"metrics_optout":true}`), nil, policy.OptedOut, "ok"},
		"escaped name":          {answer(200, json, `{"metrics_\u006fptout":true}`), nil, policy.OptedOut, "ok"},
		"inverted true":         {answer(200, json, `{"analytics_allowed":true}`), inverted, policy.Allowed, "ok"},
		"inverted false":        {answer(200, json, `{"analytics_allowed":false}`), inverted, policy.OptedOut, "ok"},
		"inverted null":         {answer(200, json, `{"analytics_allowed":null}`), inverted, policy.Unset, "ok"},
		"inverted no content":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, inverted, policy.Unset, "ok"},
		"64 KiB":                {answer(200, json, padded(64<<10)), nil, policy.OptedOut, "ok"},
		"64 KiB and a byte":     {answer(200, json, padded(64<<10+1)), nil, policy.Unknown, "too_large"},
		"10 MB":                 {answer(200, json, padded(10<<20)), nil, policy.Unknown, "too_large"},
		"string":                {answer(200, json, `{"metrics_optout":"yes"}`), nil, policy.Unknown, "malformed"},
		"string of true":        {answer(200, json, `{"metrics_optout":"true"}`), nil, policy.Unknown, "malformed"},
		"the word unknown":      {answer(200, json, `{"metrics_optout":unknown}`), nil, policy.Unknown, "malformed"},
		"number":                {answer(200, json, `{"metrics_optout":1}`), nil, policy.Unknown, "malformed"},
		"object":                {answer(200, json, `{"metrics_optout":{}}`), nil, policy.Unknown, "malformed"},
		"field missing":         {answer(200, json, `{}`), nil, policy.Unknown, "malformed"},
		"field in another case": {answer(200, json, `{"Metrics_Optout":false}`), nil, policy.Unknown, "malformed"},
		"field deeper":          {answer(200, json, `{"profile":{"metrics_optout":false}}`), nil, policy.Unknown, "malformed"},
		"array":                 {answer(200, json, `[{"metrics_optout":false}]`), nil, policy.Unknown, "malformed"},
		"bare null":             {answer(200, json, `null`), nil, policy.Unknown, "malformed"},
		"bare true":             {answer(200, json, `true`), nil, policy.Unknown, "malformed"},
		"empty":                 {answer(200, json, ``), nil, policy.Unknown, "malformed"},
		"cut off":               {answer(200, json, `{"metrics_optout":false`), nil, policy.Unknown, "malformed"},
		"trailing garbage":      {answer(200, json, `{"metrics_optout":false}}`), nil, policy.Unknown, "malformed"},
		"HTML":                  {answer(200, "text/html; charset=utf-8", `<title>Sign in</title>`), nil, policy.Unknown, "bad_type"},
		"JSON as text":          {answer(200, "text/plain", `{"metrics_optout":false}`), nil, policy.Unknown, "bad_type"},
		"type is garbage":       {answer(200, ";;", `{"metrics_optout":false}`), nil, policy.Unknown, "bad_type"},
		"401":                   {answer(401, json, `{"metrics_optout":false}`), nil, policy.Unknown, "unauthorized"},
		"403":                   {answer(403, json, `{"metrics_optout":false}`), nil, policy.Unknown, "unauthorized"},
		"201":                   {answer(201, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"206":                   {answer(206, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"304":                   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, nil, policy.Unknown, "bad_status"},
		"400":                   {answer(400, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"404":                   {answer(404, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"429":                   {answer(429, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"500":                   {answer(500, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"503":                   {answer(503, json, `{"metrics_optout":false}`), nil, policy.Unknown, "bad_status"},
		"301":                   {elsewhere(301), nil, policy.Unknown, "redirect"},
		"302":                   {elsewhere(302), nil, policy.Unknown, "redirect"},
		"303":                   {elsewhere(303), nil, policy.Unknown, "redirect"},
		"307":                   {elsewhere(307), nil, policy.Unknown, "redirect"},
		"308":                   {elsewhere(308), nil, policy.Unknown, "redirect"},
		"closes at once":        {raw(""), nil, policy.Unknown, "unreachable"},
		"closes in the header":  {raw("HTTP/1.1 200 OK\r\nContent-Ty"), nil, policy.Unknown, "unreachable"},
		"closes half-way": {raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n" +
			`{"metrics_optout":f`), nil, policy.Unknown, "unreachable"},
		"closes a chunk half-way": {raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"18\r\n" + `{"metrics_optout":false}`), nil, policy.Unknown, "unreachable"},
		"speaks something else": {raw("220 " + secretUID + " ESMTP\r\n"), nil, policy.Unknown, "unreachable"},
		"header without end": {raw("HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 1<<20)),
			nil, policy.Unknown, "unreachable"},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, hasty, policy.Unknown, "timeout"},
		"stalls half-way": {func(w http.ResponseWriter, r *http.Request) {
			answer(200, json, `{"metrics_optout":`)(w, r)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, hasty, policy.Unknown, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, counts := wire(t, test.handler, test.configure)
			ask := func() policy.Preference {
				return client.Lookup(context.Background(), profileclient.Account{UID: secretUID}, time.Now())
			}
			expect(t, "preference", ask(), test.want)
			expect(t, "preference of the next lookup", ask(), test.want)
			lookups := 2 // failures are not remembered
			if test.outcome == "ok" {
				lookups = 1
			}
			if diff := cmp.Diff(map[string]int{test.outcome: lookups}, counts.lookups); diff != "" {
				t.Errorf("lookups (-want +got):\n%s", diff)
			}
			checkReports(t, counts, test.outcome != "ok")
		})
	}
}

// checkReports holds that failure is reported once, and that the report is of
// use and says nothing of a person.
func checkReports(t *testing.T, counts *counts, failed bool) {
	t.Helper()
	reports := counts.reports()
	if !failed {
		expect(t, "reports", len(reports), 0)
		return
	}
	if len(reports) != 1 || reports[0] == nil {
		t.Fatalf("reports: %v", reports)
	}
	text := reports[0].Error()
	for _, secret := range []string{
		secretUID, url.PathEscape(secretUID), url.QueryEscape(secretUID), "c0ffee", "zoe", "hunter2", "elsewhere", "/users/",
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the report repeats %q: %s", secret, text)
		}
	}
	if !strings.HasPrefix(text, "profile server: ") {
		t.Errorf("the report does not say what fails: %s", text)
	}
}

// TestUnreachable: nobody listens, and the transport says so in ways that
// repeat the URL.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		url       string
		transport http.RoundTripper
		outcome   string
		says      string
	}{
		// A port that was just closed may be another test's by now, and one below 1024
		// is nobody's.
		"refused": {"http://127.0.0.1:1/users/{uid}/privacy", nil, "unreachable", "connection refused"},
		"an error with the URL": {"https://profile.test/users/{uid}/privacy", roundTrip(func(r *http.Request) error {
			return &url.Error{Op: "Get", URL: r.URL.String(), Err: io.ErrUnexpectedEOF}
		}), "unreachable", "the connection broke"},
		"an error with the URL in front": {"https://profile.test/users/{uid}/privacy", roundTrip(func(r *http.Request) error {
			return &url.Error{Op: "Get", URL: r.URL.String(), Err: &net.OpError{Op: "dial", Err: io.ErrClosedPipe}}
		}), "unreachable", "io: read/write on closed pipe"},
		"a timeout of its own": {"https://profile.test/users/{uid}/privacy", roundTrip(func(r *http.Request) error {
			return &url.Error{Op: "Get", URL: r.URL.String(), Err: context.DeadlineExceeded}
		}), "timeout", "within 10s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, counts := wire(t, nil, func(c *profileclient.Config) { c.URL, c.Transport = test.url, test.transport })
			account := profileclient.Account{UID: secretUID}
			expect(t, "preference", client.Lookup(context.Background(), account, time.Now()), policy.Unknown)
			expect(t, test.outcome, counts.lookup(test.outcome), 1)
			checkReports(t, counts, true)
			if text := counts.reports()[0].Error(); !strings.Contains(text, test.says) {
				t.Errorf("the report does not say %q: %s", test.says, text)
			}
		})
	}
}

type roundTrip func(*http.Request) error

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return nil, f(r) }

// TestUntrusted: a server whose certificate nobody vouches for is not asked.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(answer(200, "application/json", `{"metrics_optout":false}`))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	client, counts := wire(t, nil, func(c *profileclient.Config) { c.URL = server.URL + "/users/{uid}" })
	account := profileclient.Account{UID: secretUID}
	expect(t, "preference", client.Lookup(context.Background(), account, time.Now()), policy.Unknown)
	expect(t, "unreachable", counts.lookup("unreachable"), 1)
	checkReports(t, counts, true)
	if text := counts.reports()[0].Error(); !strings.Contains(text, "it cannot be trusted") {
		t.Errorf("the report does not say that it is the certificate: %s", text)
	}
}

// TestAddresses: where an account is asked for, whatever its id is made of.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, uid, want string }{
		{"", "ann", "/metrics_optout"},
		{"/", "ann", "/metrics_optout"},
		{"/v1", "ann", "/v1/metrics_optout"},
		{"/v1/", "ann", "/v1/metrics_optout"},
		{"/v1?a=b", "ann", "/v1/metrics_optout?a=b"},
		{"/users/{uid}/privacy", "ann", "/users/ann/privacy"},
		{"/users/{uid}/privacy", secretUID, "/users/c0ffee%2Fzoe@example.org%3F%23%C3%A9/privacy"},
		{"/users/{uid}/privacy", "a b+c%2F", "/users/a%20b+c%252F/privacy"},
		{"/users/{uid}/privacy", "...", "/users/.../privacy"},
		{"/privacy?user={uid}", "a&b=c d/../e", ""},
		{"/privacy?user={uid}", "a&b=c d+", "/privacy?user=a%26b%3Dc+d%2B"},
		{"/{uid}/privacy?user={uid}", "a&b", "/a&b/privacy?user=a%26b"},
		{"/users/{uid}/privacy", "", ""},
		{"/users/{uid}/privacy", ".", ""},
		{"/users/{uid}/privacy", "..", ""},
		{"/users/{uid}/privacy", "../admin", ""},
		{"/users/{uid}/privacy", "x/../../admin", ""},
		{"/users/{uid}/privacy", `x\..\admin`, ""},
	} {
		t.Run(test.url+" "+test.uid, func(t *testing.T) {
			t.Parallel()
			var got string
			client, counts := wire(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.RequestURI
				w.WriteHeader(http.StatusNoContent)
			}, func(c *profileclient.Config) {
				c.URL = strings.TrimSuffix(c.URL, "/users/{uid}/privacy") + test.url
				c.Auth = profileclient.Mint(minter(t, longSecret))
			})
			preference := client.LookupNamed(context.Background(), test.uid, time.Now(), time.Second)
			expect(t, "URL", got, test.want)
			if test.want == "" {
				expect(t, "preference", preference, policy.Unknown)
				expect(t, "no_credential", counts.lookup("no_credential"), 1)
			} else {
				expect(t, "preference", preference, policy.Unset)
			}
		})
	}
}

// TestRequests: what is sent for a lookup and for a write-back, with each
// kind of credential.
func TestRequests(t *testing.T) {
	t.Parallel()
	type sent struct{ Method, Subject, Scope, Source, Bearer, IfMatch, Type, Body string }
	account := profileclient.Account{UID: "ann", Token: "her-own"}
	for name, test := range map[string]struct {
		auth profileclient.Auth
		want []sent
	}{
		"mint": {profileclient.Mint(minter(t, longSecret)), []sent{
			{Method: "GET", Subject: "ann", Scope: "profile:metrics_optout"},
			{Method: "POST", Subject: "ann", Scope: "profile:metrics_optout:write", Source: "browser",
				IfMatch: `"v1"`, Type: "application/json", Body: `{"metrics_optout":true}`},
		}},
		"forward": {profileclient.Forward(), []sent{
			{Method: "GET", Bearer: "her-own"},
			{Method: "POST", Bearer: "her-own", IfMatch: `"v1"`, Type: "application/json", Body: `{"metrics_optout":true}`},
		}},
		"bearer": {profileclient.Bearer("hunter2"), []sent{
			{Method: "GET", Bearer: "hunter2"},
			{Method: "POST", Bearer: "hunter2", IfMatch: `"v1"`, Type: "application/json", Body: `{"metrics_optout":true}`},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verifier, err := token.NewVerifier(token.Config{Secret: []byte(longSecret)})
			if err != nil {
				t.Fatal(err)
			}
			defer verifier.Close()
			var mu sync.Mutex
			var got []sent
			client, counts := wire(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				request := sent{
					Method: r.Method, Bearer: bearer, IfMatch: r.Header.Get("If-Match"),
					Type: r.Header.Get("Content-Type"), Body: string(body),
				}
				if claims, err := verifier.Verify(bearer, time.Now()); err == nil {
					request.Bearer = ""
					request.Subject, _ = claims.String("sub")
					request.Scope, _ = claims.String("scope")
					request.Source, _ = claims.String("source")
				}
				mu.Lock()
				got = append(got, request)
				mu.Unlock()
				w.Header().Set("ETag", `"v1"`)
				answer(200, "application/json", `{"metrics_optout":null}`)(w, r)
			}, func(c *profileclient.Config) { c.Auth = test.auth })

			expect(t, "before", client.Lookup(context.Background(), account, time.Now()), policy.Unset)
			client.WriteBack(account, time.Now())
			client.Close() // waits for the write
			expect(t, "written", counts.write("written"), 1)
			expect(t, "after", client.Lookup(context.Background(), account, time.Now()), policy.OptedOut)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// TestETags: a condition needs a strong version of modest length, and one for
// a preference that is null.
func TestETags(t *testing.T) {
	t.Parallel()
	for etag, outcome := range map[string]string{
		`"v1"`: "written", `""`: "written", `W/"v1"`: "no_etag", `v1`: "no_etag", ``: "no_etag",
		`"` + strings.Repeat("v", 200) + `"`: "no_etag",
	} {
		t.Run(etag, func(t *testing.T) {
			t.Parallel()
			client, counts := wire(t, func(w http.ResponseWriter, r *http.Request) {
				if etag != "" {
					w.Header().Set("ETag", etag)
				}
				if r.Method == http.MethodGet || r.Header.Get("If-Match") != etag {
					w.WriteHeader(http.StatusNoContent) // the other way to say null
					return
				}
				answer(200, "application/json", `{}`)(w, r)
			}, nil)
			account := profileclient.Account{UID: "ann"}
			client.Lookup(context.Background(), account, time.Now())
			client.WriteBack(account, time.Now())
			client.Close()
			expect(t, outcome, counts.write(outcome), 1)
		})
	}
}

// TestConnectionsAreReused: failures, too, leave the connection to the next
// lookup.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	connections := map[string]int{}
	requests := 0
	client, _ := wire(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		connections[r.RemoteAddr]++
		requests++
		answer([]int{200, 401, 500, 404}[requests%4], "application/json", `{"metrics_optout":true}`)(w, r)
	}, nil)
	for i := range 40 {
		client.Lookup(context.Background(), profileclient.Account{UID: fmt.Sprint(i)}, time.Now())
	}
	expect(t, "requests", requests, 40)
	expect(t, "connections", len(connections), 1)
}
