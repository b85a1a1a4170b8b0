package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/token"
)

const keySetURL = "https://id.example.org/jwks?key=private-query"

// publisher answers for the issuer's key set without a network.
type publisher struct {
	answer  atomic.Pointer[answer]
	fetches atomic.Int32
}

type answer struct {
	status int // 0: none, the connection fails
	body   string
	after  time.Duration
	stalls bool          // never comes to the end of its body
	clings time.Duration // how long it takes to notice that nobody waits any more
}

func publishing(keys ...fields) *publisher {
	p := &publisher{}
	p.says(answer{status: http.StatusOK, body: keySet(keys...)})
	return p
}

func (p *publisher) says(a answer) { p.answer.Store(&a) }

func (p *publisher) RoundTrip(r *http.Request) (*http.Response, error) {
	p.fetches.Add(1)
	a := p.answer.Load()
	select {
	case <-time.After(a.after):
	case <-r.Context().Done():
		<-time.After(a.clings)
		return nil, r.Context().Err()
	}
	if a.status == 0 {
		return nil, errors.New("connection refused")
	}
	response := &http.Response{StatusCode: a.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}
	if a.stalls {
		response.Body = io.NopCloser(stalled{r.Context()})
	}
	if a.status/100 == 3 {
		response.Header.Set("Location", "https://elsewhere.example.org/jwks")
	}
	return response, nil
}

// reports collects what OnKeySetError is told.
type reports struct {
	mu    sync.Mutex
	texts []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, err.Error())
}

func (r *reports) first(t *testing.T) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.texts) == 0 {
		t.Fatal("the failure was not told")
	}
	return r.texts[0]
}

type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// fetching returns a verifier by the publisher's key set. Its failed
// fetches are told to failed, which may be nil.
func fetching(t *testing.T, p *publisher, failed func(error)) *token.Verifier {
	t.Helper()
	return newVerifier(t, token.Config{
		JWKSURL: keySetURL, KeySetClient: &http.Client{Transport: p}, OnKeySetError: failed,
	})
}

func named(kid string) string {
	return sign("RS256", rsaKey, fields{"kid": kid}, validClaims(time.Now(), nil))
}

// pass lets time go by, and whatever it causes come to rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func key(kid string) fields { return publish(rsaKey.Public(), kid, nil) }

// verify holds the result of a token and the time that it took.
func verify(t *testing.T, v *token.Verifier, raw string, want error, wait time.Duration) {
	t.Helper()
	began := time.Now()
	_, err := v.Verify(raw, began)
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		t.Errorf("got %v, want %v", err, want)
	}
	if took := time.Since(began); took != wait {
		t.Errorf("took %v, want %v", took, wait)
	}
}

