package profileserver

import (
	"errors"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// storeHealth logs what is wrong with the store: once, since it fails every
// request, and again when something else is wrong or after it worked.
type storeHealth struct {
	log *zap.Logger

	failing atomic.Bool // so that nobody waits for the lock while all is well
	mu      sync.Mutex
	states  map[string]bool // that are told
}

// failed takes a failure of the store.
func (h *storeHealth) failed(err error) {
	state := "unknown"
	if known := (*prefstore.HealthError)(nil); errors.As(err, &known) {
		state = known.State
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing.Store(true)
	if h.states[state] {
		return
	}
	if h.states == nil {
		h.states = map[string]bool{}
	}
	h.states[state] = true
	h.log.Error("the preference store fails; check that its database answers, or that its disk has space and its file can be written",
		zap.Error(err))
}

// wrote takes that the store was written. To read it is not enough: a disk that is
// full can be read.
func (h *storeHealth) wrote() {
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing.Store(false)
	clear(h.states)
	h.log.Info("the preference store works again")
}
