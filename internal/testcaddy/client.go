package testcaddy

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Client sends the requests of these tests: no redirects followed, nothing
// asked for or decoded that the test did not ask for.
var Client = &http.Client{
	Timeout:       2 * Patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport: &http.Transport{
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	},
}

// ProfileAudience is for whom tokens for our own profile servers are.
const ProfileAudience = "https://profile.example.org/v1"

// RelierToken is a token for the profile server, of a client that is not the
// gate, signed with the key that the profile server knows.
func RelierToken(addr, uid, scope, client string) string {
	return Sign(jwt.SigningMethodES256, ECKey, nil, Claims(uid, map[string]any{
		"iss": client, "aud": []string{"http://" + addr + "/v1", ProfileAudience}, "client_id": client, "scope": scope,
	}))
}

// Ask speaks to our own profile server about the preference.
func Ask(t testing.TB, addr, method, token, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	return AskFor(t, addr, method+" /v1/metrics_optout", token, body, headers...)
}

// AskFor speaks to our own profile server ("GET /v1/profile"). A body is JSON
// unless the headers say otherwise.
func AskFor(t testing.TB, addr, request, token, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	status, header, got, err := TryAskFor(addr, request, token, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return status, header, got
}

// TryAskFor is AskFor for goroutines, which may not end the test.
func TryAskFor(addr, request, token, body string, headers ...string) (int, http.Header, string, error) {
	method, target, _ := strings.Cut(request, " ")
	r, err := http.NewRequest(method, "http://"+addr+target, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := Client.Do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(got), err
}
