package session

import (
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// User is a session that an earlier handler has proven.
type User struct {
	// Value returns the account that was proven for the request, or nothing.
	Value func(r *http.Request) string
}

// Find takes the account as verified, since whoever set it has verified it.
// One that cannot be an account id is malformed.
func (u *User) Find(r *http.Request, _ time.Time) (Subject, Outcome) {
	switch uid := u.Value(r); {
	case uid == "":
		return failed(Absent)
	case !policy.IsUID(uid):
		return failed(Malformed)
	default:
		return Subject{Session: policy.Verified, UID: uid}, Verified
	}
}
