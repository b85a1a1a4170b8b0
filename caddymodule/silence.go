package caddymodule

import (
	"sync/atomic"

	"go.uber.org/zap"
)

// silence notices a gate that recognises nobody, which is what a wrong name
// of a cookie looks like: everything seems to work, and nobody's preference
// is ever asked for.
type silence struct {
	requests   atomic.Int64
	identified atomic.Bool
	warn       func()
}

// silentRequests is how many gated requests without an account are taken for
// a mistake in the configuration.
const silentRequests = 1000

func newSilence(g *Gate) *silence {
	var lookedFor []string
	for i := range g.Sessions {
		lookedFor = append(lookedFor, g.Sessions[i].lookedFor())
	}
	if g.bodyName != nil {
		lookedFor = append(lookedFor, "body field "+g.bodyName.Field)
	}
	return &silence{warn: func() {
		if len(lookedFor) == 0 {
			return // a gate for signals only recognises nobody by design
		}
		g.logger.Warn("no account was recognised in any gated request so far, so nobody's preference was asked for; check the names",
			zap.Int("requests", silentRequests), zap.Strings("looked_for", lookedFor))
	}}
}

func (s *silence) heard(identified bool) {
	if s.identified.Load() {
		return
	}
	if identified {
		s.identified.Store(true)
	} else if s.requests.Add(1) == silentRequests {
		s.warn()
	}
}
