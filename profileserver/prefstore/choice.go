package prefstore

import (
	"errors"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// Where a choice comes from.
const (
	// SourceUser is the user's own word.
	SourceUser = optoutapi.SourceUser
	// SourceBrowser is a browser's opt-out that was written back.
	SourceBrowser = optoutapi.SourceBrowser
	// SourceAdmin is an operator.
	SourceAdmin = optoutapi.SourceAdmin
)

// Choice is a preference to be recorded.
type Choice struct {
	// Preference is what was chosen: policy.Unset, policy.Allowed or
	// policy.OptedOut.
	Preference policy.Preference

	// Source is where the choice comes from: SourceUser, SourceBrowser or
	// SourceAdmin. Default: SourceAdmin.
	Source string

	// Made is when the user made the choice, where that was elsewhere and
	// before: a choice that was recorded since stays. A time that is still to
	// come counts as now. Default: now, by the store's own clock.
	Made time.Time

	// OnlyIf says whether the choice is still wanted, given the ETag of what is
	// held now. Default: it is.
	OnlyIf func(etag string) bool

	// Event is the jti of the security event that the choice comes from. An
	// event that was seen before changes nothing. Default: there is none.
	Event string
}

// complete returns the choice with its defaults in place, unless it is none.
func (c Choice) complete() (Choice, error) {
	if !c.Preference.IsLearnt() {
		return c, errors.New("an unknown preference is not a choice; record policy.Unset, policy.Allowed or policy.OptedOut")
	}
	switch c.Source {
	case "":
		c.Source = SourceAdmin
	case SourceUser, SourceBrowser, SourceAdmin:
	default:
		return c, errors.New("the source of a choice is not user, browser or admin")
	}
	return c, nil
}

// decide says what comes of the choice where this is held of the account at
// the time now, by the store's clock, and what is held of it then.
func (c Choice) decide(held Record, now int64) (Record, Result) {
	if c.OnlyIf != nil && !c.OnlyIf(held.ETag()) {
		return held, Refused
	}
	said := now
	if !c.Made.IsZero() {
		if said = c.Made.UnixMilli(); said <= max(held.said, held.deleted) {
			return held, Unchanged
		}
		said = min(said, now)
	}
	// Two changes never share a time, even within one millisecond or under a
	// clock that was set back: the tag depends on it.
	changed := max(said, held.changed+1)
	said = max(said, held.said)
	if held.Preference != c.Preference {
		return Record{Preference: c.Preference, changed: changed, said: max(said, changed), Source: c.Source}, Changed
	}
	if held.Source != "" {
		// What was chosen in between, and arrives after, is not the last word.
		held.said = said
	}
	return held, Unchanged
}

// Result says what came of a choice, or of a deletion.
type Result uint8

const (
	// Unchanged: it was so already, or the choice is older than what is held, or
	// comes from an event that was seen before.
	Unchanged Result = iota
	// Changed: it is recorded, and safely on the disk.
	Changed
	// Refused: Choice.OnlyIf does not want it any more.
	Refused
)