// TestKeysOfASet holds which key of a set may verify which token.
func TestKeysOfASet(t *testing.T) {
	t.Parallel()
	many := []fields{}
	for i := range 9 {
		many = append(many, publish(edKey.Public(), fmt.Sprint("ed", i), nil))
	}
	v := newVerifier(t, token.Config{JWKS: []byte(keySet(append(append(unusableKeys(), many...),
		publish(nextRSAKey.Public(), "next", fields{"alg": "PS256"}),
		publish(rsaKey.Public(), "a", nil),
		publish(p256Key.Public(), "p256", fields{"alg": "ES256", "x5u": "https://127.0.0.1:1/"}),
		publish(p256Key.Public(), "p256-any", nil),
		publish(p384Key.Public(), "p384", fields{"use": nil, "key_ops": []string{"verify"}}),
	)...))})
	claims := validClaims(now, nil)
	tests := map[string]struct {
		raw  string
		want error
	}{
		"named":                             {sign("RS256", rsaKey, fields{"kid": "a"}, claims), nil},
		"another algorithm of the kind":     {sign("PS512", rsaKey, fields{"kid": "a"}, claims), nil},
		"unnamed":                           {sign("RS256", rsaKey, nil, claims), nil},
		"unnamed, key_ops":                  {sign("ES384", p384Key, nil, claims), nil},
		"named, of many":                    {sign("EdDSA", edKey, fields{"kid": "ed8"}, claims), nil},
		"unnamed, of many":                  {sign("EdDSA", edKey, nil, claims), token.ErrUnknownKey},
		"unnamed, of none":                  {sign("ES512", p521Key, nil, claims), token.ErrUnknownKey},
		"unnamed, alg of the key differs":   {sign("RS256", nextRSAKey, nil, claims), token.ErrBadSignature},
		"named, alg of the key differs":     {sign("RS256", nextRSAKey, fields{"kid": "next"}, claims), token.ErrBadSignature},
		"named, alg of the key":             {sign("PS256", nextRSAKey, fields{"kid": "next"}, claims), nil},
		"names another key":                 {sign("RS256", rsaKey, fields{"kid": "next"}, claims), token.ErrBadSignature},
		"names a key of another kind":       {sign("RS256", rsaKey, fields{"kid": "p384"}, claims), token.ErrBadSignature},
		"names a key of another curve":      {sign("ES256", p256Key, fields{"kid": "p384"}, claims), token.ErrBadSignature},
		"P-256 with the algorithm of P-521": {p256AsES512(fields{"kid": "p256-any"}), token.ErrBadSignature},
		"unknown kid":                       {sign("RS256", rsaKey, fields{"kid": "b"}, claims), token.ErrUnknownKey},
		"kid is a number":                   {sign("RS256", rsaKey, fields{"kid": 1}, claims), token.ErrMalformed},
		"HS256, names the oct key":          {sign("HS256", secret, fields{"kid": "oct"}, claims), token.ErrBadSignature},
		"names the key for encryption":      {sign("RS256", rsaKey, fields{"kid": "enc"}, claims), token.ErrUnknownKey},
		"names the key for wrapping":        {sign("RS256", rsaKey, fields{"kid": "wrap"}, claims), token.ErrUnknownKey},
		"names the published private key":   {sign("ES256", p256Key, fields{"kid": "lost"}, claims), token.ErrUnknownKey},
		"names the weak key":                {sign("RS256", weakRSAKey, fields{"kid": "weak"}, claims), token.ErrUnknownKey},
		"HS256 with the RSA key's modulus":  {sign("HS256", rsaKey.N.Bytes(), fields{"kid": "a"}, claims), token.ErrBadSignature},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := v.Verify(test.raw, now); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// p256AsES512 signs with a key of the wrong curve in a way that jwt/v5 would
// take: it looks at the length of a signature and not at the key's curve.
func p256AsES512(header fields) string {
	header = merged(fields{"alg": "ES512"}, header)
	text := encode(must(json.Marshal(header))) + "." + encode(must(json.Marshal(validClaims(now, nil))))
	hash := sha512.Sum512([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, p256Key, hash[:])
	if err != nil {
		panic(err)
	}
	signature := make([]byte, 132)
	r.FillBytes(signature[:66])
	s.FillBytes(signature[66:])
	return text + "." + encode(signature)
}

func TestFirstFetch(t *testing.T) {
	t.Parallel()
	t.Run("a request waits for it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := publishing(key("a"))
			p.says(answer{status: 200, body: keySet(key("a")), after: 40 * time.Millisecond})
			v := fetching(t, p, nil)
			verify(t, v, named("a"), nil, 40*time.Millisecond)
			verify(t, v, named("a"), nil, 0)
		})
	})
	t.Run("not for long", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := publishing()
			p.says(answer{status: 200, body: keySet(key("a")), after: 2 * time.Second})
			v := fetching(t, p, nil)
			verify(t, v, named("a"), token.ErrUnavailable, 50*time.Millisecond)
			verify(t, v, sign("RS256", rsaKey, nil, validClaims(time.Now(), nil)), token.ErrUnavailable, 50*time.Millisecond)
			pass(2 * time.Second)
			verify(t, v, named("a"), nil, 0)
			if n := p.fetches.Load(); n != 1 {
				t.Errorf("%d fetches, want 1", n)
			}
		})
	})
	t.Run("without a kid", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := publishing()
			p.says(answer{status: 200, body: keySet(key("a")), after: time.Millisecond})
			v := fetching(t, p, nil)
			verify(t, v, sign("RS256", rsaKey, nil, validClaims(time.Now(), nil)), nil, time.Millisecond)
		})
	})
}

