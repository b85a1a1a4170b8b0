package profileclient

import (
	"encoding/json"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

// FuzzDecode: whatever the profile server sends, a preference is found only
// where a reader of another kind finds the same JSON value in the field.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"metrics_optout":null}`, `{"metrics_optout":true}`, `{"metrics_optout":false,"metrics_optout":"yes"}`,
		`{"Metrics_Optout":false}`, `{"metrics_optout":unknown}`, `[]`, `null`, ``, `{"metrics_optout":false}}`,
	} {
		f.Add([]byte(seed))
	}
	client := &Client{field: "metrics_optout"}
	f.Fuzz(func(t *testing.T, body []byte) {
		preference, ok := client.decode(body)
		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil && ok {
			t.Fatalf("%v in what is not JSON: %v", preference, err)
		}
		want := policy.Unknown
		switch value, found := fields["metrics_optout"]; {
		case value == true:
			want = policy.OptedOut
		case value == false:
			want = policy.Allowed
		case found && value == nil:
			want = policy.Unset
		}
		if preference != want || ok != (want != policy.Unknown) {
			t.Fatalf("got %v, %v, want %v", preference, ok, want)
		}
	})
}

// FuzzAddress: whatever an account is called, only the place for it changes.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"ann", "..", "a/../../b", `\..\`, "a?b#c", "%2e%2e", "%2F..%2F", "\x00", "é", "a b", "/"} {
		f.Add(seed)
	}
	where, err := parseAddress("https://profile.example.org/users/{uid}/privacy?for={uid}&fields=1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, uid string) {
		text, ok := where.of(uid)
		if !ok {
			return
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		if u.Host != "profile.example.org" || u.Fragment != "" || len(query) != 2 || query.Get("for") != uid {
			t.Fatalf("%q leads to %s", uid, text)
		}
		escaped := strings.Split(u.EscapedPath(), "/")
		if len(escaped) != 4 || escaped[1] != "users" || escaped[3] != "privacy" {
			t.Fatalf("%q leads to %s", uid, text)
		}
		// Also for a server that unescapes before it resolves dot segments.
		resolved := path.Clean(strings.ReplaceAll(u.Path, `\`, "/"))
		if !strings.HasPrefix(resolved, "/users/") || !strings.HasSuffix(resolved, "/privacy") {
			t.Fatalf("%q leads to %s", uid, resolved)
		}
	})
}
