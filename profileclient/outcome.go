package profileclient

import (
	"errors"
	"time"
)

// LookupOutcome says how one lookup ended. The set is closed: metrics have
// one label value for each.
type LookupOutcome uint8

const (
	// LookupOK: the profile server answered with the preference.
	LookupOK LookupOutcome = iota
	// LookupTimeout: no complete answer came within Config.Timeout.
	LookupTimeout
	// LookupUnreachable: no connection, or one that broke.
	LookupUnreachable
	// LookupUnauthorized: status 401 or 403; the credential is not accepted.
	LookupUnauthorized
	// LookupBadStatus: a status other than 200 and 204.
	LookupBadStatus
	// LookupRedirect: a redirect, which is never followed, since the
	// credential must not go where the operator did not send it.
	LookupRedirect
	// LookupBadType: the answer is not JSON.
	LookupBadType
	// LookupTooLarge: the answer has more than 64 KiB.
	LookupTooLarge
	// LookupMalformed: the answer is not an object whose field is null,
	// false or true.
	LookupMalformed
	// LookupBusy: Config.Concurrency lookups, or the share of them for
	// accounts that are only named, were in flight already; nothing was sent.
	LookupBusy
	// LookupNoCredential: there is no credential or no address to ask about
	// this account with; nothing was sent.
	LookupNoCredential

	// LookupOutcomeCount is the number of outcomes, for tables indexed by
	// LookupOutcome.
	LookupOutcomeCount
)

var lookupOutcomeNames = [LookupOutcomeCount]string{ //nolint:gosec // labels, no credentials
	LookupOK:           "ok",
	LookupTimeout:      "timeout",
	LookupUnreachable:  "unreachable",
	LookupUnauthorized: "unauthorized",
	LookupBadStatus:    "bad_status",
	LookupRedirect:     "redirect",
	LookupBadType:      "bad_type",
	LookupTooLarge:     "too_large",
	LookupMalformed:    "malformed",
	LookupBusy:         "busy",
	LookupNoCredential: "no_credential",
}

// String returns the outcome as metrics spell it.
func (o LookupOutcome) String() string { return lookupOutcomeNames[o] }

// WriteOutcome says how one write-back ended, all its tries together. The set
// is closed: metrics have one label value for each.
type WriteOutcome uint8

const (
	// Written: the profile now says opted out.
	Written WriteOutcome = iota
	// WriteConflict: the profile changed after it was seen to hold no choice,
	// so nothing was written and it is looked up again.
	WriteConflict
	// WriteNoETag: the server gave no strong ETag, so a write could overwrite
	// a choice that the user made meanwhile; nothing was written.
	WriteNoETag
	// WriteUnneeded: the profile holds a choice already, which was not known, or
	// which an older answer or a claim did not know of.
	WriteUnneeded
	// WriteFailed: the server refused the write, or did not take it within
	// the time for which it is tried.
	WriteFailed
	// WriteDropped: too many write-backs were waiting, or Close ended it.
	WriteDropped

	// WriteOutcomeCount is the number of outcomes, for tables indexed by
	// WriteOutcome.
	WriteOutcomeCount
)

var writeOutcomeNames = [WriteOutcomeCount]string{
	Written:       "written",
	WriteConflict: "conflict",
	WriteNoETag:   "no_etag",
	WriteUnneeded: "unneeded",
	WriteFailed:   "failed",
	WriteDropped:  "dropped",
}

// String returns the outcome as metrics spell it.
func (o WriteOutcome) String() string { return writeOutcomeNames[o] }

// FeedOutcome says what came of one try to follow the change feed. The set is
// closed: metrics have one label value for each.
type FeedOutcome uint8

const (
	// FeedConnected: the server tells its changes.
	FeedConnected FeedOutcome = iota
	// FeedRefused: status 401, 403, 404, 405 or 501; the credential may not
	// follow, or the server has no feed. It is tried again rarely.
	FeedRefused
	// FeedBadAnswer: another status than 200, or not text/event-stream.
	FeedBadAnswer
	// FeedUnreachable: no connection, or no answer.
	FeedUnreachable

	// FeedOutcomeCount is the number of outcomes, for tables indexed by
	// FeedOutcome.
	FeedOutcomeCount
)

var feedOutcomeNames = [FeedOutcomeCount]string{
	FeedConnected:   "connected",
	FeedRefused:     "refused",
	FeedBadAnswer:   "bad_answer",
	FeedUnreachable: "unreachable",
}

// String returns the outcome as metrics spell it.
func (o FeedOutcome) String() string { return feedOutcomeNames[o] }

// FeedEvent is a kind of event of the change feed. The set is closed: metrics
// have one label value for each.
type FeedEvent uint8

const (
	// FeedChange: an account's preference changed.
	FeedChange FeedEvent = iota
	// FeedDelete: an account was deleted.
	FeedDelete
	// FeedReset: the server does not know what the client heard last.
	FeedReset
	// FeedMalformed: an event that cannot be read, and is passed over.
	FeedMalformed

	// FeedEventCount is the number of kinds, for tables indexed by FeedEvent.
	FeedEventCount
)

var feedEventNames = [FeedEventCount]string{
	FeedChange:    "change",
	FeedDelete:    "delete",
	FeedReset:     "reset",
	FeedMalformed: "malformed",
}

// String returns the kind as metrics spell it.
func (e FeedEvent) String() string { return feedEventNames[e] }

// Observer is told what a Client does. Every field may be nil. The functions
// are called from many goroutines and must return soon; nothing that they
// are given says anything about a person.
type Observer struct {
	// Lookup is called for every request to the profile server, with the time
	// it took, and for every lookup that could not be sent, with no time.
	// What the cache answers is no lookup.
	Lookup func(LookupOutcome, time.Duration)

	// WriteBack is called once for every write-back that has ended.
	WriteBack func(WriteOutcome)

	// Health is called when the profile server begins to fail, with what an
	// operator must know to mend it, and with nil when it has recovered.
	Health func(error)

	// FeedConnect is called for every try to follow the change feed.
	FeedConnect func(FeedOutcome)

	// FeedEvent is called for every event of the change feed that is about
	// changes, whether or not the account is known here.
	FeedEvent func(FeedEvent)

	// FeedHealth is called when the change feed is refused, or nothing was
	// heard of it for 45 seconds, with what an operator must know to mend it,
	// and with nil when it is there again.
	FeedHealth func(error)
}

// complete returns the observer with a function in every place.
func (o Observer) complete() Observer {
	if o.Lookup == nil {
		o.Lookup = func(LookupOutcome, time.Duration) {}
	}
	if o.WriteBack == nil {
		o.WriteBack = func(WriteOutcome) {}
	}
	if o.Health == nil {
		o.Health = func(error) {}
	}
	if o.FeedConnect == nil {
		o.FeedConnect = func(FeedOutcome) {}
	}
	if o.FeedEvent == nil {
		o.FeedEvent = func(FeedEvent) {}
	}
	if o.FeedHealth == nil {
		o.FeedHealth = func(error) {}
	}
	return o
}

// failure is a lookup that did not end well. Its text is for an operator and
// never holds the URL that was asked, which may name the account.
type failure struct {
	outcome  LookupOutcome
	cause    error
	notFound bool // the server knows of no such account
}

func fail(outcome LookupOutcome, text string) *failure {
	return &failure{outcome: outcome, cause: errors.New(text)}
}
