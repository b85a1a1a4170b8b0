package token

import (
	"time"

	"github.com/metricsgate/metricsgate/internal/health"
)

// FetchOutcome says how one fetch of a key set ended. The set is closed: metrics
// have one label value for each.
type FetchOutcome uint8

const (
	// Fetched: a key set came, and its keys are used.
	Fetched FetchOutcome = iota
	// FetchTimeout: no complete answer came within three seconds.
	FetchTimeout
	// FetchUnreachable: no connection, or one that broke.
	FetchUnreachable
	// FetchBadStatus: a status other than 200.
	FetchBadStatus
	// FetchMalformed: the answer is no key set, has no key that can verify a token,
	// or more than 1 MiB.
	FetchMalformed

	// FetchOutcomeCount is the number of outcomes, for tables indexed by
	// FetchOutcome.
	FetchOutcomeCount
)

var fetchOutcomeNames = [FetchOutcomeCount]string{
	Fetched:          "ok",
	FetchTimeout:     "timeout",
	FetchUnreachable: "unreachable",
	FetchBadStatus:   "bad_status",
	FetchMalformed:   "malformed",
}

// String returns the outcome as metrics spell it.
func (o FetchOutcome) String() string { return fetchOutcomeNames[o] }

// Failure is since when something fails, and why.
type Failure = health.Failure

// Standing is how those do who are asked for keys, or about tokens.
type Standing struct {
	// Source is who is asked: a URL without its query.
	Source string
	// Failure is why asking fails, and empty where it does not.
	Failure Failure
	// Failed is for how long asking did nothing but fail, in all.
	Failed time.Duration

	// KeySet says that a key set is fetched; the rest is about that.
	KeySet bool
	// Fetched is when the last good set came, and zero where none has.
	Fetched time.Time
	// Outcome is how the last fetch ended. Until the first has, it says nothing.
	Outcome FetchOutcome
}

// Standing returns how the key set does. It is nil where none is fetched.
func (v *Verifier) Standing() *Standing {
	if v.keys == nil {
		return nil
	}
	v.keys.mu.Lock()
	defer v.keys.mu.Unlock()
	return &Standing{
		Source: v.keys.source, Failure: v.keys.health.Failure(), Failed: v.keys.health.Total(),
		KeySet: true, Fetched: v.keys.taken, Outcome: v.keys.last,
	}
}

// Standing returns how whoever is asked about tokens does.
func (i *Introspector) Standing() *Standing {
	return &Standing{Source: i.endpoint.source, Failure: i.health.Failure(), Failed: i.health.Total()}
}
