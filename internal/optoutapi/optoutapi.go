// Package optoutapi has the words of the profile server's API for the
// preference metrics_optout that both of its ends spell: profileserver, which
// answers, and profileclient, which asks. docs/openapi.yaml describes the API.
package optoutapi

import "time"

// Below the address of the API.
const (
	// Preference is the preference's own address, and the name of the JSON
	// member that holds it there and in the change feed.
	Preference = "metrics_optout"
	// Changes is the address of the change feed.
	Changes = "changes"
)

// Scopes of the tokens.
const (
	ReadScope  = "profile:metrics_optout"
	WriteScope = "profile:metrics_optout:write"
	// ChangesScope lets a gate follow the changes of all accounts. It is no
	// part of the area profile on purpose: profile would imply it, and then
	// every relier could follow everybody.
	ChangesScope = "metrics_optout:changes"
)

// Headers of an answer.
const (
	// SourceHeader says where the choice came from: one of the sources below.
	SourceHeader = "Metrics-Optout-Source"
	// ChangedHeader says when the preference last changed, in TimeLayout.
	ChangedHeader = "Metrics-Optout-Changed"
)

// TimeLayout is RFC 3339 in milliseconds and UTC, which is how the server
// writes times. A client takes any time of RFC 3339.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// SourceClaim is the claim by which a token for writing says where the choice
// comes from.
const SourceClaim = "source"

// Where a choice comes from, in SourceClaim, in SourceHeader and in the change
// feed.
const (
	// SourceUser is the user's own word.
	SourceUser = "user"
	// SourceBrowser is a browser's opt-out that was written back.
	SourceBrowser = "browser"
	// SourceAdmin is an operator of the profile server.
	SourceAdmin = "admin"
)

// The change feed: server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
const (
	FeedMediaType = "text/event-stream"
	// FeedKeepalive is how often the server says that all changes were told.
	FeedKeepalive = 15 * time.Second
	// FeedHead is the comment that says so. The id follows that was told last: a
	// client that has heard another has missed something. To whom it means nothing,
	// it is no event.
	FeedHead = ": head "
	// ChangeEvent tells the new preference of an account.
	ChangeEvent = "change"
	// DeleteEvent tells that an account was deleted.
	DeleteEvent = "delete"
	// ResetEvent tells that the server does not know the change that the
	// client heard last.
	ResetEvent = "reset"
)
