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
}

// etag names this state of the account, strongly. It follows from the row
// alone, so that every instance and every restart comes to the same one; and
// from the time of the change as well as from the value, so that it does not
// come back when a user opts out and takes it back: a browser's opt-out that
// was looked up before must not be written after. It is a hash because tags
// end up in logs, where the time of a choice has no business, and the account
// is no part of it, so that it is nobody's name.
func (r record) etag() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "metrics_optout %s %d", r.preference, r.changed))
	return fmt.Sprintf(`"%x"`, sum[:16])
}

// change is a preference to be recorded.
type change struct {
	preference policy.Preference
	source     string // browser or user
	at         time.Time
}
