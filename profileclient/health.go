package profileclient

import (
	"time"

	"github.com/metricsgate/metricsgate/internal/health"
)

// calm is how long the profile server must not have failed before an answer
// counts as its recovery. A server that fails now and then is failing: it is
// reported once rather than with every request.
const calm = 5 * time.Second

// Failure is since when something fails, and why.
type Failure = health.Failure

// Standing is how the profile server and its change feed do.
type Standing struct {
	// Profile is why lookups fail, and Feed why the feed cannot be followed; each
	// is empty where all is well.
	Profile, Feed Failure
	// ProfileFailed and FeedFailed are for how long nothing of it worked since New,
	// in all.
	ProfileFailed, FeedFailed time.Duration
	// Connected says that there is a connection to the feed.
	Connected bool
}

// Standing returns how the profile server does, as far as it was asked.
func (c *Client) Standing() Standing {
	return Standing{
		Profile: c.health.Failure(), ProfileFailed: c.health.Total(),
		Feed: c.feed.health.Failure(), FeedFailed: c.feed.health.Total(),
		Connected: c.feed.connected.Load(),
	}
}
