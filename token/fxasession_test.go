package token_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/token"
)

// TestFxASession holds what the auth server of Firefox Accounts is asked, and
// what each of its answers means. Only a clear refusal refuses.
func TestFxASession(t *testing.T) {
	t.Parallel()
	const uid, proof = "7d2f4c1ab09e4e53a6c8d1f20b3e9a64", "Bearer fxs_c0a29dcf46174973da1378696e4c82ae10f723cf4f4d9f75e39f4ae3851595ab"
	const hawk = `Hawk id="c0a2", ts="1795798496", nonce="a+b/c=", mac="6xA=", ext="a, b"`
	for name, test := range map[string]struct {
		proof  string
		status int
		body   string
		want   error
	}{
		"good":                       {proof, 200, `{"state":"verified","uid":"` + uid + `","details":{"verified":true}}`, nil},
		"good, not verified":         {proof, 200, `{"state":"unverified","uid":"` + uid + `"}`, nil},
		"good by Hawk":               {hawk, 200, `{"state":"verified","uid":"` + uid + `"}`, nil},
		"unknown or revoked":         {proof, 401, `{"code":401,"errno":110,"error":"Unauthorized"}`, token.ErrInactive},
		"refused in other words":     {proof, 401, "", token.ErrInactive},
		"a redirect":                 {proof, 302, "", token.ErrUnavailable},
		"too many requests":          {proof, 429, `{"errno":114}`, token.ErrUnavailable},
		"forbidden by a proxy":       {proof, 403, "<html>", token.ErrUnavailable},
		"bad request of OAuth":       {proof, 400, `{"errno":108}`, token.ErrUnavailable},
		"down":                       {proof, 503, `{"errno":110}`, token.ErrUnavailable},
		"a page":                     {proof, 200, "<html>", token.ErrUnavailable},
		"no account":                 {proof, 200, `{"state":"verified"}`, token.ErrUnavailable},
		"an account that is none":    {proof, 200, `{"uid":["` + uid + `"]}`, token.ErrUnavailable},
		"nothing":                    {"", 0, "", token.ErrMalformed},
		"more than one header":       {"Bearer a\r\nX-Other: b", 0, "", token.ErrMalformed},
		"what no header can hold":    {"Bearer ü", 0, "", token.ErrMalformed},
		"longer than a token may be": {strings.Repeat("a", token.MaxTokenBytes+1), 0, "", token.ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told reports
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodGet || r.URL.Path != "/v1/session/status" || len(body) > 0 ||
					r.Host != "auth.example.org" || r.Header.Get("Authorization") != test.proof {
					t.Errorf("asked %s %s of %s with %q, %q", r.Method, r.URL, r.Host, r.Header, body)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			t.Cleanup(server.Close)
			i := newIntrospector(t, token.IntrospectionConfig{
				URL: server.URL + "/v1/session/status", Manner: token.FxASession, Host: "auth.example.org", OnError: told.add,
			})
			claims, err := i.Verify(test.proof, now)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err == nil {
				if got, _ := claims.String("sub"); got != uid || !claims.Ends.IsZero() {
					t.Errorf("it is %q's, until %v", got, claims.Ends)
				}
			}
			for _, text := range told.texts {
				if leaks(text, test.proof, uid) {
					t.Errorf("the operator is told: %s", text)
				}
			}
		})
	}
}

// TestEndOfATokenItself: a server's word is taken for a minute, and what is made
// of it must not end with that, nor outlive the token.
func TestEndOfATokenItself(t *testing.T) {
	t.Parallel()
	server := newOAuthServer(t)
	i := newIntrospector(t, token.IntrospectionConfig{URL: server.URL + "/oauth2/introspect"})
	claims, err := i.Verify(opaque("alice"), now)
	if err != nil {
		t.Fatal(err)
	}
	if want := grants["alice"].expires; !claims.Ends.Equal(want) || !claims.Expires.Before(want) {
		t.Errorf("ends %v, to be verified again %v; it ends %v", claims.Ends, claims.Expires, want)
	}
}
