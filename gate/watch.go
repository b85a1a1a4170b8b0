package gate

import (
	"cmp"
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
	// account, as with a wrong name of a cookie. Where credentials come and fail,
	// it is SessionsFail alone.
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
	// plenty is how many gated requests of a route show before the window ends that
	// nobody is recognised, or that nothing verifies: until then, opted-out people are
	// measured, or everybody's metrics are lost.
	plenty = 1000
	// explained is the share of gated requests, one in this many, whose credentials
	// fail and so say why nobody is recognised.
	explained = 10
)

// Open is a Warning that has not ended.
type Open struct {
	Warning
	// Since is when it began.
	Since time.Time
}

// Seen is what a Gate has seen since it was made.
type Seen struct {
	Since time.Time
	Pages int64
	// Requests are those of each route, by its index in Gate.Routes.
	Requests []int64
	// Warnings are those that are open, in the order of Trouble.
	Warnings []Open

	// Window is when the window before the present one began, and Sessions is what
	// came of credentials since, by the index of the source as in Observer.Session.
	Window   time.Time
	Sessions [][session.OutcomeCount]int64
}

// Seen returns what the gate has seen.
func (g *Gate) Seen() Seen { return g.engine.watch.seen() }

// watch looks for trouble, window by window: what holds in one hour need not in
// the next.
type watch struct {
	tell      func(Warning)
	ownRoutes int // the preset's follow

	made     time.Time
	began    atomic.Int64 // since then, so that no step of the wall clock delays a window
	pages    windowed
	routes   []routeWatch
	sessions [][session.OutcomeCount]atomic.Int64

	mu       sync.Mutex                    // of what follows, and of what windows before counted
	open     map[Warning]Open              // keyed without Ended, Outcome and Requests
	before   int64                         // when the window before this one began
	outcomes [][session.OutcomeCount]int64 // of its sessions
}

type routeWatch struct {
	requests   windowed
	recognised atomic.Int64
}

// windowed counts in the present window, and in all before.
type windowed struct {
	atomic.Int64
	before int64
}

// turn begins another window, and returns what this one has counted.
func (w *windowed) turn() int64 {
	counted := w.Swap(0)
	w.before += counted
	return counted
}

func (w *windowed) total() int64 { return w.before + w.Load() }

func newWatch(now time.Time, routes, ownRoutes, sources int, tell func(Warning)) *watch {
	w := &watch{
		tell: tell, made: now, ownRoutes: ownRoutes, open: map[Warning]Open{},
		routes: make([]routeWatch, routes), sessions: make([][session.OutcomeCount]atomic.Int64, sources),
		outcomes: make([][session.OutcomeCount]int64, sources),
	}
	return w
}

// gated counts a gated request.
func (w *watch) gated(now time.Time, route int, recognised bool) {
	w.turn(now)
	counts := &w.routes[route]
	if recognised {
		counts.recognised.Add(1)
	}
	if counts.requests.Add(1)%plenty == 0 {
		w.early(now)
	}
}

// page counts a page.
func (w *watch) page(now time.Time) {
	w.turn(now)
	w.pages.Add(1)
}

// session counts what came of a credential.
func (w *watch) session(source int, outcome session.Outcome) { w.sessions[source][outcome].Add(1) }

// early says within a window that nobody is recognised, and of which kinds of sessions
// nothing verifies. An account that an expired session names is recognised.
func (w *watch) early(now time.Time) {
	var requests, recognised, failed int64
	for i := range w.routes {
		requests += w.routes[i].requests.Load()
		recognised += w.routes[i].recognised.Load()
	}
	for i := range w.sessions {
		var counts [session.OutcomeCount]int64
		for outcome := range counts {
			counts[outcome] = w.sessions[i][outcome].Load()
		}
		if verified(&counts) == 0 {
			failed += w.judgeSessions(now, i, &counts)
		}
	}
	w.judge(now, Warning{Trouble: NobodyRecognised, Requests: int(requests)}, recognised == 0 && failed*explained < requests, false)
}

func (w *watch) seen() Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := Seen{
		Since: w.made, Pages: w.pages.total(), Requests: make([]int64, len(w.routes)),
		Window: w.made.Add(time.Duration(w.before)), Sessions: slices.Clone(w.outcomes),
	}
	for i := range w.sessions {
		for outcome := range w.sessions[i] {
			seen.Sessions[i][outcome] += w.sessions[i][outcome].Load()
		}
	}
	for i := range w.routes {
		seen.Requests[i] = w.routes[i].requests.total()
	}
	for _, open := range w.open {
		seen.Warnings = append(seen.Warnings, open)
	}
	slices.SortFunc(seen.Warnings, func(a, b Open) int {
		return cmp.Or(cmp.Compare(a.Trouble, b.Trouble), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Source, b.Source))
	})
	return seen
}