var failures = map[string]struct {
	answer
	says string
}{
	"down":         {answer{}, "connection refused"},
	"slow":         {answer{status: 200, after: time.Hour}, "deadline exceeded"},
	"slow body":    {answer{status: 200, stalls: true}, "deadline exceeded"},
	"500":          {answer{status: 500, body: keySet(key("a"))}, "status 500 instead of 200"},
	"204":          {answer{status: 204}, "status 204 instead of 200"},
	"redirect":     {answer{status: 302}, "redirects are not followed"},
	"HTML":         {answer{status: 200, body: "<html>sorry</html>"}, "not the JSON of a key set"},
	"broken JSON":  {answer{status: 200, body: keySet(key("a"))[:80]}, "not the JSON of a key set"},
	"empty":        {answer{status: 200}, "not the JSON of a key set"},
	"huge":         {answer{status: 200, body: `{"keys":[],"x":"` + strings.Repeat("x", 1<<20) + `"}`}, "at most 1 MiB"},
	"no keys":      {answer{status: 200, body: `{"keys":[]}`}, "none of its 0 keys can verify a token"},
	"no good keys": {answer{status: 200, body: keySet(unusableKeys()...)}, "none of its 10 keys can verify a token"},
}

// TestFailingKeySet holds that nothing can be verified while the key set has
// never come, that it is noticed soon when it comes, and what is said.
func TestFailingKeySet(t *testing.T) {
	t.Parallel()
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := publishing()
				p.says(failure.answer)
				var told reports
				v := fetching(t, p, told.add)
				pass(time.Minute)
				if _, err := v.Verify(named("a"), time.Now()); !errors.Is(err, token.ErrUnavailable) {
					t.Errorf("got %v, want %v", err, token.ErrUnavailable)
				}
				said := told.first(t)
				if !strings.Contains(said, failure.says) || !strings.Contains(said, "fetching the key set from https://id.example.org/jwks:") {
					t.Errorf("said %q, want %q in it", said, failure.says)
				}
				if leaks(said, "private-query", failure.body) {
					t.Errorf("said too much: %q", said)
				}
				p.says(answer{status: 200, body: keySet(key("a"))})
				pass(34 * time.Second)
				verify(t, v, named("a"), nil, 0)
			})
		})
	}
}

// TestFailingRefresh holds that the known keys stay while the key set fails.
func TestFailingRefresh(t *testing.T) {
	t.Parallel()
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := publishing(key("a"))
				var told reports
				v := fetching(t, p, told.add)
				verify(t, v, named("a"), nil, 0)
				p.says(failure.answer)
				pass(16 * time.Minute)
				verify(t, v, named("a"), nil, 0)
				told.first(t)
			})
		})
	}
}

// TestRetriesGrowRarer holds when a key set that is down is asked again.
func TestRetriesGrowRarer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing()
		p.says(answer{})
		began := time.Now()
		at := make(chan string, 100)
		v := fetching(t, p, func(error) { at <- time.Since(began).String() })
		pass(100 * time.Second)
		p.says(answer{status: 200, body: keySet(key("a"))})
		pass(time.Minute)
		p.says(answer{})
		pass(15 * time.Minute)
		v.Close()
		close(at)
		var got []string
		for after := range at {
			got = append(got, after)
		}
		if diff := cmp.Diff("0s 1s 3s 7s 15s 31s 1m1s 1m31s 17m1s 17m2s 17m4s 17m8s 17m16s 17m32s", strings.Join(got, " ")); diff != "" {
			t.Errorf("asked again after (-want +got):\n%s", diff)
		}
	})
}

func TestUnknownKeyIsFetchedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing(key("a"))
		v := fetching(t, p, nil)
		verify(t, v, named("a"), nil, 0)

		p.says(answer{status: 200, body: keySet(key("a"), key("b")), after: 10 * time.Millisecond})
		var waiting sync.WaitGroup
		for range 50 {
			waiting.Go(func() { verify(t, v, named("b"), nil, 10*time.Millisecond) })
		}
		waiting.Wait()
		if n := p.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}

		// Forged names neither fetch nor wait, until a while has passed.
		for range 100 {
			verify(t, v, named("forged"), token.ErrUnknownKey, 0)
		}
		pass(30 * time.Second)
		verify(t, v, named("forged"), token.ErrUnknownKey, 10*time.Millisecond)
		verify(t, v, named("forged"), token.ErrUnknownKey, 0)
		if n := p.fetches.Load(); n != 3 {
			t.Errorf("%d fetches, want 3", n)
		}
		verify(t, v, named("a"), nil, 0)
	})
}

