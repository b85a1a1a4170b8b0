package prefstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// secret is what keys a store's tags and hashes. It is made with the store.
type secret [32]byte

// hash is what is kept of an event that was seen, and of an account that was
// deleted.
func (s secret) hash(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	sum = sha256.Sum256(append(s[:], sum[:]...))
	return sum[:]
}

// Record is what a store holds of an account. An account that nobody wrote
// anything of holds null since the year 1970.
type Record struct {
	// Preference is policy.Unset, policy.Allowed or policy.OptedOut.
	Preference policy.Preference

	// Source is where the choice came from: SourceUser, SourceBrowser or
	// SourceAdmin. It is empty where there was none.
	Source string

	// changed is when the preference last changed, in milliseconds since 1970.
	changed int64

	// said is when the choice was last said: the same one may be said again,
	// which changes nothing but is the last word.
	said span

	// deleted is when the account was deleted, in milliseconds since 1970, where
	// that was in the last days. What was said before must not bring it back, and
	// what is held was said after.
	deleted int64

	secret secret // of the store
}

// Changed returns when the preference last changed, to the millisecond: a time
// that grows with every change of the account. It is zero where Source is empty.
func (r Record) Changed() time.Time {
	if r.Source == "" {
		return time.Time{}
	}
	return time.UnixMilli(r.changed).UTC()
}

// ETag names this state of the account, strongly. It follows from what is
// stored alone, so that every instance and every restart comes to the same
// one; and from the time of the change as well as from the value, so that it
// does not come back when a user opts out and takes it back: a browser's
// opt-out that was looked up before must not be written after. Nor may it be
// written after the account was deleted, so the time of that counts as well. It
// is a keyed hash because tags end up in logs, where neither a choice nor its time
// has any business, and both are soon guessed; and the account is no part of it,
// so that it is nobody's name.
func (r Record) ETag() string {
	state := fmt.Appendf(nil, "metrics_optout %s %d", r.Preference, r.changed)
	if r.deleted > 0 && r.Source == "" {
		state = fmt.Appendf(state, " %d", r.deleted)
	}
	mac := hmac.New(sha256.New, r.secret[:])
	mac.Write(state)
	return fmt.Sprintf(`"%x"`, mac.Sum(nil)[:16])
}

// update is the change, with this number, that made the record.
func (r Record) update(id int64, uid string) Change {
	return Change{ID: id, UID: uid, Preference: r.Preference, Changed: time.UnixMilli(r.changed).UTC(), Source: r.Source}
}

// A preference is stored as a boolean, which is absent where no choice was
// made.
func preferenceOf(optedOut *bool) policy.Preference {
	switch {
	case optedOut == nil:
		return policy.Unset
	case *optedOut:
		return policy.OptedOut
	default:
		return policy.Allowed
	}
}

func optedOut(p policy.Preference) *bool {
	if p == policy.Unset {
		return nil
	}
	return new(p == policy.OptedOut)
}
