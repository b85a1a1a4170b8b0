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
	// before: a choice that was recorded since stays. One that is still to come
	// says that a clock is wrong by as much, so the choice may have been made at
	// any time of that length up to now. Default: now, by the store's own clock.
	Made time.Time

	// Within is how finely whoever says Made counts: the choice may have been
	// made later than that by less than this. Where it may then have been made
	// before as well as after what is held, the one of the two that measures less
	// stands. Default: a millisecond, as finely as stores count.
	Within time.Duration

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
	made := span{now, now}
	if !c.Made.IsZero() {
		made = span{c.Made.UnixMilli(), c.Made.Add(max(c.Within, time.Millisecond) - 1).UnixMilli()}.before(now)
		last := held.said.before(now)
		if held.Source == "" && made.from <= held.deleted || made.to < last.from ||
			made.from <= last.to && measured(held.Preference) < measured(c.Preference) {
			return held, Unchanged
		}
	}
	if held.Preference == c.Preference {
		if held.Source != "" {
			// What was chosen in between, and arrives after, is not the last word.
			held.said = held.said.before(now).orLater(made).after(held.deleted)
		}
		return held, Unchanged
	}
	// Two changes never share a time, even within one millisecond or under a
	// clock that was set back: the tag depends on it.
	made = made.after(held.deleted)
	return Record{
		Preference: c.Preference, changed: max(made.from, held.changed+1), said: made, Source: c.Source,
		deleted: held.deleted, secret: held.secret,
	}, Changed
}

// span is the milliseconds since 1970 in one of which something was said: from
// and to, and all between.
type span struct{ from, to int64 }

func (s span) length() int64 { return s.to - s.from }

// before is a span that is over by now. What was said was said before now,
// whatever its clock says: where that is ahead, it is wrong by as much at least,
// and nobody knows by how much more.
func (s span) before(now int64) span {
	if s.from > now {
		return span{now - (s.from - now), now}
	}
	return span{s.from, min(s.to, now)}
}

// after is a span that begins after a time, as what was said of an account does
// that had been deleted then: also within one millisecond, or under a clock that
// was set back. So it is seen by the times alone which was first.
func (s span) after(at int64) span {
	from := max(s.from, at+1)
	return span{from, max(s.to, from)}
}

// orLater is when the later one was of two that said the same.
func (s span) orLater(other span) span {
	return span{max(s.from, other.from), max(s.to, other.to)}
}

// measured orders preferences by how much is measured under them: of two choices
// whose order nobody knows, the lesser stands.
func measured(p policy.Preference) int {
	switch p {
	case policy.OptedOut:
		return 0
	case policy.Unset:
		return 1
	default:
		return 2
	}
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
