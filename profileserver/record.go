package profileserver

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// record is what the store holds of an account. An account that nobody wrote
// anything of holds null since the year 1970.
type record struct {
	preference policy.Preference
	changed    int64  // milliseconds since 1970; grows with every change
	source     string // where the change came from; empty where there was none

	// deletions is how many accounts of this one's class the store has
	// forgotten, where nothing is held of this one. It may be one of them.
	deletions int64
}

// class is one of the 4,096 among which accounts are counted that were
// forgotten. A count by account would remember whom it forgot; one for all
// would make a stranger's deletion refuse every write-back that is under way.
func class(uid string) int64 {
	sum := sha256.Sum256([]byte(uid))
	return int64(sum[0])<<4 | int64(sum[1])>>4
}

// etag names this state of the account, strongly. It follows from what is
// stored alone, so that every instance and every restart comes to the same
// one; and from the time of the change as well as from the value, so that it
// does not come back when a user opts out and takes it back: a browser's
// opt-out that was looked up before must not be written after. Nor may it be
// written after the account was deleted, so deletions count where there is no
// time. It is a hash because tags end up in logs, where the time of a choice
// has no business, and the account is no part of it, so that it is nobody's
// name.
func (r record) etag() string {
	state := fmt.Appendf(nil, "metrics_optout %s %d", r.preference, r.changed)
	if r.deletions > 0 {
		state = fmt.Appendf(state, " %d", r.deletions)
	}
	sum := sha256.Sum256(state)
	return fmt.Sprintf(`"%x"`, sum[:16])
}

// update is the change, with this number, that made the record.
func (r record) update(id int64, uid string) update {
	return update{id: id, uid: uid, preference: r.preference, changed: time.UnixMilli(r.changed).UTC(), source: r.source}
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
