// Package health remembers since when something fails that others rely on, why,
// and for how long in all nothing worked.
package health

import (
	"sync"
	"sync/atomic"
	"time"
)

// Failure is why something fails now.
type Failure struct {
	// Since is when it began, and zero where all is well.
	Since time.Time
	// Last is when it last showed. What nobody asks shows nothing.
	Last time.Time
	// Err is how it last showed.
	Err error
}

// Health knows whether something fails. It is safe for concurrent use. One that
// was not made by New is not to be used.
type Health struct {
	report  func(error)
	calm    time.Duration
	failing atomic.Bool // so that nobody waits for the lock while all is well

	mu     sync.Mutex // also keeps the reports in order
	now    Failure
	unable bool          // nothing has worked since now.Last
	before time.Duration // of Total, without the time since now.Last
}

// untold is for how long a failure says that things fail, where nothing else does.
// Whoever tries again without being asked does so more often; of the rest, nobody
// was kept waiting.
const untold = 10 * time.Minute

// New makes a Health that is well. Something that fails now and then is failing:
// calm is how long it must not have failed before it counts as well again. Report
// is told with an error when it begins to fail and with nil when it is well again;
// it may be nil.
func New(calm time.Duration, report func(error)) *Health {
	if report == nil {
		report = func(error) {}
	}
	return &Health{report: report, calm: calm}
}

// Failed takes that it failed just now.
func (h *Health) Failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = h.total()
	h.now.Last, h.now.Err, h.unable = time.Now(), err, true
	if !h.failing.Swap(true) {
		h.now.Since = h.now.Last
		h.report(err)
	}
}

// Answered takes that it worked just now.
func (h *Health) Answered() {
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.unable = h.total(), false
	if time.Since(h.now.Last) >= h.calm && h.failing.Swap(false) {
		h.now = Failure{}
		h.report(nil)
	}
}

// Failing says whether it fails.
func (h *Health) Failing() bool { return h.failing.Load() }

// Failure is why it fails; that of something that is well is empty.
func (h *Health) Failure() Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// Total is for how long nothing worked, in all: from each failure to what came next,
// be it an answer or another failure, and for no more than 10 minutes where nothing
// did. So what fails now and then counts for little, although it is failing.
func (h *Health) Total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total()
}

func (h *Health) total() time.Duration {
	if !h.unable {
		return h.before
	}
	return h.before + min(time.Since(h.now.Last), untold)
}
