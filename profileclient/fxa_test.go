package profileclient_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// shipped is a client of today's Firefox Accounts.
func shipped(t *testing.T, handler http.HandlerFunc) (*profileclient.Client, *counts) {
	t.Helper()
	return wire(t, handler, func(c *profileclient.Config) {
		c.URL = c.URL[:len(c.URL)-len("/users/{uid}/privacy")] + "/v1"
		c.API, c.Auth = profileclient.FxA, profileclient.Forward()
	})
}

// TestShippedAnswers: false is the only choice that the shipped API tells.
func TestShippedAnswers(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    policy.Preference
		outcome string
	}{
		"opted out":       {answer(200, json, `{"email":"a@example.org","metricsEnabled":false,"uid":"ann"}`), policy.OptedOut, "ok"},
		"nothing known":   {answer(200, json, `{"email":"a@example.org","metricsEnabled":true,"uid":"ann"}`), policy.Unset, "ok"},
		"alone":           {answer(200, json, `{"metricsEnabled":false}`), policy.OptedOut, "ok"},
		"absent":          {answer(200, json, `{"email":"a@example.org"}`), policy.Unknown, "malformed"},
		"null":            {answer(200, json, `{"metricsEnabled":null}`), policy.Unknown, "malformed"},
		"a string":        {answer(200, json, `{"metricsEnabled":"false"}`), policy.Unknown, "malformed"},
		"in another case": {answer(200, json, `{"metricsenabled":true}`), policy.Unknown, "malformed"},
		"the other field": {answer(200, json, `{"metrics_optout":false}`), policy.Unknown, "malformed"},
		"no content":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, policy.Unknown, "malformed"},
		"no scope":        {answer(403, json, `{"code":403,"errno":999}`), policy.Unknown, "unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, counts := shipped(t, test.handler)
			got := client.Lookup(context.Background(), profileclient.Account{UID: "ann", Token: "her own"}, time.Now())
			expect(t, "preference", got, test.want)
			expect(t, test.outcome, counts.lookup(test.outcome), 1)
		})
	}
}

// TestShippedIsOnlyRead: with the account's own token, and about nobody else.
func TestShippedIsOnlyRead(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	client, counts := shipped(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodGet || r.URL.String() != "/v1/profile" || r.Header.Get("Authorization") != "Bearer her own" {
			t.Errorf("asked: %s %s as %s", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		w.Header().Set("ETag", `"1"`)
		answer(200, "application/json", `{"metricsEnabled":true}`)(w, r)
	})
	ann := profileclient.Account{UID: "ann", Token: "her own"}
	held, err := client.Read(context.Background(), ann)
	expect(t, "read", held.Preference, policy.Unset)
	expect(t, "error", err, nil)
	expect(t, "named", client.LookupNamed(context.Background(), "bob", time.Now(), time.Second), policy.Unknown)

	client.WriteBack(ann, time.Now())
	err = client.Choose(context.Background(), ann, policy.OptedOut, `"1"`)
	expect(t, "choice not saved", errors.Is(err, profileclient.ErrNotSaved), true)
	client.Close()
	expect(t, "requests", asked.Load(), 1)
	expect(t, "write-backs", len(counts.writes), 0)
	expect(t, "follows", client.Following(), false)
}
