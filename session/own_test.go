package session

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/policy"
)

var (
	ownKey   = []byte("the key of these tests' own sessions")
	otherKey = []byte("another key of as many bytes, or more")
)

// proves is a prover whose proofs are account ids.
type proves struct {
	ends    time.Time
	outcome Outcome
	claim   *policy.Preference
}

func (p proves) Prove(proof string, now time.Time) (Subject, time.Time, Outcome) {
	subject := Subject{UID: proof, Token: "the credential itself"}
	if p.claim != nil {
		subject.HasClaim, subject.Claim, subject.ClaimedAt = true, *p.claim, now.Add(-time.Minute).Truncate(time.Second)
	}
	return subject, p.ends, p.outcome
}

func newOwn(t testing.TB, change func(*OwnConfig)) *Own {
	t.Helper()
	config := OwnConfig{Prover: proves{outcome: Verified}, Keys: [][]byte{ownKey}, Block: "fxa https://auth.example.org/v1"}
	if change != nil {
		change(&config)
	}
	own, err := NewOwn(config)
	if err != nil {
		t.Fatal(err)
	}
	return own
}

func at(host string, cookies ...string) *http.Request {
	r := &http.Request{Host: host, Header: http.Header{}}
	for _, value := range cookies {
		r.Header.Add("Cookie", OwnCookie+"="+value)
	}
	return r
}

const accounts = "accounts.example.org"

func prove(t testing.TB, own *Own, now time.Time) (value string) {
	t.Helper()
	value, _, outcome := own.Prove(at(accounts), alice, now)
	if outcome != Verified {
		t.Fatalf("the proof is %v", outcome)
	}
	return value
}

// opened is what comes of a cookie: an account, and how it is known.
func opened(own *Own, r *http.Request, now time.Time) string {
	found := Sources{own}.Find(r, now, func(int, string, Outcome) {})
	said := fmt.Sprintf("%v %s%s", found.Session, found.Subject.UID, strings.Join(found.Named, " "))
	if again := (Sources{own}).Find(r, now, func(int, string, Outcome) {}); again.Session != found.Session || again.Subject != found.Subject {
		return said + ", and then otherwise"
	}
	if counted := map[policy.Session]Outcome{policy.Verified: Verified, policy.Expired: Expired, policy.NoSession: Absent}[found.Session]; counted != found.Own {
		return said + ", own " + found.Own.String()
	}
	return said
}

const knownToNobody = "none "

// TestOwnSessionsTime goes through the life of an own session, on an instance
// that did not make it.
func TestOwnSessionsTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		life, ends time.Duration // of the session, of the credential
		after      time.Duration
		want       string
	}{
		"at once":                           {0, 0, 0, "verified " + alice},
		"at the end of its proof":           {0, 0, 10*time.Minute - 1, "verified " + alice},
		"after that it only names":          {0, 0, 10 * time.Minute, "expired " + alice},
		"until its life ends":               {0, 0, 24*time.Hour - 1, "expired " + alice},
		"and then it is none":               {0, 0, 24 * time.Hour, knownToNobody},
		"a life of its own":                 {time.Hour, 0, time.Hour - 1, "expired " + alice},
		"has ended":                         {time.Hour, 0, time.Hour, knownToNobody},
		"a short life":                      {5 * time.Minute, 0, 5 * time.Minute, knownToNobody},
		"with its credential":               {0, 5 * time.Minute, 5*time.Minute - 1, "verified " + alice},
		"never longer":                      {0, 5 * time.Minute, 5 * time.Minute, knownToNobody},
		"nor named for longer":              {0, 30 * time.Minute, 30 * time.Minute, knownToNobody},
		"a credential that lasts longer":    {0, 48 * time.Hour, 24 * time.Hour, knownToNobody},
		"a long life":                       {60 * 24 * time.Hour, 0, 60*24*time.Hour - 1, "expired " + alice},
		"sealed by a clock a little ahead":  {0, 0, -time.Minute, "verified " + alice},
		"by one that is far ahead it names": {0, 0, -time.Minute - time.Second, "expired " + alice},
		"an hour ahead, too":                {0, 0, -time.Hour, "expired " + alice},
		"and by one of another time":        {0, 0, -48 * time.Hour, knownToNobody},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Wherever in a day that is.
			for _, now := range []time.Time{noon, noon.Add(12*time.Hour - time.Second), noon.Add(12 * time.Hour)} {
				change := func(config *OwnConfig) {
					config.Life = test.life
					if test.ends != 0 {
						config.Prover = proves{outcome: Verified, ends: now.Add(test.ends)}
					}
				}
				value := prove(t, newOwn(t, change), now)
				if got := opened(newOwn(t, change), at(accounts, value), now.Add(test.after)); got != test.want {
					t.Errorf("proven %v: %s, want %s", now, got, test.want)
				}
			}
		})
	}
}

