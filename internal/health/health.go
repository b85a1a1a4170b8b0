// Package health remembers since when something fails that others rely on, why,
// and for how long it has in all.
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
	before time.Duration // of failures that are over
}

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
	h.now.Last, h.now.Err = time.Now(), err
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
	if time.Since(h.now.Last) >= h.calm && h.failing.Swap(false) {
		h.before += time.Since(h.now.Since)
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

// Total is for how long it has failed in all, failures that are over included.
func (h *Health) Total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now.Since.IsZero() {
		return h.before
	}
	return h.before + time.Since(h.now.Since)
}