// TestRefreshAnswersTheQuestion asks for an unknown key at the instant of the
// refresh, where one fetch has to do for both.
func TestRefreshAnswersTheQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const refreshes, took = 20, 10 * time.Millisecond
		p := publishing()
		p.says(answer{status: 200, body: keySet(key("a")), after: took})
		v := fetching(t, p, nil)
		verify(t, v, named("a"), nil, took)
		for range refreshes {
			<-time.After(15 * time.Minute)
			verify(t, v, named("b"), token.ErrUnknownKey, took)
		}
		pass(time.Minute)
		if n := p.fetches.Load(); n != 1+refreshes {
			t.Errorf("%d fetches, want %d", n, 1+refreshes)
		}
	})
}

// TestSlowRotation holds that an issuer who takes longer than a request may
// wait is heard all the same.
func TestSlowRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing(key("a"))
		v := fetching(t, p, nil)
		verify(t, v, named("a"), nil, 0)
		p.says(answer{status: 200, body: keySet(key("b")), after: time.Second})
		verify(t, v, named("b"), token.ErrUnknownKey, 50*time.Millisecond)
		pass(time.Second)
		verify(t, v, named("b"), nil, 0)
		verify(t, v, named("a"), token.ErrUnknownKey, 0)
		if n := p.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

func TestRemovedKeyStopsWithinTheRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing(key("a"), key("b"))
		v := fetching(t, p, nil)
		verify(t, v, named("a"), nil, 0)
		p.says(answer{status: 200, body: keySet(key("b"))})
		pass(15*time.Minute - time.Second)
		verify(t, v, named("a"), nil, 0)
		pass(2 * time.Second)
		verify(t, v, named("a"), token.ErrUnknownKey, 0)
		verify(t, v, named("b"), nil, 0)
	})
}

// TestReplacedKeyIsFetchedOnce has an issuer put another key in the place of one,
// by the same name.
func TestReplacedKeyIsFetchedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const took = 10 * time.Millisecond
		other, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		renewed := sign("RS256", other, fields{"kid": "a"}, validClaims(time.Now(), nil))
		p := publishing(key("a"))
		v := fetching(t, p, nil)
		verify(t, v, named("a"), nil, 0)

		p.says(answer{status: 200, body: keySet(publish(other.Public(), "a", nil)), after: took})
		verify(t, v, renewed, nil, took)
		// What does not hold neither fetches nor waits, until a while has passed.
		for range 100 {
			verify(t, v, named("a"), token.ErrBadSignature, 0)
		}
		pass(30 * time.Second)
		verify(t, v, named("a"), token.ErrBadSignature, took)
		verify(t, v, renewed, nil, 0)
		if n := p.fetches.Load(); n != 3 {
			t.Errorf("%d fetches, want 3", n)
		}
	})
}

