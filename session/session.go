// Package session finds out who is asking: it looks for credentials in a
// request, has them verified, and names the account. It also reads what else
// a request says about its user: the browser's signal, and the account that
// a body merely names.
//
// All of it runs for every gated request, on input that anybody may send. So
// nothing here reads without a bound, and neither the cookie scan, nor the
// signals, nor a token that verified a moment ago allocates.
package session

import (
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// Subject is whose request it is, and how far that is proven.
type Subject struct {
	// Session says how far the request proves its account.
	Session policy.Session
	// UID is the proven account; empty unless Session is Verified. It shares
	// memory with the cache of verified tokens: who keeps it for long, clones
	// it (strings.Clone).
	UID string
	// Named are the accounts that expired, else good credentials name. They
	// may accompany a verified session that another credential proves.
	Named []string
	// Token is the credential that proves UID, for passing it on; empty where
	// there is none to pass on.
	Token string
	// HasClaim says that the credential carries the claim of a preference:
	// Claim, as of ClaimedAt.
	HasClaim bool
	// Claim is that preference, and Unknown where the claim is there but
	// cannot be read as one. That is never the same as no claim.
	Claim policy.Preference
	// ClaimedAt is the earlier of the token's iat and now. It is zero where
	// the token has no iat: such a claim cannot be compared with what was
	// learnt elsewhere, and counts only where there is nothing else.
	ClaimedAt time.Time
}

// Source is one way in which a request can prove its account.
type Source interface {
	// Find looks for the credential and says what came of it. It is called
	// for many requests at once.
	Find(r *http.Request, now time.Time) (Subject, Outcome)
}

// Sources are tried in their order.
type Sources []Source

// Find returns the subject of the first source that verifies; later ones are
// not asked. Where none does, the session is unverifiable if any source found
// a credential that does not hold, else expired if one was, else none. The
// accounts that expired credentials name on the way are kept in Named.
// Every source that was asked is reported to observe, by its index.
func (s Sources) Find(r *http.Request, now time.Time, observe func(source int, outcome Outcome)) Subject {
	found := Subject{Session: policy.NoSession}
	for i, source := range s {
		subject, outcome := source.Find(r, now)
		observe(i, outcome)
		if outcome == Verified && found.Named == nil {
			return subject // nearly always
		}
		if found.Named != nil {
			subject.Named = append(found.Named, subject.Named...)
		}
		switch {
		case subject.Session == policy.Verified:
			return subject
		case subject.Session == policy.NoSession, found.Session == policy.Unverifiable:
			subject.Session = found.Session
		}
		found = subject
	}
	return found
}
