package profileclient

import (
	"sync"
	"sync/atomic"
	"time"
)

// calm is how long the profile server must not have failed before an answer
// counts as its recovery. A server that fails now and then is failing: it is
// reported once rather than with every request.
const calm = 5 * time.Second

// health knows whether the profile server fails and reports every change.
type health struct {
	report  func(error)
	failing atomic.Bool

	mu       sync.Mutex // also keeps the reports in order
	failedAt time.Time
}

func (h *health) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failedAt = time.Now()
	if !h.failing.Swap(true) {
		h.report(err)
	}
}

func (h *health) answered() {
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.failedAt) >= calm && h.failing.Swap(false) {
		h.report(nil)
	}
}
