//go:build unix

package prefstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

// childDisk names the store with which this binary, run once more by a test,
// fills the disk as a second process.
const childDisk = "PREFSTORE_TEST_DISK"

func init() { children[childDisk] = fillDisk }

// fillDisk writes accounts until files may not grow any more, tries some in
// vain, and goes on when they may. It returns how many were written.
func fillDisk(store Store) (written int, err error) {
	signal.Ignore(syscall.SIGXFSZ) // so that a write past the limit fails
	ctx := context.Background()
	next := 0
	write := func() error {
		next++
		_, _, err := store.Set(ctx, fmt.Sprint(next), Choice{Preference: policy.OptedOut, Source: SourceUser})
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
		err := write()
		if known := (*HealthError)(nil); !errors.As(err, &known) || known.State != "the disk is full" && known.State != "the disk fails" {
			return 0, fmt.Errorf("written where there is no space: %w", err)
		}
		if err := store.Ping(ctx); err == nil {
			return 0, errors.New("said to be well where there is no space")
		}
		if held, err := store.Get(ctx, "1"); err != nil || held.Preference != policy.OptedOut {
			return 0, fmt.Errorf("read where there is no space: %v, %w", held, err)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &all); err != nil {
		return 0, err
	}
	if err := write(); err != nil {
		return 0, err
	}
	return written, store.Ping(ctx)
}

// TestAFullDisk has a process of its own meet the end of the space that it may
// write: what it was told is written stays, the rest fails, and it goes on
// when there is space.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := database(t)
	var complaint bytes.Buffer
	child := exec.CommandContext(t.Context(), self)
	child.Env = append(os.Environ(), childDisk+"="+path)
	child.Stderr = &complaint
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	written, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(err)
	}
	if rows := number(t, path, `SELECT count(*) FROM preference`); rows != written || written < 100 {
		t.Errorf("%d rows, told %d", rows, written)
	}
	if whole := number(t, path, `SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'`); whole != 1 {
		t.Error("the file is broken")
	}
}
