package session

import (
	"errors"

	"github.com/metricsgate/metricsgate/token"
)

// Outcome says what came of looking for one credential. The set is closed:
// metrics have one label value for each.
type Outcome uint8

const (
	// Absent means that the request carries no such credential.
	Absent Outcome = iota
	// Verified means that the credential proves an account.
	Verified
	// Expired means that everything about the credential holds but its time.
	// It names its account, unless it is opaque and nobody says whose it was.
	Expired
	// NotYetValid means that everything about the credential holds, but its time
	// is still to come by our clock: one of the two clocks is wrong. It proves
	// nothing and names nobody.
	NotYetValid
	// Malformed means that the credential cannot be read, or lacks what it
	// needs.
	Malformed
	// BadSignature means that the signature is not by a key that counts or, of
	// an opaque token, that whoever was asked does not vouch for it.
	BadSignature
	// WrongIssuer means that somebody else issued it.
	WrongIssuer
	// WrongAudience means that it was meant for another application.
	WrongAudience
	// UnknownKey means that it names a key that the key set does not hold.
	UnknownKey
	// KeysUnavailable means that the key set could not be fetched yet or, of an
	// opaque token, that nobody could be asked about it.
	KeysUnavailable
	// TooLong means that it is longer than token.MaxTokenBytes and was not
	// read.
	TooLong
	// TooMany means that it was not looked at: it is one more than
	// MaxCredentials, or an opaque token for which nobody could be asked in time
	// because others had taken the time or every slot.
	TooMany
	// Conflicting means that it proves another account than a credential before
	// it, so that the request proves several.
	Conflicting

	// OutcomeCount is the number of outcomes, for tables indexed by Outcome.
	OutcomeCount
)

var outcomeNames = [OutcomeCount]string{
	Absent:          "absent",
	Verified:        "verified",
	Expired:         "expired",
	NotYetValid:     "not_yet_valid",
	Malformed:       "malformed",
	BadSignature:    "bad_signature",
	WrongIssuer:     "wrong_issuer",
	WrongAudience:   "wrong_audience",
	UnknownKey:      "unknown_key",
	KeysUnavailable: "keys_unavailable",
	TooLong:         "too_long",
	TooMany:         "too_many",
	Conflicting:     "conflicting",
}

// String returns the outcome as metrics spell it.
func (o Outcome) String() string { return outcomeNames[o] }

// failures maps the errors of token to outcomes; the first that an error wraps
// counts.
var failures = []struct {
	err     error
	outcome Outcome
}{
	{token.ErrExpired, Expired},
	{token.ErrNotYetValid, NotYetValid},
	{token.ErrMalformed, Malformed},
	{token.ErrBadSignature, BadSignature},
	{token.ErrInactive, BadSignature},
	{token.ErrWrongIssuer, WrongIssuer},
	{token.ErrWrongAudience, WrongAudience},
	{token.ErrUnknownKey, UnknownKey},
	{token.ErrBusy, TooMany}, // before what it wraps
	{token.ErrUnavailable, KeysUnavailable},
	{token.ErrTooLong, TooLong},
}

// outcomeOf is the outcome of a verification that ended with err.
func outcomeOf(err error) Outcome {
	if err == nil {
		return Verified
	}
	for _, failure := range failures {
		if errors.Is(err, failure.err) {
			return failure.outcome
		}
	}
	return Malformed
}
