package session

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// asked is when the requests of these tests came. It is ahead of every clock, so
// that a source takes it for this moment, however slow the test is.
var asked = noon.AddDate(100, 0, 0)

// verifyServer answers as POST /v1/verify of Firefox Accounts does to the
// tokens good, expired, long and broken, and to all others.
func verifyServer(t testing.TB) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	answer := func(w http.ResponseWriter, status int, body string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		verified := func(user string) {
			answer(w, 200, fmt.Sprintf(`{"user":%q,"client_id":"98e6508e88680e1a","scope":["profile"]}`, user))
		}
		switch string(body) {
		case `{"token":"good"}`:
			verified(alice)
		case `{"token":"expired"}`:
			answer(w, 400, `{"code":400,"errno":115}`)
		case `{"token":"long"}`:
			verified(strings.Repeat("u", 256))
		case `{"token":"broken"}`:
			answer(w, 503, `{"code":503,"errno":999}`)
		default:
			answer(w, 400, `{"code":400,"errno":108}`)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1/verify", requests
}

func newIntrospected(t testing.TB, url string, config BearerConfig) *Bearer {
	t.Helper()
	verifier, err := token.NewIntrospector(token.IntrospectionConfig{URL: url, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	source := NewBearer(verifier, config)
	t.Cleanup(source.Close)
	return source
}

func TestWhatAnOpaqueTokenProves(t *testing.T) {
	t.Parallel()
	url, _ := verifyServer(t)
	for _, test := range []struct {
		name, raw string
		want      Outcome
	}{
		{"good", "good", Verified},
		{"none", "", Absent},
		{"forged", "forged", BadSignature},
		{"expired", "expired", Expired},
		{"with characters that no token has", "a:b", Malformed},
		{"of an account that is none", "long", Malformed},
		{"while nobody can be asked", "broken", KeysUnavailable},
		{"too long", strings.Repeat("x", token.MaxTokenBytes+1), TooLong},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := newIntrospected(t, url, BearerConfig{Cookie: "session"})
			found, outcome := twice(t, source, withCookie(test.raw), asked)
			want := Found{Session: sessionOf(test.want), Hiding: test.want == TooLong} // an expired one names nobody
			if test.want == Verified {
				want.Subject = Subject{UID: alice, Token: "good"}
			}
			if diff := cmp.Diff(want, found); diff != "" || outcome != test.want {
				t.Errorf("it is %v, want %v; found (-want +got):\n%s", outcome, test.want, diff)
			}
			if remembered := source.Len() == 1; remembered != (test.want == Verified) {
				t.Errorf("remembered is %v", remembered)
			}
		})
	}
}

// TestSlowTokensHideNone: three tokens that take the server its time leave none
// for a fourth, whose account could have opted out. That is what a sender can
// bring about, other than a server that does not answer.
func TestSlowTokensHideNone(t *testing.T) {
	t.Parallel()
	for crowded, want := range map[bool]Found{
		true:  {Session: policy.Unverifiable, Hiding: true},
		false: {Session: policy.Unverifiable},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := roundTripper(func(r *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(r.Body)
				wait := 100 * time.Millisecond
				if strings.Contains(string(body), "hangs") {
					wait = time.Hour
				}
				select {
				case <-time.After(wait):
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
				return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader(`{"code":400,"errno":108}`))}, nil
			})
			verifier, err := token.NewIntrospector(token.IntrospectionConfig{
				URL: "https://id.example.org/v1/verify", Timeout: 350 * time.Millisecond, Client: &http.Client{Transport: server},
			})
			if err != nil {
				t.Fatal(err)
			}
			source := NewBearer(verifier, BearerConfig{Cookie: "session"})
			defer source.Close()
			sent, outcomes := "1; session=2; session=3; session=4", []Outcome{BadSignature, BadSignature, BadSignature, TooMany}
			if !crowded {
				sent, outcomes = "hangs", []Outcome{KeysUnavailable}
			}
			came := time.Now()
			found, got := find(source, withCookie(sent), came)
			if diff := cmp.Diff(want, found); diff != "" || !slices.Equal(got, outcomes) {
				t.Errorf("it is %v, want %v; found (-want +got):\n%s", got, outcomes, diff)
			}
			if took := time.Since(came); took > 350*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOpaqueTokenInAHeader(t *testing.T) {
	t.Parallel()
	url, _ := verifyServer(t)
	source := newIntrospected(t, url, BearerConfig{UIDClaim: "client_id"})
	r := &http.Request{Header: http.Header{"Authorization": {"bearer good"}}}
	if found, outcome := twice(t, source, r, asked); outcome != Verified || found.Subject.UID != "98e6508e88680e1a" {
		t.Errorf("%v: %+v", outcome, found)
	}
}

// TestOpaqueTokensAreAskedAboutAgain: neither memory outlives max_age.
func TestOpaqueTokensAreAskedAboutAgain(t *testing.T) {
	t.Parallel()
	url, requests := verifyServer(t)
	source := newIntrospected(t, url, BearerConfig{Cookie: "session"})
	for _, test := range []struct {
		after time.Duration
		times int32
	}{{0, 1}, {59 * time.Second, 1}, {time.Minute, 2}, {119 * time.Second, 2}, {2 * time.Minute, 3}} {
		if _, outcomes := find(source, withCookie("good"), asked.Add(test.after)); outcomes[0] != Verified || requests.Load() != test.times {
			t.Errorf("after %v: %v, asked %d times, want %d", test.after, outcomes, requests.Load(), test.times)
		}
	}
}

func TestCachedOpaqueTokenAllocatesNothing(t *testing.T) {
	url, _ := verifyServer(t)
	sources := Sources{newIntrospected(t, url, BearerConfig{Cookie: "session"})}
	r, observe := withCookie("good"), func(int, string, Outcome) {}
	if found := sources.Find(r, asked, observe); found.Session != policy.Verified {
		t.Fatalf("%+v", found)
	}
	if n := testing.AllocsPerRun(100, func() { sources.Find(r, asked, observe) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkIntrospect(b *testing.B) {
	url, _ := verifyServer(b)
	sources := Sources{newIntrospected(b, url, BearerConfig{Cookie: "session"})}
	r, observe := withCookie("good"), func(int, string, Outcome) {}
	b.ReportAllocs()
	for b.Loop() {
		if found := sources.Find(r, asked, observe); found.Session != policy.Verified {
			b.Fatal(found)
		}
	}
}