// TestRefresh: who asks for the set as it is now gets one that was asked for
// from now on, also while another fetch is under way.
func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := publishing()
		p.says(answer{status: 200, body: keySet(key("a")), after: time.Second})
		var changes []string
		v := newVerifier(t, token.Config{
			JWKSURL: keySetURL, KeySetClient: &http.Client{Transport: p},
			OnKeySetChange: func(withdrawn, added []string) {
				changes = append(changes, fmt.Sprint(len(withdrawn), len(added)))
			},
		})
		v.Refresh() // the first fetch is under way
		pass(time.Minute)
		verify(t, v, named("a"), nil, 0)
		remembered := v.Digester()

		v.Refresh()
		v.Refresh()
		pass(time.Second / 2)
		p.says(answer{status: 200, body: keySet(key("a"), key("b"))})
		v.Refresh()
		pass(time.Minute)
		verify(t, v, named("b"), nil, 0)
		if v.Digester() != remembered {
			t.Error("what verified is forgotten, although no key was withdrawn")
		}
		p.says(answer{status: 200, body: keySet(key("b"))})
		v.Refresh()
		pass(time.Minute)
		verify(t, v, named("a"), token.ErrUnknownKey, 0)
		if v.Digester() == remembered {
			t.Error("what verified by a key that was withdrawn is remembered")
		}
		if n := p.fetches.Load(); n != 4+1 { // the last for the unknown key
			t.Errorf("%d fetches, want 5", n)
		}
		if diff := cmp.Diff([]string{"0 1", "0 1", "1 0"}, changes); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	t.Run("keeps the keys and waits for nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := publishing(key("a"))
			v := fetching(t, p, nil)
			verify(t, v, named("a"), nil, 0)
			v.Close()
			v.Close()
			verify(t, v, named("a"), nil, 0)
			verify(t, v, named("b"), token.ErrUnknownKey, 0)
			pass(time.Hour)
			if n := p.fetches.Load(); n != 1 {
				t.Errorf("%d fetches, want 1", n)
			}
		})
	})
	t.Run("cuts a fetch short and waits for its end", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := publishing()
			p.says(answer{status: 200, after: time.Hour, clings: time.Second})
			v := fetching(t, p, func(err error) { t.Errorf("told of a failure that is none: %v", err) })
			synctest.Wait() // the fetch is under way
			began := time.Now()
			v.Close()
			if took := time.Since(began); took != time.Second {
				t.Errorf("took %v, want the second that the fetch clings", took)
			}
			verify(t, v, named("a"), token.ErrUnavailable, 0)
		})
	})
	t.Run("of one that fetches nothing", func(t *testing.T) {
		t.Parallel()
		newVerifier(t, token.Config{Secret: secret}).Close()
	})
}

// TestOwnClient fetches over a real connection with the client that is used
// by default.
func TestOwnClient(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, keySet(key("a")))
	})
	mux.Handle("/moved", http.RedirectHandler("/jwks", http.StatusFound))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	failed := make(chan error, 1)
	tell := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	v := newVerifier(t, token.Config{JWKSURL: server.URL + "/jwks", OnKeySetError: tell})
	for {
		// Waits for the fetch that is under way.
		_, err := v.Verify(named("a"), time.Now())
		if err == nil {
			break
		}
		select {
		case fetchErr := <-failed:
			t.Fatal(fetchErr)
		default:
		}
		if !errors.Is(err, token.ErrUnavailable) {
			t.Fatal(err)
		}
	}

	localhost := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	newVerifier(t, token.Config{JWKSURL: localhost + "/moved", OnKeySetError: tell})
	if err := <-failed; !strings.Contains(err.Error(), "redirects are not followed") {
		t.Errorf("got %v", err)
	}
}

// FuzzKeySet reads hostile key sets.
func FuzzKeySet(f *testing.F) {
	for _, text := range []string{
		"", "{}", `{"keys":null}`, `{"keys":[null,5,"x",[],{}]}`, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`,
		keySet(unusableKeys()...), keySet(key("a"), publish(p521Key.Public(), "p", nil), publish(edKey.Public(), "e", nil)),
	} {
		f.Add(text)
	}
	tokens := []string{
		sign("RS256", rsaKey, fields{"kid": "a"}, validClaims(now, nil)), sign("RS256", rsaKey, nil, validClaims(now, nil)),
		sign("EdDSA", edKey, nil, validClaims(now, nil)), sign("ES512", p521Key, fields{"kid": "p"}, validClaims(now, nil)),
	}
	forged := sign("HS256", secret, fields{"kid": "oct"}, validClaims(now, nil))
	f.Fuzz(func(t *testing.T, text string) {
		v, err := token.NewVerifier(token.Config{JWKS: []byte(text)})
		if err != nil {
			return
		}
		for _, raw := range tokens {
			_, _ = v.Verify(raw, now)
		}
		if _, err := v.Verify(forged, now); !errors.Is(err, token.ErrBadSignature) {
			t.Fatalf("a secret out of a key set: %v", err)
		}
	})
}
