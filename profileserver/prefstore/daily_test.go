package prefstore

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/policy"
)

// counted is a store of which only the daily counts are there.
type counted struct {
	Store
	counts []DailyCount
	err    error
}

func (c counted) Daily(context.Context, time.Time, time.Time) ([]DailyCount, error) {
	return c.counts, c.err
}

func TestDailyCounts(t *testing.T) {
	t.Parallel()
	store := counted{counts: []DailyCount{{"2026-02-28", 7}, {"2026-03-02", 1 << 40}}}
	from := time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC)
	got, err := DailyCounts(t.Context(), store, from, from.AddDate(0, 0, 2))
	want := []DailyCount{{"2026-02-28", 7}, {"2026-03-01", 0}, {"2026-03-02", 1 << 40}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for lineEnd, want := range map[string]string{
		"\n":   "day,users\n2026-02-28,7\n2026-03-01,0\n2026-03-02,1099511627776\n",
		"\r\n": "day,users\r\n2026-02-28,7\r\n2026-03-01,0\r\n2026-03-02,1099511627776\r\n",
	} {
		text := new(strings.Builder)
		if err := WriteDailyCSV(text, got, lineEnd); err != nil || text.String() != want {
			t.Errorf("%q, %v", text, err)
		}
	}
	if err := WriteDailyCSV(refusing{}, got, "\n"); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a full disk: %v", err)
	}
	broken := counted{err: io.ErrUnexpectedEOF}
	if _, err := DailyCounts(t.Context(), broken, from, from); !errors.Is(err, broken.err) {
		t.Errorf("a store that fails: %v", err)
	}
}

// TestDaysBeforeAll: whoever asks for days before the first year is told of none.
func TestDaysBeforeAll(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		mustSet(t, store, "out", Choice{Preference: policy.OptedOut})
		before := time.Date(0, 12, 3, 0, 0, 0, 0, time.UTC)
		for to, want := range map[time.Time]int{before.AddDate(0, 0, 1): 0, time.Now().AddDate(0, 0, 1): 1} {
			if counts, err := store.Daily(t.Context(), before, to); err != nil || len(counts) != want {
				t.Errorf("to %v: %v, %v", to, counts, err)
			}
		}
	})
}