// TestOwnSessionsPlace: it opens for its host and block, under any of the keys,
// and nowhere else.
func TestOwnSessionsPlace(t *testing.T) {
	t.Parallel()
	value := prove(t, newOwn(t, nil), noon)
	const good = "verified " + alice
	for name, test := range map[string]struct {
		host   string
		change func(*OwnConfig)
		want   string
	}{
		"here":                         {accounts, nil, good},
		"another port":                 {accounts + ":8443", nil, good},
		"another letter case":          {"Accounts.Example.ORG", nil, good},
		"another host":                 {"app.example.org", nil, knownToNobody},
		"a sibling":                    {"x" + accounts, nil, knownToNobody},
		"no host":                      {"", nil, knownToNobody},
		"another block":                {accounts, func(c *OwnConfig) { c.Block = "fxa https://auth.example.net/v1" }, knownToNobody},
		"where host and block meet":    {"accounts", func(c *OwnConfig) { c.Block = ".example.org\x00" + c.Block }, knownToNobody},
		"another key":                  {accounts, func(c *OwnConfig) { c.Keys = [][]byte{otherKey} }, knownToNobody},
		"a new key before the old one": {accounts, func(c *OwnConfig) { c.Keys = [][]byte{otherKey, ownKey} }, good},
		"a key that is longer":         {accounts, func(c *OwnConfig) { c.Keys = [][]byte{append(bytes.Clone(ownKey), 0)} }, knownToNobody},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := opened(newOwn(t, test.change), at(test.host, value), noon); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestOpenedElsewhere: what one instance has opened for one host it does not take
// for another one.
func TestOpenedElsewhere(t *testing.T) {
	t.Parallel()
	own := newOwn(t, nil)
	value := prove(t, own, noon)
	for _, host := range []string{accounts, "app.example.org", accounts, ""} {
		want := knownToNobody
		if host == accounts {
			want = "verified " + alice
		}
		if got := opened(own, at(host, value), noon); got != want {
			t.Errorf("at %q: %s, want %s", host, got, want)
		}
	}
}

// TestNoByteCanBeChanged: whatever is changed, cut off or added, it does not open.
func TestNoByteCanBeChanged(t *testing.T) {
	t.Parallel()
	own := newOwn(t, nil)
	value := prove(t, own, noon)
	if got := opened(own, at(accounts, value), noon); got != "verified "+alice {
		t.Fatal(got)
	}
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(changed string) {
		if got := opened(own, at(accounts, changed), noon); got != knownToNobody {
			t.Errorf("%q: %s", changed, got)
		}
	}
	for i := range len(text) * 8 {
		flipped := bytes.Clone(text)
		flipped[i/8] ^= 1 << (i % 8)
		refused(base64.RawURLEncoding.EncodeToString(flipped))
	}
	for i := range value {
		refused(value[:i])
		refused(value[:i] + "A" + value[i:])
		refused(value[:i] + "*" + value[i+1:])
	}
	// All spellings of the last character that mean the same bytes.
	for _, last := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if changed := value[:len(value)-1] + string(last); changed != value {
			refused(changed)
		}
	}
	for _, junk := range []string{"1", "00", "null", "0=", strings.Repeat("A", 100), strings.Repeat("A", 1<<16), value + value, value + "="} {
		refused(junk)
	}
}

// TestSealedAnew: two proofs of one moment cannot be told for the same account's,
// and neither shows it.
func TestSealedAnew(t *testing.T) {
	t.Parallel()
	own := newOwn(t, nil)
	one, other := prove(t, own, noon), prove(t, own, noon)
	text, _ := base64.RawURLEncoding.DecodeString(one)
	if one[:10] == other[:10] || bytes.Contains(text, []byte(alice[:8])) || len(one) > 200 {
		t.Errorf("%s\n%s", one, other)
	}
	if text[dayBytes] == 0 && text[dayBytes+1] == 0 && text[dayBytes+2] == 0 {
		t.Error("the nonce is no random one")
	}
}

// TestProofs: only one that verifies makes a session.
func TestProofs(t *testing.T) {
	t.Parallel()
	for outcome := range OutcomeCount {
		own := newOwn(t, func(c *OwnConfig) { c.Prover = proves{outcome: outcome} })
		value, life, got := own.Prove(at(accounts), alice, noon)
		if (value != "") != (outcome == Verified) || (life > 0) != (outcome == Verified) || got != outcome {
			t.Errorf("%v: %q for %v, %v", outcome, value, life, got)
		}
	}
	t.Run("too long", func(t *testing.T) {
		t.Parallel()
		if value, _, outcome := newOwn(t, nil).Prove(at(accounts), strings.Repeat("a", 8193), noon); value != "" || outcome != TooLong {
			t.Errorf("%q, %v", value, outcome)
		}
	})
	t.Run("good only by the leeway", func(t *testing.T) {
		t.Parallel()
		own := newOwn(t, func(c *OwnConfig) { c.Prover = proves{outcome: Verified, ends: noon} })
		if value, _, outcome := own.Prove(at(accounts), alice, noon); value != "" || outcome != Expired {
			t.Errorf("%q, %v", value, outcome)
		}
	})
}

// TestProofByToken: a page hands over what it would write into Authorization.
func TestProofByToken(t *testing.T) {
	t.Parallel()
	good := sign(t, claims(jwt.MapClaims{"optout": "true"}))
	for name, test := range map[string]struct {
		proof string
		want  Outcome
	}{
		"good":                  {"Bearer " + good, Verified},
		"another letter case":   {"bearer  " + good, Verified},
		"without its scheme":    {good, Malformed},
		"another scheme":        {"Hawk " + good, Malformed},
		"nothing":               {"", Malformed},
		"forged":                {"Bearer " + good + "A", BadSignature},
		"of another secret":     {"Bearer " + signWith(t, otherKey, claims(nil)), BadSignature},
		"expired":               {"Bearer " + sign(t, claims(jwt.MapClaims{"exp": noon.Add(-time.Hour).Unix()})), Expired},
		"of another audience":   {"Bearer " + sign(t, claims(jwt.MapClaims{"aud": "mobile"})), WrongAudience},
		"of nobody":             {"Bearer " + sign(t, claims(jwt.MapClaims{"sub": ""})), Malformed},
		"expired by the leeway": {"Bearer " + sign(t, claims(jwt.MapClaims{"exp": noon.Add(-time.Second).Unix()})), Expired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := newOwn(t, func(c *OwnConfig) {
				c.Prover = newJWT(t, func(s *settings) { s.OptOutClaim = "optout" })
			})
			value, life, outcome := own.Prove(at(accounts), test.proof, noon)
			if outcome != test.want {
				t.Fatalf("%v, want %v", outcome, test.want)
			}
			if outcome != Verified {
				return
			}
			if life != time.Hour {
				t.Errorf("it lives for %v, and the token for an hour", life)
			}
			found, _ := find(own, at(accounts, value), noon)
			if s := found.Subject; s.UID != alice || s.Token != "" || s.Claim != policy.OptedOut || !s.ClaimedAt.Equal(noon.Add(-time.Hour)) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestClaimsAreSealed: without a profile the credential's own claim says what the
// account prefers.
func TestClaimsAreSealed(t *testing.T) {
	t.Parallel()
	for _, claim := range []policy.Preference{policy.Unknown, policy.Unset, policy.Allowed, policy.OptedOut} {
		own := newOwn(t, func(c *OwnConfig) { c.Prover = proves{outcome: Verified, claim: &claim} })
		value := prove(t, own, noon)
		for range 2 {
			found, _ := find(own, at(accounts, value), noon.Add(time.Minute))
			if s := found.Subject; !s.HasClaim || s.Claim != claim || !s.ClaimedAt.Equal(noon.Add(-time.Minute)) {
				t.Errorf("%v: %+v", claim, s)
			}
		}
	}
}

// TestOwnSessionBesideOthers: it counts like any other credential, junk of its
// name does not, and "0" is none.
func TestOwnSessionBesideOthers(t *testing.T) {
	t.Parallel()
	own := newOwn(t, nil)
	good := prove(t, own, noon)
	bob, _, _ := own.Prove(at(accounts), "bob", noon)
	old := prove(t, own, noon.Add(-time.Hour))
	for name, test := range map[string]struct {
		cookies []string
		want    string
		own     Outcome
	}{
		"nothing":             {nil, "none", Absent},
		"none":                {[]string{OwnNone}, "none", Absent},
		"junk":                {[]string{"junk"}, "none", Absent},
		"junk and a good one": {[]string{"junk", good}, "verified " + alice, Verified},
		"none and a good one": {[]string{OwnNone, good}, "verified " + alice, Verified},
		"an old one":          {[]string{old}, "expired named " + alice, Expired},
		"a good and an old":   {[]string{good, old}, "verified " + alice + " named " + alice, Verified},
		"an old and a good":   {[]string{old, good}, "verified " + alice + " named " + alice, Verified},
		"two accounts":        {[]string{good, bob}, "verified " + alice + " and bob", Verified},
		"more than anybody has": {
			[]string{good, bob, prove(t, own, noon), prove(t, own, noon), prove(t, own, noon)}, "verified " + alice + " and bob, hiding", Verified,
		},
		"as much junk": {[]string{"a", "b", "c", "d", "e"}, "none", Absent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, _ := find(own, at(accounts, test.cookies...), noon)
			got := strings.TrimSpace(found.Session.String() + " " + found.Subject.UID)
			for _, other := range found.Others {
				got += " and " + other.UID
			}
			for _, name := range found.Named {
				got += " named " + name
			}
			if found.Hiding {
				got += ", hiding"
			}
			if got != test.want || found.Own != test.own {
				t.Errorf("%s, own %v; want %s, own %v", got, found.Own, test.want, test.own)
			}
		})
	}
}

// TestOwnKeys: none, or one that can be guessed, is refused.
func TestOwnKeys(t *testing.T) {
	t.Parallel()
	for _, keys := range [][][]byte{nil, {[]byte("short")}, {ownKey, nil}, {ownKey[:31]}} {
		if _, err := NewOwn(OwnConfig{Prover: proves{}, Keys: keys}); err == nil {
			t.Errorf("%d keys are accepted", len(keys))
		}
	}
}

func TestOpenedSessionAllocatesNothing(t *testing.T) { // not parallel: it counts the allocations of the process
	own := newOwn(t, nil)
	sources, r := Sources{own}, at(accounts+":443", prove(t, own, noon))
	observe := func(int, string, Outcome) {}
	if found := sources.Find(r, noon, observe); found.Session != policy.Verified || own.Len() != 1 {
		t.Fatal("it does not open, or is not remembered")
	}
	if n := testing.AllocsPerRun(100, func() { sources.Find(r, noon, observe) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkOwn compares what a cached decision pays to know whose it is, by an
// own session and by a token; and what it pays where the session is new here.
func BenchmarkOwn(b *testing.B) {
	own := newOwn(b, nil)
	ownRequest := at(accounts, prove(b, own, noon))
	bearer := newJWT(b, nil)
	bearerRequest := withCookie(sign(b, claims(nil)))
	observe := func(int, string, Outcome) {}
	for name, test := range map[string]struct {
		source  Source
		request *http.Request
	}{"own": {own, ownRequest}, "token": {bearer, bearerRequest}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Sources{test.source}.Find(test.request, noon, observe)
			}
		})
	}
	b.Run("opening", func(b *testing.B) {
		b.ReportAllocs()
		raw, _ := own.Credentials(ownRequest)
		for b.Loop() {
			own.open(accounts, raw, noon)
		}
	})
}

func FuzzOwn(f *testing.F) {
	own := newOwn(f, nil)
	good := prove(f, own, noon)
	f.Add(good)
	f.Add(OwnNone)
	f.Add(good[:40])
	f.Fuzz(func(t *testing.T, raw string) {
		if got := opened(own, at(accounts, raw), noon); got != knownToNobody && !strings.Contains(raw, good) {
			t.Errorf("%q: %s", raw, got)
		}
	})
}
