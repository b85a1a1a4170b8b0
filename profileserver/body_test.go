package profileserver

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

// FuzzBody holds the body reader to a second reading of the same rule: one
// key of that name, however often, and of its values the last is a literal.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		`{"metrics_optout":true}`, `{"metrics_optout":null}`, ` {"metrics\u005foptout" : false } `, `{"metrics_optout":"true"}`,
		`{"metrics_optout":1,"metrics_optout":false}`, `{"Metrics_optout":true}`, `{"x":{"metrics_optout":true}}`, `[]`, `null`, ``, `{`,
	} {
		for _, contentType := range []string{"", "application/json", "text/plain", "application/xml", ";"} {
			f.Add(contentType, []byte(body))
		}
	}
	f.Add("application/json", []byte(strings.Repeat(" ", maxBody+1)))

	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		r := httptest.NewRequest("POST", optOutPath, bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		preference, refused := readBody(httptest.NewRecorder(), r)

		if (refused == nil) == (preference == policy.Unknown) {
			t.Fatalf("%v and %v", preference, refused)
		}
		if refused != nil && !slices.Contains([]*failure{badContentType, badJSON, badParameter, tooLarge, badMediaType}, refused) {
			t.Fatalf("%v is no answer to a body", refused)
		}
		if (len(body) > maxBody) != (refused == tooLarge) {
			t.Fatalf("%d bytes: %v", len(body), refused)
		}
		want, isJSON := reread(body)
		if contentType == "application/json" && len(body) <= maxBody {
			if preference != want {
				t.Fatalf("%q: %v, want %v", body, preference, want)
			}
			if len(body) > 0 && (refused == badJSON) == isJSON {
				t.Fatalf("%q: %v", body, refused)
			}
		}
		if refused == nil && preference != want {
			t.Fatalf("%q as %q: %v, want %v", body, contentType, preference, want)
		}
	})
}

// reread reads a body token by token.
func reread(body []byte) (preference policy.Preference, isJSON bool) {
	if !json.Valid(body) {
		return policy.Unknown, false
	}
	tokens := json.NewDecoder(bytes.NewReader(body))
	if first, _ := tokens.Token(); first != json.Delim('{') {
		return policy.Unknown, true
	}
	known := true
	for tokens.More() {
		key, _ := tokens.Token()
		var value any
		_ = tokens.Decode(&value)
		known = known && key == "metrics_optout"
		switch value {
		case nil:
			preference = policy.Unset
		case false:
			preference = policy.Allowed
		case true:
			preference = policy.OptedOut
		default:
			preference = policy.Unknown
		}
	}
	if !known {
		preference = policy.Unknown
	}
	return preference, true
}
