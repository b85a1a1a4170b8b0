package token_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metricsgate/metricsgate/token"
)

// Of a key set it is known how old it is, how each fetch ended, and since when
// none succeeds.
func TestStandingOfAKeySet(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fails   answer
		outcome token.FetchOutcome
		says    string
	}{
		"no connection":   {answer{}, token.FetchUnreachable, "connection refused"},
		"no answer":       {answer{status: 200, stalls: true}, token.FetchTimeout, ""},
		"another status":  {answer{status: 503}, token.FetchBadStatus, "status 503"},
		"a redirect":      {answer{status: 302}, token.FetchBadStatus, "redirects are not followed"},
		"no key set":      {answer{status: 200, body: "<html>"}, token.FetchMalformed, "key set"},
		"without a key":   {answer{status: 200, body: `{"keys":[]}`}, token.FetchMalformed, "none of its 0 keys"},
		"more than 1 MiB": {answer{status: 200, body: strings.Repeat(" ", 1<<20+1)}, token.FetchMalformed, "1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := publishing(key("a"))
				var fetches []token.FetchOutcome
				v := newVerifier(t, token.Config{
					JWKSURL: keySetURL, KeySetClient: &http.Client{Transport: p},
					OnKeySetFetch: func(outcome token.FetchOutcome) { fetches = append(fetches, outcome) },
				})
				began := time.Now()
				synctest.Wait()
				if s := v.Standing(); !s.KeySet || s.Source != "https://id.example.org/jwks" || !s.Fetched.Equal(began) || s.Outcome != token.Fetched || !s.Failure.Since.IsZero() || s.Failed != 0 {
					t.Errorf("at first: %+v", s)
				}
				p.says(test.fails)
				pass(15*time.Minute + 3*time.Second) // which is how long a fetch may take
				since := v.Standing().Failure.Since
				pass(2 * time.Minute)
				s := v.Standing()
				if !s.Fetched.Equal(began) || s.Outcome != test.outcome || !s.Failure.Since.Equal(since) || since.Sub(began) < 15*time.Minute ||
					s.Failure.Err == nil || !strings.Contains(s.Failure.Err.Error(), test.says) || s.Failed != time.Since(since) {
					t.Errorf("while it fails: %+v, since %v", s, since)
				}
				p.says(answer{status: 200, body: keySet(key("a"))})
				pass(time.Minute)
				s = v.Standing()
				if !s.Failure.Since.IsZero() || s.Outcome != token.Fetched || time.Since(s.Fetched) > time.Minute || s.Failed < 2*time.Minute {
					t.Errorf("afterwards: %+v", s)
				}
				if last := len(fetches) - 1; fetches[0] != token.Fetched || fetches[1] != test.outcome || fetches[last] != token.Fetched {
					t.Errorf("told of %v", fetches)
				}
			})
		})
	}
	if s := newVerifier(t, token.Config{JWKS: []byte(keySet(key("a")))}).Standing(); s != nil {
		t.Errorf("of a key set that does not change: %+v", s)
	}
}
