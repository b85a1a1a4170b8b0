package gate

import "sync/atomic"

// recognition notices a gate that recognises nobody, which is what a wrong name
// of a cookie looks like: everything seems to work, and nobody's preference is
// ever asked for.
type recognition struct {
	requests atomic.Int64
	anybody  atomic.Bool
	nobody   func(requests int)
}

// unrecognisedRequests is how many gated requests without an account are taken
// for a mistake in the configuration.
const unrecognisedRequests = 1000

func (n *recognition) heard(recognised bool) {
	switch {
	case n.anybody.Load():
	case recognised:
		n.anybody.Store(true)
	case n.requests.Add(1) == unrecognisedRequests:
		n.nobody(unrecognisedRequests)
	}
}
