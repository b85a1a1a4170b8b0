package gate

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/metricsgate/metricsgate/session"
)

// Trouble is what a gate looks like that is bypassed, or that recognises nobody:
// everything seems to work.
type Trouble uint8

const (
	// NobodyRecognised: gated requests come, and none of them proves or names an
	// account, as with a wrong name of a cookie.
	NobodyRecognised Trouble = iota
	// NobodyRecognisedOnRoute: the same on one route, while accounts are
	// recognised on others.
	NobodyRecognisedOnRoute
	// RouteSilent: pages come, and nothing on a route, as where its requests
	// take another way. The routes of a preset, of which an application need
	// not have all, count as one, told as its first.
	RouteSilent
	// SessionsFail: of a kind of session, more credentials fail to verify than
	// verify, as with a rotated key. Outcome is how most of them do.
	SessionsFail
	// EverybodyExpired: of a kind of session, nothing verifies, and what would
	// has expired.
	EverybodyExpired
)

// Warning is a Trouble of one window of ten minutes or, with Ended, that the
// first window without it is over.
type Warning struct {
	Trouble Trouble
	Ended   bool

	// Route is its index in Gate.Routes: of NobodyRecognisedOnRoute and
	// RouteSilent.
	Route int
	// Source is that of Config.Sessions: of SessionsFail and EverybodyExpired.
	Source  int
	Outcome session.Outcome

	// Requests is how many requests, pages or credentials the window has seen
	// that show it.
	Requests int
}

const (
	// window is for how long is counted. Requests end it, so that a gate without
	// any has nothing to say, and none waits for that.
	window = 10 * time.Minute
	// telling is how many requests it takes to say anything.
	telling = 100
	// unrecognisedRequests is how many gated requests without an account say so
	// before the window ends: until then, opted-out people are measured.
	unrecognisedRequests = 1000
)

// watch looks for trouble, window by window: what holds in one hour need not in
// the next.
type watch struct {
	tell      func(Warning)
	ownRoutes int // the preset's follow

	began    atomic.Int64 // Unix nanoseconds
	pages    atomic.Int64
	routes   []routeWatch
	sessions [][session.OutcomeCount]atomic.Int64

	mu     sync.Mutex
	active map[Warning]bool // keyed without Ended, Outcome and Requests
}

type routeWatch struct{ requests, recognised atomic.Int64 }

func newWatch(now time.Time, routes, ownRoutes, sources int, tell func(Warning)) *watch {
	w := &watch{
		tell: tell, ownRoutes: ownRoutes, active: map[Warning]bool{},
		routes: make([]routeWatch, routes), sessions: make([][session.OutcomeCount]atomic.Int64, sources),
	}
	w.began.Store(now.UnixNano())
	return w
}

// gated counts a gated request.
func (w *watch) gated(now time.Time, route int, recognised bool) {
	w.turn(now)
	counts := &w.routes[route]
	n := counts.requests.Add(1)
	switch {
	case recognised:
		counts.recognised.Add(1)
	case n%unrecognisedRequests == 0:
		w.early()
	}
}

// page counts a page.
func (w *watch) page(now time.Time) {
	w.turn(now)
	w.pages.Add(1)
}

// session counts what came of a credential.
func (w *watch) session(source int, outcome session.Outcome) { w.sessions[source][outcome].Add(1) }

// early says within a window that nobody is recognised.
func (w *watch) early() {
	var requests, recognised int64
	for i := range w.routes {
		requests += w.routes[i].requests.Load()
		recognised += w.routes[i].recognised.Load()
	}
	if recognised == 0 {
		w.judge(Warning{Trouble: NobodyRecognised, Requests: int(requests)}, true, false)
	}
}

// turn ends the window, if its time has come.
func (w *watch) turn(now time.Time) {
	began := w.began.Load()
	if now.UnixNano()-began < int64(window) || !w.began.CompareAndSwap(began, now.UnixNano()) {
		return
	}
	pages := w.pages.Swap(0)
	requests, recognised := make([]int64, len(w.routes)), make([]int64, len(w.routes))
	var allRequests, allRecognised, preset int64
	for i := range w.routes {
		requests[i], recognised[i] = w.routes[i].requests.Swap(0), w.routes[i].recognised.Swap(0)
		allRequests += requests[i]
		allRecognised += recognised[i]
		if i >= w.ownRoutes {
			preset += requests[i]
		}
	}
	w.judge(Warning{Trouble: NobodyRecognised, Requests: int(allRequests)}, allRequests >= telling && allRecognised == 0, allRecognised > 0)
	for i := range w.routes {
		others := allRecognised - recognised[i]
		w.judge(Warning{Trouble: NobodyRecognisedOnRoute, Route: i, Requests: int(requests[i])},
			requests[i] >= telling && recognised[i] == 0 && others >= telling, recognised[i] > 0)
		came := requests[i]
		if i == w.ownRoutes {
			came = preset
		}
		if i <= w.ownRoutes {
			w.judge(Warning{Trouble: RouteSilent, Route: i, Requests: int(pages)}, pages >= telling && came == 0, came > 0)
		}
	}
	for i := range w.sessions {
		w.judgeSessions(i)
	}
}

// notFailing are the outcomes that say nothing against a credential but its time.
var notFailing = []session.Outcome{session.Absent, session.Verified, session.Expired, session.Conflicting}

// judgeSessions looks at one kind of session.
func (w *watch) judgeSessions(source int) {
	var counts [session.OutcomeCount]int64
	var failed int64
	dominant := session.Malformed
	for outcome := range session.OutcomeCount {
		counts[outcome] = w.sessions[source][outcome].Swap(0)
		if !slices.Contains(notFailing, outcome) {
			failed += counts[outcome]
			if counts[outcome] > counts[dominant] {
				dominant = outcome
			}
		}
	}
	// One that conflicts has verified.
	verified, expired := counts[session.Verified]+counts[session.Conflicting], counts[session.Expired]
	fails := failed >= telling && failed > verified
	w.judge(Warning{Trouble: SessionsFail, Source: source, Outcome: dominant, Requests: int(failed)}, fails, verified > failed)
	w.judge(Warning{Trouble: EverybodyExpired, Source: source, Outcome: session.Expired, Requests: int(expired)},
		expired >= telling && verified == 0 && !fails, verified > 0)
}

// judge tells a trouble when it begins and when it ends. A window that shows
// neither, because too little came, changes nothing.
func (w *watch) judge(warning Warning, holds, ended bool) {
	key := Warning{Trouble: warning.Trouble, Route: warning.Route, Source: warning.Source}
	w.mu.Lock()
	active := w.active[key]
	if holds != active && (holds || ended) {
		w.active[key] = holds
	}
	w.mu.Unlock()
	switch {
	case holds && !active:
		w.tell(warning)
	case active && !holds && ended:
		warning.Ended = true
		w.tell(warning)
	}
}
