package profileclient

import (
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
	requests atomic.Int64
}

func (c *canned) RoundTrip(*http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return &http.Response{
		StatusCode: http.StatusOK,
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
