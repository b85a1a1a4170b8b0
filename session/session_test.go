package session_test

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC)

// fixed is a source whose credentials are words: the outcome, and whose it is.
type fixed []string

func (f fixed) Credentials(*http.Request) (first string, more []string) {
	if len(f) == 0 {
		return "", nil
	}
	return f[0], f[1:]
}

func (f fixed) Verify(_ *http.Request, credential string, _ time.Time) (session.Subject, session.Outcome) {
	word, uid, _ := strings.Cut(credential, " ")
	for outcome := range session.OutcomeCount {
		if outcome.String() == word {
			return session.Subject{UID: uid}, outcome
		}
	}
	return session.Subject{}, session.Malformed
}

// TestAllSourcesCount: what each of several sources finds, and what is made of
// it.
func TestAllSourcesCount(t *testing.T) {
	t.Parallel()
	proven := func(uid string, others ...string) session.Found {
		found := session.Found{Session: policy.Verified, Subject: session.Subject{UID: uid}, Several: len(others) > 0}
		for _, other := range others {
			found.Others = append(found.Others, session.Subject{UID: other})
		}
		return found
	}
	with := func(found session.Found, change func(*session.Found)) session.Found {
		change(&found)
		return found
	}
	none := session.Found{Session: policy.NoSession}
	unverifiable := session.Found{Session: policy.Unverifiable}
	for _, test := range []struct {
		name    string
		sources session.Sources
		want    session.Found
		counted string
	}{
		{"no source", nil, none, ""},
		{"nothing found", session.Sources{fixed{}, fixed{}}, none, "0 absent, 1 absent"},
		{"both count", session.Sources{fixed{"verified a"}, fixed{"verified b"}}, proven("a", "b"), "0 verified, 1 conflicting"},
		{"one account by both", session.Sources{fixed{"verified a", "verified b"}, fixed{"verified a "}}, proven("a", "b", "a "), "0 verified, 0 conflicting, 1 conflicting"},
		{"one credential for both is asked about once", session.Sources{fixed{"verified a"}, fixed{"verified a"}}, proven("a"), "0 verified"},
		{"absent, then verified", session.Sources{fixed{}, fixed{"verified b"}}, proven("b"), "0 absent, 1 verified"},
		{"what is refused is ignored beside a good one", session.Sources{fixed{"bad_signature"}, fixed{"verified b"}}, proven("b"), "0 bad_signature, 1 verified"},
		{"forged, then absent", session.Sources{fixed{"bad_signature"}, fixed{}}, unverifiable, "0 bad_signature, 1 absent"},
		{"absent, then forged", session.Sources{fixed{}, fixed{"bad_signature"}}, unverifiable, "0 absent, 1 bad_signature"},
		{
			"one that could not be asked about may be another account",
			session.Sources{fixed{"keys_unavailable"}, fixed{"verified b"}},
			with(proven("b"), func(f *session.Found) { f.Unlearnt = true }), "0 keys_unavailable, 1 verified",
		},
		{
			"and so may one behind",
			session.Sources{fixed{"verified b"}, fixed{"keys_unavailable"}},
			with(proven("b"), func(f *session.Found) { f.Unlearnt = true }), "0 verified, 1 keys_unavailable",
		},
		{
			"one that others left no time or slot for hides",
			session.Sources{fixed{"too_many"}, fixed{"verified b"}},
			with(proven("b"), func(f *session.Found) { f.Hiding = true }), "0 too_many, 1 verified",
		},
		{
			"also alone",
			session.Sources{fixed{"too_many"}},
			with(unverifiable, func(f *session.Found) { f.Hiding = true }), "0 too_many",
		},
		{"alone it is unverifiable", session.Sources{fixed{"keys_unavailable"}}, unverifiable, "0 keys_unavailable"},
		{
			"an expired name accompanies the session that another proves",
			session.Sources{fixed{"expired a"}, fixed{}, fixed{"verified b"}},
			with(proven("b"), func(f *session.Found) { f.Named = []string{"a"} }), "0 expired, 1 absent, 2 verified",
		},
		{
			"also where it comes later",
			session.Sources{fixed{"verified b"}, fixed{"expired a"}},
			with(proven("b"), func(f *session.Found) { f.Named = []string{"a"} }), "0 verified, 1 expired",
		},
		{
			"an expired name accompanies an unverifiable session",
			session.Sources{fixed{"bad_signature"}, fixed{"expired a"}},
			with(unverifiable, func(f *session.Found) { f.Named = []string{"a"} }), "0 bad_signature, 1 expired",
		},
		{
			"whatever the order",
			session.Sources{fixed{"expired a"}, fixed{"bad_signature"}},
			with(unverifiable, func(f *session.Found) { f.Named = []string{"a"} }), "0 expired, 1 bad_signature",
		},
		{
			"every expired name is kept",
			session.Sources{fixed{"expired a"}, fixed{"expired b"}},
			session.Found{Session: policy.Expired, Named: []string{"a", "b"}}, "0 expired, 1 expired",
		},
		{
			"four of all sources are looked at",
			session.Sources{fixed{"malformed 1", "malformed 2"}, fixed{"malformed 3", "verified a"}, fixed{"verified b", "malformed 1"}},
			with(proven("a"), func(f *session.Found) { f.Hiding = true }),
			"0 malformed, 0 malformed, 1 malformed, 1 verified, 2 too_many, 2 malformed",
		},
		{
			"what is too long hides, whoever the others are",
			session.Sources{fixed{"too_long"}, fixed{"verified a"}},
			with(proven("a"), func(f *session.Found) { f.Hiding = true }), "0 too_long, 1 verified",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var counted []string
			got := test.sources.Find(&http.Request{}, noon, func(source int, _ string, outcome session.Outcome) {
				counted = append(counted, fmt.Sprint(source, " ", outcome))
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			if got := strings.Join(counted, ", "); got != test.counted {
				t.Errorf("counted %q, want %q", got, test.counted)
			}
		})
	}
}

// worded is a source that finds credentials as a Bearer does, and makes an
// outcome of any word.
type worded struct {
	*session.Bearer
	index int
}

func (w worded) Verify(_ *http.Request, credential string, _ time.Time) (session.Subject, session.Outcome) {
	hash := fnv.New32a()
	_, _ = fmt.Fprint(hash, w.index, credential)
	outcomes := []session.Outcome{
		session.Verified, session.Verified, session.Expired, session.BadSignature, session.KeysUnavailable, session.TooLong, session.TooMany,
	}
	n := hash.Sum32()
	return session.Subject{UID: fmt.Sprint("account", n/7%3)}, outcomes[n%7]
}

// FuzzCredentials holds what is found in any cookies and headers against a slow
// second opinion, which first lists all credentials and then asks about each:
// whatever the order, none of the first four is left out, and nobody is found
// who is not there.
func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{
		"session=a", "session=a; second=b", "second=a; session=b; session=c", "session=a; session=a; second=a", "session=1;session=2;session=3;session=4;second=5",
	} {
		f.Add(seed, "session=x; second=y", "Bearer z", "bearer a")
		f.Add("a=b", seed, "Basic q", "")
		f.Add("session=%61%", "", "Basic q, Bearer a,,", seed)
	}
	bearers := []*session.Bearer{
		session.NewBearer(nil, session.BearerConfig{Cookie: "session", Header: "Authorization"}),
		session.NewBearer(nil, session.BearerConfig{Cookie: "second"}),
	}
	f.Fuzz(func(t *testing.T, cookies, moreCookies, authorization, moreAuthorization string) {
		r := &http.Request{Header: http.Header{"Cookie": {cookies, moreCookies}, "Authorization": {authorization, moreAuthorization}}}
		want := session.Found{Session: policy.NoSession}
		type asked struct {
			source int
			raw    string
		}
		outcomes, looked, proves := map[asked]session.Outcome{}, map[string]bool{}, map[string]bool{}
		var sources session.Sources
		var proven []string
		var refused, expired bool
		for i, bearer := range bearers {
			source := worded{bearer, i}
			sources = append(sources, source)
			var found []string
			for pair := range strings.SplitSeq(cookies+";"+moreCookies, ";") {
				name, value, _ := strings.Cut(pair, "=")
				if value = strings.Trim(value, " \t\r\n"); len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
					value = value[1 : len(value)-1]
				}
				if strings.Trim(name, " \t\r\n") == []string{"session", "second"}[i] {
					found = append(found, withoutEscapes(value))
				}
			}
			if i == 0 {
				for value := range strings.SplitSeq(authorization+","+moreAuthorization, ",") {
					found = append(found, token.FromHeader(value, "Bearer"))
				}
			}
			for _, raw := range found {
				switch {
				case raw == "" || proves[raw]:
					continue
				case !looked[raw] && len(looked) == session.MaxCredentials:
					want.Hiding, refused = true, true
					continue
				}
				if _, twice := outcomes[asked{i, raw}]; twice {
					continue
				}
				looked[raw] = true
				subject, outcome := source.Verify(nil, raw, noon)
				outcomes[asked{i, raw}] = outcome
				switch outcome {
				case session.Verified:
					proves[raw] = true
					proven = append(proven, subject.UID)
				case session.Expired:
					want.Named = append(want.Named, subject.UID)
					expired = true
				default:
					want.Hiding = want.Hiding || outcome == session.TooLong
					refused = true
				}
			}
		}
		for asked, outcome := range outcomes {
			want.Unlearnt = want.Unlearnt || len(proven) > 0 && !proves[asked.raw] && outcome == session.KeysUnavailable
			want.Hiding = want.Hiding || !proves[asked.raw] && outcome == session.TooMany
		}
		switch {
		case len(proven) > 0:
			want.Session = policy.Verified
		case refused:
			want.Session = policy.Unverifiable
		case expired:
			want.Session = policy.Expired
		}
		got := sources.Find(r, noon, func(int, string, session.Outcome) {})
		for i, uid := range proven {
			switch {
			case i == 0:
				want.Subject.UID = uid
			case uid != want.Subject.UID && !slices.Contains(want.Others, session.Subject{UID: uid}):
				want.Others, want.Several = append(want.Others, session.Subject{UID: uid}), true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
	})
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
		found := session.Sources{user}.Find(&http.Request{}, noon, func(_ int, _ string, got session.Outcome) {
			if got != want {
				t.Errorf("%q is %v, want %v", value, got, want)
			}
		})
		wantFound := map[session.Outcome]session.Found{
			session.Absent:    {Session: policy.NoSession},
			session.Verified:  {Session: policy.Verified, Subject: session.Subject{UID: value}},
			session.Malformed: {Session: policy.Unverifiable},
		}
		if diff := cmp.Diff(wantFound[want], found); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
}

func TestOutcomesHaveTheirMetricLabels(t *testing.T) {
	t.Parallel()
	const want = "absent verified expired not_yet_valid malformed bad_signature wrong_issuer wrong_audience unknown_key keys_unavailable too_long too_many conflicting"
	var labels []string
	for outcome := range session.OutcomeCount {
		labels = append(labels, outcome.String())
	}
	if got := strings.Join(labels, " "); got != want {
		t.Errorf("labels are %q, want %q", got, want)
	}
}
