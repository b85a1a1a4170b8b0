package profileclient_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// TestOrigin: where each preference was learnt, and how old it was.
func TestOrigin(t *testing.T) {
	t.Parallel()
	connected(t, nil, func(t *testing.T, f following) {
		asks := func(what string, a profileclient.Account, want string) {
			t.Helper()
			now := time.Now()
			origin, age := f.Origin(a, false, f.Lookup(context.Background(), a, now), now)
			if got := fmt.Sprint(origin, " ", age); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		ann, bob := profileclient.Account{UID: "ann"}, profileclient.Account{UID: "bob"}
		f.teller.hold("false", "ann", "bob")
		asks("asked for", ann, "lookup 0s")
		pass(30 * time.Second)
		asks("cached", ann, "cache 30s")
		f.teller.tell(told(41, "ann", "true", 0))
		pass(5 * time.Second)
		asks("told by the feed", ann, "feed 5s")
		claimed := bob
		claimed.HasClaim, claimed.Claim, claimed.ClaimedAt = true, policy.Allowed, time.Now().Add(-3*time.Second)
		asks("claimed", claimed, "claim 3s")
		f.teller.set(func(m *memory) { m.status = 500 })
		asks("not learnt", bob, "none 0s")
		pass(2 * time.Minute)
		asks("kept while the server fails", ann, "feed 2m5s")
		now := time.Now()
		if origin, _ := f.Origin(ann, true, f.LookupNamed(context.Background(), "ann", now, time.Second), now); origin != profileclient.FromFeed {
			t.Errorf("named: %v", origin)
		}
	})
}