// turn ends the window, if its time has come.
func (w *watch) turn(now time.Time) {
	began, ended := w.began.Load(), int64(now.Sub(w.made))
	if ended-began < int64(window) || !w.began.CompareAndSwap(began, ended) {
		return
	}
	requests, recognised := make([]int64, len(w.routes)), make([]int64, len(w.routes))
	var allRequests, allRecognised, preset int64
	w.mu.Lock()
	w.before = began
	for i := range w.sessions {
		for outcome := range w.sessions[i] {
			w.outcomes[i][outcome] = w.sessions[i][outcome].Swap(0)
		}
	}
	outcomes := slices.Clone(w.outcomes)
	pages := w.pages.turn()
	for i := range w.routes {
		requests[i], recognised[i] = w.routes[i].requests.turn(), w.routes[i].recognised.Swap(0)
		allRequests += requests[i]
		allRecognised += recognised[i]
		if i >= w.ownRoutes {
			preset += requests[i]
		}
	}
	w.mu.Unlock()
	var failed int64
	for i := range outcomes {
		failed += w.judgeSessions(now, i, &outcomes[i])
	}
	w.judge(now, Warning{Trouble: NobodyRecognised, Requests: int(allRequests)},
		allRequests >= telling && allRecognised == 0 && failed*explained < allRequests, allRecognised > 0)
	for i := range w.routes {
		others := allRecognised - recognised[i]
		w.judge(now, Warning{Trouble: NobodyRecognisedOnRoute, Route: i, Requests: int(requests[i])},
			requests[i] >= telling && recognised[i] == 0 && others >= telling, recognised[i] > 0)
		came := requests[i]
		if i == w.ownRoutes {
			came = preset
		}
		if i <= w.ownRoutes {
			w.judge(now, Warning{Trouble: RouteSilent, Route: i, Requests: int(pages)}, pages >= telling && came == 0, came > 0)
		}
	}
}

// notFailing are the outcomes that say nothing against a credential but its time.
var notFailing = []session.Outcome{session.Absent, session.Verified, session.Expired, session.Conflicting}

// unverified is the warning that credentials of a kind of session fail to verify, and
// whether they do.
func unverified(source int, counts *[session.OutcomeCount]int64) (Warning, bool) {
	var failed int64
	dominant := session.Malformed
	for outcome, n := range counts {
		if outcome := session.Outcome(outcome); !slices.Contains(notFailing, outcome) {
			failed += n
			if n > counts[dominant] {
				dominant = outcome
			}
		}
	}
	return Warning{Trouble: SessionsFail, Source: source, Outcome: dominant, Requests: int(failed)}, failed >= telling && failed > verified(counts)
}

// verified is how many have: one that conflicts has.
func verified(counts *[session.OutcomeCount]int64) int64 {
	return counts[session.Verified] + counts[session.Conflicting]
}

// judgeSessions looks at one kind of session, and returns how many credentials fail,
// where that is trouble.
func (w *watch) judgeSessions(now time.Time, source int, counts *[session.OutcomeCount]int64) (failed int64) {
	warning, fails := unverified(source, counts)
	verified, expired := verified(counts), counts[session.Expired]
	w.judge(now, warning, fails, verified > int64(warning.Requests))
	w.judge(now, Warning{Trouble: EverybodyExpired, Source: source, Outcome: session.Expired, Requests: int(expired)},
		expired >= telling && verified == 0 && !fails, verified > 0)
	if fails {
		failed = int64(warning.Requests)
	}
	return failed
}

// judge tells a trouble when it begins and when it ends. A window that shows
// neither, because too little came, changes nothing.
func (w *watch) judge(now time.Time, warning Warning, holds, ended bool) {
	key := Warning{Trouble: warning.Trouble, Route: warning.Route, Source: warning.Source}
	w.mu.Lock()
	open, active := w.open[key]
	switch {
	case holds && !active:
		w.open[key] = Open{warning, now}
	case holds:
		w.open[key] = Open{warning, open.Since}
	case ended:
		delete(w.open, key)
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
