package profileclient

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// canned answers every request alike and counts them.
type canned struct {
	body     string
	status   int // 0: 200
	requests atomic.Int64
}

func (c *canned) RoundTrip(*http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return &http.Response{
		StatusCode: cmp.Or(c.status, http.StatusOK),
		Header:     http.Header{"Content-Type": {"application/json"}, "Etag": {`"v1"`}},
		Body:       io.NopCloser(strings.NewReader(c.body)),
	}, nil
}

func cannedClient(t *testing.T, preference string) (*Client, *canned) {
	t.Helper()
	server := &canned{body: `{"metrics_optout":` + preference + `}`}
	client, err := New(Config{URL: "https://profile.test/{uid}", Auth: Bearer("secret"), Transport: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, server
}

// TestCallerWhoComesLate: a caller that missed the cache, and whose lookup
// begins when another has just ended, has the other's answer.
func TestCallerWhoComesLate(t *testing.T) {
	t.Parallel()
	client, server := cannedClient(t, "true")
	ann := Account{UID: "ann"}
	client.Lookup(context.Background(), ann, time.Now())
	for range 10 {
		if got := client.ask(context.Background(), ann, false, 0); got != policy.OptedOut {
			t.Fatalf("got %v", got)
		}
	}
	if got := server.requests.Load(); got != 1 {
		t.Errorf("%d requests", got)
	}
	client.ask(context.Background(), ann, false, client.proven.get("ann").fetched)
	if got := server.requests.Load(); got != 2 {
		t.Errorf("%d requests after one for something newer", got)
	}
}

// TestWrongURL: a URL that leads nowhere is told of with what was added to it.
func TestWrongURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://profile.test":       "check the URL, to which /metrics_optout is added (profile_server has that below /v1)",
		"https://profile.test/{uid}": "status 404, not 200 or 204; check the URL",
	} {
		var told error
		client, err := New(Config{
			URL: url, Auth: Forward(), Transport: &canned{status: http.StatusNotFound},
			Observer: Observer{Health: func(err error) { told = err }},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		client.Lookup(t.Context(), Account{UID: "ann", Token: "token"}, time.Now())
		if told == nil || !strings.HasSuffix(told.Error(), want) {
			t.Errorf("%s: %v, want %s", url, told, want)
		}
	}
}

// TestNotFound: whom the server does not know chose nothing where they are only
// named, if it is configured so, and could not be learnt where they are proven.
func TestNotFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status   int
		isUnset  bool
		named    policy.Preference
		requests int64 // of two names and two proven accounts, in turn
	}{
		{http.StatusNotFound, true, policy.Unset, 3},
		{http.StatusNotFound, false, policy.Unknown, 4},
		{http.StatusGone, true, policy.Unknown, 4},
		{http.StatusOK, true, policy.Unset, 1},
	} {
		server := &canned{body: `{"metrics_optout":null}`, status: c.status}
		client, err := New(Config{URL: "https://profile.test/{uid}", Auth: Bearer("secret"), Transport: server, NotFoundIsUnset: c.isUnset})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		proven := policy.Unknown
		if c.status == http.StatusOK {
			proven = policy.Unset
		}
		for range 2 {
			if got := client.LookupNamed(t.Context(), "ann", time.Now(), client.Timeout()); got != c.named {
				t.Errorf("%+v: named, %v", c, got)
			}
			if got := client.Lookup(t.Context(), Account{UID: "ann"}, time.Now()); got != proven {
				t.Errorf("%+v: proven, %v", c, got)
			}
		}
		if got := server.requests.Load(); got != c.requests {
			t.Errorf("%+v: %d requests", c, got)
		}
		// Who asked first makes no difference.
		client.Lookup(t.Context(), Account{UID: "bob"}, time.Now())
		if got := client.LookupNamed(t.Context(), "bob", time.Now(), client.Timeout()); got != c.named {
			t.Errorf("%+v: named behind a proven one, %v", c, got)
		}
	}
}

// TestETagIsKeptForNullOnly: nothing else is ever written back.
func TestETagIsKeptForNullOnly(t *testing.T) {
	t.Parallel()
	for preference, kept := range map[string]bool{"null": true, "false": false, "true": false} {
		client, _ := cannedClient(t, preference)
		client.Lookup(context.Background(), Account{UID: "ann"}, time.Now())
		if got := client.proven.get("ann").etag != 0; got != kept {
			t.Errorf("%s: ETag kept: %v", preference, got)
		}
	}
}

// TestBackgroundLookupAfterClose: one that Close has overtaken sends nothing.
func TestBackgroundLookupAfterClose(t *testing.T) {
	t.Parallel()
	client, server := cannedClient(t, "true")
	client.Close()
	if got := client.run(Account{UID: "ann"}, client.proven, true, 0); got != policy.Unknown {
		t.Errorf("got %v", got)
	}
	if got := server.requests.Load(); got != 0 {
		t.Errorf("%d requests", got)
	}
}
