package prefstore

import (
	"context"
	"errors"
	"time"
)

// patience is how long a request waits until it may write, and for a database
// that does not answer, before it fails.
const patience = 5 * time.Second

// writeLock, of capacity one, lets one writer of an instance through at a time:
// a store knows only one, and the others would wait on connections that readers
// could use.
type writeLock chan struct{}

var errBusy = errors.New("other processes kept the database locked; find out which")

func (l writeLock) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errBusy)
	defer cancel()
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l writeLock) unlock() { <-l }
