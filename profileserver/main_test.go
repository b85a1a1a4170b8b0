package profileserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// These name the store that this binary, run once more by a test, is to write
// to as a second process: to contend for an account, or to fill the disk.
const (
	childStore = "PROFILESERVER_TEST_STORE"
	childDisk  = "PROFILESERVER_TEST_DISK"
)

func TestMain(m *testing.M) {
	for name, task := range map[string]func(Store) (int, error){childStore: contend, childDisk: fillDisk} {
		if path := os.Getenv(name); path != "" {
			number, err := inStore(path, task)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Print(number)
			return
		}
	}
	goleak.VerifyTestMain(m)
}

func inStore(path string, task func(Store) (int, error)) (int, error) {
	store, err := OpenSQLite(path, nil)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	return task(store)
}

// fillDisk writes accounts until files may not grow any more, tries some in
// vain, and goes on when they may. It returns how many were written.
func fillDisk(store Store) (written int, err error) {
	signal.Ignore(syscall.SIGXFSZ) // so that a write past the limit fails
	ctx := context.Background()
	next := 0
	write := func() error {
		next++
		_, _, err := store.set(ctx, fmt.Sprint(next), change{preference: policy.OptedOut, source: optoutapi.SourceUser})
		if err == nil {
			written++
		}
		return err
	}
	var all syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &all); err != nil {
		return 0, err
	}
	little := syscall.Rlimit{Cur: 3 << 20, Max: all.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &little); err != nil {
		return 0, err
	}
	for write() == nil {
	}
	for range 5 {
		if write() == nil {
			return 0, errors.New("written where there is no space")
		}
		if held, err := store.get(ctx, "1"); err != nil || held.preference != policy.OptedOut {
			return 0, fmt.Errorf("read where there is no space: %v, %w", held, err)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &all); err != nil {
		return 0, err
	}
	err = write()
	return written, err
}

// contend changes one account fifty times, each time only if it still holds
// what was just read, and returns how often it did.
func contend(store Store) (won int, err error) {
	ctx := context.Background()
	for range 50 {
		before, err := store.get(ctx, "contended")
		if err != nil {
			return won, err
		}
		to := policy.OptedOut
		if before.preference == policy.OptedOut {
			to = policy.Allowed
		}
		_, came, err := store.set(ctx, "contended", change{preference: to, source: optoutapi.SourceUser, holds: func(tag string) bool {
			return tag == before.etag()
		}})
		if err != nil {
			return won, err
		}
		if came == setChanged {
			won++
		}
	}
	return won, nil
}
