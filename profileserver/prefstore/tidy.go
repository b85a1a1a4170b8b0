package prefstore

import (
	"context"
	"fmt"
	"time"
)

// EventsFor is how old an event may be: who takes them is to refuse older ones,
// of which nothing is remembered. FxA delivers an event again for hours, not for
// days.
const EventsFor = 7 * 24 * time.Hour

// rememberedFor is how long the hashes of events and of deleted accounts are
// kept. It is a day more than events may come in, since the clock of whoever
// sends them may be ahead by that.
const rememberedFor = EventsFor + 24*time.Hour

// day names the day (UTC) of a time, as it is stored.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// keepTidy calls tidy at once and then every minute, until ctx ends. Of
// failures in a row the third is told: who was counted yesterday counts for
// nothing, but must not be kept.
func keepTidy(ctx context.Context, tidy func(context.Context) error, failed func(error)) {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for failures := 0; ; {
		if err := tidy(ctx); err == nil {
			failures = 0
		} else if failures++; failures == 3 && ctx.Err() == nil {
			failed(fmt.Errorf("deleting what is kept for a few days only failed: %w", err))
		}
		select {
		case <-minute.C:
		case <-ctx.Done():
			return
		}
	}
}
