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

// Credentials returns the account itself.
func (u *User) Credentials(r *http.Request) (first string, more []string) { return u.Value(r), nil }

// Verify takes the account as verified, since whoever set it has verified it.
// One that cannot be an account id is malformed.
func (u *User) Verify(_ *http.Request, uid string, _ time.Time) (Subject, Outcome) {
	if !policy.IsUID(uid) {
		return Subject{}, Malformed
	}
	return Subject{UID: uid}, Verified
}
