package profileclient

import (
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// Origin says where a preference was learnt.
type Origin uint8

const (
	// FromNowhere: it was not learnt.
	FromNowhere Origin = iota
	// FromCache: it was known already, or somebody else had just asked for it.
	FromCache
	// FromLookup: the profile server was asked.
	FromLookup
	// FromClaim: the account's own credential says it.
	FromClaim
	// FromFeed: the change feed told it.
	FromFeed
)

// String returns the origin as traces spell it.
func (o Origin) String() string {
	return [...]string{FromNowhere: "none", FromCache: "cache", FromLookup: "lookup", FromClaim: "claim", FromFeed: "feed"}[o]
}

// Origin says where a preference is from that a lookup has just returned, and
// how old that is. Asked is when the lookup began. It is for those who explain a
// decision, and starts nothing.
func (c *Client) Origin(a Account, named bool, preference policy.Preference, asked time.Time) (Origin, time.Duration) {
	if !preference.IsLearnt() {
		return FromNowhere, 0
	}
	now := time.Now()
	known := c.known(a, now, named)
	age := time.Duration(c.instant(now) - known.fetched)
	switch {
	case known.preference != preference, known.in != nil && known.fetched >= c.instant(asked) && known.marks&byFeed == 0:
		return FromLookup, now.Sub(asked)
	case known.in == nil:
		return FromClaim, age
	case known.marks&byFeed != 0:
		return FromFeed, age
	default:
		return FromCache, age
	}
}
