package health

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A failure lasts until something works that has not failed for a while, and is
// told once at each end.
func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []error
		h := New(5*time.Second, func(err error) { told = append(told, err) })
		first, second := errors.New("first"), errors.New("second")
		began := time.Now()
		expect := func(what string, wantFailing bool, wantTotal time.Duration, wantTold int) {
			t.Helper()
			failure := h.Failure()
			if h.Failing() != wantFailing || failure.Since.IsZero() == wantFailing || h.Total() != wantTotal || len(told) != wantTold {
				t.Errorf("%s: failing %v, %+v, %v in all, told %v", what, h.Failing(), failure, h.Total(), told)
			}
		}
		h.Answered()
		expect("at first", false, 0, 0)
		h.Failed(first)
		<-time.After(4 * time.Second)
		h.Answered()
		expect("an answer too soon", true, 4*time.Second, 1)
		h.Failed(second)
		if failure := h.Failure(); failure.Since != began || failure.Last != time.Now() || failure.Err != second { //nolint:errorlint // the very one
			t.Errorf("after a second failure: %+v", failure)
		}
		<-time.After(4 * time.Second)
		expect("while nothing works", true, 8*time.Second, 1)
		h.Answered()
		<-time.After(time.Second)
		expect("after an answer", true, 8*time.Second, 1)
		h.Answered()
		expect("an answer after a while", false, 8*time.Second, 2)
		<-time.After(time.Hour)
		h.Answered()
		expect("an hour later", false, 8*time.Second, 2)
		h.Failed(first)
		<-time.After(time.Minute)
		h.Failed(second)
		expect("again", true, 68*time.Second, 3)
		<-time.After(8 * time.Hour)
		expect("a night in which nobody asks", true, 668*time.Second, 3)
		h.Answered()
		expect("in the morning", false, 668*time.Second, 4)
		if told[0] != first || told[1] != nil || told[2] != first || told[3] != nil { //nolint:errorlint // the very ones
			t.Errorf("told %v", told)
		}
	})
}
