package profileclient

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"

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

// FuzzFeed: whatever a feed says, the cache learns of an account what a reader
// of another kind finds in its events, takes nobody in, and stays bounded.
func FuzzFeed(f *testing.F) {
	const event = "event: change\nid: 2\ndata: {\"uid\":\"ann\",\"metrics_optout\":true,\"changed\":\"2026-11-24T12:00:00.000Z\"}\n\n"
	for _, seed := range []string{
		event, "retry: 1000\nid: 1\n\n" + event, event + "event: delete\nid: 3\ndata: {\"uid\":\"ann\"}\n\n",
		"event: reset\nid: 0\ndata: {}\n\n", "\xef\xbb\xbf" + event, strings.ReplaceAll(event, "\n", "\r\n"), strings.ReplaceAll(event, "\n", "\r"),
		strings.ReplaceAll(event, "true", "null"), strings.ReplaceAll(event, `"ann"`, "{}"), ":\n\n", "id\nevent\ndata\n\n", "data: 1\ndata: 2\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := &Client{maxAge: time.Hour, start: time.Now(), proven: newCache(20), named: newCache(20)}
		c.observer.FeedEvent = func(FeedEvent) {}
		c.feed.cursor = -1
		c.proven.put("ann", entry{preference: policy.Allowed, fetched: 1, expires: 2})
		want := policy.Allowed
		for event, err := range sse.Read(bytes.NewReader(stream), nil) {
			if err != nil {
				break
			}
			version := c.proven.get("ann").version
			c.take(event)
			// Of events that are less plain than a profile server's nothing is
			// demanded: duplicate keys, say, or keys in another case.
			var fields map[string]any
			_ = json.Unmarshal([]byte(event.Data), &fields)
			again, _ := json.Marshal(fields)
			odd := slices.ContainsFunc(slices.Collect(maps.Keys(fields)), func(name string) bool {
				return !slices.Contains([]string{"uid", "metrics_optout", "changed", "source"}, name)
			})
			if odd || len(again) != len(event.Data) || fields["uid"] != "ann" {
				want = c.proven.get("ann").preference
				continue
			}
			var changed time.Time
			text, _ := json.Marshal(fields["changed"])
			told, hasChoice := fields["metrics_optout"]
			hasTime := json.Unmarshal(text, &changed) == nil && !changed.IsZero()
			switch {
			case event.Type == "delete" && !hasTime && !hasChoice:
				want = policy.Unknown
			case event.Type != "change" || !hasTime || changed.UnixMilli() < version:
			case told == true:
				want = policy.OptedOut
			case told == false || told == nil && hasChoice:
				// It is asked for.
				if e := c.proven.get("ann"); changed.UnixMilli() > version && c.fresh(e, c.instant(time.Now())) {
					t.Fatalf("after %q: still fresh, %v", event, e.preference)
				}
			}
			if got := c.proven.get("ann").preference; got != want {
				t.Fatalf("after %q: %v, want %v", event, got, want)
			}
		}
		if proven, named := c.Entries(); proven != 1 || named != 0 {
			t.Fatalf("%d and %d entries", proven, named)
		}
	})
}

// FuzzAddress: whatever an account is called, only the place for it changes.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"ann", "..", "a/../../b", `\..\`, "a?b#c", "%2e%2e", "%2F..%2F", "\x00", "é", "a b", "/"} {
		f.Add(seed)
	}
	where, err := parseAddress("https://profile.example.org/users/{uid}/privacy?for={uid}&fields=1", MetricsOptOut, false)
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
