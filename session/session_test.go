package session_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC)

// fixed is a source with one answer.
type fixed struct {
	subject session.Subject
	outcome session.Outcome
}

func (f fixed) Find(*http.Request, time.Time) (session.Subject, session.Outcome) {
	return f.subject, f.outcome
}

func verified(uid string) fixed {
	return fixed{session.Subject{Session: policy.Verified, UID: uid, Token: "t-" + uid}, session.Verified}
}

func expired(uid string) fixed {
	return fixed{session.Subject{Session: policy.Expired, Named: []string{uid}}, session.Expired}
}

var (
	absent = fixed{session.Subject{Session: policy.NoSession}, session.Absent}
	forged = fixed{session.Subject{Session: policy.Unverifiable}, session.BadSignature}
)

func TestSourcesAreTriedInTurn(t *testing.T) {
	t.Parallel()
	none := session.Subject{Session: policy.NoSession}
	unverifiable := session.Subject{Session: policy.Unverifiable}
	for _, test := range []struct {
		name    string
		sources session.Sources
		want    session.Subject
		asked   string
	}{
		{"no source", nil, none, ""},
		{"nothing found", session.Sources{absent, absent}, none, "absent absent"},
		{"the first that verifies wins", session.Sources{verified("a"), verified("b")}, verified("a").subject, "verified"},
		{"absent, then verified", session.Sources{absent, verified("b")}, verified("b").subject, "absent verified"},
		{"a forged credential does not hide a good one", session.Sources{forged, verified("b")}, verified("b").subject, "bad_signature verified"},
		{"forged, then absent", session.Sources{forged, absent}, unverifiable, "bad_signature absent"},
		{"absent, then forged", session.Sources{absent, forged}, unverifiable, "absent bad_signature"},
		{"expired, then absent", session.Sources{expired("a"), absent}, expired("a").subject, "expired absent"},
		{
			"an expired name accompanies the session that another proves",
			session.Sources{expired("a"), absent, verified("b")},
			session.Subject{Session: policy.Verified, UID: "b", Token: "t-b", Named: []string{"a"}}, "expired absent verified",
		},
		{
			"an expired name accompanies an unverifiable session",
			session.Sources{forged, expired("a")},
			session.Subject{Session: policy.Unverifiable, Named: []string{"a"}}, "bad_signature expired",
		},
		{
			"whatever the order",
			session.Sources{expired("a"), forged},
			session.Subject{Session: policy.Unverifiable, Named: []string{"a"}}, "expired bad_signature",
		},
		{
			"every expired name is kept",
			session.Sources{expired("a"), expired("b")},
			session.Subject{Session: policy.Expired, Named: []string{"a", "b"}}, "expired expired",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var asked []string
			got := test.sources.Find(&http.Request{}, noon, func(source int, outcome session.Outcome) {
				if source != len(asked) {
					t.Errorf("source %d is reported in place %d", source, len(asked))
				}
				asked = append(asked, outcome.String())
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("subject (-want +got):\n%s", diff)
			}
			if got := strings.Join(asked, " "); got != test.asked {
				t.Errorf("asked and got %q, want %q", got, test.asked)
			}
		})
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]session.Outcome{
		"":                       session.Absent,
		"7":                      session.Verified,
		"user@example.org":       session.Verified,
		"Zoë Ω 漢字":               session.Verified,
		strings.Repeat("u", 255): session.Verified,
		strings.Repeat("u", 256): session.Malformed,
		"two\nlines":             session.Malformed,
		"nul\x00":                session.Malformed,
		"del\x7f":                session.Malformed,
		"c1\u0085":               session.Malformed,
		"broken \xff":            session.Malformed,
		"replaced \ufffd":        session.Malformed,
	} {
		user := &session.User{Value: func(*http.Request) string { return value }}
		subject, got := user.Find(&http.Request{}, noon)
		if got != want {
			t.Errorf("%q is %v, want %v", value, got, want)
		}
		wantSubject := map[session.Outcome]session.Subject{
			session.Absent:    {Session: policy.NoSession},
			session.Verified:  {Session: policy.Verified, UID: value},
			session.Malformed: {Session: policy.Unverifiable},
		}
		if diff := cmp.Diff(wantSubject[want], subject); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
}

func TestOutcomesHaveTheirMetricLabels(t *testing.T) {
	t.Parallel()
	const want = "absent verified expired malformed bad_signature wrong_issuer wrong_audience unknown_key keys_unavailable too_long conflicting"
	var labels []string
	for outcome := range session.OutcomeCount {
		labels = append(labels, outcome.String())
	}
	if got := strings.Join(labels, " "); got != want {
		t.Errorf("labels are %q, want %q", got, want)
	}
}
