// Package session finds out who is asking: it looks for credentials in a
// request, has them verified, and names the account. It also reads what else
// a request says about its user: the browser's signal, and the account that
// a body merely names.
//
// All of it runs for every gated request, on input that anybody may send. So
// nothing here reads without a bound, and neither the cookie scan, nor the
// signals, nor a token that verified a moment ago allocates.
//
// It signs nobody in, keeps no sessions and decides nothing: what follows from
// what it finds is for package policy to say. It knows nothing of Caddy:
//
//	sources := session.Sources{session.NewBearer(verifier, session.BearerConfig{Cookie: "session"})}
//	…
//	found := sources.Find(r, time.Now(), func(source int, credential string, outcome session.Outcome) { … })
//	if found.Session == policy.Verified {
//		… found.Subject.UID
//	}
package session

import (
	"net/http"
	"slices"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// Subject is an account that a request proves.
type Subject struct {
	// UID is the account; empty where none is proven. It shares memory with the
	// cache of verified tokens: who keeps it for long, clones it
	// (strings.Clone).
	UID string
	// Token is the credential that proves UID, for passing it on; empty where
	// there is none to pass on.
	Token string
	// HasClaim says that the credential carries the claim of a preference:
	// Claim, as of ClaimedAt.
	HasClaim bool
	// Claim is that preference, and Unknown where the claim is there but
	// cannot be read as one. That is never the same as no claim.
	Claim policy.Preference
	// ClaimedAt is the token's iat, and never later than now. It is zero where
	// the token has none: such a claim cannot be compared with what was learnt
	// elsewhere, and counts only where there is nothing else. An iat that is
	// still to come is none either, but for an opt-out, which is as of now.
	ClaimedAt time.Time
}

// Found is all that the credentials of a request say.
type Found struct {
	// Session says how far they prove an account: Verified where any of them
	// does; else Unverifiable where any does not hold; else Expired where one
	// is; else NoSession.
	Session policy.Session
	// Subject is the first account that is proven, and empty where none is.
	Subject Subject
	// Others are what further credentials prove: other accounts, or the same one
	// with another claim.
	Others []Subject
	// Several says that more than one account is proven.
	Several bool
	// Named are the accounts that expired, else good credentials name.
	Named []string
	// Unlearnt says that, beside an account that is proven, a credential could
	// not be asked about: it may be another account's.
	Unlearnt bool
	// Hiding says that there is a credential that is too long, or one too many, or
	// that others left no time or slot for, which can hide an account.
	Hiding bool
	// Own is what came of the gate's own session by itself: Verified, Expired, or
	// Absent where there is none that opens.
	Own Outcome
}

// Proves says whether an account is among those that are proven, so that naming
// it adds nothing.
func (f *Found) Proves(uid string) bool {
	return f.Session == policy.Verified && (f.Subject.UID == uid ||
		slices.ContainsFunc(f.Others, func(other Subject) bool { return other.UID == uid }))
}

// MaxCredentials is how many different credentials of a request are verified.
// Nobody has more; one more is what somebody would send to hide one.
const MaxCredentials = 4

// Source is one kind of credential by which a request can prove its account.
type Source interface {
	// Credentials returns the different credentials of this kind that the
	// request carries, the first one apart, so that the usual case allocates
	// nothing. It returns "" where there is none, and at most one more than
	// MaxCredentials. It is called for many requests at once.
	Credentials(r *http.Request) (first string, more []string)

	// Verify says what came of a credential that the request carries, and whose
	// it is: proven where it is Verified, named where it is Expired. One that is
	// Absent is none after all. A source that has to ask somebody counts the time
	// for that from now, when the request came, so that all credentials of one
	// request share it.
	Verify(r *http.Request, credential string, now time.Time) (Subject, Outcome)
}

// Sources are the kinds of credentials that count.
type Sources []Source

// Find verifies what credentials a request carries, of every source and up to
// MaxCredentials, so that nobody hides an account by sending another one's
// besides. A credential that one source verified is not shown to the next.
// Everything that came of it is reported to observe, by the index of the source and
// with the credential, which is nobody's to keep; it is empty where there is none.
func (s Sources) Find(r *http.Request, now time.Time, observe func(source int, credential string, outcome Outcome)) Found {
	found := Found{Session: policy.NoSession}
	var seen [MaxCredentials]credential
	n := 0
	for i, source := range s {
		raw, more := source.Credentials(r)
		if raw == "" {
			observe(i, "", Absent)
			continue
		}
		for {
			known := indexOf(seen[:n], raw)
			switch {
			case known < 0 && n == len(seen):
				found.Hiding = true
				found.doubt(policy.Unverifiable)
				observe(i, raw, TooMany)
			case known < 0 || !seen[known].verified:
				subject, outcome := source.Verify(r, raw, now)
				if outcome == Absent {
					observe(i, "", Absent)
					break
				}
				if known < 0 {
					known = n
					seen[n].raw = raw
					n++
				}
				if _, own := source.(*Own); own && found.Own != Verified {
					found.Own = outcome
				}
				outcome = found.add(subject, outcome)
				seen[known].note(outcome)
				observe(i, raw, outcome)
			}
			if len(more) == 0 {
				break
			}
			raw, more = more[0], more[1:]
		}
	}
	for _, c := range seen[:n] {
		found.Unlearnt = found.Unlearnt || c.unasked && !c.verified && found.Session == policy.Verified
		found.Hiding = found.Hiding || c.crowdedOut && !c.verified
	}
	return found
}

// credential is one that was looked at.
type credential struct {
	raw                           string
	verified, unasked, crowdedOut bool
}

func (c *credential) note(outcome Outcome) {
	c.verified = c.verified || outcome == Verified || outcome == Conflicting
	c.unasked = c.unasked || outcome == KeysUnavailable
	c.crowdedOut = c.crowdedOut || outcome == TooMany
}

func indexOf(seen []credential, raw string) int {
	for i := range seen {
		if seen[i].raw == raw {
			return i
		}
	}
	return -1
}

// add adds what came of one credential, and returns it as it is counted.
func (f *Found) add(subject Subject, outcome Outcome) Outcome {
	switch outcome {
	case Verified:
		switch {
		case f.Session != policy.Verified:
			f.Session, f.Subject = policy.Verified, subject
		case f.knows(&subject):
		default:
			f.Others = append(f.Others, subject)
			if subject.UID != f.Subject.UID {
				f.Several = true
				return Conflicting
			}
		}
	case Expired:
		if subject.UID != "" {
			f.Named = append(f.Named, subject.UID)
		}
		f.doubt(policy.Expired)
	default:
		f.Hiding = f.Hiding || outcome == TooLong
		f.doubt(policy.Unverifiable)
	}
	return outcome
}

// knows says whether the credential proves nothing new.
func (f *Found) knows(subject *Subject) bool {
	same := func(known *Subject) bool {
		return known.UID == subject.UID && known.HasClaim == subject.HasClaim && known.Claim == subject.Claim
	}
	for i := range f.Others {
		if same(&f.Others[i]) {
			return true
		}
	}
	return same(&f.Subject)
}

// doubt records a weaker session, unless an account is proven or a credential
// does not hold already.
func (f *Found) doubt(session policy.Session) {
	if f.Session != policy.Verified && f.Session != policy.Unverifiable {
		f.Session = session
	}
}
